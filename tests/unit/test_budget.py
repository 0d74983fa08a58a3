"""A worker's leases: what it may serve, asks for and gives back, whatever becomes of its calls."""

import time

import pytest

from prefork_ads.ads import budget
from prefork_ads.ads.budget import GOOD_FOR_S, Budget
from prefork_ads.ads.turns import IDLE_A_SECOND, MOST
from prefork_ads.events.event import EventClock
from prefork_ads.events.uuid7 import Uuid7
from tests.unit.budget_bed import DAY_S, GOAL, NOON_S, Bed, replayed, rows_of, tomorrow

MIDNIGHT_S = NOON_S + DAY_S / 2


def test_a_campaign_with_a_goal_is_closed_without_a_lease_and_others_are_open() -> None:
    bed = Bed(GOAL, {})
    assert not bed.is_open(1)
    assert bed.is_open(2)
    bed.grant(5)
    assert bed.is_open(1)


def test_a_lease_that_is_used_up_closes_its_campaign_and_hurries_the_next_call() -> None:
    bed = Bed(GOAL)
    bed.grant(3)
    bed.at_s += 1
    bed.serve(2)
    assert bed.is_open()
    hurried = bed.hurried
    bed.serve()
    assert not bed.is_open()
    assert bed.hurried > hurried
    asked = bed.ask()
    assert asked["wants"][0] > 3
    bed.answer(bed.row(asked["wants"][0]))
    assert bed.is_open()


def test_the_day_of_the_lease_is_told_and_a_campaign_without_a_goal_has_none() -> None:
    bed = Bed(GOAL, {})
    bed.grant(3)
    assert bed.budget.served(bed.campaign(1), bed.at_s) == "2026-11-22"
    assert bed.budget.served(bed.campaign(2), bed.at_s) == ""


def test_whoever_serves_much_asks_for_much() -> None:
    """Two seconds' worth; who had too little, for twice as much."""
    bed = Bed(GOAL)
    bed.grant(4)
    served = 4
    bed.serve(4)
    wants = []
    for _ in range(6):
        bed.at_s += 1
        asked = bed.ask()
        wants.append(asked["wants"][0] - served)
        bed.answer(bed.row(served + wants[-1]))
        number = min(100, wants[-1])
        bed.serve(number)
        served += number
    assert wants[0] < wants[1] < wants[2]
    assert 150 <= wants[-1] <= 250


def test_nothing_is_asked_before_a_state_line_is_in_the_journal() -> None:
    """By its file in the journal everybody sees that this worker may be alive."""
    bed = Bed(GOAL)
    bed.takes_lines = False
    assert bed.budget.ask() is None
    bed.takes_lines = True
    kept = []
    bed.budget.keep = lambda: kept.append(len(bed.lines))
    assert bed.ask()["holder"] == "stream"
    assert kept == [1]


def test_while_leases_are_held_a_line_follows_every_few_seconds() -> None:
    bed = Bed(GOAL)
    bed.grant(5)
    for _ in range(60):
        bed.at_s += 0.5
        bed.budget.tick()
    moments = [line.split(b"\t")[0] for line in bed.lines]
    assert len(moments) >= 30 / 4


def test_what_is_given_back_is_not_served_while_the_outcome_is_unknown() -> None:
    """Nor after a failure: the call may have gone through."""
    bed = Bed(GOAL)
    bed.grant(100)
    bed.serve(10)
    bed.at_s += 6
    # Little is left for all, and this worker has not used its lease for a while.
    bed.ask()
    bed.answer(bed.row(100, room=0))
    bed.at_s += 5
    assert bed.ask()["wants"] == [10]
    assert not bed.is_open()
    bed.budget.failed()
    assert not bed.is_open()
    # The next call is absolute again, so whatever happened does not matter.
    bed.at_s += 1
    assert bed.ask()["wants"] == [10]
    bed.answer(bed.row(10, room=90))
    assert not bed.is_open()


def test_each_call_has_a_higher_number() -> None:
    bed = Bed(GOAL)
    turns = []
    for _ in range(3):
        turns.append(bed.ask()["turn"])
        bed.budget.failed()
    assert turns == [1, 2, 3]


