"""How much one client may use: bytes, answers, time, connections; and what happens past it."""

from dataclasses import dataclass
from typing import Any

import pytest

from prefork_ads.http import hub as hub_module
from prefork_ads.http.hub import (
    FEED_SLICE_BYTES,
    SWEEP_LATE_S,
    SWEEP_LEAST,
    SWEEP_ROUND,
    SWEEP_SLICE,
)
from prefork_ads.http.message import Request
from prefork_ads.http.protocol import Connection
from tests.unit.http_bed import LIMITS, Bed, Client, limits, one_by_one

HOST = b"Host: ads.example\r\n"
LARGE = 1 << 20


def get(target: bytes, *headers: bytes) -> bytes:
    lines = b"".join(header + b"\r\n" for header in headers)
    return b"GET " + target + b" HTTP/1.1\r\n" + HOST + lines + b"\r\n"


def post(body: bytes, framing: bytes) -> bytes:
    return b"POST /log HTTP/1.1\r\n" + HOST + framing + b"\r\n\r\n" + body


def reads(data: bytes, size: int = 256 * 1024) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def assert_refused(client: Client, status: int) -> None:
    assert client.statuses() == [status]
    assert client.transport.eof_written
    assert client.bed.requests == []


# -- sizes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 1000, 256 * 1024])
def test_a_target_up_to_its_limit(size: int) -> None:
    target = b"/log?" + b"a" * (LIMITS.max_url - 5)
    assert Bed().connect().send(*reads(get(target), size)).statuses() == [200]
    assert_refused(Bed().connect().send(*reads(get(target + b"a"), size)), 414)


