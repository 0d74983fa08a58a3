"""The garbage collector of a worker works by the clock."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from prefork_ads.process.garbage import ALL_EVERY_S, YOUNG_MOST, Garbage


@pytest.fixture
def garbage() -> Iterator[Garbage]:
    """Began at 100 s. Nothing else is looked at in a test: what was there before is frozen."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    try:
        yield Garbage(100.0)
    finally:
        gc.enable()
        gc.unfreeze()
        gc.set_threshold(*before)


class _Cycle:
    """Refers to itself, so that nothing but the collector ends it."""

    def __init__(self) -> None:
        self.itself = self


def _thrown_away() -> "weakref.ref[_Cycle]":
    return weakref.ref(_Cycle())


def test_what_is_young_goes_with_the_next_look(garbage: Garbage) -> None:
    cycle = _thrown_away()
    assert cycle() is not None
    garbage.look(100.25)
    assert cycle() is None


def test_what_has_grown_old_goes_when_everything_is_looked_at(garbage: Garbage) -> None:
    living = _Cycle()
    for second in range(1, 4):
        garbage.look(100.0 + second)
    cycle = weakref.ref(living)
    del living
    garbage.look(99.0 + ALL_EVERY_S)
    assert cycle() is not None
    garbage.look(100.0 + ALL_EVERY_S)
    assert cycle() is None


def test_a_wave_of_requests_is_not_looked_at(garbage: Garbage) -> None:
    cycle = _thrown_away()
    wave: list[list[int]] = [[] for _ in range(YOUNG_MOST // 2)]
    assert cycle() is not None
    del wave


def test_memory_has_its_bound_whatever_the_time(garbage: Garbage) -> None:
    cycle = _thrown_away()
    wave: list[list[int]] = [[] for _ in range(2 * YOUNG_MOST)]
    assert cycle() is None
    del wave


def test_switched_off_it_stays_off(garbage: Garbage) -> None:
    cycle = _thrown_away()
    gc.disable()
    garbage.look(100.0 + ALL_EVERY_S)
    assert cycle() is not None
    gc.enable()
    garbage.look(100.0 + ALL_EVERY_S)
    assert cycle() is None
