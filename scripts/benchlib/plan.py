"""Which measurements a run takes, and in which order. Pure.

Contenders are interleaved: all of them are measured in one case (workload, workers, connections) before
the next case begins, and each round begins with another one. What drifts on the machine while the bench
runs then meets all of them, and nobody always has the place after the hungriest.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Workload(StrEnum):
    """The value is the endpoint's name, in the URL and in the log's `endpoint` column."""

    LOG = "log"
    AD = "ad"


@dataclass(frozen=True, slots=True, order=True)
class Case:
    """What is asked of a contender; figures of the same case may be compared."""

    workload: Workload
    workers: int
    connections: int


@dataclass(frozen=True, slots=True)
class Load:
    """How wrk is run for each measurement."""

    threads: int
    duration_s: int
    warm_up_s: int


@dataclass(frozen=True, slots=True)
class Capability:
    """Which cases a contender takes part in."""

    name: str
    workloads: frozenset[Workload]
    most_workers: int | None = None

    def takes(self, case: Case) -> bool:
        return case.workload in self.workloads and (
            self.most_workers is None or case.workers <= self.most_workers
        )


@dataclass(frozen=True, slots=True)
class Step:
    round: int
    case: Case
    contender: str


def cases(workers: Sequence[int], connections: Sequence[int]) -> list[Case]:
    return [Case(t, w, c) for t in Workload for w in workers for c in connections]


def steps(
    contenders: Sequence[Capability], all_cases: Sequence[Case], rounds: int
) -> Iterator[Step]:
    for number in range(rounds):
        for position, case in enumerate(all_cases):
            shift = (number + position) % len(contenders)
            for contender in (*contenders[shift:], *contenders[:shift]):
                if contender.takes(case):
                    yield Step(number + 1, case, contender.name)