@pytest.mark.parametrize("size", [1000, 256 * 1024])
@pytest.mark.parametrize(
    "lines",
    [b"X: " + b"a" * LARGE, b"a" * LARGE, b"a: b\r\n" * (LARGE // 6)],
    ids=["a long value", "a long name", "many fields"],
)
def test_a_head_without_end(lines: bytes, size: int) -> None:
    bed = Bed()
    client = bed.connect()
    fed = 0
    for piece in reads(b"GET / HTTP/1.1\r\n" + lines, size):
        client.send(piece)
        fed += len(piece)
        if client.ended:
            break
    assert_refused(client, 431)
    assert fed <= max(LIMITS.max_head + FEED_SLICE_BYTES, size)


def test_a_head_up_to_its_limit() -> None:
    head = get(b"/", b"X: " + b"a" * (LIMITS.max_head - 100))
    assert len(head) < LIMITS.max_head
    for pieces in ([head], reads(head, 997)):
        assert Bed().connect().send(*pieces).statuses() == [200]


def test_a_small_limit_holds_though_the_read_is_large() -> None:
    bed = Bed(limits=limits(max_head=1024))
    assert_refused(bed.connect().send(get(b"/", b"X: " + b"a" * 4000)), 431)


def test_what_was_pipelined_does_not_count_for_the_next_head() -> None:
    stream = get(b"/", b"X: " + b"a" * 1000) * 200
    bed = Bed()
    client = bed.connect().send(*reads(stream, 10_007))
    assert client.statuses() == [200] * 200


def test_empty_lines_are_no_message() -> None:
    bed = Bed()
    client = bed.connect().send(*reads(b"\r\n" * LARGE))
    assert client.wire == b""
    bed.pass_time(LIMITS.head_timeout_s + 1)
    assert not client.transport.is_closing(), "nothing has begun that could take too long"
    bed.pass_time(LIMITS.idle_timeout_s)
    assert client.transport.is_closing()
    assert client.wire == b""


def test_a_fixed_body_up_to_its_limit() -> None:
    body = b"a" * LIMITS.max_body
    bed = Bed()
    data = post(body, b"Content-Length: %d" % len(body))
    assert bed.connect().send(*reads(data, 9973)).statuses() == [200]
    assert bed.requests[0].body == body
    assert_refused(Bed().connect().send(post(b"", b"Content-Length: %d" % (len(body) + 1))), 413)


@pytest.mark.parametrize("chunk", [100, 4096, LIMITS.max_body])
def test_a_chunked_body_up_to_its_limit(chunk: int) -> None:
    body = b"a" * LIMITS.max_body
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in reads(body, chunk))
    data = post(chunks + b"0\r\n\r\n", b"Transfer-Encoding: chunked")
    bed = Bed()
    assert bed.connect().send(*reads(data, 9973)).statuses() == [200]
    assert bed.requests[0].body == body
    more = post(chunks + b"1\r\na\r\n0\r\n\r\n", b"Transfer-Encoding: chunked")
    assert_refused(Bed().connect().send(*reads(more, 9973)), 413)


def test_a_body_in_chunks_of_one_byte() -> None:
    bed = Bed(limits=limits(max_body=4096))
    data = post(b"1\r\na\r\n" * 4096 + b"0\r\n\r\n", b"Transfer-Encoding: chunked")
    assert bed.connect().send(*reads(data, 997)).statuses() == [200]


@pytest.mark.parametrize(
    "stream",
    [
        b"1;" + b"a" * LARGE,
        b"0\r\nX: " + b"a" * LARGE,
        b"0\r\n" + b"X: a\r\n" * (LARGE // 6),
        b"0" * LARGE,
    ],
    ids=["extension", "trailer field", "trailer fields", "zeros"],
)
def test_chunks_that_say_a_lot_and_carry_nothing(stream: bytes) -> None:
    client = Bed().connect().send(*reads(post(stream, b"Transfer-Encoding: chunked"), 4096))
    assert_refused(client, 413)


def test_a_huge_chunk_is_refused_when_it_has_come_too_far() -> None:
    data = post(b"ffffffffffffffff\r\n" + b"a" * LARGE, b"Transfer-Encoding: chunked")
    assert_refused(Bed().connect().send(*reads(data)), 413)


# -- answers that wait -----------------------------------------------------------------------------


def test_a_full_pipeline_is_not_read_further() -> None:
    bed = Bed(limits=limits(max_pipelined=8))
    client = bed.connect()
    requests = [get(b"/later?%d" % number) for number in range(20)]
    client.send(*requests)
    assert len(bed.requests) == 8
    assert not client.transport.reading
    for answered in range(20):
        request = bed.later[answered]
        request.respond(bed.answers.full(200, request.query, b"text/plain"))
        bed.tick()
        assert len(bed.requests) - (answered + 1) <= 8
    assert [answer.body for answer in client.answers()] == [b"%d" % n for n in range(20)]
    assert client.transport.reading


def test_a_pipeline_of_one() -> None:
    bed = Bed(limits=limits(max_pipelined=1))
    client = bed.connect().send(get(b"/later?1"), get(b"/later?2"))
    for number in range(2):
        assert len(bed.later) == number + 1
        bed.later[number].respond(bed.answers.no_content)
        bed.tick()
    assert client.statuses() == [204, 204]


def test_one_read_full_of_requests_stops_at_a_slice() -> None:
    """The parser cannot be stopped within a slice; what is left waits unparsed."""
    request = get(b"/later")
    bed = Bed()
    client = bed.connect().send(request * 4000)
    assert len(bed.requests) <= FEED_SLICE_BYTES // len(request) + 1
    answered = 0
    while answered < 4000:
        bed.later[answered].respond(bed.answers.no_content)
        answered += 1
        if answered == len(bed.later):
            bed.tick()
    bed.tick()
    assert client.statuses() == [204] * 4000


def test_data_that_comes_while_paused_keeps_its_place() -> None:
    """A transport may deliver what it had read already."""
    bed = Bed(limits=limits(max_pipelined=2))
    client = bed.connect().send(get(b"/later?0") + get(b"/later?1"))
    for number in range(2, 6):
        client.connection.data_received(get(b"/log?%d" % number))
    assert len(bed.requests) == 2
    for request in bed.later:
        request.respond(bed.answers.full(200, request.query, b"text/plain"))
    bed.tick()
    assert [a.body[-2:].strip() for a in client.answers()] == [b"%d" % n for n in range(6)]


def test_long_answers_to_short_requests_do_not_pile_up() -> None:
    """A read of 256 KiB can hold 6,000 requests; their answers must not be in memory together."""
    body = b"x" * 10_000
    written: list[int] = []

    def long_answer(_: Request) -> bytes:
        return bed.answers.full(200, body)

    bed = Bed(handler=long_answer)
    client = bed.connect()
    client.transport.write = lambda data: written.append(len(data))  # type: ignore[method-assign]
    client.send(get(b"/metrics") * 4000)
    assert sum(written) > 4000 * len(body)
    most_in_a_slice = FEED_SLICE_BYTES // len(get(b"/metrics")) + 1
    assert max(written) < (LIMITS.max_pipelined + most_in_a_slice) * (len(body) + 200)
    assert client.transport.reading


# -- a client that reads slowly --------------------------------------------------------------------


def test_a_slow_reader_is_not_read_from() -> None:
    bed = Bed()
    client = bed.connect().send(get(b"/log?1"))
    client.connection.pause_writing()
    client.send(get(b"/log?2"), get(b"/log?3"))
    assert len(bed.requests) == 1
    client.connection.resume_writing()
    bed.tick()
    assert client.statuses() == [200, 200, 200]
    assert client.transport.reading


def test_a_slow_reader_with_a_full_pipeline() -> None:
    bed = Bed(limits=limits(max_pipelined=2))
    client = bed.connect().send(get(b"/later") * 2, get(b"/log"))
    client.connection.pause_writing()
    for request in bed.later:
        request.respond(bed.answers.no_content)
    bed.tick()
    assert len(bed.requests) == 2, "still paused by the one reason"
    client.connection.resume_writing()
    bed.tick()
    assert client.statuses() == [204, 204, 200]


def test_a_slow_reader_is_given_up() -> None:
    bed = Bed()
    client = bed.connect().send(get(b"/log"))
    client.connection.pause_writing()
    bed.pass_time(LIMITS.send_timeout_s)
    assert not client.transport.is_closing()
    bed.pass_time(1)
    assert client.transport.aborted


def test_an_idle_client_that_never_reads_is_given_up() -> None:
    """Too little is unsent for pause_writing, and close() would wait for it for ever."""
    bed = Bed()
    client = bed.connect().send(get(b"/log"))
    client.transport.close = lambda: None  # type: ignore[method-assign]
    bed.pass_time(LIMITS.idle_timeout_s + 1)
    assert not client.transport.aborted
    bed.pass_time(LIMITS.send_timeout_s)
    assert client.transport.aborted


# -- time ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "seconds"),
    [
        (b"G", LIMITS.head_timeout_s),
        (b"GET / HTTP/1.1\r\nHost: a\r\n", LIMITS.head_timeout_s),
        (post(b"a", b"Content-Length: 2"), LIMITS.body_timeout_s),
        (post(b"2\r\na", b"Transfer-Encoding: chunked"), LIMITS.body_timeout_s),
        (post(b"0\r\n", b"Transfer-Encoding: chunked"), LIMITS.body_timeout_s),
    ],
    ids=["method", "head", "fixed body", "chunk", "trailer"],
)
def test_a_message_that_takes_too_long(part: bytes, seconds: float) -> None:
    bed = Bed()
    client = bed.connect().send(get(b"/log") + part)
    bed.pass_time(seconds)
    assert client.statuses() == [200]
    bed.pass_time(0.5)
    assert client.statuses() == [200, 408]
    assert client.answers()[1].connection == "close"
    assert client.transport.eof_written
    client.connection.data_received(b"\r\n\r\n")
    bed.tick()
    assert len(bed.requests) == 1


def test_a_head_byte_by_byte_has_no_more_time() -> None:
    bed = Bed()
    client = bed.connect()
    for byte in one_by_one(get(b"/log")):
        if client.ended:
            break
        client.send(byte)
        bed.pass_time(1)
    assert client.statuses() == [408]


def test_an_idle_connection_is_closed_without_a_word() -> None:
    bed = Bed()
    fresh, used = bed.connect(), bed.connect().send(get(b"/log"))
    bed.pass_time(LIMITS.idle_timeout_s)
    assert not fresh.transport.is_closing()
    assert not used.transport.is_closing()
    used.send(get(b"/log"))
    bed.pass_time(1)
    assert fresh.transport.is_closing()
    assert fresh.wire == b""
    assert not used.transport.is_closing(), "it was used in the meantime"
    bed.pass_time(LIMITS.idle_timeout_s)
    assert used.transport.is_closing()
    assert used.statuses() == [200, 200]
    assert bed.hub.connections == set()


def test_a_request_that_waits_for_its_answer_is_not_idle() -> None:
    bed = Bed()
    client = bed.connect().send(get(b"/later") + b"GET")
    bed.pass_time(1000)
    assert not client.transport.is_closing()
    bed.later[0].respond(bed.answers.no_content)
    bed.tick()
    assert client.statuses() == [204]
    bed.pass_time(LIMITS.head_timeout_s + 1)
    assert client.statuses() == [204, 408], "its time begins with the answer"


def test_after_an_error_the_client_has_time_to_read() -> None:
    bed = Bed()
    client = bed.connect().send(b"nonsense\r\n\r\n")
    bed.pass_time(LIMITS.linger_s)
    assert not client.transport.is_closing()
    bed.pass_time(0.5)
    assert client.transport.is_closing()
    assert not client.transport.aborted
    assert bed.hub.connections == set()


def test_after_an_error_a_client_that_never_reads_is_given_up() -> None:
    bed = Bed()
    client = bed.connect().send(b"nonsense\r\n\r\n")
    client.transport.close = lambda: None  # type: ignore[method-assign]
    bed.pass_time(LIMITS.linger_s + LIMITS.send_timeout_s + 1)
    assert client.transport.aborted


# -- connections -----------------------------------------------------------------------------------


def surplus(bed: Bed) -> Client:
    """The first connection past the limit."""
    while len(bed.hub.connections) < bed.limits.max_connections:
        bed.connect()
    return bed.connect()


def test_too_many_connections() -> None:
    bed = Bed(limits=limits(max_connections=2))
    clients = [bed.connect() for _ in range(3)]
    bed.tick()
    for client in clients:
        client.send(get(b"/log"))
    assert [client.statuses() for client in clients] == [[200], [200], [503]]
    [answer] = clients[2].answers()
    assert answer.headers["retry-after"] == "1"
    assert answer.connection == "close"
    assert len(bed.requests) == 2
    clients[2].send_eof()
    clients[0].lose()
    assert bed.connect().send(get(b"/log")).statuses() == [200]


def test_a_full_worker_still_says_how_it_is() -> None:
    bed = Bed(limits=limits(max_connections=2))
    client = surplus(bed)
    for pieces in ([get(b"/vital?now")], one_by_one(get(b"/vital"))):
        client.send(*pieces)
    assert client.statuses() == [200, 200]
    assert not client.ended
    client.send(get(b"/vitality"))
    assert client.statuses() == [200, 200, 503]
    assert client.ended


def test_a_full_worker_asks_for_no_body() -> None:
    bed = Bed(limits=limits(max_connections=1))
    client = surplus(bed).send(post(b"", b"Expect: 100-continue\r\nContent-Length: 2"))
    assert client.statuses() == [503]


def test_a_full_worker_is_not_got_round_by_an_upgrade() -> None:
    bed = Bed(limits=limits(max_connections=1))
    upgrade = b"Connection: upgrade\r\nUpgrade: x\r\nContent-Length: 1"
    head = b"POST /vital HTTP/1.1\r\n" + HOST + upgrade + b"\r\n\r\n"
    client = surplus(bed).send(head + b"a" + get(b"/log"))
    assert client.statuses() == [200, 503]


def test_a_connection_past_the_limit_has_to_be_quick() -> None:
    bed = Bed(limits=limits(max_connections=1))
    client = surplus(bed)
    bed.pass_time(LIMITS.linger_s + 0.5)
    assert client.transport.is_closing()
    assert client.wire == b""


def test_far_too_many_connections_are_cut_off() -> None:
    bed = Bed(limits=limits(max_connections=2))
    most = bed.limits.max_connections + bed.limits.max_surplus
    clients = [bed.connect() for _ in range(most + 5)]
    assert [client.transport.aborted for client in clients] == [False] * most + [True] * 5
    bed.tick()
    assert len(bed.hub.connections) == most
    assert bed.refusals == [503] * 5


def test_a_client_that_has_left_already_is_not_served_when_that_is_asked() -> None:
    bed = Bed()
    bed.hub.is_gone = lambda transport: transport.get_extra_info("peername") == ("gone", 1)
    gone, here = bed.connect(("gone", 1)), bed.connect(("here", 1))
    gone.connection.data_received(get(b"/log"))
    here.send(get(b"/log"))
    assert gone.transport.aborted
    assert [request.peer for request in bed.requests] == ["here"]


# -- all clients together --------------------------------------------------------------------------


def test_unfinished_messages_have_a_bound_together() -> None:
    bed = Bed(limits=limits(max_held=100_000))
    part = b"GET / HTTP/1.1\r\nX: " + b"a" * 30_000
    clients = [bed.connect().send(part) for _ in range(6)]
    assert [client.statuses() for client in clients] == [[], [], [], [503], [503], [503]]
    [answer] = clients[3].answers()
    assert answer.headers["retry-after"] == "1"
    assert bed.connect().send(get(b"/log")).statuses() == [200], "it holds nothing"


def test_what_was_used_up_is_not_held() -> None:
    bed = Bed(limits=limits(max_held=100_000))
    body = b"a" * 30_000
    client = bed.connect()
    for _ in range(20):
        client.send(*reads(post(body, b"Content-Length: %d" % len(body)), 10_000))
        bed.pass_time(0.25)
    assert client.statuses() == [200] * 20
    assert bed.hub.held == 0


def test_what_stays_is_held_over_many_sweeps() -> None:
    bed = Bed(limits=limits(max_held=100_000))
    part = b"GET / HTTP/1.1\r\nX: " + b"a" * 30_000
    bed.connect().send(part)
    for _ in range(5):
        bed.pass_time(0.25)
        assert bed.hub.held == len(part)


def test_requests_that_wait_unread_have_a_bound_together() -> None:
    bed = Bed(limits=limits(max_held=500_000, max_pipelined=2))
    stream = get(b"/later") * 5000
    clients = [bed.connect().send(stream) for _ in range(3)]
    while bed.later:
        bed.later.pop(0).respond(bed.answers.no_content)
        bed.pass_time(0.001)
    # Those that were read already are answered.
    assert [client.statuses()[-1] for client in clients[1:]] == [503, 503]
    assert all(len(client.statuses()) < 1000 for client in clients[1:])


def test_answers_that_nobody_reads_have_a_bound_together() -> None:
    bed = Bed(limits=limits(max_held=1_000_000))
    clients = [bed.connect().send(get(b"/log")) for _ in range(3)]
    for client in clients:
        client.transport.unread = 400_000
        client.connection.pause_writing()
    assert [client.transport.aborted for client in clients] == [False, False, True]
    bed.tick()
    bed.pass_time(0.25)
    assert bed.hub.held == 800_000


def test_a_sweep_lets_the_loop_serve_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "SWEEP_TURN_S", 0.0)
    bed = Bed()
    clients = [bed.connect().send(b"GET") for _ in range(3 * SWEEP_SLICE + 1)]
    bed.time += LIMITS.head_timeout_s + 1
    bed.hub.sweep(bed.time)
    assert sum(client.connection.scheduled for client in clients) == SWEEP_SLICE
    bed.tick()
    assert all(client.statuses() == [408] for client in clients)


