"""The master's bookkeeping: what happened goes in, what is to be done comes out, no process needed."""

import math

import pytest

from prefork_ads.process.children import (
    BOOT_ATTEMPTS,
    CRASH_LOOP_FAILURES,
    LINGER_S,
    LOOK_AGAIN_S,
    Children,
)
from prefork_ads.process.slots import (
    FIRST_PAUSE_S,
    KEEPER,
    LONGEST_PAUSE_S,
    STABLE_AFTER_S,
    Action,
    Backoff,
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
    Start,
)

DRAIN_TIMEOUT_S = 30.0


def never(child: Child) -> float:
    """Nobody is ever late, or silent."""
    return math.inf


class House:
    """Children with a clock and a source of pids."""

    def __init__(self, workers: int = 2) -> None:
        self.children = Children(workers, drain_timeout_s=DRAIN_TIMEOUT_S)
        self.now_s = 100.0
        self._next_pid = 1000

    def plan(self) -> list[Action]:
        return self.children.plan(self.now_s)

    def fork(self, start: Action) -> Child:
        assert isinstance(start, Start)
        self._next_pid += 1
        return self.children.started(start, self._next_pid, seat=0)

    def start_all(self) -> list[Child]:
        started = [self.fork(action) for action in self.plan()]
        for child in started:
            self.children.ready(child, self.now_s)
        return started

    def start(self) -> Child:
        """Carry out the one thing that is planned, and let the child become ready."""
        (action,) = self.plan()
        child = self.fork(action)
        self.children.ready(child, self.now_s)
        return child

    def open_to(self, *silent: Child) -> set[int]:
        """Where new connections go while these children have nothing to say."""
        return set(self.children.open_to(self.now_s, lambda c: 0.0 if c in silent else math.inf))

    def grow(self) -> Child:
        """One worker more, from the signal until it is ready."""
        assert self.children.resize(+1)
        (order,) = self.plan()
        assert isinstance(order, Open)
        self.children.opened(order.slot)
        return self.start()

    def gone(self, child: Child) -> None:
        assert self.children.gone(child.pid, self.now_s) is child

    def boot_and_die(self) -> None:
        """Everything that is due starts and dies before it is ready."""
        for action in self.plan():
            if isinstance(action, Start):
                self.gone(self.fork(action))


def slots(actions: list[Action]) -> list[int]:
    return [action.slot for action in actions if isinstance(action, Start)]


def drained(actions: list[Action]) -> list[Child]:
    return [action.child for action in actions if isinstance(action, Drain)]


def test_every_slot_and_the_keeper_are_started_once() -> None:
    house = House(workers=3)
    first = house.plan()
    assert slots(first) == [0, 1, 2, KEEPER]
    for action in first:
        house.fork(action)
    assert house.plan() == []


def test_slots_count_as_serving_once_their_child_is_ready() -> None:
    house = House(workers=2)
    worker, other, keeper = [house.fork(action) for action in house.plan()]
    house.children.ready(keeper, house.now_s)
    assert house.children.ready_workers == 0
    house.children.ready(worker, house.now_s)
    house.children.ready(other, house.now_s)
    assert house.children.ready_workers == 2


def test_a_strange_pid_is_nobody() -> None:
    house = House()
    house.start_all()
    assert house.children.gone(4711, house.now_s) is None
    assert len(house.children) == 3


def test_a_child_that_served_for_a_while_is_replaced_at_once() -> None:
    house = House()
    worker = house.start_all()[0]
    house.now_s += STABLE_AFTER_S
    house.gone(worker)
    assert slots(house.plan()) == [0]


def test_a_child_that_dies_early_is_replaced_after_a_pause() -> None:
    house = House()
    worker = house.start_all()[0]
    house.gone(worker)
    assert house.plan() == []
    wake_at_s = house.children.wake_at_s(lambda _: math.inf)
    assert wake_at_s == pytest.approx(house.now_s + FIRST_PAUSE_S)
    house.now_s = wake_at_s
    assert slots(house.plan()) == [0]


def test_pauses_double_up_to_a_limit_and_are_forgotten_when_cleared() -> None:
    backoff, pauses = Backoff(), []
    for _ in range(9):
        backoff.failed(0.0)
        pauses.append(backoff.not_before_s)
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, LONGEST_PAUSE_S])
    backoff.cleared()
    backoff.failed(0.0)
    assert backoff.not_before_s == pytest.approx(FIRST_PAUSE_S)


