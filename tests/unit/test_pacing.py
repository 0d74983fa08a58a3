"""How much of a goal should have been had by when, with worked examples."""

from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork_ads.ads.pacing import (
    AHEAD_S,
    UNIFORM,
    Curve,
    DayCurve,
    DayPlan,
    Goal,
    Pace,
    curve_of,
    plan_day,
)

HOUR = 3600.0
DAY = 24 * HOUR
MIDNIGHT = datetime(2026, 11, 22, tzinfo=UTC).timestamp()
ZONE = ZoneInfo("UTC")
# Nobody at night, most in the evening.
EVENING: Curve = tuple(n / 48 for n in [1] * 8 + [2] * 12 + [4] * 4)


def day(curve: Curve = UNIFORM) -> DayCurve:
    return DayCurve(curve, ZONE, MIDNIGHT, MIDNIGHT + DAY)


def daily(goal: int, curve: Curve = UNIFORM) -> DayPlan:
    return plan_day(Goal(None, goal, None, None), day(curve), 0)


@pytest.mark.parametrize(
    ("hours", "planned"), [(0, 0), (6, 600), (12, 1200), (24, 2400), (30, 2400)]
)
def test_without_history_a_day_is_the_same_all_through(hours: float, planned: float) -> None:
    assert daily(2400).at(MIDNIGHT + hours * HOUR) == pytest.approx(planned)


@pytest.mark.parametrize(
    ("hours", "planned"), [(8, 800), (14, 2000), (20, 3200), (22, 4000), (24, 4800)]
)
def test_the_plan_follows_the_traffic(hours: float, planned: float) -> None:
    assert daily(4800, EVENING).at(MIDNIGHT + hours * HOUR) == pytest.approx(planned)


def test_a_goal_for_a_flight_is_spread_over_what_is_left_of_it() -> None:
    """1,000 for ten days; 280 were had in two: of the eight days that are left each gets 90."""
    goal = Goal(1000, None, MIDNIGHT - 2 * DAY, MIDNIGHT + 8 * DAY)
    assert plan_day(goal, day(), 280).part == pytest.approx(90)


def test_the_last_day_gets_all_that_is_left() -> None:
    goal = Goal(1000, None, MIDNIGHT - 2 * DAY, MIDNIGHT + 12 * HOUR)
    plan = plan_day(goal, day(), 280)
    assert plan.at(MIDNIGHT + 12 * HOUR) == pytest.approx(720)
    assert plan.at(MIDNIGHT + 6 * HOUR) == pytest.approx(360)


def test_a_last_day_that_ends_at_noon_counts_by_its_traffic() -> None:
    """Today is whole; of tomorrow 8 + 8 of 48 parts of the traffic come before noon."""
    goal = Goal(640, None, MIDNIGHT, MIDNIGHT + DAY + 12 * HOUR)
    assert plan_day(goal, day(EVENING), 0).part == pytest.approx(640 * 48 / 64)


def test_a_first_day_that_begins_in_the_evening_is_spread_over_the_evening() -> None:
    plan = plan_day(Goal(None, 600, MIDNIGHT + 18 * HOUR, None), day(), 0)
    assert plan.at(MIDNIGHT + 18 * HOUR) == 0
    assert plan.at(MIDNIGHT + 21 * HOUR) == pytest.approx(300)
    assert plan.at(MIDNIGHT + 24 * HOUR) == pytest.approx(600)


def test_a_daily_goal_is_the_most_of_a_day() -> None:
    goal = Goal(10_000, 100, MIDNIGHT, MIDNIGHT + 10 * DAY)
    assert plan_day(goal, day(), 0).part == 100
    assert plan_day(goal, day(), 9_950).part == pytest.approx(5)


@pytest.mark.parametrize(
    ("begins", "hours"), [("2026-03-29T00:00+01:00", 23), ("2026-10-25T00:00+02:00", 25)]
)
def test_days_on_which_clocks_change_have_their_own_length(begins: str, hours: int) -> None:
    """The hour that is left out has no traffic, the one that comes twice has it twice."""
    begins_s = datetime.fromisoformat(begins).timestamp()
    curve = DayCurve(UNIFORM, ZoneInfo("Europe/Berlin"), begins_s, begins_s + hours * HOUR)
    plan = plan_day(Goal(None, hours * 100, None, None), curve, 0)
    assert plan.at(begins_s + 10 * HOUR) == pytest.approx(1000)
    assert plan.at(begins_s + hours * HOUR) == pytest.approx(hours * 100)


def test_a_late_start_is_made_up_for_within_half_an_hour() -> None:
    """Nothing had by 18:00 of 28,800: five minutes' worth at once, then evenly to the plan until 18:30."""
    pace = Pace(daily(28_800), 0, MIDNIGHT + 18 * HOUR)
    assert pace.line(MIDNIGHT + 18 * HOUR) == pytest.approx(100)
    assert pace.line(MIDNIGHT + 18.25 * HOUR) == pytest.approx(21_900 - 10_750)
    assert pace.line(MIDNIGHT + 18.5 * HOUR) == pytest.approx(22_200)
    assert pace.line(MIDNIGHT + 24 * HOUR) == pytest.approx(28_800)