def test_a_failure_changes_nothing_of_what_may_be_served() -> None:
    bed = Bed(GOAL)
    bed.grant(5)
    bed.serve(4)
    bed.at_s += 1
    bed.ask()
    bed.budget.failed()
    bed.serve()
    assert not bed.is_open()


def test_while_postgresql_is_away_leases_are_used_up_and_no_more() -> None:
    bed = Bed(GOAL, {})
    bed.grant(20)
    for _ in range(20):
        bed.at_s += 60
        bed.budget.tick()
        bed.serve()
    assert not bed.is_open(1)
    assert bed.is_open(2)


def test_a_lease_that_is_not_renewed_for_half_an_hour_is_used_no_more() -> None:
    bed = Bed(GOAL)
    bed.grant(20)
    bed.at_s += 1795
    bed.budget.tick()
    assert bed.is_open()
    bed.at_s += 10
    bed.budget.tick()
    assert not bed.is_open()
    bed.ask()
    bed.answer(bed.row(20))
    assert bed.is_open()


def test_after_a_standstill_the_first_request_finds_an_old_lease_closed() -> None:
    """Before anything else of this worker has run."""
    bed = Bed(GOAL)
    bed.grant(20)
    bed.serve()
    bed.at_s += 7200
    bed.budget.before(bed.at_s)
    assert not bed.is_open()


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="a clock of Linux")
def test_suspended_time_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others' clocks go on, and others get what is left of a lease that is not renewed."""
    bed = Bed(GOAL)
    boot_s = 5000.0
    monkeypatch.setattr(time, "clock_gettime", lambda _: boot_s)
    clock = EventClock(Uuid7(), lambda: int(bed.at_s * 1e9))
    bed.budget = Budget(
        *("stream", None, clock, lambda _: True, lambda: 0.0),
        impression_window_s=900,
        now=lambda: bed.at_s,
    )
    bed.budget.changed(bed.catalog, bed.standing)
    bed.grant(20)
    boot_s += GOOD_FOR_S - 1
    bed.budget.tick()
    assert bed.is_open()
    boot_s += 2
    bed.budget.tick()
    assert not bed.is_open()


def test_where_there_is_no_such_clock_the_usual_one_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """macOS."""
    monkeypatch.setattr(budget, "_CLOCK", None)
    monkeypatch.setattr(time, "monotonic", lambda: 7.0)
    assert budget._boot_s() == 7.0


def test_at_midnight_the_lease_of_the_day_ends() -> None:
    """By this worker's clock, before the first decision of the new day, and a little before."""
    bed = Bed(GOAL, at_s=MIDNIGHT_S - 10)
    bed.grant(20)
    bed.at_s = MIDNIGHT_S - 0.1
    bed.serve()
    bed.at_s = MIDNIGHT_S - 0.01
    bed.budget.before(bed.at_s)
    assert not bed.is_open()
    # What was not served goes back, and the new day begins with nothing.
    bed.at_s = MIDNIGHT_S + 0.1
    bed.budget.before(bed.at_s)
    bed.ask()
    bed.answer(bed.row(0))
    asked = bed.ask()
    assert dict(zip(asked["days"], asked["wants"], strict=True))["2026-11-22"] == 1
    assert "2026-11-23" in asked["days"]
    bed.answer(bed.row(4))
    assert bed.is_open()
    assert bed.budget.served(bed.campaign(), bed.at_s) == "2026-11-23"
    assert "2026-11-22" not in bed.ask()["days"]


def test_a_lease_for_a_day_that_has_not_begun_here_waits_for_it() -> None:
    """PostgreSQL's clock is ahead of ours: a decision is counted for the day of its id."""
    bed = Bed(GOAL, at_s=MIDNIGHT_S - 3)
    bed.ask()
    bed.answer(bed.row(0, day=tomorrow(bed.at_s)))
    bed.ask()
    bed.answer(bed.row(10, day=tomorrow(bed.at_s)))
    bed.budget.before(bed.at_s)
    assert not bed.is_open()
    bed.at_s = MIDNIGHT_S
    bed.budget.before(bed.at_s)
    assert bed.is_open()


