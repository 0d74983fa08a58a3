"""Random bytes and mutated requests: nothing escapes, nothing is answered twice, cuts change nothing.

Where messages begin and end is held against a second reading, in http_reference, which shares nothing
with the server: what both take for messages must be the same messages, and what it refuses must be refused.

PREFORK_ADS_TEST_EXAMPLES sets how many examples the searching tests try (Hypothesis shrinks what they find);
PREFORK_ADS_TEST_FUZZ_SECONDS how long the fast one goes on, which tries some thousand streams a second and
names the seed of what it finds. The defaults take some seconds each.
"""

import os
import random
import time
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefork_ads.http.message import Request
from tests.unit import http_reference
from tests.unit.http_bed import Bed, Client, cut, one_by_one, read_answers
from tests.unit.http_cases import REFUSED, VALID

EXAMPLES: Final = int(os.environ.get("PREFORK_ADS_TEST_EXAMPLES", "150"))
FUZZ = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.data_too_large]
)

FUZZ_SECONDS: Final = float(os.environ.get("PREFORK_ADS_TEST_FUZZ_SECONDS", "4"))
FUZZ_SEED: Final = os.environ.get("PREFORK_ADS_TEST_FUZZ_SEED")

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
        # Whether no method is an unknown one, 501, or none at all depends on how much is seen of it.
        assert client.wire == whole.wire or {*bed.refusals, *whole_bed.refusals} == {400, 501}
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


# -- against the second reading --------------------------------------------------------------------

# What mutations are made of: the bytes on which parsers have differed.
PIECES: Final = [
    *(
        b"\r",
        b"\n",
        b"\r\n",
        b"\r\n\r\n",
        b" ",
        b"\t",
        b"\0",
        b"\x0b",
        b"\xff",
        b":",
        b";",
        b",",
        b"=",
    ),
    *(
        b"0",
        b"5",
        b"00",
        b"+5",
        b"-1",
        b"0x5",
        b"5 ",
        b"a",
        b"ffffffffffffffff",
        b"0\r\n\r\n",
        b"5;x",
    ),
    *(b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"content-length:5,5\r\n"),
    *(
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding:\tchunked \r\n",
        b"chunked",
        b"identity",
    ),
    *(
        b"Host: b\r\n",
        b"X: y\r\n",
        b" X: y\r\n",
        b"Connection: close\r\n",
        b"Expect: 100-continue\r\n",
    ),
    *(
        b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        b"HTTP/1.1",
        b"HTTP/1.0",
        b"POST",
        b"#",
        b"?",
        b'"',
    ),
]
CORPUS: Final = [data for data, _ in (*VALID.values(), *REFUSED.values()) if len(data) < 1000]
_NAMES: Final = (b"X", b"user-agent", b"ACCEPT", b"x-forwarded-for", b"Content_Length")
_EXTENSIONS: Final = (b"", b"", b";a", b";a=b", b';a="b c"', b";a;b=c")


def valid_message(chance: random.Random) -> bytes:
    """Some message that is one, in one of the many ways to write it."""
    pick = chance.choice
    lines = [pick((b"Host: a", b"host:a:80", b"HOST: \t a.example "))]
    lines += [
        pick(_NAMES) + b":" + pick((b"", b" v", b"\tv w \t", b" \xe4:\x80"))
        for _ in range(pick((0, 1, 3)))
    ]
    body = bytes(chance.choices(b"ab\r\n0:; ", k=pick((0, 0, 1, 5, 20))))
    kind = pick((b"none", b"fixed", b"chunked", b"expected"))
    if kind == b"none":
        body = b""
    elif kind in (b"fixed", b"expected"):
        lines.append(
            pick((b"Content-Length: ", b"content-length:", b"CONTENT-LENGTH:\t"))
            + b"%d" % len(body)
        )
        if kind == b"expected":
            lines.append(b"Expect: 100-Continue")
    else:
        lines.append(pick((b"Transfer-Encoding: chunked", b"transfer-encoding:CHUNKED ")))
        body = valid_chunks(chance, body)
    chance.shuffle(lines)
    method = pick((b"GET", b"POST", b"HEAD", b"OPTIONS", b"PUT"))
    target = pick((b"/", b"/log?a=1&b=%00", b"/later", b"/a/../b?c?d"))
    start = pick((b"", b"", b"\r\n")) + method + b" " + target + b" HTTP/1.1"
    return b"\r\n".join((start, *lines, b"", b"")) + body


