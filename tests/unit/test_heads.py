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
    MAX_MET,
    MAX_REMEMBERED,
    MAX_REMEMBERED_BYTES,
    Heads,
    target_of,
)
from tests.unit.http_bed import Bed, limits
from tests.unit.http_cases import REFUSED, VALID, get
from tests.unit.test_protocol_fuzz import FUZZ, METHODS, TARGETS, VERSIONS, streams, summary

TIMES: Final = 4

BROWSER: Final = (b"User-Agent: Mozilla/5.0", b"Accept: */*", b"Referer: https://site.example/")


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
    starts = [b" ".join(parts) for parts in product(METHODS, TARGETS, VERSIONS)]
    for start in (*starts, b"", b"GET /\rx HTTP/1.1", b"GET /a b HTTP/1.1", b"GET / HTTP/1.1\n"):
        other = start + line_end + rest
        assert outcome(bed, other) == outcome(Bed(), other), start


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
    bed = Bed()
    assert looked_for(bed, browsers(0, DOUBTS)) == DOUBTS
    assert looked_for(bed, browsers(DOUBTS, DOUBTS + 800)) == 100
    assert len(bed.hub.heads) == 0


def test_when_they_do_come_back_they_are_looked_for_again() -> None:
    bed = Bed()
    looked_for(bed, browsers(0, 500))
    chance = random.Random(2016)
    regulars = browsers(1000, 1200)
    looked_for(bed, chance.choices(regulars, k=4000))
    assert looked_for(bed, chance.choices(regulars, k=400)) == 400
    assert len(bed.hub.heads) == len(regulars)
