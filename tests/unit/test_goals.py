"""How campaigns do against their goals, with worked examples, and the table that shows it."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork_ads.cli.goals_text import as_object, table
from prefork_ads.db.goals import Delivered
from prefork_ads.report.goals import STATES, Progress, progress

NOON = "2026-11-22T12:00+00:00"
# A usual day's requests by hour, as `traffic_curve` has them: nobody at night, most in the evening.
EVENING = [1] * 8 + [2] * 12 + [4] * 4
MIDNIGHT_S = int(datetime(2026, 11, 21, tzinfo=UTC).timestamp())
TRAFFIC = [(None, [MIDNIGHT_S + 3600 * hour for hour in range(24)], EVENING)]


def seconds(text: str | None) -> float | None:
    return None if text is None else datetime.fromisoformat(text).timestamp()


def delivered(**more: Any) -> Delivered:
    """A campaign with even pacing that nobody was shown, at noon."""
    moments = {f"{name}_s": seconds(more.pop(name, None)) for name in ("starts", "ends")}
    at_s = seconds(more.pop("at", NOON))
    assert at_s is not None
    values = {
        "id": 1, "key": "spring-sale", "status": "active", "kind": "impressions", "total": None,
        "daily": None, "pacing": "even", "time_zone": "UTC", "in_all": 0, "today": 0, "held": 0,
    }  # fmt: skip
    return Delivered(**{**values, **moments, "at_s": at_s, **more})


def made(traffic: Sequence[tuple[Any, ...]] = (), **more: Any) -> Progress:
    (one,) = progress([delivered(**more)], traffic)
    return one


# A flight of ten days, of which two and a half have passed.
TEN_DAYS: dict[str, Any] = {"starts": "2026-11-20T00:00+00:00", "ends": "2026-11-30T00:00+00:00"}


def test_a_goal_for_a_flight_has_a_line_in_all_and_the_pacer_s_today() -> None:
    one = made(total=1000, in_all=280, **TEN_DAYS)
    assert (one.in_all.even, one.today.even) == (250, 45)
    assert one.passed == pytest.approx(0.25)
    assert one.today.goal is None


def test_both_lines_follow_the_traffic() -> None:
    """By noon come 16 of 48 parts of a day's requests."""
    one = made(TRAFFIC, total=1000, daily=60, **TEN_DAYS)
    assert (one.in_all.even, one.today.even) == (233, 20)


def test_a_flight_that_begins_at_noon_has_less_of_its_first_day() -> None:
    """32 of 48 parts of the traffic, and the half of them by 20:00 that came since noon."""
    flight: dict[str, Any] = {"starts": NOON, "ends": "2026-11-24T00:00+00:00"}
    one = made(TRAFFIC, total=1000, at="2026-11-22T20:00+00:00", **flight)
    assert one.in_all.even == int(1000 * (16 / 48) / (1 + 32 / 48))


@pytest.mark.parametrize("kind", ["impressions", "clicks"])
@pytest.mark.parametrize(
    ("had", "state"),
    [
        (0, "behind"), (899, "behind"), (900, "on course"), (1000, "on course"),
        (1100, "on course"), (1101, "ahead"), (1999, "ahead"), (2000, "done today"),
    ],
)  # fmt: skip
def test_behind_is_under_90_per_cent_and_ahead_over_110(kind: str, had: int, state: str) -> None:
    """At noon 1,000 of 2,000 are due; exactly 90 % is not behind."""
    one = made(daily=2000, in_all=had, today=had, kind=kind)
    assert one.today.even == 1000
    assert one.state == state


def test_half_an_hour_s_worth_is_no_trouble() -> None:
    """A quarter past midnight 25 are due: what is missing may be on its way."""
    early = "2026-11-22T00:15+00:00"
    assert made(daily=2400, at=early).today.even == 25
    assert made(daily=2400, at=early).state == "on course"
    assert made(daily=2400, at="2026-11-22T00:45+00:00").state == "behind"
    assert made(daily=2400, in_all=70, today=70, at=early).state == "on course"
    assert made(daily=2400, in_all=76, today=76, at=early).state == "ahead"


def test_a_goal_that_was_missed_for_days_is_behind_in_the_morning_too() -> None:
    """The pacer begins each day anew; the line in all does not forget."""
    one = made(total=1000, in_all=100, at="2026-11-25T00:00+00:00", **TEN_DAYS)
    assert (one.today.even, one.in_all.even) == (0, 500)
    assert one.state == "behind"


def test_what_is_missing_in_all_is_told_though_the_day_is_done() -> None:
    """A daily goal too small for the one in all."""
    assert made(total=1000, daily=10, in_all=10, today=10, **TEN_DAYS).state == "behind"