class Clocks(Bed):
    """The clock on the wall is put, and the other one goes on by itself."""

    def put(self, at_s: float) -> None:
        self.boot_s = getattr(self, "boot_s", self.at_s) + 1
        self.budget._monotonic = lambda: self.boot_s
        self.at_s = at_s


def test_a_clock_that_was_ahead_over_midnight_leaves_no_lease_of_yesterday_open() -> None:
    """PostgreSQL's clock was right all the time, and it is away when the day ends."""
    bed = Clocks(GOAL, at_s=MIDNIGHT_S - 1800)
    today = tomorrow(bed.at_s - DAY_S)
    bed.grant(50)
    bed.put(MIDNIGHT_S + 1800)
    bed.budget.tick()
    assert not bed.is_open()
    bed.ask()
    bed.answer(bed.row(50, day=today))
    bed.put(MIDNIGHT_S - 1790)
    bed.serve()
    bed.put(MIDNIGHT_S + 5)
    bed.budget.before(bed.at_s)
    assert not bed.is_open()


def test_a_clock_that_was_ahead_for_a_moment_leaves_no_lease_of_yesterday_open() -> None:
    """Nobody was asked meanwhile."""
    bed = Clocks(GOAL, at_s=MIDNIGHT_S - 1800)
    bed.grant(50)
    bed.put(MIDNIGHT_S + 1800)
    bed.budget.before(bed.at_s)
    assert not bed.is_open()
    bed.put(MIDNIGHT_S - 1790)
    bed.serve()
    bed.put(MIDNIGHT_S + 5)
    bed.budget.before(bed.at_s)
    assert not bed.is_open()


@pytest.mark.parametrize("served", [0, 1])
def test_a_clock_that_is_put_back_over_midnight_closes_the_lease_of_the_day(served: int) -> None:
    """Whether or not there was a decision since it was granted: it has not begun any more."""
    bed = Clocks(GOAL, at_s=MIDNIGHT_S + 5)
    bed.grant(50)
    bed.serve(served)
    bed.put(MIDNIGHT_S - 1800)
    bed.budget.before(bed.at_s)
    assert not bed.is_open()
    bed.put(MIDNIGHT_S + 10)
    bed.budget.before(bed.at_s)
    assert bed.is_open()


def test_who_is_told_that_it_was_taken_for_dead_begins_anew() -> None:
    """And asks for nothing until its lines from before have arrived: they are not covered by a lease."""
    bed = Bed(GOAL)
    bed.grant(20)
    bed.serve(5)
    bed.at_s += 6
    bed.ask()
    bed.answer(bed.row(0, since=2.0))
    assert not bed.is_open()
    bed.unshipped_s = 6.0
    bed.at_s += 1
    assert set(bed.ask()["wants"]) <= {0}
    bed.answer(bed.row(0, since=2.0))
    bed.unshipped_s = 0.0
    bed.at_s += 1
    assert bed.ask()["wants"][0] > 0


def test_who_was_taken_for_dead_does_not_serve_what_the_same_answer_grants() -> None:
    """Its lines from before would be taken for those of the new lease."""
    bed = Bed(GOAL)
    bed.grant(50)
    bed.serve(50)
    bed.at_s += 1
    (wants,) = bed.ask()["wants"]
    bed.unshipped_s = 5.0
    bed.answer(bed.row(wants, since=2.0))
    assert not bed.is_open()
    bed.at_s += 1
    assert bed.ask()["wants"] == [0]
    bed.answer(bed.row(0, since=2.0))
    bed.unshipped_s = 0.0
    bed.at_s += 1
    (wants,) = bed.ask()["wants"]
    bed.answer(bed.row(wants, since=2.0))
    assert bed.is_open()


def test_a_goal_that_is_taken_away_opens_and_its_lease_goes_back() -> None:
    bed = Bed(GOAL)
    bed.grant(20)
    bed.serve(5)
    bed.load(rows_of({}))
    assert bed.is_open()
    asked = bed.ask()
    assert (asked["campaigns"], asked["wants"]) == ([1], [5])
    bed.answer()
    assert bed.budget.ask() is None


