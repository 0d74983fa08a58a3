"""Whether the promises held: failed requests against the faults of their time, and the comparison.

A failure belongs to the faults during which it began, ran or ended; it breaks a promise unless one of them
may cost that. What failed while nothing was wrong breaks a promise always.

Pure: figures in, sentences out.
"""

import bisect
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torturelib import visitors
from torturelib.comparing import Comparison
from torturelib.faults import Cost
from torturelib.truth import LEFT, Gap, Request

CALM = "(no fault)"
# What promises as much as /log does: nothing of it waits for PostgreSQL.
_AS_LOG = frozenset(visitors.ENDPOINTS)
SHOWN = 10


@dataclass(frozen=True, slots=True)
class Window:
    """The time of one step: from the beginning of the fault until all was well again."""

    number: int
    kinds: tuple[str, ...]
    from_s: float
    to_s: float

    @property
    def name(self) -> str:
        return " + ".join(self.kinds)


@dataclass(slots=True)
class KindFigures:
    times: int = 0
    total_s: float = 0.0
    failed: Counter[str] = field(default_factory=Counter)
    """By "log cut", "ad 503" and so on."""
    longest_gap_s: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Judgement:
    by_kind: dict[str, KindFigures]
    broken: list[str]
    """Promises that were not kept, each a sentence."""
    broken_count: int = 0


class Windows:
    """Windows in the order of time; they do not overlap."""

    def __init__(self, windows: Sequence[Window]) -> None:
        self._windows = sorted(windows, key=lambda window: window.from_s)
        self._ends = [window.to_s for window in self._windows]

    def around(self, at_s: float) -> Window | None:
        """The one in which it was, else the next: what is lost was sent shortly before it was lost."""
        place = bisect.bisect_left(self._ends, at_s)
        return self._windows[place] if place < len(self._windows) else None

    def during(self, from_s: float, to_s: float) -> list[Window]:
        found = []
        for window in self._windows[bisect.bisect_left(self._ends, from_s) :]:
            if window.from_s > to_s:
                break
            found.append(window)
        return found


def judge_requests(
    windows: Sequence[Window],
    costs: Mapping[str, Cost],
    failures: Iterable[Request],
    gaps: Iterable[Gap],
) -> Judgement:
    by_kind: dict[str, KindFigures] = {}
    judgement = Judgement(by_kind, [])
    for window in windows:
        figures = by_kind.setdefault(window.name, KindFigures())
        figures.times += 1
        figures.total_s += window.to_s - window.from_s
    index = Windows(windows)
    for request in failures:
        at = index.during(request.sent_s, request.ended_s)
        what = (_promise(request.endpoint), request.outcome)
        # The one that explains it; where none does, the first.
        guilty = next((w for w in at if any(what in costs[k] for k in w.kinds)), None)
        if request.outcome == LEFT:
            # HTTP's own rule, with or without a fault.
            continue
        window_of = guilty or (at[0] if at else None)
        name = window_of.name if window_of else CALM
        by_kind.setdefault(name, KindFigures()).failed[" ".join(what)] += 1
        if guilty is None:
            _break(judgement, request, window_of)
    for gap in gaps:
        at = index.during(gap.from_s, gap.to_s)
        name = at[0].name if at else CALM
        longest = by_kind.setdefault(name, KindFigures()).longest_gap_s
        longest[gap.endpoint] = max(longest.get(gap.endpoint, 0.0), gap.to_s - gap.from_s)
    return judgement


def _promise(endpoint: str) -> str:
    return "log" if endpoint in _AS_LOG else endpoint


def _break(judgement: Judgement, request: Request, window: Window | None) -> None:
    judgement.broken_count += 1
    if judgement.broken_count > SHOWN:
        return
    when = f"during step {window.number}, {window.name}" if window else "while nothing was wrong"
    judgement.broken.append(
        f"/{request.endpoint} {request.outcome} at {request.sent_s:.3f} s {when}, which promises"
        f" otherwise (event {request.number}, {request.connection}, after {request.took_s:.3f} s)"
    )


def judge_tables(found: Comparison, left: Sequence[str], windows: Sequence[Window]) -> list[str]:
    """What is wrong with what was stored; nothing, in the good case."""
    wrong = []
    for count, what in (
        (found.lost, "acknowledged and not stored"),
        (found.duplicates, "stored more than once"),
        (found.damaged, "stored with another content than was sent"),
        (found.strange, "rows of no event that was sent"),
        (found.rejected, "in request_log_rejected"),
        (found.ads.uncounted, "impressions, viewables and clicks acknowledged and not counted"),
        (found.ads.made_up, "impressions, viewables and clicks counted that nobody told of"),
        (found.ads.rollup_requests_off, "decisions more in the log than in the rollup"),
        (found.ads.rollup_events_off, "events more in ad_event than in the rollup"),
        (found.ads.other_campaign, "decisions logged with another campaign than was shown"),
        (found.ads.over_goal, "impressions billed beyond a goal"),
    ):
        if count:
            wrong.append(f"{count:,} {what}")
    index = Windows(windows)
    around = Counter(_where(index.around(at_s)) for at_s in found.lost_at_s)
    wrong += [f"  {count:,} lost {where}" for where, count in around.most_common(SHOWN)]
    for sample in found.samples:
        wrong.append(
            f"  event {sample.number} of /{sample.endpoint}, sent at {sample.sent_s:.3f} s"
            f" {_where(index.around(sample.sent_s))}, is stored {sample.copies} times"
        )
    if left:
        shown = ", ".join(left[:SHOWN]) + (" …" if len(left) > SHOWN else "")
        wrong.append(f"{len(left)} files are left after the stop: {shown}")
    return wrong


def judge_log(lines: Iterable[str]) -> list[str]:
    """What no fault explains: a part of the server that failed by itself."""
    bad = [line for line in lines if line.startswith("Traceback") or " critical: " in line]
    return [f"the server's log speaks of {len(bad)} bugs: {bad[0]}"] if bad else []


def _where(window: Window | None) -> str:
    return f"in or before step {window.number}, {window.name}" if window else "after the last step"
