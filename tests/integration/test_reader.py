"""The reader: every caller is answered exactly once: its row, None, or in time "unavailable"."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import uvloop

from prefork_ads.db.queries import query
from prefork_ads.db.reader import (
    AWAY_AFTER_S,
    QUICK_S,
    SHORTEST_LINE,
    SLOW_S,
    STANDS_AFTER_S,
    LookupLine,
    Reader,
)
from prefork_ads.metrics import CELLS, LOOKUP_KEYS, Counter, Gauge
from tests.cluster import Cluster
from tests.conftest import Database
from tests.proxy import Proxy

AWAY = "unavailable"

SLEEPS = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
WAITS_FOR_A_LOCK = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


def key(number: int) -> str:
    return str(UUID(int=number))


class Desk:
    """A line with its readers, and every answer that was delivered."""

    def __init__(
        self,
        dsn: str,
        *,
        batch: int = 256,
        bound: int = 10_000,
        timeout_s: float = 5.0,
        readers: int = 1,
        prepare: str = query("ad_variant_prepare"),
        statement: str = query("ad_variant_lookup"),
    ) -> None:
        self.counters = [0] * CELLS
        self.gauges = [0] * len(Gauge)
        self.said: list[str] = []
        self.line: LookupLine[str] = LookupLine(
            unavailable=AWAY, batch=batch, bound=bound, timeout_s=timeout_s, gauges=self.gauges
        )
        self.readers = [
            Reader(
                self.line,
                dsn,
                prepare=prepare,
                statement=statement,
                timeout_s=timeout_s,
                counters=self.counters,
                gauges=self.gauges,
                report=self.said.append,
            )
            for _ in range(readers)
        ]

    def ask(self, wanted: str) -> "asyncio.Future[Any]":
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        # set_result fails the second time: a caller answered twice is an error of the test.
        assert self.line.look_up(wanted, future.set_result)
        return future

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(reader.run()) for reader in self.readers]
        try:
            await asyncio.gather(*(reader.connected.wait() for reader in self.readers))
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await scenario()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


def fill(database: Database, count: int) -> None:
    database.execute(
        "INSERT INTO ad_variant SELECT lpad(to_hex(n), 32, '0')::uuid, n, n, 300, 250, 'title ' || n,"
        " 'https://cdn.example/' || n, 'https://shop.example/' || n FROM generate_series(1, %s) AS n",
        count,
    )


def test_each_caller_gets_its_own_row_and_the_unknown_none(database: Database) -> None:
    fill(database, 300)

    async def scenario() -> None:
        desk = Desk(database.dsn, batch=64)
        async with desk.open():
            answers = await asyncio.gather(*(desk.ask(key(n)) for n in range(1, 351)))
        for n, row in enumerate(answers, start=1):
            if n <= 300:
                expected = (300, 250, f"title {n}", f"https://cdn.example/{n}")
                assert row[:7] == (key(n), n, n, *expected)
            else:
                assert row is None

    run(scenario)


def test_keys_that_come_together_share_one_query(database: Database) -> None:
    """The performance budget as a count: round trips per batch, not per request."""
    fill(database, 100)

    async def scenario() -> None:
        desk = Desk(database.dsn, batch=100)
        async with desk.open():
            await asyncio.gather(*(desk.ask(key(n)) for n in range(1, 101)))
        assert LOOKUP_KEYS.count(desk.counters) == 1
        assert LOOKUP_KEYS.sum(desk.counters) == 100

    run(scenario)


def test_a_batch_of_one_is_one_query_per_request(database: Database) -> None:
    fill(database, 10)

    async def scenario() -> None:
        desk = Desk(database.dsn, batch=1)
        async with desk.open():
            await asyncio.gather(*(desk.ask(key(n)) for n in range(1, 11)))
        assert LOOKUP_KEYS.count(desk.counters) == 10

    run(scenario)


def test_the_same_key_is_asked_for_once(database: Database) -> None:
    fill(database, 1)

    async def scenario() -> None:
        desk = Desk(database.dsn)
        async with desk.open():
            answers = await asyncio.gather(*(desk.ask(key(1)) for _ in range(50)))
        assert len(set(answers)) == 1
        assert LOOKUP_KEYS.sum(desk.counters) == 1

    run(scenario)


def test_several_readers_serve_one_line(database: Database) -> None:
    fill(database, 200)

    async def scenario() -> None:
        desk = Desk(database.dsn, batch=10, readers=3)
        async with desk.open():
            assert desk.gauges[Gauge.READERS_CONNECTED] == 3
            answers = await asyncio.gather(*(desk.ask(key(n)) for n in range(1, 201)))
        assert [row[1] for row in answers] == list(range(1, 201))
        assert desk.gauges[Gauge.READERS_CONNECTED] == 0

    run(scenario)


def test_past_the_bound_the_answer_is_no_at_once(database: Database) -> None:
    async def scenario() -> None:
        desk = Desk(database.dsn, bound=10)
        asked = [desk.ask(key(n % 5)) for n in range(10)]
        assert not desk.line.look_up(key(99), asked[0].set_result)
        async with desk.open():
            await asyncio.gather(*asked)
            assert await desk.ask(key(99)) is None

    run(scenario)


def test_a_locked_table_answers_unavailable_in_time_and_works_again(database: Database) -> None:
    """The server's statement_timeout, which aiopg delivers as a cancelled task."""
    fill(database, 1)

    async def scenario() -> None:
        desk = Desk(database.dsn, timeout_s=0.2)
        async with desk.open():
            with closing(database.connect(autocommit=False)) as blocker:
                blocker.cursor().execute("LOCK TABLE ad_variant IN ACCESS EXCLUSIVE MODE")
                assert await desk.ask(key(1)) == AWAY
                blocker.rollback()
            failures = 1
            # A machine that is busy may take as long for nothing.
            while (answer := await desk.ask(key(1))) == AWAY:
                failures += 1
            assert answer[0] == key(1)
        assert desk.counters[Counter.LOOKUP_FAILURES] == failures

    run(scenario)


