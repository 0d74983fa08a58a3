"""What the master keeps books about: slots, the children in them, and what can be ordered for them.

Plain records and the one small rule that belongs to a record, how pauses grow. The rules that tie them
together are in `children`.

Must not know: `os`, signals, sockets, the clock.
"""

import math
from dataclasses import dataclass, field
from enum import Enum

# The keeper's slot. Workers count from 0.
KEEPER = -1

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
# A child that served this long was healthy, whatever killed it.
STABLE_AFTER_S = 5.0


class Phase(Enum):
    """Where a living child stands. One that is gone is not kept."""

    BOOTING = "booting"
    READY = "ready"
    DRAINING = "draining"


class Cause(Enum):
    """Why a slot needs another child."""

    EXIT = "exit"
    SIGNAL = "signal"
    HUNG = "hung"
    BOOT_TIMEOUT = "boot_timeout"
    # It was told to leave by somebody else than the master, or left for reasons of its own.
    RETIRED = "retired"
    # It has served as long, as often or with as much memory as it may.
    RECYCLED = "recycled"


@dataclass(slots=True, eq=False)
class Child:
    """A living child."""

    pid: int
    slot: int
    generation: int
    seat: int
    phase: Phase = Phase.BOOTING
    ready_at_s: float = math.inf
    drain_until_s: float = math.inf
    # Why the master killed it, for the log; empty if it did not.
    killed_for: str = ""
    # Why it wants a successor, for the log; empty if it does not.
    recycle_for: str = ""


@dataclass(slots=True)
class Backoff:
    """Pauses between attempts that keep failing."""

    failures: int = 0
    not_before_s: float = -math.inf

    def failed(self, now_s: float) -> None:
        pause_s = FIRST_PAUSE_S * 2.0 ** min(self.failures, 16)
        self.not_before_s = now_s + min(pause_s, LONGEST_PAUSE_S)
        self.failures += 1

    def cleared(self) -> None:
        self.failures = 0
        self.not_before_s = -math.inf


@dataclass(slots=True, eq=False)
class Slot:
    """One place to be filled for as long as the server lives, or until it is scaled away."""

    number: int
    generation: int
    current: Child | None = None
    candidate: Child | None = None
    leaving: list[Child] = field(default_factory=list)
    backoff: Backoff = field(default_factory=Backoff)
    # Its children have died early so often that it gets no new connections until one has lasted.
    crash_looping: bool = False
    # Since when it is to go; infinite while it is to stay.
    removed_at_s: float = math.inf
    # It is to go, but first somebody has to answer those who wait in its queue.
    has_queue: bool = False

    @property
    def removing(self) -> bool:
        return self.removed_at_s < math.inf

    @property
    def empty(self) -> bool:
        return self.current is None and self.candidate is None and not self.leaving


@dataclass(slots=True, frozen=True)
class Start:
    """Fork a child for this slot."""

    slot: int
    generation: int
    # It takes over from the present one once it is ready.
    gated: bool = False


@dataclass(slots=True, frozen=True)
class Drain:
    """Ask this child to finish what it has and leave."""

    child: Child


@dataclass(slots=True, frozen=True)
class ReloadDone:
    """Every slot runs this generation."""

    generation: int


@dataclass(slots=True, frozen=True)
class ReloadAborted:
    """This slot's candidate failed; slots not yet reached keep their children."""

    generation: int
    slot: int


@dataclass(slots=True, frozen=True)
class RecycleFailed:
    """This slot's successor failed; the present child goes on, and it is tried again."""

    slot: int


@dataclass(slots=True, frozen=True)
class Open:
    """Make a listener for this slot, which is one more than there are."""

    slot: int


@dataclass(slots=True, frozen=True)
class Close:
    """Close the listener of this slot, the last one, unless somebody waits in its queue."""

    slot: int
    # Whoever waits there has been given every chance: close it all the same.
    at_once: bool = False


@dataclass(slots=True, frozen=True)
class CrashLooping:
    """Children of this slot keep dying early; the others go on without it."""

    slot: int
    failures: int


@dataclass(slots=True, frozen=True)
class Recovered:
    """A slot whose children kept dying early has one that lasts."""

    slot: int


Action = (
    Start
    | Drain
    | ReloadDone
    | ReloadAborted
    | RecycleFailed
    | Open
    | Close
    | CrashLooping
    | Recovered
)