def test_a_thousand_failures_do_not_overflow() -> None:
    backoff = Backoff(failures=100_000)
    backoff.failed(7.0)
    assert backoff.not_before_s == pytest.approx(7.0 + LONGEST_PAUSE_S)


def test_pauses_of_one_slot_do_not_hold_up_another() -> None:
    house = House()
    one, other, _ = house.start_all()
    house.gone(one)
    house.now_s += STABLE_AFTER_S
    house.plan()  # starts slot 0, whose child is left booting
    house.gone(other)
    assert 1 in slots(house.plan())


def test_a_child_that_retires_has_a_successor_while_it_drains() -> None:
    house = House()
    worker = house.start_all()[0]
    house.now_s += STABLE_AFTER_S
    house.children.retired(worker, house.now_s)
    assert worker.phase is Phase.DRAINING
    successor = house.start()
    assert successor.slot == 0
    house.gone(worker)
    assert house.plan() == []


def test_a_child_that_retires_again_and_again_does_not_fork_for_ever() -> None:
    house = House()
    worker = house.start_all()[0]
    house.children.retired(worker, house.now_s)
    assert house.plan() == []


def test_a_fork_that_was_refused_is_tried_again_later() -> None:
    house = House(workers=1)
    start = house.plan()[0]
    assert isinstance(start, Start)
    house.children.not_started(start, house.now_s)
    assert slots(house.plan()) == [KEEPER]
    house.now_s += FIRST_PAUSE_S
    assert 0 in slots(house.plan())


# Booting.


def test_booting_has_failed_when_every_slot_failed_often_enough() -> None:
    house = House(workers=2)
    for attempt in range(BOOT_ATTEMPTS):
        assert not house.children.boot_failed, attempt
        house.boot_and_die()
        house.now_s += LONGEST_PAUSE_S
    assert house.children.boot_failed


def test_one_slot_that_served_keeps_the_server_alive() -> None:
    house = House(workers=2)
    good, bad, _ = [house.fork(action) for action in house.plan()]
    house.children.ready(good, house.now_s)
    house.gone(bad)
    for _ in range(10 * BOOT_ATTEMPTS):
        house.now_s += LONGEST_PAUSE_S
        house.boot_and_die()
    assert not house.children.boot_failed


def test_a_keeper_that_cannot_start_is_no_boot_failure() -> None:
    house = House(workers=1)
    worker, keeper = [house.fork(action) for action in house.plan()]
    house.gone(keeper)
    for _ in range(10 * BOOT_ATTEMPTS):
        house.now_s += LONGEST_PAUSE_S
        house.boot_and_die()
    assert not house.children.boot_failed
    assert worker in house.children


# Deadlines.


@pytest.mark.parametrize(
    ("phase", "reason"), [(Phase.BOOTING, "not ready in time"), (Phase.READY, "no heartbeat")]
)
def test_a_child_past_its_deadline_is_named_once(phase: Phase, reason: str) -> None:
    house = House(workers=1)
    worker, keeper = [house.fork(action) for action in house.plan()]
    worker.phase = phase
    deadlines = {worker: 110.0, keeper: 200.0}
    assert house.children.wake_at_s(deadlines.__getitem__) == pytest.approx(110.0)
    assert house.children.late(109.9, deadlines.__getitem__) == []
    assert house.children.late(110.0, deadlines.__getitem__) == [(worker, reason)]
    assert house.children.late(110.0, deadlines.__getitem__) == []
    assert house.children.wake_at_s(deadlines.__getitem__) == pytest.approx(200.0)


def test_a_draining_child_has_the_drain_timeout_and_needs_no_heartbeat() -> None:
    house = House(workers=1)
    worker, _ = house.start_all()
    house.children.retired(worker, house.now_s)

    def deadline_s(child: Child) -> float:
        return 0.0 if child is worker else math.inf

    late = house.children.late(house.now_s + 29.9, deadline_s)
    assert late == []
    late = house.children.late(house.now_s + 30.0, deadline_s)
    assert late == [(worker, "not drained in time")]


