"""A line for each step; on a terminal, one below it that moves."""

import sys
import time

from torturelib.report import duration
from torturelib.schedule import Step

MOVES_EVERY_S = 0.25


class Progress:
    """Of a run that ends at a time or after a number of steps."""

    def __init__(self, *, limit_s: float | None, steps: int | None) -> None:
        self._limit_s = limit_s
        self._steps = steps
        self._done = 0
        self._began_s = time.monotonic()
        self._moved_at_s = 0.0
        self._live = sys.stderr.isatty()
        self._doing = ""

    def begin(self, step: Step) -> None:
        self._doing = f"{step}"

    def end(self, step: Step, did: str, took_s: float, counts: str) -> None:
        self._done += 1
        total = f"/{self._steps}" if self._steps else ""
        said = f"  ({did})" if did else ""
        self._clear()
        print(
            f"[{step.number:>3}{total}] {duration(self._elapsed_s)} {step}: {took_s:.1f} s;"
            f" {counts}; {self._left()}{said}",
            file=sys.stderr,
            flush=True,
        )

    def move(self, counts: str) -> None:
        now_s = time.monotonic()
        if self._live and now_s - self._moved_at_s > MOVES_EVERY_S:
            self._moved_at_s = now_s
            line = f"      {duration(self._elapsed_s)} {self._doing} …; {counts}; {self._left()}"
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)

    def _clear(self) -> None:
        if self._live:
            print("\r\x1b[K", end="", file=sys.stderr)

    @property
    def _elapsed_s(self) -> float:
        return time.monotonic() - self._began_s

    def _left(self) -> str:
        if self._limit_s is not None:
            return f"{duration(self._limit_s - self._elapsed_s)} left"
        if not self._done or self._steps is None:
            return "…"
        each_s = self._elapsed_s / self._done
        return f"about {duration(each_s * (self._steps - self._done))} left"
