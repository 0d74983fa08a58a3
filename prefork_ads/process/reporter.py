"""Troubles that can repeat thousands of times a second, for a log that people read.

The first of a kind is said at once. While it goes on it is said again after one second, two, four, and
so on up to once a minute, with how often it has happened since. After two quiet minutes it is new again.
Two messages are of one kind when they differ in numbers only: attempts, durations, process ids.

PostgreSQL away for an hour is some 19,000 attempts of four workers to connect, and some 500 lines.

Must not know: what goes wrong.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
FORGOTTEN_AFTER_S = 120.0
# What is bounded here is our memory; more kinds than that at once are no more readable either.
MOST_KINDS = 100

_NUMBER = re.compile(r"\d+")


@dataclass(slots=True)
class _Trouble:
    heard_at: float
    say_at: float
    pause_s: float = FIRST_PAUSE_S
    unsaid: int = 0


class Reporter:
    """Passes messages on to `write`, each in a while."""

    def __init__(
        self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write = write
        self._clock = clock
        self._troubles: dict[str, _Trouble] = {}

    def say(self, message: str) -> None:
        now = self._clock()
        kind = _NUMBER.sub("0", message)
        trouble = self._troubles.get(kind)
        if trouble is None or now - trouble.heard_at > FORGOTTEN_AFTER_S:
            if len(self._troubles) >= MOST_KINDS:
                self._troubles.clear()
            self._troubles[kind] = _Trouble(now, now + FIRST_PAUSE_S)
            self._write(message)
            return
        trouble.heard_at = now
        if now < trouble.say_at:
            trouble.unsaid += 1
            return
        more = f" (and {trouble.unsaid} times before that)" if trouble.unsaid else ""
        self._write(message + more)
        trouble.unsaid = 0
        trouble.pause_s = min(trouble.pause_s * 2, LONGEST_PAUSE_S)
        trouble.say_at = now + trouble.pause_s
