"""A wheel, installed where there is no clone: it brings its SQL along, migrates and serves."""

import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import Database
from tests.system.clone import ROOT, copy_sources
from tests.system.program import Program, get


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command that has to succeed and return what it printed."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since a build leaves files beside the sources; without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = copy_sources(folder / "sources")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-index")
    run(*pip, "--no-deps", "--no-build-isolation", "-w", folder, sources, cwd=folder)
    (built,) = folder.glob("prefork_ads-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin of a new environment with the wheel in it; what it depends on is the tests' own."""
    environment = tmp_path_factory.mktemp("elsewhere") / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=environment.parent)
    python = environment / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    run(*pip, "install", "--no-index", "--no-deps", wheel, cwd=environment.parent)
    (packages,) = environment.glob("lib/python3.*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    return python.parent


def test_the_wheel_holds_all_of_sql_and_nothing_beside_the_package(wheel: Path) -> None:
    """sql/ is at the top of the clone and inside the package in the wheel."""
    names = zipfile.ZipFile(wheel).namelist()
    shipped = {name for name in names if name.endswith(".sql")}
    present = {f"prefork_ads/{path.relative_to(ROOT)}" for path in (ROOT / "sql").rglob("*.sql")}
    assert shipped == present
    assert present
    tops = {name.partition("/")[0] for name in names}
    assert sorted(top for top in tops if not top.endswith(".dist-info")) == ["prefork_ads"]
    assert "prefork_ads/py.typed" in names
    assert any(name.endswith("/LICENSE") for name in names)


def test_every_package_of_the_clone_is_in_the_wheel(wheel: Path) -> None:
    """setup.cfg lists packages by name: a new folder has to be added there."""
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "prefork_ads").rglob("*.py")}
    assert modules <= names, f"add to packages in setup.cfg: {sorted(modules - names)}"


def test_it_migrates_and_serves_elsewhere(
    installed: Path, empty_database: Database, tmp_path: Path
) -> None:
    """From an empty database to a logged request and an ad."""
    where = run(
        installed / "python", "-c", "import prefork_ads; print(prefork_ads.__file__)", cwd=tmp_path
    )
    assert where.startswith(str(installed.parent))
    program = installed / "prefork-ads"
    dsn = ("--dsn", empty_database.dsn)
    run(program, "migrate", *dsn, cwd=tmp_path)
    run(program, "variants", "generate", "10", *dsn, cwd=tmp_path)
    (variant,) = run(program, "variants", "sample", "1", *dsn, cwd=tmp_path).split()

    command = [program, *dsn, "--port", "0", "--workers", "1", "--data-dir", tmp_path / "data"]
    with Program(command, tmp_path) as server:
        status, body = get(f"{server.url}/ad?id={variant}")
        assert (status, variant in body) == (200, True)
        assert server.stop() == 0, server.said()
    assert empty_database.fetch("SELECT endpoint FROM request_log") == [("ad",)]
