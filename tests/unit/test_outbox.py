"""The end of a tick: events first, then answers, each once, and none before its event is safe."""

from collections import deque
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefork_ads.http.message import Request
from prefork_ads.http.outbox import Outbox
from tests.unit.http_bed import Bed, Client, limits


class Loop:
    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []

    def tick(self) -> int:
        scheduled, self.soon[:] = self.soon[:], []
        for callback in scheduled:
            callback()
        return len(scheduled)


class Recorder:
    """A connection that says what is done to it."""

    def __init__(self, name: str, said: list[str]) -> None:
        self._name = name
        self._said = said
        self.then: Callable[[], None] | None = None

    def flush(self) -> None:
        self._said.append(self._name)
        if self.then is not None:
            self.then()

    def seal(self) -> None:
        self._said.append(f"seal {self._name}")

    def flush_sealed(self) -> None:
        self._said.append(f"sealed {self._name}")

    def unseal(self) -> None:
        self._said.append(f"unseal {self._name}")


class Disk:
    """A journal whose disk takes as long as a test wants."""

    def __init__(self, said: list[str] | None = None, *, syncs: bool = True) -> None:
        self.said = [] if said is None else said
        self.syncs = syncs
        self.works = True
        self._done: deque[Callable[[bool], None]] = deque()

    def write(self) -> bool:
        self.said.append("write")
        return self.works

    def sync(self, done: Callable[[bool], None], /) -> None:
        self.said.append("sync")
        self._done.append(done)

    @property
    def busy(self) -> int:
        return len(self._done)

    def end(self, safe: bool = True) -> None:
        self._done.popleft()(safe)


# -- answers leave with their tick -------------------------------------------------------------------


def test_one_callback_for_all_of_a_tick() -> None:
    loop, said = Loop(), list[str]()
    outbox = Outbox(loop.soon.append, Disk(said, syncs=False))
    outbox.add(Recorder("a", said))
    outbox.add(Recorder("b", said))
    assert said == []
    assert loop.tick() == 1
    assert said == ["write", "a", "b"]
    assert loop.tick() == 0


def test_what_is_added_while_flushing_goes_with_the_next_tick() -> None:
    loop, said = Loop(), list[str]()
    outbox = Outbox(loop.soon.append, Disk(said, syncs=False))
    first, second = Recorder("a", said), Recorder("b", said)
    first.then = lambda: outbox.add(second)
    outbox.add(first)
    loop.tick()
    assert said == ["write", "a"]
    loop.tick()
    assert said == ["write", "a", "write", "b"]


def test_a_flush_of_its_own_accord() -> None:
    """As a worker does before it stops; the callback that is under way then finds nothing."""
    loop, said = Loop(), list[str]()
    outbox = Outbox(loop.soon.append)
    outbox.flush()
    outbox.add(Recorder("a", said))
    outbox.flush()
    loop.tick()
    assert said == ["a"]
    outbox.add(Recorder("b", said))
    loop.tick()
    assert said == ["a", "b"]


def test_a_failed_write_is_told_before_anything_leaves() -> None:
    loop, said = Loop(), list[str]()
    disk = Disk(said, syncs=False)
    disk.works = False
    outbox = Outbox(loop.soon.append, disk)
    outbox.on_failure = lambda: said.append("refuse")
    outbox.add(Recorder("a", said))
    loop.tick()
    assert said == ["write", "refuse", "a"]


# -- answers wait for the disk -----------------------------------------------------------------------


def test_ticks_gather_while_the_disk_works() -> None:
    loop, said = Loop(), list[str]()
    disk = Disk(said)
    outbox = Outbox(loop.soon.append, disk)
    for name in "abc":
        outbox.add(Recorder(name, said))
        loop.tick()
    assert said == ["write", "seal a", "sync", "write", "write"]
    said.clear()
    disk.end()
    # One sync for two ticks, and what the running tick has written so far is in it.
    assert said == ["sealed a", "write", "seal b", "seal c", "sync"]
    said.clear()
    disk.end()
    assert said == ["sealed b", "sealed c"]
    assert not disk.busy


def test_a_tick_without_answers_asks_for_no_sync() -> None:
    loop = Loop()
    disk = Disk()
    outbox = Outbox(loop.soon.append, disk)
    outbox.flush()
    assert disk.said == ["write"]
    assert not disk.busy


