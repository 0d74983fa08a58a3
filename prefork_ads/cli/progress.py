"""Progress of something long: a bar with rate and remaining time, or lines where nobody watches.

On a terminal one line is redrawn a few times a second. Elsewhere (a log file, a unit's journal) a
line is written every few seconds, because a redrawn line would be one endless line there.

Must not know: what is being counted.
"""

import shutil
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

_REDRAW_S = 0.2
_LINE_EVERY_S = 5.0

# The rate is that of this last while: chunks get slower as a table grows, and a mean over the whole
# would promise too much.
_WINDOW_S = 30.0

_BAR_WIDTH = 30
_BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


class Progress:
    """Call it with what is done and the total; leaving the context ends the line."""

    def __init__(
        self,
        stream: TextIO,
        noun: str,
        *,
        size: bool = False,
        clock: Callable[[], float] = time.monotonic,
        lasts_s: float | None = None,
    ) -> None:
        """`lasts_s` is how long it takes from now on, where that is known and not a matter of speed."""
        self.done = 0
        self.note = ""
        self._stream = stream
        self._noun = noun
        self._size = size
        self._clock = clock
        self._ends_at = None if lasts_s is None else clock() + lasts_s
        self._terminal = stream.isatty()
        self._steps: deque[tuple[float, int]] = deque()
        self._shown_at: float | None = None
        self._shown_width = 0

    def __call__(self, done: int, total: int | None, note: str = "") -> None:
        """`total` is None when nobody knows it; the note is shown behind everything else."""
        now = self._clock()
        self.done, self.note = done, note
        self._steps.append((now, done))
        while len(self._steps) > 2 and now - self._steps[0][0] > _WINDOW_S:
            self._steps.popleft()
        every = _REDRAW_S if self._terminal else _LINE_EVERY_S
        finished = total is not None and done >= total
        if finished or self._shown_at is None or now - self._shown_at >= every:
            self._shown_at = now
            self._show(self._line(done, total))

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the line, so that what is said next starts on its own."""
        if self._terminal and self._shown_width:
            self._stream.write("\n")
            self._stream.flush()
            self._shown_width = 0

    def _line(self, done: int, total: int | None) -> str:
        (first_at, first), (last_at, last) = self._steps[0], self._steps[-1]
        rate = (last - first) / (last_at - first_at) if last_at > first_at else 0.0
        parts = [f"{self._amount(done)} {self._noun}"]
        if total is not None:
            share = min(done / total, 1.0) if total else 1.0
            # There may be more than was asked for, such as rows of an earlier run.
            amount = self._amount(done)
            of_total = "" if done > total else f" of {self._amount(total)}"
            parts = [f"{share:4.0%}", f"{amount}{of_total} {self._noun}"]
            if self._terminal:
                filled = round(share * _BAR_WIDTH)
                parts.insert(0, f"[{'#' * filled}{'.' * (_BAR_WIDTH - filled)}]")
        if rate > 0:
            parts.append(f"{self._amount(round(rate))}/s")
            if total is not None and done < total:
                left_s = (total - done) / rate
                if self._ends_at is not None:
                    left_s = max(0.0, self._ends_at - last_at)
                parts.append(f"{show_time(left_s)} left")
        return "  ".join([*parts, self.note]).strip()

    def _amount(self, value: int) -> str:
        return show_bytes(value) if self._size else f"{value:,}"

    def _show(self, line: str) -> None:
        if not self._terminal:
            self._stream.write(line + "\n")
        else:
            # A line as wide as the terminal would wrap and could not be redrawn.
            line = line[: shutil.get_terminal_size().columns - 1]
            self._stream.write("\r" + line.ljust(self._shown_width))
            self._shown_width = len(line)
        self._stream.flush()


def counted(number: int, one: str, many: str) -> str:
    """1 row, 1,200 rows."""
    return f"{number:,} {one if number == 1 else many}"


def show_bytes(value: int) -> str:
    """812 B, 4.0 KiB, 1.5 GiB."""
    number, unit = float(value), 0
    while number >= 1024 and unit < len(_BYTE_UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return f"{number:.1f} {_BYTE_UNITS[unit]}" if unit else f"{value} B"


def show_time(seconds: float) -> str:
    """45s, 12m 05s, 3h 20m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02}m"
