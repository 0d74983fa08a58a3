"""What is a request and what is not: one table for every way of sending it.

A valid message has the request that must come out of it. A refused one has the statuses that may be
answered: more than one where it depends on how the bytes are cut, which part of them is seen first. Each
is followed by a close, and by nothing that the client may have hidden behind it.

Where RFC 9110 and RFC 9112 leave a choice, the strict one is taken: 400.
"""

from dataclasses import dataclass
from typing import Final

HOST: Final = b"Host: ads.example\r\n"


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as the handler gets it."""

    method: bytes = b"GET"
    path: bytes = b"/"
    query: bytes = b""
    body: bytes = b""
    keep_alive: bool = True


def line(start: bytes, *headers: bytes, host: bytes = HOST) -> bytes:
    """A message without a body, from its first line."""
    return start + b"\r\n" + host + b"".join(header + b"\r\n" for header in headers) + b"\r\n"


def get(target: bytes = b"/", *headers: bytes, version: bytes = b"1.1") -> bytes:
    return line(b"GET " + target + b" HTTP/" + version, *headers)


def hosted(host: bytes, target: bytes = b"/", version: bytes = b"1.1") -> bytes:
    """A message with this Host field, and this alone."""
    return line(b"GET " + target + b" HTTP/" + version, host=b"Host:" + host + b"\r\n")


def post(body: bytes, *headers: bytes) -> bytes:
    return line(b"POST /log HTTP/1.1", *headers) + body


def fixed(body: bytes, *headers: bytes) -> bytes:
    return post(body, b"Content-Length: %d" % len(body), *headers)


def sized(length: bytes, body: bytes = b"hello") -> bytes:
    """A body of five bytes with this Content-Length."""
    return post(body, b"Content-Length:" + length)


def chunked(stream: bytes, *headers: bytes) -> bytes:
    return post(stream, b"Transfer-Encoding: chunked", *headers)


def coded(coding: bytes, *headers: bytes) -> bytes:
    """An empty chunked body with this Transfer-Encoding."""
    return post(b"0\r\n\r\n", b"Transfer-Encoding:" + coding, *headers)


LAST: Final = b"0\r\n\r\n"
HELLO: Final = Seen(b"POST", b"/log", b"", b"hello")
EMPTY: Final = Seen(b"POST", b"/log")

VALID: Final[dict[str, tuple[bytes, Seen]]] = {
    # Targets.
    "plain": (get(b"/ad?id=1"), Seen(path=b"/ad", query=b"id=1")),
    "no query": (get(b"/log"), Seen(path=b"/log")),
    "empty query": (get(b"/log?"), Seen(path=b"/log")),
    "query with question marks": (get(b"/log?a?b=?"), Seen(path=b"/log", query=b"a?b=?")),
    "quotes and brackets": (
        get(b"/log?a='\"<>\\^`{|}"),
        Seen(path=b"/log", query=b"a='\"<>\\^`{|}"),
    ),
    "percent-encoded": (get(b"/log?a=%00%0A%ff"), Seen(path=b"/log", query=b"a=%00%0A%ff")),
    "percent without digits": (get(b"/log?a=%zz"), Seen(path=b"/log", query=b"a=%zz")),
    "two slashes": (get(b"//evil.example/x"), Seen(path=b"//evil.example/x")),
    "fragment in query": (get(b"/log?a=1#frag?x"), Seen(path=b"/log", query=b"a=1")),
    "fragment in path": (get(b"/log#frag?x"), Seen(path=b"/log")),
    "absolute form": (get(b"http://ads.example/log?a=1"), Seen(path=b"/log", query=b"a=1")),
    "absolute form, capitals": (get(b"HTTP://ADS.example/log"), Seen(path=b"/log")),
    "absolute form, default port": (get(b"http://ads.example:80/log"), Seen(path=b"/log")),
    "absolute form, empty port": (get(b"http://ads.example:/log"), Seen(path=b"/log")),
    "absolute form, https": (get(b"https://ads.example:443/log"), Seen(path=b"/log")),
    "absolute form, IPv6": (
        hosted(b" [2001:db8::1]:81", b"http://[2001:DB8:0::1]:81/log"),
        Seen(path=b"/log"),
    ),
    "absolute form without path": (get(b"http://ads.example"), Seen()),
    "absolute form, query only": (get(b"http://ads.example?a=/"), Seen(query=b"a=/")),
    "absolute form, slash in query": (get(b"http://ads.example?a=b://c"), Seen(query=b"a=b://c")),
    "absolute form in HTTP/1.0": (
        line(b"GET http://any.example/log HTTP/1.0", host=b""),
        Seen(path=b"/log", keep_alive=False),
    ),
    "asterisk": (line(b"OPTIONS * HTTP/1.1"), Seen(method=b"OPTIONS", path=b"*")),
    # What may stand before a request, and around its parts.
    "empty lines first": (b"\r\n\r\n" + get(), Seen()),
    "empty line without CR first": (b"\n" + get(), Seen()),
    "two spaces before the target": (line(b"GET  / HTTP/1.1"), Seen()),
    # Fields.
    "field without value": (get(b"/", b"X-Empty:"), Seen()),
    "tab in a value": (get(b"/", b"X: a\tb"), Seen()),
    "value not ASCII": (get(b"/", b"X: \xff\xfe"), Seen()),
    "every character of a name": (get(b"/", b"!#$%&'*+-.^_`|~09azAZ: a"), Seen()),
    "names that are nearly others": (
        get(b"/", b"Content_Length: 5", b"Transfer_Encoding: chunked", b"Transfer-Encodin: x"),
        Seen(),
    ),
    "a field twice": (get(b"/", b"Accept: a", b"Accept: b"), Seen()),
    "options that name other fields": (
        fixed(b"hello", b"Connection: Content-Length, Host, Transfer-Encoding"),
        HELLO,
    ),
    "options that are none": (get(b"/", b"Connection: @@, , keep-alive"), Seen()),
    # Hosts.
    "white space around values": (
        b"GET / HTTP/1.1\r\nHost: \t ads.example:8080 \t \r\nContent-Length: 0 \r\n\r\n",
        Seen(),
    ),
    "IPv6 host": (hosted(b" [2001:db8::1]:80"), Seen()),
    "host with an empty port": (hosted(b" a:"), Seen()),
    "host percent-encoded": (hosted(b" a%2Db"), Seen()),
    "host with an underscore": (hosted(b" a_b"), Seen()),
    # Versions and the end of a connection.
    "HTTP/1.0": (b"GET / HTTP/1.0\r\n\r\n", Seen(keep_alive=False)),
    "HTTP/1.0 with keep-alive": (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", Seen()),
    "HTTP/1.0 with an expectation": (
        line(b"POST /log HTTP/1.0", b"Expect: x", b"Content-Length: 0"),
        Seen(b"POST", b"/log", keep_alive=False),
    ),
    "close": (get(b"/", b"Connection: close"), Seen(keep_alive=False)),
    "close among others": (get(b"/", b"Connection: x, Close"), Seen(keep_alive=False)),
    "close and keep-alive": (get(b"/", b"Connection: close, keep-alive"), Seen(keep_alive=False)),
    "keep-alive, then close": (
        get(b"/", b"Connection: keep-alive", b"Connection: close"),
        Seen(keep_alive=False),
    ),
    # Bodies of a known length.
    "fixed body": (fixed(b"hello"), HELLO),
    "empty fixed body": (fixed(b""), EMPTY),
    "no body": (post(b""), EMPTY),
    "length after a tab": (sized(b"\t5"), HELLO),
    "length between spaces": (sized(b"  5  "), HELLO),
    "body that looks like a request": (fixed(get()), Seen(b"POST", b"/log", b"", get())),
    "body that looks like chunks": (
        fixed(LAST + get()),
        Seen(b"POST", b"/log", b"", LAST + get()),
    ),
    "body with GET": (
        get(b"/log", b"Content-Length: 2") + b"ab",
        Seen(b"GET", b"/log", b"", b"ab"),
    ),
    "body with OPTIONS": (
        line(b"OPTIONS /log HTTP/1.1", b"Content-Length: 2") + b"ab",
        Seen(b"OPTIONS", b"/log", b"", b"ab"),
    ),
    # Bodies in chunks.
    "chunks": (
        chunked(b"5\r\nhello\r\n6\r\n world\r\n" + LAST),
        Seen(b"POST", b"/log", b"", b"hello world"),
    ),
    "no chunks": (chunked(LAST), EMPTY),
    "chunks with GET": (
        get(b"/log", b"Transfer-Encoding: chunked") + b"5\r\nhello\r\n" + LAST,
        Seen(b"GET", b"/log", b"", b"hello"),
    ),
    "chunk sizes in both cases": (
        chunked(b"a\r\n0123456789\r\nA\r\n0123456789\r\n" + LAST),
        Seen(b"POST", b"/log", b"", b"0123456789" * 2),
    ),
    "chunk size with zeros": (chunked(b"0005\r\nhello\r\n" + LAST), HELLO),
    "last chunk of many zeros": (chunked(b"5\r\nhello\r\n000000\r\n\r\n"), HELLO),
    "chunk that holds line ends": (
        chunked(b"7\r\n\r\n0\r\n\r\n\r\n" + LAST),
        Seen(b"POST", b"/log", b"", b"\r\n0\r\n\r\n"),
    ),
    "chunk extensions": (chunked(b'5;a=b;c="d e"\r\nhello\r\n0;x\r\n\r\n'), HELLO),
    "chunk extension, quoted quote": (chunked(b'5;a="d\\"e"\r\nhello\r\n' + LAST), HELLO),
    "Chunked in capitals": (coded(b" CHUNKED "), EMPTY),
    "chunked after a tab": (coded(b"\tchunked"), EMPTY),
    "trailer": (
        chunked(b"1\r\nx\r\n0\r\nX-Sum: 1\r\nHost: other.example\r\n\r\n"),
        Seen(b"POST", b"/log", b"", b"x"),
    ),
    "trailer with an expectation": (chunked(b"0\r\nExpect: x\r\n\r\n"), EMPTY),
}

NO_METHOD: Final = (400, 501)

REFUSED: Final[dict[str, tuple[bytes, int | tuple[int, ...]]]] = {
    # Hosts.
    "no host": (line(b"GET / HTTP/1.1", b"Accept: */*", host=b""), 400),
    "two hosts": (line(b"GET / HTTP/1.1", b"Host: b"), 400),
    "the same host twice": (get(b"/", b"Host: ads.example"), 400),
    "two hosts in HTTP/1.0": (line(b"GET / HTTP/1.0", b"Host: b"), 400),
    "empty host": (hosted(b""), 400),
    "host of white space": (hosted(b" \t "), 400),
    "host with only a port": (hosted(b" :80"), 400),
    "host with a path": (hosted(b" a/b"), 400),
    "host with a backslash": (hosted(b" a\\b"), 400),
    "host with a user": (hosted(b" u@a"), 400),
    "host with a user and a password": (hosted(b" u:p@a"), 400),
    "host with a query": (hosted(b" a?b"), 400),
    "host with a fragment": (hosted(b" a#b"), 400),
    "host with a scheme": (hosted(b" http://a"), 400),
    "hosts in a list": (hosted(b" a, b"), 400),
    "hosts in a list without spaces": (hosted(b" a,b"), 400),
    "host with a space": (hosted(b" a b"), 400),
    "host with a tab": (hosted(b" a\tb"), 400),
    "host with a port that is none": (hosted(b" a:b"), 400),
    "host with a port too high": (hosted(b" a:65536"), 400),
    "host with two ports": (hosted(b" a:80:80"), 400),
    "host half percent-encoded": (hosted(b" a%2"), 400),
    "host not ASCII": (hosted(b" \xc3\xa4.example"), 400),
    "host in empty brackets": (hosted(b" []"), 400),
    "host in open brackets": (hosted(b" [::1"), 400),
    "host in brackets that is no address": (hosted(b" [:::]"), 400),
    "host in brackets with a zone": (hosted(b" [fe80::1%25eth0]"), 400),
    "no host in HTTP/1.0, but a bad one": (hosted(b" a b", version=b"1.0"), 400),
    # Targets.
    "asterisk with GET": (line(b"GET * HTTP/1.1"), 400),
    "asterisk with POST": (line(b"POST * HTTP/1.1"), 400),
    "two asterisks": (line(b"OPTIONS ** HTTP/1.1"), 400),
    "asterisk with a query": (line(b"OPTIONS *?a HTTP/1.1"), 400),
    "authority form": (get(b"ads.example:80"), 400),
    "absolute form of another host": (get(b"http://other.example/log"), 400),
    "absolute form of another port": (get(b"http://ads.example:81/log"), 400),
    "absolute form of a longer host": (get(b"http://ads.example.evil/log"), 400),
    "absolute form without host": (get(b"http:///log"), 400),
    "absolute form with only a port": (get(b"http://:80/log"), 400),
    "absolute form with a user": (get(b"http://user@ads.example/log"), 400),
    "absolute form without slashes": (get(b"http:/log"), 400),
    "absolute form with backslashes": (get(b"http:\\\\ads.example\\log"), 400),
    "another scheme": (get(b"ftp://ads.example/x"), 400),
    "target without slash": (get(b"log"), 400),
    "no target": (line(b"GET HTTP/1.1"), 400),
    "empty target": (line(b"GET  HTTP/1.1"), 400),
    "space in the target": (get(b"/log?a b"), 400),
    "tab in the target": (get(b"/log?a\tb"), 400),
    "NUL in the target": (get(b"/log?a\0b"), 400),
    "CR in the target": (get(b"/log?a\rb"), 400),
    "DEL in the target": (get(b"/log?a\x7fb"), 400),
    "target not ASCII": (get(b"/log?\xc3\xa4"), 400),
    "overlong UTF-8 in the target": (get(b"/\xc0\xaf"), 400),
    # First lines.
    "nothing but a method": (b"GET\r\n\r\n", NO_METHOD),
    "tab behind the method": (line(b"GET\t/ HTTP/1.1"), NO_METHOD),
    "space before the method": (line(b" GET / HTTP/1.1"), NO_METHOD),
    "line of spaces first": (b"   \r\n" + get(), NO_METHOD),
    "byte order mark": (b"\xef\xbb\xbf" + get(), NO_METHOD),
    "NUL first": (b"\0" + get(), NO_METHOD),
    "method that is no token": (line(b"GE(T / HTTP/1.1"), NO_METHOD),
    "method not ASCII": (line(b"G\xc9T / HTTP/1.1"), NO_METHOD),
    "no method": (b"/ HTTP/1.1\r\n" + HOST + b"\r\n", NO_METHOD),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", NO_METHOD),
    "unknown method": (line(b"BREW / HTTP/1.1"), 501),
    "longer method": (line(b"GETS / HTTP/1.1"), 501),
    "method in small letters": (line(b"get / HTTP/1.1"), 501),
    "another protocol's method": (line(b"PLAY / HTTP/1.1"), 501),
    "CONNECT": (line(b"CONNECT a.example:443 HTTP/1.1"), 501),
    "CONNECT to a path": (line(b"CONNECT /log HTTP/1.1"), 501),
    "CONNECT with a body": (
        line(b"CONNECT a.example:443 HTTP/1.1", b"Content-Length: 3") + b"abc",
        501,
    ),
    "space behind the version": (line(b"GET / HTTP/1.1 "), 400),
    "tab behind the version": (line(b"GET / HTTP/1.1\t"), 400),
    "something behind the version": (line(b"GET / HTTP/1.1 x"), 400),
    # Versions.
    "HTTP/0.9": (b"GET /\r\n\r\n", 505),
    "HTTP/0.9 and a header that looks like a version": (
        line(b"GET /log\nX: HTTP/1.1", b"Connection: keep-alive"),
        505,
    ),
    "no version": (b"GET / \r\n\r\n", 400),
    "HTTP/0.9 by name": (get(version=b"0.9"), 505),
    "HTTP/1.2": (get(version=b"1.2"), 505),
    "HTTP/2.0": (get(version=b"2.0"), 505),
    "HTTP/3.0": (get(version=b"3.0"), 505),
    "HTTP/9.9": (get(version=b"9.9"), 505),
    "HTTP/2's preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "HTTP/2's method": (line(b"PRI * HTTP/1.1"), 400),
    "version of two digits": (get(version=b"11.1"), 400),
    "version with a zero in front": (get(version=b"01.1"), 400),
    "version with a zero behind": (get(version=b"1.10"), 400),
    "half a version": (get(version=b"1"), 400),
    "version without its second digit": (get(version=b"1."), 400),
    "version with a comma": (get(version=b"1,1"), 400),
    "version with a space": (get(version=b" 1.1"), 400),
    "negative version": (get(version=b"-1.1"), 400),
    "version in small letters": (line(b"GET / http/1.1"), 400),
    "nearly HTTP": (line(b"GET / HTTPS/1.1"), 400),
    "another protocol": (line(b"GET / FOO/1.1"), 400),
    # Line ends.
    "bare LF": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "bare LF behind the first line": (b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400),
    "bare LF behind a field": (b"GET / HTTP/1.1\r\nHost: a\n\r\n", 400),
    "bare LF between fields": (b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400),
    "bare LF at the head's end": (b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
    "bare CR behind the first line": (b"GET / HTTP/1.1\rHost: a\r\n\r\n", 400),
    "bare CR behind a field": (b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", 400),
    "bare CR at the head's end": (b"GET / HTTP/1.1\r\nHost: a\r\n\rX: b\r\n\r\n", 400),
    "two CRs behind the first line": (b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", 400),
    "two CRs behind a field": (b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", 400),
    # Fields.
    "bare CR in a value": (get(b"/", b"X: a\rb"), 400),
    "bare LF in a value": (get(b"/", b"X: a\nb"), 400),
    "NUL in a value": (get(b"/", b"X: a\0b"), 400),
    "control character in a value": (get(b"/", b"X: a\x01b"), 400),
    "escape in a value": (get(b"/", b"X: a\x1bb"), 400),
    "vertical tab in a value": (get(b"/", b"X: a\x0bb"), 400),
    "DEL in a value": (get(b"/", b"X: a\x7fb"), 400),
    "NUL in a name": (get(b"/", b"X\0Y: a"), 400),
    "CR in a name": (get(b"/", b"X\rY: a"), 400),
    "space in a name": (get(b"/", b"X Y: a"), 400),
    "space before the colon": (get(b"/", b"X : a"), 400),
    "tab before the colon": (get(b"/", b"X\t: a"), 400),
    "no name": (get(b"/", b": a"), 400),
    "pseudo-header": (get(b"/", b":path: /x"), 400),
    "no colon": (get(b"/", b"nonsense"), 400),
    "name not ASCII": (get(b"/", b"X\xe9: a"), 400),
    "bracket in a name": (get(b"/", b"X[: a"), 400),
    "parenthesis in a name": (get(b"/", b"X(: a"), 400),
    "quotes around a name": (get(b"/", b'"X": a'), 400),
    "at sign in a name": (get(b"/", b"X@Y: a"), 400),
    "slash in a name": (get(b"/", b"X/Y: a"), 400),
    "folded value": (get(b"/", b"X: a", b" b"), 400),
    "folded by a tab": (get(b"/", b"X: a", b"\tb"), 400),
    "folded without a value": (get(b"/", b"X:", b" b"), 400),
    "folded host": (b"GET / HTTP/1.1\r\nHost:\r\n a\r\n\r\n", 400),
    "folded last line": (get(b"/", b" "), 400),
    "space before the first field": (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    "line of a space before the first field": (b"GET / HTTP/1.1\r\n \r\nHost: a\r\n\r\n", 400),
    # Two ways to know where the body ends.
    "length and coding": (chunked(LAST, b"Content-Length: 5"), 400),
    "coding and length": (post(LAST, b"Content-Length: 5", b"Transfer-Encoding: chunked"), 400),
    "length 0 and coding": (chunked(LAST, b"Content-Length: 0"), 400),
    "length that is none and coding": (chunked(LAST, b"Content-Length: x"), 400),
    "length and a coding that is none": (coded(b" xchunked", b"Content-Length: 5"), 400),
    "length and coding, and GET": (
        get(b"/", b"Content-Length: 5", b"Transfer-Encoding: chunked") + LAST,
        400,
    ),
    "length and coding, and an upgrade": (
        chunked(LAST, b"Content-Length: 5", b"Connection: upgrade", b"Upgrade: h2c"),
        400,
    ),
    "the same length twice": (fixed(b"hello", b"Content-Length: 5"), 400),
    "two lengths": (fixed(b"hello", b"content-length: 6"), 400),
    "two lengths, one empty": (fixed(b"hello", b"Content-Length:"), 400),
    "two lengths in HTTP/1.0": (
        line(b"POST / HTTP/1.0", b"Content-Length: 5", b"Content-Length: 6") + b"hello",
        400,
    ),
    # Lengths.
    "equal lengths in a list": (sized(b" 5, 5"), 400),
    "lengths in a list": (sized(b" 5, 6"), 400),
    "length with a comma": (sized(b" 5,"), 400),
    "length with a plus": (sized(b" +5"), 400),
    "negative length": (sized(b" -5"), 400),
    "negative zero": (sized(b" -0", b""), 400),
    "hexadecimal length": (sized(b" 0x5"), 400),
    "octal length": (sized(b" 0o5"), 400),
    "length with a zero in front": (sized(b" 05"), 400),
    "length of two zeros": (sized(b" 00", b""), 400),
    "length of very many zeros": (sized(b" " + b"0" * 5000 + b"5"), 400),
    "length with an underscore": (sized(b" 1_0"), 400),
    "length with a point": (sized(b" 5.0"), 400),
    "length with an exponent": (sized(b" 1e1"), 400),
    "length with a letter": (sized(b" 5x"), 400),
    "length in quotes": (sized(b' "5"'), 400),
    "length in other digits": (sized(b" \xd9\xa5"), 400),
    "length past 64 bits": (sized(b" 18446744073709551621"), 400),
    "length with a space inside": (sized(b" 5 5"), 400),
    "length after a vertical tab": (sized(b" \x0b5"), 400),
    "length before a form feed": (sized(b" 5\x0c"), 400),
    "empty length": (sized(b""), 400),
    "folded length": (post(b"hello", b"Content-Length:\r\n 5"), 400),
    "length with a space before the colon": (post(b"hello", b"Content-Length : 5"), 400),
    "large length": (sized(b" 65537"), 413),
    "very large length": (sized(b" 18446744073709551615"), 413),
    # Codings.
    "compressed": (coded(b" gzip, chunked"), 501),
    "compressed, in two fields": (coded(b" gzip", b"Transfer-Encoding: chunked"), 501),
    "identity and chunked": (coded(b" identity, chunked"), 501),
    "only compressed": (coded(b" gzip"), 400),
    "chunked not last": (coded(b" chunked, gzip"), 400),
    "chunked not last, in two fields": (coded(b" chunked", b"Transfer-Encoding: identity"), 400),
    "chunked twice": (coded(b" chunked, chunked"), 400),
    "chunked in two fields": (coded(b" chunked", b"Transfer-Encoding: chunked"), 400),
    "chunked and an empty field": (coded(b"", b"Transfer-Encoding: chunked"), 400),
    "identity": (coded(b" identity"), 400),
    "nearly chunked": (coded(b" xchunked"), 400),
    "more than chunked": (coded(b" chunkedx"), 400),
    "chunked with a parameter": (coded(b" chunked;a=b"), 400),
    "chunked in quotes": (coded(b' "chunked"'), 400),
    "chunked with a space inside": (coded(b" chun ked"), 400),
    "chunked before a comma": (coded(b" chunked,"), 400),
    "chunked after a comma": (coded(b" , chunked"), 400),
    "empty coding": (coded(b""), 400),
    "vertical tab before chunked": (coded(b" \x0bchunked"), 400),
    "form feed before chunked": (coded(b" \x0cchunked"), 400),
    "NUL behind chunked": (coded(b" chunked\0"), 400),
    "no-break space behind chunked": (coded(b" chunked\xa0"), 400),
    "folded coding": (coded(b"\r\n chunked"), 400),
    "coding with a space before the colon": (post(LAST, b"Transfer-Encoding : chunked"), 400),
    "coding with a space in front": (post(LAST, b"X: a", b" Transfer-Encoding: chunked"), 400),
    "coding in HTTP/1.0": (
        line(b"POST / HTTP/1.0", b"Transfer-Encoding: chunked") + LAST,
        400,
    ),
    "coding in HTTP/1.0 with keep-alive": (
        line(b"POST / HTTP/1.0", b"Connection: keep-alive", b"Transfer-Encoding: chunked") + LAST,
        400,
    ),
    # Chunks.
    "chunk size with a plus": (chunked(b"+5\r\nhello\r\n" + LAST), 400),
    "negative chunk size": (chunked(b"-5\r\nhello\r\n" + LAST), 400),
    "chunk size with 0x": (chunked(b"0x5\r\nhello\r\n" + LAST), 400),
    "chunk size with an h": (chunked(b"5h\r\nhello\r\n" + LAST), 400),
    "chunk size with an underscore": (chunked(b"1_0\r\nhello\r\n" + LAST), 400),
    "chunk size with a space": (chunked(b"5 \r\nhello\r\n" + LAST), 400),
    "chunk size with a tab": (chunked(b"5\t\r\nhello\r\n" + LAST), 400),
    "chunk size after a space": (chunked(b" 5\r\nhello\r\n" + LAST), 400),
    "chunk sizes in a list": (chunked(b"5,5\r\nhello\r\n" + LAST), 400),
    "NUL behind a chunk size": (chunked(b"5\0\r\nhello\r\n" + LAST), 400),
    "no chunk size": (chunked(b"\r\nhello\r\n" + LAST), 400),
    "chunk size of letters": (chunked(b"xyz\r\n"), 400),
    "chunk size past 64 bits": (chunked(b"10000000000000005\r\nhello\r\n"), 400),
    "chunk longer than its size": (chunked(b"5\r\nhello!\r\n" + LAST), 400),
    "chunk without its line end": (chunked(b"5\r\nhello" + LAST), 400),
    "chunk with two line ends": (chunked(b"5\r\nhello\r\n\r\n" + LAST), 400),
    "bare LF behind a chunk size": (chunked(b"5\nhello\r\n" + LAST), 400),
    "bare CR behind a chunk size": (chunked(b"5\rhello\r\n" + LAST), 400),
    "two CRs behind a chunk size": (chunked(b"5\r\r\nhello\r\n" + LAST), 400),
    "bare LF behind a chunk": (chunked(b"5\r\nhello\n" + LAST), 400),
    "bare CR behind a chunk": (chunked(b"5\r\nhello\r" + LAST), 400),
    "two CRs behind a chunk": (chunked(b"5\r\nhello\r\r\n" + LAST), 400),
    "bare LF behind the last chunk": (chunked(b"0\n\r\n"), 400),
    "bare LF at the end": (chunked(b"0\r\n\n"), 400),
    "bare CR at the end": (chunked(b"0\r\n\rX"), 400),
    "chunk extension without name": (chunked(b"5;\r\nhello\r\n" + LAST), 400),
    "chunk extension that is no token": (chunked(b"5;a[=b\r\nhello\r\n" + LAST), 400),
    "chunk extension with spaces": (chunked(b"5 ; a = b\r\nhello\r\n" + LAST), 400),
    "chunk extension with an open quote": (chunked(b'5;a="b\r\nhello\r\n' + LAST), 400),
    "chunk extension with a line end in quotes": (
        chunked(b'5;a="b\r\nc"\r\nhello\r\n' + LAST),
        400,
    ),
    "chunk extension with a NUL": (chunked(b"5;a\0b\r\nhello\r\n" + LAST), 400),
    "bare LF in a chunk extension": (chunked(b"5;a\nb\r\nhello\r\n" + LAST), 400),
    "bare CR in a chunk extension": (chunked(b"5;a\rb\r\nhello\r\n" + LAST), 400),
    # Trailers.
    "length in a trailer": (chunked(b"0\r\nContent-Length: 5\r\n\r\n"), 400),
    "coding in a trailer": (chunked(b"0\r\nTransfer-Encoding: gzip\r\n\r\n"), 400),
    "chunked in a trailer": (chunked(b"0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400),
    "bare LF in a trailer": (chunked(b"0\r\nX: y\n\r\n"), 400),
    "bare CR in a trailer": (chunked(b"0\r\nX: y\rz\r\n\r\n"), 400),
    "NUL in a trailer": (chunked(b"0\r\nX: \0\r\n\r\n"), 400),
    "folded trailer": (chunked(b"0\r\nX: y\r\n z\r\n\r\n"), 400),
    "trailer with a space before the colon": (chunked(b"0\r\nX : y\r\n\r\n"), 400),
    "trailer without a colon": (chunked(b"0\r\nX\r\n\r\n"), 400),
    # Expectations.
    "unknown expectation": (fixed(b"hello", b"Expect: 200-ok"), 417),
    "two expectations": (fixed(b"hello", b"Expect: 100-continue", b"Expect: x"), 417),
    "empty expectation": (fixed(b"hello", b"Expect:"), 417),
}


def statuses_of(expected: int | tuple[int, ...]) -> tuple[int, ...]:
    return expected if isinstance(expected, tuple) else (expected,)