def valid_chunks(chance: random.Random, body: bytes) -> bytes:
    written = b""
    for piece in cut(body, [chance.randrange(100) for _ in range(chance.randrange(4))]):
        if piece:
            size = chance.choice((b"%x", b"%X", b"000%x")) % len(piece)
            written += size + chance.choice(_EXTENSIONS) + b"\r\n" + piece + b"\r\n"
    trailer = chance.choice((b"", b"", b"X: y\r\n", b"Host: b\r\nX: y\r\n"))
    return (
        written
        + chance.choice((b"0", b"00"))
        + chance.choice(_EXTENSIONS)
        + b"\r\n"
        + trailer
        + b"\r\n"
    )


def mutation(chance: random.Random, stream: bytes) -> bytes:
    """The stream with something inserted, replaced, removed or repeated, once or a few times."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        at = chance.randrange(len(stream) + 1)
        # Near the end of a line there is more to break.
        if chance.random() < 0.4 and (line_end := stream.find(b"\r\n", at)) >= 0:
            at = line_end
        until = at + chance.choice((0, 0, 1, 1, 2, 8))
        piece = chance.choice(
            (chance.choice(PIECES), b"", stream[at : at + chance.randrange(1, 40)])
        )
        stream = stream[:at] + piece + stream[until:]
    return stream


def judge(stream: bytes, pieces: list[bytes]) -> None:
    """The server must agree with the second reading, as far as that claims anything."""
    bed, client = fed(pieces)
    check(bed, client)
    expected, outcome = http_reference.read(stream)
    taken = [(r.method, r.path, r.query, r.body) for r in bed.requests]
    claimed = [(m.method, *m.target.partition(b"?")[::2], m.body) for m in expected]
    both = min(len(taken), len(claimed))
    assert taken[:both] == claimed[:both]
    closed = bool(taken) and not bed.requests[-1].keep_alive
    if outcome != http_reference.EITHER:
        assert len(taken) <= len(claimed)
    if not closed:
        assert len(taken) >= len(claimed)
        assert outcome != http_reference.REFUSED or bed.refusals
        assert outcome != http_reference.MORE or not bed.refusals


@FUZZ
@given(seed=st.integers(0, 2**32), count=st.integers(1, 4), places=st.lists(st.integers(0, 1000)))
def test_valid_messages_have_the_ends_they_were_given(
    seed: int, count: int, places: list[int]
) -> None:
    chance = random.Random(seed)
    messages = [valid_message(chance) for _ in range(count)]
    stream = b"".join(messages)
    expected, outcome = http_reference.read(stream)
    assert (len(expected), outcome) == (count, http_reference.MORE)
    for pieces in ([stream], cut(stream, places), one_by_one(stream)):
        bed, client = fed(pieces)
        check(bed, client)
        assert [r.body for r in bed.requests] == [m.body for m in expected]
        assert [r.method for r in bed.requests] == [m.method for m in expected]
        assert bed.refusals == []


@pytest.mark.parametrize("data", CORPUS)
def test_both_readings_agree_on_the_table(data: bytes) -> None:
    judge(data, [data])


def test_both_readings_agree_on_each_beginning_of_http_2() -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    for end in range(1, len(preface) + 1):
        judge(preface[:end], [preface[:end]])
        if end < len(preface):
            judge(preface[:end] + b"x", [preface[:end] + b"x"])


@pytest.mark.timeout(FUZZ_SECONDS + 120)
def test_mutated_messages_are_read_as_the_second_reading_does() -> None:
    """For a while; a failure names the seed with which it is repeated at once."""
    seeds = [int(FUZZ_SEED)] if FUZZ_SEED else []
    give_up_at = time.monotonic() + FUZZ_SECONDS
    tried = 0
    while seeds or (not FUZZ_SEED and time.monotonic() < give_up_at):
        seed = seeds.pop() if seeds else random.getrandbits(48)
        chance = random.Random(seed)
        parts = [
            chance.choice(CORPUS) if chance.random() < 0.3 else valid_message(chance)
            for _ in range(chance.choice((1, 1, 2, 3)))
        ]
        stream = mutation(chance, b"".join(parts))
        ways = ([stream], cut(stream, [chance.randrange(1000) for _ in range(3)]))
        try:
            judge(stream, chance.choice(ways))
        except Exception as error:
            raise AssertionError(f"PREFORK_ADS_TEST_FUZZ_SEED={seed}: {stream!r}") from error
        tried += 1
    assert tried
