"""The chart of a run as SVG: two panels, contenders down, one bar for each number of workers. Pure.

Readable on a light and on a dark page: the ground is transparent and the colours follow the reader's
setting. Only plain classes are used for colours, because renderers to PNG know no CSS variables.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from benchlib.contenders import BY_NAME, CEILING, OURS, WITHOUT_JOURNAL, ZONE, ZONE_OF_FEW
from benchlib.plan import Case, Workload
from benchlib.summary import WORKLOAD_TITLES, Medians

WIDTH = 880
MARGIN = 20
LABELS_WIDTH = 196
PANEL_GAP = 28
VALUE_WIDTH = 58
TOP = 92
BAR_HEIGHT = 11
BAR_GAP = 3
GROUP_GAP = 14
FOOTER = 58

PANEL_WIDTH = (WIDTH - 2 * MARGIN - LABELS_WIDTH - 2 * PANEL_GAP) / 2
FULL_BAR = PANEL_WIDTH - VALUE_WIDTH

# One worker is the strongest tone, more are paler.
TONES = (1.0, 0.68, 0.42)

STYLE = """
text { font-family: -apple-system, 'Segoe UI', 'Noto Sans', Helvetica, Arial, 'DejaVu Sans', sans-serif }
.title { font-size: 17px; font-weight: 600 }
.panel { font-size: 13px; font-weight: 600 }
.name { font-size: 12.5px }
.value, .note { font-size: 11px }
.strong { font-weight: 600 }
.text { fill: #1f2328 } .muted { fill: #59636e }
.ours { fill: #0969da } .choosing { fill: #80b6f4 } .peer { fill: #818b98 } .ceiling { fill: #c297ff }
.axis { stroke: #d1d9e0 }
@media (prefers-color-scheme: dark) {
  .text { fill: #f0f6fc } .muted { fill: #9198a1 }
  .ours { fill: #4493f8 } .choosing { fill: #26588f } .peer { fill: #848d97 } .ceiling { fill: #8256d0 }
  .axis { stroke: #3d444d }
}
"""

# Peers have what is in between.
_PLACES = {OURS: 0, ZONE: 1, ZONE_OF_FEW: 1, CEILING: 3}
_COLOURS = {OURS: "ours", ZONE: "choosing", ZONE_OF_FEW: "choosing", CEILING: "ceiling"}


@dataclass(frozen=True, slots=True)
class Chart:
    figures: Medians
    names: Sequence[str]
    workers: Sequence[int]
    connections: int
    # One line on where and how it was measured.
    footnote: str

    def svg(self) -> str:
        names = self._ordered()
        body: list[str] = []
        y = float(TOP)
        for name in names:
            body += self._group(name, y)
            y += self._group_height(name) + GROUP_GAP
        bottom = y - GROUP_GAP / 2
        height = round(bottom + FOOTER)
        title = f"Requests per second, {self.connections} connections"
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
                f'width="{WIDTH}" height="{height}" role="img" aria-label="{escape(title)}">',
                f"<style>{STYLE}</style>",
                _text(MARGIN, 34, title, "title text"),
                *(self._panel_head(position, bottom) for position in range(len(Workload))),
                *body,
                *self._legend(bottom + 24),
                _text(MARGIN, bottom + 44, self.footnote, "note muted"),
                "</svg>\n",
            ]
        )

    def _ordered(self) -> list[str]:
        """Ours, the same choosing ads, then the peers from the fastest, then the ceiling."""

        def rank(name: str) -> tuple[int, float]:
            best = max(
                (self._figure(name, Workload.AD, count) or 0.0 for count in self.workers),
                default=0.0,
            )
            return _PLACES.get(name, 2), -best

        # The chart compares servers; what our own parts cost is in the table.
        measured = [
            n
            for n in self.names
            if n != WITHOUT_JOURNAL and any(self._bars(n, workload) for workload in Workload)
        ]
        return sorted(measured, key=rank)

    def _figure(self, name: str, workload: Workload, workers: int) -> float | None:
        return self.figures.get((name, Case(workload, workers, self.connections)))

    def _bars(self, name: str, workload: Workload) -> list[tuple[int, float]]:
        """Position among the numbers of workers, and the figure."""
        figures = ((i, self._figure(name, workload, count)) for i, count in enumerate(self.workers))
        return [(position, figure) for position, figure in figures if figure is not None]

    def _group_height(self, name: str) -> float:
        bars = max(len(self._bars(name, workload)) for workload in Workload)
        return bars * (BAR_HEIGHT + BAR_GAP) - BAR_GAP

    def _group(self, name: str, y: float) -> list[str]:
        height = self._group_height(name)
        strong = " strong" if name == OURS else ""
        title = BY_NAME[name].title
        parts = [
            _text(
                MARGIN + LABELS_WIDTH, y + height / 2 + 4.5, title, f"name text{strong}", end=True
            )
        ]
        colour = _COLOURS.get(name, "peer")
        for panel, workload in enumerate(Workload):
            scale = FULL_BAR / self._most(workload)
            bars = self._bars(name, workload)
            used = len(bars) * (BAR_HEIGHT + BAR_GAP) - BAR_GAP
            top = y + (height - used) / 2
            for row, (position, figure) in enumerate(bars):
                at = top + row * (BAR_HEIGHT + BAR_GAP)
                x, length = self._panel_x(panel), max(figure * scale, 1.0)
                parts.append(
                    f'<rect class="{colour}" opacity="{_tone(position)}" x="{x:.1f}" y="{at:.1f}" '
                    f'width="{length:.1f}" height="{BAR_HEIGHT}" rx="2"/>'
                )
                value = f"{figure:,.0f}"
                parts.append(_text(x + length + 6, at + 9.5, value, f"value muted{strong}"))
        return parts

    def _most(self, workload: Workload) -> float:
        every = [
            figure for (_, case), figure in self.figures.items() if self._shown(case, workload)
        ]
        return max(every, default=1.0)

    def _shown(self, case: Case, workload: Workload) -> bool:
        return case.workload is workload and case.connections == self.connections

    @staticmethod
    def _panel_x(panel: int) -> float:
        return MARGIN + LABELS_WIDTH + PANEL_GAP / 2 + panel * (PANEL_WIDTH + PANEL_GAP)

    def _panel_head(self, panel: int, bottom: float) -> str:
        x = self._panel_x(panel)
        head = _text(x, 68, WORKLOAD_TITLES[list(Workload)[panel]], "panel text")
        axis = f'<path class="axis" d="M{x - 3:.1f} {TOP - 8}V{bottom:.1f}"/>'
        return head + axis

    def _legend(self, y: float) -> list[str]:
        if len(self.workers) == 1:
            return [_text(MARGIN, y, _workers(self.workers[0]), "note muted")]
        parts, x = [], float(MARGIN)
        for position, count in enumerate(self.workers):
            parts.append(
                f'<rect class="peer" opacity="{_tone(position)}" x="{x:.1f}" y="{y - 9.5:.1f}" '
                f'width="{BAR_HEIGHT}" height="{BAR_HEIGHT}" rx="2"/>'
            )
            parts.append(_text(x + 17, y, _workers(count), "note muted"))
            x += 92
        return parts


def _tone(position: int) -> float:
    return TONES[min(position, len(TONES) - 1)]


def _workers(count: int) -> str:
    return f"{count} worker{'s' if count > 1 else ''}"


def _text(x: float, y: float, text: str, classes: str, *, end: bool = False) -> str:
    anchor = ' text-anchor="end"' if end else ""
    return f'<text class="{classes}" x="{x:.1f}" y="{y:.1f}"{anchor}>{escape(text)}</text>'
