"""Which faults, in which order, for how long: all of it decided by the seed.

Two ways to ask. For so many minutes: every kind once in random order, then all of them again in another
order, until the time is over. By a plan, `worker-kill*100,postgres-kill*30`: exactly these, shuffled. In
both, something that befalls the database may have something that befalls a process inside it, since
that is when a journal is worth most; an inner fault counts as one of the plan.

A step says everything about itself in numbers. Which worker is hit is `pick`, from 0 to 1, since how many
there are is only known when the moment comes.

Must not know: how a fault is done.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torturelib.errors import TortureError

INNER_SHARE = 0.35


@dataclass(frozen=True, slots=True)
class Kind:
    """What the schedule has to know about a kind of fault."""

    name: str
    hold_s: tuple[float, float]
    """How long the fault lasts, at random between these."""
    outer: bool = False
    """Others may happen inside it."""
    inner: bool = False
    """May happen inside others."""


@dataclass(frozen=True, slots=True)
class Step:
    number: int
    kind: str
    pause_s: float
    """Calm before it."""
    hold_s: float
    pick: float
    inner: str | None = None
    inner_after_s: float = 0.0
    """Of the time it is held."""
    inner_pick: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        inside = f" with {self.inner} inside" if self.inner else ""
        return f"{self.kind}{inside}"


def endless(seed: int, kinds: Sequence[Kind]) -> Iterator[Step]:
    """Every kind once, in random order, again and again."""
    source = random.Random(seed)
    inners = [kind for kind in kinds if kind.inner]
    number = 0
    while True:
        for kind in source.sample(kinds, len(kinds)):
            number += 1
            inner = None
            if source.random() < INNER_SHARE and kind.outer and inners:
                inner = source.choice(inners)
            yield _step(source, number, kind, inner)


def planned(seed: int, kinds: Mapping[str, Kind], plan: Mapping[str, int]) -> Iterator[Step]:
    """Each kind as often as the plan says."""
    source = random.Random(seed)
    left = [kinds[name] for name, times in plan.items() for _ in range(times)]
    source.shuffle(left)
    number = 0
    while left:
        number += 1
        kind, inner = left.pop(0), None
        if source.random() < INNER_SHARE and kind.outer:
            inner = next((other for other in left if other.inner), None)
        if inner is not None:
            left.remove(inner)
        yield _step(source, number, kind, inner)


def _step(source: random.Random, number: int, kind: Kind, inner: Kind | None) -> Step:
    hold_s = round(source.uniform(*kind.hold_s), 3)
    # Short calms most of the time, and now and then one in which everything settles.
    pause_s = round(source.uniform(0.1, 0.8) if source.random() < 0.8 else 2.0, 3)
    return Step(
        number=number,
        kind=kind.name,
        pause_s=pause_s,
        hold_s=hold_s,
        pick=round(source.random(), 6),
        inner=inner.name if inner else None,
        inner_after_s=round(source.uniform(0.0, hold_s), 3) if inner else 0.0,
        inner_pick=round(source.random(), 6) if inner else 0.0,
    )


def parse_plan(text: str, known: Sequence[str]) -> dict[str, int]:
    """`worker-kill*100,master-kill` as numbers by name."""
    plan: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, times = part.partition("*")
        name = name.strip()
        if name not in known:
            raise TortureError(f"there is no fault {name!r}; choose from {', '.join(known)}")
        if times and not (times.strip().isdigit() and int(times) > 0):
            raise TortureError(f"{part!r} is not of the form {name}*100")
        plan[name] = plan.get(name, 0) + int(times or 1)
    if not plan:
        raise TortureError("the plan is empty")
    return plan
