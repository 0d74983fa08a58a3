"""What is a request and what is not, however the bytes arrive.

Each message of the table is fed whole, cut in two at each position, byte by byte, and with others before and
behind it.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork_ads.http import rules
from prefork_ads.http.message import CONTENT_TYPE, USER_AGENT, X_FORWARDED_FOR
from tests.unit.http_bed import Bed, Client, cut, every_split, one_by_one
from tests.unit.http_cases import REFUSED, VALID, Seen, chunked, get, hosted, statuses_of


def seen(bed: Bed) -> list[Seen]:
    return [Seen(r.method, r.path, r.query, r.body, r.keep_alive) for r in bed.requests]


def fed(*pieces: bytes) -> tuple[Bed, Client]:
    bed = Bed()
    client = bed.connect().send(*pieces)
    assert bed.failures == []
    return bed, client


@pytest.mark.parametrize(("data", "expected"), VALID.values(), ids=VALID)
def test_a_request_is_read_however_it_is_cut(data: bytes, expected: Seen) -> None:
    whole, client = fed(data)
    assert seen(whole) == [expected]
    assert [a.status for a in client.answers("GET")] == [200]
    assert client.ended != expected.keep_alive
    for pieces in (one_by_one(data), *every_split(data)):
        bed, cut_client = fed(*pieces)
        assert seen(bed) == [expected]
        assert cut_client.wire == client.wire


@pytest.mark.parametrize(("data", "expected"), VALID.values(), ids=VALID)
def test_what_follows_a_request_is_the_next_one(data: bytes, expected: Seen) -> None:
    bed, client = fed(data + get(b"/next"))
    following = [Seen(path=b"/next")] if expected.keep_alive else []
    assert seen(bed) == [expected, *following]
    assert len(client.answers()) == 1 + len(following)


@pytest.mark.parametrize(("data", "expected"), REFUSED.values(), ids=REFUSED)
def test_a_refused_message_is_the_last(data: bytes, expected: int | tuple[int, ...]) -> None:
    bed, client = fed(data + get(b"/smuggled"))
    assert bed.requests == []
    [answer] = client.answers()
    # Of several statuses the first is that of a message that is seen as a whole.
    status = statuses_of(expected)[0]
    assert answer.status == status
    assert answer.connection == "close"
    assert answer.headers["content-type"] == "application/json"
    assert b'"status":%d' % status in answer.body
    assert bed.refusals == [status]
    assert client.transport.eof_written
    client.connection.data_received(get(b"/smuggled"))
    bed.tick()
    assert bed.requests == []
    assert client.answers() == [answer]


@pytest.mark.parametrize(("data", "expected"), REFUSED.values(), ids=REFUSED)
def test_a_message_is_refused_however_it_is_cut(
    data: bytes, expected: int | tuple[int, ...]
) -> None:
    _, whole = fed(data)
    splits = every_split(data) if len(data) < 1000 else []
    for pieces in (one_by_one(data), *splits):
        bed, client = fed(*pieces)
        assert bed.requests == []
        [status] = client.statuses()
        assert status in statuses_of(expected)
        assert client.wire == whole.wire or isinstance(expected, tuple)


@pytest.mark.parametrize(("data", "expected"), REFUSED.values(), ids=REFUSED)
def test_what_came_before_a_refused_message_is_answered(
    data: bytes, expected: int | tuple[int, ...]
) -> None:
    bed, client = fed(get(b"/first") + data)
    assert seen(bed) == [Seen(path=b"/first")]
    first, status = client.statuses()
    assert first == 200
    assert status in statuses_of(expected)


@given(st.data())
def test_two_messages_cut_anywhere(data: st.DataObject) -> None:
    first, _ = data.draw(st.sampled_from(list(VALID.values())))
    second, _ = data.draw(st.sampled_from([*VALID.values(), *REFUSED.values()]))
    stream = first + second
    places = data.draw(st.lists(st.integers(0, len(stream)), max_size=8))
    whole_bed, whole = fed(stream)
    bed, client = fed(*cut(stream, places))
    assert seen(bed) == seen(whole_bed)
    # Whether no method is an unknown one, 501, or none at all depends on how much is seen of it.
    ends = {client.statuses()[-1], whole.statuses()[-1]}
    assert client.wire == whole.wire or ends == {400, 501}


def test_fields_reach_the_handler() -> None:
    bed, _ = fed(
        get(b"/", b"user-AGENT: a  b", b"X-Forwarded-For: 1.1.1.1", b"x-forwarded-for: 2.2.2.2")
    )
    fields = bed.requests[0].fields
    assert fields[USER_AGENT] == b"a  b"
    assert fields[X_FORWARDED_FOR] == b"1.1.1.1, 2.2.2.2"
    assert fields[CONTENT_TYPE] is None


def test_of_a_repeated_field_the_first_counts() -> None:
    bed, _ = fed(get(b"/", b"User-Agent: first", b"User-Agent: second"))
    assert bed.requests[0].fields[USER_AGENT] == b"first"


def test_a_trailer_changes_no_field() -> None:
    """A proxy that sets X-Forwarded-For itself may pass a client's trailer on as it is."""
    data = chunked(
        b"1\r\nx\r\n0\r\nX-Forwarded-For: 6.6.6.6\r\nContent-Type: text/plain\r\n"
        b"User-Agent: forged\r\n\r\n",
        b"X-Forwarded-For: 1.1.1.1",
    )
    for pieces in ([data], one_by_one(data)):
        bed, _ = fed(*pieces)
        fields = bed.requests[0].fields
        assert fields[X_FORWARDED_FOR] == b"1.1.1.1"
        assert fields[CONTENT_TYPE] is None
        assert fields[USER_AGENT] is None


