"""Medians, ratios and what is required of them; the table that is printed. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchlib.contenders import BY_NAME, CEILING, OURS, WITHOUT_JOURNAL, ZONE, ZONE_OF_FEW
from benchlib.measuring import Measurement
from benchlib.plan import Case, Workload

Medians = Mapping[tuple[str, Case], float]

WORKLOAD_TITLES = {Workload.LOG: "log only (/log)", Workload.AD: "log and look up (/ad)"}


def medians(measurements: Iterable[Measurement]) -> dict[tuple[str, Case], float]:
    """Requests a second of each contender in each case, over the rounds that count."""
    figures: dict[tuple[str, Case], list[float]] = {}
    for measurement in measurements:
        if measurement.requests_per_s is not None:
            key = (measurement.contender, measurement.case)
            figures.setdefault(key, []).append(measurement.requests_per_s)
    return {key: median(values) for key, values in figures.items()}


def ratio(figures: Medians, peer: str, case: Case, who: str = OURS) -> float | None:
    """Ours (or that of `who`) over the peer's, in the same case."""
    ours, theirs = figures.get((who, case)), figures.get((peer, case))
    return None if ours is None or not theirs else ours / theirs


@dataclass(frozen=True, slots=True)
class Requirement:
    """With as many workers on both sides, ours must reach this many times the peer's figure."""

    workload: Workload
    peer: str
    at_least: float
    workers: int = 1
    who: str = OURS


REQUIREMENTS = (
    Requirement(Workload.AD, "go", 1.5),
    Requirement(Workload.AD, "fastapi", 5.0),
    Requirement(Workload.AD, "original", 6.0),
    Requirement(Workload.AD, "go", 1.2, who=ZONE),
    Requirement(Workload.AD, ZONE_OF_FEW, 0.85, who=ZONE),
    Requirement(Workload.LOG, CEILING, 0.65),
    Requirement(Workload.LOG, WITHOUT_JOURNAL, 0.95),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    requirement: Requirement
    connections: int
    ratio: float | None

    @property
    def met(self) -> bool:
        return self.ratio is not None and self.ratio >= self.requirement.at_least

    def __str__(self) -> str:
        wanted = self.requirement
        figure = "not measured" if self.ratio is None else f"{self.ratio:.2f} x"
        who = "" if wanted.who == OURS else f"{wanted.who}, "
        return (
            f"{'met   ' if self.met else 'NOT MET'} /{wanted.workload}, {who}{wanted.workers} worker, "
            f"{self.connections} connections: {figure} {BY_NAME[wanted.peer].title} "
            f"(at least {wanted.at_least:g})"
        )


def verdicts(
    figures: Medians, connections: Sequence[int], requirements: Sequence[Requirement] = REQUIREMENTS
) -> list[Verdict]:
    return [
        Verdict(
            wanted,
            count,
            ratio(figures, wanted.peer, Case(wanted.workload, wanted.workers, count), wanted.who),
        )
        for wanted in requirements
        for count in connections
    ]


def _cell(figures: Medians, name: str, case: Case) -> str:
    figure = figures.get((name, case))
    if figure is None:
        return "-"
    compared = ratio(figures, name, case)
    times = "" if name == OURS or compared is None else f"{compared:8.2f}"
    return f"{figure:10,.0f}{times:>8}"


def table(figures: Medians, names: Sequence[str], cases: Sequence[Case]) -> str:
    """One block for each workload and number of connections: contenders down, workers across."""
    width = max(len(BY_NAME[name].title) for name in names)
    lines = []
    blocks = dict.fromkeys((case.workload, case.connections) for case in cases)
    for workload, connections in blocks:
        columns = sorted(
            case for case in cases if (case.workload, case.connections) == (workload, connections)
        )
        lines.append(
            f"{WORKLOAD_TITLES[workload]}, {connections} connections: requests/s, ours / theirs"
        )
        heads = (f"{c.workers} worker{'s' if c.workers > 1 else ''}" for c in columns)
        lines.append(" " * width + "".join(f"{head:>20}" for head in heads))
        for name in names:
            if workload in BY_NAME[name].workloads:
                cells = "".join(f"{_cell(figures, name, case):>20}" for case in columns)
                lines.append(f"{BY_NAME[name].title:<{width}}{cells}")
        lines.append("")
    return "\n".join(lines)
