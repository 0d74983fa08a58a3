"""Reports: equal to what anybody would compute by hand from the events, at every grouping, in every zone."""

import datetime
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, Final
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefork_ads.errors import ConfigError
from prefork_ads.report import wanted as words
from prefork_ads.report.columns import DIMENSIONS
from prefork_ads.report.figures import Report, report
from prefork_ads.report.measures import SUMS
from prefork_ads.report.texts import csv_text, json_text, table
from prefork_ads.report.wanted import Wanted, read
from tests.conftest import Database
from tests.integration.report_bed import (
    ADVERTISERS,
    CAMPAIGNS,
    CATALOG,
    PRICES,
    TIERS,
    ZONES,
    Decided,
    Happened,
    differences,
    fill,
    new_id,
)

Key = tuple[str | None, ...]
Sums = dict[str, int]

# Berlin goes back an hour on the first of these days, Newfoundland on the third.
DAYS: Final = tuple(
    datetime.datetime(2026, month, day, tzinfo=datetime.UTC)
    for month, day in ((10, 24), (10, 25), (10, 31), (11, 1))
)
ZONES_OF_TIME: Final = (
    "UTC",
    "Europe/Berlin",
    "Asia/Kolkata",
    "America/St_Johns",
    "Asia/Kathmandu",
)
UIDS: Final = tuple(f"{n:08x}00007000800000000000{n:04x}" for n in range(1, 5))
EMPTY: Final = (
    "TRUNCATE request_log, ad_event, conversion, rollup_base, rollup_delta, delivery_day,"
    " delivery_minute"
)


@pytest.fixture
def catalog(database: Database) -> Database:
    database.execute(CATALOG)
    return database


def some_decisions(draw: random.Random, number: int) -> list[Decided]:
    """Of each kind there is; several events may be replayed, and those count once."""
    made = []
    for n in range(number):
        at = draw.choice(DAYS) + datetime.timedelta(milliseconds=draw.randrange(86_400_000))
        campaign = draw.choice((0, 1, 1, 2, 3, 4))
        one = Decided(
            id=new_id(at, draw),
            at=at,
            zone=draw.choice((1, 2, 3)),
            campaign=campaign,
            creative=campaign * 2 - draw.choice((0, 1)) if campaign else 0,
            country=draw.choice(("DE", "AT", "")),
            device=draw.choice(("desktop", "mobile", "")),
            uid=draw.choice((*UIDS, None)),
            filtered=draw.choice((None, None, None, "bot: Googlebot")),
        )
        later = at
        for kind in ("impression", "viewable", "click"):
            if campaign and draw.random() < 0.7:
                later += datetime.timedelta(seconds=draw.randrange(1, 3000))
                reason = "decision" if one.filtered else draw.choice((None, None, None, "rate"))
                one.events += [Happened(kind, later, filtered=reason)] * draw.choice((1, 1, 2))
        if one.events and one.events[-1].kind == "click" and one.events[-1].filtered is None:
            one.order, one.value = draw.choice((None, f"order {n}")), draw.randrange(10**8)
        made.append(one)
    return made


def facts_of(one: Decided, zone: str) -> Mapping[str, str]:
    """The words of each dimension, without PostgreSQL."""
    local = one.at.astimezone(ZoneInfo(zone))
    iso = local.isocalendar()
    return {
        "hour": local.replace(minute=0, second=0, microsecond=0).isoformat(timespec="minutes"),
        "day": f"{local:%Y-%m-%d}",
        "week": f"{iso.year}-W{iso.week:02}",
        "month": f"{local:%Y-%m}",
        "advertiser": ADVERTISERS.get(one.campaign, ""),
        "campaign": CAMPAIGNS.get(one.campaign, ""),
        "creative": f"{CAMPAIGNS[one.campaign]}-{2 - one.creative % 2}" if one.campaign else "",
        "zone": ZONES[one.zone][0],
        "site": ZONES[one.zone][1],
        "country": one.country,
        "device": one.device,
        "tier": TIERS.get(one.campaign, ""),
    }


def counted(one: Decided) -> Iterator[tuple[str, Sums, str | None]]:
    """Whether it was filtered, what it adds, and whom it shows to be a user."""
    yield _flag(one.filtered), {"requests": 1, "fills": int(one.campaign > 0)}, None
    model, price = PRICES.get(one.campaign, ("", 0))
    for event in {event.kind: event for event in reversed(one.events)}.values():
        name = "viewable" if event.kind == "viewable" else event.kind + "s"
        pays = {("cpm", "impression"): price, ("cpc", "click"): price * 1000}
        spend = 0 if event.filtered else pays.get((model, event.kind), 0)
        person = one.uid if event.kind == "impression" else None
        yield _flag(event.filtered), {name: 1, "spend_nanos": spend}, person
    if one.order is not None:
        spend = price * 1000 if model == "cpa" else 0
        sums = {"conversions": 1, "value_micros": one.value, "spend_nanos": spend}
        yield "counted", sums, None