def test_nobody_is_late_while_the_master_itself_was_held_up() -> None:
    house = House(workers=1)
    worker, keeper = house.start_all()
    house.children.excuse(house.now_s + 2.0)
    assert house.children.late(house.now_s + 1.9, lambda _: 0.0) == []
    assert house.children.wake_at_s(lambda _: 0.0) == pytest.approx(house.now_s + 2.0)
    late = house.children.late(house.now_s + 2.0, lambda _: 0.0)
    assert [child for child, _ in late] == [worker, keeper]


# Reload.


def test_a_reload_goes_slot_by_slot_and_the_keeper_last() -> None:
    house = House(workers=2)
    old = house.start_all()
    house.children.reload(2)
    for expected_slot, leaving in zip([0, 1, KEEPER], old, strict=True):
        candidate = house.start()
        assert (candidate.slot, candidate.generation) == (expected_slot, 2)
        assert drained(house.plan()) == [leaving]
        assert house.plan() == [], "the next slot waits until the old child is gone"
        house.gone(leaving)
    assert house.plan() == [ReloadDone(2)]
    assert not house.children.reloading
    assert house.children.generations == {2}
    assert house.children.ready_workers == 2


def test_the_old_child_stays_until_the_candidate_is_ready() -> None:
    house = House(workers=1)
    house.start_all()
    house.children.reload(2)
    (action,) = house.plan()
    candidate = house.fork(action)
    assert house.plan() == []
    assert house.children.ready_workers == 1
    house.children.ready(candidate, house.now_s)
    assert len(drained(house.plan())) == 1


def test_a_candidate_that_dies_aborts_the_reload_and_the_old_child_stays() -> None:
    house = House(workers=2)
    old = house.start_all()
    house.children.reload(2)
    (action,) = house.plan()
    house.gone(house.fork(action))
    assert house.plan() == [ReloadAborted(2, 0)]
    assert house.plan() == []
    assert set(house.children) == set(old)
    assert house.children.generations == {1}


def test_an_abort_half_way_keeps_what_has_changed_over_and_respawns_in_kind() -> None:
    house = House(workers=2)
    first, second, _ = house.start_all()
    house.children.reload(2)
    changed = house.start()
    assert drained(house.plan()) == [first]
    house.gone(first)
    (action,) = house.plan()
    house.gone(house.fork(action))
    assert house.plan() == [ReloadAborted(2, 1)]
    assert house.children.generations == {1, 2}
    house.now_s += STABLE_AFTER_S
    for child, generation in ((changed, 2), (second, 1)):
        house.gone(child)
        assert house.start().generation == generation


def test_a_late_candidate_is_killed_and_that_aborts_the_reload() -> None:
    house = House(workers=1)
    house.start_all()
    house.children.reload(2)
    (action,) = house.plan()
    candidate = house.fork(action)
    late = house.children.late(house.now_s, lambda c: 0.0 if c is candidate else math.inf)
    assert late == [(candidate, "not ready in time")]
    house.gone(candidate)
    assert house.plan() == [ReloadAborted(2, 0)]


def test_a_candidate_that_cannot_be_forked_aborts_the_reload() -> None:
    house = House(workers=1)
    house.start_all()
    house.children.reload(2)
    (start,) = house.plan()
    assert isinstance(start, Start)
    house.children.not_started(start, house.now_s)
    assert house.plan() == [ReloadAborted(2, 0)]


def test_a_child_that_dies_while_its_candidate_boots_is_not_started_again() -> None:
    house = House(workers=1)
    worker, keeper = house.start_all()
    house.children.reload(2)
    (action,) = house.plan()
    candidate = house.fork(action)
    house.gone(worker)
    house.now_s += LONGEST_PAUSE_S
    assert house.plan() == []
    house.children.ready(candidate, house.now_s)
    assert house.start().slot == KEEPER
    assert drained(house.plan()) == [keeper]


def test_other_slots_are_respawned_in_their_generation_during_a_reload() -> None:
    house = House(workers=2)
    _, second, _ = house.start_all()
    house.now_s += STABLE_AFTER_S
    house.children.reload(2)
    (action,) = house.plan()
    house.fork(action)
    house.gone(second)
    assert house.plan() == [Start(1, 1)]


def test_a_reload_mends_a_slot_that_kept_crashing_without_waiting_for_its_pause() -> None:
    house = House(workers=1)
    worker, _ = house.start_all()
    house.gone(worker)
    house.children.reload(2)
    assert house.start().generation == 2
    assert house.children.ready_workers == 0
    house.plan()
    assert house.children.ready_workers == 1


