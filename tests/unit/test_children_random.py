"""The master's bookkeeping under whatever happens, in whatever order.

A small world carries out what is planned and lets random things happen to it. At every step the plan has
to come to an end and to keep its promises; and once nothing bad happens any more, everything comes to rest
with as many workers as wanted.
"""

import math
from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st

from prefork_ads.process.children import LINGER_S, Children
from prefork_ads.process.slots import (
    KEEPER,
    LONGEST_PAUSE_S,
    STABLE_AFTER_S,
    Action,
    Cause,
    Child,
    Close,
    Drain,
    Open,
    Phase,
    ReloadAborted,
    ReloadDone,
    Start,
)

ROOM: Final = 5
MOST_ACTIONS: Final = 200


class World:
    """Processes and listeners that do as they are told, or as they please."""

    def __init__(self, workers: int) -> None:
        self.children = Children(workers, drain_timeout_s=30.0, room=ROOM)
        self.now_s = 100.0
        self.listeners = workers
        self.generation = 1
        self.queues: set[int] = set()
        self.refuses = False
        self._next_pid = 1

    def go_on(self) -> None:
        """Kill who is late, and carry out what is planned until nothing is."""
        for late, _ in self.children.late(self.now_s, lambda _: math.inf):
            self.dies(late)
        for _ in range(MOST_ACTIONS):
            actions = self.children.plan(self.now_s)
            self.look()
            for action in actions:
                self.carry_out(action)
            if not actions:
                return
        raise AssertionError("the plan never comes to an end")

    def carry_out(self, action: Action) -> None:
        match action:
            case Start() if self.refuses:
                self.children.not_started(action, self.now_s)
            case Start(slot):
                assert KEEPER <= slot < self.listeners
                self._next_pid += 1
                self.children.started(action, self._next_pid, seat=0)
            case Drain(child):
                assert child in list(self.children)
            case Open(slot):
                assert slot == self.listeners
                if self.refuses:
                    self.children.not_opened()
                else:
                    self.listeners += 1
                    self.children.opened(slot)
            case Close(slot, at_once):
                assert slot == self.listeners - 1, "only the last may be closed"
                assert not [child for child in self.children if child.slot == slot]
                if slot in self.queues and not at_once:
                    self.children.has_queue(slot)
                else:
                    self.queues.discard(slot)
                    self.listeners -= 1
                    self.children.closed(slot)
            case ReloadDone() | ReloadAborted():
                assert not self.children.reloading
            case _:
                pass

    def look(self) -> None:
        open_to = self.children.open_to(self.now_s, lambda _: math.inf)
        assert open_to
        assert max(open_to) < self.children.wanted
        assert 1 <= self.children.wanted <= ROOM
        for slot in range(KEEPER, self.listeners):
            living = [c for c in self.children if c.slot == slot and c.phase is not Phase.DRAINING]
            assert len(living) <= 2, "one and its successor"

    def nth(self, number: int) -> Child | None:
        living = list(self.children)
        return living[number % len(living)] if living else None

    # What may happen.

    def becomes_ready(self, child: Child) -> None:
        if child.phase is Phase.BOOTING:
            self.children.ready(child, self.now_s)
            if child.slot != KEEPER:
                self.queues.discard(child.slot)

    def dies(self, child: Child) -> None:
        self.children.gone(child.pid, self.now_s, Cause.SIGNAL)

    def retires(self, child: Child) -> None:
        if child.phase is Phase.READY:
            self.children.retired(child, self.now_s)

    def wants_successor(self, child: Child) -> None:
        if child.slot != KEEPER:
            self.children.recycle(child, "--max-requests")

    def reloads(self) -> None:
        if not self.children.reloading:
            self.generation += 1
            self.children.reload(self.generation)

    def settle(self) -> None:
        """Nothing bad happens any more: children boot, those who drain leave, time passes."""
        self.refuses = False
        for _ in range(100):
            self.go_on()
            for child in self.children:
                if child.phase is Phase.DRAINING:
                    self.dies(child)
                else:
                    self.becomes_ready(child)
            self.now_s += max(STABLE_AFTER_S, LONGEST_PAUSE_S, LINGER_S)
        self.go_on()


HAPPENINGS: Final = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *("ready", "ready", "dies", "retires", "wants", "more", "fewer"),
                *("reload", "time", "queue", "refuse"),
            ]
        ),
        st.integers(0, 20),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(workers=st.integers(1, 3), happenings=HAPPENINGS)
def test_whatever_happens_it_keeps_its_promises_and_comes_to_rest(
    workers: int, happenings: list[tuple[str, int]]
) -> None:
    world = World(workers)
    world.go_on()
    for what, number in happenings:
        happen(world, what, number)
        world.go_on()
        assert world.children.wake_at_s(lambda _: math.inf) > world.now_s, "it would never sleep"
    world.settle()
    children = world.children
    assert world.listeners == children.wanted
    assert children.all_ready
    assert not children.reloading
    assert children.crash_looping == 0
    assert len(children) == children.wanted + 1, "workers and the keeper, and nobody else"
    assert children.open_to(world.now_s, lambda _: math.inf) == set(range(children.wanted))


def happen(world: World, what: str, number: int) -> None:
    child = world.nth(number)
    match what:
        case "ready" if child:
            world.becomes_ready(child)
        case "dies" if child:
            world.dies(child)
        case "retires" if child:
            world.retires(child)
        case "wants" if child:
            world.wants_successor(child)
        case "more":
            world.children.resize(+1)
        case "fewer":
            world.children.resize(-1)
        case "reload":
            world.reloads()
        case "time":
            world.now_s += number / 2
        case "queue":
            world.queues.add(number % ROOM)
        case "refuse":
            world.refuses = not world.refuses
        case _:
            pass
