"""What campaigns have had of their goals, read from the tables that budgets are kept in."""

import datetime
from contextlib import closing
from typing import Any

import psycopg2.extensions
import pytest

from prefork_ads.db.goals import Delivered, delivered
from prefork_ads.errors import SchemaError
from prefork_ads.report import goals
from tests.conftest import Database
from tests.integration.lease_bed import Play, make_campaign

NOON = datetime.datetime(2026, 11, 22, 12, tzinfo=datetime.UTC)
NOON_S = NOON.timestamp()


def had(database: Database, campaign: int, day: str, impressions: int, clicks: int) -> None:
    database.execute(
        "INSERT INTO delivery_day (campaign_id, day, decisions, impressions, clicks)"
        " VALUES (%s, %s, %s, %s, %s)",
        *(campaign, day, impressions * 2, impressions, clicks),
    )


def looked_at(
    database: Database, *keys: str, at_s: float = NOON_S
) -> dict[int, tuple[int, int, int]]:
    """By campaign what it has had in all and today, and what is held."""
    found, _ = delivered(database.dsn, keys or None, 10, at_s)
    return {one.id: (one.in_all, one.today, one.held) for one in found}


def test_each_has_what_its_kind_counts_on_the_day_of_its_own_zone(database: Database) -> None:
    """Noon in UTC is the next day in Auckland, and the same in Honolulu, at two in the morning."""
    wanted = {"goal_kind": "impressions", "goal_total": 1000}
    auckland = make_campaign(database, time_zone="Pacific/Auckland", **wanted)
    honolulu = make_campaign(database, time_zone="Pacific/Honolulu", **wanted)
    clicks = make_campaign(database, goal_kind="clicks", goal_daily=10)
    fresh = make_campaign(database, **wanted)
    for campaign in (auckland, honolulu, clicks):
        for day, impressions in ("2026-11-21", 100), ("2026-11-22", 20), ("2026-11-23", 3):
            had(database, campaign, day, impressions, impressions // 2)
    assert looked_at(database) == {
        auckland: (123, 3, 0),
        honolulu: (123, 20, 0),
        clicks: (61, 10, 0),
        fresh: (0, 0, 0),
    }
    late = NOON_S + 23 * 3600
    assert looked_at(database, at_s=late)[auckland] == (123, 0, 0)
    assert looked_at(database, at_s=late)[honolulu] == (123, 3, 0)


def test_what_workers_hold_is_what_they_were_granted_and_have_not_used(database: Database) -> None:
    """Of all workers and days, and nobody's debt makes it less."""
    campaign = make_campaign(database, goal_kind="impressions", goal_total=1000)
    other = make_campaign(database, goal_kind="impressions", goal_total=1000)
    database.execute(
        "INSERT INTO lease (holder, campaign_id, day, granted, used) VALUES"
        " ('a', %s, '2026-11-22', 100, 30), ('a', %s, '2026-11-21', 50, 45),"
        " ('b', %s, '2026-11-22', 10, 12), ('b', %s, '2026-11-22', 7, 0)",
        *(campaign, campaign, campaign, other),
    )
    had(database, campaign, "2026-11-22", 42, 0)
    assert looked_at(database) == {campaign: (42, 42, 75), other: (0, 0, 7)}


def test_the_figures_are_those_by_which_leases_are_granted(database: Database) -> None:
    """While workers serve: what `lease_take` says that was had, and what it counts as outstanding."""
    campaign = make_campaign(database, goal_kind="impressions", goal_total=300)
    play = Play(database, campaign, 7, NOON_S)
    try:
        workers = [play.start_worker() for _ in range(3)]
        for turn in range(1, 30):
            for worker in workers:
                play.take(worker, turn * 5)
                play.serve(worker, 3)
                play.fire(2)
                play.ship(worker)
            play.now_s += 1
            ((in_all, today, held),) = looked_at(database, at_s=play.now_s).values()
            assert in_all == today == play.billed()
            ((outstanding,),) = play.run(
                "SELECT coalesce(sum(granted - used), 0)::bigint FROM lease"
            )
            assert held == outstanding
        assert held > 0
        assert in_all > 0
    finally:
        play.close()


GOAL = {"goal_kind": "impressions", "goal_daily": 24}


def test_archived_ones_come_only_when_they_are_named_and_so_do_those_without_a_goal(
    database: Database,
) -> None:
    plain = make_campaign(database, key="plain")
    paused = make_campaign(database, key="paused", status="paused", **GOAL)
    by_owner = make_campaign(database, key="by-owner", advertiser_status="paused", **GOAL)
    draft = make_campaign(database, key="draft", status="draft", **GOAL)
    archived = make_campaign(database, key="archived", status="archived", **GOAL)
    gone = make_campaign(
        database, key="gone", status="paused", advertiser_status="archived", **GOAL
    )
    found, bare = goals.load(database.dsn)
    assert bare == []
    assert {one.campaign.id: one.state for one in found} == {
        paused: "paused",
        by_owner: "paused",
        draft: "draft",
    }
    found, bare = goals.load(database.dsn, ["plain", "archived", "gone", "draft", "none"])
    assert bare == ["plain"]
    assert {one.campaign.id: one.state for one in found} == {
        archived: "archived",
        gone: "archived",
        draft: "draft",
    }
    assert plain not in {one.campaign.id for one in found}


def test_it_follows_the_traffic_of_its_own_sites(database: Database) -> None:
    """As the pacer does: all has traffic the whole day, the site only before noon."""
    database.execute(
        "INSERT INTO site (key, name, domain) VALUES ('news', 'News', 'news.example');"
        " INSERT INTO zone (key, site_id, name, sizes) VALUES ('home', 1, 'Home', '{300x250}');"
        " INSERT INTO traffic_hour SELECT hour, zone, CASE WHEN zone = 0 THEN 100 ELSE 10 END"
        " FROM generate_series(date_trunc('day', now() - interval '2 days', 'UTC'),"
        "  date_trunc('day', now() - interval '1 day', 'UTC') - interval '1 hour', '1 hour') AS hour,"
        " generate_series(0, 1) AS zone"
        " WHERE zone = 0 OR extract(hour FROM hour AT TIME ZONE 'UTC') < 12"
    )
    free = make_campaign(database, pacing="even", **GOAL)
    bound = make_campaign(
        database, pacing="even", targeting='{"site": {"include": ["news"]}}', **GOAL
    )
    found, _ = goals.load(database.dsn, at_s=NOON_S)
    even = {one.campaign.id: one.today.even for one in found}
    assert even[free] == 12
    # The least an hour has is a twentieth of its even share.
    assert even[bound] == 23


def test_a_goal_in_tables_is_one_in_the_record(database: Database) -> None:
    """Column for column."""
    starts = datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC)
    columns: dict[str, Any] = {
        "goal_kind": "clicks", "goal_total": 100, "goal_daily": 10, "pacing": "even",
        "time_zone": "Asia/Kolkata", "starts_at": starts, "ends_at": NOON,
    }  # fmt: skip
    campaign = make_campaign(database, key="all-of-it", **columns)
    ((one,), _) = delivered(database.dsn, None, 10, NOON_S)
    assert one == Delivered(
        campaign, "all-of-it", "active", "clicks", 100, 10, "even", "Asia/Kolkata",
        starts.timestamp(), NOON_S, NOON_S, 0, 0, 0,
    )  # fmt: skip
    ((now,), _) = delivered(database.dsn, None, 10)
    assert abs(now.at_s - datetime.datetime.now(datetime.UTC).timestamp()) < 60


def test_who_may_only_read_these_tables_may_ask(database: Database) -> None:
    """And no other table is needed."""
    make_campaign(database, **GOAL)
    role = f"{database.name}_looker"
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'hunter2'")
        try:
            dsn = psycopg2.extensions.make_dsn(database.dsn, user=role, password="hunter2")
            cursor.execute(
                f"GRANT SELECT ON advertiser, campaign, site, zone, delivery_day, traffic_hour TO {role}"
            )
            with pytest.raises(SchemaError, match="permission denied for table lease"):
                goals.load(dsn)
            cursor.execute(f"GRANT SELECT ON lease TO {role}")
            (one,), _ = goals.load(dsn)
            assert one.today.goal == 24
        finally:
            cursor.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