def test_a_sweep_is_not_one_slice_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """In an overload a round takes a tenth of a second, and limits of time are to hold just then."""
    monkeypatch.setattr(hub_module, "SWEEP_TURN_S", 1000.0)
    bed = Bed()
    clients = [bed.connect().send(b"GET") for _ in range(3 * SWEEP_SLICE + 1)]
    bed.time += LIMITS.head_timeout_s + 1
    bed.hub.sweep(bed.time)
    assert all(client.connection.scheduled for client in clients)


def looked_at(clients: list[Client]) -> int:
    """How many of these, whose time is over, were noticed."""
    return sum(client.connection.scheduled for client in clients)


def a_crowd(bed: Bed, number: int) -> list[Client]:
    """So many whose time is over."""
    clients = [bed.connect().send(b"GET") for _ in range(number)]
    bed.time += LIMITS.head_timeout_s + 1
    return clients


@pytest.mark.parametrize("number", [200, 640, 3000])
def test_a_sweep_is_spread_over_its_time(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Who has to end costs fifty times as much as who stays, and they come in crowds."""
    monkeypatch.setattr(hub_module, "SWEEP_LEAST", 10_000)
    bed = Bed(limits=limits(max_connections=number))
    # A sweep of before, so that this one is not the first.
    bed.pass_time(0.25)
    clients = a_crowd(bed, number)
    began_s = bed.stopwatch_s = 7.0
    bed.hub.sweep(bed.time)
    before, slices = looked_at(clients), 0
    assert before == 64
    while bed.timers:
        bed.next_timer()
        bed._soon.pop()()
        slices += 1
        done = looked_at(clients)
        assert 0 < done - before <= max(2 * 64, 2 * number / 100)
        before = done
        part = (bed.stopwatch_s - began_s) / 0.2
        assert min(1.0, part) * number <= done <= part * number + 2 * 64
    assert before == number
    assert bed.stopwatch_s - began_s <= 0.2
    assert slices <= min(101, number / 64), "each wakes an idle worker"


def test_a_sweep_that_is_behind_goes_on_in_each_round() -> None:
    """An overload: nobody but the loop itself says when it goes on."""
    bed = Bed()
    clients = a_crowd(bed, 640)
    bed.hub.sweep(bed.time)
    bed.next_timer()
    bed.stopwatch_s += 0.2
    bed._soon.pop()()
    assert looked_at(clients) == len(clients)
    assert not bed.timers


def test_what_a_sweep_takes_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a millisecond, or a seventh of the time since it was last at work."""
    bed = Bed()
    clients = a_crowd(bed, 640)
    check = Connection.check

    def a_while(connection: Connection, now: float) -> int:
        bed.stopwatch_s += 0.0001
        return check(connection, now)

    monkeypatch.setattr(Connection, "check", a_while)
    # It is long since the last one.
    bed.stopwatch_s = 7.0
    bed.hub.sweep(bed.time)
    before = looked_at(clients)
    assert 5 <= before <= 5 + SWEEP_SLICE
    for _ in range(2):
        bed.stopwatch_s += 0.02
        bed._soon.pop()()
        taken, before = looked_at(clients) - before, looked_at(clients)
        assert 30 <= taken <= 40


def test_what_a_sweep_has_left_does_not_wait_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "SWEEP_LEAST", 100)
    monkeypatch.setattr(hub_module, "SWEEP_TURN_S", 0.0)
    bed = Bed()
    clients = a_crowd(bed, 400)
    for _ in range(2):
        bed.hub.sweep(bed.time)
        assert looked_at(clients) == SWEEP_SLICE
    while bed._soon:
        bed._soon.pop()()
    assert len(bed.hub._unswept) == len(clients) - 100 - 64