def test_a_table_that_is_away_answers_unavailable(database: Database) -> None:
    async def scenario() -> None:
        desk = Desk(database.dsn)
        async with desk.open():
            database.execute("ALTER TABLE ad_variant RENAME TO elsewhere")
            assert await desk.ask(key(1)) == AWAY
            database.execute("ALTER TABLE elsewhere RENAME TO ad_variant")
            assert await desk.ask(key(1)) is None

    run(scenario)


def test_a_batch_whose_connection_dies_is_asked_again(database: Database) -> None:
    fill(database, 30)

    async def scenario() -> None:
        async with Proxy(database.dsn) as proxy:
            desk = Desk(proxy.dsn)
            async with desk.open():
                proxy.swallow_answers()
                asked = [desk.ask(key(n)) for n in range(1, 21)]
                await proxy.statement_seen.wait()
                # These wait behind the batch under way, and one of them joins it.
                asked += [desk.ask(key(n)) for n in range(20, 31)]
                proxy.cut()
                answers = await asyncio.gather(*asked)
            assert [row[1] for row in answers] == [*range(1, 21), *range(20, 31)]
            assert proxy.connections == 2

    run(scenario)


def test_nobody_waits_longer_than_the_limit_for_a_reader_that_is_busy() -> None:
    async def scenario() -> None:
        desk = Desk("host=/nowhere", timeout_s=2.0)
        desk.line.reader_connected()
        desk.line.expire(100.0)
        old = desk.ask(key(1))
        desk.line.expire(101.5)
        young = desk.ask(key(2))
        desk.line.expire(102.5)
        assert await old == AWAY
        assert not young.done()
        desk.line.expire(104.0)
        assert await young == AWAY
        assert desk.gauges[Gauge.LOOKUPS_WAITING] == 1, "as of before this sweep's answers"

    run(scenario)


