"""Judging anew who was a program: as if today's list had been there, nothing lost, no goal exceeded."""

import datetime
import random
import threading
from contextlib import closing
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefork_ads.events.ad_lines import added_up
from prefork_ads.report import restate as restatement
from prefork_ads.report.restate import Day, Judge, by_the_list, restate
from tests.conftest import Database
from tests.integration.report_bed import (
    CATALOG,
    PERSON,
    ROBOT,
    Decided,
    Happened,
    differences,
    fill,
    ingest,
    new_id,
)
from tests.support import wait_until

FIRST: Final = datetime.datetime.fromisoformat("2026-10-24")
NOON: Final = datetime.datetime(2026, 10, 24, 12, tzinfo=datetime.UTC)
AGENTS: Final = ("person", "crawler", "spider")
EMPTY: Final = (
    "TRUNCATE request_log, ad_event, conversion, rollup_base, rollup_delta, delivery_day,"
    " delivery_minute"
)
STATE: Final = (
    "SELECT * FROM rollup_hour ORDER BY 1, 2, 3, 4, 5, 6, 7",
    "SELECT decision, kind, filtered IS NULL FROM ad_event ORDER BY 1, 2",
    "SELECT campaign_id, day, impressions, clicks FROM delivery_day"
    " WHERE impressions + clicks > 0 ORDER BY 1, 2",
    "SELECT order_id, filtered IS NULL FROM conversion ORDER BY 1",
)


@pytest.fixture
def catalog(database: Database) -> Database:
    database.execute(CATALOG)
    return database


def fill_more(database: Database, decided: list[Decided]) -> None:
    """What another worker ships."""
    with closing(database.connect()) as conn:
        ingest(conn, decided, "other-1")


def nobody(_: str) -> str:
    return ""


def listing(*names: str) -> Judge:
    """A list of programs by whole user agents."""
    return lambda user_agent: user_agent if user_agent in names else ""


def decision(
    n: int = 1,
    campaign: int = 1,
    *,
    agent: str = PERSON,
    at: datetime.datetime = NOON,
    kinds: tuple[str, ...] = ("impression",),
    filtered: str | None = None,
) -> Decided:
    draw = random.Random(n)
    one = Decided(
        new_id(at, draw), at, 1, campaign, campaign * 2, user_agent=agent, filtered=filtered
    )
    reason = "decision" if filtered else None
    one.events = [
        Happened(kind, at + datetime.timedelta(seconds=m), agent, filtered or reason)
        for m, kind in enumerate(kinds, 1)
    ]
    return one


def run(database: Database, judge: Judge = by_the_list, **options: Any) -> list[Day]:
    days = restate(database.dsn, FIRST, None, judge=judge, **options)
    assert differences(database) == []
    return days


def state(database: Database) -> list[list[tuple[Any, ...]]]:
    return [database.fetch(statement) for statement in STATE]


def billed(database: Database) -> dict[bool, tuple[int, int, int, int]]:
    """Requests, impressions, clicks and spend: of what counts (False) and what was filtered (True)."""
    rows = database.fetch(
        "SELECT filtered, sum(requests)::int, sum(impressions)::int, sum(clicks)::int,"
        " sum(spend_nanos)::bigint"
        " FROM rollup_hour GROUP BY 1"
    )
    return {filtered: tuple(sums) for filtered, *sums in rows}


# ---- what is corrected


def test_a_program_that_the_list_knows_now_is_not_billed_any_more(catalog: Database) -> None:
    """By the list that the server uses; the person beside it stays billed."""
    fill(
        catalog, [decision(1), decision(2, agent=ROBOT, kinds=("impression", "viewable", "click"))]
    )
    assert billed(catalog) == {False: (2, 2, 1, 5_000_000)}
    (day,) = run(catalog)
    assert (day.decisions_out, day.decisions_in, day.events_out, day.events_in) == (1, 0, 3, 0)
    assert billed(catalog) == {False: (1, 1, 0, 2_500_000), True: (1, 1, 1, 0)}
    assert catalog.fetch("SELECT impressions, clicks FROM delivery_day") == [(1, 0)]
    reasons = catalog.fetch("SELECT DISTINCT filtered FROM ad_event WHERE filtered IS NOT NULL")
    assert reasons == [("bot: Googlebot",)]


def test_who_was_taken_for_a_program_by_mistake_counts_again(catalog: Database) -> None:
    fill(catalog, [decision(1, agent="spider", filtered="bot: spider")])
    (day,) = run(catalog, nobody)
    assert (day.decisions_in, day.events_in) == (1, 1)
    assert billed(catalog) == {False: (1, 1, 0, 2_500_000)}


