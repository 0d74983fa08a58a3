"""How keys come into a worker: from PostgreSQL, and from a file while that is away."""

import stat
from pathlib import Path
from typing import Any

import pytest

from prefork_ads.ads.key_feed import FILE_NAME, KeyFeed
from prefork_ads.ads.tokens import Key, Keyring

ROWS: list[tuple[Any, ...]] = [(0, None, False), (1, memoryview(bytes(range(32))), True)]
KEYS = (Key(0, None, False), Key(1, bytes(range(32)), True))


def feed(folder: Path, said: list[str] | None = None) -> tuple[KeyFeed, Keyring]:
    keyring = Keyring()
    return KeyFeed(keyring, folder, (said if said is not None else []).append), keyring


def test_keys_come_from_postgresql_and_are_remembered(tmp_path: Path) -> None:
    """The next process has them before it has a connection; nobody else can read the file."""
    errand, keyring = feed(tmp_path / "catalog")
    assert errand.ask() == ("token_keys", {})
    assert not keyring.ready
    errand.answered(ROWS)
    assert keyring.keys == KEYS
    path = tmp_path / "catalog" / FILE_NAME
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == [FILE_NAME]
    _, second = feed(tmp_path / "catalog")
    assert second.keys == KEYS
    errand.failed()
    assert keyring.keys == KEYS


def test_keys_that_have_not_changed_are_not_written_again(tmp_path: Path) -> None:
    errand, _ = feed(tmp_path)
    errand.answered(ROWS)
    (tmp_path / FILE_NAME).unlink()
    errand.answered(ROWS)
    assert not (tmp_path / FILE_NAME).exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"{}x", b"[[1]]", b'[[1, "00", true]]', b'[[1, "zz", true]]', b"7"]
    + [b'[[%d, "%b", true]]' % (number, b"00" * 32) for number in (-1, 256)],
)
def test_a_file_that_is_of_no_use_is_ignored_and_told_of(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    said: list[str] = []
    _, keyring = feed(tmp_path, said)
    assert not keyring.ready
    [line] = said
    assert "ignored" in line


def test_a_file_that_cannot_be_written_is_told_of(tmp_path: Path) -> None:
    """Nobody may put a file where a directory is, root included."""
    (tmp_path / FILE_NAME).mkdir()
    said: list[str] = []
    errand, keyring = feed(tmp_path, said)
    errand.answered(ROWS)
    assert keyring.ready
    assert "cannot be kept" in said[-1]


def test_a_path_that_is_no_directory_is_told_of(tmp_path: Path) -> None:
    """The keys are in use all the same."""
    (tmp_path / "file").write_bytes(b"")
    said: list[str] = []
    keyring = Keyring()
    errand = KeyFeed(keyring, tmp_path / "file" / "x", said.append)
    errand.answered(ROWS)
    assert keyring.ready
    assert "cannot be kept" in said[-1]