def test_a_line_that_stands_is_cut_from_its_front() -> None:
    keys = 200_000
    now = time.monotonic()
    line: LookupLine[str] = LookupLine(
        unavailable=AWAY, batch=10, bound=keys, timeout_s=5.0, gauges=[0] * len(Gauge)
    )
    line.reader_connected()
    line.expire(now)
    given_up: list[int] = []

    def ask(number: int) -> None:
        def deliver(answer: object) -> None:
            if answer == AWAY:
                given_up.append(number)

        assert line.look_up(str(number), deliver)

    async def answer_some() -> None:
        connection: Any = SimpleNamespace(closed=False)
        line.deliver(await line.take(connection), {}, 0.001)

    for number in range(keys):
        ask(number)
    asyncio.run(answer_some())
    line.expire(now + 0.5)
    assert given_up == [], "once is no reason"
    asyncio.run(answer_some())
    began = time.process_time()
    line.expire(now + 0.75)
    # It took 13 s where each key that goes was looked for behind those that had gone.
    assert time.process_time() - began < 5
    assert given_up == list(range(20, keys - SHORTEST_LINE))
    assert (line.is_crowded, line.is_full()) == (True, True)
    for _ in range(0, SHORTEST_LINE, 10):
        asyncio.run(answer_some())
    for looks in range(20):
        line.expire(now + 1 + looks / 4)
    assert (line.is_crowded, line.is_full()) == (False, False)


class Queue:
    """A line without PostgreSQL: batches take as long as a test says."""

    def __init__(self, *, batch: int = 10, readers: int = 1, timeout_s: float = 5.0) -> None:
        self.line: LookupLine[str] = LookupLine(
            unavailable=AWAY,
            batch=batch,
            bound=100_000,
            timeout_s=timeout_s,
            gauges=[0] * len(Gauge),
        )
        for _ in range(readers):
            self.line.reader_connected()
        self._looked_at = time.monotonic()
        self._asked = 0
        self.look()

    def ask(self, number: int) -> bool:
        """Whether so many got in line."""
        asked = range(self._asked, self._asked + number)
        self._asked += number
        return all(self.line.look_up(str(one), lambda _: None) for one in asked)

    def answer(self, *took_s: float) -> list[int]:
        """So many batches, full as long as there are enough keys; how many each had. inf: it failed."""

        async def batches() -> list[int]:
            connection: Any = SimpleNamespace(closed=False)
            sizes = []
            for one_s in took_s:
                batch = await self.line.take(connection)
                sizes.append(len(batch))
                if one_s == math.inf:
                    self.line.fail(batch)
                else:
                    self.line.deliver(batch, {}, one_s)
            return sizes

        return asyncio.run(batches())

    def look(self) -> None:
        self._looked_at += 0.25
        self.line.expire(self._looked_at)


def test_batches_grow_while_full_ones_are_quick() -> None:
    queue = Queue(batch=2000)
    queue.ask(10_000)
    quick_s = 0.9 * QUICK_S
    assert queue.answer(*[quick_s] * 5) == [256, 512, 1024, 2000, 2000]
    queue.answer(*[quick_s] * 3)
    queue.ask(10_000)
    assert queue.answer(quick_s) == [1000], "halved by one that was not full"


def test_a_batch_does_not_take_all_who_wait() -> None:
    """While PostgreSQL looks some up, the worker answers the others."""
    queue = Queue(batch=2000)
    queue.ask(256 + 511)
    assert queue.answer(0.001) == [256]
    queue.ask(10_000)
    assert queue.answer(0.001, 0.001) == [256, 512]


