"""Who is alive, who is late, who is to be started next: the master's bookkeeping.

Everything here is a decision, nothing an act. The master reports what happened (started, ready,
retired, gone) with the time, and carries out what `plan` answers. So each rule, also the rare ones,
has a test that needs no process and no waiting.

The rules:

* A slot has one current child. During a reload it also has a candidate of the next generation, and
  children that are leaving. The keeper is a slot like the others, without listeners.
* A child that died is replaced at once if it had served for a while, else after a pause that doubles
  from 0.1 s to 10 s. The same goes for one that retires by itself, whose successor starts while it
  still drains.
* If no worker ever becomes ready and every slot has failed `BOOT_ATTEMPTS` times, booting has
  failed. As soon as one slot has served, the others are tried for ever: part of a server is better
  than none.
* A reload goes slot by slot: start the candidate, wait until it is ready, let the old child drain,
  wait until it is gone, next slot. One candidate that dies aborts it; slots that have changed over
  stay changed, since their new child is healthy, and each slot is respawned in its own generation.
* A stop drains the workers first and the keeper when the last of them is gone.

Must not know: `os`, signals, sockets, the clock.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum

# The keeper's slot. Workers count from 0.
KEEPER = -1

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
# A child that served this long was healthy, whatever killed it.
STABLE_AFTER_S = 5.0
# Enough to get past a moment's trouble, few enough to report a broken set-up in under a second.
BOOT_ATTEMPTS = 3


class Phase(Enum):
    """Where a living child stands. One that is gone is not kept."""

    BOOTING = "booting"
    READY = "ready"
    DRAINING = "draining"


@dataclass(slots=True, eq=False)
class Child:
    """A living child."""

    pid: int
    slot: int
    generation: int
    seat: int
    phase: Phase = Phase.BOOTING
    ready_at_s: float = math.inf
    drain_until_s: float = math.inf
    # Why the master killed it, for the log; empty if it did not.
    killed_for: str = ""


@dataclass(slots=True)
class Backoff:
    """Pauses between attempts that keep failing."""

    failures: int = 0
    not_before_s: float = -math.inf

    def failed(self, now_s: float) -> None:
        pause_s = FIRST_PAUSE_S * 2.0 ** min(self.failures, 16)
        self.not_before_s = now_s + min(pause_s, LONGEST_PAUSE_S)
        self.failures += 1

    def cleared(self) -> None:
        self.failures = 0
        self.not_before_s = -math.inf


@dataclass(slots=True, eq=False)
class Slot:
    """One place to be filled for as long as the server lives."""

    number: int
    generation: int
    current: Child | None = None
    candidate: Child | None = None
    leaving: list[Child] = field(default_factory=list)
    backoff: Backoff = field(default_factory=Backoff)


@dataclass(slots=True, frozen=True)
class Start:
    """Fork a child for this slot."""

    slot: int
    generation: int


@dataclass(slots=True, frozen=True)
class Drain:
    """Ask this child to finish what it has and leave."""

    child: Child


@dataclass(slots=True, frozen=True)
class ReloadDone:
    """Every slot runs this generation."""

    generation: int


@dataclass(slots=True, frozen=True)
class ReloadAborted:
    """This slot's candidate failed; slots not yet reached keep their children."""

    generation: int
    slot: int


Action = Start | Drain | ReloadDone | ReloadAborted


@dataclass(slots=True)
class _Reload:
    generation: int
    pending: list[Slot]