@pytest.mark.parametrize("kinds", [("impression",), ("impression", "click"), ()])
def test_lines_that_are_there_twice_are_judged_once(
    catalog: Database, kinds: tuple[str, ...]
) -> None:
    """A file of the journal that had been shipped was brought back, with a backup of its directory."""
    one = decision(1, kinds=kinds)
    fill(catalog, [one, decision(2)])
    fill_more(catalog, [one])
    before = state(catalog)
    (day,) = run(catalog, listing(PERSON))
    assert day.events_out == len(kinds) + 1
    assert False not in billed(catalog)
    run(catalog, nobody)
    assert state(catalog) == before


def test_a_second_run_changes_nothing(catalog: Database) -> None:
    fill(catalog, [decision(1), decision(2, agent=ROBOT)])
    run(catalog)
    before = catalog.fetch("SELECT xmin::text, ctid::text FROM request_log ORDER BY id")
    (day,) = run(catalog)
    assert day.changed == 0
    assert catalog.fetch("SELECT xmin::text, ctid::text FROM request_log ORDER BY id") == before


def test_a_dry_run_tells_the_same_and_changes_nothing(catalog: Database) -> None:
    fill(catalog, [decision(1), decision(2, agent=ROBOT)])
    before = state(catalog), catalog.fetch("SELECT params FROM request_log ORDER BY id")
    would = run(catalog, dry_run=True)
    assert (state(catalog), catalog.fetch("SELECT params FROM request_log ORDER BY id")) == before
    assert run(catalog) == would


def test_other_reasons_stay(catalog: Database) -> None:
    """Somebody who clicks too fast is not cleared by not being a program."""
    one = decision(1)
    one.events[0].filtered = "rate"
    fill(catalog, [one])
    (day,) = run(catalog, nobody)
    assert day.changed == 0
    assert catalog.fetch("SELECT filtered FROM ad_event") == [("rate",)]


def test_what_follows_from_a_programs_decision_is_filtered_too(catalog: Database) -> None:
    """Though a person's browser showed it, and on the next day."""
    one = decision(1, agent="crawler", kinds=("impression", "click"))
    one.events[1].at = NOON + datetime.timedelta(days=1)
    one.events[1].user_agent = PERSON
    fill(catalog, [one])
    run(catalog, listing("crawler"))
    assert catalog.fetch("SELECT kind, filtered FROM ad_event ORDER BY kind") == [
        ("click", "decision"),
        ("impression", "bot: crawler"),
    ]
    run(catalog, nobody)
    assert catalog.fetch("SELECT count(*) FROM ad_event WHERE filtered IS NOT NULL") == [(0,)]


def test_a_conversion_is_worth_what_its_click_is(catalog: Database) -> None:
    one = decision(1, campaign=3, agent="crawler", kinds=("impression", "click"))
    one.order, one.value = "A-1", 99_000_000
    fill(catalog, [one])
    sums = "SELECT filtered, conversions, value_micros, spend_nanos FROM rollup_hour WHERE conversions > 0"
    assert catalog.fetch(sums) == [(False, 1, 99_000_000, 12_000_000_000)]
    run(catalog, listing("crawler"))
    assert catalog.fetch(sums) == [(True, 1, 99_000_000, 0)]
    run(catalog, nobody)
    assert catalog.fetch(sums) == [(False, 1, 99_000_000, 12_000_000_000)]


