"""Frequency caps: counted by PostgreSQL and remembered by workers, never more than they allow.

The rows are those of `person_lookup`, and what is served is counted by `user_seen`, as the program has it.
"""

import datetime
import random
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any
from uuid import UUID

import pytest

from prefork_ads.ads.caps import KEEP_BEHIND_REPLICA_S as KEEP_S
from prefork_ads.ads.caps import Caps
from prefork_ads.ads.catalog import Catalog, Rows
from prefork_ads.db.queries import query
from prefork_ads.events.uuid7 import Uuid7
from tests.conftest import Database
from tests.integration.lease_bed import decision_id, make_campaign
from tests.unit.catalog_bed import compiled

USER = "0197c0de-0000-7000-8000-000000000001"
# Around noon, so that no hour or day ends by chance.
NOON_S = time.time() // 86_400 * 86_400 + 43_260.0


def catalog_of(database: Database) -> Catalog:
    rows: Rows = {
        name: {} for name in ("advertiser", "site", "zone", "segment", "campaign", "creative")
    }
    (version,) = database.fetch("SELECT version FROM catalog_state")[0]
    for relation, number, content in database.fetch(
        "SELECT relation, id, content FROM catalog_at(%s)", version
    ):
        rows[relation][number] = content
    return compiled(rows)


class Server:
    """One worker: what it has decided arrives in PostgreSQL when it says so."""

    def __init__(self, database: Database, catalog: Catalog, cursor: Any) -> None:
        self.caps = Caps(lambda: 0.0, keep_s=KEEP_S)
        self.catalog = catalog
        self.cursor = cursor
        self.ids = Uuid7(random.Random(7))
        self.unshipped: list[tuple[str, int, str, float]] = []

    def person(self, uid: str = USER) -> Any:
        self.cursor.execute(query("person_lookup"), {"keys": "{" + uid + "}"})
        return self.cursor.fetchone()

    def is_capped(self, number: int, at_s: float, person: Any = None, places: int = 1) -> bool:
        found = person if person is not None else self.person()
        mask = self.caps.capped(self.catalog, USER, found, at_s, places)
        return bool(mask >> self.catalog.campaigns[number].bit & 1)

    def show(self, number: int, at_s: float) -> str:
        decision = self.ids.next(int(at_s * 1000)).decode()
        self.caps.served(USER, self.catalog.campaigns[number], decision, at_s)
        self.unshipped.append((USER, number, decision, at_s))
        return decision

    def ship(self) -> None:
        uids, campaigns, decisions, moments = zip(*self.unshipped, strict=True)
        self.unshipped.clear()
        self.cursor.execute(
            "SELECT user_seen(%s::uuid[], %s, %s, %s::uuid[])",
            (
                *(list(uids), list(campaigns)),
                [datetime.datetime.fromtimestamp(at_s, datetime.UTC) for at_s in moments],
                list(decisions),
            ),
        )


@contextmanager
def servers(database: Database, number: int = 1) -> Iterator[list[Server]]:
    catalog = catalog_of(database)
    with closing(database.connect()) as connection:
        cursor = connection.cursor()
        cursor.execute(query("person_prepare"))
        yield [Server(database, catalog, cursor) for _ in range(number)]


