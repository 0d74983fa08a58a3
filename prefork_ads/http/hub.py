"""What all connections of a worker share, and what is done to all of them at once.

**The sweep** looks at connections four times a second, for the time they take and the bytes they hold: each
time at SWEEP_LEAST of them or at one in SWEEP_ROUND, whichever is more, until a round is over and all were
looked at. *Measured* beside a crowd of 19,000: 2 µs each, since none of it is in a cache; all of them each
time was a sixth of the worker's time. So with more than SWEEP_LEAST a limit may be SWEEP_LATE_S late, and not
just half a second. (Almost two rounds: the next one may look at them in another order.) While half of
what may be held is, a round is over at once: then it decides who is sent away.

A sweep is spread over SWEEP_OVER_S, which ends before the next one: some connections every other millisecond.
What is looked at costs 2 µs, what has to end fifty times that, and those whose time is over come in crowds:
one after the other they would take a third of a quarter second, and whoever asks just then waits behind some
of them. *Measured* beside 19,000 of which 1,000 a second are sent away (time from request to answer, of 1,500
a second; without the crowd 0.18 and 0.20 ms): as fast as the loop allows p90 0.8 and p95 2.0 ms, spread 0.3
and 0.4. (The p99 was 3 to 6 ms both ways: there the machine stood still now and then.)

An overload has rounds of the loop of a tenth of a second, and limits are to hold just then. So a sweep with
more to look at than may wait goes on in each round, for SWEEP_TURN_S or for SWEEP_SHARE of the time since its
last slice, whichever is more: 20,000 connections of which 1,000 a second have to end take a seventh of all.

**Bytes held** are those of incomplete messages, of requests read and not parsed yet, and of answers that
nobody reads. A connection reports what comes on top (never on the way of a request that arrives in one
piece); each round counts anew, which takes back what has been used up. In between the sum can only be too
high.

Must not know: how a connection reads or writes.
"""

import asyncio
import math
import time
from collections.abc import Callable
from typing import Protocol

from prefork_ads.http.heads import Heads
from prefork_ads.http.limits import Limits
from prefork_ads.http.message import Answers, Handler
from prefork_ads.http.outbox import Outbox

FEED_SLICE_BYTES = 16 * 1024
SWEEP_LEAST = 1000
SWEEP_ROUND = 4
SWEEP_LATE_S = 2.0
# Less than the time between two sweeps.
SWEEP_OVER_S = 0.2
# So many are looked at in one go; those of a small server all at once.
SWEEP_SLICE = 4
SWEEP_AT_ONCE = 64
# Between two slices a sweep rests until so many are due: each time wakes an idle worker.
SWEEP_DUE = 64
SWEEP_TURN_S = 0.0005
SWEEP_SHARE = 0.15


class Open(Protocol):
    """An open connection, as the hub needs it."""

    def check(self, now: float) -> int:
        """End what has taken too long; the bytes that this connection holds."""

    def close_if_idle(self) -> None:
        """Close between two requests, and only there."""

    def abort(self) -> None:
        """Close at once."""

    def refuse_unsent(self) -> None:
        """Promise nothing that is not promised yet."""


