"""Heads that were read before: what is behind the first line of a request, and the fields that were in it.

A client that asks again sends the same fields again: a browser its own, and from one site the same Referer.
What httptools and `rules` made of these bytes they would make of them again, for nothing they remember of one
message changes what they make of the next. So the bytes are looked up first. *Measured*, 14 fields of
a browser in 700 bytes: 8 µs from the read to the handler, 3 if they are known, and 1.5 to look for in vain.

- Only what came whole in one read, ended there and had no body is remembered, and only from a connection
  that goes on: nothing whose meaning reaches beyond its own bytes. Method and target are not part of it:
  what goes with a head that is known is a GET for a path (`target_of`), and all else is read as ever.
- A head is remembered when it comes for the second time: most of those that come once never come again, and
  would push others out of the processor's caches.
- Where fewer than one in three is known, looking costs more than it saves. Then one in eight, by chance, is
  looked for, to see whether that has changed.
- Whoever teaches this table speaks for all who send the same bytes: that they begin where the first line ends
  must be beyond doubt. llhttp takes `GET /` and a bare LF for a line of HTTP/0.9, with a header behind it.
- Clients choose what is in the tables. They are bounded in heads and in bytes, and emptied when full, as the
  others that clients fill: what comes again is soon back.
- The fields are shared by all requests that had them, and are not to be changed.

Must not know: connections, the parser, what any field means.
"""

import random
from collections.abc import Callable
from typing import Final

Fields = list[bytes | None]

# Of one process, whichever is reached first: all in all at most some 16 MiB.
MAX_REMEMBERED: Final = 8192
MAX_BYTES: Final = 4 << 20
# Reads that are longer are not looked up.
MAX_REMEMBERED_BYTES: Final = 2048
# Heads that came once. Only their hashes are kept: to take one for another's costs nothing.
MAX_MET: Final = 2 * MAX_REMEMBERED
# So many more were looked for in vain than found, where finding one makes up for _WORTH in vain.
DOUBTS: Final = 64
_WORTH: Final = 2
_TRIED: Final = 1 / 8

_METHOD: Final = b"GET "
_VERSION: Final = b" HTTP/1.1"
_BLANK: Final = b"\r\n\r\n"
# What may be in a target: all that llhttp takes, but for the one character that makes it no path.
_IN_TARGET: Final = bytes(code for code in range(0x21, 0x7F) if code != ord("#"))


class Heads:
    """The table of one process."""

    __slots__ = ("_bytes", "_chance", "_known", "_met", "find", "in_vain")

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        """`chance` draws from 0 to 1."""
        self._known: dict[bytes, Fields] = {}
        # From the bytes behind the first line, with the line end that ends it. The dictionary's own method:
        # one of ours in front of it would cost a tenth of what is saved.
        self.find = self._known.get
        self._bytes = 0
        self._met: set[int] = set()
        self._chance = chance
        self.in_vain = 0
        """How many more were looked for in vain than found, these by their worth; at most DOUBTS."""

    def found_one(self) -> None:
        """Looking has saved reading; need not be told while nothing was in vain."""
        self.in_vain = max(0, self.in_vain - _WORTH)

    def found_none(self) -> None:
        """One was looked for in vain."""
        if self.in_vain < DOUBTS:
            self.in_vain += 1

    def is_back(self, head: bytes) -> bool:
        """Whether one that is not known was met before; it is now."""
        mark = hash(head)
        if mark in self._met:
            return True
        if len(self._met) >= MAX_MET:
            self._met.clear()
        self._met.add(mark)
        return False

    def is_passed_by(self) -> bool:
        """When there are DOUBTS: whether the next one is not to be looked for."""
        return self._chance() > _TRIED

    def remember(self, head: bytes, fields: Fields) -> None:
        """`head` was read whole, to its end, and the message that ended it had no body and these fields."""
        if head.find(_BLANK) != len(head) - len(_BLANK):
            # There was more than one message. (llhttp ends a head at a blank line, and takes nothing but CRLF
            # for the end of a line.)
            return
        self._bytes += len(head)
        if len(self._known) >= MAX_REMEMBERED or self._bytes > MAX_BYTES:
            self._known.clear()
            self._bytes = len(head)
        self._known[head] = fields

    def __len__(self) -> int:
        return len(self._known)


def target_of(data: bytes, line_end: int) -> bytes:
    """The target of a request of HTTP/1.1 with this first line, if it is a GET for a path; or nothing."""
    if data[:5] != b"GET /":
        return b""
    target = data[len(_METHOD) : line_end - len(_VERSION)]
    return b"" if target.translate(None, _IN_TARGET) else target
