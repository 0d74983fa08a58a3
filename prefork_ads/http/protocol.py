"""One client connection: bytes to requests, answers to bytes, in order.

The shape of a connection's life, by what it is receiving:

    IDLE ──message begins──▶ HEAD ──head complete──▶ BODY ──message complete──▶ IDLE
      any of them ──protocol error, or an answer that closes──▶ LINGER ──▶ closed

- A handler runs straight from the parser's callback: no task, no queue and no future per request.
- A head that was read before is not read again (see `heads`): then the parser is not asked at all.
- Answers leave in the order of the requests (RFC 9112, 9.3.2). `_outstanding` holds the requests that
  are answered out of order or not yet; while it is empty an answer goes straight to the outbox.
- Nothing is written here at once: the outbox writes once per loop tick, after the tick's event lines
  are safe. So an answer on the wire always has its line behind it.
- httptools cannot be paused in the middle of a chunk and may hand over a URL or a body in pieces: both
  callbacks append. What arrives is fed in slices, so that one read full of tiny pipelined requests
  cannot run far past `max_pipelined`. Sizes are checked between slices, so a head can be a slice over
  its limit.
- `get_http_version()` formats a string, 0.5 µs of the 15 a request takes (*measured*), so it is asked
  where the answer is not to be seen at the end of a read's first line, and again where it
  matters: no Host field, a length to be judged. Once a connection is not enough: llhttp reads a line
  without a version as one of HTTP/0.9, and keeps the connection in every version if the client asks.
- What `rules` refuses is answered and the connection closed: nothing behind it is read.
- A trailer's fields come through the same callback as a header's. They are dropped: a trailer passes
  proxies that would have replaced the same field in the header (RFC 9110, 6.5.1).
- llhttp takes a body behind `Upgrade` for the protocol upgraded to, but a request that offers an upgrade
  is to be answered as it stands (Java's client and `curl --http2` offer h2c with each first request).
  So such a head is fed once more, without the offer.

Must not know: ads, databases, files.
"""

import asyncio
from collections import deque
from typing import cast

import httptools

from prefork_ads.http.heads import DOUBTS, MAX_REMEMBERED_BYTES, target_of
from prefork_ads.http.hub import SWEEP_LATE_S, Hub
from prefork_ads.http.message import (
    CONTENT_LENGTH,
    EXPECT,
    FIELD_NAMES,
    FRAMING,
    HOST,
    NO_FIELDS,
    TRANSFER_ENCODING,
    UPGRADE,
    Request,
    with_connection,
    without_body,
)
from prefork_ads.http.rules import (
    HOSTS,
    IGNORED,
    POSITIONS,
    Refused,
    check_host,
    check_length,
    check_version,
    learn_name,
    origin_form,
    refusal_of,
    repeated,
    wants_continue,
)

IDLE, HEAD, BODY, LINGER = range(4)

# Why a connection is not read from: bits of `_paused_by`.
SLOW_READER, MANY_OUTSTANDING, MANY_UNSENT = 1, 2, 4

# As a number: `b"#" in url` would raise and drop a TypeError before it searches.
NUMBER_SIGN = ord("#")
# What a first line is sought by: llhttp ends one of HTTP/0.9 at a bare LF, too, and reads a header behind it.
LINE_FEED = ord("\n")

