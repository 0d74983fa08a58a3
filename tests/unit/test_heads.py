"""Heads that were read before: what is known of them is what reading them again would say, and no more.

"Known" is a head that came twice; each comparison is with a server that has never read anything.
"""

import random
from collections.abc import Callable, Sequence
from itertools import product
from typing import Final

import pytest
from hypothesis import given

from prefork_ads.http.heads import (
    DOUBTS,
    MAX_BYTES,
    MAX_MET,
    MAX_REMEMBERED,
    MAX_REMEMBERED_BYTES,
    Heads,
    target_of,
)
from prefork_ads.http.protocol import SLOW_READER
from tests.unit.http_bed import LIMITS, Bed, Client, limits
from tests.unit.http_cases import REFUSED, VALID, get
from tests.unit.test_protocol_fuzz import FUZZ, METHODS, TARGETS, VERSIONS, streams, summary

TIMES: Final = 4

# With "keep-alive" llhttp goes on after a message of any version.
BROWSER: Final = (
    b"Connection: keep-alive",
    b"User-Agent: Mozilla/5.0",
    b"Accept: */*",
    b"Referer: https://site.example/",
    b"Sec-GPC: 1",
)
ODD_LINES: Final = (
    *(b" ".join(parts) for parts in product(METHODS, TARGETS, VERSIONS)),
    *(b"", b"\r\nGET / HTTP/1.1", b"GET /\rx HTTP/1.1", b"GET /a b HTTP/1.1", b"GET / HTTP/1.1\n"),
    *(b"GET  / HTTP/1.1", b"GET /\tHTTP/1.1", b"GET / http/1.1", b"GET / HTTP/1.1\r\nX: HTTP/1.1"),
    *(b"GET /log" + end + b"User-Agent: evil HTTP/1.1" for end in (b"\n", b"\r", b"\r\n", b" \n")),
    *(
        b"GET /log" + end + b"Sec-GPC: 0 HTTP/1.1"
        for end in (b"\n", b"\t\n", b"?a\n", b" HTTP/0.9\n")
    ),
)


def outcome(bed: Bed, data: bytes) -> tuple[object, ...]:
    """What comes of these bytes on a connection of their own."""
    requests, refusals = len(bed.requests), len(bed.refusals)
    client = bed.connect().send(data)
    seen = list(map(summary, bed.requests[requests:]))
    return seen, bed.refusals[refusals:], client.wire, client.ended


def knowing(*messages: bytes) -> Bed:
    bed = Bed()
    for message in messages:
        outcome(bed, message)
        outcome(bed, message)
    return bed


# -- the same as reading ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [*(data for data, _ in VALID.values()), *(data for data, _ in REFUSED.values())]
)
def test_a_message_means_the_same_however_often_it_comes(data: bytes) -> None:
    bed = Bed()
    first = outcome(Bed(), data)
    assert [outcome(bed, data) for _ in range(TIMES)] == [first] * TIMES
    assert bed.failures == []


@FUZZ
@given(stream=streams)
def test_any_bytes_mean_the_same_however_often_they_come(stream: bytes) -> None:
    bed = Bed()
    first = outcome(Bed(), stream)
    assert [outcome(bed, stream) for _ in range(TIMES)] == [first] * TIMES


@pytest.mark.parametrize("name", VALID)
def test_another_first_line_with_a_known_head_is_what_it_is_with_an_unknown_one(name: str) -> None:
    data, _ = VALID[name]
    bed = knowing(data)
    _, line_end, rest = data.partition(b"\r\n")
    for start in ODD_LINES:
        other = start + line_end + rest
        assert outcome(bed, other) == outcome(Bed(), other), start


@pytest.mark.parametrize("start", ODD_LINES)
def test_whatever_came_before_teaches_nobody_another_head(start: bytes) -> None:
    """What one client sends must not change what another one is taken to have said."""
    plain = get(b"/log?a=1", *BROWSER)
    _, line_end, rest = plain.partition(b"\r\n")
    first = outcome(Bed(), plain)
    for bed in (knowing(start + line_end + rest), knowing(plain, start + line_end + rest)):
        assert [outcome(bed, plain) for _ in range(TIMES)] == [first] * TIMES


