"""Leases: whatever happens to workers and calls, a goal is never exceeded, and it is reached."""

import datetime
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import pytest

from tests.conftest import Database
from tests.integration.lease_bed import WINDOW_S, Play, make_campaign
from tests.support import wait_until

# Today at noon, for partitions are made for days near today.
NOON_S = time.time() // 86_400 * 86_400 + 43_200.0


@contextmanager
def play(
    database: Database, campaign: int, seed: int = 1, start_s: float = NOON_S
) -> Iterator[Play]:
    stage = Play(database, campaign, seed, start_s)
    try:
        yield stage
    finally:
        stage.close()


def misadventure(stage: Play, goal: int, daily: int | None = None) -> None:
    """One step in which anything may happen."""
    die = stage.random
    stage.now_s += die.choice((0.05, 0.3, 1.0, 3.0))
    while len(stage.alive) < 4:
        stage.start_worker()
    player = die.choice(stage.alive)
    what = die.random()
    wants = player.served + die.choice((0, 1, 5, 40, 200))
    if what < 0.35:
        stage.take(player, wants)
    elif what < 0.42:
        stage.ask_and_hang_up(player, wants, arrives=die.random() < 0.5)
    elif what < 0.72:
        stage.serve(player, die.randrange(1, 60))
        stage.fire(die.randrange(60))
    elif what < 0.86:
        stage.ship(player)
    elif what < 0.90:
        stage.kill(player)
    elif what < 0.96:
        stage.settle()
    else:
        stage.late_calls_arrive()
    # The truth is what people saw, not what PostgreSQL knows of it by now.
    assert sum(stage.fired.values()) <= goal
    assert daily is None or max(stage.fired.values(), default=0) <= daily


def finish(stage: Play, goal: int) -> int:
    """No more misadventures: the rest is served."""
    for _ in range(400):
        stage.now_s += 2.0
        while len(stage.alive) < 4:
            stage.start_worker()
        for player in stage.alive:
            stage.take(player, player.served + 20)
            stage.serve(player, 20)
        stage.fire(1000)
        for player in stage.alive:
            stage.ship(player)
        stage.settle()
        assert sum(stage.fired.values()) <= goal
        if stage.billed() >= goal:
            break
        # Whoever holds what he does not use gives it back.
        for player in stage.alive:
            stage.take(player, player.served)
    return stage.billed()


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_no_more_is_served_than_the_goal(database: Database, seed: int) -> None:
    """Kills, calls that are lost or late, lines that wait, impressions before their decisions; by seed."""
    goal = 2000
    campaign = make_campaign(database, goal_kind="impressions", goal_total=goal)
    with play(database, campaign, seed) as stage:
        for _ in range(900):
            misadventure(stage, goal)
        assert stage.kills > 10
        assert finish(stage, goal) == goal
        # Not by refusing to bill: no impression was beyond the goal.
        assert stage.over_goal() == 0


def test_no_day_gets_more_than_its_own_part(database: Database) -> None:
    """Across the midnight of the campaign's own time zone, with workers dying on both sides."""
    goal, daily = 3000, 300
    campaign = make_campaign(
        database,
        goal_kind="impressions",
        goal_total=goal,
        goal_daily=daily,
        time_zone="Asia/Kathmandu",
    )
    # A few minutes before midnight in Kathmandu (18:15 UTC).
    start_s = NOON_S + 6.25 * 3600 - 300
    with play(database, campaign, 11, start_s) as stage:
        for _ in range(900):
            misadventure(stage, goal, daily)
        assert len(stage.fired) == 2
        assert min(stage.fired.values()) > daily * 0.8
        assert stage.over_goal() == 0


def test_a_call_that_arrives_behind_a_later_one_changes_nothing(database: Database) -> None:
    """It would take back what the worker believes it has."""
    campaign = make_campaign(database, goal_kind="impressions", goal_total=1000)
    with play(database, campaign) as stage:
        worker = stage.start_worker()
        stage.take(worker, 0)
        stage.take(worker, 50)
        stage.ask_and_hang_up(worker, 10, arrives=False)
        assert worker.usable == 10
        stage.take(worker, 80)
        assert worker.usable == 80
        assert stage.call(worker, *worker.late.pop()) == []
        assert stage.run("SELECT granted FROM lease") == [(80,)]


