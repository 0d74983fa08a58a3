"""How much of anything one client may use.

Every number here bounds a buffer, a queue or a wait that a client controls; nothing the protocol
keeps grows without one of them. The byte limit of the head bounds the number of header lines too
(a line takes four bytes at least), so that there is no second counter on the hot path: *measured*, a
head of 64 KiB of the shortest lines costs no more time than the same bytes sent as requests.

Must not know: configuration, sockets.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds, counts per worker process."""

    max_url: int = 16 * 1024
    max_head: int = 64 * 1024
    max_body: int = 64 * 1024
    max_connections: int = 20_000
    # What all connections together may have sent of messages that are not complete, or not have read of
    # their answers. One connection alone is bounded by the limits above, which is not enough for ten
    # thousand of them: 64 KiB of header each are 640 MB.
    max_held: int = 256 << 20
    # Answers that one connection may have outstanding before we stop reading from it.
    max_pipelined: int = 64
    head_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    idle_timeout_s: float = 75.0
    send_timeout_s: float = 30.0
    # After an error answer the rest of what the client sends is read and thrown away for this long:
    # closing at once would reset the connection, and the reset can overtake the answer (RFC 9112, 9.6).
    linger_s: float = 2.0

    @property
    def max_surplus(self) -> int:
        """Connections past `max_connections` that are read from, so that a full worker can say so."""
        return max(16, self.max_connections // 50)
