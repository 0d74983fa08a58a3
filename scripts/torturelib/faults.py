"""What all kinds of fault have in common: a name, what they may cost, a beginning and an end.

A fault begins, is held for a while, and ends; `end` returns when the server has what it needs to serve
again and has said or shown that it noticed. Whether it then serves is looked at by the bed, for all kinds
alike. What a kind may cost is written as (endpoint, outcome): every other failure while it lasts breaks a
promise. That acknowledged events are stored once is promised for all of them.

Must not know: schedules, verdicts.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torturelib.network import Network
from torturelib.postgres import Postgres
from torturelib.program import Program
from torturelib.schedule import Kind
from torturelib.truth import CUT, REFUSED, TIMEOUT
from torturelib.waiting import Waiter

Cost = frozenset[tuple[str, str]]

NOTHING: Cost = frozenset()
# The request was in the hands of a process that died.
IN_HAND: Cost = frozenset({("log", CUT), ("ad", CUT)})
NOT_THERE: Cost = frozenset({("log", REFUSED), ("ad", REFUSED)})
# The ad cannot be looked up; the event is logged or not, but never promised.
NO_LOOKUP: Cost = frozenset({("ad", "503")})
NO_ROOM: Cost = frozenset({("log", "503"), ("ad", "503")})
LATE: Cost = frozenset({("log", TIMEOUT), ("ad", TIMEOUT)})


@dataclass(frozen=True, slots=True)
class Parts:
    """What faults are done to."""

    folder: Path
    program: Program
    postgres: Postgres
    network: Network
    waiter: Waiter


class Fault(ABC):
    """One kind; made anew for each time it happens."""

    name: ClassVar[str]
    about: ClassVar[str]
    may_cost: ClassVar[Cost]
    hold_s: ClassVar[tuple[float, float]] = (0.0, 0.0)
    outer: ClassVar[bool] = False
    inner: ClassVar[bool] = False

    def __init__(self, parts: Parts, pick: float) -> None:
        self.parts = parts
        self.pick = pick
        # What was done exactly, for the record.
        self.did = ""

    @classmethod
    def kind(cls) -> Kind:
        return Kind(cls.name, cls.hold_s, outer=cls.outer, inner=cls.inner)

    @classmethod
    def prepare(cls, parts: Parts) -> None:
        """Before the server is started; Unsupported when it cannot be done here."""
        return

    @classmethod
    def clean_up(cls, parts: Parts) -> None:
        """After everything has ended."""
        return

    @abstractmethod
    def begin(self) -> None: ...

    @abstractmethod
    def end(self) -> None: ...

    def pick_of(self, count: int) -> int:
        """One of so many, as the schedule has it."""
        return min(int(self.pick * count), count - 1)