def test_who_is_killed_with_its_lines_unshipped_is_not_settled(database: Database) -> None:
    """Its decisions are on people's screens, and nobody knows of them but its file."""
    campaign = make_campaign(database, goal_kind="impressions", goal_total=100)
    with play(database, campaign) as stage:
        worker, other = stage.start_worker(), stage.start_worker()
        for one in (worker, other):
            stage.take(one, 0)
        for _ in range(12):
            stage.take(worker, 100)
        stage.serve(worker, 30)
        held = worker.granted
        stage.kill(worker)
        stage.now_s += 600
        stage.take(other, 0)
        rows = stage.run(
            "SELECT * FROM lease_settle('here', %s::text[], '1 hour', %s)",
            [worker.holder, other.holder],
            stage.at,
        )
        assert rows == []
        for _ in range(12):
            stage.take(other, 100)
        assert other.granted == 100 - held
        stage.ship(worker)
        stage.run(
            "SELECT * FROM lease_settle('here', %s::text[], '1 hour', %s)", [other.holder], stage.at
        )
        # The decisions were made ten minutes ago and are too old to become impressions.
        for _ in range(12):
            stage.take(other, 100)
        assert other.granted == 100


def test_another_directory_s_keeper_settles_nobody_before_an_hour(database: Database) -> None:
    campaign = make_campaign(database, goal_kind="impressions", goal_total=100)
    with play(database, campaign) as stage:
        worker = stage.start_worker()
        stage.take(worker, 0)
        stage.take(worker, 10)
        settle = "SELECT holder, unused FROM lease_settle('elsewhere', '{}', '1 hour', %s)"
        stage.now_s += 3500
        assert stage.run(settle, stage.at) == []
        stage.now_s += 200
        assert stage.run(settle, stage.at) == [(worker.holder, 10)]
        assert stage.run("SELECT * FROM lease") == []


def test_who_was_taken_for_dead_is_told_and_starts_anew(database: Database) -> None:
    campaign = make_campaign(database, goal_kind="impressions", goal_total=100)
    with play(database, campaign) as stage:
        worker = stage.start_worker()
        since = "SELECT since FROM lease_holder WHERE holder = %s"
        stage.take(worker, 0)
        stage.take(worker, 10)
        before = stage.run(since, worker.holder)
        stage.now_s += 7200
        assert stage.run("SELECT unused FROM lease_settle('x', '{}', '1 hour', %s)", stage.at) == [
            (10,)
        ]
        stage.take(worker, 0)
        assert worker.granted == 0
        assert stage.run(since, worker.holder) != before


def test_a_decision_is_open_for_as_long_as_its_beacon_is_taken(database: Database) -> None:
    """To the last second of the window; and its place is free again when nothing can come of it."""
    campaign = make_campaign(database, goal_kind="impressions", goal_total=10)
    with play(database, campaign) as stage:
        worker = stage.start_worker()
        stage.take(worker, 0)
        while worker.granted < 10:
            stage.take(worker, 10)
        stage.serve(worker, 10)
        stage.ship(worker)
        stage.now_s += WINDOW_S
        stage.take(worker, 20)
        assert worker.granted == 10
        # The minute of the decisions ends, and a margin for clocks that differ.
        stage.now_s += 60 + 10
        stage.take(worker, 20)
        assert worker.granted > 10


def test_an_impression_in_a_slow_journal_still_counts(database: Database) -> None:
    """Long after the window: a worker that cannot ship says so, and its minutes stay open meanwhile."""
    campaign = make_campaign(database, goal_kind="impressions", goal_total=50)
    with play(database, campaign) as stage:
        first, slow = stage.start_worker(), stage.start_worker()
        for one in (first, slow):
            stage.take(one, 0)
        while first.granted < 50:
            stage.take(first, 50)
        stage.serve(first, 50)
        stage.ship(first)
        stage.now_s += 1
        stage.fire(50)
        # All beacons went to one or the other; nothing of the slow one gets through for an hour.
        assert slow.beacons
        stage.ship(first)
        stage.now_s += 3000
        stage.take(slow, 0)
        for _ in range(5):
            stage.take(first, 100)
        assert first.granted == 50
        stage.ship(slow)
        stage.take(slow, 0)
        stage.take(first, 100)
        assert stage.billed() == 50
        assert first.granted == 50


