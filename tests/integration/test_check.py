"""`prefork-ads check` against real databases: what it says, and the exit status it ends in."""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import psycopg2.extensions
import pytest
from click.testing import CliRunner, Result
from psycopg2 import sql

from prefork_ads.cli import checks, cli
from prefork_ads.config import Config
from prefork_ads.db.migrate import migrations
from prefork_ads.errors import PreforkAdsError
from tests.conftest import Database, Server


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine's environment says must not decide these tests."""
    platforms = {"PORT", "WEB_CONCURRENCY", "DATABASE_URL"}
    for name in list(os.environ):
        if name in platforms or name.startswith("PREFORK_ADS_"):
            monkeypatch.delenv(name)


def check(*arguments: str) -> Result:
    result = CliRunner().invoke(cli, ["check", "--port", "0", *arguments], prog_name="prefork-ads")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def lines(result: Result) -> dict[str, str]:
    """The last line of each check: its level and message."""
    found = {}
    for line in result.stdout.partition("\nChecks\n")[2].splitlines():
        level, name, message = line.split(maxsplit=2)
        found[name] = f"{level} {message}"
    return found


@pytest.fixture
def stranger(postgres: Server, database: Database) -> Iterator[str]:
    """The DSN of a role that owns nothing in the test's database."""
    role = sql.Identifier(f"{database.name}_stranger")
    postgres.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'hunter2'").format(role))
    try:
        yield psycopg2.extensions.make_dsn(
            database.dsn, user=f"{database.name}_stranger", password="hunter2"
        )
    finally:
        database.execute(f'DROP OWNED BY "{database.name}_stranger"')
        postgres.execute(sql.SQL("DROP ROLE {}").format(role))


def grant(database: Database, what: str) -> None:
    database.execute(f'GRANT {what} TO "{database.name}_stranger"')


def test_all_is_well(database: Database) -> None:
    result = check("--dsn", database.dsn, "--workers", "1")
    assert result.exit_code == 0, result.output
    found = lines(result)
    assert found["database"].startswith("ok PostgreSQL 1")
    assert found["schema"] == f"ok Up to date: {len(migrations())} migrations are applied."
    assert found["rights"].endswith("may look up ads and log requests.")
    assert found["connections"].startswith("ok 1 workers use 6 connections and ")
    assert found["address"] == "ok A free port will be taken."