def test_a_failed_sync_refuses_the_group_and_what_came_since() -> None:
    loop, said = Loop(), list[str]()
    disk = Disk(said)
    outbox = Outbox(loop.soon.append, disk)
    outbox.on_failure = lambda: said.append("refuse")
    outbox.add(Recorder("a", said))
    loop.tick()
    outbox.add(Recorder("b", said))
    loop.tick()
    said.clear()
    disk.end(safe=False)
    assert said == ["unseal a", "refuse", "b"]
    assert not disk.busy
    outbox.add(Recorder("c", said))
    loop.tick()
    disk.end()
    assert said[-1] == "sealed c"


def test_a_failed_write_waits_for_the_group_under_way() -> None:
    """The refusal may stand behind an answer that is only waiting for the disk."""
    loop, said = Loop(), list[str]()
    disk = Disk(said)
    outbox = Outbox(loop.soon.append, disk)
    outbox.on_failure = lambda: said.append("refuse")
    outbox.add(Recorder("a", said))
    loop.tick()
    said.clear()
    disk.works = False
    outbox.add(Recorder("b", said))
    loop.tick()
    assert said == ["write", "refuse"]
    disk.works = True
    disk.end()
    assert said[2:] == ["sealed a", "write", "seal b", "sync"]


class Times:
    """A stopwatch that numbers its rounds."""

    def __init__(self) -> None:
        self.running = False
        self.ended: list[int] = []
        self.gone: list[int] = []

    def begin(self) -> None:
        assert not self.running
        self.running = True

    def end(self) -> int:
        assert self.running
        self.running = False
        self.ended.append(len(self.ended))
        return self.ended[-1]

    def left(self, tick: int, /) -> None:
        self.gone.append(tick)


@pytest.mark.parametrize("safe", [True, False])
def test_each_round_is_timed_until_its_answers_leave(safe: bool) -> None:
    """Also a round that a group's end falls into, and that is cut in two by it."""
    loop, said, disk, times = Loop(), list[str](), Disk(), Times()
    outbox = Outbox(loop.soon.append, disk)
    outbox.stopwatch = times
    for name in "ab":
        outbox.add(Recorder(name, said))
        loop.tick()
    outbox.add(Recorder("c", said))
    assert times.gone == []
    disk.end(safe)
    assert times.gone[0] == 0
    outbox.add(Recorder("d", said))
    loop.tick()
    while disk.busy:
        disk.end()
    assert sorted(times.gone) == times.ended
    assert not times.running


# -- with connections --------------------------------------------------------------------------------

LATER = b"GET /later?%d HTTP/1.1\r\nHost: a\r\n\r\n"
NOW = b"GET /now?%d HTTP/1.1\r\nHost: a\r\n\r\n"


def answer(bed: Bed, request: Request) -> None:
    request.respond(bed.answers.full(200, b"late " + request.query, b"text/plain"))
    bed.tick()


def bodies(client: Client) -> list[str]:
    return [reply.body.decode() for reply in client.answers()]


def assert_refused(client: Client, *before: str) -> None:
    """These answers, one 503 in place of all others, and nothing more."""
    *kept, last = client.answers()
    assert [reply.body.decode() for reply in kept] == list(before)
    assert (last.status, last.body, last.connection) == (503, b"", "close")
    assert last.headers["retry-after"] == "1"
    assert client.ended


def test_no_answer_leaves_with_an_earlier_group() -> None:
    disk = Disk()
    bed = Bed(safety=disk)
    client = bed.connect().send(NOW % 1)
    # Written after the disk was asked: this one is not in the sync that is under way.
    client.send(NOW % 2 + NOW % 3)
    assert client.wire == b""
    disk.end()
    assert bodies(client) == ["GET /now 1 "]
    assert disk.busy
    disk.end()
    assert bodies(client) == ["GET /now 1 ", "GET /now 2 ", "GET /now 3 "]
    assert not client.ended
    assert not disk.busy


