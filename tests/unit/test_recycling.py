"""When a worker has served enough."""

import pytest

from prefork_ads.process.recycling import YOUNG_S, Allowance
from prefork_ads.process.scoreboard import Wish

MUCH = 10**9


@pytest.mark.parametrize(
    ("allowance", "wish"),
    [
        (Allowance(0, 0.0, 0), Wish.NONE),
        (Allowance(MUCH, 0.0, 0), Wish.MAX_REQUESTS),
        (Allowance(0, float(MUCH), 0), Wish.MAX_AGE),
        (Allowance(0, 0.0, MUCH), Wish.MAX_MEMORY),
        (Allowance(MUCH + 1, MUCH + 1.0, MUCH + 1), Wish.NONE),
    ],
)
def test_each_limit_is_reached_on_its_own_and_none_is_none(
    allowance: Allowance, wish: Wish
) -> None:
    assert allowance.used_up(MUCH, float(MUCH), MUCH) is wish
    assert allowance.used_up(0, 0.0, 0) is Wish.NONE


def test_memory_is_not_held_against_a_worker_that_has_just_begun() -> None:
    allowance = Allowance(0, 0.0, MUCH)
    assert allowance.used_up(0, YOUNG_S - 1, MUCH) is Wish.NONE
    assert allowance.used_up(0, YOUNG_S, MUCH) is Wish.MAX_MEMORY


def test_jitter_takes_off_requests_and_age_but_no_memory() -> None:
    allowance = Allowance(1000, 100.0, 1 << 20)
    assert allowance.drawn(0.2, 0.0) == allowance
    assert allowance.drawn(0.2, 1.0) == Allowance(800, 80.0, 1 << 20)
    assert allowance.drawn(0.0, 1.0) == allowance


def test_jitter_makes_no_limit_of_one_and_none_of_none() -> None:
    assert Allowance(1, 0.0, 0).drawn(0.9, 1.0).requests == 1
    assert Allowance(0, 0.0, 0).drawn(0.9, 1.0) == Allowance(0, 0.0, 0)
