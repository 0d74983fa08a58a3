"""The steward: every errand is run in its time, whatever becomes of the others and of the connection."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, closing
from typing import Any

import uvloop

from prefork_ads.db.steward import Steward
from prefork_ads.metrics import CELLS, Counter, Gauge
from tests.conftest import Database
from tests.proxy import Proxy

# Longer than any test: who is asked sooner was hurried.
NEVER_S = 1000.0


class Recorder:
    """An errand that remembers what became of it."""

    def __init__(self, name: str = "catalog_state", every_s: float = NEVER_S) -> None:
        self.every_s = every_s
        self.name: str | None = name
        self.parameters: dict[str, Any] = {}
        self.asked = self.failures = 0
        self.rows: list[list[tuple[Any, ...]]] = []
        self.on_ask: Callable[[], None] = lambda: None
        self.on_failure: Callable[[], None] = lambda: None
        self._changed = asyncio.Event()

    def ask(self) -> tuple[str, Mapping[str, Any]] | None:
        self.asked += 1
        self._changed.set()
        self.on_ask()
        return None if self.name is None else (self.name, self.parameters)

    def answered(self, rows: list[tuple[Any, ...]]) -> None:
        self.rows.append(rows)
        self._changed.set()

    def failed(self) -> None:
        self.failures += 1
        self._changed.set()
        self.on_failure()

    async def until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            self._changed.clear()
            await self._changed.wait()

    async def answers(self, count: int) -> None:
        await self.until(lambda: len(self.rows) >= count)


class House:
    """A steward with its errands; the first is the one that hears."""

    def __init__(self, dsn: str, *errands: Recorder) -> None:
        self.counters, self.gauges = [0] * CELLS, [0] * len(Gauge)
        self.said: list[str] = []
        self.steward = Steward(
            dsn,
            errands,
            counters=self.counters,
            gauges=self.gauges,
            report=self.said.append,
            channel="prefork_ads_catalog",
            heard=errands[0],
        )

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.steward.run())
        try:
            await self.steward.connected.wait()
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await scenario()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


def change_catalog(database: Database) -> None:
    database.execute(
        "INSERT INTO advertiser (key, name) SELECT 'a' || count(*), 'an advertiser' FROM advertiser"
    )


def stewards(database: Database) -> list[int]:
    rows = database.fetch(
        "SELECT pid FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'prefork-ads steward'"
    )
    return [pid for (pid,) in rows]


def test_leases_are_granted_whatever_isolation_the_database_has_by_default(
    database: Database,
) -> None:
    """In another one than the steward's they would be granted from a snapshot before their locks."""
    database.execute(
        f"ALTER DATABASE {database.name} SET default_transaction_isolation = 'serializable'"
    )

    async def scenario() -> None:
        errand = Recorder("lease_take")
        errand.parameters = {
            **{"holder": "x", "turn": 1, "journal": None, "unshipped_s": 0, "window_s": 900},
            **{"campaigns": [], "days": [], "wants": [], "ceilings": []},
        }
        house = House(database.dsn, errand)
        async with house.open():
            await errand.until(lambda: bool(errand.rows or errand.failures))
        assert (errand.failures, house.said) == (0, [])

    run(scenario)


def test_each_errand_is_run_in_its_own_time(database: Database) -> None:
    """One that has nothing to ask now is asked again in its time."""

    async def scenario() -> None:
        often, seldom = Recorder(every_s=0.02), Recorder("session_state")
        idle = Recorder(every_s=0.02)
        idle.name = None
        house = House(database.dsn, often, seldom, idle)
        async with house.open():
            await often.answers(5)
            await idle.until(lambda: idle.asked >= 5)
            assert house.gauges[Gauge.STEWARD_CONNECTED] == 1
        assert often.rows[0] == [(0, None)]
        assert len(seldom.rows) == 1
        assert idle.rows == []
        assert house.gauges[Gauge.STEWARD_CONNECTED] == 0
        assert house.said == []

    run(scenario)


def test_who_is_hurried_is_asked_at_once(database: Database) -> None:
    async def scenario() -> None:
        errand = Recorder()
        house = House(database.dsn, errand)
        async with house.open():
            await errand.answers(1)
            house.steward.hurry(errand)
            await errand.answers(2)

    run(scenario)


def test_who_is_hurried_while_under_way_is_asked_again(database: Database) -> None:
    """What it was hurried for may have happened behind the snapshot that it is answered from."""

    async def scenario() -> None:
        errand = Recorder()
        house = House(database.dsn, errand)

        def hurry_once() -> None:
            if errand.asked == 1:
                house.steward.hurry(errand)

        errand.on_ask = hurry_once
        async with house.open():
            await errand.answers(2)

    run(scenario)


def test_a_notification_hurries_the_errand_that_it_is_for(database: Database) -> None:
    """Between statements: nobody has to ask anything for it to arrive."""

    async def scenario() -> None:
        errand, other = Recorder(), Recorder("session_state")
        house = House(database.dsn, errand, other)
        async with house.open():
            await errand.answers(1)
            for version in (1, 2, 3):
                await asyncio.to_thread(change_catalog, database)
                await errand.until(lambda: errand.rows[-1][0][0] == version)  # noqa: B023
        assert len(other.rows) == 1

    run(scenario)