def test_a_conversion_that_came_while_its_click_was_judged_is_found_by_the_next_run(
    catalog: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever took it saw the click as it was; and of decisions and events nothing is to be changed then."""
    one = decision(1, campaign=3, agent="spider", kinds=("impression", "click"))
    fill(catalog, [one])
    one.order = "A-1"
    *_, order = one.lines()
    ads = added_up(order + b"\n")
    assert ads is not None
    apply = restatement._apply

    def meanwhile(*arguments: Any) -> int:
        over_goal = apply(*arguments)
        catalog.execute(
            "SELECT ad_ingest('x', '', '', '', '', %s, '30 days', '1 day')", ads.conversions
        )
        return over_goal

    with monkeypatch.context() as patch:
        patch.setattr(restatement, "_apply", meanwhile)
        run(catalog, listing("spider"))
    assert catalog.fetch("SELECT filtered FROM conversion") == [(None,)]
    would = run(catalog, listing("spider"), dry_run=True)
    assert catalog.fetch("SELECT filtered FROM conversion") == [(None,)]
    assert run(catalog, listing("spider")) == would
    assert catalog.fetch("SELECT filtered FROM conversion") == [("decision",)]
    assert catalog.fetch("SELECT sum(spend_nanos)::int FROM rollup_hour") == [(0,)]


def test_a_conversion_of_a_click_beyond_its_goal_stays_unbilled(catalog: Database) -> None:
    """The click counts again, and then does not for another reason."""
    catalog.execute("UPDATE campaign SET goal_kind = 'clicks', goal_total = 1 WHERE id = 3")
    one = decision(1, campaign=3, agent="crawler", kinds=("impression", "click"))
    one.order = "A-1"
    fill(catalog, [one])
    run(catalog, listing("crawler"))
    fill_more(catalog, [decision(2, campaign=3, kinds=("impression", "click"))])
    (day,) = run(catalog, nobody)
    assert day.over_goal == 1
    assert catalog.fetch("SELECT filtered FROM conversion") == [("decision",)]


def test_of_a_beacon_that_came_twice_the_line_that_counted_is_judged(catalog: Database) -> None:
    """Though the other one was received before: another worker has shipped it later."""
    one = decision(1)
    later, sooner = (
        Happened("impression", NOON + datetime.timedelta(seconds=n), "spider") for n in (9, 5)
    )
    one.events = [later, sooner]
    fill(catalog, [one])
    counted = catalog.fetch("SELECT received_at FROM ad_event")
    assert counted == [(later.at,)]
    (day,) = run(catalog, listing("spider"))
    assert day.events_out == 1
    assert catalog.fetch("SELECT filtered FROM ad_event") == [("bot: spider",)]


def test_no_goal_is_exceeded_by_counting_again(catalog: Database) -> None:
    """Of three that count again two fit: the third stays unbilled, for that reason."""
    catalog.execute("UPDATE campaign SET goal_kind = 'impressions', goal_total = 3 WHERE id = 1")
    robots = [decision(n, agent="spider", filtered="bot: spider") for n in (2, 3, 4)]
    fill(catalog, [decision(1), *robots])
    (day,) = run(catalog, nobody)
    assert (day.events_in, day.over_goal) == (3, 1)
    assert catalog.fetch("SELECT impressions FROM delivery_day") == [(3,)]
    assert catalog.fetch("SELECT filtered, count(*) FROM ad_event GROUP BY 1 ORDER BY 1") == [
        ("over goal", 1),
        (None, 3),
    ]


def test_a_decision_remembers_what_was_known_when_it_was_made(catalog: Database) -> None:
    """It can only be made again by that; back at the first list it has nothing to remember."""
    fill(
        catalog, [decision(1, agent="crawler"), decision(2, agent="spider", filtered="bot: spider")]
    )
    told = "SELECT params -> 'decision' FROM request_log WHERE endpoint = 'decision' ORDER BY id"
    before = catalog.fetch(told)
    run(catalog, listing("crawler"))
    changed = [one for (one,) in catalog.fetch(told)]
    assert {one.get("was_filtered") for one in changed} == {"", "bot: spider"}
    assert {one.get("filtered") for one in changed} == {"bot: crawler", None}
    run(catalog, listing("spider"))
    assert catalog.fetch(told) == before


def test_only_the_days_asked_for_are_judged(catalog: Database) -> None:
    for day in (23, 24, 25):
        at = datetime.datetime(2026, 10, day, 23, 59, 30, tzinfo=datetime.UTC)
        fill(catalog, [decision(day, agent="crawler", at=at, kinds=())])
    last = datetime.datetime.fromisoformat("2026-10-25")
    days = restate(catalog.dsn, FIRST, last, judge=listing("crawler"))
    assert [(one.day.day, one.decisions_out) for one in days] == [(24, 1)]
    assert differences(catalog) == []


# ---- as if the list had been there


def some(draw: random.Random, number: int) -> list[Decided]:
    """Decisions of two days by several agents; events by the same agent or another."""
    made = []
    for n in range(number):
        at = NOON + datetime.timedelta(milliseconds=draw.randrange(86_400_000))
        campaign = draw.choice((0, 1, 2, 3))
        one = Decided(
            new_id(at, draw),
            at,
            draw.choice((1, 2)),
            campaign,
            campaign * 2,
            draw.choice(("DE", "")),
            user_agent=draw.choice(AGENTS),
        )
        later = at
        for kind in ("impression", "viewable", "click"):
            if campaign and draw.random() < 0.8:
                later += datetime.timedelta(seconds=draw.randrange(1, 5000))
                agent = draw.choice((one.user_agent or "", *AGENTS))
                one.events += [Happened(kind, later, agent)] * draw.choice((1, 2))
        if one.events and one.events[-1].kind == "click":
            one.order = draw.choice((None, f"order {n}"))
        made.append(one)
    return made


def judged(decided: list[Decided], judge: Judge) -> list[Decided]:
    """What the server would have written with this list."""
    for one in decided:
        name = judge(one.user_agent or "")
        one.filtered = f"bot: {name}" if name else None
        for event in one.events:
            own = judge(event.user_agent)
            event.filtered = f"bot: {own}" if own else "decision" if name else None
    return decided


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_it_is_as_if_the_new_list_had_been_there(catalog: Database, seed: int) -> None:
    """Whatever the old list was: sums, events and deliveries are those of the new one."""
    draw = random.Random(seed)
    decided = some(draw, 40)
    old, new = (listing(*draw.sample(AGENTS, draw.randrange(4))) for _ in range(2))
    for one in decided:
        # Which click a conversion belongs to is decided when it comes, by what counts then.
        one.order = (
            None
            if any(judge(agent) for judge in (old, new) for agent in _agents(one))
            else one.order
        )
    catalog.execute(EMPTY)
    fill(catalog, judged(decided, new))
    expected = state(catalog)
    catalog.execute(EMPTY)
    fill(catalog, judged(decided, old))
    run(catalog, new)
    assert state(catalog) == expected
    assert sum(day.changed for day in run(catalog, new)) == 0


def _agents(one: Decided) -> list[str]:
    return [one.user_agent or "", *(event.user_agent for event in one.events)]


# ---- while events come in


def test_it_waits_for_a_batch_that_is_coming_in_and_both_count(catalog: Database) -> None:
    """The batch holds the rollup's rows when the restatement wants them."""
    fill(catalog, [decision(1, agent="crawler")])
    with closing(catalog.connect(autocommit=False)) as writer:
        ingest(writer, [decision(2)], "other-1")
        days: list[Day] = []
        restating = threading.Thread(
            target=lambda: days.extend(restate(catalog.dsn, FIRST, None, judge=listing("crawler")))
        )
        restating.start()
        wait_until(
            lambda: catalog.fetch("SELECT FROM pg_locks WHERE NOT granted"),
            "the restatement to wait",
        )
        writer.commit()
        restating.join(30)
    assert [day.changed for day in days] == [2]
    assert billed(catalog) == {False: (1, 1, 0, 2_500_000), True: (1, 1, 0, 0)}
    assert differences(catalog) == []


def test_nothing_is_lost_while_writers_run(catalog: Database) -> None:
    """Two of them, all the time, on the same rows; every snapshot is right, and so is the end."""
    stop = threading.Event()
    sent = [0, 0]
    wrong: list[Any] = []

    def write(n: int) -> None:
        with closing(catalog.connect()) as conn:
            while not stop.is_set():
                # Of its own, however many there will be.
                number = 1000 + 2 * sent[n] + n
                ingest(conn, [decision(number, agent=AGENTS[number % 3])], f"writer{n}-1")
                sent[n] += 1

    def watch() -> None:
        while not stop.is_set():
            wrong.extend(differences(catalog))

    threads = [threading.Thread(target=write, args=(n,)) for n in (0, 1)]
    threads.append(threading.Thread(target=watch))
    for one in threads:
        one.start()
    try:
        for n in range(10):
            reached = 5 * n
            wait_until(lambda: min(sent) > reached, "writers to go on")  # noqa: B023 - at once
            restate(catalog.dsn, FIRST, None, judge=listing(AGENTS[1 + n % 2]))
    finally:
        stop.set()
        for one in threads:
            one.join(30)
    assert wrong == []
    run(catalog, listing("crawler"))
    crawlers = catalog.fetch(
        "SELECT count(*) FROM request_log WHERE endpoint = 'decision' AND user_agent = 'crawler'"
    )[0][0]
    sums = billed(catalog)
    assert sums[True][:2] == (crawlers, crawlers)
    assert sums[False][:2] == (sum(sent) - crawlers,) * 2


def test_a_moment_with_an_offset_is_in_its_day_of_utc(catalog: Database) -> None:
    """One o'clock in Berlin is still the day before in UTC."""
    fill(catalog, [Decided(new_id(NOON, random.Random(1)), NOON)])
    first = datetime.datetime.fromisoformat("2026-10-25T01:00+02:00")
    last = datetime.datetime.fromisoformat("2026-10-25T02:00+02:00")
    days = restate(catalog.dsn, first, last, dry_run=True, judge=nobody)
    assert [day.day.isoformat() for day in days] == ["2026-10-24"]
