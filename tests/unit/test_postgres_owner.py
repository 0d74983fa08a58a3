"""The fork of PostgreSQL's owner, when the system refuses it or a signal comes right then."""

import errno
import os
import signal
from pathlib import Path

import pytest

from prefork_ads.process.postgres import PostgresOwner


def test_no_signal_can_reach_a_newborn_owner_by_the_masters_handlers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler there would write to the master's wake-up descriptor: Ctrl-C would count twice."""
    blocked: list[set[int | signal.Signals]] = []

    def refuse() -> int:
        blocked.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr(os, "fork", refuse)
    owner = PostgresOwner(tmp_path)
    with pytest.raises(BlockingIOError):
        owner.start()
    assert {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} <= blocked[0]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    assert owner.pid is None
