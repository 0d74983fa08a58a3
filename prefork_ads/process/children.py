"""Who is alive, who is late, who is to be started next: the master's bookkeeping.

Everything here is a decision, nothing an act. The master reports what happened (started, ready,
retired, gone) with the time, and carries out what `plan` answers. So each rule, also the rare ones,
has a test that needs no process and no waiting.

The rules:

* A slot has one current child. While it changes over it also has a candidate, and children that are
  leaving. The keeper is a slot like the others, without listeners.
* A child that died is replaced at once if it had served for a while, else after a pause that doubles
  from 0.1 s to 10 s. The same goes for one that retires by itself, whose successor starts while it
  still drains.
* A slot whose children died early `CRASH_LOOP_FAILURES` times in a row is crash-looping: it is tried
  for ever, but gets no new connections until a child has lasted.
* If no worker ever becomes ready and every slot has failed `BOOT_ATTEMPTS` times, booting has
  failed. As soon as one slot has served, the others are tried for ever: part of a server is better
  than none.
* A reload goes slot by slot: start the candidate, wait until it is ready, let the old child drain,
  wait until it is gone, next slot. One candidate that dies aborts it; slots that have changed over
  stay changed, since their new child is healthy, and each slot is respawned in its own generation.
* A child that wants to be recycled gets its successor in the same way, in its own generation. Never
  two at a time, and not during a reload, which replaces everybody anyway. A successor that dies
  leaves the old child in service, and is tried again after a pause.
* Slots are added and removed at the end of the row only: the kernel keeps the listeners of a port in
  a row, too, and closing one in the middle would move the last into its place.
* A slot that is to go gets no new connections, then its children drain, then, `LINGER_S` after it
  was given up, its listener is closed. If somebody still waits in its queue (whoever got there
  while its child was hung, or took that long to shake hands) a child is started for them first. One
  that is wanted again before that simply stays.
* A stop drains the workers first and the keeper when the last of them is gone.

Must not know: `os`, signals, sockets, the clock.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prefork_ads.process.slots import (
    KEEPER,
    STABLE_AFTER_S,
    Action,
    Cause,
    Child,
    Close,
    CrashLooping,
    Drain,
    Open,
    Phase,
    Recovered,
    RecycleFailed,
    ReloadAborted,
    ReloadDone,
    Slot,
    Start,
)

# Enough to get past a moment's trouble, few enough to report a broken set-up in under a second.
BOOT_ATTEMPTS = 3
# Reached about two seconds after the first death, pauses included.
CRASH_LOOP_FAILURES = 5
# How long the listener of a slot that is to go stays open after nothing new is steered to it. A
# handshake under way takes the client's round trip, and a second more if its last packet is lost.
LINGER_S = 1.5
# How soon to look again at a child that has fallen silent.
LOOK_AGAIN_S = 0.25

# When something is due, on the master's clock.
DueS = Callable[[Child], float]


@dataclass(slots=True)
class _Reload:
    generation: int
    pending: list[Slot]


class Children:
    """All slots and who is in them."""

    def __init__(
        self, workers: int, *, drain_timeout_s: float, room: int = 128, generation: int = 1
    ) -> None:
        self.drain_timeout_s = drain_timeout_s
        # How many workers there are to be.
        self.wanted = workers
        # How often a slot needed another child, and why.
        self.respawns: Counter[Cause] = Counter()
        # How many there may be.
        self.room = max(room, workers)
        self._excused_until_s = -math.inf
        self._workers = [Slot(number, generation) for number in range(workers)]
        self._keeper = Slot(KEEPER, generation)
        self._by_pid: dict[int, Child] = {}
        self._reload: _Reload | None = None
        self._recycling: Slot | None = None
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
        """Slots that serve and are to stay."""
        return sum(
            slot.current is not None and slot.current.phase is Phase.READY
            for slot in self._workers
            if not slot.removing
        )

    @property
    def all_ready(self) -> bool:
        """As many serve as there are to be."""
        return self.ready_workers >= self.wanted

    @property
    def serving(self) -> frozenset[int]:
        """The slots whose worker is ready."""
        return frozenset(
            slot.number
            for slot in self._workers
            if slot.current is not None and slot.current.phase is Phase.READY
        )

    @property
    def crash_looping(self) -> int:
        """Slots that keep failing."""
        return sum(slot.crash_looping for slot in self._slots)

    @property
    def boot_failed(self) -> bool:
        """No worker ever served, and every slot has tried often enough."""
        return not self._served and all(
            slot.backoff.failures >= BOOT_ATTEMPTS for slot in self._workers if not slot.removing
        )

    def incumbents(self, start: Start) -> list[Child]:
        """Those whom the child of this `Start` must not be worse than: nobody, unless it is a candidate.

        Of a slot without a worker that serves they are the others: a reload goes on with them.
        """
        if not start.gated or start.slot == KEEPER:
            return []
        serving = [
            slot.current
            for slot in self._workers
            if slot.current is not None and slot.current.phase is Phase.READY
        ]
        return [child for child in serving if child.slot == start.slot] or serving

    def open_to(self, now_s: float, silent_at_s: DueS) -> frozenset[int]:
        """The slots that new connections are to go to.

        If no slot is fit for them, all are that stay: somebody will come back and find them in the
        queue.
        """
        staying = [slot for slot in self._workers if not slot.removing]
        fit = [slot for slot in staying if self._fit(slot, now_s, silent_at_s)]
        return frozenset(slot.number for slot in fit or staying)

    # Events.

    def started(self, start: Start, pid: int, seat: int) -> Child:
        """The master has forked a child for this `Start`."""
        slot = self._slot(start.slot)
        child = Child(pid, start.slot, start.generation, seat)
        self._by_pid[pid] = child
        if start.gated:
            slot.candidate = child
        else:
            slot.current = child
        return child

    def not_started(self, start: Start, now_s: float) -> None:
        """The system refused to fork (no memory, too many processes)."""
        slot = self._slot(start.slot)
        if start.gated:
            self._candidate_failed(slot, now_s)
        else:
            self._failed(slot, now_s)

    def ready(self, child: Child, now_s: float) -> None:
        """The child says that it serves."""
        child.phase = Phase.READY
        child.ready_at_s = now_s
        self._served = self._served or child.slot != KEEPER

    def recycle(self, child: Child, reason: str) -> None:
        """The child has served enough and wants a successor."""
        child.recycle_for = reason

    def retired(self, child: Child, now_s: float) -> None:
        """The child says that it drains. If nobody asked it to, its slot needs a successor now."""
        slot = self._slot(child.slot)
        if slot.current is child and not self._stopping:
            slot.leaving.append(child)
            self._vacated(slot, child, now_s, Cause.RETIRED)
        self._drains(child, now_s)

    def gone(self, pid: int, now_s: float, cause: Cause = Cause.EXIT) -> Child | None:
        """A process has ended; None if it was none of ours."""
        child = self._by_pid.pop(pid, None)
        if child is None:
            return None
        slot = self._slot(child.slot)
        if child is slot.candidate:
            slot.candidate = None
            self._candidate_failed(slot, now_s)
        elif child is slot.current:
            self._vacated(slot, child, now_s, cause)
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
        staying = [slot for slot in self._slots if not slot.removing]
        self._reload = _Reload(generation, staying)

    def resize(self, by: int) -> bool:
        """One worker more or fewer; False if there can be no more or no fewer."""
        wanted = self.wanted + by
        if not 1 <= wanted <= self.room:
            return False
        self.wanted = wanted
        return True

    def opened(self, number: int) -> None:
        """There is a listener for this slot, the next one."""
        assert number == len(self._workers)
        slot = Slot(number, self._proven_generation())
        self._workers.append(slot)
        self._join_reload(slot)

    def not_opened(self) -> None:
        """There cannot be one more listener."""
        self.wanted = len(self._workers)

    def closed(self, number: int) -> None:
        """The listener of this slot, the last one, is closed."""
        slot = self._workers.pop()
        assert slot.number == number
        assert slot.empty

    def has_queue(self, number: int) -> None:
        """Somebody waits in the queue of this slot, which is to go."""
        self._slot(number).has_queue = True

    def stop(self) -> None:
        """Start nobody any more, let everybody drain."""
        self._stopping = True
        self._reload = None
        self._recycling = None

    def resume(self) -> None:
        """No stop after all. Who was asked to leave does, and has a successor at once."""
        self._stopping = False
        for slot in self._slots:
            if slot.candidate is not None and slot.candidate.phase is Phase.DRAINING:
                slot.leaving.append(slot.candidate)
                slot.candidate = None
            if slot.current is not None and slot.current.phase is Phase.DRAINING:
                slot.leaving.append(slot.current)
                slot.current = None
                slot.backoff.cleared()

    # Decisions.

    def plan(self, now_s: float) -> list[Action]:
        """What is to be done now. Carry all of it out, then ask again."""
        self._note_recoveries(now_s)
        actions, self._news = self._news, []
        if self._stopping:
            workers = [child for child in self if child.slot != KEEPER]
            actions += self._drain_all(workers or self, now_s)
            return actions
        actions += self._plan_size(now_s)
        actions += self._plan_reload(now_s)
        actions += self._plan_recycling(now_s)
        actions += [
            Start(slot.number, slot.generation)
            for slot in self._unfilled()
            if slot.backoff.not_before_s <= now_s
        ]
        return actions

    def late(self, now_s: float, deadline_s: DueS) -> list[tuple[Child, str]]:
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

    def wake_at_s(self, deadline_s: DueS) -> float:
        """When to look again if nothing happens before."""
        due = [self._due(child, deadline_s) for child in self if not child.killed_for]
        if not self._stopping:
            due += [slot.backoff.not_before_s for slot in self._unfilled()]
            due += [slot.backoff.not_before_s for slot in self._wanting_successors()]
            due += [self._lasted_at_s(slot) for slot in self._slots if slot.crash_looping]
            if (top := self._workers[-1]).removing and top.empty and not top.has_queue:
                due.append(top.removed_at_s + LINGER_S)
        return min(due, default=math.inf)

    def look_at_s(self, now_s: float, silent_at_s: DueS) -> float:
        """When to ask `open_to` again if nothing happens before."""
        due = (
            max(silent_at_s(slot.current), self._excused_until_s)
            for slot in self._workers
            if slot.current is not None and slot.current.phase is Phase.READY and not slot.removing
        )
        return min(
            (at_s if at_s > now_s else now_s + LOOK_AGAIN_S for at_s in due), default=math.inf
        )

    # Slots.

    @property
    def _slots(self) -> list[Slot]:
        return [*self._workers, self._keeper]

    def _slot(self, number: int) -> Slot:
        return self._keeper if number == KEEPER else self._workers[number]

    def _unfilled(self) -> list[Slot]:
        """Slots to respawn in. One that changes over gets its candidate instead."""
        changing = self._changing()
        return [
            slot
            for slot in self._slots
            if slot.current is None
            and slot.candidate is None
            and slot is not changing
            and (slot.has_queue or not slot.removing)
        ]

    def _changing(self) -> Slot | None:
        """The slot that a reload is at, until it has changed over."""
        if self._reload is None or self._recycling is not None or not self._reload.pending:
            return None
        slot = self._reload.pending[0]
        return slot if slot.generation != self._reload.generation else None

    def _fit(self, slot: Slot, now_s: float, silent_at_s: DueS) -> bool:
        child = slot.current
        return (
            child is not None
            and child.phase is Phase.READY
            and not child.killed_for
            and not slot.crash_looping
            and max(silent_at_s(child), self._excused_until_s) > now_s
        )

    # Ends of children.

    def _drains(self, child: Child, now_s: float) -> Drain:
        child.phase = Phase.DRAINING
        child.drain_until_s = min(child.drain_until_s, now_s + self.drain_timeout_s)
        return Drain(child)

    def _drain_all(self, children: Iterable[Child], now_s: float) -> list[Action]:
        return [
            self._drains(child, now_s) for child in children if child.phase is not Phase.DRAINING
        ]

    def _vacated(self, slot: Slot, child: Child, now_s: float, cause: Cause) -> None:
        slot.current = None
        if self._stopping:
            return
        self.respawns[cause] += 1
        if now_s - child.ready_at_s >= STABLE_AFTER_S:
            slot.backoff.cleared()
        else:
            self._failed(slot, now_s)

    def _failed(self, slot: Slot, now_s: float) -> None:
        slot.backoff.failed(now_s)
        if slot.backoff.failures >= CRASH_LOOP_FAILURES and not slot.crash_looping:
            slot.crash_looping = True
            self._news.append(CrashLooping(slot.number, slot.backoff.failures))

    def _lasted_at_s(self, slot: Slot) -> float:
        """When the child of a crash-looping slot has lasted long enough to be trusted."""
        return math.inf if slot.current is None else slot.current.ready_at_s + STABLE_AFTER_S

    def _note_recoveries(self, now_s: float) -> None:
        for slot in self._slots:
            if slot.crash_looping and self._lasted_at_s(slot) <= now_s:
                slot.crash_looping = False
                slot.backoff.cleared()
                self._news.append(Recovered(slot.number))

    def _due(self, child: Child, deadline_s: DueS) -> float:
        due_s = child.drain_until_s if child.phase is Phase.DRAINING else deadline_s(child)
        return max(due_s, self._excused_until_s)

    # Changing over: a reload, and recycling.

    def _plan_reload(self, now_s: float) -> list[Action]:
        reload = self._reload
        if reload is None or self._recycling is not None:
            return []
        while reload.pending:
            slot = reload.pending[0]
            if slot.generation != reload.generation:
                actions = self._change_over(slot, reload.generation, now_s)
                if actions or slot.candidate is not None:
                    return actions
            if slot.leaving:
                return []
            reload.pending.pop(0)
        self._reload = None
        return [ReloadDone(reload.generation)]

    def _plan_recycling(self, now_s: float) -> list[Action]:
        slot = self._recycling
        if slot is not None:
            if slot.candidate is not None:
                self.respawns[Cause.RECYCLED] += slot.candidate.phase is Phase.READY
                actions = self._change_over(slot, slot.generation, now_s)
                if actions or slot.candidate is not None:
                    return actions
            if slot.leaving:
                return []
            self._recycling = None
            # It may have waited for this.
            if actions := self._plan_reload(now_s):
                return actions
        due = (s for s in self._wanting_successors() if s.backoff.not_before_s <= now_s)
        self._recycling = slot = next(due, None)
        return [] if slot is None else self._change_over(slot, slot.generation, now_s)

    def _change_over(self, slot: Slot, generation: int, now_s: float) -> list[Action]:
        """To a candidate, once it is ready; the slot may have been empty, then there is nothing to do."""
        candidate = slot.candidate
        if candidate is None:
            return [Start(slot.number, generation, gated=True)]
        if candidate.phase is not Phase.READY:
            return []
        old, slot.current, slot.candidate = slot.current, candidate, None
        slot.generation = candidate.generation
        slot.backoff.cleared()
        if old is None:
            return []
        slot.leaving.append(old)
        return [self._drains(old, now_s)]

    def _wanting_successors(self) -> list[Slot]:
        """Slots whose child wants to be recycled, if now is a time for that."""
        if self._reload is not None or self._recycling is not None:
            return []
        return [
            slot
            for slot in self._workers
            if slot.current is not None
            and slot.current.recycle_for
            and slot.current.phase is Phase.READY
            and not slot.removing
        ]

    def _candidate_failed(self, slot: Slot, now_s: float) -> None:
        if slot is self._recycling:
            self._recycling = None
            slot.backoff.failed(now_s)
            self._news.append(RecycleFailed(slot.number))
        elif self._reload is not None:
            self._news.append(ReloadAborted(self._reload.generation, slot.number))
            self._reload = None

    # More and fewer slots.

    def _plan_size(self, now_s: float) -> list[Action]:
        actions: list[Action] = []
        for slot in self._workers[: self.wanted]:
            if slot.removing:
                self._keep(slot)
        for slot in self._workers[self.wanted :]:
            actions += self._remove(slot, now_s)
        if self.wanted > len(self._workers):
            actions.append(Open(len(self._workers)))
        top = self._workers[-1]
        if top.removing and top.empty and now_s >= top.removed_at_s + LINGER_S:
            given_up = top.crash_looping
            if given_up or not top.has_queue:
                actions.append(Close(top.number, at_once=given_up))
        return actions

    def _remove(self, slot: Slot, now_s: float) -> list[Action]:
        """Let everybody in it drain; also whoever was started for its queue, once it is ready."""
        if not slot.removing:
            slot.removed_at_s = now_s
            if self._reload is not None and slot in self._reload.pending:
                self._reload.pending.remove(slot)
            if slot is self._recycling:
                self._recycling = None
        if slot.has_queue:
            if slot.current is None or slot.current.phase is Phase.BOOTING:
                return []
            slot.has_queue = False
        going = [child for child in (slot.current, slot.candidate) if child is not None]
        slot.current = slot.candidate = None
        slot.leaving += going
        return self._drain_all(going, now_s)

    def _keep(self, slot: Slot) -> None:
        """It was to go and is wanted again: whoever left is replaced, the listener is still there."""
        slot.removed_at_s = math.inf
        slot.has_queue = False
        if slot.current is None:
            slot.generation = self._proven_generation()
        # Also with a child, one that was started for its queue before the reload began.
        self._join_reload(slot)

    def _proven_generation(self) -> int:
        """The newest one that a slot has changed over to, or all began with."""
        return max(slot.generation for slot in self._workers)

    def _join_reload(self, slot: Slot) -> None:
        reload = self._reload
        if reload is not None and slot.generation != reload.generation:
            reload.pending.append(slot)