def test_a_candidate_must_not_be_worse_than_whoever_serves_in_its_slot() -> None:
    house = House(workers=2)
    one, other, _ = house.start_all()
    house.children.reload(2)
    assert house.children.incumbents(Start(0, 2, gated=True)) == [one]
    assert house.children.incumbents(Start(1, 2, gated=True)) == [other]
    assert house.children.incumbents(Start(KEEPER, 2, gated=True)) == []


def test_a_candidate_for_an_empty_slot_must_not_be_worse_than_the_others() -> None:
    """They are next: a reload that goes on with one that is would take them, too."""
    house = House(workers=2)
    one, other, _ = house.start_all()
    house.gone(one)
    house.children.reload(2)
    assert house.children.incumbents(Start(0, 2, gated=True)) == [other]


def test_who_replaces_nobody_is_compared_with_nobody() -> None:
    house = House(workers=2)
    house.gone(house.start_all()[0])
    assert house.children.incumbents(Start(0, 1)) == []


# Stop.


def test_a_stop_drains_the_workers_and_then_the_keeper() -> None:
    house = House(workers=2)
    one, other, keeper = house.start_all()
    house.children.stop()
    assert drained(house.plan()) == [one, other]
    assert house.plan() == []
    house.gone(one)
    assert house.plan() == []
    house.gone(other)
    assert drained(house.plan()) == [keeper]
    house.gone(keeper)
    assert house.plan() == []
    assert len(house.children) == 0
    assert house.children.wake_at_s(lambda _: 0.0) == math.inf


def test_a_stop_in_the_middle_of_a_reload_drains_both_generations() -> None:
    house = House(workers=1)
    worker, keeper = house.start_all()
    house.children.reload(2)
    (action,) = house.plan()
    candidate = house.fork(action)
    house.children.stop()
    assert drained(house.plan()) == [worker, candidate]
    house.gone(candidate)
    house.gone(worker)
    assert drained(house.plan()) == [keeper]


def test_a_stop_does_not_grant_a_child_that_drains_already_more_time() -> None:
    house = House(workers=1)
    worker, _ = house.start_all()
    house.children.retired(worker, house.now_s)
    due_s = worker.drain_until_s
    house.now_s += 5
    house.children.retired(worker, house.now_s)
    assert worker.drain_until_s == due_s


# More and fewer workers.


def test_one_more_worker_is_a_listener_first_and_then_a_child() -> None:
    house = House(workers=2)
    house.start_all()
    assert house.children.resize(+1)
    assert house.plan() == [Open(2)]
    house.children.opened(2)
    assert house.plan() == [Start(2, 1)]
    assert not house.children.all_ready


def test_without_a_listener_there_is_no_worker_more() -> None:
    house = House(workers=2)
    house.start_all()
    house.children.resize(+1)
    house.plan()
    house.children.not_opened()
    assert house.plan() == []
    assert house.children.wanted == 2


def test_one_worker_fewer_is_the_last_one_and_its_listener_is_closed_last() -> None:
    house = House(workers=2)
    _, last, _ = house.start_all()
    house.children.resize(-1)
    assert house.plan() == [Drain(last)]
    assert house.open_to() == {0}
    house.gone(last)
    assert house.plan() == [], "it lingers"
    assert house.children.wake_at_s(never) == pytest.approx(house.now_s + LINGER_S)
    house.now_s += LINGER_S
    assert house.plan() == [Close(1)]
    house.children.closed(1)
    assert house.plan() == []
    assert house.children.wake_at_s(never) == math.inf


def test_there_is_a_first_and_a_last_worker() -> None:
    house = House(workers=127)
    assert house.children.resize(+1)
    assert not house.children.resize(+1)
    house = House(workers=1)
    assert not house.children.resize(-1)
    assert house.children.wanted == 1


def test_several_signals_in_one_go_add_up() -> None:
    house = House(workers=2)
    house.start_all()
    for by in (+1, +1, -1, +1, -1):
        assert house.children.resize(by)
    assert house.plan() == [Open(2)]
    house.children.opened(2)
    assert house.start().slot == 2
    assert house.plan() == []


