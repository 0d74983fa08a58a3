"""aiopg's connection, which minds its descriptor: it lets go of it once, and any number will do.

What shaped it, in aiopg 1.4:

- Each `close()` takes the descriptor's number out of the loop, also the second one, when the number may be a
  client's by now (uvloop raises RuntimeError: seen once in hours of faults, where it ended a writer) or that
  of another connection to PostgreSQL, which is deaf from then on. A second one is common: aiopg closes by
  itself when time is up or somebody is cancelled, so does who looks for dead connections, and so does the
  owner in the end, some rounds of the loop later.
- When a connection has ended, aiopg asks select(2) whether the descriptor still is one, and select() refuses
  numbers from 1024 up: a worker with a thousand clients has those. The error went to the loop, and nobody
  heard of the end. *Measured*: a statement whose backend was terminated lasted its whole limit of 15 s, not
  0.1 s, and the number stayed in the loop with nobody behind it.

Must not know: what a connection is for.
"""

import contextlib
import weakref
from typing import Any, Final

import aiopg
import psycopg2

# What psycopg2 says of a connection that was closed; one that is broken is not, yet.
_CLOSED: Final = 1


class Connection(aiopg.Connection):
    """As `aiopg.connect` makes them; await one to have it connected."""

    @staticmethod
    def _ready(weak_self: "weakref.ref[Any]") -> None:
        try:
            aiopg.Connection._ready(weak_self)
        except ValueError as error:
            # Raised by select() while aiopg was handling what we are looking for.
            connection, reason = weak_self(), error.__context__
            if connection is None or not isinstance(reason, psycopg2.Error):
                raise
            connection._has_ended(reason)

    def _has_ended(self, reason: psycopg2.Error) -> None:
        """Leave the loop, whether or not libpq has closed the descriptor, and say so to who waits."""
        number, self._fileno = self._fileno, None
        if number is not None:
            with contextlib.suppress(OSError):
                self._loop.remove_reader(number)
                if self._writing:
                    self._loop.remove_writer(number)
        self._writing = False
        self._notifies_proxy.close(reason)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(reason)

    def _close(self) -> None:
        if self._conn.closed != _CLOSED:
            super()._close()