def test_a_goal_without_a_day_s_part_and_without_an_end_has_no_line() -> None:
    one = made(total=1000, pacing="asap")
    assert (one.in_all.even, one.today.even, one.passed) == (None, None, None)
    assert one.state == "no even pace"


@pytest.mark.parametrize(
    ("had", "state"),
    [(0, "behind"), (900, "no even pace"), (1900, "no even pace"), (2000, "done today")],
)
def test_as_soon_as_possible_is_never_ahead(had: int, state: str) -> None:
    """It is what is wanted; too little is told all the same."""
    assert made(daily=2000, in_all=had, today=had, pacing="asap").state == state


def test_without_a_daily_goal_asap_has_no_part_of_a_day() -> None:
    one = made(total=1000, pacing="asap", in_all=300, **TEN_DAYS)
    assert (one.in_all.even, one.today.even, one.state) == (250, None, "no even pace")


@pytest.mark.parametrize(
    ("more", "state"),
    [
        ({"at": "2026-11-19T12:00+00:00"}, "not begun"),
        ({"at": "2026-11-30T00:00+00:00", "in_all": 999}, "over"),
        ({"at": "2026-12-24T00:00+00:00", "in_all": 1000}, "done"),
        ({"in_all": 1000}, "done"),
        ({"in_all": 1200}, "done"),
        ({"status": "paused"}, "paused"),
        ({"status": "paused", "in_all": 1000}, "done"),
        ({"status": "paused", "at": "2026-11-19T12:00+00:00"}, "paused"),
        ({"status": "draft", "at": "2026-12-24T00:00+00:00"}, "draft"),
        ({"status": "archived", "in_all": 1000}, "archived"),
    ],
)
def test_what_is_not_served_has_a_word_of_its_own(more: dict[str, Any], state: str) -> None:
    assert made(total=1000, **{**TEN_DAYS, **more}).state == state


def test_before_and_after_a_flight_all_or_nothing_is_due() -> None:
    before = made(total=1000, at="2026-11-19T12:00+00:00", **TEN_DAYS)
    assert (before.in_all.even, before.today.even, before.passed) == (0, 0, 0.0)
    after = made(total=1000, at="2026-11-30T06:00+00:00", **TEN_DAYS)
    assert (after.in_all.even, after.today.even, after.passed) == (1000, None, 1.0)
    assert not after.is_active


@pytest.mark.parametrize(
    ("at", "even"),
    [
        # 23 hours, of which 4 have passed at 05:00; 25, of which 6 have.
        ("2026-03-29T05:00+02:00", int(2300 * 4 / 23)),
        ("2026-10-25T05:00+01:00", int(2300 * 6 / 25)),
    ],
)
def test_a_day_on_which_clocks_change_has_its_own_length(at: str, even: int) -> None:
    assert made(daily=2300, time_zone="Europe/Berlin", at=at).today.even == even


def test_a_day_of_a_flight_is_a_day_however_long_it_is() -> None:
    """Three days around the change; after the second two thirds are due, though it had 25 hours."""
    flight: dict[str, Any] = {"starts": "2026-10-24T00:00+02:00", "ends": "2026-10-27T00:00+01:00"}
    at = "2026-10-26T00:00+01:00"
    assert made(total=900, time_zone="Europe/Berlin", at=at, **flight).in_all.even == 600


def test_the_day_is_that_of_the_campaign_s_own_zone() -> None:
    """Noon in UTC is one in the morning of the next day in Auckland."""
    one = made(daily=2400, time_zone="Pacific/Auckland")
    assert one.today.even == 100


def test_a_zone_that_only_postgresql_knows_harms_nobody() -> None:
    assert made(daily=2400, time_zone="Mars/Olympus", at=NOON).today.even == 1200


def test_a_flight_of_no_time_to_speak_of() -> None:
    one = made(total=1, starts=NOON, ends="2026-11-22T12:00:00.000001+00:00")
    assert (one.in_all.even, one.state) == (0, "on course")


@given(
    total=st.integers(1, 10**12) | st.none(),
    daily=st.integers(1, 10**12) | st.none(),
    in_all=st.integers(0, 10**12),
    days=st.floats(-5, 15),
    pacing=st.sampled_from(["even", "asap"]),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "Australia/Lord_Howe", "America/Havana"]),
    has_flight=st.booleans(),
)
def test_nothing_is_ever_due_beyond_the_goal(
    total: int | None,
    daily: int | None,
    in_all: int,
    days: float,
    pacing: str,
    zone: str,
    has_flight: bool,
) -> None:
    """Whatever a campaign is like it gets a word, and a line between nothing and its goal."""
    flight: dict[str, Any] = TEN_DAYS if has_flight else {}
    at = datetime.fromtimestamp((seconds(TEN_DAYS["starts"]) or 0) + days * 86_400, UTC).isoformat()
    one = made(
        TRAFFIC, total=total, daily=daily, in_all=in_all, today=in_all // 3, pacing=pacing,
        time_zone=zone, at=at, **flight,
    )  # fmt: skip
    assert one.state in STATES
    for line, most in ((one.in_all, total), (one.today, daily or total)):
        assert line.even is None or most is None or 0 <= line.even <= most
    assert one.passed is None or 0 <= one.passed <= 1
    json.dumps(as_object(one))