def test_a_body_that_reads_like_a_known_message_is_a_body() -> None:
    known = get(b"/smuggled", *BROWSER)
    bed = knowing(known)
    del bed.requests[:]
    head = b"POST /log HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(known)
    client = bed.connect().send(head, known, known)
    assert [request.path for request in bed.requests] == [b"/log", b"/smuggled"]
    assert bed.requests[0].body == known
    client.send(known[:40], known[40:])
    assert len(bed.requests) == 3


def test_a_refusal_behind_a_known_message_is_not_that_of_the_message_before_it() -> None:
    """A refused HEAD has no body in its answer; what follows a HEAD has one."""
    bed = knowing(get(b"/", *BROWSER))
    client = bed.connect().send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", get(b"/", *BROWSER))
    client.connection._hold(LIMITS.max_held + 1)
    bed.tick()
    assert client.answers("HEAD", "GET", "GET")[-1].body


class NothingKnown(Heads):
    """A server that reads everything."""

    def __init__(self) -> None:
        super().__init__()
        self.find = lambda _head: None  # type: ignore[assignment]


PIECES: Final = (
    get(b"/log?a=1", *BROWSER),
    get(b"/ad", *BROWSER),
    get(b"/later", *BROWSER),
    get(b"/log?a=1"),
    get(b"/", *BROWSER) + get(b"/log", *BROWSER),
    get(b"/", *BROWSER, version=b"1.0"),
    get(b"/", b"Connection: close"),
    b"HEAD / HTTP/1.1" + get(b"/", *BROWSER)[14:],
    b"POST /log HTTP/1.1\r\nHost: a\r\nContent-Length: 150\r\n\r\n",
    b"POST /log HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    b"0\r\n\r\n",
    b"\r\n",
    b"\r",
    b"\n",
    b"GET /log\nUser-Agent: evil HTTP/1.1" + get(b"/", *BROWSER)[14:],
    get(b"/log?a=1", *BROWSER)[:30],
    get(b"/log?a=1", *BROWSER)[30:],
)
ACTIONS: Final = ("answer", "pause", "resume", "eof", "time", "new", "drain")


@pytest.mark.parametrize("seed", range(150))
def test_no_course_of_events_tells_a_server_that_remembers_from_one_that_does_not(
    seed: int,
) -> None:
    chance = random.Random(seed)
    beds = [Bed(), Bed()]
    beds[1].hub.heads = NothingKnown()
    clients = [[bed.connect(), bed.connect()] for bed in beds]
    for _ in range(chance.randint(5, 40)):
        which = chance.randrange(2)
        piece, action = chance.choice(PIECES), chance.choice(ACTIONS)
        acts = chance.random() < (0.02 if action in ("drain", "eof", "time") else 0.1)
        for bed, open_clients in zip(beds, clients, strict=True):
            if acts:
                take_action(bed, open_clients, which, action)
            client = open_clients[which]
            if client.ended or client.lost:
                client = open_clients[which] = bed.connect()
            client.send(piece)
        seen = [list(map(summary, bed.requests)) for bed in beds]
        assert seen[0] == seen[1]
        assert [client.wire for client in clients[0]] == [client.wire for client in clients[1]]
        assert beds[0].refusals == beds[1].refusals
        held = [[client.connection.check(0.0) for client in each] for each in clients]
        assert held[0] == held[1]
        assert beds[0].failures == beds[1].failures == []


def take_action(bed: Bed, clients: list[Client], which: int, action: str) -> None:
    client = clients[which]
    if action == "answer" and bed.later:
        bed.later.pop().respond(bed.answers.full(200, b"late", b"text/plain"))
    elif action == "new" or client.lost:
        clients[which] = bed.connect()
    elif action == "pause":
        client.connection._pause(SLOW_READER)
    elif action == "resume":
        client.connection.resume_writing()
    elif action == "eof":
        client.send_eof()
    elif action == "drain":
        bed.hub.drain()
    elif action == "time":
        bed.pass_time(1)
    bed.tick()


