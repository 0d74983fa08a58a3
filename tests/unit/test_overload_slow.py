"""Cores that scripts/overload slows down. Whether it may is the system's decision: both are right."""

import os
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from overloadlib.errors import OverloadError
from overloadlib.slow import slowed

WORK_S = 0.3
NOBODY = 65534


def may() -> bool:
    """In a process of its own: what may be set may not always be set back."""
    child = os.fork()
    if not child:
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def share_of(core: int) -> float:
    """How much of the time of a core a process that wants all of it gets."""
    told, tells = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.sched_setaffinity(0, {core})
            began, until = time.thread_time(), time.monotonic() + WORK_S
            while time.monotonic() < until:
                pass
            os.write(tells, str((time.thread_time() - began) / WORK_S).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    share = float(os.read(told, 100))
    os.close(told)
    os.close(tells)
    return share


def test_a_core_is_slowed_down_and_its_speed_is_seen() -> None:
    core = min(os.sched_getaffinity(0))
    if not may():
        with pytest.raises(OverloadError, match="ulimit -r"), slowed([core], 5):
            pass
        return
    with slowed([core], 5) as pace:
        mark = pace.mark()
        # Others may want this core, too, so it can be less.
        assert share_of(core) < 0.4
        speed = pace.speed_since(mark)
        assert speed is not None
        assert speed > 1000


def test_nothing_is_slowed_unless_it_is_asked_for() -> None:
    with slowed([0], 1.0) as pace:
        assert pace.speed_since(pace.mark()) is None


def test_who_may_not_hears_what_he_needs() -> None:
    child = os.fork()
    if not child:
        try:
            if os.geteuid() == 0:
                os.setuid(NOBODY)
            with slowed([min(os.sched_getaffinity(0))], 5):
                os._exit(0 if may() else 1)
        except OverloadError as error:
            os._exit(0 if "ulimit -r" in str(error) else 2)
        finally:
            os._exit(3)
    assert os.waitpid(child, 0)[1] == 0
