"""The pid file: what it may replace and what it must leave alone."""

import os
from pathlib import Path

import pytest

from prefork_ads.errors import ConfigError
from prefork_ads.process.pidfile import PidFile


@pytest.mark.parametrize(
    "content", [b"secret=1\n", b"4711 and more\n", b"\xff\xfe", b"\n" * 100 + b"text"]
)
def test_a_file_of_another_kind_is_left_alone(tmp_path: Path, content: bytes) -> None:
    """A mistaken path must not cost anybody a file."""
    path = tmp_path / "env"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is no pid file"):
        PidFile(path).acquire()
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"\n", b"\0" * 6, b"4194304\n", b"%d\n" % os.getpid()])
def test_what_a_dead_server_or_a_crash_has_left_is_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "pid"
    path.write_bytes(content)
    file = PidFile(path)
    file.acquire()
    assert int(path.read_text()) == os.getpid()
    file.release()
    assert list(tmp_path.iterdir()) == []