@pytest.mark.parametrize("code", range(256))
def test_each_character_in_a_target_is_what_the_parser_says(code: int) -> None:
    known = knowing(get(b"/", *BROWSER))
    for target in (b"/a%cz", b"/a?b%cz", b"%c", b"/%c"):
        data = get(target % code, *BROWSER)
        assert outcome(known, data) == outcome(Bed(), data)


def test_a_known_head_saves_the_reading() -> None:
    bed = knowing(get(b"/log?a=1", *BROWSER))
    for target in (b"/log?a=2", b"/ad"):
        outcome(bed, get(target, *BROWSER))
    fields = [request.fields for request in bed.requests]
    # The second was read and remembered; those behind it had the very same list.
    assert fields[0] is not fields[1]
    assert fields[1] is fields[2] is fields[3]
    assert [request.query for request in bed.requests] == [b"a=1", b"a=1", b"a=2", b""]


def test_a_connection_takes_known_and_unknown_heads_in_turn() -> None:
    known, unknown = get(b"/known", *BROWSER), get(b"/unknown", b"X: 1")
    body = b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
    bed = knowing(known)
    del bed.requests[:]
    client = bed.connect()
    client.send(known, unknown, known, body, known, known[:30], known[30:], known)
    paths = [b"/known", b"/unknown", b"/known", b"/body", b"/known", b"/known", b"/known"]
    assert [request.path for request in bed.requests] == paths
    assert client.statuses() == [200] * len(paths)
    assert [request.body for request in bed.requests if request.body] == [b"hi"]


def test_a_target_that_is_too_long_is_refused_with_a_known_head() -> None:
    bed = Bed(limits=limits(max_url=100))
    for _ in range(3):
        outcome(bed, get(b"/", *BROWSER))
    client = bed.connect().send(get(b"/" + b"x" * 100, *BROWSER))
    assert client.statuses() == [414]


def test_a_connection_past_the_limit_is_refused_with_a_known_head() -> None:
    bed = Bed(limits=limits(max_connections=3))
    data = get(b"/log", *BROWSER)
    for _ in range(3):
        bed.connect().send(data)
    assert bed.connect().send(data).statuses() == [503]
    assert bed.connect().send(get(b"/vital", *BROWSER)).statuses() == [200]


# -- what is remembered ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", id="length"),
        pytest.param(get(b"/", b"Expect: 100-continue"), id="expectation"),
        pytest.param(get(b"/", b"Connection: Upgrade", b"Upgrade: h2c"), id="upgrade"),
        pytest.param(get(b"/", b"Connection: close"), id="close"),
        pytest.param(get(b"/", version=b"1.0"), id="an older version"),
        pytest.param(get(b"/", *BROWSER) * 2, id="two messages"),
        pytest.param(get(b"/", *BROWSER)[:-2], id="half a message"),
        pytest.param(get(b"/", b"X: " + b"x" * MAX_REMEMBERED_BYTES), id="too long"),
        pytest.param(b"\r\n" + get(b"/"), id="an empty line in front"),
    ],
)
def test_what_has_more_to_it_than_its_bytes_is_not_remembered(data: bytes) -> None:
    bed = knowing(data)
    outcome(bed, data)
    assert len(bed.hub.heads) == 0


def test_what_came_in_two_reads_is_not_remembered() -> None:
    data = get(b"/", *BROWSER)
    bed = Bed()
    for _ in range(3):
        bed.connect().send(data[:20], data[20:])
    assert len(bed.hub.heads) == 0


def test_both_tables_are_bounded() -> None:
    heads = Heads()
    for number in range(2 * MAX_MET):
        head = b"\r\nX: %d\r\n\r\n" % number
        heads.is_back(head)
        heads.remember(head, [])
        assert len(heads) <= MAX_REMEMBERED
    assert len(heads._met) <= MAX_MET