def test_a_goal_that_is_set_later_counts_what_was_before(database: Database) -> None:
    """Impressions of decisions that needed no lease must not make room for others."""
    campaign = make_campaign(database)
    with play(database, campaign) as stage:
        stranger = stage.start_worker()
        stage.run(
            "INSERT INTO rollup_base (hour, zone_id, campaign_id, creative_id, country, device, filtered,"
            " requests, fills) VALUES (date_trunc('hour', %s), 1, %s, 1, '', '', false, 40, 40)",
            *(stage.at, campaign),
        )
        stranger.usable, stranger.ends_s = 40, stage.now_s + 86_400
        stranger.day = str(stage.at.date())
        stage.serve(stranger, 40)
        stranger.lines.clear()
        without_lease, stage.shown = stage.shown, []
        stage.run(
            "UPDATE campaign SET goal_kind = 'impressions', goal_total = 100 WHERE id = %s",
            campaign,
        )
        worker = stage.start_worker()
        stage.take(worker, 0)
        stage.take(worker, 20)
        stage.serve(worker, 20)
        stage.ship(worker)
        # In the same minute: 40 that had no lease are seen, 20 that had one are still open.
        with_lease, stage.shown = stage.shown, without_lease
        stage.fire(100)
        stage.shown = with_lease
        for player in stage.alive:
            stage.ship(player)
        assert stage.billed() == 40
        for _ in range(12):
            stage.take(worker, 1000)
        assert worker.granted == 60


def test_a_goal_that_is_set_before_anything_was_served_holds_nothing_back(
    database: Database,
) -> None:
    """Nothing is mixed then: an impression that arrives makes what is open less by one."""
    campaign = make_campaign(database)
    with play(database, campaign) as stage:
        stage.run(
            "UPDATE campaign SET goal_kind = 'impressions', goal_total = 100 WHERE id = %s",
            campaign,
        )
        worker = stage.start_worker()
        stage.take(worker, 0)
        stage.take(worker, 50)
        stage.serve(worker, 50)
        stage.fire(50)
        stage.ship(worker)
        assert stage.billed() == 50
        for _ in range(12):
            stage.take(worker, 1000)
        assert worker.granted == 100


def test_a_goal_that_is_taken_away_and_set_again_counts_what_was_between(
    database: Database,
) -> None:
    """As one that is set for the first time, though the campaign's budget is known already."""
    campaign = make_campaign(database, goal_kind="impressions", goal_total=100)
    with play(database, campaign) as stage:
        worker, stranger = stage.start_worker(), stage.start_worker()
        stage.take(worker, 0)
        stage.take(worker, 1)
        stage.take(worker, 0)
        stage.run("UPDATE campaign SET goal_kind = NULL, goal_total = NULL WHERE id = %s", campaign)
        stranger.usable, stranger.ends_s = 40, stage.now_s + 86_400
        stranger.day = str(stage.at.date())
        stage.serve(stranger, 40)
        stranger.lines.clear()
        without_lease, stage.shown = stage.shown, []
        stage.run(
            "UPDATE campaign SET goal_kind = 'impressions', goal_total = 100 WHERE id = %s",
            campaign,
        )
        stage.take(worker, 20)
        stage.serve(worker, 20)
        stage.ship(worker)
        with_lease, stage.shown = stage.shown, without_lease
        stage.fire(100)
        stage.shown = with_lease
        for player in stage.alive:
            stage.ship(player)
        assert stage.billed() == 40
        for _ in range(12):
            stage.take(worker, 1000)
        assert worker.granted == 60
        # Another edit of the same goal is none: the minutes that follow are not mixed.
        before = stage.run("SELECT mixed_until FROM budget")
        stage.now_s += 3600
        stage.run("UPDATE campaign SET goal_total = 1000 WHERE id = %s", campaign)
        stage.take(worker, 1000)
        assert worker.granted > 60
        assert stage.run("SELECT mixed_until FROM budget") == before