def test_batches_grow_while_who_comes_is_sent_away() -> None:
    """There is no line then by which to see how many would like to be in it."""
    queue = Queue(batch=2000)
    queue.ask(512)
    queue.answer(SLOW_S, SLOW_S)
    queue.look()
    assert queue.line.is_crowded
    queue.ask(256)
    assert queue.answer(0.9 * QUICK_S) == [256]
    queue.ask(100)
    assert queue.answer(0.01) == [100], "and are not halved by one that is not full"
    queue.ask(10_000)
    assert queue.answer(SLOW_S) == [512]


def test_batches_shrink_while_full_ones_are_slow() -> None:
    queue = Queue(batch=2000)
    queue.ask(10_000)
    slow_s = 1.1 * SLOW_S
    assert queue.answer(*[slow_s] * 5) == [256, 128, 64, 32, 32]
    assert queue.answer(QUICK_S / 2, SLOW_S, SLOW_S) == [32, 64, 64], "between the two they stay"


def test_a_batch_of_twice_as_many_ends_before_the_time_limit() -> None:
    queue = Queue(batch=2000, timeout_s=0.4)
    queue.ask(10_000)
    assert queue.answer(0.049, 0.051, 0.099, 0.101, 0.051) == [256, 512, 512, 512, 256]


def test_a_batch_is_full_by_the_limit_of_when_it_was_taken() -> None:
    """Another reader's may have changed it since."""
    queue = Queue(batch=2000, readers=2)
    queue.ask(20_000)

    async def by_turns() -> list[int]:
        connection: Any = SimpleNamespace(closed=False)
        sizes, under_way = [], [await queue.line.take(connection)]
        for _ in range(8):
            under_way.append(await queue.line.take(connection))
            sizes.append(len(under_way[0]))
            queue.line.deliver(under_way.pop(0), {}, 0.005)
        return sizes

    assert asyncio.run(by_turns()) == [256, 256, 512, 512, 1024, 1024, 2000, 2000]


def test_a_promise_is_kept_while_batches_take_longer_than_a_look_is_apart() -> None:
    queue = Queue()
    queue.ask(100)
    crowded = []
    for _ in range(4):
        queue.answer(0.5)
        for _ in range(2):
            queue.look()
            crowded.append(queue.line.is_crowded)
    assert crowded == [False] * 2 + [True] * 6


def test_a_batch_that_failed_is_followed_by_a_smaller_one() -> None:
    queue = Queue(batch=2000)
    queue.ask(10_000)
    assert queue.answer(math.inf, SLOW_S) == [256, 128]


def test_batches_that_are_not_full_change_nothing() -> None:
    queue = Queue(batch=2000)
    for took_s in (0.001, 10.0):
        queue.ask(255)
        assert queue.answer(took_s) == [255]
    queue.ask(10_000)
    assert queue.answer(SLOW_S) == [256]


def test_no_batch_has_more_keys_than_it_may() -> None:
    queue = Queue(batch=1)
    queue.ask(10)
    assert queue.answer(0.001, 10.0, math.inf, 0.001) == [1, 1, 1, 1]


def test_a_line_is_no_longer_than_full_batches_promise() -> None:
    """Known before anybody waits: whoever is let in and cannot be answered in time costs the others."""
    queue = Queue()
    queue.ask(20)
    queue.answer(0.02, 0.01)
    queue.look()
    promised = int(10 / 0.01 * STANDS_AFTER_S)
    assert queue.line.is_crowded
    assert queue.ask(promised)
    assert queue.line.is_full()
    assert not queue.ask(1)


def test_each_reader_answers_as_much() -> None:
    queue = Queue(readers=3)
    queue.ask(20)
    queue.answer(0.01, 0.01)
    queue.look()
    assert queue.ask(3 * int(10 / 0.01 * STANDS_AFTER_S))
    assert not queue.ask(1)


def test_a_batch_that_is_not_full_bounds_nothing() -> None:
    queue = Queue()
    for _ in range(2):
        queue.ask(9)
        queue.answer(10.0)
    queue.look()
    assert not queue.line.is_crowded


