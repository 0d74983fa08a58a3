"""What lines say about ads is counted once, and every sum is the sum of what is there."""

import datetime
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2.errors
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefork_ads.db import partitions
from prefork_ads.events.ad_lines import added_up
from prefork_ads.events.ad_records import Conversion
from tests.conftest import Database
from tests.integration.ad_bed import (
    ATTRIBUTION,
    CATALOG,
    CLICK_WINDOW,
    NOON,
    VIEW_WINDOW,
    Model,
    Placed,
    ad_line,
    conversion_line,
    decision_id,
    decision_line,
    differences,
    event_line,
    log_line,
    rows_of,
    ship_by_copy,
    ship_by_insert,
    uid,
)
from tests.integration.test_schema import granted

MINUTE = datetime.timedelta(minutes=1)
MS = datetime.timedelta(milliseconds=1)

TABLES = (
    "request_log, request_log_rejected, ad_event, conversion, rollup_base, rollup_delta, delivery_day,"
    " delivery_minute, delivery_guard, lease, user_frequency, journal_segment"
)


@pytest.fixture(autouse=True)
def _catalog(database: Database) -> None:
    database.execute(CATALOG)


def placed(number: int, campaign: int = 1, **facts: Any) -> Placed:
    at = facts.pop("at", NOON + number * MS)
    facts = {"zone": 1, "country": "DE", "device": "phone", "uid": None, **facts}
    return Placed(decision_id(number, at), at, campaign=campaign, **facts)


# -- any lines, any batches ------------------------------------------------------------------------

CAMPAIGNS = st.sampled_from([0, 1, 1, 2, 3])
# Few of each, so that things meet: hours and days on either side of an end, in UTC and elsewhere.
DECISIONS = st.builds(
    lambda n, campaign, minutes, zone, country, device, user: placed(
        n,
        campaign,
        at=NOON + minutes * MINUTE + n * MS,
        zone=zone,
        country=country,
        device=device,
        uid=None if user is None else uid(user),
    ),
    st.integers(0, 9),
    CAMPAIGNS,
    st.sampled_from([-720, -60, 0, 1, 3]),
    st.integers(1, 2),
    st.sampled_from(["", "DE", "a\\b\tc"]),
    st.sampled_from(["", "phone"]),
    st.sampled_from([None, 1, 2]),
)
WHY = st.sampled_from([None, None, None, "bot: \\N\tx"])
STEPS = st.one_of(
    st.tuples(st.just("decision"), st.integers(0, 9), WHY),
    st.tuples(st.sampled_from(["impression", "viewable", "click"]), st.integers(0, 9), WHY),
    st.tuples(st.sampled_from(["impression", "impression", "click"]), st.integers(0, 9), st.none()),
    st.tuples(st.just("conversion"), st.integers(0, 15), WHY),
    st.tuples(st.just("log"), st.integers(0, 9), st.none()),
)


def told(model: Model, decisions: Sequence[Placed], steps: Sequence[Any]) -> list[bytes]:
    """The lines of these steps, one a second, of which the model is told."""
    lines = []
    by_id: dict[str, Placed] = {}
    for number, (what, which, why) in enumerate(steps):
        at = NOON + 5 * MINUTE + number * 1000 * MS
        one = decisions[which % len(decisions)]
        one = by_id.setdefault(one.id_hex, one)
        if what == "log":
            lines.append(log_line(at, number))
        elif what == "decision":
            # Each line is a decision of its own.
            made = Placed(
                decision_id(100 + number, one.at), one.at, one.zone, one.campaign,
                one.country, one.device, one.uid, why,
            )  # fmt: skip
            lines.append(decision_line(at, made.id_hex, made.decision()))
            model.decided(made)
        elif what == "conversion":
            order: Conversion = {"advertiser": 1 + which % 2, "order": f"order\t{which % 5}"}
            if which % 3:
                order["uid"] = uid(which % 3)
            if which > 7 and one.campaign:
                order["decision"] = one.id_hex
            if why:
                order["filtered"] = why
            order["value"] = which
            lines.append(conversion_line(at, order, number))
            model.ordered(order, at)
        elif one.campaign:
            lines.append(event_line(at, what, one.event(why), number))
            model.happened(what, one, at, why)
    return lines