def test_many_notifications_are_few_questions(database: Database) -> None:
    """A thousand changes by somebody's script do not become a thousand queries of each worker."""

    async def scenario() -> None:
        errand = Recorder()
        house = House(database.dsn, errand)
        async with house.open():
            await errand.answers(1)
            since = time.monotonic()
            with closing(database.connect()) as connection, connection.cursor() as cursor:
                for _ in range(300):
                    cursor.execute("NOTIFY prefork_ads_catalog, '1'")
                    await asyncio.sleep(0)
            change_catalog(database)
            await errand.until(lambda: errand.rows[-1][0][0] == 1)
            assert errand.asked <= 3 + (time.monotonic() - since) / 0.02

    run(scenario)


def test_a_new_connection_asks_everything_at_once(database: Database) -> None:
    """A backend that was ended took notifications with it: nothing may wait for its period then."""

    async def scenario() -> None:
        errands = Recorder(), Recorder("session_state")
        house = House(database.dsn, *errands)
        async with house.open():
            for errand in errands:
                await errand.answers(1)
            [backend] = stewards(database)
            database.execute("SELECT pg_terminate_backend(%s)", backend)
            change_catalog(database)
            for errand in errands:
                await errand.answers(2)
            assert errands[0].rows[-1][0][0] == 1
            assert stewards(database) != [backend]
        assert any("connection lost" in line for line in house.said)
        assert any("connected again" in line for line in house.said)

    run(scenario)


def test_an_errand_whose_answer_is_lost_has_failed_and_is_asked_again(database: Database) -> None:
    async def scenario() -> None:
        errand = Recorder()
        async with Proxy(database.dsn) as proxy:
            house = House(proxy.dsn, errand)
            async with house.open():
                await errand.answers(1)
                proxy.swallow_answers()
                house.steward.hurry(errand)
                await proxy.statement_seen.wait()
                proxy.cut()
                await errand.until(lambda: errand.failures == 1)
                await errand.answers(2)
        assert house.counters[Counter.ERRANDS_FAILED] == 1

    run(scenario)


def test_an_errand_that_waits_for_a_lock_does_not_hold_up_the_others(database: Database) -> None:
    async def scenario() -> None:
        held, free = Recorder(every_s=0.05), Recorder("session_state", every_s=0.05)
        house = House(database.dsn, held, free)
        # Counted when the one fails: whoever is woken by it may come after the other's next answer,
        # which is there at once where PostgreSQL was quicker than this process.
        answered_by_then: list[int] = []
        held.on_failure = lambda: answered_by_then.append(len(free.rows))
        async with house.open():
            await held.answers(1)
            with closing(database.connect(autocommit=False)) as holder:
                holder.cursor().execute("LOCK TABLE catalog_state IN ACCESS EXCLUSIVE MODE")
                await held.until(lambda: held.failures >= 2)
                assert answered_by_then[1] > answered_by_then[0], "between two that waited"
            answered = len(held.rows)
            await held.answers(answered + 1)
        assert "steward: catalog_state failed: " in house.said[0]
        assert house.counters[Counter.ERRANDS_FAILED] == held.failures

    run(scenario)


def test_an_errand_that_is_broken_does_not_hold_up_the_others(database: Database) -> None:
    """Nor does it end the worker, which has requests to answer that know nothing of errands."""

    class CannotAsk(Recorder):
        def ask(self) -> tuple[str, Mapping[str, Any]] | None:
            super().ask()
            raise LookupError("what?")

    class CannotRead(Recorder):
        def answered(self, rows: list[tuple[Any, ...]]) -> None:
            super().answered(rows)
            raise LookupError("these?")

    async def scenario() -> None:
        mute, puzzled, well = CannotAsk(every_s=0.02), CannotRead(every_s=0.02), Recorder()
        well.every_s = 0.02
        house = House(database.dsn, mute, puzzled, well)
        async with house.open():
            for errand in (mute, puzzled, well):
                await errand.until(lambda: errand.asked >= 3)  # noqa: B023
            await well.answers(3)
        assert len(stewards(database)) <= 1, "all on one connection"
        assert house.counters[Counter.ERRANDS_FAILED] >= 6
        assert {line.partition(": ")[2] for line in house.said} == {
            "an errand is broken: CannotAsk: LookupError: what?",
            "an errand is broken: CannotRead: LookupError: these?",
        }

    run(scenario)


def test_a_notification_is_heard_after_a_statement_that_failed(database: Database) -> None:
    """aiopg's own way of waiting for one goes deaf with it."""

    async def scenario() -> None:
        errand, unlucky = Recorder(), Recorder("journal_segment_open")
        unlucky.parameters = {"segment": "s", "shipped": "no number"}
        house = House(database.dsn, errand, unlucky)
        async with house.open():
            await unlucky.until(lambda: unlucky.failures == 1)
            [backend] = stewards(database)
            change_catalog(database)
            await errand.until(lambda: errand.rows[-1][0][0] == 1)
            assert stewards(database) == [backend]

    run(scenario)


def test_a_steward_that_ends_leaves_nothing_behind(database: Database) -> None:
    async def scenario() -> None:
        house = House(database.dsn, Recorder(every_s=0.01))
        async with house.open():
            assert len(stewards(database)) == 1
        while stewards(database) or len(asyncio.all_tasks()) > 1:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    run(scenario)
