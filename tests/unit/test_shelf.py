"""The catalog on the disk: whole or not at all, whoever writes it and whatever becomes of it."""

import asyncio
import fcntl
import os
import stat
from pathlib import Path

import pytest

from prefork_ads.ads.feed import Snapshot
from prefork_ads.process.shelf import Shelf

OLD = Snapshot(6, "1700000000.000001", {"site": {1: {"id": 1, "key": "alt"}}})
SNAPSHOT = Snapshot(
    7,
    "1700000001.000001",
    {
        "site": {1: {"id": 1, "key": "news"}, 2: {"id": 2, "key": "grün\n\u2028"}},
        "campaign": {9: {"id": 9, "targeting": {"geo": {"include": ["DE"]}}, "price": 2**53}},
    },
)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def shelf(tmp_path: Path, said: list[str]) -> Shelf:
    return Shelf(tmp_path / "data", said.append)


def test_what_is_written_is_read(shelf: Shelf, said: list[str]) -> None:
    assert shelf.read() is None
    assert shelf.write(SNAPSHOT)
    assert shelf.read() == SNAPSHOT
    assert said == []


def test_an_empty_catalog_is_one_too(shelf: Shelf) -> None:
    shelf.write(Snapshot(0, None, {}))
    assert shelf.read() == Snapshot(0, None, {})


def test_it_is_for_nobody_elses_eyes(shelf: Shelf) -> None:
    """What advertisers pay is nobody's business."""
    shelf.write(SNAPSHOT)
    assert stat.S_IMODE(shelf.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(shelf.path.parent.stat().st_mode) == 0o700


def test_what_lies_there_already_is_not_written_again(shelf: Shelf) -> None:
    """All workers of a host hear of each change."""
    shelf.write(SNAPSHOT)
    first = shelf.path.stat().st_ino
    assert shelf.write(SNAPSHOT)
    assert shelf.path.stat().st_ino == first
    assert shelf.write(OLD), "a fail-over may have gone back"
    assert shelf.read() == OLD


def test_who_does_not_get_the_lock_leaves_it(shelf: Shelf) -> None:
    shelf.write(OLD)
    with (shelf.path.parent / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert not shelf.write(SNAPSHOT)
    assert shelf.read() == OLD
    assert shelf.write(SNAPSHOT)
    assert shelf.read() == SNAPSHOT


def test_what_a_dead_writer_left_aside_is_in_nobodys_way(shelf: Shelf, tmp_path: Path) -> None:
    """Nor is a link, which would have us write elsewhere."""
    shelf.write(OLD)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("theirs")
    (shelf.path.parent / "snapshot.new").symlink_to(elsewhere)
    assert shelf.write(SNAPSHOT)
    assert shelf.read() == SNAPSHOT
    assert elsewhere.read_text() == "theirs"


def damages(whole: bytes) -> dict[str, bytes]:
    lines = whole.splitlines(keepends=True)
    return {
        "empty": b"",
        "cut in the first line": lines[0][:10],
        "without its end": b"".join(lines[:-1]),
        "cut in the last line": whole[:-5],
        "without a row": b"".join(lines[:1] + lines[2:]),
        "a row twice": b"".join([*lines[:2], *lines[1:]]),
        "another letter": whole.replace(b"news", b"nevs"),
        "another version": whole.replace(b'"version":7', b'"version":8'),
        "more behind its end": whole + lines[1],
        "zeros": bytes(len(whole)),
        "of another format": whole.replace(b'"format":1', b'"format":2'),
        "no version": whole.replace(b'"version"', b'"Version"'),
        "a list": b"[]\n",
        "a number for a row": lines[0] + b"5\n",
        "nothing for a row": lines[0] + b"null\n",
        "a list for a relation": lines[0] + b'[["site"],1,{}]\n',
        "not UTF-8": whole.replace(b"news", b"ne\xff\xff"),
    }


@pytest.mark.parametrize("what", damages(b"\n\n").keys())
def test_a_damaged_one_is_ignored_and_replaced(shelf: Shelf, said: list[str], what: str) -> None:
    """Also by the same version: what is there says nothing about what should be there."""
    shelf.write(SNAPSHOT)
    shelf.path.write_bytes(damages(shelf.path.read_bytes())[what])
    assert shelf.read() is None
    assert str(shelf.path) in said[0]
    assert "is of no use and ignored" in said[0]
    assert shelf.write(SNAPSHOT)
    assert shelf.read() == SNAPSHOT


@pytest.mark.parametrize("stamp", [(2**63, None), (-1, None), (True, None), (7, 5), (7, ["x"])])
def test_one_that_postgresql_cannot_be_asked_about_is_ignored(
    shelf: Shelf, said: list[str], stamp: tuple[int, str | None]
) -> None:
    """Though it is whole: a worker that began with it would ask in vain for what it lacks."""
    shelf.write(Snapshot(*stamp, SNAPSHOT.rows))
    assert shelf.read() is None
    assert "is of no use and ignored" in said[0]


def test_the_latest_of_a_burst_is_kept(shelf: Shelf) -> None:
    async def scenario() -> None:
        keeping = asyncio.create_task(shelf.run(after_s=0.01))
        shelf.keep(OLD)
        shelf.keep(SNAPSHOT)
        async with asyncio.timeout(60):
            while (found := shelf.read()) is None:  # noqa: ASYNC110
                await asyncio.sleep(0)
        assert found == SNAPSHOT
        keeping.cancel()

    asyncio.run(scenario())


def test_who_did_not_get_the_lock_tries_again(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its holder may write an older one, and die before it hears of ours."""
    outcomes: list[bool] = []
    write = Shelf.write

    def noted(self: Shelf, snapshot: Snapshot) -> bool:
        outcomes.append(write(self, snapshot))
        return outcomes[-1]

    monkeypatch.setattr(Shelf, "write", noted)

    async def scenario() -> None:
        keeping = asyncio.create_task(shelf.run(after_s=0.01))
        shelf.path.parent.mkdir(parents=True)
        lock = os.open(shelf.path.parent / "lock", os.O_RDWR | os.O_CREAT)
        fcntl.flock(lock, fcntl.LOCK_EX)
        shelf.keep(SNAPSHOT)
        async with asyncio.timeout(60):
            while len(outcomes) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert outcomes[:2] == [False, False]
        assert not shelf.path.exists()
        os.close(lock)
        async with asyncio.timeout(60):
            while shelf.read() != SNAPSHOT:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        keeping.cancel()

    asyncio.run(scenario())


def test_a_directory_that_cannot_be_used_is_told_of(tmp_path: Path, said: list[str]) -> None:
    """Serving does not depend on it."""
    (tmp_path / "data").write_text("in the way")
    shelf = Shelf(tmp_path / "data", said.append)

    async def scenario() -> None:
        keeping = asyncio.create_task(shelf.run(after_s=0.01))
        shelf.keep(SNAPSHOT)
        async with asyncio.timeout(60):
            while not said:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert not keeping.done()
        keeping.cancel()

    asyncio.run(scenario())
    assert "no snapshot can be kept in" in said[0]