def test_several_workers_fewer_drain_together_and_close_from_the_end() -> None:
    house = House(workers=3)
    _, second, third, _ = house.start_all()
    house.children.resize(-1)
    house.children.resize(-1)
    assert drained(house.plan()) == [second, third]
    house.now_s += LINGER_S
    house.gone(second)
    assert house.plan() == [], "closing it now would move the third into its place"
    house.gone(third)
    assert house.plan() == [Close(2)]
    house.children.closed(2)
    assert house.plan() == [Close(1)]


def test_a_worker_that_is_wanted_again_while_it_drains_is_replaced_at_once() -> None:
    house = House(workers=2)
    _, last, _ = house.start_all()
    house.children.resize(-1)
    house.plan()
    house.children.resize(+1)
    assert house.plan() == [Start(1, 1)]
    house.gone(last)
    assert house.children.wanted == 2


def test_a_queue_that_somebody_waits_in_is_answered_before_it_is_closed() -> None:
    house = House(workers=2)
    _, last, _ = house.start_all()
    house.children.resize(-1)
    house.plan()
    house.gone(last)
    house.now_s += LINGER_S
    assert house.plan() == [Close(1)]
    house.children.has_queue(1)
    helper = house.start()
    assert helper.slot == 1
    assert house.open_to() == {0}
    assert house.plan() == [Drain(helper)]
    house.gone(helper)
    assert house.plan() == [Close(1)]


def test_a_slot_that_is_kept_for_its_queue_does_not_miss_a_reload() -> None:
    house = House(workers=2)
    _, last, _ = house.start_all()
    house.children.resize(-1)
    house.plan()
    house.gone(last)
    house.now_s += LINGER_S
    house.plan()
    house.children.has_queue(1)
    (action,) = house.plan()
    helper = house.fork(action)
    house.children.reload(2)
    house.children.resize(+1)
    changed = [house.start().slot]
    house.children.ready(helper, house.now_s)
    while not isinstance(action := house.plan()[0], ReloadDone):
        if isinstance(action, Start):
            changed.append(action.slot)
            house.children.ready(house.fork(action), house.now_s)
        elif isinstance(action, Drain):
            house.gone(action.child)
    assert changed == [0, KEEPER, 1]
    assert house.children.generations == {2}


def test_a_queue_that_nobody_lives_to_answer_is_given_up() -> None:
    house = House(workers=2)
    _, last, _ = house.start_all()
    house.children.resize(-1)
    house.plan()
    house.gone(last)
    house.now_s += LINGER_S
    house.plan()
    house.children.has_queue(1)
    for _ in range(CRASH_LOOP_FAILURES):
        assert Close(1) not in house.plan()
        house.boot_and_die()
        house.now_s += LONGEST_PAUSE_S
        house.children.has_queue(1)
    assert Close(1, at_once=True) in house.plan()


def test_a_worker_fewer_during_a_reload_goes_as_it_is() -> None:
    house = House(workers=3)
    first, second, third, keeper = house.start_all()
    house.children.reload(2)
    house.start()
    house.children.resize(-1)
    assert set(drained(house.plan())) == {first, third}
    house.gone(first)
    house.gone(third)
    for slot, leaving in ((1, second), (KEEPER, keeper)):
        assert house.start().slot == slot
        assert drained(house.plan()) == [leaving]
        house.gone(leaving)
    assert house.plan() == [ReloadDone(2)]


def test_a_worker_fewer_takes_its_candidate_with_it() -> None:
    house = House(workers=2)
    first, second, _ = house.start_all()
    house.children.reload(2)
    house.start()
    assert drained(house.plan()) == [first]
    house.gone(first)
    (action,) = house.plan()
    candidate = house.fork(action)
    house.children.resize(-1)
    assert drained(house.plan()) == [second, candidate]
    house.gone(candidate)
    assert house.children.reloading, "it did not fail, it was not wanted any more"
    house.gone(second)
    assert house.start().slot == KEEPER


@pytest.mark.parametrize("changed", [False, True])
def test_a_worker_more_during_a_reload_ends_up_in_its_generation(changed: bool) -> None:
    """Nobody knows whether the new generation works before a slot has changed over to it."""
    house = House(workers=1)
    worker, keeper = house.start_all()
    house.children.reload(2)
    (action,) = house.plan()
    candidate = house.fork(action)
    if changed:
        house.children.ready(candidate, house.now_s)
        house.plan()
    house.children.resize(+1)
    assert house.plan() == [Open(1)]
    house.children.opened(1)
    more = house.start()
    assert more.generation == (2 if changed else 1)
    house.children.ready(candidate, house.now_s)
    house.plan()
    house.gone(worker)
    house.start()  # the keeper's
    house.plan()
    house.gone(keeper)
    if not changed:
        assert house.start().slot == 1
        assert drained(house.plan()) == [more]
        house.gone(more)
    assert house.plan() == [ReloadDone(2)]
    assert house.children.generations == {2}