# About what a request in memory takes.
REQUEST_BYTES = 600

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Connection(asyncio.Protocol):
    """An asyncio protocol on httptools."""

    # Slots keep ten thousand idle connections small.
    __slots__ = (
        "_body",
        "_fields",
        "_fields_in",
        "_head_bytes",
        "_hub",
        "_keep_alive",
        "_message_bytes",
        "_out",
        "_outstanding",
        "_parser",
        "_paused_by",
        "_peer_done",
        "_receiving",
        "_replay",
        "_sealed",
        "_since",
        "_surplus",
        "_transport",
        "_unfed",
        "_unknown",
        "_url",
        "_version",
        "peer",
        "scheduled",
    )

    def __init__(self, hub: Hub) -> None:
        # For the life of the connection.
        self._hub = hub
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._version = ""
        self.peer = ""
        # Between requests.
        self._receiving = IDLE
        self._since = hub.now
        self._keep_alive = True
        self._peer_done = False
        self._surplus = False
        self._outstanding: deque[Request] = deque()
        self._out: list[bytes] = []
        # How many of `_out`, from the front, wait for the disk.
        self._sealed = 0
        self.scheduled = False
        self._unfed = b""
        self._paused_by = 0
        # For one request.
        self._url = b""
        self._fields = NO_FIELDS
        # Where on_header puts fields: `_fields`, and elsewhere once they are a trailer's.
        self._fields_in = NO_FIELDS
        self._body: list[bytes] | None = None
        self._head_bytes = 0
        self._message_bytes = 0
        self._replay = b""
        # What a read has behind its first line, if it may become known.
        self._unknown = b""

    # -- the transport's calls ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        hub = self._hub
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        hub.connections.add(self)
        self._since = hub.now
        if isinstance(peer, tuple):
            self.peer = _plain_address(peer[0])
        elif peer is None:
            # Reset before we could ask who it was. What it sent is still there to be read, and must not
            # pass for a request from a UNIX socket, whose peers have no address and are trusted.
            self._cut_off()
            return
        surplus = len(hub.connections) - hub.limits.max_connections
        if surplus > hub.limits.max_surplus:
            # No answer: each would cost a descriptor for as long as the client takes to read it.
            hub.on_refused(503)
            self._cut_off()
        elif surplus > 0:
            self._surplus = True
            self._parser = self._new_parser()
        if hub.is_gone is not None and hub.is_gone(transport):
            self._cut_off()

    def _cut_off(self) -> None:
        """Not a word is read from it or said to it."""
        self._receiving = LINGER
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._hub.connections.discard(self)
        self._transport = None
        self._receiving = LINGER
        self._outstanding.clear()
        self._out.clear()
        self._sealed = 0
        self._unfed = b""
        # The parser refers to our bound methods: without this the pair waits for the cycle collector.
        del self._parser

    def eof_received(self) -> bool:
        """A half-closed client still gets the answers it waits for (RFC 9112, 9.6)."""
        self._peer_done = True
        self._keep_alive = False
        self._receiving = LINGER
        # True keeps our half open, until the last answer owed is written.
        return bool(self._outstanding or self._out)

    def data_received(self, data: bytes) -> None:
        if self._receiving == LINGER:
            return
        if self._paused_by or len(data) > self._hub.slice_bytes:
            self._unfed = self._unfed + data if self._unfed else data
            self._feed_slices()
            if self._unfed:
                self._hold(len(data))
        elif self._receiving != IDLE or not self._take_known(data):
            self._feed(data)
            if self._unknown:
                self._unknown = b""

    def pause_writing(self) -> None:
        """The client reads slowly: stop taking requests from it until it has read."""
        self._pause(SLOW_READER)
        self._since = self._hub.now
        transport = cast(asyncio.Transport, self._transport)
        self._hub.held += transport.get_write_buffer_size()
        if self._hub.held > self._hub.limits.max_held:
            self._hub.on_refused(503)
            self.abort()

    def resume_writing(self) -> None:
        self._unpause(SLOW_READER)

    # -- what need not be parsed -------------------------------------------------------------------

    def _take_known(self, data: bytes) -> bool:
        """Take a message whose head was read before. False: it is to be read."""
        heads = self._hub.heads
        if heads.in_vain >= DOUBTS and heads.is_passed_by():
            return False
        line_end = data.find(LINE_FEED) - 1
        if (
            data[line_end - 9 : line_end + 1] != b" HTTP/1.1\r"
            or len(data) > MAX_REMEMBERED_BYTES
            or self._surplus
        ):
            return False
        head = data[line_end:]
        fields = heads.find(head)
        if fields is None:
            heads.found_none()
            if heads.is_back(head):
                self._unknown = head
            return False
        target = target_of(data, line_end)
        if not target or len(target) > self._hub.limits.max_url:
            heads.found_none()
            return False
        if heads.in_vain:
            heads.found_one()
        self._version = "1.1"
        # Of the message before: with it, should something be refused next, its method would count, too.
        self._url = b""
        self._head_bytes = 0
        path, _, query = target.partition(b"?")
        # By position: by name it takes half as long again.
        self._handle(Request(self, b"GET", path, query, fields, b"", True))
        return True

    def _remember(self) -> None:
        """The read has ended between two messages: was there nothing to the last one but its head?

        Asked for its version once more: in no other does the line end where we looked for it.
        """
        fields = self._fields
        if self._parser.get_http_version() == "1.1" and all(
            fields[position] is None for position in FRAMING
        ):
            self._hub.heads.remember(self._unknown, fields)

    # -- feeding the parser ------------------------------------------------------------------------

    def _feed(self, data: bytes) -> None:
        while True:
            if self._receiving <= HEAD:
                # Counted before parsing: httptools keeps an unfinished header line to itself.
                self._head_bytes += len(data)
                if self._receiving == IDLE:
                    line_end = data.find(LINE_FEED)
                    plain = data[line_end - 10 : line_end] == b" HTTP/1.1\r"
                    self._version = "1.1" if plain else ""
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                if self._replay:
                    data, self._replay = self._replay + data, b""
                    # The old one may have read "close" and take nothing more.
                    self._parser = self._new_parser()
                if not data or self._receiving == LINGER:
                    return
                if self._paused_by:
                    self._unfed = data + self._unfed
                    return
            except httptools.HttpParserError as error:
                if self._receiving != LINGER:
                    self._refuse(self._as_refusal(error, data))
                return
            else:
                if self._receiving != IDLE:
                    self._check_size(len(data))
                elif self._unknown:
                    self._remember()
                return

    def _check_size(self, fed: int) -> None:
        """The message goes on in the next read: is it too large already?"""
        limits = self._hub.limits
        if self._receiving == HEAD:
            if self._head_bytes > limits.max_head:
                self._refuse(Refused(431, "The header of this request is too large."))
                return
        elif self._receiving == BODY:
            self._message_bytes += fed
            if self._message_bytes > self._hub.max_message:
                self._refuse(Refused(413, "The chunks of this request say too much."))
                return
        self._hold(fed)

    def _hold(self, more: int) -> None:
        """So many bytes of this client wait in memory on top: is it too much of all clients together?"""
        hub = self._hub
        hub.held += more
        if hub.held > hub.limits.max_held and self._receiving != LINGER:
            # It goes now, not when all are counted: until then others would be refused for it.
            hub.give_back(self._head_bytes + len(self._unfed))
            self._refuse(Refused(503, "Too much is under way at once.", b"Retry-After: 1\r\n"))

    def _feed_slices(self) -> None:
        size, most = self._hub.slice_bytes, self._hub.limits.max_pipelined
        while self._unfed and not self._paused_by and self._receiving != LINGER:
            if len(self._out) >= most:
                # Answers can be a thousand times as long as requests: write these first.
                self._pause(MANY_UNSENT)
                return
            piece, self._unfed = self._unfed[:size], self._unfed[size:]
            self._feed(piece)
        if self._receiving == LINGER:
            self._unfed = b""

    # -- httptools' calls --------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._receiving == LINGER:
            raise Refused(400, "This connection has had its last answer.")
        if not self._head_bytes:
            # Behind another message in one read: nobody has looked at its first line.
            self._version = ""
        self._url = b""
        self._fields = self._fields_in = NO_FIELDS.copy()
        self._body = None
        self._receiving = HEAD
        self._since = self._hub.now

    def on_url(self, piece: bytes) -> None:
        self._url = self._url + piece if self._url else piece
        if len(self._url) > self._hub.limits.max_url:
            raise Refused(414, "The target of this request is too long.")

    def on_header(self, name: bytes, value: bytes) -> None:
        # Most headers of a browser are read by nobody: the shortest way is theirs.
        if name in IGNORED:
            return
        position = POSITIONS[name] if name in POSITIONS else learn_name(name)
        if position is not None:
            fields = self._fields_in
            if fields[position] is not None:
                value = repeated(position, cast(bytes, fields[position]), value)
            fields[position] = value

    def on_headers_complete(self) -> None:
        self._receiving = BODY
        fields = self._fields
        host = fields[HOST]
        if host is None or not self._version:
            self._check_version(host)
        if host is not None and host not in HOSTS:
            check_host(host)
        # An empty coding too: httptools 0.6.4 reads it as none, others may not.
        coding = fields[TRANSFER_ENCODING]
        expect = fields[EXPECT]
        if fields[CONTENT_LENGTH] or coding is not None or expect is not None or fields[UPGRADE]:
            self._check_framing(fields)

    def on_body(self, piece: bytes) -> None:
        if self._body is None:
            self._body = []
            self._head_bytes = 0
        # The head's counter counts the body once the head is complete.
        self._head_bytes += len(piece)
        if self._head_bytes > self._hub.limits.max_body:
            raise Refused(413, "The body of this request is too large.")
        self._body.append(piece)

    def on_message_complete(self) -> None:
        url = self._url
        method = self._parser.get_method()
        keep_alive = self._parser.should_keep_alive()
        if method == b"CONNECT":
            raise Refused(501, "This server is no proxy.")
        path, _, query = url.partition(b"?")
        if path[:1] != b"/" or NUMBER_SIGN in url:
            if self._replay:
                return
            path, query = origin_form(method, url, self._fields[HOST])
        body = b"" if self._body is None else b"".join(self._body)
        request = Request(self, method, path, query, self._fields, body, keep_alive)
        self._head_bytes = 0
        if keep_alive:
            self._receiving = IDLE
        else:
            self._check_version(self._fields[HOST])
            self._receiving = LINGER
            self._keep_alive = False
        self._handle(request)

    def _handle(self, request: Request) -> None:
        """A request is complete."""
        hub = self._hub
        self._since = hub.now
        try:
            answer = hub.handler(request)
        except Exception as error:  # noqa: BLE001 - the edge: no request may stop a worker
            hub.report(f"{request.method!r} {request.path!r}", error)
            answer = hub.answers.error(500, "The server failed on this request.")
        if answer is None or self._outstanding:
            request.answer = answer
            self._outstanding.append(request)
            if len(self._outstanding) >= hub.limits.max_pipelined:
                hub.held += REQUEST_BYTES
                self._pause(MANY_OUTSTANDING)
        else:
            self._send(request, answer)

    # -- answers -----------------------------------------------------------------------------------

    def deliver(self, request: Request, answer: bytes) -> None:
        request.answer = answer
        outstanding = self._outstanding
        while outstanding and (first := outstanding[0].answer) is not None:
            self._send(outstanding.popleft(), first)
        if (
            self._paused_by & MANY_OUTSTANDING
            and len(outstanding) <= self._hub.limits.max_pipelined // 2
        ):
            self._unpause(MANY_OUTSTANDING)

    def send_away(self, request: Request) -> None:
        """Close right behind the answer: the client is to be gone, and has sent nothing that we have not
        read, or is to be told once more by a reset."""
        request.keep_alive = False
        self._keep_alive = False
        self._peer_done = True
        self._receiving = LINGER

    def _send(self, request: Request, answer: bytes) -> None:
        if request.method == b"HEAD":
            answer = without_body(answer)
        if not request.keep_alive:
            answer = with_connection(answer, b"close")
        elif self._version == "1.0" and not self._hub.draining:
            answer = with_connection(answer, b"keep-alive")
        self._out.append(answer)
        if not self.scheduled:
            self.scheduled = True
            self._hub.outbox.add(self)
        elif self._hub.outbox.holds and len(self._out) >= self._hub.limits.max_pipelined:
            # The disk may take longer than a client's next requests.
            self._pause(MANY_UNSENT)

    def flush(self) -> None:
        """Write what the tick has gathered; called by the outbox only."""
        self.scheduled = False
        transport, out = self._transport, self._out
        if transport is None or not out:
            return
        hub = self._hub
        if hub.draining and self._keep_alive and self._is_quiet():
            # Decided here and not when the request came: all that had arrived by now is answered.
            self._keep_alive = False
            out[-1] = with_connection(out[-1], b"close")
        transport.write(out[0] if len(out) == 1 else b"".join(out))
        out.clear()
        self._since = hub.now
        if not self._keep_alive and not self._outstanding:
            self._finish()
        elif self._paused_by & MANY_UNSENT:
            self._unpause(MANY_UNSENT)

    def seal(self) -> None:
        """The disk is asked for what waits now: later answers do not leave with it."""
        self.scheduled = False
        self._sealed = len(self._out)

    def unseal(self) -> None:
        self._sealed = 0

    def flush_sealed(self) -> None:
        """The disk has what was sealed: write that, and leave the rest for its own turn."""
        transport, out, sealed = self._transport, self._out, self._sealed
        self._sealed = 0
        if len(out) == sealed:
            self.flush()
        elif transport is not None:
            transport.write(b"".join(out[:sealed]))
            del out[:sealed]
            self._since = self._hub.now

    def refuse_unsent(self) -> None:
        """What we owe cannot be promised: one 503 in its place, and the end of the connection.

        Without a body, so that it answers a HEAD, too: nobody remembers which request is the first.
        """
        if self._transport is None or not (self._outstanding or len(self._out) > self._sealed):
            return
        hub = self._hub
        hub.on_refused(503)
        self._outstanding.clear()
        self._unfed = b""
        self._keep_alive = False
        self._receiving = LINGER
        self._since = hub.now
        del self._out[self._sealed :]
        answer = hub.answers.full(503, b"", extra=b"Retry-After: 1\r\n")
        self._out.append(with_connection(answer, b"close"))
        if self._paused_by:
            # To read, and throw away, what else is sent.
            self._unpause(MANY_OUTSTANDING | MANY_UNSENT)
        if not self.scheduled:
            self.scheduled = True
            hub.outbox.add(self)

    def _is_quiet(self) -> bool:
        """No request is being received or waits for its answer."""
        return self._receiving == IDLE and not self._outstanding and not self._unfed

    def _finish(self) -> None:
        """The last answer is written: tell the client so, and let it read before we go."""
        transport = cast(asyncio.Transport, self._transport)
        self._receiving = LINGER
        if self._peer_done:
            transport.close()
        else:
            transport.write_eof()

    def _refuse(self, refused: Refused) -> None:
        """Answer with an error after the answers still owed, then close."""
        self._hub.on_refused(refused.status)
        answer = self._hub.answers.error(refused.status, refused.message, refused.extra)
        # A refused HEAD, if the message got so far, has no body in its answer either.
        method = self._parser.get_method() if self._url else b""
        request = Request(self, method, b"", b"", NO_FIELDS, b"", keep_alive=False)
        self._keep_alive = False
        self._receiving = LINGER
        self._since = self._hub.now
        self._unfed = b""
        self._head_bytes = 0
        self._body = None
        if self._outstanding:
            request.answer = answer
            self._outstanding.append(request)
        else:
            self._send(request, answer)

    # -- time and flow -----------------------------------------------------------------------------

    def check(self, now: float) -> int:
        """End what has taken too long; returns how many bytes are held for this client."""
        if self._transport is None:
            return 0
        self._check_time(now)
        return self._held()

    def _held(self) -> int:
        held = self._head_bytes + len(self._unfed)
        if self._outstanding:
            held += REQUEST_BYTES * len(self._outstanding)
        if self._paused_by & SLOW_READER and self._transport is not None:
            held += self._transport.get_write_buffer_size()
        return held

    def _check_time(self, now: float) -> None:
        limits, waited = self._hub.limits, now - self._since
        if self._paused_by & SLOW_READER:
            if waited > limits.send_timeout_s:
                self.abort()
        elif self._outstanding or self._out:
            return
        elif self._receiving == IDLE:
            allowed = limits.linger_s if self._surplus else limits.idle_timeout_s
            if waited > allowed:
                self._close(waited - allowed)
        elif self._receiving == LINGER:
            if waited > limits.linger_s:
                self._close(waited - limits.linger_s)
        elif self._receiving == HEAD and waited > limits.head_timeout_s:
            self._refuse(Refused(408, "The header of this request took too long."))
        elif self._receiving == BODY and waited > limits.body_timeout_s:
            self._refuse(Refused(408, "The body of this request took too long."))

    def close_if_idle(self) -> None:
        if self._is_quiet() and not self._out:
            self._close(overdue_s=0.0)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _close(self, overdue_s: float) -> None:
        """Close once what is written has left; a client that never reads has `send_timeout_s` for it."""
        if self._transport is None:
            return
        if overdue_s > max(self._hub.limits.send_timeout_s, SWEEP_LATE_S):
            self._transport.abort()
        else:
            self._transport.close()

    def _pause(self, reason: int) -> None:
        if not self._paused_by and self._transport is not None:
            self._transport.pause_reading()
        self._paused_by |= reason

    def _unpause(self, reason: int) -> None:
        self._paused_by &= ~reason
        if not self._paused_by and self._transport is not None:
            self._feed_slices()
        # Feeding may have filled the pipeline again.
        if not self._paused_by and self._transport is not None and not self._unfed:
            self._transport.resume_reading()

    # -- checks ------------------------------------------------------------------------------------

    def _check_version(self, host: bytes | None) -> None:
        self._version = self._parser.get_http_version()
        check_version(self._version, host)

    def _check_framing(self, fields: list[bytes | None]) -> None:
        """Lengths, expectations and upgrades: the places where messages are smuggled."""
        version = self._parser.get_http_version()
        has_body = check_length(fields, version, self._hub.limits.max_body)
        if fields[TRANSFER_ENCODING] is not None:
            self._fields_in = NO_FIELDS.copy()
        self._message_bytes = 0
        if has_body and fields[UPGRADE] is not None and self._parser.should_upgrade():
            self._replay = self._head_without_upgrade()
            self._url = b""
        elif wants_continue(fields[EXPECT], version) and has_body:
            self._send_continue()

    def _head_without_upgrade(self) -> bytes:
        """What we read of this request's head, as if no upgrade were offered."""
        parser, fields = self._parser, self._fields
        lines = [
            b"%b: %b" % (FIELD_NAMES[i], v)
            for i, v in enumerate(fields)
            if v is not None and i != UPGRADE
        ]
        lines.append(b"connection: " + (b"keep-alive" if parser.should_keep_alive() else b"close"))
        start = b"%b %b HTTP/%b" % (
            parser.get_method(),
            self._url,
            parser.get_http_version().encode(),
        )
        return b"\r\n".join((start, *lines, b"", b""))

    def _send_continue(self) -> None:
        """Ask for the body, in our turn: behind the answers that are still owed."""
        request = Request(self, b"", b"", b"", NO_FIELDS, b"", keep_alive=True)
        if self._outstanding:
            request.answer = _CONTINUE
            self._outstanding.append(request)
        else:
            self._send(request, _CONTINUE)

    def _new_parser(self) -> httptools.HttpRequestParser:
        return httptools.HttpRequestParser(_Surplus(self) if self._surplus else self)

    def is_vital(self) -> bool:
        """Whether what is asked for is answered even if there is no room."""
        return self._url.partition(b"?")[0] in self._hub.vital

    def _as_refusal(self, error: httptools.HttpParserError, data: bytes) -> Refused:
        if isinstance(error, httptools.HttpParserCallbackError):
            cause = error.__context__
            if isinstance(cause, Refused):
                return cause
            if isinstance(cause, Exception):
                self._hub.report(f"{self._url!r}", cause)
            return Refused(500, "The server failed on this request.")
        # In what is no request, what was read of it is not to be trusted.
        self._url = b""
        return refusal_of(error, data)


class _Surplus:
    """What the parser of a connection past the limit calls: only vital requests get through."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.on_message_begin = connection.on_message_begin
        self.on_url = connection.on_url
        self.on_header = connection.on_header
        self.on_body = connection.on_body
        self.on_message_complete = connection.on_message_complete

    def on_headers_complete(self) -> None:
        if not self._connection.is_vital():
            raise Refused(503, "Too many connections.", b"Retry-After: 1\r\n")
        self._connection.on_headers_complete()


def _plain_address(address: str) -> str:
    """Without an IPv6 scope; an IPv4 client of a socket for both families as the IPv4 it is."""
    address = address.partition("%")[0]
    return address.removeprefix("::ffff:") if "." in address else address