def test_a_goal_that_is_lowered_stops_grants_and_a_raised_one_allows_them(
    database: Database,
) -> None:
    campaign = make_campaign(database, goal_kind="impressions", goal_total=100)
    with play(database, campaign) as stage:
        worker = stage.start_worker()
        stage.take(worker, 0)
        for _ in range(12):
            stage.take(worker, 80)
        stage.run("UPDATE campaign SET goal_total = 50 WHERE id = %s", campaign)
        stage.take(worker, 90)
        assert worker.granted == 80
        stage.run("UPDATE campaign SET goal_total = 200 WHERE id = %s", campaign)
        stage.take(worker, 90)
        assert worker.granted == 90
        stage.run("UPDATE campaign SET status = 'paused' WHERE id = %s", campaign)
        stage.take(worker, 99)
        assert worker.granted == 90


def test_a_goal_in_clicks_is_open_until_it_is_reached(database: Database) -> None:
    campaign = make_campaign(database, goal_kind="clicks", goal_total=3)
    with play(database, campaign) as stage:
        worker = stage.start_worker()
        stage.take(worker, 0)
        stage.take(worker, 5000)
        assert worker.granted == 5000
        stage.run(
            "INSERT INTO delivery_day (campaign_id, day, clicks) VALUES (%s, %s, 3)",
            *(campaign, stage.at.date()),
        )
        stage.take(worker, 6000)
        assert worker.granted == 5000


def test_even_pacing_is_granted_up_to_the_plan_and_no_further(database: Database) -> None:
    campaign = make_campaign(database, goal_kind="impressions", goal_daily=1000, pacing="even")
    with play(database, campaign) as stage:
        worker, other = stage.start_worker(), stage.start_worker()
        for one in (worker, other):
            stage.take(one, 0)
            stage.take(one, 100)
            # Without a plan nothing is granted.
            assert one.granted == 0
        stage.ceiling = 30
        for _ in range(20):
            stage.take(worker, 100)
            stage.take(other, 100)
        assert worker.granted + other.granted == 30


@pytest.mark.parametrize(
    ("zone", "day", "begins", "hours"),
    [
        ("UTC", "2026-11-22", "2026-11-22 00:00+00", 24),
        ("Europe/Berlin", "2026-03-29", "2026-03-28 23:00+00", 23),
        ("Europe/Berlin", "2026-10-25", "2026-10-24 22:00+00", 25),
        # Midnight does not come: the day begins with the jump.
        ("Africa/Cairo", "2024-04-26", "2024-04-25 22:00+00", 23),
        # Midnight comes twice: the first is meant.
        ("America/Havana", "2024-11-03", "2024-11-03 04:00+00", 25),
        ("Asia/Kathmandu", "2026-11-22", "2026-11-21 18:15+00", 24),
    ],
)
def test_a_day_is_the_campaign_s_own(
    database: Database, zone: str, day: str, begins: str, hours: int
) -> None:
    rows = database.fetch(
        "SELECT day_begins(%s::date, %s), day_begins(%s::date + 1, %s) - day_begins(%s::date, %s)",
        *(day, zone, day, zone, day, zone),
    )
    assert rows == [
        (datetime.datetime.fromisoformat(begins + ":00"), datetime.timedelta(hours=hours))
    ]


def test_two_who_ask_at_once_do_not_get_the_same(database: Database) -> None:
    """The second waits for the campaign and then sees what the first was granted."""
    campaign = make_campaign(database, goal_kind="impressions", goal_total=10)
    take = (
        "SELECT granted FROM lease_take(%s, %s, 'here', 0, 60, ARRAY[%s],"
        " ARRAY[(now() AT TIME ZONE 'UTC')::date], ARRAY[10]::bigint[], ARRAY[NULL]::bigint[])"
    )
    # The campaign's row is there already: it is locked, not made.
    database.execute("INSERT INTO budget VALUES (%s, NULL)", campaign)
    with closing(database.connect(autocommit=False)) as first, ThreadPoolExecutor() as threads:
        cursor = first.cursor()
        for turn in range(1, 9):
            cursor.execute(take, ("host-1-a", turn, campaign))
        row = cursor.fetchone()
        assert row is not None
        waiting = threads.submit(database.fetch, take, "host-2-b", 1, campaign)
        wait_until(
            lambda: (
                database.fetch(
                    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                    " AND datname = current_database()"
                )
                == [(1,)]
            ),
            "the second to wait",
        )
        first.commit()
        granted = int(row[0]) + sum(int(n) for (n,) in waiting.result())
    assert granted == 10