def _flag(filtered: str | None) -> str:
    return "counted" if filtered is None else "filtered"


def by_hand(decided: Sequence[Decided], wanted: Wanted) -> dict[Key, Sums]:
    """The report as anybody would make it with a pencil: one event after the other, into each set."""
    added: dict[Key, Sums] = {}
    people: dict[Key, set[str]] = {}
    for one in decided:
        facts = facts_of(one, wanted.zone)
        for flag, sums, person in counted(one):
            words = {**facts, "filtered": flag}
            if any(words[name] not in values for name, values in wanted.where.items()):
                continue
            for group in sets_of(wanted):
                key = tuple(words[name] if name in group else None for name in wanted.by)
                there = added.setdefault(key, dict.fromkeys(SUMS, 0))
                for name, value in sums.items():
                    there[name] += value
                if person is not None:
                    people.setdefault(key, set()).add(person)
    if () in sets_of(wanted):
        added.setdefault((None,) * len(wanted.by), dict.fromkeys(SUMS, 0))
    for key, found in people.items():
        added[key]["users"] = len(found)
    return added


def sets_of(wanted: Wanted) -> list[tuple[str, ...]]:
    if wanted.grouping == "cube":
        return [one for n in range(len(wanted.by) + 1) for one in combinations(wanted.by, n)]
    if wanted.grouping == "rollup":
        return [wanted.by[:n] for n in range(len(wanted.by) + 1)]
    return list(wanted.sets)


def found(made: Report) -> dict[Key, Sums]:
    rows = {tuple(row.labels.get(name) for name in made.wanted.by): row.sums for row in made.rows}
    assert len(rows) == len(made.rows), "a row stands twice"
    return rows


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_a_report_is_what_a_pencil_would_make(catalog: Database, seed: int) -> None:
    """At every grouping, in every zone, with any filter; from the rollup and from single events."""
    draw = random.Random(seed)
    catalog.execute(EMPTY)
    decided = some_decisions(draw, 120)
    fill(catalog, decided)
    assert differences(catalog) == []
    for zone in ZONES_OF_TIME:
        by = draw.sample(list(DIMENSIONS), draw.randrange(4))
        how: dict[str, Any] = draw.choice(
            ({}, {"cube": True}, {"rollup": True}, {"sets": ",".join(by)})
        )
        where = draw.choice(((), ("country=DE,country=",), ("campaign=spring-sale,device=mobile",)))
        asked = read(by=",".join(by), zone=zone, measures="all", where=where, **how)
        made = report(catalog.dsn, asked)
        assert found(made) == by_hand(decided, asked), (by, how, where, zone)
        by_time = any(DIMENSIONS[name].is_time for name in by)
        halves = zone in ("Asia/Kolkata", "America/St_Johns", "Asia/Kathmandu")
        assert made.source == ("raw" if by_time and halves else "rollup")


# ---- time


def at_each_hour(first: str, hours: int) -> list[Decided]:
    """A decision at a quarter past every hour."""
    draw = random.Random(1)
    start = datetime.datetime.fromisoformat(first) + datetime.timedelta(minutes=15)
    moments = [start + datetime.timedelta(hours=n) for n in range(hours)]
    return [Decided(new_id(at, draw), at) for at in moments]


def requests_by(made: Report, name: str) -> dict[str, int]:
    return {row.labels[name]: row.sums["requests"] for row in made.details}


def test_a_day_on_which_clocks_change_has_the_hours_it_had(catalog: Database) -> None:
    """25 of them in autumn; the hour that comes twice is told apart, and stands in its order."""
    fill(catalog, at_each_hour("2026-10-23T22:00+00:00", 24 * 4))
    made = report(catalog.dsn, read(by="day", zone="Europe/Berlin"))
    assert requests_by(made, "day") == {
        "2026-10-24": 24,
        "2026-10-25": 25,
        "2026-10-26": 24,
        "2026-10-27": 23,
    }
    night = read(
        by="hour", zone="Europe/Berlin", starts="2026-10-25T01:00", ends="2026-10-25T04:00"
    )
    assert list(requests_by(report(catalog.dsn, night), "hour")) == [
        "2026-10-25T01:00+02:00",
        "2026-10-25T02:00+02:00",
        "2026-10-25T02:00+01:00",
        "2026-10-25T03:00+01:00",
    ]


