"""The feed: a worker serves from the newest catalog, all of it or the one before, and the loop goes on."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from prefork_ads.ads import feed as feed_module
from prefork_ads.ads.catalog import Catalog, compile_catalog
from prefork_ads.ads.current import Current
from prefork_ads.ads.feed import CatalogFeed, Snapshot
from prefork_ads.ads.standing import Standing
from prefork_ads.db.steward import Steward
from prefork_ads.metrics import CELLS, Counter, Gauge
from tests.catalogs import fill
from tests.conftest import Database
from tests.integration.test_catalog_news import state
from tests.integration.test_steward import run


class Host:
    """A feed with its steward; polls so seldom that every change is told by a notification."""

    def __init__(
        self, dsn: str, *, on_disk: Snapshot | None = None, every_s: float = 1000.0
    ) -> None:
        self.counters, self.gauges = [0] * CELLS, [0] * len(Gauge)
        self.said: list[str] = []
        self.kept: list[Snapshot] = []
        self.served: list[tuple[Catalog, Standing]] = []
        self.current = Current()
        self.current.subscribe(lambda *serving: self.served.append(serving))
        self._on_disk = on_disk
        self.feed = CatalogFeed(
            self.current,
            every_s=every_s,
            counters=self.counters,
            gauges=self.gauges,
            report=self.said.append,
            load=self._load,
            keep=self.kept.append,
        )
        self.steward = Steward(
            dsn,
            [self.feed],
            counters=self.counters,
            gauges=self.gauges,
            report=self.said.append,
            channel="prefork_ads_catalog",
            heard=self.feed,
        )
        self.feed.hurry = lambda: self.steward.hurry(self.feed)

    async def _load(self) -> Snapshot | None:
        return self._on_disk

    @asynccontextmanager
    async def open(self, *, steward: bool = True) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self.feed.run())]
        if steward:
            tasks.append(asyncio.create_task(self.steward.run()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def until(self, reached: Callable[[], Any]) -> None:
        while not reached():  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    async def serves(self, version: int) -> Catalog:
        await self.until(lambda: self.current.catalog and self.current.catalog.version == version)
        assert self.current.catalog is not None
        return self.current.catalog


def test_a_worker_begins_with_the_whole_catalog(database: Database) -> None:
    fill(database, 300)

    async def scenario() -> None:
        host = Host(database.dsn)
        async with host.open():
            await host.feed.caught_up.wait()
            catalog = host.current.catalog
            assert catalog is not None
            assert catalog.version == 1
            assert len(catalog.campaigns) == len(catalog.creatives) == 300
            assert set(catalog.zones) == {"home"}
        [kept] = host.kept
        assert kept.stamp == state(database)
        assert host.gauges[Gauge.CATALOG_VERSION] == 1
        assert host.gauges[Gauge.CAMPAIGNS] == 300
        assert host.said == []

    run(scenario)


def test_an_empty_catalog_is_served(database: Database) -> None:
    """A new server without campaigns is up to date, not broken."""

    async def scenario() -> None:
        host = Host(database.dsn)
        async with host.open():
            await host.feed.caught_up.wait()
            assert (await host.serves(0)).campaigns == {}

    run(scenario)


def test_each_change_is_served_and_what_was_unchanged_stays(database: Database) -> None:
    fill(database, 20)

    async def scenario() -> None:
        host = Host(database.dsn)
        async with host.open():
            before = await host.serves(1)
            database.execute("UPDATE campaign SET name = 'renamed' WHERE key = 'c7'")
            renamed = next(c for c in (await host.serves(2)).campaigns.values() if c.key == "c7")
            assert renamed.name == "renamed"
            same = [number for number in before.campaigns if number != renamed.id]
            after = await host.serves(2)
            assert [after.campaigns[n].bit for n in same] == [before.campaigns[n].bit for n in same]
            database.execute(
                "UPDATE campaign SET status = 'archived' WHERE key = 'c7';"
                " UPDATE zone SET status = 'paused'"
            )
            catalog = await host.serves(3)
            assert "c7" not in {c.key for c in catalog.campaigns.values()}
            assert not catalog.zones["home"].active
            database.execute(
                "DELETE FROM creative WHERE campaign_id = (SELECT id FROM campaign WHERE key = 'c8')"
            )
            assert len((await host.serves(4)).creatives) == 19
        assert host.counters[Counter.CATALOGS_LOADED] == 4
        assert host.kept[-1].stamp == state(database)

    run(scenario)


def test_many_changes_at_once_are_served_as_one(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than MOST_CHANGES come as a whole catalog; the result is the same."""
    monkeypatch.setattr(feed_module, "MOST_CHANGES", 5)
    fill(database, 20)

    async def scenario() -> None:
        host = Host(database.dsn)
        async with host.open():
            await host.serves(1)
            database.execute("UPDATE campaign SET weight = 7")
            catalog = await host.serves(2)
        assert {campaign.weight for campaign in catalog.campaigns.values()} == {7}
        assert len(host.served) == 2

    run(scenario)


