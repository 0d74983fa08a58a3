"""A second reading of HTTP/1.1, to hold the first one against: where messages begin and end.

Written from RFC 9112 and nothing else, with slices and regular expressions, slowly and strictly. It shares
no code with the server, and no way of working: this one has all bytes at once.

Of what the server may do as it likes (a target that is no URI, an odd chunk extension, a message that is
not complete) it says EITHER: from there on it claims nothing.
"""

import re
from dataclasses import dataclass
from typing import Final

# How the stream goes on behind the messages that were read.
MORE, REFUSED, EITHER = "more", "refused", "either"

_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# Empty lines and further spaces as RFC 9112, 2.2 and 3 let a server skip them.
_START: Final = re.compile(rb"(%b) +([!-~]+) +HTTP/1\.([01])\r\n" % _TOKEN)
_FIELD: Final = re.compile(rb"(%b):[ \t]*([\t -~\x80-\xff]*)\r\n" % _TOKEN)
_CHUNK: Final = re.compile(
    rb'([0-9A-Fa-f]{1,16})((?:;%b(?:=(?:%b|"(?:[\t !#-\[\]-~]|\\["\\])*"))?)*)\r\n'
    % (_TOKEN, _TOKEN)
)
_ODD_CHUNK: Final = re.compile(rb"[0-9A-Fa-f]+;[^\r\n]*(\r\n)?|[0-9A-Fa-f]{17,}")
_HOST: Final = re.compile(
    rb"(?:[0-9A-Za-z._~!$&'()*+;=-]|%[0-9A-Fa-f][0-9A-Fa-f])+(?::[0-9]{0,4})?"
)
_PATH: Final = re.compile(rb"/[!-\"$-~]*")
_METHODS: Final = frozenset(b"GET HEAD POST PUT DELETE OPTIONS PATCH".split())
_MAX_BODY: Final = 64 * 1024
# What a client of HTTP/2 begins with: RFC 9113, 3.4.
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Message:
    method: bytes
    target: bytes
    body: bytes


class _Refused(Exception):
    pass


class _Either(Exception):
    pass


def read(stream: bytes) -> tuple[list[Message], str]:
    """The messages in front, and how it goes on behind them."""
    messages = []
    at = 0
    try:
        while at < len(stream):
            message, at = _message(stream, at)
            if message is not None:
                messages.append(message)
    except _Refused:
        return messages, REFUSED
    except _Either:
        return messages, EITHER
    return messages, MORE


def _message(stream: bytes, at: int) -> tuple[Message | None, int]:
    while stream[at : at + 1] in (b"\r", b"\n"):
        at += 1
    if at == len(stream):
        return None, at
    start, at = _next(_START, stream, at)
    method, target, minor = start.groups()
    fields, at = _fields(stream, at)
    _check_host(fields, minor)
    if method not in _METHODS:
        raise _Either
    body, at = _body(stream, at, fields, minor)
    if _PATH.fullmatch(target) is None and (method, target) != (b"OPTIONS", b"*"):
        # Fragments and whole URIs: where it ends is known, whether it is taken is not claimed here.
        raise _Either
    return Message(method, target, body), at


def _next(pattern: "re.Pattern[bytes]", stream: bytes, at: int) -> tuple["re.Match[bytes]", int]:
    found = pattern.match(stream, at)
    if found is None:
        if _PREFACE.startswith(stream[at:]) and len(stream) - at < len(_PREFACE):
            # It has a blank line inside. A client of HTTP/2 may be told so at once, or when it is whole.
            raise _Either
        # Where the whole part is there nothing can make it fit any more.
        raise _Refused if b"\r\n\r\n" in stream[at:] else _Either
    return found, found.end()


def _fields(stream: bytes, at: int) -> tuple[dict[bytes, list[bytes]], int]:
    fields: dict[bytes, list[bytes]] = {}
    while stream[at : at + 2] != b"\r\n":
        found, at = _next(_FIELD, stream, at)
        fields.setdefault(found[1].lower(), []).append(found[2])
    return fields, at + 2


def _check_host(fields: dict[bytes, list[bytes]], minor: bytes) -> None:
    hosts = [host.strip(b" \t") for host in fields.get(b"host", [])]
    if len(hosts) > 1 or (not hosts and minor == b"1"):
        raise _Refused
    if hosts and _HOST.fullmatch(hosts[0]) is None:
        # Literal addresses and high ports are not read here.
        raise _Either if b"[" in hosts[0] or b":" in hosts[0] else _Refused


def _body(
    stream: bytes, at: int, fields: dict[bytes, list[bytes]], minor: bytes
) -> tuple[bytes, int]:
    lengths, codings = fields.get(b"content-length", []), fields.get(b"transfer-encoding", [])
    if (
        fields.get(b"expect", [b"100-continue"])[0].strip(b" \t").lower() != b"100-continue"
        and minor == b"1"
    ):
        raise _Refused
    if len(fields.get(b"expect", [])) > 1:
        raise _Either
    if any(value.rstrip(b" ")[-1:] == b"\t" for value in codings + lengths):
        raise _Either
    lengths = [length.strip(b" \t") for length in lengths]
    codings = [coding.strip(b" \t") for coding in codings]
    if codings:
        if lengths or minor != b"1" or [c.lower() for c in codings] != [b"chunked"]:
            raise _Refused
        return _chunks(stream, at)
    if not lengths:
        return b"", at
    if len(lengths) > 1 or re.fullmatch(rb"0|[1-9][0-9]*", lengths[0]) is None:
        raise _Refused
    length = int(lengths[0])
    if length > _MAX_BODY:
        raise _Refused
    if len(stream) < at + length:
        raise _Either
    return stream[at : at + length], at + length


def _chunks(stream: bytes, at: int) -> tuple[bytes, int]:
    body = b""
    while True:
        if _CHUNK.match(stream, at) is None and _ODD_CHUNK.match(stream, at) is not None:
            raise _Either
        found, at = _next(_CHUNK, stream, at)
        size = int(found[1], 16)
        if size == 0:
            break
        if len(stream) < at + size + 2:
            raise _Either
        body += stream[at : at + size]
        at += size
        if stream[at : at + 2] != b"\r\n":
            raise _Refused
        at += 2
    trailer, at = _fields(stream, at)
    if b"content-length" in trailer or b"transfer-encoding" in trailer:
        raise _Refused
    if any(len(values) > 1 for values in trailer.values()):
        raise _Either
    return body, at