def test_a_day_ends_where_the_next_one_begins(catalog: Database) -> None:
    """Each moment is in one day and one day only, whatever the zone."""
    fill(catalog, at_each_hour("2026-10-24T00:00+00:00", 48))
    for zone in ZONES_OF_TIME:
        days = ("2026-10-23", "2026-10-24", "2026-10-25", "2026-10-26")
        each = [
            report(catalog.dsn, read(by="", zone=zone, starts=day, ends=day)).rows[0].sums
            for day in days
        ]
        assert sum(sums["requests"] for sums in each) == 48, zone


def test_a_day_whose_midnight_comes_twice_begins_with_the_first(catalog: Database) -> None:
    """In the Azores clocks go back at one to midnight: the hour after it is the same day's, both times."""
    fill(catalog, at_each_hour("2026-10-24T22:00+00:00", 6))
    days = ("2026-10-24", "2026-10-25")
    one_by_one = {
        day: report(catalog.dsn, read(by="", zone="Atlantic/Azores", starts=day, ends=day))
        .rows[0]
        .sums["requests"]
        for day in days
    }
    together = read(by="day", zone="Atlantic/Azores", starts=days[0], ends=days[1])
    assert requests_by(report(catalog.dsn, together), "day") == one_by_one
    assert one_by_one == {"2026-10-24": 2, "2026-10-25": 4}
    # A moment that is told with its offset is that moment.
    second = read(by="", zone="Atlantic/Azores", starts="2026-10-25T00:00-01:00")
    assert report(catalog.dsn, second).rows[0].sums["requests"] == 3


def test_of_half_an_hour_that_comes_twice_the_first_is_meant(catalog: Database) -> None:
    """On Lord Howe Island clocks go back from two o'clock to half past one."""
    fill(catalog, at_each_hour("2027-04-03T14:50+00:00", 1))
    found = {}
    for moment in ("01:45", "01:45+11:00", "01:45+10:30"):
        asked = read(by="", zone="Australia/Lord_Howe", starts=f"2027-04-04T{moment}")
        found[moment] = report(catalog.dsn, asked).rows[0].sums["requests"]
    assert found == {"01:45": 1, "01:45+11:00": 1, "01:45+10:30": 0}


def test_half_hours_are_cut_exactly_or_not_at_all(catalog: Database) -> None:
    """From single events while there are any; of days that are forgotten no figure is made up."""
    fill(catalog, at_each_hour("2026-10-24T00:00+00:00", 24))
    asked = read(by="day", zone="Asia/Kolkata")
    made = report(catalog.dsn, asked)
    assert made.source == "raw"
    assert requests_by(made, "day") == {"2026-10-24": 19, "2026-10-25": 5}
    assert "single events" in table(made)
    catalog.execute("SELECT request_log_drop_before('2026-10-25')")
    with pytest.raises(ConfigError, match="single events are kept only from"):
        report(catalog.dsn, asked)
    # Without a dimension of time nothing is cut through.
    assert report(catalog.dsn, read(by="zone", zone="Asia/Kolkata")).source == "rollup"


def test_a_period_may_begin_inside_an_hour(catalog: Database) -> None:
    fill(catalog, at_each_hour("2026-10-24T00:00+00:00", 3))
    asked = read(by="", starts="2026-10-24T00:20", ends="2026-10-24T02:15")
    made = report(catalog.dsn, asked)
    assert (made.source, made.rows[0].sums["requests"]) == ("raw", 1)


def test_an_empty_database_has_an_empty_report(catalog: Database) -> None:
    made = report(catalog.dsn, read(by="day,campaign", measures="all", rollup=True))
    assert [row.over for row in made.rows] == [("day", "campaign")]
    assert table(made).count("–") == 4


# ---- what is asked for


def two_users(kind: str = "impression") -> list[Decided]:
    """One user sees two campaigns, another one of them, both on two days."""
    draw = random.Random(2)
    made = []
    for day in DAYS[:2]:
        for campaign, uid in ((1, UIDS[0]), (2, UIDS[0]), (1, UIDS[1])):
            at = day + datetime.timedelta(hours=12)
            one = Decided(new_id(at, draw), at, 1, campaign, campaign * 2, uid=uid)
            one.events = [Happened(kind, at)]
            made.append(one)
    return made


def test_users_are_different_users_at_each_level(catalog: Database) -> None:
    """Sums of users would count one user four times."""
    fill(catalog, two_users())
    made = report(catalog.dsn, read(by="day,campaign", cube=True, measures="users"))
    users = {
        tuple(row.labels.get(name) for name in made.wanted.by): row.sums["users"]
        for row in made.rows
    }
    assert users == {
        ("2026-10-24", "spring-sale"): 2,
        ("2026-10-24", "winter-boots"): 1,
        ("2026-10-25", "spring-sale"): 2,
        ("2026-10-25", "winter-boots"): 1,
        ("2026-10-24", None): 2,
        ("2026-10-25", None): 2,
        (None, "spring-sale"): 2,
        (None, "winter-boots"): 1,
        (None, None): 2,
    }


