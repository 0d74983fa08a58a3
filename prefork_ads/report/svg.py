"""Charts drawn as inline SVG: lines over time, bars side by side.

Colours are variables that the page defines for light and dark, so a chart follows the reader's setting.
What a point stands for is said in a <title>, which browsers show when the pointer rests on it and
screen readers read. Every text is escaped: labels are other people's.

Must not know: reports, HTML around the chart.
"""

from collections.abc import Sequence
from decimal import ROUND_CEILING, Decimal
from html import escape
from typing import Final

from prefork_ads.report.measures import MEASURES
from prefork_ads.report.series import Chart
from prefork_ads.report.words import figure

WIDTH: Final = 720
HEIGHT: Final = 260
LEFT: Final = 62
RIGHT: Final = 14
TOP: Final = 14
BOTTOM: Final = 30
BAR_STEP: Final = 26
BAR_LABEL: Final = 190
BAR_FIGURE: Final = 92
TICKS: Final = 4
MOST_X_LABELS: Final = 6
COLOURS: Final = 6
LABEL_CHARS: Final = 26


def svg(chart: Chart) -> str:
    """The chart as an <svg> element that is as wide as its place."""
    return _lines(chart) if chart.over_time else _bars(chart)


def colour(n: int) -> str:
    """The CSS colour of the n-th series."""
    return f"var(--series-{n % COLOURS + 1})"


def scale(largest: Decimal) -> list[Decimal]:
    """Round numbers from 0 to at least `largest`, at even distances."""
    if largest <= 0:
        return [Decimal(0), Decimal(1)]
    rough = largest / TICKS
    unit = Decimal(1).scaleb(rough.adjusted())
    step = next(unit * times for times in (1, 2, Decimal("2.5"), 5, 10) if unit * times >= rough)
    count = int((largest / step).to_integral_value(ROUND_CEILING))
    return [step * n for n in range(count + 1)]


def _lines(chart: Chart) -> str:
    known = [Decimal(v) for one in chart.series for v in one.values if v is not None]
    ticks = scale(max(known, default=Decimal(0)))
    inner_width, inner_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(n: int) -> float:
        return LEFT + inner_width * n / max(1, len(chart.steps) - 1)

    def y(value: Decimal | int) -> float:
        return TOP + inner_height * (1 - float(Decimal(value) / ticks[-1]))

    parts = [_open(HEIGHT, f"{MEASURES[chart.measure].title} over time")]
    for tick in ticks:
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
            f'<text class="tick" x="{LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">'
            f"{escape(_short(chart.measure, tick))}</text>"
        )
    parts += _x_labels(chart.steps, [x(n) for n in range(len(chart.steps))])
    for n, one in enumerate(chart.series):
        points = [None if v is None else (x(i), y(v)) for i, v in enumerate(one.values)]
        parts.append(_path(points, colour(n)))
    half = inner_width / max(1, len(chart.steps) - 1) / 2
    for n, step in enumerate(chart.steps):
        said = [f"{one.name}: {figure(chart.measure, one.values[n])}" for one in chart.series]
        parts.append(
            f'<g class="step"><line x1="{x(n):.1f}" x2="{x(n):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
            f'<rect x="{x(n) - half:.1f}" y="{TOP}" width="{2 * half:.1f}" height="{inner_height}">'
            f"<title>{escape(chr(10).join([step, *said]))}</title></rect></g>"
        )
    return "".join([*parts, "</svg>"])


def _path(points: Sequence[tuple[float, float] | None], stroke: str) -> str:
    """A line that breaks where there is no figure; a point alone is a dot."""
    drawn, dots, pen = [], [], "M"
    for n, point in enumerate(points):
        if point is None:
            pen = "M"
            continue
        drawn.append(f"{pen}{point[0]:.1f} {point[1]:.1f}")
        alone = (n == 0 or points[n - 1] is None) and (
            n + 1 == len(points) or points[n + 1] is None
        )
        if alone:
            dots.append(f'<circle cx="{point[0]:.1f}" cy="{point[1]:.1f}" r="3" fill="{stroke}"/>')
        pen = "L"
    return f'<path class="line" stroke="{stroke}" d="{"".join(drawn)}"/>{"".join(dots)}'


def _x_labels(steps: Sequence[str], places: Sequence[float]) -> list[str]:
    every = -(-len(steps) // MOST_X_LABELS)
    parts = []
    for n in range(0, len(steps), every):
        anchor = "end" if n and n == len(steps) - 1 else "middle"
        parts.append(
            f'<text class="tick" x="{places[n]:.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">'
            f"{escape(_short_time(steps[n]))}</text>"
        )
    return parts


def _bars(chart: Chart) -> str:
    values = [Decimal(v or 0) for v in chart.series[0].values]
    largest = max(values, default=Decimal(0)) or Decimal(1)
    height = BAR_STEP * len(values) + 8
    room = WIDTH - BAR_LABEL - BAR_FIGURE
    parts = [_open(height, MEASURES[chart.measure].title)]
    for n, (step, value) in enumerate(zip(chart.steps, values, strict=True)):
        y = 4 + BAR_STEP * n
        width = max(1.0, room * float(value / largest)) if value else 0.0
        said = figure(chart.measure, chart.series[0].values[n])
        parts.append(
            f"<g><title>{escape(step)}: {escape(said)}</title>"
            f'<text class="label" x="{BAR_LABEL - 10}" y="{y + 16}" text-anchor="end">'
            f"{escape(_cut(step))}</text>"
            f'<rect x="{BAR_LABEL}" y="{y + 3}" width="{width:.1f}" height="{BAR_STEP - 8}" rx="3"'
            f' fill="{colour(0)}"/>'
            f'<text class="label" x="{BAR_LABEL + width + 8:.1f}" y="{y + 16}">{escape(said)}</text></g>'
        )
    return "".join([*parts, "</svg>"])


def _open(height: int, title: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">'


def _short(measure: str, value: Decimal) -> str:
    """An axis has little room: 1.5M, 20 %, 2.5."""
    kind = MEASURES[measure].kind
    if kind == "share":
        return f"{(value * 100).normalize():f} %"
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= size:
            return f"{(value / size).normalize():f}{letter}"
    return f"{value.normalize():f}"


def _short_time(step: str) -> str:
    """Without the offset of an hour: its moment is said in full where one points."""
    return step[5:16] if len(step) > 16 else step


def _cut(text: str) -> str:
    return text if len(text) <= LABEL_CHARS else text[: LABEL_CHARS - 1] + "…"