def test_a_paused_campaign_gives_its_lease_back() -> None:
    bed = Bed(GOAL)
    bed.grant(20)
    bed.serve(5)
    bed.load(rows_of({**GOAL, "status": "paused"}))
    assert bed.ask()["wants"] == [5]


def test_what_was_granted_before_to_a_campaign_that_comes_back_is_not_served_again() -> None:
    """PostgreSQL counts since this worker's beginning, whatever became of the campaign meanwhile."""
    bed = Bed(GOAL)
    bed.grant(20)
    bed.serve(20)
    bed.load(rows_of({}))
    assert bed.ask()["wants"] == [20]
    bed.answer()
    bed.load(rows_of(GOAL))
    bed.ask()
    bed.answer(bed.row(20))
    assert not bed.is_open()
    assert bed.ask()["wants"][0] > 20


def test_what_is_taken_back_is_served_later() -> None:
    """Its line was not taken: nobody sees it."""
    bed = Bed(GOAL)
    bed.grant(1)
    bed.serve()
    assert not bed.is_open()
    bed.budget.not_served(bed.campaign(), "2026-11-22")
    assert bed.is_open()
    bed.serve()
    assert not bed.is_open()


def test_what_is_taken_back_makes_nobody_ask_for_more() -> None:
    """Who runs dry asks for twice as much; a journal that is full for an hour is no traffic."""
    bed = Bed(GOAL)
    bed.grant(4)
    wants = set()
    for _ in range(10):
        bed.at_s += 1
        bed.serve(4)
        for _ in range(4):
            bed.budget.not_served(bed.campaign(), "2026-11-22")
        wants.update(bed.ask()["wants"])
        bed.answer(bed.row(4))
    assert wants == {4}


@pytest.mark.parametrize("meanwhile", ["it leaves", "midnight"])
def test_what_is_taken_back_when_the_lease_has_ended_opens_nothing(meanwhile: str) -> None:
    """By another decision between the choice and its line."""
    bed = Bed(GOAL, at_s=MIDNIGHT_S - 10)
    bed.grant(1)
    bed.serve()
    if meanwhile == "midnight":
        bed.at_s = MIDNIGHT_S + 1
        bed.budget.before(bed.at_s)
    else:
        bed.budget.leave()
    bed.budget.not_served(bed.campaign(), "2026-11-22")
    assert not bed.is_open()


def test_a_changed_goal_is_asked_about_at_once() -> None:
    bed = Bed(GOAL)
    bed.grant(4)
    bed.serve(4)
    bed.ask()
    bed.answer(bed.row(4, had=1000))
    bed.at_s += 1
    assert bed.ask()["campaigns"] == []
    bed.answer()
    bed.load(rows_of({**GOAL, "goal_total": 2000}))
    assert bed.ask()["wants"][0] > 4


def test_a_budget_that_leaves_gives_back_what_it_did_not_serve() -> None:
    bed = Bed(GOAL)
    bed.grant(20)
    bed.serve(5)
    bed.budget.leave()
    assert not bed.budget.gone
    assert bed.ask()["wants"] == [5]
    bed.answer(bed.row(5))
    assert bed.budget.gone


def never_answered(at_s: float) -> Bed:
    """Something was asked for, and may have been granted."""
    bed = Bed(GOAL, at_s=at_s)
    bed.ask()
    bed.answer(bed.row(0))
    assert bed.ask()["wants"][0] > 0
    bed.budget.failed()
    return bed


def test_a_grant_whose_answer_never_came_goes_back_when_its_worker_leaves() -> None:
    bed = never_answered(NOON_S)
    bed.budget.leave()
    was_gone = bed.budget.gone
    assert bed.ask()["wants"] == [0]
    bed.answer(bed.row(0))
    assert (was_gone, bed.budget.gone) == (False, True)