def test_a_change_that_nobody_was_told_of_is_seen_by_asking(database: Database) -> None:
    """Through a pooler, or with a connection that died: the period is the promise."""

    async def scenario() -> None:
        host = Host(database.dsn, every_s=0.05)
        async with host.open():
            await host.serves(0)
            database.execute(
                "ALTER TABLE advertiser DISABLE TRIGGER ALL;"
                " UPDATE catalog_state SET version = 1;"
                " INSERT INTO catalog_change (version, relation, id, content) VALUES (1, 'site', 1,"
                ' \'{"id": 1, "key": "news", "name": "n", "domain": "news.example",'
                ' "status": "active"}\')'
            )
            await host.serves(1)

    run(scenario)


def test_what_the_disk_has_is_served_before_postgresql_is_there(database: Database) -> None:
    fill(database, 30)

    async def scenario() -> None:
        first = Host(database.dsn)
        async with first.open():
            await first.feed.caught_up.wait()
        second = Host("host=127.0.0.1 port=1", on_disk=first.kept[0])
        async with second.open():
            catalog = await second.serves(1)
            assert len(catalog.campaigns) == 30
            assert not second.feed.caught_up.is_set()
        assert second.kept == []

    run(scenario)


def test_what_the_disk_lacks_is_asked_for(database: Database) -> None:
    """Only that: a host that starts does not fetch ten thousand campaigns for one change."""
    fill(database, 30)

    async def scenario() -> None:
        first = Host(database.dsn)
        async with first.open():
            await first.feed.caught_up.wait()
        database.execute("UPDATE campaign SET name = 'renamed' WHERE key = 'c7'")
        second = Host(database.dsn, on_disk=first.kept[0])
        async with second.open():
            await second.feed.caught_up.wait()
        assert [catalog.version for catalog, _ in second.served] == [1, 2]
        unchanged = next(iter(first.kept[0].rows["site"].values()))
        assert any(row is unchanged for row in second.kept[0].rows["site"].values())
        names = {row["name"] for row in first.kept[0].rows["campaign"].values()}
        assert "renamed" not in names, "what may be written in a thread is never altered"

    run(scenario)


def test_a_snapshot_of_another_database_is_replaced_whole(database: Database) -> None:
    """Its numbers of versions and ids mean other things."""
    fill(database, 3)
    foreign = Snapshot(
        1,
        "1600000000.000000",
        {"site": {77: {"id": 77, "key": "k", "name": "n", "domain": "d", "status": "active"}}},
    )

    async def scenario() -> None:
        host = Host(database.dsn, on_disk=foreign)
        async with host.open():
            await host.feed.caught_up.wait()
        assert set(host.kept[0].rows["site"]) == {1}
        assert host.kept[0].stamp == state(database)

    run(scenario)


def test_a_ledger_that_goes_back_is_followed(database: Database) -> None:
    """After a fail-over to a replica that lagged."""
    fill(database, 3)

    async def scenario() -> None:
        host = Host(database.dsn, every_s=0.05)
        async with host.open():
            await host.serves(1)
            database.execute("UPDATE campaign SET name = 'lost' WHERE key = 'c1'")
            await host.serves(2)
            database.execute(
                "DELETE FROM catalog_change WHERE version = 2; UPDATE catalog_state SET version = 1"
            )
            catalog = await host.serves(1)
            assert "lost" not in {c.name for c in catalog.campaigns.values()}

    run(scenario)


