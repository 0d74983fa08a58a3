"""The data directory's small parts that need no server."""

from pathlib import Path

import pytest

from prefork_ads.db import data_dir, embedded, session
from prefork_ads.db.data_dir import log_tail, trim_log


def test_a_log_past_its_limit_is_moved_and_goes_on(tmp_path: Path) -> None:
    """The writer keeps its descriptor, as the server does."""
    with (tmp_path / "postgres.log").open("ab", buffering=0) as log:
        log.write(b"x" * 100)
        trim_log(tmp_path, limit_bytes=100)
        assert not (tmp_path / "postgres.log.1").exists()
        log.write(b"y")
        trim_log(tmp_path, limit_bytes=100)
        log.write(b"z")
        assert (tmp_path / "postgres.log").read_bytes() == b"z"
        assert (tmp_path / "postgres.log.1").read_bytes() == b"x" * 100 + b"y"
        log.write(b"z" * 100)
        trim_log(tmp_path, limit_bytes=100)
        assert (tmp_path / "postgres.log.1").read_bytes() == b"z" * 101


def test_a_log_that_is_not_there(tmp_path: Path) -> None:
    trim_log(tmp_path)
    assert log_tail(tmp_path) == []


def test_the_tail_of_a_log(tmp_path: Path) -> None:
    (tmp_path / "postgres.log").write_bytes(b"\xff\n" * 20_000 + b"last\n")
    assert log_tail(tmp_path, lines=2) == ["\ufffd", "last"]


def test_a_log_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    """As root we write where another user may put links."""
    precious = tmp_path / "precious"
    precious.write_text("x" * 100)
    (tmp_path / "postgres.log").symlink_to(precious)
    with pytest.raises(OSError, match="symbolic links"):
        trim_log(tmp_path, limit_bytes=10)
    with pytest.raises(OSError, match="symbolic links"):
        data_dir.open_log(tmp_path, None)
    assert precious.read_text() == "x" * 100


@pytest.mark.parametrize(
    ("limit", "megabytes"), [("max", None), ("1073741824", 128), ("8589934592", 1024)]
)
def test_a_containers_limit_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, megabytes: int | None
) -> None:
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    monkeypatch.setattr(embedded, "CGROUP_LIMIT", tmp_path / "memory.max")
    buffers_mb = int(embedded.server_settings()["shared_buffers"].removesuffix("MB"))
    assert 128 <= buffers_mb <= 2048
    if megabytes is not None:
        assert buffers_mb <= megabytes


def test_without_control_groups_the_machine_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "CGROUP_LIMIT", Path("/nonexistent"))
    assert embedded.server_settings()["shared_buffers"].endswith("MB")


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        ("postgresql://ann:secret@db.example:5433/ads", "ann@db.example:5433/ads"),
        ("host=/run/pg dbname=ads user=ann password=secret", "ann@/run/pg/ads"),
        ("dbname=ads", "local socket/ads"),
        ("", "local socket/"),
    ],
)
def test_a_database_is_named_without_its_password(dsn: str, shown: str) -> None:
    assert session.describe(dsn) == shown