def test_a_grant_whose_answer_never_came_goes_back_when_its_day_is_over() -> None:
    """Else it is held as long as this worker lives."""
    bed = never_answered(MIDNIGHT_S - 10)
    bed.at_s = MIDNIGHT_S + 1
    bed.budget.before(bed.at_s)
    bed.ask()
    bed.answer(bed.row(0))
    asked = bed.ask()
    assert dict(zip(asked["days"], asked["wants"], strict=True))["2026-11-22"] == 0


def test_even_pacing_asks_with_a_ceiling_and_sets_the_need() -> None:
    """At noon half of 2,400; nothing was had, so it is urgent, and the gap is closed within half an hour."""
    bed = Bed({"goal_kind": "impressions", "goal_daily": 2400, "pacing": "even"})
    bed.ask()
    bed.answer(bed.row(0))
    assert bed.standing.need(bed.campaign().bit) == 16
    assert bed.ask()["ceilings"] == [pytest.approx(12, abs=1)]
    bed.answer(bed.row(2))
    bed.at_s += 900
    asked = bed.ask()
    assert asked["ceilings"] == [pytest.approx(1225 - 596 + 3, abs=5)]
    bed.answer(bed.row(4, committed=1225))
    assert bed.standing.need(bed.campaign().bit) == 4


def test_state_lines_say_what_every_decision_could_see() -> None:
    """Whoever reads them up to the one that a decision names knows who was open when it was made."""
    bed = Bed(GOAL, {**GOAL, "pacing": "even", "goal_daily": 500}, {})
    seen: dict[str, tuple[set[int], int]] = {}

    def decide() -> None:
        state = bed.budget.before(bed.at_s)
        leased = {n for n in (1, 2) if bed.is_open(n)}
        need = bed.standing.need(bed.campaign(2).bit)
        assert seen.setdefault(state, (leased, need)) == (leased, need)
        for number in leased:
            bed.budget.served(bed.campaign(number), bed.at_s)

    granted = 0
    for step in range(300):
        decide()
        bed.at_s += 0.4
        bed.budget.tick()
        if step % 3 == 0:
            asked = bed.ask()
            granted += step % 2
            bed.answer(
                bed.row(granted * 2), bed.row(granted, 2, committed=260 if step % 4 else 100)
            )
    states, ids = bed.states(), bed.ids()
    assert len(seen) > 50
    assert sum("full" in state for state in states) == 2
    assert [state.get("after", "") for state in states] == ["", *ids[:-1]]
    for state, (leased, need) in seen.items():
        opened, needs = replayed(states[: ids.index(state) + 1])
        assert opened == leased
        assert needs.get("2", 4) == need
    assert asked["turn"] == 100


def test_what_is_left_of_a_roadblock_is_in_the_state_when_it_is_few() -> None:
    """It decides whether the roadblock fits a page."""
    bed = Bed({**GOAL, "roadblock": True})
    bed.grant(21)
    bed.serve(2)
    bed.budget.before(bed.at_s)
    assert bed.states()[-1]["left"] == {"1": 19}
    assert bed.standing.left(bed.campaign().bit) == 19


def test_of_thousands_of_campaigns_a_call_is_about_some_and_all_get_their_turn() -> None:
    bed = Bed(*[GOAL] * 1500)
    asked: set[int] = set()
    granted: set[int] = set()
    for _ in range(2 * -(-1500 // MOST)):
        call = bed.ask()
        assert len(call["campaigns"]) <= MOST
        asked.update(call["campaigns"])
        wants = dict(zip(call["campaigns"], call["wants"], strict=True))
        granted.update(number for number, want in wants.items() if want)
        hurried = bed.hurried
        bed.answer(*(bed.row(want, number) for number, want in wants.items()))
        # All of them at once, in calls that each take a moment.
        assert bed.hurried > hurried or len(granted) == 1500
        bed.at_s += 0.02
    assert len(asked) == len(granted) == 1500
    # Then nobody has use for them, and few are looked at.
    rows = 0
    for _ in range(60):
        bed.at_s += 1
        numbers = bed.ask()["campaigns"]
        rows += len(numbers)
        bed.answer(*(bed.row(4, number) for number in numbers))
    assert 0 < rows <= 60 * IDLE_A_SECOND