@given(
    st.lists(DECISIONS, min_size=4, max_size=10),
    # Long ones: things have to meet.
    st.lists(STEPS, min_size=30, max_size=80),
    st.lists(st.tuples(st.booleans(), st.integers(1, 30)), min_size=1, max_size=4),
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_tables_are_what_a_plain_model_says(
    database: Database,
    tmp_path: Path,
    decisions: list[Placed],
    steps: list[Any],
    batches: list[tuple[bool, int]],
) -> None:
    """Whatever the lines, by COPY or by INSERT, however they are cut into batches."""
    database.execute(f"TRUNCATE {TABLES}")
    model = Model()
    lines = told(model, decisions, steps)
    share = len(lines) // len(batches) + 1
    for number, (by_copy, rows) in enumerate(batches):
        part = lines[number * share : (number + 1) * share]
        if by_copy:
            ship_by_copy(database, part, rows)
        elif part:
            assert ship_by_insert(database, tmp_path / "journal", part, rows).rejected == 0
    model.compare(database)
    assert rows_of(database, "SELECT count(*) FROM request_log") == [(len(lines),)]


# -- clicks of programs and of people --------------------------------------------------------------

BOT = "bot: a scanner of links"


def clicks(database: Database) -> list[tuple[Any, ...]]:
    """Why not billed, and how many of the rollup are, and are not."""
    assert differences(database) == []
    return rows_of(
        database,
        "SELECT (SELECT string_agg(coalesce(filtered, '-'), ' ') FROM ad_event WHERE kind = 'click'),"
        " coalesce(sum(clicks) FILTER (WHERE NOT filtered), 0),"
        " coalesce(sum(clicks) FILTER (WHERE filtered), 0) FROM rollup_hour",
    )


@pytest.mark.parametrize("batch", [1, 1000], ids=["one by one", "in one batch"])
@pytest.mark.parametrize(
    ("order", "counted"),
    [
        ((BOT, None), [("-", 1, 0)]),
        ((None, BOT), [("-", 1, 0)]),
        ((BOT, None, None, BOT), [("-", 1, 0)]),
        ((BOT, BOT), [(BOT, 0, 1)]),
        (("rate", None), None),
        (("decision", None), None),
    ],
)
def test_a_persons_click_takes_the_place_of_a_programs(
    database: Database, batch: int, order: tuple[str | None, ...], counted: Any
) -> None:
    """And of nothing else's, that is, what was too much stays too much; unless they came together."""
    lines = [
        event_line(NOON + n * MINUTE, "click", placed(1).event(why), n)
        for n, why in enumerate(order)
    ]
    ship_by_copy(database, lines, batch)
    if counted is None:
        counted = [("-", 1, 0)] if batch > 1 else [(order[0], 0, 1)]
    assert clicks(database) == counted


def test_an_impression_keeps_what_it_was_first(database: Database) -> None:
    """Its decision had ended, and the next place may have been leased for it."""
    lines = [
        event_line(NOON + n * MINUTE, "impression", placed(1).event(why), n)
        for n, why in enumerate((BOT, None))
    ]
    ship_by_copy(database, lines, 1)
    assert rows_of(database, "SELECT kind, filtered FROM ad_event") == [("impression", BOT)]
    assert differences(database) == []


# -- conversions -----------------------------------------------------------------------------------


def attributions(database: Database) -> list[tuple[Any, ...]]:
    return rows_of(
        database,
        "SELECT order_id, attributed_to, replace(decision::text, '-', '') FROM conversion ORDER BY 1",
    )


def test_a_conversion_goes_to_the_last_click_and_only_without_one_to_the_last_view(
    database: Database,
) -> None:
    user = uid(7)
    seen, clicked, later = (placed(n, 1, uid=user) for n in (1, 2, 3))
    start = NOON + MINUTE
    lines = [
        event_line(start, "click", clicked.event()),
        event_line(start + MINUTE, "click", later.event("bot")),
        event_line(start + 2 * MINUTE, "impression", seen.event()),
        conversion_line(start + 3 * MINUTE, {"advertiser": 1, "order": "1", "uid": user}),
        # Its last click is too long ago by then, and so is what it has seen.
        conversion_line(start + CLICK_WINDOW, {"advertiser": 1, "order": "2", "uid": user}),
        conversion_line(start + CLICK_WINDOW + MS, {"advertiser": 1, "order": "3", "uid": user}),
        conversion_line(start + 3 * MINUTE, {"advertiser": 2, "order": "4", "uid": user}),
        conversion_line(start + 3 * MINUTE, {"advertiser": 1, "order": "5", "uid": uid(8)}),
    ]
    ship_by_copy(database, lines)
    assert attributions(database) == [
        ("1", "click", clicked.id_hex),
        ("2", "click", clicked.id_hex),
        *((order, None, None) for order in "345"),
    ]
    assert differences(database) == []


def test_a_view_counts_within_its_window(database: Database) -> None:
    user = uid(7)
    seen = placed(1, 1, uid=user)
    start = NOON + MINUTE
    lines = [
        event_line(start, "impression", seen.event()),
        conversion_line(start + VIEW_WINDOW, {"advertiser": 1, "order": "1", "uid": user}),
        conversion_line(start + VIEW_WINDOW + MS, {"advertiser": 1, "order": "2", "uid": user}),
    ]
    ship_by_copy(database, lines)
    assert attributions(database) == [("1", "view", seen.id_hex), ("2", None, None)]


def test_an_order_counts_once(database: Database) -> None:
    clicked = placed(1, 3)
    order: Conversion = {
        "advertiser": 2,
        "order": "A-1",
        "value": 5_000_000,
        "decision": clicked.id_hex,
    }
    click = event_line(NOON + MINUTE, "click", clicked.event())
    for _ in range(3):
        ship_by_copy(database, [click, *5 * [conversion_line(NOON + 2 * MINUTE, order)]])
    assert rows_of(
        database, "SELECT sum(conversions), sum(value_micros), sum(spend_nanos) FROM rollup_hour"
    ) == [(1, 5_000_000, 1_500_000)]
    assert differences(database) == []


def test_a_conversion_that_came_before_its_click_is_attributed_by_the_keeper(
    database: Database,
) -> None:
    """Another worker had the click, and ships it later."""
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    clicked = placed(1, 1, at=now)
    order: Conversion = {"advertiser": 1, "order": "1", "decision": clicked.id_hex}
    ship_by_copy(database, [conversion_line(now + MINUTE, order)])
    assert attributions(database) == [("1", None, None)]
    ship_by_copy(database, [event_line(now + MS, "click", clicked.event())])
    with closing(database.connect()) as conn:
        ticks = [
            partitions.tick(
                conn, log_table="logged", retention_days=30, attribution=ATTRIBUTION
            ).attributed
            for _ in range(2)
        ]
    assert ticks == [1, 0]
    assert attributions(database) == [("1", "click", clicked.id_hex)]
    assert rows_of(database, "SELECT sum(conversions) FROM rollup_hour") == [(1,)]
    assert differences(database) == []


def test_a_conversion_that_came_before_the_click_it_names_does_not_stay_with_another_ad(
    database: Database,
) -> None:
    """Meanwhile it was put down to what the user had seen: that is undone, in the sums as well."""
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0) - 3 * MINUTE
    seen = placed(1, 3, at=now, uid=uid(1))
    clicked = placed(2, 3, at=now + 1000 * MS, uid=uid(1))
    order: Conversion = {
        "advertiser": 2,
        "order": "1",
        "value": 5_000_000,
        "decision": clicked.id_hex,
        "uid": uid(1),
    }
    ship_by_copy(
        database,
        [
            event_line(now + 2 * MS, "impression", seen.event()),
            conversion_line(now + MINUTE, order),
        ],
    )
    assert attributions(database) == [("1", "view", seen.id_hex)]
    ship_by_copy(database, [event_line(now + 3000 * MS, "click", clicked.event())])
    with closing(database.connect()) as conn:
        ticks = [
            partitions.tick(
                conn, log_table="logged", retention_days=30, attribution=ATTRIBUTION
            ).attributed
            for _ in range(2)
        ]
    assert ticks == [1, 0]
    assert attributions(database) == [("1", "click", clicked.id_hex)]
    assert rows_of(
        database, "SELECT sum(conversions), sum(value_micros), sum(spend_nanos) FROM rollup_hour"
    ) == [(1, 5_000_000, 1_500_000)]
    assert differences(database) == []


