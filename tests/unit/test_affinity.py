"""Which core a worker is bound to."""

import os

import pytest

from prefork_ads.errors import ConfigError
from prefork_ads.process.affinity import bind, check, core_of
from prefork_ads.process.log import logger

CORES = sorted(os.sched_getaffinity(0))


def test_without_a_choice_there_is_no_core() -> None:
    assert core_of("none", 3) is None


def test_cores_are_taken_in_turn() -> None:
    assert [core_of("auto", slot) for slot in range(2 * len(CORES))] == CORES * 2
    assert [core_of((4, 2), slot) for slot in range(4)] == [4, 2, 4, 2]


def test_a_core_that_cannot_be_had_is_told_and_does_no_harm(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logger, "propagate", True)
    before = os.sched_getaffinity(0)
    bind(100_000)
    assert os.sched_getaffinity(0) == before
    assert "not bound to core 100000: Invalid argument" in caplog.text


def test_a_core_that_is_not_there_is_named() -> None:
    for choice in ("none", "auto", tuple(CORES)):
        check(choice)
    missing = max(CORES) + 1000
    with pytest.raises(ConfigError, match=f"names core {missing}, which this process may not use"):
        check((CORES[0], missing))
