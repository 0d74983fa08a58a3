"""Latency of requests: every answer is in the histogram once, with the time from its tick to its leaving."""

from collections.abc import Callable

from prefork_ads.ads.meter import MOST_LATE, Meter
from prefork_ads.http.outbox import Outbox
from prefork_ads.metrics import (
    AD_MICROSECONDS,
    CELLS,
    LOG_MICROSECONDS,
    TRACK_ANSWERS,
    TRACK_MICROSECONDS,
    Counter,
)


class Loop:
    """A worker's loop, its clock, and a disk that is done when a test says so."""

    syncs = False

    def __init__(self) -> None:
        self.cells = [0] * CELLS
        self.now_us = 1_000_000
        self.soon: list[Callable[[], None]] = []
        self.asked: list[Callable[[bool], None]] = []
        self.meter = self.make_meter()
        self.outbox = self.make_outbox()

    def make_meter(self) -> Meter:
        return Meter(self.cells, self.soon.append, lambda: self.now_us * 1000)

    def make_outbox(self) -> Outbox:
        outbox = Outbox(self.soon.append, self)
        outbox.stopwatch = self.meter
        return outbox

    def write(self) -> bool:
        return True

    def sync(self, done: Callable[[bool], None]) -> None:
        self.asked.append(done)

    def log(self, counter: Counter = Counter.LOG_ACCEPTED) -> None:
        """A request to /log, answered at once."""
        self.cells[counter] += 1
        self.outbox.add(Nobody())

    def track(self, counter: Counter = Counter.TRACK_200) -> None:
        """A beacon, a click or a conversion, answered at once."""
        self.cells[counter] += 1
        self.outbox.add(Nobody())

    def ad(self) -> Callable[[], None]:
        """A request to /ad; call what is returned to answer it."""
        since_ns = self.meter.began_ns or self.meter.since_ns()

        def answer() -> None:
            self.meter.late.append(since_ns)
            self.outbox.add(Nobody())

        return answer

    def tick(self, us: int = 0) -> None:
        """So much time passes, then the tick ends."""
        self.now_us += us
        scheduled, self.soon[:] = self.soon[:], []
        for callback in scheduled:
            callback()

    def logs(self) -> tuple[int, int]:
        return LOG_MICROSECONDS.count(self.cells), LOG_MICROSECONDS.sum(self.cells)

    def tracks(self) -> tuple[int, int]:
        return TRACK_MICROSECONDS.count(self.cells), TRACK_MICROSECONDS.sum(self.cells)

    def ads(self) -> tuple[int, int]:
        return AD_MICROSECONDS.count(self.cells), AD_MICROSECONDS.sum(self.cells)


class Nobody:
    """A connection."""

    def flush(self) -> None:
        pass

    def seal(self) -> None:
        pass

    def flush_sealed(self) -> None:
        pass

    def unseal(self) -> None:
        pass


def test_all_answers_of_a_tick_took_as_long_as_the_tick() -> None:
    loop = Loop()
    loop.log()
    loop.now_us += 300
    loop.log(Counter.LOG_MALFORMED)
    loop.log(Counter.LOG_UNAVAILABLE)
    loop.tick(200)
    assert loop.logs() == (3, 1500)
    assert loop.ads() == (0, 0)
    loop.tick()
    loop.now_us += 10_000
    loop.log()
    loop.tick(7)
    assert loop.logs() == (4, 1507), "the pause between the ticks is nobody's"