# -- days ------------------------------------------------------------------------------------------


def test_the_partition_of_an_events_day_is_made(database: Database) -> None:
    """A click on what was decided a week ago: nobody has made that day, and it counts once."""
    old = placed(1, 3, at=NOON - datetime.timedelta(days=7))
    for _ in range(2):
        assert ship_by_copy(database, [event_line(NOON, "click", old.event())]) == []
    assert rows_of(database, "SELECT name FROM ad_event_partition") == [
        (f"ad_event_{old.at:%Y%m%d}",)
    ]
    assert rows_of(database, "SELECT hour, clicks FROM rollup_hour") == [
        (old.at.replace(minute=0, second=0, microsecond=0), 1)
    ]


def test_of_a_day_that_is_forgotten_nothing_is_counted_any_more(database: Database) -> None:
    """Nobody knows whether it was counted before. The lines are in request_log all the same."""
    old = placed(1, 3, at=NOON - datetime.timedelta(days=3))
    new = placed(2, 3)
    lines = [event_line(NOON, "impression", one.event()) for one in (old, new)]
    ship_by_copy(database, lines)
    with closing(database.connect()) as conn:
        report = partitions.tick(conn, log_table="logged", retention_days=2)
        assert report.dropped == (f"ad_event_{old.at:%Y%m%d}",)
        again = partitions.tick(conn, log_table="logged", retention_days=2)
        assert (again.dropped, again.postponed) == ((), ())
    ship_by_copy(database, lines)
    assert rows_of(database, "SELECT count(*) FROM ad_event") == [(1,)]
    assert rows_of(database, "SELECT sum(impressions) FROM rollup_hour") == [(2,)]
    assert rows_of(database, "SELECT count(*) FROM request_log") == [(4,)]


