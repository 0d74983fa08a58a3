"""What is printed: the table of the kinds of fault and the verdict."""

from collections.abc import Mapping, Sequence

from torturelib.comparing import Comparison
from torturelib.verdict import CALM, KindFigures


def duration(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def table(by_kind: Mapping[str, KindFigures], unsupported: Mapping[str, str]) -> str:
    """One line for each kind, and for each pair of one inside another."""
    rows: list[tuple[str, ...]] = [
        ("fault", "times", "each", "failed /log", "failed /ad", "gap /log", "gap /ad")
    ]
    for name in sorted(by_kind, key=lambda name: (name == CALM, " + " in name, name)):
        figures = by_kind[name]
        each = f"{figures.total_s / figures.times:.1f} s" if figures.times else ""
        rows.append(
            (
                name,
                str(figures.times or ""),
                each,
                *(_failed(figures, endpoint) for endpoint in ("log", "ad")),
                *(_gap(figures, endpoint) for endpoint in ("log", "ad")),
            )
        )
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if place in (0, 3, 4) else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines += [f"{name}: not done, {reason}" for name, reason in sorted(unsupported.items())]
    return "\n".join(lines)


def figures(found: Comparison, seconds: float) -> str:
    return (
        f"{found.sent:,} sent in {duration(seconds)}, {found.acknowledged:,} acknowledged,"
        f" {found.stored:,} stored ({found.unacknowledged_stored:,} of them not acknowledged)\n"
        f"acknowledged − stored = {found.lost:,}, duplicates = {found.duplicates:,},"
        f" damaged = {found.damaged:,}, strange = {found.strange:,}, rejected = {found.rejected:,},"
        f" ledger rows left = {found.ledger_rows:,}\n"
        f"visits told of {found.ads.told:,} events {found.ads.tellings:,} times,"
        f" {found.ads.counted:,} counted;"
        f" acknowledged − counted = {found.ads.uncounted:,}, made up = {found.ads.made_up:,},"
        f" rollup − raw = {-found.ads.rollup_requests_off:,} and {-found.ads.rollup_events_off:,},"
        f" over goal = {found.ads.over_goal:,}"
    )


def verdict(wrong: Sequence[str]) -> str:
    if not wrong:
        return "VERDICT: every promise held"
    return "VERDICT: FAILED\n" + "\n".join(wrong)


def _failed(figures: KindFigures, endpoint: str) -> str:
    mine = {
        what.partition(" ")[2]: count
        for what, count in figures.failed.items()
        if what.startswith(endpoint + " ")
    }
    return ", ".join(f"{count:,} {what}" for what, count in sorted(mine.items())) or "0"


def _gap(figures: KindFigures, endpoint: str) -> str:
    longest = figures.longest_gap_s.get(endpoint)
    return f"{longest:.2f} s" if longest is not None else "< 0.1 s"