def test_users_of_forgotten_days_are_no_figure(catalog: Database) -> None:
    """Their events are gone, and none is not how many there were."""
    fill(catalog, two_users())
    catalog.execute("SELECT ad_event_drop_before('2026-10-25')")
    for asked in (
        read(by="day", measures="impressions,users"),
        read(by="day", measures="impressions", sort="users"),
    ):
        with pytest.raises(ConfigError, match="kept only from 2026-10-25 on"):
            report(catalog.dsn, asked)
    made = report(catalog.dsn, read(by="", measures="users", starts="2026-10-25"))
    assert made.rows[0].sums["users"] == 2


def test_a_set_that_is_named_twice_is_counted_once(catalog: Database) -> None:
    fill(catalog, two_users())
    made = report(catalog.dsn, read(by="campaign,day", sets="campaign,day;day,campaign"))
    assert sum(row.sums["impressions"] for row in made.rows) == 6


def test_a_total_is_told_from_a_value_that_is_not_known(catalog: Database) -> None:
    """Both have no country; only one of them is the total."""
    fill(catalog, at_each_hour("2026-10-24T00:00+00:00", 2))
    made = report(catalog.dsn, read(by="country", rollup=True, measures="requests"))
    assert csv_text(made) == "country,total_over,requests\r\n,,2\r\n,country,2\r\n"
    assert [(row["country"], row["total_over"]) for row in json.loads(json_text(made))["rows"]] == [
        ("", []),
        (None, ["country"]),
    ]


def test_the_largest_come_first_and_a_limit_leaves_totals_whole(catalog: Database) -> None:
    fill(catalog, two_users())
    made = report(catalog.dsn, read(by="campaign", sort="impressions", limit=1))
    assert [(row.labels, row.sums["impressions"]) for row in made.rows] == [
        ({"campaign": "spring-sale"}, 4),
        ({}, 6),
    ]
    assert made.left_out == 1
    made = report(catalog.dsn, read(by="campaign", sort="impressions:asc"))
    assert [row.labels.get("campaign") for row in made.rows] == [
        "winter-boots",
        "spring-sale",
        None,
    ]


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"by": "day", "zone": "Berlin"}, "there is no time zone 'Berlin'"),
        ({"by": "day", "zone": "XYZ-3"}, "there is no time zone 'XYZ-3'"),
        ({"by": "", "where": ("campaign=sprin-sale",)}, "Did you mean spring-sale?"),
        ({"by": "", "where": ("zone=%",)}, "there is no zone '%'"),
        ({"by": "", "starts": "2027-01-01"}, "is empty"),
    ],
    ids=str,
)
def test_what_there_is_not_is_refused(
    catalog: Database, asked: dict[str, Any], reason: str
) -> None:
    fill(catalog, two_users())
    with pytest.raises(ConfigError) as refused:
        report(catalog.dsn, read(**asked))
    assert reason in str(refused.value)


def test_a_filter_is_compared_and_never_run(catalog: Database) -> None:
    """Neither quotes nor wildcards mean anything in it, were they let through."""
    fill(catalog, two_users())
    for evil in ("%", "_", "'; DROP TABLE rollup_hour; --", "\\", '"'):
        made = report(catalog.dsn, replace(read(by=""), where={"device": (evil,)}))
        assert made.rows[0].sums["impressions"] == 0
    assert report(catalog.dsn, read(by="", where=("device=",))).rows[0].sums["impressions"] == 6


def test_a_report_too_long_to_read_is_refused(
    catalog: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(catalog, at_each_hour("2026-10-24T00:00+00:00", 5))
    monkeypatch.setattr("prefork_ads.report.figures.MOST_ROWS", 5)
    assert words.MOST_ROWS > 5
    with pytest.raises(ConfigError, match="take fewer dimensions"):
        report(catalog.dsn, read(by="hour"))


def test_clocks_that_change_by_half_an_hour_before_the_end_are_seen(catalog: Database) -> None:
    """On Lord Howe Island they go from +11 to +10:30; the day after begins inside an hour of UTC."""
    fill(catalog, at_each_hour("2027-04-03T14:00+00:00", 24))
    asked = read(
        by="day,hour",
        measures="all",
        zone="Australia/Lord_Howe",
        starts="2027-04-04T01:00",
        ends="2027-04-05T00:30",
    )
    made = report(catalog.dsn, asked)
    assert made.source == "raw"
    days = report(catalog.dsn, read(by="day", zone="Australia/Lord_Howe", ends="2027-04-05T00:30"))
    assert days.source == "raw"