class Children:
    """All slots and who is in them."""

    def __init__(self, workers: int, *, drain_timeout_s: float, generation: int = 1) -> None:
        self.drain_timeout_s = drain_timeout_s
        self._excused_until_s = -math.inf
        self._workers = [Slot(number, generation) for number in range(workers)]
        self._keeper = Slot(KEEPER, generation)
        self._slots = [*self._workers, self._keeper]
        self._by_pid: dict[int, Child] = {}
        self._reload: _Reload | None = None
        self._news: list[Action] = []
        self._served = False
        self._stopping = False

    # Questions.

    def __iter__(self) -> Iterator[Child]:
        return iter(list(self._by_pid.values()))

    def __len__(self) -> int:
        return len(self._by_pid)

    @property
    def reloading(self) -> bool:
        return self._reload is not None

    @property
    def generations(self) -> set[int]:
        """Generations a child may still be started in."""
        wanted = {slot.generation for slot in self._slots}
        return wanted | ({self._reload.generation} if self._reload else set())

    @property
    def ready_workers(self) -> int:
        """Slots that serve."""
        return sum(
            slot.current is not None and slot.current.phase is Phase.READY for slot in self._workers
        )

    @property
    def boot_failed(self) -> bool:
        """No worker ever served, and every slot has tried often enough."""
        return not self._served and all(
            slot.backoff.failures >= BOOT_ATTEMPTS for slot in self._workers
        )

    # Events.

    def started(self, start: Start, pid: int, seat: int) -> Child:
        """The master has forked a child for this `Start`."""
        slot = self._slot(start.slot)
        child = Child(pid, start.slot, start.generation, seat)
        self._by_pid[pid] = child
        if start.generation == slot.generation:
            slot.current = child
        else:
            slot.candidate = child
        return child

    def not_started(self, start: Start, now_s: float) -> None:
        """The system refused to fork (no memory, too many processes)."""
        slot = self._slot(start.slot)
        if start.generation == slot.generation:
            slot.backoff.failed(now_s)
        else:
            self._abort_reload(slot)

    def ready(self, child: Child, now_s: float) -> None:
        """The child says that it serves."""
        child.phase = Phase.READY
        child.ready_at_s = now_s
        self._served = self._served or child.slot != KEEPER

    def retired(self, child: Child, now_s: float) -> None:
        """The child says that it drains. If nobody asked it to, its slot needs a successor now."""
        slot = self._slot(child.slot)
        if slot.current is child and not self._stopping:
            slot.leaving.append(child)
            self._vacated(slot, child, now_s)
        self._drains(child, now_s)

    def gone(self, pid: int, now_s: float) -> Child | None:
        """A process has ended; None if it was none of ours."""
        child = self._by_pid.pop(pid, None)
        if child is None:
            return None
        slot = self._slot(child.slot)
        if child is slot.candidate:
            slot.candidate = None
            self._abort_reload(slot)
        elif child is slot.current:
            self._vacated(slot, child, now_s)
        else:
            slot.leaving.remove(child)
        return child

    def excuse(self, until_s: float) -> None:
        """Nobody is late before that: we were held up ourselves and could not hear them."""
        self._excused_until_s = until_s

    def reload(self, generation: int) -> None:
        """Change over to a new generation, slot by slot."""
        assert self._reload is None
        assert not self._stopping
        self._reload = _Reload(generation, list(self._slots))

    def stop(self) -> None:
        """Start nobody any more, let everybody drain."""
        self._stopping = True
        self._reload = None

    # Decisions.

    def plan(self, now_s: float) -> list[Action]:
        """What is to be done now. Carry all of it out, then ask again."""
        actions, self._news = self._news, []
        if self._stopping:
            workers = [child for child in self if child.slot != KEEPER]
            actions += [
                self._drains(child, now_s)
                for child in workers or self
                if child.phase is not Phase.DRAINING
            ]
            return actions
        actions += self._plan_reload(now_s)
        actions += [
            Start(slot.number, slot.generation)
            for slot in self._unfilled()
            if slot.backoff.not_before_s <= now_s
        ]
        return actions

    def late(self, now_s: float, deadline_s: Callable[[Child], float]) -> list[tuple[Child, str]]:
        """Who is to be killed and why; each child is named once."""
        late = []
        for child in self:
            if child.killed_for or self._due(child, deadline_s) > now_s:
                continue
            child.killed_for = {
                Phase.BOOTING: "not ready in time",
                Phase.READY: "no heartbeat",
                Phase.DRAINING: "not drained in time",
            }[child.phase]
            late.append((child, child.killed_for))
        return late

    def wake_at_s(self, deadline_s: Callable[[Child], float]) -> float:
        """When to look again if nothing happens before."""
        deadlines = [self._due(child, deadline_s) for child in self if not child.killed_for]
        starts = [] if self._stopping else [s.backoff.not_before_s for s in self._unfilled()]
        return min([*deadlines, *starts], default=math.inf)

    # Inside.

    def _slot(self, number: int) -> Slot:
        return self._keeper if number == KEEPER else self._workers[number]

    def _unfilled(self) -> list[Slot]:
        """Slots to respawn in. The one a reload is changing over gets its candidate instead."""
        changing = self._reload.pending[0] if self._reload else None
        return [s for s in self._slots if s.current is None and s is not changing]

    def _drains(self, child: Child, now_s: float) -> Drain:
        child.phase = Phase.DRAINING
        child.drain_until_s = min(child.drain_until_s, now_s + self.drain_timeout_s)
        return Drain(child)

    @staticmethod
    def _vacated(slot: Slot, child: Child, now_s: float) -> None:
        slot.current = None
        if now_s - child.ready_at_s >= STABLE_AFTER_S:
            slot.backoff.cleared()
        else:
            slot.backoff.failed(now_s)

    def _due(self, child: Child, deadline_s: Callable[[Child], float]) -> float:
        due_s = child.drain_until_s if child.phase is Phase.DRAINING else deadline_s(child)
        return max(due_s, self._excused_until_s)

    def _abort_reload(self, slot: Slot) -> None:
        if self._reload is not None:
            self._news.append(ReloadAborted(self._reload.generation, slot.number))
            self._reload = None

    def _plan_reload(self, now_s: float) -> list[Action]:
        reload = self._reload
        if reload is None:
            return []
        slot = reload.pending[0]
        if slot.generation != reload.generation:
            if slot.candidate is None:
                return [Start(slot.number, reload.generation)]
            return self._promote(slot, slot.candidate, now_s)
        if slot.leaving:
            return []
        reload.pending.pop(0)
        if reload.pending:
            return self._plan_reload(now_s)
        self._reload = None
        return [ReloadDone(reload.generation)]

    def _promote(self, slot: Slot, candidate: Child, now_s: float) -> list[Action]:
        if candidate.phase is not Phase.READY:
            return []
        old, slot.current, slot.candidate = slot.current, candidate, None
        slot.generation = candidate.generation
        slot.backoff.cleared()
        if old is None:
            return self._plan_reload(now_s)
        slot.leaving.append(old)
        return [self._drains(old, now_s)]