@pytest.mark.parametrize(
    ("number", "ending", "round_s"),
    [
        (20_000, 0, 0.1),
        (20_000, 0, 0.01),
        (20_000, 250, 0.003),
        (20_000, 250, 0.01),
        (5_000, 60, 0.1),
    ],
)
def test_limits_hold_in_an_overload(number: int, ending: int, round_s: float) -> None:
    """Rounds of the loop are long, a look takes 2 µs and an end 100; everybody is seen in time.

    `ending`: so many of them have to end in each quarter second.
    """
    bed = Bed()
    seen_s = dict.fromkeys(range(number), 0.0)
    late_s = 0.0

    @dataclass(frozen=True)
    class One:
        place: int

        def check(self, _: float) -> int:
            nonlocal late_s
            bed.stopwatch_s += 100e-6 if self.place % number < ending * 4 else 2e-6
            late_s = max(late_s, bed.stopwatch_s - seen_s[self.place])
            seen_s[self.place] = bed.stopwatch_s
            return 0

    everybody: Any = {One(place) for place in range(number)}
    bed.hub.connections = everybody
    next_sweep_s = 0.0
    while bed.stopwatch_s < 10.0:
        began_s = bed.stopwatch_s
        if began_s >= next_sweep_s:
            next_sweep_s = began_s + 0.25
            bed.hub.sweep(bed.time)
        soon, bed._soon[:] = bed._soon[:], []
        for callback in soon:
            callback()
        if bed.timers and bed.timers[0][0] <= bed.stopwatch_s:
            _, callback = bed.timers.pop()
            callback()
        assert bed.stopwatch_s - began_s <= 0.002 + 0.2 * round_s, "others are to be served"
        bed.stopwatch_s += round_s
    assert late_s <= SWEEP_LATE_S