def test_a_slot_kept_after_a_reload_went_by_is_filled_in_the_new_generation() -> None:
    house = House(workers=2)
    first, last, keeper = house.start_all()
    house.children.resize(-1)
    house.plan()
    house.children.reload(2)
    for leaving in (first, keeper):
        house.start()
        assert drained(house.plan()) == [leaving]
        house.gone(leaving)
    assert house.plan() == [ReloadDone(2)]
    house.children.resize(+1)
    assert house.plan() == [Start(1, 2)]
    house.gone(last)


def test_booting_has_failed_also_when_a_worker_was_taken_away_meanwhile() -> None:
    house = House(workers=2)
    house.children.resize(-1)
    for _ in range(BOOT_ATTEMPTS):
        house.boot_and_die()
        house.now_s += LONGEST_PAUSE_S
    assert house.children.boot_failed


# Where new connections go.


def test_new_connections_go_to_those_who_are_ready() -> None:
    house = House(workers=2)
    one, other, _ = [house.fork(action) for action in house.plan()]
    assert house.open_to() == {0, 1}, "while nobody is, one queue is as good as the other"
    house.children.ready(other, house.now_s)
    assert house.open_to() == {1}
    house.children.ready(one, house.now_s)
    assert house.open_to() == {0, 1}


def test_new_connections_go_elsewhere_while_a_slot_has_nobody() -> None:
    house = House(workers=2)
    one, _, _ = house.start_all()
    house.gone(one)
    assert house.open_to() == {1}
    house.now_s += FIRST_PAUSE_S
    house.start()
    assert house.open_to() == {0, 1}


def test_new_connections_go_elsewhere_while_a_worker_is_silent() -> None:
    house = House(workers=2)
    one, other, _ = house.start_all()
    assert house.open_to(one) == {1}
    assert house.open_to(one, other) == {0, 1}
    silent_s = {one: 103.0, other: 107.0}
    assert house.children.look_at_s(100.0, silent_s.__getitem__) == pytest.approx(103.0)
    soon = pytest.approx(103.0 + LOOK_AGAIN_S)
    assert house.children.look_at_s(103.0, silent_s.__getitem__) == soon


def test_nobody_counts_as_silent_while_the_master_itself_was_held_up() -> None:
    house = House(workers=2)
    one, _, _ = house.start_all()
    house.children.excuse(house.now_s + 2.0)
    assert house.open_to(one) == {0, 1}


def test_new_connections_go_elsewhere_once_a_worker_is_to_be_killed() -> None:
    house = House(workers=2)
    one, _, _ = house.start_all()
    house.children.late(house.now_s, lambda c: 0.0 if c is one else math.inf)
    assert house.open_to() == {1}


def test_a_reload_keeps_every_slot_open() -> None:
    house = House(workers=2)
    house.start_all()
    house.children.reload(2)
    (action,) = house.plan()
    candidate = house.fork(action)
    assert house.open_to() == {0, 1}
    house.children.ready(candidate, house.now_s)
    house.plan()
    assert house.open_to() == {0, 1}


# Crash loops.


def crash_looping() -> House:
    """A house whose second slot has just been found to crash again and again."""
    house = House(workers=2)
    _, crasher, _ = house.start_all()
    house.gone(crasher)
    for _ in range(CRASH_LOOP_FAILURES - 1):
        house.now_s = house.children.wake_at_s(never)
        house.boot_and_die()
    assert CrashLooping(1, CRASH_LOOP_FAILURES) in house.plan()
    return house


def test_a_crash_loop_is_told_once() -> None:
    house = crash_looping()
    assert house.children.crash_looping == 1
    house.now_s += LONGEST_PAUSE_S
    (action,) = house.plan()
    house.gone(house.fork(action))
    assert house.plan() == []


