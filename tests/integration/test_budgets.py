"""Budgets of several workers against PostgreSQL: paced, exact, replaced when they die; by a clock of ours."""

import datetime
import itertools
import random
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from prefork_ads.ads.budget import Budget
from prefork_ads.ads.catalog import Catalog
from prefork_ads.ads.pacing import Curve
from prefork_ads.ads.standing import Standing
from prefork_ads.ads.traffic import TrafficFeed
from prefork_ads.db import budgets
from prefork_ads.db.queries import query
from prefork_ads.events.event import EventClock
from prefork_ads.events.segments import new_stream
from prefork_ads.events.uuid7 import Uuid7
from tests.conftest import Database
from tests.integration.lease_bed import make_campaign
from tests.integration.test_caps import catalog_of

# Nobody at night, most in the evening.
EVENING: Curve = tuple(n / 48 for n in [1] * 8 + [2] * 12 + [4] * 4)
_numbers = itertools.count(1)


class Worker:
    """A budget, and the lines that are not in PostgreSQL yet."""

    def __init__(self, day: "Day") -> None:
        self.day = day
        self.holder = f"host-{next(_numbers)}-a"
        self.budget = Budget(
            self.holder,
            "here",
            EventClock(Uuid7(), lambda: int(day.at_s * 1e9)),
            lambda _: True,
            lambda: 0.0,
            impression_window_s=900,
            curve=lambda _: day.curve,
            now=lambda: day.at_s,
            monotonic=lambda: day.at_s,
        )
        self.standing = Standing(day.catalog)
        self.budget.changed(day.catalog, self.standing)
        self.leased: Counter[str] = Counter()
        self.fired: list[str] = []

    def call(self, *, is_heard: bool = True) -> None:
        asked = self.budget.ask()
        if asked is None:
            return
        parameters = {**asked[1], "at": self.day.at}
        statement = query("lease_take").replace("::bigint[]);", "::bigint[], %(at)s);")
        self.day.cursor.execute(statement, parameters)
        if is_heard:
            self.budget.answered(self.day.cursor.fetchall())
        else:
            self.budget.failed()

    def serve(self, chances: int) -> int:
        """Requests that this campaign fits; how many got it."""
        served = 0
        campaign = self.day.catalog.campaigns[self.day.campaign]
        for _ in range(chances):
            self.budget.before(self.day.at_s)
            if not self.standing.open >> campaign.bit & 1:
                break
            leased = self.budget.served(campaign, self.day.at_s)
            served += 1
            self.leased[f"{campaign.id}\t{leased}\t{int(self.day.at_s // 60)}"] += 1
            self.fired.append(
                f"impression\t{self.day.ids.next(int(self.day.at_s * 1000)).decode()}"
                f"\t{int(self.day.at_s * 1000)}\t{self.day.at.isoformat()}\t\\N\t1\t{campaign.id}\t1"
                "\t1000\tcpm\tDE\tmobile\t\\N"
            )
        return served

    def ship(self) -> None:
        lines = "\n".join(f"{line}\t{count}" for line, count in self.leased.items())
        self.day.cursor.execute(
            "SELECT ad_ingest(%s, '', %s, '', %s, '', '1 day', '1 day')",
            (self.holder, lines, "\n".join(self.fired)),
        )
        self.lose_lines()

    def lose_lines(self) -> None:
        self.leased.clear()
        self.fired.clear()