def test_a_look_that_fails_does_not_end_the_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    bed = Bed()
    clients = a_crowd(bed, 640)
    bed.hub.sweep(bed.time)
    check = Connection.check

    def fails(connection: Connection, now: float) -> int:
        monkeypatch.setattr(Connection, "check", check)
        raise ValueError("this one")

    monkeypatch.setattr(Connection, "check", fails)
    bed.next_timer()
    with pytest.raises(ValueError, match="this one"):
        bed._soon.pop()()
    for _ in range(2 * SWEEP_ROUND):
        bed.pass_time(0.25)
    assert all(client.statuses() == [408] for client in clients)


def test_when_much_is_held_no_sweep_rests() -> None:
    bed = Bed(limits=limits(max_held=100_000))
    piece = get(b"/log")[:-2]
    for _ in range(60_000 // len(piece)):
        bed.connect().send(piece)
    bed.hub.sweep(bed.time)
    assert not bed.timers
    assert not bed.hub._unswept


def test_of_many_each_sweep_looks_at_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "SWEEP_LEAST", 2)
    bed = Bed()
    clients = [bed.connect().send(b"GET") for _ in range(SWEEP_ROUND * SWEEP_SLICE * 3)]
    bed.time += LIMITS.head_timeout_s + 1
    ended = [0]
    for _ in range(SWEEP_ROUND):
        bed.pass_time(0.25)
        ended.append(sum(client.statuses() == [408] for client in clients))
    assert ended == [len(clients) * part // SWEEP_ROUND for part in range(SWEEP_ROUND + 1)]


def test_of_a_thousand_each_sweep_looks_at_all() -> None:
    bed = Bed(limits=limits(max_connections=SWEEP_LEAST))
    clients = [bed.connect().send(b"GET") for _ in range(SWEEP_LEAST)]
    bed.pass_time(LIMITS.head_timeout_s + 1)
    assert all(client.statuses() == [408] for client in clients)


def test_when_much_is_held_each_sweep_looks_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held decides who is sent away: it is to be counted soon, however many they are."""
    monkeypatch.setattr(hub_module, "SWEEP_LEAST", 2)
    piece = get(b"/log")[:-2]
    number = 10 * SWEEP_SLICE
    bed = Bed(limits=limits(max_held=2 * number * len(piece) - 1))
    clients = [bed.connect().send(piece) for _ in range(number)]
    for client in clients:
        client.send(b"\r\n")
    bed.pass_time(0.25)
    assert bed.hub.held == 0


def test_a_round_is_as_many_sweeps_whatever_their_parts_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Slices and parts need not divide each other: no sweep is the last, and no round has a fifth."""
    monkeypatch.setattr(hub_module, "SWEEP_LEAST", 5)
    bed = Bed()
    for _ in range(SWEEP_ROUND * 13 - 1):
        bed.connect().send(b"GET")
    for _ in range(3):
        unswept = []
        for _ in range(SWEEP_ROUND):
            bed.pass_time(0.25)
            unswept.append(len(bed.hub._unswept))
        assert unswept[-1] == 0
        assert all(unswept[:-1])


def test_a_sweep_that_goes_on_is_not_begun_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "SWEEP_LEAST", 2 * SWEEP_SLICE)
    monkeypatch.setattr(hub_module, "SWEEP_TURN_S", 0.0)
    bed = Bed()
    for _ in range(SWEEP_ROUND * 2 * SWEEP_SLICE):
        bed.connect().send(b"GET")
    bed.tick()
    for _ in range(3):
        bed.hub.sweep(bed.time)
    assert len(bed._soon) == 1