def test_one_batch_that_met_a_pause_bounds_nothing() -> None:
    queue = Queue()
    queue.ask(10)
    queue.answer(10.0)
    queue.look()
    assert not queue.line.is_crowded


def test_a_promise_lasts_until_the_batches_are_not_full_any_more() -> None:
    queue = Queue()
    queue.ask(20)
    queue.answer(0.01, 0.01)
    queue.look()
    looks = 0
    while queue.line.is_crowded:
        queue.look()
        looks += 1
    assert 1 < looks < 20, "by doubling"
    assert queue.ask(100_000)


def test_a_pause_of_postgresql_is_waited_for_whatever_was_promised() -> None:
    queue = Queue()
    queue.ask(20)
    queue.answer(0.01, 0.01)
    queue.look()
    queue.line.reader_lost()
    assert queue.ask(100_000)


def test_nobody_waits_longer_than_the_limit_for_a_query_under_way(database: Database) -> None:
    """A connection that has gone silent is given up later than the callers' time is over."""
    fill(database, 2)

    async def scenario() -> None:
        async with Proxy(database.dsn) as proxy:
            desk = Desk(proxy.dsn, timeout_s=15.0)
            async with desk.open():
                proxy.swallow_answers()
                asked = desk.ask(key(1))
                await proxy.statement_seen.wait()
                desk.line.expire(time.monotonic() + 15.0)
                assert await asked == AWAY
                # Asked for anew by who still has time, it is answered once the connection is replaced.
                again = desk.ask(key(1))
                proxy.cut()
                assert (await again)[0] == key(1)
                # And nobody is left that would be answered twice, or counted for ever.
                desk.line.expire(time.monotonic())
                assert desk.gauges[Gauge.LOOKUPS_WAITING] == 0

    run(scenario)


def test_a_query_that_comes_back_after_its_callers_left_is_for_nobody(database: Database) -> None:
    fill(database, 2)

    async def scenario() -> None:
        desk = Desk(database.dsn, timeout_s=15.0)
        async with desk.open():
            with closing(database.connect(autocommit=False)) as blocker:
                blocker.cursor().execute("LOCK TABLE ad_variant IN ACCESS EXCLUSIVE MODE")
                asked = desk.ask(key(1))
                while not database.fetch(WAITS_FOR_A_LOCK)[0][0]:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                desk.line.expire(time.monotonic() + 15.0)
                assert await asked == AWAY
                blocker.rollback()
            assert (await desk.ask(key(1)))[0] == key(1)

    run(scenario)


def test_while_postgresql_is_away_nobody_is_let_into_the_line(database: Database) -> None:
    fill(database, 1)

    async def scenario() -> None:
        async with Proxy(database.dsn) as proxy:
            # It is without one from some time in between on.
            before = time.monotonic()
            desk = Desk(proxy.dsn)
            after = time.monotonic()
            # A moment without a connection is bridged by waiting, a longer one is not.
            waiting = desk.ask(key(1))
            desk.line.expire(before + 0.9 * AWAY_AFTER_S)
            also_waiting = desk.ask(key(1))
            desk.line.expire(after + AWAY_AFTER_S)
            assert not desk.line.look_up(key(1), lambda _: None)
            async with desk.open():
                assert (await waiting)[0] == key(1)
                assert (await also_waiting)[0] == key(1)
                desk.line.expire(time.monotonic() + 60)
                assert (await desk.ask(key(1)))[0] == key(1)

    run(scenario)


