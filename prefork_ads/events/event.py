"""One logged request as one line of text: what the journal keeps and the writer ships.

    time \t id \t endpoint \t params \t user_agent \t referer \t address \t language

The columns of `request_log` in their order, in the text format of COPY: NULL is `\\N`, and backslash,
tab, newline and carriage return are escaped with a backslash. So a file of lines can be read with
`tail -f` and loaded with `\\copy`, and a batch of lines can be split by PostgreSQL itself. A line is
UTF-8 and ends where the next one begins: whoever joins lines puts the newline.

- Lines are bytes from the start: *measured*, decoding three headers and the JSON, only to encode them
  again, was a tenth of a request's time.
- The time is rendered once a millisecond.
- Header values are kept if they are UTF-8; what is not becomes U+FFFD. White space at their ends is
  not theirs (RFC 9110, 5.5), and llhttp leaves what is behind them. The parser lets no control
  character but the tab through, so a NUL can only come percent-encoded, which `parameters` replaces.
- Parameters are JSON, where a backslash is the only one of the four characters that can occur, so
  doubling it is the whole escape.

Must not know: HTTP, SQL, files.
"""

import time
from collections.abc import Callable

from prefork_ads.events.uuid7 import Uuid7

NULL = b"\\N"

# As numbers: `92 in data` is a memchr, `b"\\" in data` first raises and drops a TypeError (CPython
# tries it as a number), which at ten times a request was a fifth of the whole (*measured*). Counting a
# character is no memchr either: until 3.12 it looks at one byte after the other.
BACKSLASH, TAB, SPACE = b"\\\t "


def header_field(value: bytes | None) -> bytes:
    """A header's value as a field."""
    if value is None:
        return NULL
    value = value.strip(b" \t")
    if not value.isascii():
        value = value.decode(errors="replace").encode()
    if BACKSLASH in value or TAB in value:
        value = value.replace(b"\\", b"\\\\").replace(b"\t", b"\\t")
    return value


class EventClock:
    """The time as text, and ids for it."""

    __slots__ = ("_clock", "_ids", "_milliseconds", "_second", "_second_text", "_text")

    def __init__(self, ids: Uuid7, clock: Callable[[], int] = time.time_ns) -> None:
        """`clock` tells nanoseconds since 1970."""
        self._ids = ids
        self._clock = clock
        self._milliseconds = -1
        self._second = -1
        self._second_text = ""
        self._text = b""

    def stamp(self) -> bytes:
        """The fields time and id of an event that happens now."""
        milliseconds = self._clock() // 1_000_000
        if milliseconds != self._milliseconds:
            self._render(milliseconds)
        return self._text + self._ids.next(milliseconds)

    def another(self) -> bytes:
        """The same of one more event of the moment that was stamped last."""
        return self._text + self._ids.next(self._milliseconds)

    def now_s(self) -> float:
        """Seconds since 1970."""
        return self._clock() / 1e9

    @property
    def stamped_s(self) -> float:
        """The moment that was stamped last, in seconds since 1970: what the line says, no more exact."""
        return self._milliseconds / 1000

    def _render(self, milliseconds: int) -> None:
        second, rest = divmod(milliseconds, 1000)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(second))
        self._milliseconds = milliseconds
        self._text = f"{self._second_text}.{rest:03d}+00\t".encode()


def line(
    stamp: bytes,
    endpoint: bytes,
    params_json: bytes,
    user_agent: bytes | None,
    referer: bytes | None,
    address: str,
    language: bytes | None,
) -> bytes:
    """The line of one event. `address` is a valid IP address, or "" for none."""
    if BACKSLASH in params_json:
        params_json = params_json.replace(b"\\", b"\\\\")
    if user_agent and referer and language and address:
        # What a browser sends needs no change: a few searches of the whole line and a look at the
        # ends say so.
        text = b"\t".join(
            (stamp, endpoint, params_json, user_agent, referer, address.encode(), language)
        )
        if (
            BACKSLASH not in text
            and text.isascii()
            and user_agent[-1] != SPACE
            and referer[-1] != SPACE
            and language[-1] != SPACE
            and TAB not in user_agent
            and TAB not in referer
            and TAB not in language
        ):
            return text
    return b"\t".join(
        (
            stamp,
            endpoint,
            params_json,
            header_field(user_agent),
            header_field(referer),
            address.encode() or NULL,
            header_field(language),
        )
    )