class Hub:
    """One per process."""

    __slots__ = (
        "_began_s",
        "_call_later",
        "_call_soon",
        "_counted",
        "_goes_on",
        "_held_before",
        "_may_wait",
        "_share",
        "_stopwatch",
        "_swept_s",
        "_to_sweep",
        "_unswept",
        "answers",
        "connections",
        "draining",
        "handler",
        "heads",
        "held",
        "is_gone",
        "limits",
        "max_message",
        "now",
        "on_refused",
        "outbox",
        "report",
        "slice_bytes",
        "vital",
    )

    def __init__(
        self,
        handler: Handler,
        answers: Answers,
        outbox: Outbox,
        limits: Limits,
        report: Callable[[str, Exception], None],
        on_refused: Callable[[int], None],
        call_soon: Callable[[Callable[[], None]], object],
        call_later: Callable[[float, Callable[[], None]], object],
        vital: frozenset[bytes] = frozenset(),
        *,
        stopwatch: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`vital` are the paths that are answered even if there is room for nothing else.

        `call_soon` and `call_later` are the loop's; `stopwatch` tells the seconds that a sweep takes.
        """
        self.handler = handler
        self.heads = Heads()
        self.answers = answers
        self.outbox = outbox
        outbox.on_failure = self.refuse_unsent
        self.limits = limits
        self.report = report
        self.on_refused = on_refused
        self.vital = vital
        self._call_soon = call_soon
        self._call_later = call_later
        self._stopwatch = stopwatch
        self.slice_bytes = min(FEED_SLICE_BYTES, limits.max_head)
        # A body in chunks of one byte each, with its size and two line ends around each, and a trailer
        # as large as a head: more than that has to hide in what the chunks say besides.
        self.max_message = limits.max_head + 6 * limits.max_body
        self.connections: set[Open] = set()
        self.draining = False
        # Seconds on a coarse clock that `sweep` advances: good enough for time limits of seconds, and
        # free on the hot path.
        self.now = 0.0
        # Asked about each new connection, if somebody wants to know: whether its client has left already.
        self.is_gone: Callable[[asyncio.BaseTransport], bool] | None = None
        self.held = 0
        self._held_before = 0
        self._counted = 0
        # This round: who is to be looked at yet, how many each time, and how many now (less than none: the
        # last slice was looked at in advance).
        self._unswept: list[Open] = []
        self._share = 0
        self._to_sweep = 0
        # This sweep: since when, and how many of its connections could wait then; and whether it goes on.
        self._began_s = 0.0
        self._may_wait = 0
        self._goes_on = False
        self._swept_s = 0.0

    def sweep(self, now: float) -> None:
        """End what has taken too long; called about four times a second."""
        self.now = now
        self.outbox.keep()
        if not self._unswept:
            self._unswept = list(self.connections)
            self._share = max(SWEEP_LEAST, math.ceil(len(self._unswept) / SWEEP_ROUND))
            self._held_before, self._counted = self.held, 0
        is_urgent = self.held > self.limits.max_held // 2
        share = len(self._unswept) if is_urgent else self._share
        self._to_sweep = min(self._to_sweep + share, len(self._unswept))
        # What the last sweep has left has waited long enough.
        self._may_wait = 0 if is_urgent else min(share, self._to_sweep)
        self._began_s = self._stopwatch()
        if not self._goes_on:
            self._swept_s = self._began_s
            self._sweep_slice()

    def _sweep_slice(self) -> None:
        # Whatever fails below, the next sweep begins anew.
        self._goes_on = False
        unswept, now, stopwatch = self._unswept, self.now, self._stopwatch
        began_s = stopwatch()
        until_s = began_s + max(SWEEP_TURN_S, (began_s - self._swept_s) * SWEEP_SHARE)
        self._swept_s = began_s
        left = 1 - (began_s - self._began_s) / SWEEP_OVER_S
        may_wait = max(0, int(self._may_wait * left) - SWEEP_AT_ONCE)
        while unswept and self._to_sweep > may_wait:
            part = unswept[-SWEEP_SLICE:]
            del unswept[-SWEEP_SLICE:]
            self._to_sweep -= SWEEP_SLICE
            self._counted += sum([connection.check(now) for connection in part])
            if stopwatch() >= until_s:
                break
        if not unswept:
            self._to_sweep = 0
            # What was reported in the meantime may have been counted, too.
            self.held = max(0, self._counted + self.held - self._held_before)
        elif self._to_sweep > may_wait:
            self._goes_on = True
            self._call_soon(self._sweep_slice)
        elif self._to_sweep > 0:
            self._goes_on = True
            self._call_later(SWEEP_OVER_S * SWEEP_DUE / self._may_wait, self._sweep_slice)

    def give_back(self, number: int) -> None:
        """So many bytes are held no more, whether or not this round has counted them already."""
        self.held -= number
        self._held_before -= number

    def drain(self) -> None:
        """From now on the next answer on a connection is its last, and says so."""
        self.draining = True

    def close_idle(self) -> None:
        """The end of the draining window: nobody is in the middle of a request, so nobody is hurt."""
        for connection in list(self.connections):
            connection.close_if_idle()

    def refuse_unsent(self) -> None:
        """Events could not be made safe: one 503 to everybody who waits for an answer."""
        for connection in list(self.connections):
            connection.refuse_unsent()

    def abort_all(self) -> None:
        for connection in list(self.connections):
            connection.abort()
        # What they asked for stays logged.
        self.outbox.keep()