def test_a_query_that_a_standby_ends_for_its_replay_is_asked_again() -> None:
    slow = (
        "SELECT id::text, pause.s FROM ad_variant, pause, pg_sleep(pause.s)"
        " WHERE id = ANY (%(keys)s::uuid[])"
    )
    with Cluster() as cluster:
        primary = cluster.primary()
        database = primary.make_database("conflict")
        fill(database, 1)
        database.execute("CREATE TABLE pause AS SELECT 60 AS s")
        standby = cluster.standby_of(primary, max_standby_streaming_delay="0")

        async def scenario() -> None:
            desk = Desk(standby.dsn("conflict"), timeout_s=60.0, prepare="SELECT", statement=slow)
            watch = Database("conflict", standby.dsn("conflict"))
            async with desk.open():
                asked = desk.ask(key(1))
                while not watch.fetch(SLEEPS)[0][0]:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                with closing(database.connect(autocommit=False)) as writer:
                    cursor = writer.cursor()
                    cursor.execute("LOCK TABLE ad_variant IN ACCESS EXCLUSIVE MODE")
                    cursor.execute("UPDATE pause SET s = 0")
                    writer.commit()
                assert await asked == (key(1), 0)
            assert any("conflict with recovery" in words for words in desk.said)

        run(scenario)


def test_a_reader_says_when_it_is_connected_again(database: Database) -> None:
    async def scenario() -> None:
        async with Proxy(database.dsn) as proxy:
            desk = Desk(proxy.dsn)
            async with desk.open():
                [reader] = desk.readers
                proxy.swallow_answers()
                asked = desk.ask(key(1))
                await proxy.statement_seen.wait()
                proxy.cut()
                assert await asked is None
                await reader.connected.wait()
        assert desk.said[0].startswith("reader: connection lost: ")
        assert desk.said[-1].startswith("reader: connected again after ")

    run(scenario)


def test_a_key_cannot_leave_its_array(database: Database) -> None:
    """Endpoints let only UUIDs through; the reader does not rely on it."""

    async def scenario() -> None:
        desk = Desk(database.dsn)
        async with desk.open():
            assert await desk.ask("'); DROP TABLE ad_variant; --") == AWAY
            assert await desk.ask(key(1)) is None

    run(scenario)


def test_a_changed_table_is_prepared_anew(database: Database) -> None:
    """Else "cached plan must not change result type" would answer every lookup of this connection."""
    fill(database, 1)

    async def scenario() -> None:
        desk = Desk(database.dsn)
        async with desk.open():
            assert (await desk.ask(key(1)))[0] == key(1)
            database.execute("ALTER TABLE ad_variant ALTER title TYPE varchar(2000)")
            assert (await desk.ask(key(1)))[0] == key(1)

    run(scenario)


def test_a_reader_that_was_just_cancelled_is_not_woken(database: Database) -> None:
    """At the end of a drain, between the cancellation and the task's last turn of the loop."""

    async def scenario() -> None:
        desk = Desk(database.dsn)
        task = asyncio.create_task(desk.readers[0].run())
        await desk.readers[0].connected.wait()
        # Past its first turn, it waits for keys.
        await asyncio.sleep(0)
        task.cancel()
        desk.line.expire(1.0)
        assert desk.line.look_up(key(1), lambda _: None)
        await asyncio.gather(task, return_exceptions=True)

    run(scenario)


def test_a_caller_that_fails_harms_nobody_else(database: Database) -> None:
    """Neither those in its batch nor the reader; and the same when all of them are given up."""
    fill(database, 2)

    def fail(_: object) -> None:
        raise LookupError("a caller's own bug")

    async def scenario() -> None:
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        desk = Desk(database.dsn)
        async with desk.open():
            assert desk.line.look_up(key(1), fail)
            rows = await asyncio.gather(desk.ask(key(1)), desk.ask(key(2)))
            assert [row[0] for row in rows] == [key(1), key(2)]
            assert (await desk.ask(key(2)))[0] == key(2), "by the same reader"
            assert desk.line.look_up(key(1), fail)
            late = desk.ask(key(1))
            desk.line.expire(time.monotonic() + 100)
            assert await late == AWAY
        assert [str(context["exception"]) for context in told] == ["a caller's own bug"] * 2
        assert desk.said == []

    run(scenario)