def test_of_those_that_are_behind_the_worst_is_first() -> None:
    """By what makes them behind: what a moment lacks of the few that are due today is not it."""
    half = delivered(key="half", daily=2000, in_all=500, today=500)
    least = delivered(key="least", total=1000, in_all=50, today=45, **TEN_DAYS)
    fresh = delivered(key="fresh", total=1000, in_all=150, at="2026-11-22T00:20+00:00", **TEN_DAYS)
    bare = delivered(key="bare", pacing="asap", total=10)
    found = progress([bare, half, fresh, least, delivered(key="a", kind=None)], ())
    assert [one.campaign.key for one in found] == ["least", "half", "fresh", "bare"]


# ---- shown


def some() -> list[Progress]:
    """One of each sort."""
    first: dict[str, Any] = {"starts": "2026-11-20T00:00+00:00", "ends": "2026-11-29T18:00+00:00"}
    return progress(
        [
            delivered(key="winter-boots", daily=20, in_all=12_000, today=10, held=3),
            delivered(
                key="spring-sale", total=5_000_000, daily=600_000, in_all=4_999_999, **TEN_DAYS
            ),
            delivered(key="books", total=1000, in_all=100, **TEN_DAYS),
            delivered(key="jazz", total=1000, in_all=80, kind="clicks", held=1200, **first),
            delivered(key="snow", daily=10, starts="2026-12-01T00:00+00:00"),
            delivered(key="rye-bread", total=10, in_all=3, pacing="asap"),
        ],
        (),
    )


TABLE = """\
State         Campaign      Goal in      Delivered       Goal   %       Even  Flight                Held
------------  ------------  -----------  ---------  ---------  --  ---------  -------------------  -----
behind        books         impressions        100      1,000  10        250  25 % passed              0
                            today                0          –   –         56  to 2026-11-29
behind        jazz          clicks              80      1,000   8        256  25 % passed          1,200
                            today                0          –   –         59  to 2026-11-29 18:00
on course     winter-boots  impressions     12,000          –   –          –  –                        3
                            today               10         20  50         10
ahead         spring-sale   impressions  4,999,999  5,000,000  99  1,250,000  25 % passed              0
                            today                0    600,000   0          0  to 2026-11-29
no even pace  rye-bread     impressions          3         10  30          –  –                        0
                            today                0          –   –          –
not begun     snow          impressions          0          –   –          –  from 2026-12-01          0
                            today                0         10   0          0

2026-11-22 12:00:00 UTC. Even is what an even delivery would have by now; behind is under 90 % of that.
"""


def test_the_worst_is_first_in_the_table() -> None:
    """What is nearly reached is not 100 %."""
    assert "\n".join(table(some(), 110)) + "\n" == TABLE


@pytest.mark.parametrize(
    ("width", "last"), [(104, "Held"), (103, "Flight"), (82, "Even"), (71, "%"), (61, "%")]
)
def test_what_has_no_room_is_left_out_and_nothing_wraps(width: int, last: str) -> None:
    lines = table(some(), width)
    assert lines[0].split()[-1] == last
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "sprin" in text
    assert ("Even is" in text) == (last != "%")


def test_a_key_that_has_no_room_is_cut_and_at_last_the_line() -> None:
    found = progress([delivered(key="k" * 100, daily=20)], ())
    assert "k…  impressions" in table(found, 60)[2]
    for width in (60, 40, 5):
        assert max(map(len, table(found, width))) <= width


def test_as_an_object_it_has_plain_numbers_and_times_of_its_zone() -> None:
    one = made(
        total=3000, daily=60, in_all=280, today=30, held=4, time_zone="Europe/Berlin",
        starts="2026-11-20T00:00+01:00", ends="2026-11-30T00:00+01:00",
    )  # fmt: skip
    assert as_object(one) == {
        "key": "spring-sale", "status": "active", "state": "behind", "goal_kind": "impressions",
        "pacing": "even", "delivered": 280, "goal_total": 3000, "share": 0.093333, "even": 762,
        "delivered_today": 30, "goal_daily": 60, "share_today": 0.5, "even_today": 32, "held": 4,
        "starts": "2026-11-20T00:00:00+01:00", "ends": "2026-11-30T00:00:00+01:00",
        "passed": 0.254167, "time_zone": "Europe/Berlin", "at": "2026-11-22T13:00:00+01:00",
    }  # fmt: skip
