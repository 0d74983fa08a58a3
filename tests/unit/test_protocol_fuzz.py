"""Random bytes and mutated requests: nothing escapes, nothing is answered twice, cuts change nothing.

PREFORK_ADS_TEST_EXAMPLES sets how many are tried; the default takes some seconds.
"""

import os
from typing import Final

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefork_ads.http.message import Request
from tests.unit.http_bed import Bed, Client, cut, one_by_one, read_answers

EXAMPLES: Final = int(os.environ.get("PREFORK_ADS_TEST_EXAMPLES", "400"))
FUZZ = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.data_too_large]
)

HEADERS: Final = [
    b"Host: a",
    b"Host: b",
    b"Host: [::1]:1",
    b"Connection: close",
    b"Connection: keep-alive",
    b"Connection: upgrade",
    b"Upgrade: h2c",
    b"Expect: 100-continue",
    b"Content-Length: 0",
    b"Content-Length: 5",
    b"Content-Length: 50",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip",
    b"User-Agent: x\xff\t y",
    b"X-Forwarded-For: 1.1.1.1",
    b"X-Empty:",
    b" folded",
]
METHODS: Final = [b"GET", b"GET", b"POST", b"HEAD", b"OPTIONS", b"CONNECT", b"BREW", b"PRI"]
TARGETS: Final = [b"/log?a=1", b"/later", b"*", b"http://a/log", b"a:443", b"/#", b"/%00"]
VERSIONS: Final = [b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.1 "]
BODIES: Final = [b"", b"", b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"0\r\nHost: c\r\n\r\n", b"5;x"]


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    start = b" ".join(draw(st.sampled_from(part)) for part in (METHODS, TARGETS, VERSIONS))
    headers = draw(st.lists(st.sampled_from(HEADERS), max_size=4))
    # Most messages are to be well-formed, or only their first lines would ever be tested.
    if draw(st.integers(0, 7)):
        headers = [b"Host: a", *(line for line in headers if line[:4] not in (b"Host", b" fol"))]
    body = draw(st.sampled_from(BODIES))
    return b"\r\n".join((start, *headers, b"", body))


@st.composite
def mutated(draw: st.DrawFn, stream: bytes) -> bytes:
    """A byte replaced, removed, inserted or doubled, a few times."""
    data = bytearray(stream)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        piece = draw(
            st.one_of(st.binary(max_size=2), st.sampled_from([b"\r\n", b"\0", b" ", b":"]))
        )
        data[at : at + draw(st.integers(0, 2))] = piece
    return bytes(data)


streams = st.one_of(
    st.binary(max_size=300),
    st.lists(messages(), min_size=1, max_size=5).map(b"".join),
    st.lists(messages(), min_size=1, max_size=3).map(b"".join).flatmap(mutated),
)


def fed(pieces: list[bytes]) -> tuple[Bed, Client]:
    """Feed, with each late answer given in the tick after, newest first."""
    bed = Bed()
    client = bed.connect()
    for piece in pieces:
        if not client.ended:
            client.connection.data_received(piece)
        client.bed.tick()
    while bed.later:
        request = bed.later.pop()
        request.respond(bed.answers.full(200, b"late", b"text/plain"))
    bed.tick()
    return bed, client


def summary(request: Request) -> tuple[object, ...]:
    return (
        request.method,
        request.path,
        request.query,
        request.body,
        request.fields,
        request.keep_alive,
    )


def methods_of(bed: Bed) -> list[str]:
    return [request.method.decode() for request in bed.requests]


def check(bed: Bed, client: Client) -> None:
    assert bed.failures == []
    assert len(bed.refusals) <= 1
    methods = methods_of(bed)
    if b"HEAD" in client.wire or bed.refusals:
        # Whether the refused message was a HEAD only its bytes tell; either reading must be whole.
        try:
            answers = read_answers(client.wire, [*methods, "GET"])
        except AssertionError:
            answers = read_answers(client.wire, [*methods, "HEAD"])
    else:
        answers = read_answers(client.wire, methods)
    final = [answer for answer in answers if answer.status != 100]
    assert len(final) == len(bed.requests) + len(bed.refusals)
    assert [answer.status for answer in final[len(bed.requests) :]] == bed.refusals
    closing = [answer.connection for answer in final].count("close")
    assert closing == (1 if client.ended else 0)
    if closing:
        assert final[-1].connection == "close"


@FUZZ
@given(stream=streams, places=st.lists(st.integers(0, 1000), max_size=10))
def test_any_bytes(stream: bytes, places: list[int]) -> None:
    whole_bed, whole = fed([stream])
    check(whole_bed, whole)
    for pieces in (cut(stream, places), one_by_one(stream)):
        bed, client = fed(pieces)
        check(bed, client)
        assert list(map(summary, bed.requests)) == list(map(summary, whole_bed.requests))
        assert client.wire == whole.wire
        assert client.ended == whole.ended


@FUZZ
@given(
    stream=streams,
    steps=st.lists(
        st.sampled_from(["tick", "answer", "pause", "resume", "eof", "lose", "drain", "time"]),
        max_size=20,
    ),
    places=st.lists(st.integers(0, 1000), max_size=10),
)
def test_any_course_of_events(stream: bytes, steps: list[str], places: list[int]) -> None:
    """Whatever happens between the pieces: no exception, no half answer, no write after the end."""
    bed = Bed()
    client = bed.connect()
    pieces = cut(stream, places)
    half_closed = paused = False
    for number in range(max(len(steps), len(pieces))):
        if number < len(pieces) and not half_closed:
            client.send(pieces[number])
        if client.lost:
            break
        step = steps[number] if number < len(steps) else "tick"
        if step == "answer" and bed.later:
            bed.later.pop().respond(bed.answers.full(200, b"late", b"text/plain"))
        elif step == "pause" and not paused:
            paused = True
            client.connection.pause_writing()
        elif step == "resume" and paused:
            paused = False
            client.connection.resume_writing()
        elif step == "eof" and not half_closed and client.transport.reading:
            half_closed = True
            client.send_eof()
        elif step == "lose":
            client.lose()
        elif step == "drain":
            bed.hub.drain()
        elif step == "time":
            bed.pass_time(5)
        bed.tick()
    for request in bed.later:
        request.respond(bed.answers.no_content)
    bed.hub.close_idle()
    bed.tick()
    assert bed.failures == []
    assert client.wire.count(b"\r\nDate: ") <= len(bed.requests) + len(bed.refusals)
    bed.hub.abort_all()
    bed.tick()
    assert bed.hub.connections == set()
