"""What makes a message one that is refused: pure checks, each with the status it is answered with.

Messages that two parsers could read differently are the ones that are smuggled past proxies. llhttp
is run without its leniencies; what it lets pass and another server might not is refused here:

- hosts that are none, and a target that names another host than the Host field;
- repeated fields whose meaning depends on which one is read;
- transfer codings other than one `chunked`. Where `chunked` is not the last nobody knows the end of the
  body: 400 (RFC 9112, 6.3). Unknown ones before it could be skipped, but not understood: 501;
- a Content-Length with a zero in front, which some read as octal;
- targets that are neither a path, nor a whole URI of ours, nor the asterisk of OPTIONS.

What is *not* seen here, because llhttp tells nobody: empty lines in front of a request, also ones that
end in LF alone, and further spaces in front of the target. It skips both as RFC 9112 (2.2, 3) allows, and
neither moves the end of a message.

What was learned from clients (spellings of header names, hosts) saves a search a request. Clients
choose what is in these tables, so they are bounded, and emptied when full: filled with nonsense for
good, they would slow every later request down.

Must not know: connections, transports, the parser's state.
"""

import ipaddress
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
# no two servers in a chain can read two hosts out of one message. So is what RFC 3986 allows and
# nobody uses, a comma (the mark of two fields that somebody joined) among it, and the empty host, which
# http URIs must not have (RFC 9110, 4.2.1). llhttp leaves the white space that may follow a value.
_HOST = re.compile(
    rb"(?P<name>(?:[A-Za-z0-9._~!$&'()*+;=-]|%[0-9A-Fa-f]{2})+|\[(?P<v6>[0-9A-Fa-f:.]+)\])"
    rb"(?::(?P<port>[0-9]{0,5}))?[ \t]*"
)
_DEFAULT_PORTS = {b"http": b"80", b"https": b"443"}

# How llhttp's reasons begin where 400 would not be the status: a method of another protocol, and a
# version of this one that is not ours ("PRI * HTTP/2.0" among them).
_NO_METHOD = "Invalid method for HTTP"
_OTHER_VERSION = ("Invalid HTTP version", "Pause on PRI")

# A method that somebody may have invented, as opposed to what is no request at all. No registered
# method is half as long.
_KNOWN_METHODS = (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH ")
_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,40}(?: |\Z)")


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
    if _host_and_port(host) is None:
        raise Refused(400, "The Host header of this request is not a host.")
    if len(host) <= MAX_LEARNED_HOST_BYTES:
        if len(HOSTS) >= MAX_LEARNED:
            HOSTS.clear()
        HOSTS.add(host)


def _host_and_port(text: bytes) -> tuple[bytes, bytes] | None:
    """Both as they can be compared; None for what is no host."""
    found = _HOST.fullmatch(text)
    if found is None:
        return None
    name, v6, port = found["name"], found["v6"], found["port"] or b""
    if port and int(port) > 65535:
        return None
    if v6 is not None:
        try:
            name = ipaddress.IPv6Address(v6.decode()).packed
        except ValueError:
            return None
    return name.lower(), port


def check_version(version: str, host: bytes | None) -> None:
    if version not in ("1.1", "1.0"):
        raise Refused(505, "This server speaks HTTP/1.1 and HTTP/1.0.")
    if host is None and version == "1.1":
        raise Refused(400, "A request in HTTP/1.1 must have a Host header.")


def check_length(fields: list[bytes | None], version: str, max_body: int) -> bool:
    """Whether a body follows this head; refuse one whose length could be read in two ways."""
    coding, length = fields[TRANSFER_ENCODING], fields[CONTENT_LENGTH]
    if coding is None:
        return length is not None and _body_bytes(length, max_body) > 0
    if version != "1.1":
        raise Refused(400, "Only HTTP/1.1 has transfer codings.")
    if length is not None:
        raise Refused(400, "A request has either a Content-Length or a Transfer-Encoding.")
    codings = [name.strip(b" \t").lower() for name in coding.split(b",")]
    if codings == [b"chunked"]:
        return True
    if codings[-1] != b"chunked" or codings.count(b"chunked") > 1 or b"" in codings:
        raise Refused(400, "The end of this request's body cannot be known: chunked must be last.")
    raise Refused(501, "This server knows no transfer coding but chunked.")


def _body_bytes(length: bytes, max_body: int) -> int:
    length = length.strip(b" \t")
    if length[:1] == b"0" and length != b"0":
        # Ten octal is eight; and int() takes no more than 4300 digits.
        raise Refused(400, "The Content-Length of this request has leading zeros.")
    if len(length) > 20 or int(length) > max_body:
        raise Refused(413, "The body of this request is too large.")
    return int(length)


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


def origin_form(method: bytes, url: bytes, host: bytes | None) -> tuple[bytes, bytes]:
    """Path and query of a target that is not just a path (RFC 9112, 3.2), or has a fragment."""
    url = url.partition(b"#")[0]
    if url[:1] != b"/":
        if url == b"*" and method == b"OPTIONS":
            return url, b""
        url = _without_authority(url, host)
    path, _, query = url.partition(b"?")
    return path, query


def _without_authority(url: bytes, host: bytes | None) -> bytes:
    scheme, separator, rest = url.partition(b"://")
    scheme = scheme.lower()
    if not separator or scheme not in _DEFAULT_PORTS:
        raise Refused(400, "The target of this request is neither a path nor an http URI.")
    authority_end = min((at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0), default=-1)
    authority = rest if authority_end < 0 else rest[:authority_end]
    named = _host_and_port(authority)
    if named is None or authority[-1:].isspace():
        raise Refused(400, "The target of this request has no proper host.")
    # The target would count (RFC 9112, 3.2.2), but whoever is in front of us may go by the field.
    if host is not None:
        said = _host_and_port(host)
        default = _DEFAULT_PORTS[scheme]
        if said is None or (named[0], named[1] or default) != (said[0], said[1] or default):
            raise Refused(
                400, "The target of this request names another host than its Host header."
            )
    rest = rest[len(authority) :]
    return rest if rest[:1] == b"/" else b"/" + rest


def refusal_of(error: httptools.HttpParserError, data: bytes) -> Refused:
    """What llhttp did not take, as an answer. `data` is what it was fed last."""
    reason = str(error)
    if isinstance(error, httptools.HttpParserInvalidMethodError):
        if _might_be_a_method(data):
            return Refused(501, "This server does not know the method of this request.")
        return Refused(400, "This is not HTTP/1.1: it begins with no method.")
    if reason.startswith(_NO_METHOD):
        return Refused(501, "This server does not know the method of this request.")
    if reason.startswith(_OTHER_VERSION):
        return Refused(505, "This server speaks HTTP/1.1 and HTTP/1.0.")
    return Refused(400, f"This is not HTTP/1.1: {reason}.")


def _might_be_a_method(data: bytes) -> bool:
    """Whether what llhttp took for no method is one that somebody may have invented.

    A guess, for llhttp does not say where it stopped: the first line behind an empty one that begins
    with no method we know. Both statuses close, so no more than the status depends on it.
    """
    heads = re.split(rb"(?<=\r\n\r\n)", data, maxsplit=MAX_LEARNED)
    lines = (head.lstrip(b"\r\n") for head in heads)
    suspect = next((line for line in lines if line and not line.startswith(_KNOWN_METHODS)), b"")
    return _METHOD.match(suspect) is not None
