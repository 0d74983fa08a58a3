"""When answers may leave: what the outbox is told of a journal's write and of its sync in a thread."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import pytest

from prefork_ads.events.journal import JournalFailed
from prefork_ads.process.safety import JournalSafety


class Books:
    """A journal that does what a test says."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.synced_in: threading.Thread | None = None

    def write(self) -> None:
        if self.error is not None:
            raise self.error

    def sync(self) -> None:
        self.synced_in = threading.current_thread()
        self.write()


def sync(books: Books, executor: Executor, said: list[str]) -> bool:
    async def ask() -> bool:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bool] = loop.create_future()
        safety = JournalSafety(books, loop, executor, said.append)
        assert safety.syncs
        safety.sync(answer.set_result)
        assert not answer.done(), "said before anybody could know"
        return await answer

    return asyncio.run(ask())


def test_a_write_is_waited_for() -> None:
    loop = asyncio.new_event_loop()
    said: list[str] = []
    assert JournalSafety(Books(), loop, None, said.append).write()
    failing = JournalSafety(Books(JournalFailed("disk full")), loop, None, said.append)
    assert not failing.write()
    assert not failing.syncs
    # The journal has said so itself.
    assert said == []
    assert not JournalSafety(Books(ValueError("a bug")), loop, None, said.append).write()
    assert said == ["journal: ValueError('a bug')"]
    loop.close()


def test_a_sync_is_done_in_a_thread() -> None:
    books, said = Books(), list[str]()
    with ThreadPoolExecutor(1) as executor:
        assert sync(books, executor, said)
    assert books.synced_in is not threading.main_thread()
    assert said == []


@pytest.mark.parametrize("error", [JournalFailed("bad disk"), ValueError("a bug")])
def test_whatever_goes_wrong_nothing_is_safe(error: Exception) -> None:
    said: list[str] = []
    with ThreadPoolExecutor(1) as executor:
        assert not sync(Books(error), executor, said)
    assert said == [f"journal: {error}"]


class Cancelling(Executor):
    """Its work is cancelled, as when a pool is shut down with work waiting."""

    def submit(self, work: Callable[..., object], /, *_: object, **__: object) -> Future[object]:  # type: ignore[override]
        future: Future[object] = Future()
        future.cancel()
        return future


def test_a_sync_that_is_cancelled_is_none() -> None:
    assert not sync(Books(), Cancelling(), [])