def test_many_who_ask_serve_and_ship_at_once_never_wait_for_each_other_in_a_circle(
    database: Database,
) -> None:
    """Leases are taken and used in one order of locks, so there is no deadlock, and no goal is exceeded."""
    campaigns = [make_campaign(database, goal_kind="impressions", goal_total=500) for _ in range(6)]
    today = database.fetch("SELECT (now() AT TIME ZONE 'UTC')::date")[0][0]
    start = threading.Barrier(6)

    def use(number: int) -> None:
        with closing(database.connect()) as asks, closing(database.connect()) as ships:
            start.wait()
            granted = dict.fromkeys(campaigns, 0)
            for turn in range(1, 25):
                cursor = asks.cursor()
                cursor.execute(
                    "SELECT campaign_id, granted FROM lease_take(%s, %s, 'here', 0, 900, %s, %s::date[],"
                    " %s::bigint[], %s::bigint[])",
                    (
                        *(f"host-{number}-x", turn, campaigns, [today] * 6),
                        *([n + 7 for n in granted.values()], [None] * 6),
                    ),
                )
                now = dict(cursor.fetchall())
                # As a batch does, in another order than they were asked for.
                lines = "\n".join(
                    f"{c}\t{today}\t{int(time.time() // 60)}\t{now[c] - granted[c]}"
                    for c in reversed(campaigns)
                    if now[c] > granted[c]
                )
                ships.cursor().execute(
                    "SELECT ad_ingest(%s, '', %s, '', '', '', '1 day', '1 day')",
                    (f"host-{number}-x", lines),
                )
                granted = now

    with ThreadPoolExecutor(6) as threads:
        for using in [threads.submit(use, number) for number in range(6)]:
            using.result()
    sums = database.fetch(
        "SELECT sum(granted), sum(used), min(granted - used) FROM lease GROUP BY campaign_id"
    )
    assert all(granted <= 500 and granted == used and least >= 0 for granted, used, least in sums)


def test_what_is_over_is_forgotten(database: Database) -> None:
    """Of a past day also what was not used up: by whoever lives when all his lines of it are here."""
    campaign = make_campaign(database, goal_kind="impressions", goal_total=10)
    database.execute(
        "INSERT INTO delivery_minute (campaign_id, minute, day, decisions)"
        " SELECT %s, now() - n * interval '1 hour', current_date, 1 FROM unnest('{0,2,30}'::int[]) AS n",
        campaign,
    )
    # One lives, one cannot ship, one is dead and will be settled.
    database.execute(
        "INSERT INTO lease_holder VALUES ('lives', now(), 1, null, now(), now(), 900),"
        " ('late', now(), 1, null, now(), now() - interval '5 days', 900)"
    )
    database.execute(
        "INSERT INTO lease SELECT holder, number, current_date - days, 3, 3 - number"
        "  FROM unnest('{lives,late,dead}'::text[]) AS holder, generate_series(0, 1) AS number,"
        "       unnest('{0,5}'::int[]) AS days"
    )
    database.execute("SELECT lease_clean()")
    assert database.fetch(
        "SELECT holder, campaign_id FROM lease WHERE day < current_date - 1 ORDER BY 1"
    ) == [("dead", 1), ("late", 1)]
    assert database.fetch("SELECT count(*) FROM lease WHERE day = current_date") == [(6,)]
    database.execute("DELETE FROM lease_holder WHERE holder = 'late'; SELECT lease_clean()")
    assert database.fetch("SELECT count(*) FROM delivery_minute") == [(1,)]
