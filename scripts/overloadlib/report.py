"""What a run found, as a table for people, verdicts, and JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from overloadlib.load import PERIOD_S, Period
from overloadlib.phases import Phase

PER_ROW = round(1 / PERIOD_S)
# What the project promises for five times the peak.
GOODPUT_SHARE = 0.9
P99_LIMIT_S = 1.0
RECOVERY_LIMIT_S = 2.0
MEMORY_GROWTH = 1.5
# And for each open connection, see docs/tuning.md.
CONNECTION_BYTES = 4096
# What a crowd that only takes places may do to the p99 of others.
CROWD_FACTOR = 2.0
# A period is well again when all but this share of its requests are answered.
WELL_SHARE = 0.99


def percentile(values: Sequence[float], share: float) -> float | None:
    """By rank; None without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def table(phase: Phase) -> list[str]:
    """One line a second, and the sum."""
    asked = "as fast as it is answered" if phase.rate is None else f"{phase.rate:,.0f}/s"
    memory = "" if phase.memory_bytes is None else f"; workers {phase.memory_bytes >> 20} MB"
    lines = [
        f"{phase.name}: {asked}{memory}",
        "   second      due     sent     good      503  too late   failed   p50 ms   p99 ms",
    ]
    for second in range(0, round(phase.duration_s)):
        row = Period()
        for period in phase.periods[second * PER_ROW : (second + 1) * PER_ROW]:
            row.add(period)
        lines.append(_row(str(second + 1), row))
    lines.append(_row("all", phase.total))
    return lines


def _row(name: str, row: Period) -> str:
    times = "".join(
        f"{'-' if value is None else format(1000 * value, '.0f'):>9}"
        for value in (percentile(row.latencies, 0.5), percentile(row.latencies, 0.99))
    )
    return (
        f"{name:>9}{row.due:>9,}{row.sent:>9,}{row.good:>9,}{row.shed:>9,}"
        f"{row.late:>10,}{row.failed:>9,}{times}"
    )


def recovered_after_s(phase: Phase) -> float | None:
    """Seconds until the last period in which not all were answered; None if it never was well."""
    last_bad = -1
    for number, period in enumerate(phase.periods):
        if period.due and period.good < WELL_SHARE * period.due:
            last_bad = number
    seconds = (last_bad + 1) * PERIOD_S
    return seconds if seconds < phase.duration_s else None


@dataclass(frozen=True, slots=True)
class Verdict:
    """One promise, and whether it was kept."""

    promise: str
    found: str
    kept: bool

    def __str__(self) -> str:
        return f"  {'ok  ' if self.kept else 'MISS'}  {self.promise:<46} {self.found}"


def _bar(peaks: Sequence[float]) -> float:
    return max(peaks[0], fmean(peaks))


def verdicts(peaks: Sequence[Phase], over: Phase, after: Phase) -> list[Verdict]:
    """The peaks are those before and after, of equal length: between them a machine may change its mind.

    The second can raise what is asked for, and not lower it: a server may have been hurt.
    """
    peak_per_s = _bar([peak.good_per_s for peak in peaks])
    share = over.good_per_s / peak_per_s if peak_per_s else 0.0
    found_share = f"{share:.0%}: {over.good_per_s:,.0f}/s of {peak_per_s:,.0f}/s"
    per_speed = [peak.good_per_s / peak.speed for peak in peaks if peak.speed]
    if any(per_speed) and over.speed:
        share = over.good_per_s / over.speed / _bar(per_speed)
        found_share += f"; {share:.0%} with all at equal speed of the cores"
    p99_s = percentile(over.total.latencies, 0.99)
    recovery_s = recovered_after_s(after)
    found = [
        Verdict(
            f"goodput at least {GOODPUT_SHARE:.0%} of the peak",
            found_share,
            share >= GOODPUT_SHARE,
        ),
        Verdict(
            f"p99 of the answered under {P99_LIMIT_S:g} s",
            "nobody was answered" if p99_s is None else f"{p99_s:.3f} s",
            p99_s is not None and p99_s < P99_LIMIT_S,
        ),
        Verdict(
            f"well again within {RECOVERY_LIMIT_S:g} s",
            "not at all" if recovery_s is None else f"{recovery_s:.1f} s",
            recovery_s is not None and recovery_s <= RECOVERY_LIMIT_S,
        ),
    ]
    before = peaks[0].memory_bytes
    if before is not None and over.memory_bytes is not None:
        limit = MEMORY_GROWTH * before + CONNECTION_BYTES * (over.connections or 0)
        found.append(
            Verdict(
                f"memory {MEMORY_GROWTH:g} x the peak's + 4 KB a connection",
                f"{over.memory_bytes >> 20} MB of {int(limit) >> 20}; {over.connections or 0:,} open",
                over.memory_bytes <= limit,
            )
        )
    return found


def beside_a_crowd(before: Phase, crowded: Phase, after: Phase) -> list[Verdict]:
    """What others noticed of a crowd, measured against the same without it, before and after."""
    alone_s = percentile([*before.total.latencies, *after.total.latencies], 0.99)
    beside_s = percentile(crowded.total.latencies, 0.99)
    found = [
        Verdict(
            "all of the others are answered",
            f"{crowded.total.good:,} of {crowded.total.due:,}",
            crowded.total.good == crowded.total.due > 0,
        )
    ]
    if alone_s is not None and beside_s is not None:
        factor = beside_s / alone_s
        found.append(
            Verdict(
                f"their p99 at most {CROWD_FACTOR:g} times that without the crowd",
                f"{factor:.2f}: {1000 * beside_s:.1f} ms, {1000 * alone_s:.1f} ms without",
                factor <= CROWD_FACTOR,
            )
        )
    return found


def offered(peak: Phase, over: Phase) -> str:
    """How much of the schedule was really asked: a load of our own can be too slow as well."""
    sent_per_s = over.total.sent / over.duration_s
    times = sent_per_s / peak.good_per_s if peak.good_per_s else 0.0
    return f"really sent: {sent_per_s:,.0f}/s, {times:.1f} times the peak"


def as_json(phases: Sequence[Phase]) -> list[dict[str, Any]]:
    return [
        {
            "name": phase.name,
            "rate": phase.rate,
            "duration_s": phase.duration_s,
            "memory_bytes": phase.memory_bytes,
            "connections": phase.connections,
            "speed": phase.speed,
            "p99_s": percentile(phase.total.latencies, 0.99),
            "periods": [
                {
                    name: getattr(period, name)
                    for name in ("due", "sent", "good", "shed", "late", "failed")
                }
                for period in phase.periods
            ],
        }
        for phase in phases
    ]