def test_the_table_is_bounded_in_bytes() -> None:
    heads = Heads()
    for number in range(2 * MAX_BYTES // MAX_REMEMBERED_BYTES + 10):
        heads.remember(b"\r\nX: %b%d\r\n\r\n" % (b"x" * 2000, number), [])
        assert len(heads) * 2000 <= MAX_BYTES
    assert len(heads) > 1


def test_no_two_messages_hide_where_one_blank_line_is() -> None:
    """What a head is taken for rests on it, and it is the parser that sees to it."""
    ends = (b"\r\n", b"\n", b"\r", b"\r\r\n", b"\n\n", b"\r\n\n", b"\n\r\n", b"\n\r")
    for first, second, third in product(ends, repeat=3):
        data = get(b"/")[:-4] + first + b"X: 1" + second + third + get(b"/b")
        if data.find(b"\r\n\r\n") == len(data) - 4:
            bed = Bed()
            outcome(bed, data)
            assert len(bed.requests) <= 1


def test_a_head_that_ends_otherwise_is_not_remembered() -> None:
    heads = Heads()
    for head in (b"\r\nX: 1\r\n\r\nmore", b"\r\nX: 1\n\n", b"\r\n\r\n\r\n\r\n"):
        heads.remember(head, [])
    assert len(heads) == 0


@pytest.mark.parametrize("target", [b"/", b"/ad?id=1&b=%20", b"/a'\"<>\\^`{|}~"])
def test_the_target_of_a_plain_request(target: bytes) -> None:
    assert target_of(b"GET " + target + b" HTTP/1.1\r\n", len(target) + 13) == target


# -- doubts ----------------------------------------------------------------------------------------


def doubting() -> Bed:
    bed = Bed()
    bed.hub.heads = Heads(random.Random(2016).random)
    return bed


def looked_for(bed: Bed, messages: Sequence[bytes]) -> int:
    """How many of these heads were looked for."""
    heads = bed.hub.heads
    looks = 0
    find: Callable[[bytes], list[bytes | None] | None] = heads.find

    def counted(head: bytes) -> list[bytes | None] | None:
        nonlocal looks
        looks += 1
        return find(head)

    heads.find = counted  # type: ignore[assignment]
    client = bed.connect()
    for message in messages:
        client.send(message)
    heads.find = find  # type: ignore[assignment]
    assert set(client.statuses()) == {200}
    return looks


def browsers(first: int, last: int) -> list[bytes]:
    return [get(b"/", *BROWSER, b"Cookie: %d" % number) for number in range(first, last)]


def test_heads_that_never_come_back_are_soon_looked_for_rarely() -> None:
    bed = doubting()
    assert looked_for(bed, browsers(0, DOUBTS)) == DOUBTS
    assert looked_for(bed, browsers(DOUBTS, DOUBTS + 800)) == pytest.approx(100, abs=40)
    assert len(bed.hub.heads) == 0


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param(
            [twice for one in range(1000) for twice in 2 * browsers(one, one + 1)], id="twice"
        ),
        pytest.param(
            [b"POST /log HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"] * 2000, id="bodies"
        ),
        pytest.param([get(b"/", *BROWSER) * 2] * 1000, id="pipelined"),
        pytest.param(
            [get(b"/", *BROWSER)] * 2 + [b"POST" + get(b"/", *BROWSER)[3:]] * 2000, id="methods"
        ),
    ],
)
def test_what_saves_no_reading_is_soon_looked_for_rarely(messages: list[bytes]) -> None:
    assert looked_for(doubting(), messages) < 0.3 * len(messages)


def test_when_they_do_come_back_they_are_looked_for_again() -> None:
    bed = doubting()
    looked_for(bed, browsers(0, 500))
    chance = random.Random(2016)
    regulars = browsers(1000, 1200)
    looked_for(bed, chance.choices(regulars, k=10_000))
    assert looked_for(bed, chance.choices(regulars, k=400)) == 400
    assert len(bed.hub.heads) == len(regulars)
