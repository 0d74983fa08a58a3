"""What makes a message one that is refused: pure checks, each with the status it is answered with.

Messages that two parsers could read differently are the ones that are smuggled past proxies. llhttp
is run without its leniencies; what it lets pass and another server might not is refused here: hosts
that are none, repeated fields whose meaning depends on which one is read, transfer codings other
than one `chunked`.

What was learned from clients (spellings of header names, hosts) saves a search a request. Clients
choose what is in these tables, so they are bounded, and emptied when full: filled with nonsense for
good, they would slow every later request down.

Must not know: connections, transports, the parser's state.
"""

import re

import httptools

from prefork_ads.http.message import (
    CONTENT_LENGTH,
    EXPECT,
    FIELD_NAMES,
    HOST,
    TRANSFER_ENCODING,
    X_FORWARDED_FOR,
)

MAX_LEARNED = 1024
MAX_LEARNED_NAME_BYTES = 40
MAX_LEARNED_HOST_BYTES = 255

# Spellings of header names, as they came: those that are read, with the position in FIELD_NAMES, and
# those that nobody reads.
POSITIONS: dict[bytes, int] = {}
IGNORED: set[bytes] = set()
_BY_NAME = {name: position for position, name in enumerate(FIELD_NAMES)}

# Hosts that were found to be hosts.
HOSTS: set[bytes] = set()

# RFC 3986 host and port as far as RFC 9112, 3.2 needs it: what cannot be a host is refused, so that
# no two servers in a chain can read two hosts out of one message. llhttp leaves the white space that
# may follow a value.
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?[ \t]*")

# How llhttp's reasons begin where 400 would not be the status: a method of another protocol, and a
# version of this one that is not ours ("PRI * HTTP/2.0" among them).
_NO_METHOD = "Invalid method for HTTP"
_OTHER_VERSION = ("Invalid HTTP version", "Pause on PRI")


class Refused(Exception):
    """A message that is answered with an error and the end of the connection."""

    def __init__(self, status: int, message: str, extra: bytes = b"") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.extra = extra


def learn_name(name: bytes) -> int | None:
    """The position of a header that is met for the first time; None for one that nobody reads."""
    position = _BY_NAME.get(name.lower())
    if len(name) <= MAX_LEARNED_NAME_BYTES:
        if len(POSITIONS) + len(IGNORED) >= MAX_LEARNED:
            POSITIONS.clear()
            IGNORED.clear()
        if position is None:
            IGNORED.add(name)
        else:
            POSITIONS[name] = position
    return position


def check_host(host: bytes) -> None:
    """Refuse a Host field that is no host; learn one that is."""
    if _HOST.fullmatch(host) is None:
        raise Refused(400, "The Host header of this request is not a host.")
    if len(host) <= MAX_LEARNED_HOST_BYTES:
        if len(HOSTS) >= MAX_LEARNED:
            HOSTS.clear()
        HOSTS.add(host)


def check_version(version: str, host: bytes | None) -> None:
    if version not in ("1.1", "1.0"):
        raise Refused(505, "This server speaks HTTP/1.1 and HTTP/1.0.")
    if host is None and version == "1.1":
        raise Refused(400, "A request in HTTP/1.1 must have a Host header.")


def check_length(fields: list[bytes | None], version: str, max_body: int) -> bool:
    """Whether a body follows this head; refuse one whose length could be read in two ways."""
    coding, length = fields[TRANSFER_ENCODING], fields[CONTENT_LENGTH]
    if coding is None:
        if length is not None and int(length) > max_body:
            raise Refused(413, "The body of this request is too large.")
        return length is not None and int(length) > 0
    if version != "1.1":
        raise Refused(400, "Only HTTP/1.1 has transfer codings.")
    if length is not None:
        raise Refused(400, "A request has either a Content-Length or a Transfer-Encoding.")
    if not coding:
        raise Refused(400, "The Transfer-Encoding of this request is empty.")
    if coding.strip().lower() != b"chunked":
        raise Refused(501, "This server knows no transfer coding but chunked.")
    return True


def wants_continue(expect: bytes | None, version: str) -> bool:
    """Whether the client waits for 100 before it sends its body."""
    # HTTP/1.0 knows no expectations, and they are to be ignored there (RFC 9110, 10.1.1).
    if expect is None or version != "1.1":
        return False
    if expect.strip().lower() != b"100-continue":
        raise Refused(417, "This server knows no expectation but 100-continue.")
    return True


def repeated(position: int, first: bytes, second: bytes) -> bytes:
    """A header field that comes twice: refused where the meaning depends on which one is read."""
    if position == HOST:
        raise Refused(400, "This request has more than one Host header.")
    if position == CONTENT_LENGTH:
        raise Refused(400, "This request has more than one Content-Length.")
    if position in (TRANSFER_ENCODING, X_FORWARDED_FOR, EXPECT):
        return first + b", " + second
    return first


def origin_form(url: bytes) -> tuple[bytes, bytes]:
    """Path and query of an absolute-form target, or of one with a fragment (RFC 9112, 3.2)."""
    url = url.partition(b"#")[0]
    scheme, separator, rest = url.partition(b"://")
    if separator and scheme.lower() in (b"http", b"https"):
        authority_end = min(
            (at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0), default=-1
        )
        authority = rest if authority_end < 0 else rest[:authority_end]
        if authority[:1] in (b"", b":") or _HOST.fullmatch(authority) is None:
            raise Refused(400, "The target of this request has no proper host.")
        url = rest[len(authority) :]
        if url[:1] != b"/":
            url = b"/" + url
    path, _, query = url.partition(b"?")
    return path, query


def refusal_of(error: httptools.HttpParserError) -> Refused:
    """What llhttp did not take, as an answer."""
    reason = str(error)
    if isinstance(error, httptools.HttpParserInvalidMethodError) or reason.startswith(_NO_METHOD):
        return Refused(501, "This server does not know the method of this request.")
    if reason.startswith(_OTHER_VERSION):
        return Refused(505, "This server speaks HTTP/1.1 and HTTP/1.0.")
    return Refused(400, f"This is not HTTP/1.1: {reason}.")