def test_a_person_on_one_worker_never_gets_more_than_the_cap(database: Database) -> None:
    """However late lines arrive, and whatever batches they come in."""
    campaign = make_campaign(database, cap_hour=5, cap_day=8, cap_flight=20)
    with servers(database) as (server,):
        die = random.Random(3)
        at_s, shown = NOON_S - 4 * 3600, []
        for _ in range(600):
            at_s += die.choice((0.0, 0.001, 0.1, 5.0, 120.0))
            if server.unshipped and (at_s - server.unshipped[0][3] > 10 or die.random() < 0.1):
                server.ship()
            if not server.is_capped(campaign, at_s):
                server.show(campaign, at_s)
                shown.append(at_s)
        by_hour = [sum(s // 3600 == hour for s in shown) for hour in {s // 3600 for s in shown}]
        by_day = [sum(s // 86_400 == day for s in shown) for day in {s // 86_400 for s in shown}]
        assert max(by_hour) == 5
        assert max(by_day) == 8
        assert len(shown) <= 20


def test_requests_whose_lookups_cross_count_each_other(database: Database) -> None:
    """Pipelined on one connection: both rows were read before either was shown."""
    campaign = make_campaign(database, cap_hour=1)
    with servers(database) as (server,):
        rows = [server.person(), server.person()]
        assert not server.is_capped(campaign, NOON_S, rows[0])
        server.show(campaign, NOON_S)
        assert server.is_capped(campaign, NOON_S, rows[1])


def test_what_is_counted_in_the_row_is_not_counted_twice(database: Database) -> None:
    campaign = make_campaign(database, cap_hour=4)
    with servers(database) as (server,):
        for _ in range(3):
            server.show(campaign, NOON_S)
        server.ship()
        assert not server.is_capped(campaign, NOON_S)
        server.show(campaign, NOON_S)
        assert server.is_capped(campaign, NOON_S)


def test_a_row_that_only_others_have_made_counts_with_what_is_ours(database: Database) -> None:
    campaign = make_campaign(database, cap_hour=2)
    with servers(database, 2) as (server, other):
        # Those of a bed's servers come from one seed.
        other.ids = Uuid7(random.Random(8))
        other.show(campaign, NOON_S)
        other.ship()
        assert not server.is_capped(campaign, NOON_S)
        server.show(campaign, NOON_S)
        assert server.is_capped(campaign, NOON_S)


def test_across_workers_a_cap_is_exceeded_by_no_more_than_what_was_not_shipped(
    database: Database,
) -> None:
    """The bound that is promised: what the others have served since their last batch."""
    campaign = make_campaign(database, cap_day=10)
    with servers(database, 3) as workers:
        die = random.Random(5)
        shown, excess = 0, 0
        for step in range(400):
            at_s = NOON_S + step * 0.01
            worker = die.choice(workers)
            if not worker.is_capped(campaign, at_s):
                unseen = sum(len(other.unshipped) for other in workers if other is not worker)
                worker.show(campaign, at_s)
                shown += 1
                assert shown <= 10 + unseen
                excess = max(excess, shown - 10)
            if step % 25 == 24:
                # A write interval is over.
                for one in workers:
                    if one.unshipped:
                        one.ship()
        assert 0 < excess <= 20


def test_hours_and_days_are_those_of_the_campaign_s_time_zone(database: Database) -> None:
    """In Kathmandu the hour begins at a quarter past by the clocks of UTC, and the day at 18:15."""
    hourly = make_campaign(database, cap_hour=1, time_zone="Asia/Kathmandu")
    daily = make_campaign(database, cap_day=1, time_zone="Asia/Kathmandu")
    quarter_s = NOON_S // 3600 * 3600 + 900
    midnight_s = quarter_s + 6 * 3600
    for late in (False, True):
        with servers(database) as (server,):
            server.show(hourly, quarter_s - 10)
            server.show(daily, midnight_s - 10)
            if late:
                server.ship()
            assert server.is_capped(hourly, quarter_s - 1)
            assert not server.is_capped(hourly, quarter_s + 1)
            assert server.is_capped(daily, midnight_s - 1)
            assert not server.is_capped(daily, midnight_s + 1)
            database.execute("DELETE FROM user_frequency")


def test_an_advertiser_s_cap_counts_all_its_campaigns(database: Database) -> None:
    first = make_campaign(database, advertiser_cap_day=2)
    database.execute(
        "INSERT INTO campaign (key, name, advertiser_id)"
        " SELECT 'second', 'Another', advertiser_id FROM campaign WHERE id = %s",
        first,
    )
    (second,) = database.fetch("SELECT id FROM campaign WHERE key = 'second'")[0]
    with servers(database) as (server,):
        server.show(first, NOON_S)
        server.ship()
        server.show(second, NOON_S)
        assert server.is_capped(first, NOON_S)
        assert server.is_capped(second, NOON_S)


def test_a_roadblock_needs_room_for_all_its_places(database: Database) -> None:
    campaign = make_campaign(database, cap_hour=3, roadblock=True)
    with servers(database) as (server,):
        assert not server.is_capped(campaign, NOON_S, places=3)
        assert server.is_capped(campaign, NOON_S, places=4)
        server.show(campaign, NOON_S)
        assert server.is_capped(campaign, NOON_S, places=3)


def test_memory_is_bounded_and_breaks_no_cap(database: Database) -> None:
    """Full, nobody gets what has a cap; what has arrived a while ago is forgotten."""
    campaign = make_campaign(database, cap_hour=1000)
    with servers(database) as (server,):
        server.caps = Caps(lambda: 5.0, keep_s=KEEP_S, most=10)
        for _ in range(10):
            assert not server.is_capped(campaign, NOON_S)
            server.show(campaign, NOON_S)
        # After five seconds it has arrived, and that is found within another one.
        for second in range(1, int(KEEP_S) + 6):
            assert server.is_capped(campaign, NOON_S + second)
        assert not server.is_capped(campaign, NOON_S + KEEP_S + 6.0)


def test_a_lookup_under_way_while_late_lines_arrive_is_shown_nothing_twice(
    database: Database,
) -> None:
    """Its row is from before, and the decision must be remembered though it is older than others are kept."""
    campaign = make_campaign(database, cap_hour=1)
    with servers(database) as (server,):
        unshipped_s = 0.0
        server.caps = Caps(lambda: unshipped_s, keep_s=2.0)
        assert not server.is_capped(campaign, NOON_S)
        server.show(campaign, NOON_S)
        for second in range(1, 9):
            # The disk is full, say, and whoever only reads does not notice.
            unshipped_s = float(second)
            assert server.is_capped(campaign, NOON_S + second)
        row = server.person()
        server.ship()
        unshipped_s = 0.0
        assert server.is_capped(campaign, NOON_S + 9.05, row)
        assert server.is_capped(campaign, NOON_S + 10.1, row)
        # By then no lookup is under way that began before.
        assert not server.is_capped(campaign, NOON_S + 11.1, row)


def test_a_clock_that_is_put_back_does_not_fill_the_memory(database: Database) -> None:
    """What was decided in the future is forgotten as soon as what is decided now; until then it counts."""
    campaign = make_campaign(database, cap_hour=1)
    with servers(database) as (server,):
        assert not server.is_capped(campaign, NOON_S)
        server.show(campaign, NOON_S)
        before_s = NOON_S - 7200
        for second in range(int(KEEP_S) + 1):
            assert server.is_capped(campaign, before_s + second)
        assert not server.is_capped(campaign, before_s + KEEP_S + 1)


def test_a_clock_that_was_ahead_does_not_hide_what_was_shown_since(database: Database) -> None:
    """Ids go back with it: what is counted and what is not goes by the order of decisions."""
    campaign = make_campaign(database, cap_day=3)
    with servers(database) as (server,):
        assert not server.is_capped(campaign, NOON_S)
        server.show(campaign, NOON_S + 7200)
        server.ship()
        server.show(campaign, NOON_S)
        assert not server.is_capped(campaign, NOON_S)
        server.show(campaign, NOON_S + 1)
        assert server.is_capped(campaign, NOON_S + 1)


def test_a_late_decision_counts_for_its_own_hour(database: Database) -> None:
    """A dead worker's lines arrive hours later: they are no part of this hour, but of the flight."""
    campaign = make_campaign(database, cap_hour=1, cap_flight=3)
    with servers(database) as (server,):
        server.show(campaign, NOON_S)
        server.ship()
        server.show(campaign, NOON_S - 7200)
        server.ship()
        rows = database.fetch(
            "SELECT extract(epoch FROM hour)::bigint, hour_count, day_count, count, cardinality(latest)"
            " FROM user_frequency"
        )
        assert rows == [(int(NOON_S) // 3600 * 3600, 1, 2, 2, 2)]


def test_only_the_latest_sixteen_are_named(database: Database) -> None:
    campaign = make_campaign(database, cap_flight=1000)
    with servers(database) as (server,):
        for batch in range(4):
            decisions = [server.show(campaign, NOON_S + batch) for _ in range(9)]
            server.ship()
        rows = database.fetch("SELECT count, latest FROM user_frequency")
        assert rows[0][0] == 36
        latest = rows[0][1].strip("{}").split(",") if isinstance(rows[0][1], str) else rows[0][1]
        names = [UUID(str(one)).hex for one in latest]
        assert len(names) == 16
        assert names == sorted(names, reverse=True)
        assert set(decisions) <= set(names)


def test_nothing_is_kept_of_who_was_shown_what_has_no_cap(database: Database) -> None:
    campaign = make_campaign(database)
    with servers(database) as (server,):
        server.unshipped.append((USER, campaign, decision_id(NOON_S, random.Random(1)), NOON_S))
        server.ship()
        assert database.fetch("SELECT count(*) FROM user_frequency") == [(0,)]
        assert not server.is_capped(campaign, NOON_S)


@pytest.mark.parametrize("keys", [1, 3])
def test_everybody_who_is_asked_for_has_a_row(database: Database, keys: int) -> None:
    uids = [f"0197c0de-0000-7000-8000-00000000000{n}" for n in range(keys)]
    with servers(database) as (server,):
        server.cursor.execute(query("person_lookup"), {"keys": "{" + ",".join(uids) + "}"})
        rows = {row[0]: row for row in server.cursor.fetchall()}
        assert set(rows) == set(uids)
        assert server.caps.segments(rows[uids[0]]) == frozenset()
        assert server.caps.capped(server.catalog, uids[0], rows[uids[0]], NOON_S) == 0


def test_segments_come_with_the_person(database: Database) -> None:
    database.execute("INSERT INTO segment (key, name) VALUES ('sport', 'Sport')")
    database.execute("INSERT INTO user_segment SELECT %s, id FROM segment", USER)
    with servers(database) as (server,):
        (number,) = database.fetch("SELECT id FROM segment")[0]
        assert server.caps.segments(server.person()) == {number}