def test_a_catalog_that_cannot_be_compiled_leaves_the_one_before(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug in one version stops nobody: it is told of once, and the next change is tried."""
    fill(database, 3)

    async def scenario() -> None:
        host = Host(database.dsn, every_s=0.01)
        async with host.open():
            before = await host.serves(1)

            def broken(*_: object) -> Any:
                yield
                raise ZeroDivisionError("a bug")

            answers: list[object] = []
            take = CatalogFeed.answered

            def answered(feed: CatalogFeed, rows: Any) -> None:
                take(feed, rows)
                answers.append(rows)

            with monkeypatch.context() as patch:
                patch.setattr(Catalog, "patched", broken)
                patch.setattr(CatalogFeed, "answered", answered)
                database.execute("UPDATE campaign SET name = 'x' WHERE key = 'c1'")
                await host.until(lambda: host.said)
                # It goes on asking, and does not try the same catalog again and again.
                answers.clear()
                await host.until(lambda: len(answers) >= 5)
                assert host.gauges[Gauge.CATALOG_VERSION] == 1
                assert host.current.catalog is before
                assert host.counters[Counter.CATALOGS_FAILED] == 1
            assert "ZeroDivisionError: a bug" in host.said[0]
            database.execute("UPDATE campaign SET name = 'y' WHERE key = 'c1'")
            names = {c.name for c in (await host.serves(3)).campaigns.values()}
            assert "y" in names

    run(scenario)


def test_a_database_without_a_version_is_told_of_and_asked_again(database: Database) -> None:
    """One that is being restored has tables before it has rows."""
    database.execute("DELETE FROM catalog_state")

    async def scenario() -> None:
        host = Host(database.dsn, every_s=0.02)
        async with host.open():
            await host.feed.has_asked.wait()
            assert host.current.catalog is None
            database.execute("INSERT INTO catalog_state (version) VALUES (0)")
            await host.feed.caught_up.wait()
        assert set(host.said) == {
            "catalog: PostgreSQL knows of no version: catalog_state has no row"
        }

    run(scenario)


def test_what_budgets_said_holds_in_the_next_catalog(database: Database) -> None:
    """And whoever is told of a catalog is told before anything is served from it."""
    fill(database, 3)

    async def scenario() -> None:
        host = Host(database.dsn)
        async with host.open():
            catalog = await host.serves(1)
            campaign = next(c for c in catalog.campaigns.values() if c.key == "c2")
            assert host.current.standing is not None
            host.current.standing.close(campaign.bit)
            seen: list[bool] = []
            host.current.subscribe(lambda new, _: seen.append(host.current.catalog is new))
            database.execute("UPDATE campaign SET name = 'x' WHERE key = 'c1'")
            catalog = await host.serves(2)
            standing = host.current.standing
            assert standing is not None
            bit = catalog.campaigns[campaign.id].bit
            assert not standing.open >> bit & 1
            assert standing.open
            assert seen == [True, False]

    run(scenario)


def test_the_loop_serves_while_a_catalog_is_compiled(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two steps of it others have their turn; a count, since a busy machine has no clock."""
    # How many steps a slice has is a matter of how fast the machine is; here it has one.
    monkeypatch.setattr(feed_module, "SLICE_S", 0.0)
    fill(database, 2000)

    async def scenario() -> None:
        host = Host(database.dsn)
        async with host.open():
            await host.feed.caught_up.wait()
        [kept] = host.kept
        steps = sum(1 for _ in compile_catalog(kept.rows, kept.version))
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        again = Host("host=127.0.0.1 port=1", on_disk=kept)
        turning = asyncio.create_task(turn())
        async with again.open(steward=False):
            await again.serves(1)
        turning.cancel()
        assert steps > 100
        assert turns >= steps

    run(scenario)
