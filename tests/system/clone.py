"""Copies of the sources for tests that build, install or damage something.

A copy holds what a fresh clone would: all that .gitignore does not name. The packages that it needs
come from the environment that runs the tests, so that such a test works without a network.
"""

import os
import shutil
import site
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]

# The Python behind the environment that runs the tests.
PYTHON: Final = str(Path(sys.base_prefix) / "bin" / "python{}.{}".format(*sys.version_info))


def copy_sources(target: Path) -> Path:
    """Copy the sources into the folder `target`, which must not exist."""
    lines = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    ignored = [line.rstrip("/") for line in lines]
    shutil.copytree(ROOT, target, symlinks=True, ignore=shutil.ignore_patterns(".git", *ignored))
    return target


def bare_environ(home: Path, path: str = os.defpath) -> dict[str, str]:
    """An environment with nothing of the caller's in it."""
    return {"HOME": str(home), "PATH": path, "LANG": "C.UTF-8"}


def offline_environ(home: Path) -> dict[str, str]:
    """A bare environment in which pip finds every package installed already, and no index."""
    packages = os.pathsep.join(site.getsitepackages())
    return {**bare_environ(home), "PIP_NO_INDEX": "1", "PYTHONPATH": packages}