def test_an_event_on_its_way_and_retention_do_not_miss_each_other(database: Database) -> None:
    """Who inserts first keeps the day from being dropped; who comes after it finds it forgotten."""
    old = placed(1, 3, at=NOON - datetime.timedelta(days=3))
    database.execute("SELECT ad_event_ensure(%s, %s)", old.at.date(), old.at.date())
    with closing(database.connect(autocommit=False)) as holder, closing(database.connect()) as conn:
        holder.cursor().execute("LOCK TABLE ad_event IN ROW EXCLUSIVE MODE")
        assert "retention of events" in (
            partitions.tick(conn, log_table="logged", retention_days=2).postponed
        )
        ship_by_copy(database, [event_line(NOON, "impression", old.event())])
        holder.rollback()
        assert partitions.tick(conn, log_table="logged", retention_days=2).dropped


def test_an_event_of_a_decision_in_the_far_future_is_rejected(database: Database) -> None:
    far = placed(1, 3, at=NOON + datetime.timedelta(days=4000))
    near = placed(2, 3)
    said = ship_by_copy(
        database, [event_line(NOON, "impression", one.event()) for one in (far, near)]
    )
    assert any("request_log_rejected" in words for words in said)
    assert rows_of(database, "SELECT sum(impressions) FROM rollup_hour") == [(1,)]


# -- what cannot be counted ------------------------------------------------------------------------


def bad_lines() -> list[tuple[str, bytes]]:
    good = placed(1).event()
    return [
        ("no record", ad_line(NOON, uid(1), b"click", b'{"request":{}}')),
        ("no campaign", event_line(NOON, "click", {k: v for k, v in good.items() if k != "campaign"})),  # type: ignore[arg-type]
        ("a text for a number", event_line(NOON, "click", {**good, "zone": "1"})),  # type: ignore[typeddict-item]
        ("a number that no integer holds", event_line(NOON, "click", {**good, "zone": 1 << 40})),
        ("a model that there is not", event_line(NOON, "click", {**good, "model": "cpx"})),  # type: ignore[typeddict-item]
        ("no id", event_line(NOON, "click", {**good, "decision": "123"})),
        ("another no id", event_line(NOON, "click", {**good, "decision": 32 * "z"})),
        ("an order without a name", conversion_line(NOON, {"advertiser": 1, "order": ""})),
        ("a decision about nothing", ad_line(NOON, uid(1), b"decision", b'{"request":{},"decision":{}}')),
        ("a day that is none", decision_line(NOON, uid(1), {"zone": 1, "campaign": 1, "leased": "?"})),
    ]  # fmt: skip