def test_lookups_and_pipelines_keep_their_order_across_groups() -> None:
    disk = Disk()
    bed = Bed(safety=disk)
    client = bed.connect().send(LATER % 1 + NOW % 2)
    assert not disk.busy
    answer(bed, bed.later[0])
    assert client.wire == b""
    client.send(NOW % 3)
    disk.end()
    assert bodies(client) == ["late 1", "GET /now 2 "]
    disk.end()
    assert bodies(client) == ["late 1", "GET /now 2 ", "GET /now 3 "]


def test_the_last_answer_of_a_drain_closes_after_its_own_group() -> None:
    disk = Disk()
    bed = Bed(safety=disk)
    client = bed.connect().send(NOW % 1)
    client.send(NOW % 2)
    bed.hub.drain()
    disk.end()
    assert bodies(client) == ["GET /now 1 "]
    assert not client.ended
    disk.end()
    assert [reply.connection for reply in client.answers()] == [None, "close"]
    assert client.ended


def test_a_connection_that_is_lost_while_the_disk_works() -> None:
    disk = Disk()
    bed = Bed(safety=disk)
    lost, stays = bed.connect().send(NOW % 1), bed.connect()
    stays.send(NOW % 2)
    lost.lose()
    disk.end()
    disk.end()
    assert lost.wire == b""
    assert bodies(stays) == ["GET /now 2 "]


@pytest.mark.parametrize("syncs", [False, True])
def test_the_event_of_a_client_that_has_left_is_kept(syncs: bool) -> None:
    disk = Disk(syncs=syncs)
    bed = Bed(safety=disk)
    bed.connect().send(LATER % 1).lose()
    disk.said.clear()
    bed.pass_time(0.25)
    assert disk.said == ["write"]
    bed.connect().send(LATER % 2).lose()
    disk.said.clear()
    # Nobody answers any more.
    bed.hub.abort_all()
    assert disk.said == ["write"]


def test_a_failed_write_between_answers_refuses_who_waits() -> None:
    disk = Disk(syncs=False)
    bed = Bed(safety=disk)
    waits, idle = bed.connect().send(LATER % 1), bed.connect()
    disk.works = False
    bed.pass_time(0.25)
    assert_refused(waits)
    assert idle.wire == b""
    assert not idle.ended


def test_answers_do_not_pile_up_behind_a_slow_disk() -> None:
    disk = Disk()
    bed = Bed(safety=disk, limits=limits(max_pipelined=4))
    client = bed.connect()
    for number in range(1, 10):
        client.send(NOW % number)
    assert not client.transport.reading
    assert len(bed.requests) == 4
    while disk.busy:
        disk.end()
        bed.tick()
    assert bodies(client) == [f"GET /now {number} " for number in range(1, 10)]
    assert client.transport.reading


@pytest.mark.parametrize("syncs", [False, True])
def test_a_failed_write_refuses_everybody_who_waits(syncs: bool) -> None:
    disk = Disk(syncs=syncs)
    bed = Bed(safety=disk)
    answered = bed.connect().send(NOW % 0)
    if syncs:
        disk.end()
    looking_up = bed.connect().send(LATER % 1 + NOW % 2)
    receiving, idle = bed.connect().send(b"GET /now HTTP/1.1\r\nHo"), bed.connect()
    disk.works = False
    pipelining = bed.connect().send(NOW % 3 + LATER % 4 + NOW % 5)
    assert_refused(looking_up)
    assert_refused(pipelining)
    assert bed.refusals == [503, 503]
    # Nothing was promised to these, and they go on.
    disk.works = True
    answer(bed, bed.later[0])
    receiving.send(b"st: a\r\n\r\n")
    if syncs:
        disk.end()
    assert receiving.statuses() == [200]
    assert bodies(answered) == ["GET /now 0 "]
    assert (idle.wire, idle.ended) == (b"", False)
    # And the lookup's answer, which came too late, is dropped.
    assert_refused(looking_up)


def test_a_failed_write_does_not_take_back_what_the_disk_is_about_to_have() -> None:
    disk = Disk()
    bed = Bed(safety=disk)
    client = bed.connect().send(NOW % 1)
    disk.works = False
    client.send(NOW % 2 + NOW % 3)
    assert client.wire == b""
    disk.works = True
    disk.end()
    disk.end()
    assert_refused(client, "GET /now 1 ")