def test_every_setting_is_shown_with_its_source(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ads.toml"
    file.write_text("read-batch = 7\n")
    monkeypatch.setenv("WEB_CONCURRENCY", "1")
    result = check("--dsn", database.dsn, "--config", str(file))
    shown = [line.split(maxsplit=2) for line in result.stdout.splitlines() if "  --" in line]
    assert ["--port", "0", "flag --port"] in shown
    assert ["--workers", "1", "environment WEB_CONCURRENCY"] in shown
    assert ["--read-batch", "7", f"file {file}"] in shown
    assert ["--read-timeout-s", "2s", "default"] in shown
    assert ["--pid-file", "unset", "default"] in shown


def test_an_empty_database_will_be_migrated(empty_database: Database) -> None:
    result = check("--dsn", empty_database.dsn)
    assert result.exit_code == 0, result.output
    assert lines(result)["schema"].startswith(f"ok A start will apply {migrations()[0].name}")
    assert empty_database.fetch("SELECT to_regclass('ad_variant')") == [(None,)]


def test_a_database_that_is_away_fails_and_the_other_checks_run(database: Database) -> None:
    result = check("--dsn", "postgresql://ads:hunter2@127.0.0.1:1/ads")
    assert result.exit_code == 69
    found = lines(result)
    assert found["database"].startswith("FAIL The database at ads@127.0.0.1:1/ads cannot be")
    assert found["address"].startswith("ok")
    assert "hunter2" not in result.output


def test_a_password_in_a_flag_is_hidden_and_warned_of(stranger: str) -> None:
    result = check("--dsn", stranger)
    assert "warn  database     The password in --dsn can be read in ps" in result.stdout
    assert "password=***" in result.stdout
    assert "hunter2" not in result.output


def test_a_role_that_may_not_create_tables(
    postgres: Server, empty_database: Database, stranger: str
) -> None:
    elsewhere = psycopg2.extensions.make_dsn(stranger, dbname=empty_database.name)
    # PostgreSQL 14 and databases upgraded from it let everybody create in public.
    empty_database.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    result = check("--dsn", elsewhere)
    assert result.exit_code == 70
    assert "may not create tables there. Run `prefork-ads migrate --dsn …`" in result.stdout


def test_missing_rights_are_named(database: Database, stranger: str) -> None:
    grant(database, "SELECT ON schema_migration, ad_variant")
    result = check("--dsn", stranger)
    assert result.exit_code == 70
    said = lines(result)["database"]
    assert "_stranger lacks SELECT on server_setting, " in said
    assert ", INSERT on request_log, " in said
    assert ", EXECUTE on request_log_drop_before(date), " in said
    assert "ad_variant" not in said


def test_the_documented_grants_are_enough(database: Database, stranger: str) -> None:
    """docs/database.md tells how to set up a serving role; what it says must do."""
    text = (Path(__file__).parents[2] / "docs/database.md").read_text()
    grants = [line for line in text.splitlines() if line.startswith("GRANT")]
    assert grants
    for line in grants:
        database.execute(line.replace("ads_serving", f'"{database.name}_stranger"'))
    result = check("--dsn", stranger)
    assert result.exit_code == 0, result.output
    assert lines(result)["rights"].startswith("ok")


def test_too_few_connections(database: Database) -> None:
    result = check("--dsn", database.dsn, "--workers", "128", "--readers", "64")
    assert result.exit_code == 69
    assert "128 workers use 16642 connections and " in lines(result)["database"]
    assert "Raise max_connections" in lines(result)["database"]


def test_a_reader_without_ads(database: Database, empty_database: Database) -> None:
    result = check("--dsn", database.dsn, "--reader-dsn", empty_database.dsn)
    assert result.exit_code == 70
    assert "has no table ad_variant" in lines(result)["reader"]
    result = check("--dsn", database.dsn, "--reader-dsn", database.dsn)
    assert lines(result)["reader"].startswith("ok PostgreSQL 1")


def test_a_reader_without_the_right_to_look(database: Database, stranger: str) -> None:
    result = check("--dsn", database.dsn, "--reader-dsn", stranger)
    assert result.exit_code == 70
    assert "has no SELECT on it" in lines(result)["reader"]


def test_a_port_in_use(database: Database) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = check("--dsn", database.dsn, "--port", str(port))
    assert result.exit_code == 71
    assert lines(result)["address"].startswith(f"FAIL Port {port} on 127.0.0.1 is in use")
    result = check("--dsn", database.dsn, "--port", str(port))
    assert lines(result)["address"] == f"ok http://127.0.0.1:{port} is free."


def test_a_unix_socket(database: Database, tmp_path: Path) -> None:
    path = tmp_path / "ads.sock"
    arguments = ["check", "--dsn", database.dsn, "--unix-socket", str(path)]
    result = CliRunner().invoke(cli, arguments)
    assert f"unix:{path} is free." in result.stdout
    assert not path.exists()


def test_json_for_programs(database: Database) -> None:
    result = check("--dsn", "postgresql://a:hunter2@127.0.0.1:1/ads", "--json")
    assert result.exit_code == 69
    told = json.loads(result.stdout)
    assert told["ok"] is False
    assert told["settings"]["port"] == {"value": 0, "source": "flag", "name": "--port"}
    assert told["settings"]["dsn"]["value"] == "postgresql://a:***@127.0.0.1:1/ads"
    assert told["settings"]["pid-file"] == {"value": None, "source": "default", "name": None}
    assert told["settings"]["trusted-proxies"]["value"] == []
    assert {"ok", "fail"} <= {found["level"] for found in told["checks"]}
    assert json.loads(check("--dsn", database.dsn, "--json").stdout)["ok"] is True


def test_a_data_directory_is_looked_at_and_not_made(tmp_path: Path) -> None:
    data_dir = tmp_path / "new" / "data"
    result = check("--data-dir", str(data_dir))
    assert result.exit_code == 0, result.output
    assert f"ok    data dir     A start will create a database in {data_dir}." in result.stdout
    assert not (tmp_path / "new").exists()


def test_a_data_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = check("--data-dir", str(tmp_path / "file" / "data"))
    assert result.exit_code == 72
    assert f"cannot be created: {tmp_path / 'file'} is not writable" in result.stdout


def test_a_default_is_not_doubtful() -> None:
    assert not list(checks.check_settings(Config(read_queue=10), {}))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Config(log_table="unlogged"), "--log-table unlogged: a crash of PostgreSQL empties"),
        (
            Config(read_batch=20, read_queue=10),
            "--read-batch is 20, which --read-queue, 10, never lets happen.",
        ),
    ],
)
def test_doubtful_settings(config: Config, message: str) -> None:
    (finding,) = checks.check_settings(config, {})
    assert finding.level == "warn"
    assert finding.message.startswith(message)
    assert list(checks.check_settings(Config(), {})) == []


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("PREFORK_ADS_READ_BACH", "PREFORK_ADS_READ_BATCH"),
        ("PREFORK_ADS_DATABASE_URL", "DATABASE_URL"),
        ("PREFORK_ADS_WEB_CONCURENCY", "WEB_CONCURRENCY"),
    ],
)
def test_a_variable_with_a_slip(monkeypatch: pytest.MonkeyPatch, written: str, meant: str) -> None:
    """A flag or a key with a slip is refused; a variable could be somebody else's."""
    monkeypatch.setenv(written, "1")
    monkeypatch.setenv("PREFORK_ADS_SERVICE_HOST", "10.96.0.1")
    (finding,) = checks.check_settings(Config(), {})
    assert finding.message == f"{written} is no setting; did you mean {meant}?"


def test_more_workers_than_cores() -> None:
    (finding,) = checks.check_processes(Config(workers=128), {})
    assert (finding.level, "Lower --workers" in finding.message) == ("warn", True)


def test_a_containers_share_of_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cpu.max"
    assert checks.cpu_quota(path) is None
    path.write_text("max 100000\n")
    assert checks.cpu_quota(path) is None
    path.write_text("50000 100000\n")
    assert checks.cpu_quota(path) == 0.5
    monkeypatch.setattr(checks, "_CPU_QUOTA", path)
    (finding,) = checks.check_processes(Config(workers=1), {})
    assert finding.message.endswith("may use 0.5 at a time. Set --workers to 1.")


def test_more_connections_than_files() -> None:
    (finding,) = checks.check_descriptors(Config(max_connections=2**62), {})
    assert finding.level == "warn"
    (finding,) = checks.check_descriptors(Config(max_connections=1), {})
    assert finding.level == "ok"


def test_one_check_that_fails_does_not_stop_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(config: Config, sources: checks.Sources) -> Iterator[checks.Finding]:
        yield checks.ok("database", "so far")
        raise PreforkAdsError("gone")

    monkeypatch.setattr(checks, "check_database", broken)
    found = list(checks.run_all(Config(port=0), {}))
    assert [(f.check, f.level) for f in found[:2]] == [("database", "ok"), ("database", "FAIL")]
    assert len(found) > 4
