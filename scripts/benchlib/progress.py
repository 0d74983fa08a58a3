"""One line for each measurement, with how long the rest will take."""

import sys
import time

from benchlib.contenders import BY_NAME
from benchlib.measuring import Measurement
from benchlib.plan import Step


def _remaining(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"about {minutes} min left" if minutes else f"{seconds:.0f} s left"


class Progress:
    def __init__(self, total: int, estimate_s: float) -> None:
        self._total = total
        self._done = 0
        self._started_at = time.monotonic()
        print(f"{total} measurements, about {total * estimate_s / 60:.0f} min", file=sys.stderr)

    def step(self, step: Step) -> None:
        case = step.case
        what = f"/{case.workload} {case.workers}w {case.connections}c round {step.round}"
        width = len(str(self._total))
        print(
            f"[{self._done + 1:>{width}}/{self._total}] {BY_NAME[step.contender].name:<13} {what:<24}",
            end="",
            flush=True,
            file=sys.stderr,
        )

    def done(self, measurement: Measurement) -> None:
        self._done += 1
        figure = measurement.requests_per_s
        said = "FAILED" if figure is None else f"{figure:,.0f}/s"
        each_s = (time.monotonic() - self._started_at) / self._done
        left = _remaining(each_s * (self._total - self._done))
        print(f"{said:>12}   {left}", file=sys.stderr)
        for failure in measurement.failures:
            print(f"    {failure}", file=sys.stderr)