def test_late_in_the_day_a_gap_is_closed_in_half_of_what_is_left() -> None:
    pace = Pace(daily(2400), 0, MIDNIGHT + 23.75 * HOUR)
    assert pace.line(MIDNIGHT + 23.875 * HOUR) == pytest.approx(2387.5)


def test_traffic_that_comes_back_does_not_find_all_of_the_gap_open() -> None:
    """Nobody came from 6 to 12. At noon five minutes' worth of the line may go at once, no more."""
    pace = Pace(daily(28_800), 7200, MIDNIGHT + 6 * HOUR)
    for minute in range(6 * 60, 12 * 60):
        pace.saw(7200, MIDNIGHT + minute * 60)
    noon = pace.line(MIDNIGHT + 12 * HOUR)
    assert 7200 < noon < 7200 + 2 * (100 + 7200 / 6)
    assert pace.line(MIDNIGHT + 13 * HOUR) == pytest.approx(28_800 * 13 / 24)


def test_a_campaign_that_is_ahead_waits_for_its_plan() -> None:
    pace = Pace(daily(2400), 1000, MIDNIGHT + 6 * HOUR)
    assert pace.ceiling(MIDNIGHT + 6 * HOUR) < 610


def test_leases_run_a_few_seconds_ahead_of_the_line() -> None:
    plan = daily(86_400)
    assert Pace(plan, 0, MIDNIGHT).ceiling(MIDNIGHT) == AHEAD_S
    # At a day's end there is no more to be had than its part.
    assert Pace(plan, 86_400, MIDNIGHT).ceiling(MIDNIGHT + DAY) == 86_400


def test_the_first_of_few_is_due_at_once() -> None:
    """A daily goal of one is not held back until it is whole, at midnight."""
    assert Pace(daily(1), 0, MIDNIGHT).ceiling(MIDNIGHT + HOUR) == 1


@pytest.mark.parametrize(
    ("had", "need"), [(600, 4), (590, 6), (550, 16), (300, 16), (615, 3), (650, 1), (1000, 1)]
)
def test_need_grows_with_what_is_missing(had: int, need: int) -> None:
    """At 06:00 the plan says 600; half an hour's worth is 50."""
    assert Pace(daily(2400), had, MIDNIGHT).need(had, MIDNIGHT + 6 * HOUR) == need


def test_a_curve_comes_from_the_hours_of_the_campaign_s_own_zone() -> None:
    """Traffic from 08:00 to 09:00 UTC is that of 09:00 in Berlin, in winter."""
    curve = curve_of([(MIDNIGHT + 8 * HOUR, 1000)], ZoneInfo("Europe/Berlin"))
    assert curve.index(max(curve)) == 9
    assert sum(curve) == pytest.approx(1)
    # No hour is without any: a campaign that runs only then must be planned, too.
    assert min(curve) > 0


def test_without_history_there_is_a_uniform_curve() -> None:
    assert curve_of([], ZONE) == UNIFORM


@given(
    goal=st.integers(1, 10**6),
    had=st.floats(0, 1),
    began=st.floats(0, 0.99),
    moments=st.lists(st.floats(0, 1), min_size=2, max_size=5),
)
def test_the_line_never_falls_and_ends_at_the_goal(
    goal: int, had: float, began: float, moments: list[float]
) -> None:
    pace = Pace(daily(goal, EVENING), had * goal, MIDNIGHT + began * DAY)
    after = sorted(MIDNIGHT + (began + (1 - began) * moment) * DAY for moment in moments)
    lines = [pace.line(at_s) for at_s in after]
    assert all(later >= earlier - 1e-6 * goal for earlier, later in pairwise(lines))
    assert pace.line(MIDNIGHT + DAY) == pytest.approx(goal)


@pytest.mark.parametrize("starts_h", [0.0, 15.0])
def test_a_day_of_traffic_lands_within_two_per_cent(starts_h: float) -> None:
    """Enough traffic by the curve, also for a campaign that was switched on in the afternoon."""
    goal, served = 10_000, 0
    plan = daily(goal, EVENING)
    pace = Pace(plan, 0, MIDNIGHT + starts_h * HOUR)
    for second in range(int(starts_h * HOUR), int(DAY), 5):
        at_s = MIDNIGHT + second
        chances = 40_000 * (plan.curve.before(at_s + 5) - plan.curve.before(at_s))
        pace.saw(served, at_s)
        served += min(max(1, int(chances)), max(0, pace.ceiling(at_s) - served))
        assert served <= plan.at(at_s + AHEAD_S) + 1
    assert 0.98 * goal <= served <= goal