def test_a_failed_sync_refuses_sealed_and_later_answers_with_one_503() -> None:
    disk = Disk()
    bed = Bed(safety=disk)
    both = bed.connect().send(NOW % 1)
    looking_up = bed.connect().send(LATER % 2)
    both.send(NOW % 3)
    since, idle = bed.connect().send(NOW % 4), bed.connect()
    disk.end(safe=False)
    bed.tick()
    for client in (both, looking_up, since):
        assert_refused(client)
    assert not idle.ended
    assert not disk.busy
    assert idle.send(NOW % 5).wire == b""
    disk.end()
    assert bodies(idle) == ["GET /now 5 "]


def test_a_refused_connection_takes_nothing_more_and_reads_on() -> None:
    disk = Disk(syncs=False)
    bed = Bed(safety=disk, limits=limits(max_pipelined=2))
    client = bed.connect().send(LATER % 1 + LATER % 2)
    reading = [client.transport.reading]
    disk.works = False
    bed.connect().send(NOW % 3)
    reading.append(client.transport.reading)
    assert reading == [False, True]
    client.send(NOW % 4)
    assert_refused(client)
    assert len(bed.requests) == 3


def test_a_refused_head_request() -> None:
    disk = Disk(syncs=False)
    bed = Bed(safety=disk)
    disk.works = False
    client = bed.connect().send((NOW % 1).replace(b"GET", b"HEAD"))
    assert client.statuses("HEAD") == [503]


def test_a_half_closed_client_is_refused_and_closed() -> None:
    disk = Disk(syncs=False)
    bed = Bed(safety=disk)
    client = bed.connect().send(LATER % 1)
    client.send_eof()
    disk.works = False
    bed.connect().send(NOW % 2)
    bed.tick()
    assert_refused(client)
    assert client.transport.closing


class Books:
    """A journal that knows which requests it holds, for a model of the whole."""

    syncs = True

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self.lines: list[bytes] = []
        self.written: list[bytes] = []
        self.synced: set[bytes] = set()
        self.done: Callable[[bool], None] | None = None
        self.upto = 0

    def write(self) -> bool:
        lines, self.lines = self.lines, []
        if lines and self._chance.random() < 0.2:
            return False
        self.written += lines
        return True

    def sync(self, done: Callable[[bool], None], /) -> None:
        assert self.done is None, "one at a time"
        self.done, self.upto = done, len(self.written)

    def end(self) -> None:
        done, self.done = self.done, None
        assert done is not None
        safe = self._chance.random() < 0.8
        if safe:
            self.synced.update(self.written[: self.upto])
        else:
            # Nothing that is written can be trusted, whenever it was written.
            self.written.clear()
        done(safe)


@settings(deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 60))
def test_whatever_happens_a_success_is_safe(chance: Random, steps: int) -> None:
    """Every 200 that a client reads is of an event that a sync has covered; order is kept."""
    books = Books(chance)

    def handler(request: Request) -> bytes | None:
        books.lines.append(request.query)
        if request.path == b"/later":
            bed.later.append(request)
            return None
        return bed.answers.full(200, request.query, b"text/plain")

    bed = Bed(safety=books, handler=handler)
    clients = [bed.connect() for _ in range(3)]
    for step in range(steps):
        what = chance.random()
        if what < 0.6:
            client = chance.choice(clients)
            if not client.ended:
                request = chance.choice([NOW, LATER]) % step
                client.send(request + NOW % (1000 + step) if chance.random() < 0.5 else request)
        elif what < 0.8 and bed.later:
            request_later = bed.later.pop(chance.randrange(len(bed.later)))
            request_later.respond(bed.answers.full(200, request_later.query, b"text/plain"))
            bed.tick()
        elif books.done is not None:
            books.end()
            bed.tick()
        check(clients, books)
    while books.done is not None:
        books.end()
        bed.tick()
    check(clients, books)
    assert not bed.failures


def check(clients: list[Client], books: Books) -> None:
    for client in clients:
        answers = client.answers()
        numbers = [int(reply.body) % 1000 for reply in answers if reply.status == 200]
        assert numbers == sorted(numbers)
        assert {reply.body for reply in answers if reply.status == 200} <= books.synced
        assert [reply.status for reply in answers if reply.status != 200] in ([], [503])
        if answers and answers[-1].status == 503:
            assert client.ended
