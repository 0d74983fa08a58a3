"""Requests as the endpoints see them, and answers as complete bytes.

An answer is one `bytes` object with status line, headers and body, rendered for the common case: a
persistent HTTP/1.1 connection and a method other than HEAD. The protocol edits the rare other cases
(HEAD, Connection: close, HTTP/1.0), so that the common one costs no more than a concatenation.

The Date header (RFC 9110, 6.6.1) changes once a second, so whole answers are rendered once a second
and handed out by reference.

Must not know: transports, the parser, ads, databases.
"""

import time
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import Protocol

import orjson

# Header fields that anything in this program reads. The position in `Request.fields` is the index
# here; every other field is dropped as soon as it is parsed.
FIELD_NAMES = (
    b"host",
    b"user-agent",
    b"referer",
    b"accept-language",
    b"x-forwarded-for",
    b"content-type",
    b"content-length",
    b"transfer-encoding",
    b"expect",
    b"upgrade",
    b"sec-gpc",
    b"dnt",
    b"x-forwarded-proto",
    b"x-explain-key",
    b"if-none-match",
)
(
    HOST,
    USER_AGENT,
    REFERER,
    ACCEPT_LANGUAGE,
    X_FORWARDED_FOR,
    CONTENT_TYPE,
    CONTENT_LENGTH,
    TRANSFER_ENCODING,
    EXPECT,
    UPGRADE,
    SEC_GPC,
    DNT,
    X_FORWARDED_PROTO,
    X_EXPLAIN_KEY,
    IF_NONE_MATCH,
) = range(len(FIELD_NAMES))

# With any of these there is more to a message than its head.
FRAMING = (CONTENT_LENGTH, TRANSFER_ENCODING, EXPECT, UPGRADE)

NO_FIELDS: list[bytes | None] = [None] * len(FIELD_NAMES)


class Answerer(Protocol):
    """Where a request came from and its answer goes."""

    peer: str

    def deliver(self, request: "Request", answer: bytes) -> None:
        """Hand over the answer; called once for each request whose handler returned None."""


class Request:
    """One request, complete with its body.

    `path` and `query` are as sent (percent-encoded); `fields` holds the values of FIELD_NAMES by
    position, None where the client sent none.
    """

    __slots__ = ("answer", "body", "connection", "fields", "keep_alive", "method", "path", "query")

    def __init__(
        self,
        connection: "Answerer",
        method: bytes,
        path: bytes,
        query: bytes,
        fields: list[bytes | None],
        body: bytes,
        keep_alive: bool,
    ) -> None:
        self.connection = connection
        self.method = method
        self.path = path
        self.query = query
        self.fields = fields
        self.body = body
        self.keep_alive = keep_alive
        self.answer: bytes | None = None

    @property
    def peer(self) -> str:
        """Address of the other end of the connection; "" for a UNIX socket."""
        return self.connection.peer

    def respond(self, answer: bytes) -> None:
        """Deliver an answer that was not ready when the handler returned None."""
        self.connection.deliver(self, answer)


# Returns the answer, or None when it will call `request.respond` later, exactly once.
Handler = Callable[[Request], bytes | None]

JSON_TYPE = b"application/json"


# Finding it on the enum takes a third of the time that the whole answer does.
_PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}


def render(status: int, body: bytes, content_type: bytes, date: bytes, extra: bytes = b"") -> bytes:
    """A whole answer. `extra` is further header lines, each with its CRLF."""
    return b"HTTP/1.1 %d %b\r\nDate: %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n%b\r\n%b" % (
        status,
        _PHRASES[status],
        date,
        content_type,
        len(body),
        extra,
        body,
    )


def error_body(status: int, message: str) -> bytes:
    """The JSON of every error answer."""
    return orjson.dumps({"error": {"status": status, "message": message}}) + b"\n"


class Answers:
    """Answers of this second.

    `refresh` must be called at least once a second; RFC 9110 asks for a Date that is the origination
    time "as best it can", and a second is its resolution.
    """

    __slots__ = ("_clock", "busy", "date", "no_content", "ok_json")

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.refresh()

    def refresh(self) -> None:
        self.date = formatdate(self._clock(), usegmt=True).encode()
        self.no_content = b"HTTP/1.1 204 No Content\r\nDate: " + self.date + b"\r\n\r\n"
        self.ok_json = (
            b"HTTP/1.1 200 OK\r\nDate: " + self.date + b"\r\nContent-Type: application/json\r\n"
            b"Content-Length: "
        )
        self.busy = self.unavailable("The server is overloaded. Come again later.")

    def json(self, body: bytes) -> bytes:
        """200 with a JSON body; the hot path of `/ad`."""
        return b"%b%d\r\n\r\n%b" % (self.ok_json, len(body), body)

    def full(
        self, status: int, body: bytes, content_type: bytes = JSON_TYPE, extra: bytes = b""
    ) -> bytes:
        return render(status, body, content_type, self.date, extra)

    def error(self, status: int, message: str, extra: bytes = b"") -> bytes:
        return render(status, error_body(status, message), JSON_TYPE, self.date, extra)

    def unavailable(self, message: str, retry_after_s: int = 1) -> bytes:
        """503 with Retry-After: what a bounded queue answers when it is full."""
        return self.error(503, message, b"Retry-After: %d\r\n" % retry_after_s)


def without_body(answer: bytes) -> bytes:
    """The answer to HEAD: the same headers, Content-Length included (RFC 9110, 9.3.2)."""
    return answer[: answer.index(b"\r\n\r\n") + 4]


def with_connection(answer: bytes, option: bytes) -> bytes:
    """The same answer with a Connection header."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return b"%b\r\nConnection: %b\r\n\r\n%b" % (head, option, body)