def test_what_is_held_is_right_within_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not before all were counted does a count take the place of what was reported."""
    monkeypatch.setattr(hub_module, "SWEEP_LEAST", SWEEP_SLICE)
    bed = Bed()
    piece = get(b"/log")[:-2]
    clients = [bed.connect().send(piece) for _ in range(16 * SWEEP_SLICE)]
    held = len(clients) * len(piece)
    for _ in range(SWEEP_ROUND + 1):
        bed.pass_time(0.25)
        assert bed.hub.held == held
    for client in clients:
        client.send(b"X: ")
    for _ in range(2 * SWEEP_ROUND):
        bed.pass_time(0.25)
        assert bed.hub.held >= held + 3 * len(clients), "nothing reported is lost"
    assert bed.hub.held == held + 3 * len(clients)


def test_one_refused_within_a_round_is_taken_off_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held may be taken for too much for a while, and never for too little."""
    monkeypatch.setattr(hub_module, "SWEEP_LEAST", SWEEP_SLICE)
    piece = get(b"/log")[:-2]
    first = 12 * SWEEP_SLICE
    most = (first + 50) * len(piece)
    bed = Bed(limits=limits(max_held=most))
    clients = [bed.connect().send(piece) for _ in range(first)]
    bed.pass_time(0.25)
    for _ in range(50):
        bed.connect().send(piece)
    uncounted = [client for client in clients if client.connection in bed.hub._unswept]
    assert 0 < len(uncounted) < len(clients)
    for client in uncounted:
        client.send(b"X: ")
        assert client.statuses() == [503]
        bed.connect().send(piece)
    for _ in range(2 * SWEEP_ROUND):
        bed.pass_time(0.25)
        assert bed.hub.held >= most