class Moment(int):
    """A time that counts how often times are compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Moment.compared += 1
        return super().__eq__(other)

    __hash__ = int.__hash__


def test_the_work_does_not_grow_with_the_ticks_that_answers_come_from() -> None:
    """A line of lookups that is given up at once: thousands of requests, each read in another tick."""
    loop = Loop()
    Moment.compared = 0
    loop.meter.left((0, 0, 0, [Moment(1000 * us) for us in range(1000)]))
    assert loop.ads() == (1000, sum(1_000_000 - us for us in range(1000)))
    assert Moment.compared < 5000


def test_answers_to_nobody_are_not_remembered_for_ever() -> None:
    loop = Loop()
    for _ in range(3 * MOST_LATE):
        loop.meter.late.append(loop.meter.since_ns())
        loop.tick(1)
    assert len(loop.meter.late) <= MOST_LATE + 1
    loop.ad()()
    loop.tick(1)
    assert loop.meter.late == []


def test_an_ad_took_from_the_tick_it_was_read_in_to_the_tick_it_left_in() -> None:
    loop = Loop()
    first = loop.ad()
    loop.tick(100)
    loop.now_us += 400
    second = loop.ad()
    loop.now_us += 50
    third = loop.ad()
    loop.tick(50)
    loop.now_us += 1000
    for answer in (first, second, third):
        answer()
    loop.tick(10)
    #  first: 100 + 400 + 100 + 1000 + 10; second and third began together
    assert loop.ads() == (3, 1610 + 2 * 1110)
    assert loop.logs() == (0, 0)


def test_a_tick_without_answers_does_not_prolong_the_next() -> None:
    """All it read waits for the database; the next request begins when it is read."""
    loop = Loop()
    loop.ad()
    loop.tick(5)
    loop.now_us += 1_000_000
    loop.log()
    loop.tick(20)
    assert loop.logs() == (1, 20)


def test_both_in_one_tick() -> None:
    loop = Loop()
    answer = loop.ad()
    loop.now_us += 30
    loop.log()
    loop.tick(30)
    assert loop.logs() == (1, 60), "it waited for what was read before it"
    answer()
    loop.log()
    loop.tick(40)
    assert loop.logs() == (2, 100)
    assert loop.ads() == (1, 100)


def test_a_click_in_the_tick_of_a_log() -> None:
    """Each is in the histogram of its own, and what waited for both is in a third."""
    loop = Loop()
    answer = loop.ad()
    loop.now_us += 30
    loop.track(Counter.TRACK_302)
    loop.now_us += 20
    loop.log()
    loop.track(Counter.TRACK_403)
    answer()
    loop.tick(10)
    assert loop.tracks() == (2, 120)
    assert loop.logs() == (1, 60)
    assert loop.ads() == (1, 60)
    loop.tick()
    loop.now_us += 5000
    loop.track()
    loop.tick(7)
    assert loop.tracks() == (3, 127), "the pause between the ticks is nobody's"
    assert loop.logs() == (1, 60)


def test_tracking_is_measured_whatever_it_is_answered() -> None:
    loop = Loop()
    for counter in TRACK_ANSWERS.values():
        loop.track(counter)
    loop.tick(5)
    assert loop.tracks() == (len(TRACK_ANSWERS), 5 * len(TRACK_ANSWERS))


def test_an_ad_that_is_refused_in_its_own_tick() -> None:
    loop = Loop()
    loop.ad()()
    loop.tick(25)
    assert loop.ads() == (1, 25)


def test_a_seat_that_somebody_had_before() -> None:
    """What the last worker counted is not this one's."""
    loop = Loop()
    loop.cells[Counter.LOG_ACCEPTED] = 1_000_000
    loop.cells[Counter.TRACK_204] = 2_000_000
    loop.meter = loop.make_meter()
    loop.outbox = loop.make_outbox()
    loop.log()
    loop.track()
    loop.tick(9)
    assert loop.logs() == (1, 9)
    assert loop.tracks() == (1, 9)


def test_answers_that_wait_for_the_disk_have_not_left() -> None:
    """Each tick with its own beginning, however many leave together."""
    loop = Loop()
    loop.syncs = True
    loop.outbox = loop.make_outbox()
    loop.log()
    loop.tick(100)
    assert loop.logs() == (0, 0)
    loop.now_us += 1000
    loop.log()
    loop.track()
    loop.tick(10)
    loop.now_us += 1000
    loop.log()
    loop.tick(10)
    loop.asked.pop(0)(True)
    assert loop.logs() == (1, 2120)
    assert loop.tracks() == (0, 0)
    loop.now_us += 5000
    loop.asked.pop(0)(True)
    assert loop.logs() == (3, 2120 + 6020 + 5010)
    assert loop.tracks() == (1, 6020)


def test_answers_whose_disk_failed_leave_too() -> None:
    loop = Loop()
    loop.syncs = True
    loop.outbox = loop.make_outbox()
    loop.log()
    loop.tick(100)
    loop.asked.pop(0)(False)
    assert loop.logs() == (1, 100)
