"""Between the outbox and the journal: when answers may leave.

The journal's write() is waited for; its fdatasync is not, for a disk may take as long as it likes. One
thread is enough: while it is at it the next group gathers, and goes all at once.

Must not know: connections, files.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Protocol

from prefork_ads.events.journal import JournalFailed


class Journaling(Protocol):
    """What is needed of a journal."""

    def write(self) -> None: ...

    def sync(self) -> None: ...


class JournalSafety:
    """The outbox's `Safety`."""

    __slots__ = ("_executor", "_journal", "_loop", "_report", "syncs")

    def __init__(
        self,
        journal: Journaling,
        loop: asyncio.AbstractEventLoop,
        executor: Executor | None,
        report: Callable[[str], None],
    ) -> None:
        """With an executor answers wait until their events are on the disk."""
        self._journal = journal
        self._loop = loop
        self._executor = executor
        self._report = report
        self.syncs = executor is not None

    def write(self) -> bool:
        """Keep the events of this tick. The journal reports why not, once."""
        try:
            self._journal.write()
        except JournalFailed:
            return False
        except Exception as error:  # noqa: BLE001 - no answer may leave whose event is not kept
            self._report(f"journal: {error!r}")
            return False
        return True

    def sync(self, done: Callable[[bool], None]) -> None:
        """Sync in the thread, and say whether it worked."""

        def ended(syncing: "asyncio.Future[None]") -> None:
            # Whatever went wrong, nobody may be told that all is well, nor wait for ever.
            error = None if syncing.cancelled() else syncing.exception()
            if error is not None:
                self._report(f"journal: {error}")
            done(error is None and not syncing.cancelled())

        try:
            syncing = self._loop.run_in_executor(self._executor, self._journal.sync)
        except RuntimeError as error:
            # No thread to be had.
            self._report(f"journal: {error}")
            self._loop.call_soon(done, False)
        else:
            syncing.add_done_callback(ended)