def test_one_that_is_looked_at_late_is_closed_and_not_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may have an answer to read yet, and no more than the sweep is to blame."""
    monkeypatch.setattr(hub_module, "SWEEP_LEAST", SWEEP_SLICE)
    bed = Bed(limits=limits(send_timeout_s=0.5))
    clients = [bed.connect().send(get(b"/log")) for _ in range(SWEEP_ROUND * SWEEP_SLICE)]
    bed.tick()
    bed.time += LIMITS.idle_timeout_s
    for _ in range(SWEEP_ROUND + 1):
        bed.pass_time(0.25)
    assert all(client.transport.closing for client in clients)
    assert not any(client.transport.aborted for client in clients)


def test_a_part_that_is_late_does_not_delay_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """In an overload a slice is all there is time for: those not looked at are added to the next part."""
    monkeypatch.setattr(hub_module, "SWEEP_LEAST", 2)
    monkeypatch.setattr(hub_module, "SWEEP_TURN_S", 0.0)
    bed = Bed()
    clients = [bed.connect().send(b"GET") for _ in range(SWEEP_ROUND * SWEEP_SLICE * 2)]
    bed.time += LIMITS.head_timeout_s + 1
    for _ in range(SWEEP_ROUND):
        bed.hub.sweep(bed.time)
    bed.tick()
    assert all(client.statuses() == [408] for client in clients)


def test_a_connection_that_ends_before_its_turn_in_the_sweep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hub_module, "SWEEP_TURN_S", 0.0)
    bed = Bed()
    clients = [bed.connect().send(b"GET") for _ in range(SWEEP_SLICE + 1)]
    bed.hub.sweep(bed.time)
    for client in clients:
        client.lose()
    bed.tick()
    bed.pass_time(0.25)
    assert bed.hub.held == 0


# -- clients that leave ----------------------------------------------------------------------------


def test_a_client_that_closed_its_half_gets_its_answers() -> None:
    bed = Bed()
    client = bed.connect().send(get(b"/later") + get(b"/log"))
    client.send_eof()
    assert not client.transport.is_closing()
    bed.later[0].respond(bed.answers.no_content)
    bed.tick()
    assert client.statuses() == [204, 200]
    assert client.transport.is_closing()
    assert not client.transport.aborted


def test_a_client_that_closed_its_half_in_the_same_tick() -> None:
    bed = Bed()
    client = bed.connect()
    client.connection.data_received(get(b"/log"))
    client.send_eof()
    assert client.statuses() == [200]
    assert client.transport.is_closing()


@pytest.mark.parametrize("part", [b"", b"GET / HT", post(b"a", b"Content-Length: 2")])
def test_a_message_that_ends_with_the_connection_is_none(part: bytes) -> None:
    bed = Bed()
    client = bed.connect().send(part)
    client.send_eof()
    assert bed.requests == []
    assert client.transport.is_closing()
    assert client.wire == b""


def test_a_client_that_vanishes_while_an_answer_is_owed() -> None:
    bed = Bed(limits=limits(max_pipelined=1))
    client = bed.connect().send(get(b"/later") + get(b"/log"))
    bed.connect().send(get(b"/log"))
    client.lose()
    bed.later[0].respond(bed.answers.no_content)
    bed.tick()
    bed.pass_time(1000)
    assert client.wire == b""
    assert bed.hub.connections == set()


def test_a_client_that_vanishes_before_its_answer_is_written() -> None:
    bed = Bed()
    client = bed.connect()
    client.connection.data_received(get(b"/log"))
    client.lose()
    bed.tick()
    client.connection.data_received(get(b"/log"))
    client.connection.abort()
    assert client.wire == b""
    assert len(bed.requests) == 1


# -- who it is -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peername", "peer"),
    [
        (("192.0.2.1", 50000), "192.0.2.1"),
        (("2001:db8::1", 50000, 0, 0), "2001:db8::1"),
        (("fe80::1%eth0", 50000, 0, 2), "fe80::1"),
        (("::ffff:192.0.2.1", 50000, 0, 0), "192.0.2.1"),
        ("", ""),
    ],
)
def test_the_peers_address(peername: object, peer: str) -> None:
    bed = Bed()
    bed.connect(peername).send(get(b"/log"))
    assert bed.requests[0].peer == peer


def test_a_peer_that_was_reset_before_we_looked_is_nobody() -> None:
    """Its address cannot be asked for any more; it must not pass for a UNIX socket's."""
    bed = Bed()
    client = bed.connect(None).send(get(b"/log"))
    client.connection.data_received(get(b"/log"))
    bed.tick()
    assert client.transport.aborted
    assert bed.requests == []
    assert bed.hub.connections == set()
