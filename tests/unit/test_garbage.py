"""The garbage collector of a worker works by the clock."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from prefork_ads.process.garbage import ALL_EVERY_S, OLD_MOST, YOUNG_MOST, Garbage

ALL_AT = 400.0


@pytest.fixture
def garbage() -> Iterator[Garbage]:
    """Looks at everything at ALL_AT. Nothing else is looked at in a test: what was there before is frozen."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    try:
        yield Garbage(ALL_AT)
    finally:
        gc.enable()
        gc.unfreeze()
        gc.set_threshold(*before)


@pytest.fixture
def looks(garbage: Garbage) -> Iterator[list[int]]:
    """The oldest generation of each look, ours and those that containers call for."""
    found: list[int] = []

    def note(phase: str, about: dict[str, int]) -> None:
        if phase == "start":
            found.append(about["generation"])

    gc.callbacks.append(note)
    try:
        yield found
    finally:
        gc.callbacks.remove(note)


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
    for second in range(3):
        garbage.look(100.0 + second)
    cycle = weakref.ref(living)
    del living
    garbage.look(ALL_AT - 1)
    assert cycle() is not None
    garbage.look(ALL_AT)
    assert cycle() is None


def test_everything_is_looked_at_once_and_then_not_for_a_while(
    garbage: Garbage, looks: list[int]
) -> None:
    for now in (ALL_AT, ALL_AT + 0.25, ALL_AT + ALL_EVERY_S - 1, ALL_AT + ALL_EVERY_S):
        garbage.look(now)
    assert looks == [2, 1, 1, 2]


def test_everything_is_looked_at_sooner_when_much_may_have_grown_old(
    garbage: Garbage, looks: list[int]
) -> None:
    rounds = 0
    kept: list[list[list[int]]] = []
    while 2 not in looks:
        kept.append([[] for _ in range(YOUNG_MOST // 2)])
        garbage.look(100.0)
        rounds += 1
    assert rounds == pytest.approx(OLD_MOST / (YOUNG_MOST // 2), rel=0.1)
    del kept


def test_a_wave_of_requests_is_not_looked_at(garbage: Garbage, looks: list[int]) -> None:
    wave: list[list[int]] = [[] for _ in range(YOUNG_MOST // 2)]
    assert not looks
    del wave


def test_between_looks_many_containers_call_for_one_but_never_for_everything(
    garbage: Garbage, looks: list[int]
) -> None:
    cycle = _thrown_away()
    flood: list[list[int]] = [[] for _ in range(40 * YOUNG_MOST)]
    assert cycle() is None
    assert 30 <= len(looks) <= 50
    # The middle generation follows so soon that it stays small.
    assert looks.count(1) >= len(looks) // 4
    assert 2 not in looks
    del flood


def test_switched_off_it_stays_off(garbage: Garbage) -> None:
    cycle = _thrown_away()
    gc.disable()
    garbage.look(ALL_AT)
    assert cycle() is not None
    gc.enable()
    garbage.look(ALL_AT)
    assert cycle() is None