@pytest.mark.parametrize(("what", "bad"), bad_lines())
@pytest.mark.parametrize("by_copy", [True, False])
def test_a_line_that_cannot_be_counted_is_kept_and_stops_nothing(
    database: Database, tmp_path: Path, what: str, bad: bytes, by_copy: bool
) -> None:
    good = [event_line(NOON, "impression", placed(n, 3).event()) for n in range(9)]
    lines = [*good[:4], bad, *good[4:]]
    if by_copy:
        ship_by_copy(database, lines)
    else:
        assert ship_by_insert(database, tmp_path, lines).rejected == 1
    assert rows_of(database, "SELECT line FROM request_log_rejected") == [(bad.decode(),)], what
    assert rows_of(database, "SELECT count(*) FROM request_log") == [(9,)]
    assert rows_of(database, "SELECT sum(impressions) FROM rollup_hour") == [(9,)]


def test_a_difference_between_rollup_and_raw_is_found(database: Database) -> None:
    """So that the other tests here prove something by finding none."""
    one = placed(1, 3)
    lines = [decision_line(one.at, one.id_hex, one.decision())]
    ship_by_copy(database, [*lines, event_line(NOON + MINUTE, "impression", one.event())])
    assert differences(database) == []
    database.execute("SELECT rollup_fold(1)")
    for table, damage in (
        ("rollup_base", "UPDATE rollup_base SET impressions = impressions + 1"),
        ("rollup_delta", "DELETE FROM rollup_delta"),
        ("ad_event", "UPDATE ad_event SET filtered = 'bot'"),
        ("request_log", "DELETE FROM request_log WHERE endpoint = 'decision'"),
    ):
        with closing(database.connect(autocommit=False)) as conn, conn.cursor() as cursor:
            cursor.execute(damage)
            cursor.execute("SELECT count(*) FROM rollup_check('-infinity', 'infinity')")
            assert cursor.fetchone() != (0,), table
            conn.rollback()


# -- who may ---------------------------------------------------------------------------------------


def test_ingesting_is_nobodys_right_by_default(database: Database) -> None:
    functions = rows_of(
        database,
        "SELECT p.oid::regprocedure::text FROM pg_proc AS p WHERE p.prosecdef"
        " AND p.proname ~ '^(ad_|conversion_|request_log_|rollup_)'"
        " AND has_function_privilege('pg_monitor', p.oid, 'EXECUTE')",
    )
    assert functions == []


def test_a_serving_role_ingests_and_can_change_no_sum_itself(database: Database) -> None:
    """With what docs/database.md grants. The function acts with its owner's rights."""
    role = f"{database.name}_serving"
    one = placed(1, 1, uid=uid(1))
    lines = [
        decision_line(one.at, one.id_hex, {**one.decision(), "caps": True}),
        event_line(NOON, "impression", one.event()),
        conversion_line(NOON + MINUTE, {"advertiser": 1, "order": "1", "uid": uid(1)}),
    ]
    ads = added_up(b"\n".join([*lines, b""]))
    assert ads is not None
    texts = [getattr(ads, name) for name in type(ads).__slots__]
    database.execute(f"CREATE ROLE {role}")
    try:
        for grant in granted(role):
            database.execute(grant)
        with closing(database.connect()) as conn, conn.cursor() as cursor:
            cursor.execute(f"SET ROLE {role}")
            cursor.execute("SELECT ad_event_ensure('2026-03-01', '2026-03-01')")
            cursor.execute(
                "SELECT ad_ingest('holder', %s, %s, %s, %s, %s, '1 day', '1 day')", texts
            )
            for statement in (
                "UPDATE rollup_base SET impressions = 0",
                "DELETE FROM ad_event",
                "SELECT rollup_add('', NULL, NULL)",
                "SELECT ad_event_guard(NULL)",
            ):
                with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                    cursor.execute(statement)
    finally:
        database.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
    assert rows_of(database, "SELECT sum(requests), sum(conversions) FROM rollup_hour") == [(1, 1)]