def test_fields_of_one_request_are_not_the_next_ones() -> None:
    bed, _ = fed(get(b"/", b"User-Agent: first") + get() + chunked(b"0\r\n\r\n") + get())
    assert [r.fields[USER_AGENT] for r in bed.requests] == [b"first", None, None, None]
    assert len({id(r.fields) for r in bed.requests}) == 4


def test_names_that_clients_invent_do_not_pile_up() -> None:
    """…and do not push out for good the names that matter."""
    bed = Bed()
    client = bed.connect()
    for number in range(3000):
        client.send(get(b"/", b"X-Invented-%d: 1" % number))
    client.send(get(b"/", b"User-Agent: me", b"X" * 5000 + b": 1"))
    assert bed.requests[-1].fields[USER_AGENT] == b"me"
    learned = [*rules.POSITIONS, *rules.IGNORED]
    assert len(learned) <= rules.MAX_LEARNED
    assert max(map(len, learned)) <= 40


def test_hosts_that_clients_invent_do_not_pile_up() -> None:
    bed = Bed()
    client = bed.connect()
    for number in range(3000):
        client.send(hosted(b" invented-%d.example" % number))
    client.send(hosted(b"x" * 5000))
    assert client.statuses() == [200] * 3001
    assert len(rules.HOSTS) <= rules.MAX_LEARNED
    assert max(map(len, rules.HOSTS)) <= 255
    client.send(hosted(b"a/b"))
    assert client.statuses()[-1] == 400


@pytest.mark.parametrize(
    "version", [b"", b" HTTP/0.9", b" HTTP/2.0", b" HTTP/1.2", b" HTTP/1.1 "], ids=str
)
def test_a_version_is_judged_on_each_request(version: bytes) -> None:
    """llhttp keeps the connection in any of them when it is asked to."""
    second = b"GET /second" + version + b"\r\nHost: a\r\nConnection: keep-alive\r\n\r\n"
    for pieces in ([get() + second], [get(), second], one_by_one(get() + second)):
        bed, client = fed(*pieces)
        assert len(bed.requests) == 1
        assert client.statuses()[0] == 200
        assert client.statuses()[1] in (400, 505)


def test_a_request_in_another_version_is_answered_in_kind() -> None:
    old = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    for pieces in ([get() + old + get()], [get(), old, get()]):
        _, client = fed(*pieces)
        assert [a.connection for a in client.answers()] == [None, "keep-alive", None]


def test_a_version_is_judged_on_each_request_without_host() -> None:
    bed, client = fed(get() + b"GET / HTTP/1.1\r\n\r\n")
    assert len(bed.requests) == 1
    assert client.statuses() == [200, 400]
