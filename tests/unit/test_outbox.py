"""The end of a tick: events first, then answers, each once."""

from collections.abc import Callable

from prefork_ads.http.outbox import Outbox


class Loop:
    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []

    def tick(self) -> int:
        scheduled, self.soon[:] = self.soon[:], []
        for callback in scheduled:
            callback()
        return len(scheduled)


class Recorder:
    def __init__(self, name: str, said: list[str]) -> None:
        self._name = name
        self._said = said
        self.then: Callable[[], None] | None = None

    def flush(self) -> None:
        self._said.append(self._name)
        if self.then is not None:
            self.then()


def test_one_callback_for_all_of_a_tick() -> None:
    loop, said = Loop(), list[str]()
    outbox = Outbox(loop.soon.append, lambda: said.append("safe"))
    outbox.add(Recorder("a", said))
    outbox.add(Recorder("b", said))
    assert said == []
    assert loop.tick() == 1
    assert said == ["safe", "a", "b"]
    assert loop.tick() == 0


def test_what_is_added_while_flushing_goes_with_the_next_tick() -> None:
    loop, said = Loop(), list[str]()
    outbox = Outbox(loop.soon.append, lambda: said.append("safe"))
    first, second = Recorder("a", said), Recorder("b", said)
    first.then = lambda: outbox.add(second)
    outbox.add(first)
    loop.tick()
    assert said == ["safe", "a"]
    loop.tick()
    assert said == ["safe", "a", "safe", "b"]


def test_a_flush_of_its_own_accord() -> None:
    """As a worker does before it stops; the callback that is under way then finds nothing."""
    loop, said = Loop(), list[str]()
    outbox = Outbox(loop.soon.append)
    outbox.flush()
    outbox.add(Recorder("a", said))
    outbox.flush()
    loop.tick()
    assert said == ["a"]
    outbox.add(Recorder("b", said))
    loop.tick()
    assert said == ["a", "b"]