def test_a_crash_looping_slot_gets_no_connections_until_a_child_has_lasted() -> None:
    house = crash_looping()
    house.now_s += LONGEST_PAUSE_S
    house.start()
    assert house.open_to() == {0}
    assert house.children.wake_at_s(never) == pytest.approx(house.now_s + STABLE_AFTER_S)
    house.now_s += STABLE_AFTER_S
    assert house.plan() == [Recovered(1)]
    assert house.open_to() == {0, 1}
    assert house.children.crash_looping == 0


def test_respawns_are_counted_by_cause() -> None:
    house = House(workers=3)
    one, other, third, keeper = house.start_all()
    house.children.gone(one.pid, house.now_s, Cause.SIGNAL)
    house.children.gone(other.pid, house.now_s, Cause.HUNG)
    house.children.retired(third, house.now_s)
    house.children.gone(third.pid, house.now_s, Cause.EXIT)
    house.children.stop()
    house.children.gone(keeper.pid, house.now_s, Cause.EXIT)
    assert house.children.respawns == {Cause.SIGNAL: 1, Cause.HUNG: 1, Cause.RETIRED: 1}


# Recycling.


def test_a_worker_that_has_served_enough_leaves_when_its_successor_is_ready() -> None:
    house = House(workers=2)
    one, _, _ = house.start_all()
    house.children.recycle(one, "--max-requests")
    assert house.plan() == [Start(0, 1, gated=True)]
    successor = house.fork(Start(0, 1, gated=True))
    assert house.plan() == []
    assert house.open_to() == {0, 1}
    house.children.ready(successor, house.now_s)
    assert house.plan() == [Drain(one)]
    house.children.retired(one, house.now_s)
    house.gone(one)
    assert house.plan() == []
    assert house.children.respawns == {Cause.RECYCLED: 1}


def test_never_are_two_recycled_at_once() -> None:
    house = House(workers=2)
    one, other, _ = house.start_all()
    house.children.recycle(one, "--max-requests")
    house.children.recycle(other, "--max-requests")
    assert house.start().slot == 0
    assert house.plan() == [Drain(one)]
    assert house.plan() == []
    house.gone(one)
    assert house.start().slot == 1


def test_a_successor_that_fails_leaves_the_old_worker_in_service_and_is_tried_again() -> None:
    house = House(workers=1)
    worker, _ = house.start_all()
    house.now_s += STABLE_AFTER_S
    house.children.recycle(worker, "--max-worker-age-s")
    (action,) = house.plan()
    house.gone(house.fork(action))
    assert house.plan() == [RecycleFailed(0)]
    assert house.plan() == []
    assert house.open_to() == {0}
    assert house.children.wake_at_s(never) == pytest.approx(house.now_s + FIRST_PAUSE_S)
    house.now_s += FIRST_PAUSE_S
    (action,) = house.plan()
    assert isinstance(action, Start)
    house.children.not_started(action, house.now_s)
    assert house.plan() == [RecycleFailed(0)]


def test_a_worker_that_dies_while_its_successor_boots_is_not_started_twice() -> None:
    house = House(workers=1)
    worker, _ = house.start_all()
    house.children.recycle(worker, "--max-worker-memory")
    (action,) = house.plan()
    successor = house.fork(action)
    house.gone(worker)
    house.now_s += LONGEST_PAUSE_S
    assert house.plan() == []
    house.children.ready(successor, house.now_s)
    assert house.plan() == []
    assert house.children.ready_workers == 1


def test_a_reload_waits_for_a_recycling_and_makes_the_others_needless() -> None:
    house = House(workers=2)
    one, other, _ = house.start_all()
    house.children.recycle(one, "--max-requests")
    (action,) = house.plan()
    successor = house.fork(action)
    house.children.recycle(other, "--max-requests")
    house.children.reload(2)
    assert house.plan() == []
    house.children.ready(successor, house.now_s)
    assert house.plan() == [Drain(one)]
    house.gone(one)
    assert house.plan() == [Start(0, 2, gated=True)]


def test_a_worker_fewer_ends_its_recycling() -> None:
    house = House(workers=2)
    _, other, _ = house.start_all()
    house.children.recycle(other, "--max-requests")
    (action,) = house.plan()
    successor = house.fork(action)
    house.children.resize(-1)
    assert drained(house.plan()) == [other, successor]
    house.gone(other)
    house.gone(successor)
    house.now_s += LINGER_S
    assert house.plan() == [Close(1)]
