"""Answers: in the order of the requests, fit for the request, and the last one says that it is."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork_ads.http.message import Request
from tests.unit.http_bed import Bed, Client, cut, every_split, limits, one_by_one

HOST = b"Host: ads.example\r\n"


def get(target: bytes, *headers: bytes, method: bytes = b"GET", version: bytes = b"1.1") -> bytes:
    lines = b"".join(header + b"\r\n" for header in headers)
    return method + b" " + target + b" HTTP/" + version + b"\r\n" + HOST + lines + b"\r\n"


def answer_later(bed: Bed, request: Request) -> None:
    request.respond(bed.answers.full(200, b"late " + request.query, b"text/plain"))


def bodies(client: Client) -> list[bytes]:
    return [answer.body for answer in client.answers()]


THREE = get(b"/later?1") + get(b"/log?2") + get(b"/later?3")


def feedings() -> list[list[bytes]]:
    return [[THREE], one_by_one(THREE), *map(list, every_split(THREE))]


@pytest.mark.parametrize("reverse", [False, True])
def test_pipelined_answers_leave_in_order(reverse: bool) -> None:
    """/ad, /log, /ad: the log answer is ready at once and waits for the first ad answer."""
    for pieces in feedings():
        bed = Bed()
        client = bed.connect().send(*pieces)
        assert [request.query for request in bed.requests] == [b"1", b"2", b"3"]
        assert client.wire == b""
        for request in sorted(bed.later, key=lambda r: r.query, reverse=reverse):
            answer_later(bed, request)
        bed.tick()
        assert bodies(client) == [b"late 1", b"GET /log 2 ", b"late 3"]
        assert not client.ended


def test_answers_leave_as_soon_as_their_turn_comes() -> None:
    bed = Bed()
    client = bed.connect().send(THREE)
    first, third = bed.later
    answer_later(bed, first)
    bed.tick()
    assert bodies(client) == [b"late 1", b"GET /log 2 "]
    answer_later(bed, third)
    bed.tick()
    assert bodies(client)[2:] == [b"late 3"]
    client.send(get(b"/log?4"))
    assert bodies(client)[3:] == [b"GET /log 4 "]


@given(
    kinds=st.lists(st.booleans(), min_size=1, max_size=30),
    order=st.randoms(use_true_random=False),
    places=st.lists(st.integers(0, 2000), max_size=6),
    interleaved=st.booleans(),
)
def test_any_pipeline_in_any_order_of_answers(
    kinds: list[bool], order: Random, places: list[int], interleaved: bool
) -> None:
    stream = b"".join(
        get(b"/later?%d" % n) if late else get(b"/log?%d" % n) for n, late in enumerate(kinds)
    )
    bed = Bed(limits=limits(max_pipelined=4))
    client = bed.connect()
    for piece in cut(stream, places):
        client.send(piece)
        if interleaved and bed.later:
            answer_later(bed, bed.later.pop(order.randrange(len(bed.later))))
            bed.tick()
    while bed.later:
        answer_later(bed, bed.later.pop(order.randrange(len(bed.later))))
        bed.tick()
    expected = [b"late %d" % n if late else b"GET /log %d " % n for n, late in enumerate(kinds)]
    assert bodies(client) == expected
    assert client.transport.reading


def test_one_write_for_the_answers_of_one_tick() -> None:
    bed = Bed()
    client = bed.connect()
    writes: list[bytes] = []
    client.transport.write = writes.append  # type: ignore[method-assign,assignment]
    client.connection.data_received(get(b"/log?1") + get(b"/log?2"))
    client.connection.data_received(get(b"/log?3"))
    assert writes == []
    bed.tick()
    assert len(writes) == 1


def test_a_refused_message_waits_for_its_turn() -> None:
    bed = Bed()
    client = bed.connect().send(get(b"/later?1") + get(b"/log?2") + b"nonsense\r\n\r\n")
    assert client.wire == b""
    answer_later(bed, bed.later[0])
    bed.tick()
    assert client.statuses() == [200, 200, 400]
    assert [answer.connection for answer in client.answers()] == [None, None, "close"]
    assert client.transport.eof_written


# -- HEAD ------------------------------------------------------------------------------------------


def test_head_gets_the_header_of_get() -> None:
    bed = Bed()
    client = bed.connect().send(get(b"/log?1", method=b"HEAD") + get(b"/log?2"))
    head, following = client.answers("HEAD", "GET")
    assert head.status == 200
    assert head.headers["content-length"] == str(len(b"HEAD /log 1 "))
    assert following.body == b"GET /log 2 "


def test_head_that_is_answered_later() -> None:
    bed = Bed()
    client = bed.connect().send(get(b"/later?1", method=b"HEAD") + get(b"/log?2"))
    answer_later(bed, bed.later[0])
    bed.tick()
    assert [a.body for a in client.answers("HEAD", "GET")] == [b"", b"GET /log 2 "]


def test_a_refused_head_gets_no_body() -> None:
    bed = Bed()
    client = bed.connect().send(b"HEAD / HTTP/1.1\r\n\r\n")
    [answer] = client.answers("HEAD")
    assert (answer.status, answer.body) == (400, b"")


def test_what_is_refused_after_a_head_gets_its_body() -> None:
    bed = Bed()
    client = bed.connect().send(get(b"/log", method=b"HEAD") + get(b"http:///"))
    assert [a.status for a in client.answers("HEAD", "GET")] == [200, 400]


# -- keeping the connection ------------------------------------------------------------------------


def test_connection_close() -> None:
    bed = Bed()
    client = bed.connect().send(get(b"/log?1") + get(b"/log?2", b"Connection: close"))
    assert [a.connection for a in client.answers()] == [None, "close"]
    assert client.transport.eof_written
    assert not client.transport.is_closing(), "the client gets time to read"


@pytest.mark.parametrize("late", [False, True])
def test_nothing_after_connection_close_is_processed(late: bool) -> None:
    target = b"/later" if late else b"/log"
    bed = Bed()
    client = bed.connect()
    client.connection.data_received(get(target, b"Connection: close") + get(b"/smuggled"))
    client.connection.data_received(get(b"/smuggled"))
    for request in bed.later:
        answer_later(bed, request)
    bed.tick()
    assert [request.path for request in bed.requests] == [target]
    assert [a.connection for a in client.answers()] == ["close"]
    assert client.transport.eof_written


def test_http_1_0_closes() -> None:
    bed = Bed()
    client = bed.connect().send(b"GET /log HTTP/1.0\r\n\r\n")
    assert [a.connection for a in client.answers()] == ["close"]
    assert client.transport.eof_written


def test_http_1_0_keeps_the_connection_when_asked() -> None:
    bed = Bed()
    client = bed.connect()
    request = b"GET /log HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"
    client.send(request, request)
    assert [a.connection for a in client.answers()] == ["keep-alive", "keep-alive"]
    client.send(b"GET /log HTTP/1.0\r\n\r\n")
    assert client.answers()[2].connection == "close"
    assert client.transport.eof_written


def test_after_the_last_answer_the_rest_is_read_and_dropped() -> None:
    bed = Bed()
    client = bed.connect().send(b"nonsense\r\n\r\n")
    wire = client.wire
    client.connection.data_received(b"x" * 100_000)
    bed.tick()
    assert client.wire == wire
    assert client.transport.reading
    assert not client.transport.is_closing()
    client.send_eof()
    assert client.transport.is_closing()
    assert not client.transport.aborted


# -- Expect: 100-continue --------------------------------------------------------------------------

EXPECTING = b"POST /log HTTP/1.1\r\n" + HOST + b"Expect: 100-Continue\r\nContent-Length: 2\r\n\r\n"


def test_the_body_is_asked_for() -> None:
    for pieces in ([EXPECTING], one_by_one(EXPECTING)):
        bed = Bed()
        client = bed.connect().send(*pieces)
        assert client.wire == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"ab")
        assert client.statuses() == [100, 200]
        assert client.answers()[1].body == b"POST /log  ab"


def test_the_body_is_asked_for_when_it_is_its_turn() -> None:
    """Behind an answer that is still owed a 100 would pass for an answer to the wrong request."""
    bed = Bed()
    client = bed.connect().send(get(b"/later?1") + EXPECTING)
    assert client.wire == b""
    answer_later(bed, bed.later[0])
    bed.tick()
    assert client.statuses() == [200, 100]
    client.send(b"ab")
    assert client.statuses() == [200, 100, 200]


def test_the_body_is_asked_for_behind_an_answer_of_the_same_tick() -> None:
    bed = Bed()
    client = bed.connect().send(get(b"/log?1") + EXPECTING, b"ab" + get(b"/log?2"))
    assert client.statuses() == [200, 100, 200, 200]


def test_a_chunked_body_is_asked_for() -> None:
    head = b"POST /log HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\n"
    bed = Bed()
    client = bed.connect().send(head + b"Transfer-Encoding: chunked\r\n\r\n", b"0\r\n\r\n")
    assert client.statuses() == [100, 200]


def test_no_body_is_asked_for_where_there_is_none() -> None:
    bed = Bed()
    client = bed.connect().send(get(b"/log", b"Expect: 100-continue"))
    assert client.statuses() == [200]


def test_http_1_0_knows_no_expectations() -> None:
    bed = Bed()
    data = b"POST /log HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    client = bed.connect().send(data)
    assert client.wire == b""
    client.send(b"ab")
    assert client.statuses() == [200]


def test_a_body_that_is_too_large_is_refused_before_it_is_sent() -> None:
    bed = Bed()
    head = b"POST /log HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\n"
    client = bed.connect().send(head + b"Content-Length: 70000\r\n\r\n")
    assert client.statuses() == [413]
    assert client.transport.eof_written


# -- upgrades --------------------------------------------------------------------------------------

H2C = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk")
WEBSOCKET = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13")


@pytest.mark.parametrize("offer", [H2C, WEBSOCKET], ids=["h2c", "websocket"])
def test_an_offered_upgrade_is_passed_over(offer: tuple[bytes, ...]) -> None:
    stream = get(b"/log?1", *offer) + get(b"/log?2")
    for pieces in ([stream], one_by_one(stream), *every_split(stream)):
        bed = Bed()
        client = bed.connect().send(*pieces)
        assert bodies(client) == [b"GET /log 1 ", b"GET /log 2 "]
        assert not client.ended


UPGRADES_WITH_BODY = {
    "fixed": (b"Content-Length: 2\r\n", b"ab"),
    "chunked": (b"Transfer-Encoding: chunked\r\n", b"2\r\nab\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize(("framing", "body"), UPGRADES_WITH_BODY.values(), ids=UPGRADES_WITH_BODY)
def test_a_body_behind_an_offered_upgrade_is_a_body(framing: bytes, body: bytes) -> None:
    lines = b"".join(line + b"\r\n" for line in (*H2C, b"User-Agent: a\xff", b"Referer:"))
    post = b"POST /log?1 HTTP/1.1\r\n" + HOST + lines + framing + b"\r\n" + body
    stream = post + get(b"/log?2")
    for pieces in ([stream], one_by_one(stream), *every_split(stream)):
        bed = Bed()
        client = bed.connect().send(*pieces)
        assert bodies(client) == [b"POST /log 1 ab", b"GET /log 2 "]
        assert bed.requests[0].fields[1:3] == [b"a\xff", b""]


def test_an_offered_upgrade_with_everything_else() -> None:
    head = b"POST /log HTTP/1.1\r\n" + HOST + b"Connection: close, upgrade\r\nUpgrade: h2c\r\n"
    bed = Bed()
    client = bed.connect().send(
        head + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n", b"ab" + get(b"/smuggled")
    )
    assert client.statuses() == [100, 200]
    assert client.answers()[1].connection == "close"
    assert len(bed.requests) == 1


def test_an_offered_upgrade_in_http_1_0() -> None:
    head = b"POST /log HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\n"
    bed = Bed()
    client = bed.connect().send(head + b"ab")
    assert bodies(client) == [b"POST /log  ab"]
    assert client.transport.eof_written


def test_an_offered_upgrade_and_a_body_that_is_too_large() -> None:
    head = b"POST /log HTTP/1.1\r\n" + HOST + b"Connection: upgrade\r\nUpgrade: h2c\r\n"
    bed = Bed()
    client = bed.connect().send(head + b"Content-Length: 70000\r\n\r\n")
    assert client.statuses() == [413]


def test_very_many_offered_upgrades() -> None:
    """One read full of them: answered in a loop, for recursion would end at a thousand."""
    bed = Bed()
    stream = get(b"/", b"Connection:upgrade", b"Upgrade:x") * 2000
    client = bed.connect().send(stream)
    assert client.statuses() == [200] * 2000


def test_an_offered_upgrade_while_the_pipeline_is_full() -> None:
    """What follows stays in order, though a part of it was read already."""
    bed = Bed(limits=limits(max_pipelined=2))
    upgrade = get(b"/log?u", *H2C)
    later = b"".join(get(b"/later?%d" % n) for n in range(2))
    tail = b"".join(get(b"/log?%d" % n) for n in range(1000))
    client = bed.connect().send(later + upgrade + tail)
    for request in bed.later:
        answer_later(bed, request)
        bed.tick()
    assert bodies(client)[2:] == [b"GET /log u ", *(b"GET /log %d " % n for n in range(1000))]


# -- handlers --------------------------------------------------------------------------------------


def test_a_failing_handler_is_answered_and_reported() -> None:
    error = LookupError("no such thing")

    def fail(request: Request) -> bytes | None:
        if request.path == b"/fail":
            raise error
        return bed.answers.no_content

    bed = Bed(handler=fail)
    client = bed.connect().send(get(b"/fail?1") + get(b"/log"))
    assert client.statuses() == [500, 204]
    assert b"no such thing" not in client.wire
    assert [caught for _, caught in bed.failures] == [error]
    assert "/fail" in bed.failures[0][0]
    assert not client.ended


def test_our_own_mistake_in_reading_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not taken for the client's: a 400 would hide it for ever."""
    error = TypeError("ours")

    def fail(*_: object) -> tuple[bytes, bytes]:
        raise error

    monkeypatch.setattr("prefork_ads.http.protocol.origin_form", fail)
    bed = Bed()
    client = bed.connect().send(get(b"http://a/"))
    assert client.statuses() == [500]
    assert [caught for _, caught in bed.failures] == [error]
    assert client.transport.eof_written