class Day:
    """A clock, a catalog, some workers."""

    def __init__(
        self, database: Database, cursor: Any, at: datetime.datetime, curve: Curve
    ) -> None:
        self.at_s = at.timestamp()
        self.cursor = cursor
        self.curve = curve
        self.ids = Uuid7(random.Random(1))
        self.catalog: Catalog = catalog_of(database)
        (self.campaign,) = [c.id for c in self.catalog.campaigns.values() if c.leased]
        self.random = random.Random(5)
        self.workers = [Worker(self) for _ in range(2)]

    @property
    def at(self) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self.at_s, datetime.UTC)

    def step(self, seconds: float, chances: float) -> None:
        """So much time passes; in its last moments come the requests that the campaign fits."""
        left = int(chances) + (self.random.random() < chances % 1)
        ends_s, moments = self.at_s + seconds, 6
        for moment in range(moments):
            self.at_s = ends_s - seconds / 2 * (1 - (moment + 1) / moments)
            served = 0
            for worker in self.random.sample(self.workers, len(self.workers)):
                worker.call()
                served += worker.serve(min(left - served, -(-left // 2)))
            left -= served
            if not served and moment > 2:
                break
        self.at_s = ends_s
        for worker in self.workers:
            worker.ship()

    def replace_one(self) -> None:
        """A worker dies with what it holds, and another comes. All of its lines have arrived."""
        worker = self.random.choice(self.workers)
        worker.ship()
        self.workers[self.workers.index(worker)] = Worker(self)

    def settle(self) -> None:
        files = [worker.holder for worker in self.workers]
        self.cursor.execute(
            "SELECT * FROM lease_settle('here', %s, '1 hour', %s)", (files, self.at)
        )

    def change(self, database: Database, statement: str) -> None:
        """Another catalog, of which everybody hears; what follows from it has a few seconds."""
        database.execute(statement)
        self.catalog = catalog_of(database)
        for worker in self.workers:
            worker.standing = worker.standing.moved_to(self.catalog)
            worker.budget.changed(self.catalog, worker.standing)
        for _ in range(3):
            self.at_s += 0.3
            for worker in self.workers:
                worker.call()

    def billed(self) -> int:
        self.cursor.execute("SELECT coalesce(sum(impressions), 0)::bigint FROM delivery_day")
        return int(self.cursor.fetchone()[0])


def midnight_of(zone: str, database: Database) -> datetime.datetime:
    rows = database.fetch("SELECT day_begins((now() AT TIME ZONE %s)::date, %s)", zone, zone)
    begins: datetime.datetime = rows[0][0]
    return begins


@pytest.mark.once
@pytest.mark.parametrize("late_h", [0, 15])
def test_a_paced_day_lands_within_two_per_cent_of_its_goal(database: Database, late_h: int) -> None:
    """By the day's own traffic, with workers dying all day; a start in the afternoon catches up."""
    goal, zone = 6000, "Asia/Kathmandu"
    make_campaign(database, goal_kind="impressions", goal_daily=goal, pacing="even", time_zone=zone)
    begins = midnight_of(zone, database)
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        day = Day(database, cursor, begins + datetime.timedelta(hours=late_h), EVENING)
        for step in range(late_h * 15, 24 * 15):
            # Much more traffic than the goal needs; by the same curve.
            day.step(240 if step % 15 else 239, 6 * goal * EVENING[step // 15] / 15)
            if step % 30 == 7:
                day.replace_one()
            day.settle()
            now = (day.at - begins).total_seconds() / 3600
            share = sum(EVENING[: int(now)]) + EVENING[min(23, int(now))] * (now % 1)
            if step >= 18 * 15:
                # Late or not, by now it is where it should be.
                assert abs(day.billed() - goal * share) < 0.02 * goal
            assert day.billed() <= goal * (share + 0.01)
        assert 0.98 * goal <= day.billed() <= goal


def test_a_goal_is_reached_to_the_last_while_workers_die(database: Database) -> None:
    goal = 3000
    make_campaign(database, goal_kind="impressions", goal_total=goal)
    begins = midnight_of("UTC", database)
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        day = Day(database, cursor, begins + datetime.timedelta(hours=10), EVENING)
        for step in range(200):
            day.step(1.0, 60)
            if step % 3 == 0:
                day.replace_one()
            day.settle()
            assert day.billed() <= goal
            if day.billed() == goal:
                break
        assert day.billed() == goal
        cursor.execute("SELECT count(*) FROM ad_event WHERE filtered IS NOT NULL")
        assert cursor.fetchall() == [(0,)]


def test_at_midnight_a_daily_goal_begins_anew_by_itself(database: Database) -> None:
    make_campaign(
        database,
        goal_kind="impressions",
        goal_daily=100,
        goal_total=1000,
        time_zone="Europe/Berlin",
    )
    begins = midnight_of("Europe/Berlin", database)
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        day = Day(database, cursor, begins - datetime.timedelta(seconds=20), EVENING)
        for _ in range(18):
            day.step(1.0, 30)
        assert day.billed() == 100
        for _ in range(20):
            day.step(1.0, 30)
        cursor.execute("SELECT day, impressions FROM delivery_day ORDER BY day")
        assert [count for _, count in cursor.fetchall()] == [100, 100]


@pytest.mark.parametrize(
    "there_and_back",
    [
        ("UPDATE campaign SET status = 'archived'", "UPDATE campaign SET status = 'active'"),
        (
            "UPDATE campaign SET time_zone = 'Pacific/Kiritimati'",
            "UPDATE campaign SET time_zone = 'UTC'",
        ),
    ],
    ids=["archived and restored", "in another time zone and back"],
)
def test_a_campaign_that_comes_back_is_not_served_all_over_again(
    database: Database, there_and_back: tuple[str, str]
) -> None:
    """Its lease of the day is the one that it had."""
    make_campaign(database, goal_kind="impressions", goal_total=100)
    begins = midnight_of("UTC", database)
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        day = Day(database, cursor, begins + datetime.timedelta(hours=10), EVENING)
        for _ in range(8):
            day.step(1.0, 60)
        assert day.billed() == 100
        for statement in there_and_back:
            day.change(database, statement)
        for _ in range(8):
            day.step(1.0, 60)
        cursor.execute("SELECT sum(decisions)::int FROM delivery_day")
        assert cursor.fetchall() == [(100,)]


def test_another_time_zone_ends_the_day_where_it_ends_there(database: Database) -> None:
    """Here it is the same date, and its midnight is not the campaign's any more."""
    make_campaign(database, goal_kind="impressions", goal_total=100_000, time_zone="Europe/Berlin")
    begins = midnight_of("Europe/Berlin", database)
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        day = Day(database, cursor, begins + datetime.timedelta(hours=22), EVENING)
        for _ in range(3):
            day.step(1.0, 20)
        day.change(database, "UPDATE campaign SET time_zone = 'America/New_York'")
        day.at_s = (begins + datetime.timedelta(hours=24, minutes=1)).timestamp()
        before = day.billed()
        for _ in range(10):
            day.step(1.0, 20)
        assert day.billed() == before + 200
        # And there, at its own midnight, the lease ends without a word of PostgreSQL.
        day.at_s = (begins + datetime.timedelta(hours=31)).timestamp()
        assert [worker.serve(10) for worker in day.workers] == [0, 0]


def test_a_lease_whose_answer_never_came_goes_back_when_its_day_is_over(database: Database) -> None:
    """Nobody settles it: the worker lives on for days."""
    make_campaign(database, goal_kind="impressions", goal_total=1000)
    begins = midnight_of("UTC", database)
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        day = Day(database, cursor, begins + datetime.timedelta(hours=24, seconds=-5), EVENING)
        (worker, _) = day.workers
        worker.call()
        day.at_s += 1
        worker.call(is_heard=False)
        cursor.execute("SELECT sum(granted - used)::int > 0 FROM lease")
        assert cursor.fetchall() == [(True,)]
        day.at_s += 10
        for _ in range(5):
            day.step(1.0, 5)
        cursor.execute("SELECT granted - used FROM lease WHERE day <= %s", (begins.date(),))
        assert cursor.fetchall() == [(0,)]


def test_leases_of_lost_lines_come_back_while_the_worker_lives(database: Database) -> None:
    """Days later, when all that it has to say of them must be here; then the goal is reached."""
    make_campaign(database, goal_kind="impressions", goal_total=200)
    begins = midnight_of("UTC", database)
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        day = Day(database, cursor, begins + datetime.timedelta(hours=10), EVENING)
        day.step(1.0, 20)
        lost = 0
        for worker in day.workers:
            worker.call()
            lost += worker.serve(10)
            worker.lose_lines()
        assert lost
        for _ in range(30):
            day.step(1.0, 100)
        assert day.billed() == 200 - lost
        day.at_s += 3 * 86_400
        day.step(1.0, 100)
        cursor.execute("SELECT lease_clean(%s)", (day.at,))
        for _ in range(20):
            day.step(1.0, 100)
        assert day.billed() == 200


def test_who_leaves_gives_everything_back_at_once(database: Database) -> None:
    make_campaign(database, goal_kind="impressions", goal_total=1000)
    begins = midnight_of("UTC", database)
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        day = Day(database, cursor, begins + datetime.timedelta(hours=10), EVENING)
        day.step(1.0, 10)
        for worker in day.workers:
            worker.budget.leave()
            worker.call()
            assert worker.budget.gone
        assert database.fetch("SELECT sum(granted - used) FROM lease") == [(0,)]


def test_the_keeper_settles_whose_files_are_gone(database: Database, tmp_path: Path) -> None:
    """Not who has one, not who was heard of just now, and nobody of another directory."""
    streams = [new_stream("host", number, 1.0) for number in range(4)]
    (tmp_path / f"{streams[0]}-000001.tsv").touch()
    for stream, place, seen in zip(
        streams, ["here", "here", "here", "there"], [60, 60, 0, 60], strict=True
    ):
        database.execute(
            "INSERT INTO lease_holder VALUES (%s, now(), 1, %s, now() - %s * interval '1 second', now(), 9)",
            *(stream, place, seen),
        )
        database.execute("INSERT INTO lease VALUES (%s, 1, current_date, 9, 2)", stream)
    with closing(database.connect()) as connection:
        assert budgets.settle(connection, tmp_path, "here") == [(streams[1], 7)]
        assert budgets.settle(connection, tmp_path, None) == []
        budgets.clean(connection)
    assert database.fetch("SELECT count(*) FROM lease") == [(3,)]


def test_the_ledger_s_word_counts_as_much_as_the_directory_s(
    database: Database, tmp_path: Path
) -> None:
    """A segment that was set aside as damaged has no file, and decisions that nobody has read."""
    stream = new_stream("host", 1, 1.0)
    database.execute(
        "INSERT INTO lease_holder VALUES (%s, now(), 1, 'here', now() - interval '1 minute', now(), 9)",
        stream,
    )
    database.execute("INSERT INTO journal_segment VALUES (%s, 5)", f"{stream}-000001")
    with closing(database.connect()) as connection:
        assert budgets.settle(connection, tmp_path, "here") == []
        database.execute("DELETE FROM journal_segment")
        assert [one.holder for one in budgets.settle(connection, tmp_path, "here")] == [stream]


def test_the_curve_is_that_of_the_sites_a_campaign_is_bound_to(database: Database) -> None:
    database.execute(
        "INSERT INTO site (key, name, domain)"
        " VALUES ('day', 'D', 'd.example'), ('night', 'N', 'n.example');"
        "INSERT INTO zone (key, site_id, name, sizes) SELECT key, id, key, '{300x250}' FROM site;"
        "INSERT INTO rollup_base"
        " (hour, zone_id, campaign_id, creative_id, country, device, filtered, requests)"
        " SELECT date_trunc('day', now(), 'UTC') - interval '2 days' + h * interval '1 hour', z.id, 0, 0,"
        " '', '', false, CASE WHEN (z.key = 'day') = (h BETWEEN 6 AND 17) THEN 100 ELSE 0 END"
        " FROM zone AS z, generate_series(0, 23) AS h"
    )
    common = {"goal_kind": "impressions", "goal_daily": 10, "pacing": "even"}
    free = make_campaign(database, **common)
    bound = make_campaign(database, **common, targeting='{"site": {"include": ["night"]}}')
    database.execute("SELECT traffic_refresh()")
    # Twice, as the keeper does: what is there is not added to.
    database.execute("SELECT traffic_refresh()")
    feed = TrafficFeed()
    asked = feed.ask()
    assert asked is not None
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(query(asked[0]), asked[1])
        feed.answered(cursor.fetchall())
    catalog = catalog_of(database)
    everywhere, at_night = (feed.curve(catalog.campaigns[n]) for n in (free, bound))
    assert everywhere[3] == pytest.approx(everywhere[12], rel=0.01)
    assert at_night[3] > 10 * at_night[12]
