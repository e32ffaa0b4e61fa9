"""Pictures as SVG: bars, and lines. Pure.

Our own and not a plotting library's: a few numbers as bars or lines are a page of code, the files are small and readable,
nothing is loaded from elsewhere, and nobody has to install 60 MB to look at a benchmark.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#4269d0", "#d99e0b", "#e4572e", "#3f9f8f", "#8d4fd6", "#3ca951", "#d6568c", "#7d818a")
WIDTH, LABEL, RIGHT = 860, 300, 90
BAR, GAP, TOP = 13, 9, 46
PLOT_HEIGHT, PLOT_LEFT = 240, 70
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#222}.title{font-weight:600;font-size:14px}.faint{fill:#777}"
    ".axis{stroke:#bbb;stroke-width:1}.line{fill:none;stroke-width:2}"
)


@dataclass(frozen=True)
class Bars:
    """Per label the values of some series, drawn from 0; where one is None stands what `missing` says."""

    title: str
    unit: str
    series: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]
    missing: str = "n/a"

    def svg(self) -> str:
        """The picture."""
        values = [value for _, row in self.rows for value in row if _known(value)]
        most = max([value for value in values if value is not None], default=0.0) or 1.0
        each = BAR * len(self.series) + GAP
        parts = [_title(self.title), _legend(self.series)]
        for number, (label, row) in enumerate(self.rows):
            y = TOP + number * each
            parts.append(_text(LABEL - 8, y + BAR * len(self.series) / 2 + 4, label, "end"))
            for at, value in enumerate(row):
                parts.append(self._bar(y + at * BAR, value, most, COLOURS[at % len(COLOURS)]))
        return _svg(TOP + each * len(self.rows) + 4, parts)

    def _bar(self, y: float, value: float | None, most: float, colour: str) -> str:
        if value is None or not math.isfinite(value):
            return _text(LABEL + 4, y + 11, self.missing, "start", "faint") if self.missing else ""
        width = (WIDTH - LABEL - RIGHT) * value / most
        bar = f'<rect x="{LABEL}" y="{y + 1:.0f}" width="{width:.1f}" height="{BAR - 2}" fill="{colour}"/>'
        return bar + _text(LABEL + width + 5, y + 11, f"{_number(value)} {self.unit}", "start", "faint")


@dataclass(frozen=True)
class Lines:
    """Per series points (x, y), joined in their order; axes from 0, or logarithmic."""

    title: str
    x: str
    y: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    log_x: bool = False
    log_y: bool = False

    def svg(self) -> str:
        """The picture."""
        points = [point for found in self.series.values() for point in found]
        across = _Axis([x for x, _ in points], PLOT_LEFT, WIDTH - 20, self.log_x)
        up = _Axis([y for _, y in points], TOP + PLOT_HEIGHT, TOP, self.log_y)
        bottom = TOP + PLOT_HEIGHT
        parts = [_title(self.title), _legend(tuple(self.series))]
        for value in across.ticks():
            parts.append(f'<path class="axis" d="M{across.at(value):.1f} {bottom}v4"/>')
            parts.append(_text(across.at(value), bottom + 17, _number(value), "middle"))
        for value in up.ticks():
            parts.append(f'<path class="axis" d="M{PLOT_LEFT} {up.at(value):.1f}H{WIDTH - 20}"/>')
            parts.append(_text(PLOT_LEFT - 6, up.at(value) + 4, _number(value), "end"))
        for at, found in enumerate(self.series.values()):
            path = " ".join(f"{across.at(x):.1f},{up.at(y):.1f}" for x, y in found)
            parts.append(f'<polyline class="line" stroke="{COLOURS[at % len(COLOURS)]}" points="{path}"/>')
        parts.append(_text((PLOT_LEFT + WIDTH) / 2, bottom + 34, self.x, "middle", "faint"))
        parts.append(_text(PLOT_LEFT, TOP - 8, self.y, "start", "faint"))
        return _svg(bottom + 44, parts)


class _Axis:
    """From values to places on a line, from 0 (or the least, if logarithmic) to the greatest."""

    def __init__(self, values: Sequence[float], begin: float, end: float, log: bool) -> None:
        self._log = log
        self._begin, self._end = begin, end
        known = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
        high = max(known, default=1.0) or 1.0
        self._low, self._high = self._scaled(min(known, default=1.0)) if log else 0.0, self._scaled(high)
        if self._low == self._high:
            self._high = self._low + 1.0

    def _scaled(self, value: float) -> float:
        return math.log10(max(value, 1e-12)) if self._log else value

    def at(self, value: float) -> float:
        """The place of a value."""
        share = (self._scaled(value) - self._low) / (self._high - self._low)
        return self._begin + share * (self._end - self._begin)

    def ticks(self) -> list[float]:
        """Round values to name."""
        if self._log:
            powers = range(math.ceil(self._low - 1e-9), math.floor(self._high + 1e-9) + 1)
            return [10.0**power for power in powers] or [10.0**self._low, 10.0**self._high]
        step = 10.0 ** math.floor(math.log10(self._high))
        step = next(step * f for f in (0.1, 0.2, 0.5, 1.0) if self._high / (step * f) <= 6 or f == 1.0)
        return [step * number for number in range(math.floor(self._high / step + 1e-9) + 1)]


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _number(value: float) -> str:
    for limit, scale, suffix in ((1e6, 1e6, "M"), (1e3, 1e3, "k")):
        if abs(value) >= limit:
            return f"{value / scale:.3g}{suffix}"
    return f"{value:.3g}"


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _title(text: str) -> str:
    return _text(8, 17, text, "start", "title")


def _legend(series: Sequence[str]) -> str:
    parts, x = [], LABEL
    if len(series) < 2:
        return ""
    for at, name in enumerate(series):
        parts.append(f'<rect x="{x}" y="25" width="10" height="10" fill="{COLOURS[at % len(COLOURS)]}"/>')
        parts.append(_text(x + 14, 34, name, "start"))
        x += 28 + 7 * len(name)
    return "".join(parts)


def _svg(height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" '
        f'height="{height:.0f}"><style>{STYLE}</style>' + "\n".join(parts) + "</svg>\n"
    )


Chart = Bars | Lines


def stacked(charts: Sequence[Chart]) -> str:
    """Several pictures below each other as one SVG."""
    pieces, y = [], 0.0
    for chart in charts:
        svg = chart.svg()
        height = float(svg.partition(f'viewBox="0 0 {WIDTH} ')[2].partition('"')[0])
        pieces.append(svg.replace("<svg ", f'<svg y="{y:.0f}" ', 1))
        y += height + 16
    return _svg(y, pieces)
