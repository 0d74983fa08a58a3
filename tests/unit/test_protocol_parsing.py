"""What is a request and what is not, however the bytes arrive.

Each message is fed whole, cut in two at each position, byte by byte, and with trailing bytes.
"""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork_ads.http import rules
from prefork_ads.http.message import CONTENT_TYPE, USER_AGENT, X_FORWARDED_FOR
from tests.unit.http_bed import Bed, Client, cut, every_split, one_by_one

HOST = b"Host: ads.example\r\n"


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as the handler gets it."""

    method: bytes = b"GET"
    path: bytes = b"/"
    query: bytes = b""
    body: bytes = b""
    keep_alive: bool = True


def get(target: bytes = b"/", *headers: bytes, version: bytes = b"1.1") -> bytes:
    lines = b"".join(header + b"\r\n" for header in headers)
    return b"GET " + target + b" HTTP/" + version + b"\r\n" + HOST + lines + b"\r\n"


def post(body: bytes, *headers: bytes) -> bytes:
    lines = b"".join(header + b"\r\n" for header in headers)
    return b"POST /log HTTP/1.1\r\n" + HOST + lines + b"\r\n" + body


def fixed(body: bytes, *headers: bytes) -> bytes:
    return post(body, b"Content-Length: %d" % len(body), *headers)


def chunked(stream: bytes, *headers: bytes) -> bytes:
    return post(stream, b"Transfer-Encoding: chunked", *headers)


VALID: dict[str, tuple[bytes, Seen]] = {
    "plain": (get(b"/ad?id=1"), Seen(path=b"/ad", query=b"id=1")),
    "no query": (get(b"/log"), Seen(path=b"/log")),
    "empty query": (get(b"/log?"), Seen(path=b"/log")),
    "query with question marks": (get(b"/log?a?b=?"), Seen(path=b"/log", query=b"a?b=?")),
    "quotes and brackets": (
        get(b"/log?a='\"<>\\^`{|}"),
        Seen(path=b"/log", query=b"a='\"<>\\^`{|}"),
    ),
    "percent-encoded": (get(b"/log?a=%00%0A%ff"), Seen(path=b"/log", query=b"a=%00%0A%ff")),
    "fragment in query": (get(b"/log?a=1#frag?x"), Seen(path=b"/log", query=b"a=1")),
    "fragment in path": (get(b"/log#frag?x"), Seen(path=b"/log")),
    "absolute form": (get(b"http://other.example/log?a=1"), Seen(path=b"/log", query=b"a=1")),
    "absolute form, port": (get(b"HTTP://other.example:80/log"), Seen(path=b"/log")),
    "absolute form, IPv6": (get(b"https://[2001:db8::1]:443/log"), Seen(path=b"/log")),
    "absolute form without path": (get(b"http://other.example"), Seen()),
    "absolute form, query only": (get(b"http://other.example?a=/"), Seen(query=b"a=/")),
    "absolute form, slash in query": (get(b"http://o.example?a=b://c"), Seen(query=b"a=b://c")),
    "another scheme": (get(b"ftp://other.example/x"), Seen(path=b"ftp://other.example/x")),
    "asterisk": (
        b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
        Seen(method=b"OPTIONS", path=b"*"),
    ),
    "empty lines first": (b"\r\n\r\n" + get(), Seen()),
    "field without value": (get(b"/", b"X-Empty:"), Seen()),
    "white space around values": (
        b"GET / HTTP/1.1\r\nHost: \t ads.example:8080 \t \r\nContent-Length: 0 \r\n\r\n",
        Seen(),
    ),
    "empty host": (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", Seen()),
    "IPv6 host": (b"GET / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n", Seen()),
    "HTTP/1.0": (b"GET / HTTP/1.0\r\n\r\n", Seen(keep_alive=False)),
    "HTTP/1.0 with keep-alive": (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", Seen()),
    "close": (get(b"/", b"Connection: close"), Seen(keep_alive=False)),
    "close among others": (get(b"/", b"Connection: x, Close"), Seen(keep_alive=False)),
    "fixed body": (fixed(b"hello"), Seen(b"POST", b"/log", b"", b"hello")),
    "empty fixed body": (fixed(b""), Seen(b"POST", b"/log")),
    "leading zeros": (
        post(b"hello", b"Content-Length: 005"),
        Seen(b"POST", b"/log", b"", b"hello"),
    ),
    "body that looks like a request": (fixed(get()), Seen(b"POST", b"/log", b"", get())),
    "body with GET": (
        get(b"/log", b"Content-Length: 2") + b"ab",
        Seen(b"GET", b"/log", b"", b"ab"),
    ),
    "chunks": (
        chunked(b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"),
        Seen(b"POST", b"/log", b"", b"hello world"),
    ),
    "no chunks": (chunked(b"0\r\n\r\n"), Seen(b"POST", b"/log")),
    "chunk sizes in both cases": (
        chunked(b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n"),
        Seen(b"POST", b"/log", b"", b"0123456789" * 2),
    ),
    "chunk extensions": (
        chunked(b'5;a=b;c="d e"\r\nhello\r\n0;x\r\n\r\n'),
        Seen(b"POST", b"/log", b"", b"hello"),
    ),
    "Chunked in capitals": (
        post(b"0\r\n\r\n", b"Transfer-Encoding: CHUNKED "),
        Seen(b"POST", b"/log"),
    ),
    "trailer": (
        chunked(b"1\r\nx\r\n0\r\nX-Sum: 1\r\nHost: other.example\r\n\r\n"),
        Seen(b"POST", b"/log", b"", b"x"),
    ),
}

REFUSED: dict[str, tuple[bytes, int]] = {
    "no host": (b"GET / HTTP/1.1\r\nAccept: */*\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
    "host with a path": (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    "host with a user": (b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400),
    "host with a comma and a space": (b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
    "host with a port that is none": (b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", 400),
    "host not ASCII": (b"GET / HTTP/1.1\r\nHost: \xc3\xa4.example\r\n\r\n", 400),
    "absolute form without host": (get(b"http:///log"), 400),
    "absolute form with only a port": (get(b"http://:80/log"), 400),
    "absolute form with a user": (get(b"http://user@ads.example/log"), 400),
    "target without slash": (get(b"log"), 400),
    "space in the target": (get(b"/log?a b"), 400),
    "tab in the target": (get(b"/log?a\tb"), 400),
    "NUL in the target": (get(b"/log?a\0b"), 400),
    "target not ASCII": (get(b"/log?\xc3\xa4"), 400),
    "HTTP/0.9": (b"GET /\r\n\r\n", 505),
    "HTTP/0.9 by name": (b"GET / HTTP/0.9\r\n" + HOST + b"\r\n", 505),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\n" + HOST + b"\r\n", 505),
    "HTTP/2.0": (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 505),
    "HTTP/2's preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "version of two digits": (b"GET / HTTP/11.1\r\n" + HOST + b"\r\n", 400),
    "version in small letters": (b"GET / http/1.1\r\n" + HOST + b"\r\n", 400),
    "space behind the version": (b"GET / HTTP/1.1 \r\n" + HOST + b"\r\n", 400),
    "unknown method": (b"BREW / HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    "longer method": (b"GETS / HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    "method in small letters": (b"get / HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    "another protocol's method": (b"PLAY / HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 501),
    "CONNECT": (b"CONNECT a.example:443 HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    "CONNECT to a path": (b"CONNECT /log HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    "CONNECT with a body": (
        b"CONNECT a.example:443 HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\nabc",
        501,
    ),
    "bare LF": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "bare LF behind a field": (b"GET / HTTP/1.1\r\nHost: a\n\r\n", 400),
    "bare LF at the head's end": (b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
    "bare CR in a value": (get(b"/", b"X: a\rb"), 400),
    "NUL in a value": (get(b"/", b"X: a\0b"), 400),
    "control character in a value": (get(b"/", b"X: a\x01b"), 400),
    "DEL in a value": (get(b"/", b"X: a\x7fb"), 400),
    "NUL in a name": (get(b"/", b"X\0Y: a"), 400),
    "space before the colon": (get(b"/", b"X : a"), 400),
    "no name": (get(b"/", b": a"), 400),
    "no colon": (get(b"/", b"nonsense"), 400),
    "name not ASCII": (get(b"/", b"X\xe9: a"), 400),
    "folded value": (get(b"/", b"X: a", b" b"), 400),
    "folded by a tab": (get(b"/", b"X: a", b"\tb"), 400),
    "space before the first field": (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    "length and coding": (chunked(b"0\r\n\r\n", b"Content-Length: 5"), 400),
    "coding and length": (
        post(b"0\r\n\r\n", b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        400,
    ),
    "length 0 and coding": (chunked(b"0\r\n\r\n", b"Content-Length: 0"), 400),
    "the same length twice": (fixed(b"hello", b"Content-Length: 5"), 400),
    "two lengths": (fixed(b"hello", b"content-length: 6"), 400),
    "lengths in a list": (post(b"hello", b"Content-Length: 5, 5"), 400),
    "length with a plus": (post(b"hello", b"Content-Length: +5"), 400),
    "negative length": (post(b"hello", b"Content-Length: -5"), 400),
    "hexadecimal length": (post(b"hello", b"Content-Length: 0x5"), 400),
    "length with an underscore": (post(b"hello", b"Content-Length: 1_0"), 400),
    "length past 64 bits": (post(b"hello", b"Content-Length: 18446744073709551621"), 400),
    "length with a space inside": (post(b"hello", b"Content-Length: 5 5"), 400),
    "empty length": (post(b"hello", b"Content-Length:"), 400),
    "large length": (post(b"hello", b"Content-Length: 65537"), 413),
    "very large length": (post(b"hello", b"Content-Length: 18446744073709551615"), 413),
    "compressed": (post(b"0\r\n\r\n", b"Transfer-Encoding: gzip, chunked"), 501),
    "compressed, in two fields": (
        post(b"0\r\n\r\n", b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked"),
        501,
    ),
    "chunked not last": (post(b"0\r\n\r\n", b"Transfer-Encoding: chunked, gzip"), 400),
    "chunked twice": (post(b"0\r\n\r\n", b"Transfer-Encoding: chunked, chunked"), 400),
    "chunked in two fields": (
        chunked(b"0\r\n\r\n", b"Transfer-Encoding: chunked"),
        400,
    ),
    "identity": (post(b"hello", b"Transfer-Encoding: identity"), 501),
    "nearly chunked": (post(b"0\r\n\r\n", b"Transfer-Encoding: xchunked"), 501),
    "empty coding": (post(b"0\r\n\r\n", b"Transfer-Encoding:"), 400),
    "vertical tab before chunked": (post(b"0\r\n\r\n", b"Transfer-Encoding: \x0bchunked"), 400),
    "coding in HTTP/1.0": (
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "chunk size with a plus": (chunked(b"+5\r\nhello\r\n0\r\n\r\n"), 400),
    "negative chunk size": (chunked(b"-5\r\nhello\r\n0\r\n\r\n"), 400),
    "chunk size with 0x": (chunked(b"0x5\r\nhello\r\n0\r\n\r\n"), 400),
    "chunk size with a space": (chunked(b"5 \r\nhello\r\n0\r\n\r\n"), 400),
    "no chunk size": (chunked(b"\r\nhello\r\n0\r\n\r\n"), 400),
    "chunk size of letters": (chunked(b"xyz\r\n"), 400),
    "chunk size past 64 bits": (chunked(b"10000000000000005\r\nhello\r\n"), 400),
    "chunk longer than its size": (chunked(b"5\r\nhello!\r\n0\r\n\r\n"), 400),
    "chunk without its line end": (chunked(b"5\r\nhello0\r\n\r\n"), 400),
    "bare LF behind a chunk size": (chunked(b"5\nhello\r\n0\r\n\r\n"), 400),
    "bare LF behind a chunk": (chunked(b"5\r\nhello\n0\r\n\r\n"), 400),
    "bare LF in a chunk extension": (chunked(b"5;a\nb\r\nhello\r\n0\r\n\r\n"), 400),
    "bare CR in a chunk extension": (chunked(b"5;a\rb\r\nhello\r\n0\r\n\r\n"), 400),
    "length in a trailer": (chunked(b"0\r\nContent-Length: 5\r\n\r\n"), 400),
    "coding in a trailer": (chunked(b"0\r\nTransfer-Encoding: gzip\r\n\r\n"), 400),
    "bare LF in a trailer": (chunked(b"0\r\nX: y\n\r\n"), 400),
    "unknown expectation": (fixed(b"hello", b"Expect: 200-ok"), 417),
    "two expectations": (fixed(b"hello", b"Expect: 100-continue", b"Expect: x"), 417),
}


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


@pytest.mark.parametrize(("data", "status"), REFUSED.values(), ids=REFUSED)
def test_a_refused_message_is_the_last(data: bytes, status: int) -> None:
    bed, client = fed(data + get(b"/smuggled"))
    assert bed.requests == []
    [answer] = client.answers()
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


@pytest.mark.parametrize(("data", "status"), REFUSED.values(), ids=REFUSED)
def test_a_message_is_refused_however_it_is_cut(data: bytes, status: int) -> None:
    _, whole = fed(data)
    for pieces in (one_by_one(data), *every_split(data)):
        bed, client = fed(*pieces)
        assert bed.requests == []
        assert client.wire == whole.wire
        assert client.statuses() == [status]


@pytest.mark.parametrize(("data", "status"), REFUSED.values(), ids=REFUSED)
def test_what_came_before_a_refused_message_is_answered(data: bytes, status: int) -> None:
    bed, client = fed(get(b"/first") + data)
    assert seen(bed) == [Seen(path=b"/first")]
    assert client.statuses() == [200, status]


@given(st.data())
def test_two_messages_cut_anywhere(data: st.DataObject) -> None:
    first, _ = data.draw(st.sampled_from(list(VALID.values())))
    second, _ = data.draw(st.sampled_from([*VALID.values(), *REFUSED.values()]))
    stream = first + second
    places = data.draw(st.lists(st.integers(0, len(stream)), max_size=8))
    whole_bed, whole = fed(stream)
    bed, client = fed(*cut(stream, places))
    assert seen(bed) == seen(whole_bed)
    assert client.wire == whole.wire


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
        client.send(b"GET / HTTP/1.1\r\nHost: invented-%d.example\r\n\r\n" % number)
    client.send(b"GET / HTTP/1.1\r\nHost: " + b"x" * 5000 + b"\r\n\r\n")
    assert client.statuses() == [200] * 3001
    assert len(rules.HOSTS) <= rules.MAX_LEARNED
    assert max(map(len, rules.HOSTS)) <= 255
    client.send(b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n")
    assert client.statuses()[-1] == 400


def test_a_version_is_judged_on_each_request_without_host() -> None:
    bed, client = fed(get() + b"GET / HTTP/1.1\r\n\r\n")
    assert len(bed.requests) == 1
    assert client.statuses() == [200, 400]
