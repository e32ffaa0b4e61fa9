"""The report of a run as one page that needs nothing else: verdict, charts over time with the faults as bands, tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from tools.chaos.faults import every_fault
from tools.chaos.load import Second
from tools.chaos.nemesis import Band
from tools.chaos.page_frame import PAGE
from tools.chaos.run import Outcome, summary

WIDTH, LEFT, RIGHT = 1180, 150, 20
"""Of every chart, in pixels; and what is left free for labels."""
POINTS_MAX = 600
LANE = 16
BANDS_SHOWN = 4000


def page(outcome: Outcome) -> str:
    """The whole page."""
    found = summary(outcome)
    seconds = outcome.meter.seconds if outcome.meter is not None else []
    scale = _Scale(max(outcome.lasted_s, 1.0))
    return PAGE.format(
        title=f"shardkv chaos, seed {outcome.plan.seed}",
        verdict=escape(outcome.verdict),
        kind="fine" if outcome.verdict == "passed" else "bad",
        summary=escape(_sentence(found)),
        findings=_listed(outcome.findings),
        throughput=_throughput(seconds, scale),
        latency=_latency(seconds, scale),
        blocked=_blocked(seconds, scale, max(outcome.plan.clients, 1)),
        bands=_bands(outcome.bands, scale),
        faults=_fault_rows(found),
        figures=_figure_rows(found["measured"]),
        steps=_step_rows(outcome.bands),
    )


def _sentence(found: dict[str, Any]) -> str:
    return (
        f"{found['lasted_s'] / 60:.1f} minutes, {found['controllers']} controllers, {found['groups']} groups of "
        f"{found['replicas']}, {found['clients']} clients: {found['acknowledged_writes']} writes acknowledged, "
        f"{found['answered_reads']} reads answered, {found['failed']} calls without an answer, {found['moves']} moves. "
        f"{found['judged']}"
    )


def _listed(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>" if lines else ""


# --- charts ----------------------------------------------------------------------------------------------------------


class _Scale:
    """From seconds to pixels."""

    def __init__(self, lasted_s: float) -> None:
        self.lasted_s = lasted_s

    def x(self, at_s: float) -> float:
        return LEFT + min(at_s, self.lasted_s) / self.lasted_s * (WIDTH - LEFT - RIGHT)

    def ticks(self, height: int) -> str:
        step = next((s for s in (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200) if self.lasted_s / s <= 14), 3600)
        marks = []
        for at in range(0, int(self.lasted_s) + 1, step):
            x = self.x(at)
            label = f"{at // 60}:{at % 60:02}"
            marks.append(f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height}"/>')
            marks.append(f'<text class="time" x="{x:.1f}" y="{height + 13}">{label}</text>')
        return "".join(marks)


def _svg(height: int, inside: str, scale: _Scale) -> str:
    return f'<svg width="{WIDTH}" height="{height + 18}">{scale.ticks(height)}{inside}</svg>'


def _buckets(seconds: Sequence[Second]) -> list[tuple[int, int, list[Second]]]:
    """Neighbouring seconds together, few enough to be drawn: (first, how many, they)."""
    size = max(1, -(-len(seconds) // POINTS_MAX))
    return [(at, size, list(seconds[at : at + size])) for at in range(0, len(seconds), size)]


def _columns(
    seconds: Sequence[Second],
    scale: _Scale,
    height: int,
    top: float,
    parts: list[tuple[str, Callable[[Second], float]]],
) -> str:
    """Stacked columns; each part is the mean per second."""
    drawn = []
    for at, size, some in _buckets(seconds):
        x = scale.x(at)
        width = max(scale.x(at + size) - x, 0.6)
        y = float(height)
        for kind, value in parts:
            tall = sum(map(value, some)) / len(some) / top * height
            y -= tall
            if tall:
                drawn.append(f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.2f}" height="{tall:.1f}"/>')
    return "".join(drawn)


def _axis(height: int, top: float, unit: str) -> str:
    return (
        f'<text class="label" x="{LEFT - 8}" y="10">{top:g} {unit}</text>'
        f'<text class="label" x="{LEFT - 8}" y="{height}">0</text>'
    )


def _throughput(seconds: Sequence[Second], scale: _Scale) -> str:
    height = 120
    top = float(max((s.reads + s.writes + s.failed for s in seconds), default=1) or 1)
    parts: list[tuple[str, Callable[[Second], float]]] = [
        ("writes", lambda s: s.writes),
        ("reads", lambda s: s.reads),
        ("failed", lambda s: s.failed),
    ]
    return _svg(height, _axis(height, top, "a second") + _columns(seconds, scale, height, top, parts), scale)


def _blocked(seconds: Sequence[Second], scale: _Scale, clients: int) -> str:
    height = 70
    parts: list[tuple[str, Callable[[Second], float]]] = [("failed", lambda s: min(s.blocked, clients))]
    inside = _axis(height, clients, "clients") + _columns(seconds, scale, height, clients, parts)
    return _svg(height, inside, scale)


def _latency(seconds: Sequence[Second], scale: _Scale) -> str:
    """Median and 99th percentile on a scale of powers of ten, 1 ms to 10 s."""
    height, decades = 120, 4
    lines = []
    for power in range(decades + 1):
        y = height - power * height / decades
        label = ("1 ms", "10 ms", "0.1 s", "1 s", "10 s")[power]
        lines.append(f'<line class="tick" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(f'<text class="label" x="{LEFT - 8}" y="{max(y, 10):.1f}">{label}</text>')
    for kind, share in (("p99", 0.99), ("p50", 0.5)):
        points = []
        for at, size, some in _buckets(seconds):
            values = sorted(value for second in some for value in second.latencies_s)
            if values:
                value = values[min(int(share * len(values)), len(values) - 1)]
                points.append(f"{scale.x(at + size / 2):.1f},{_log_y(value, height, decades):.1f}")
        lines.append(f'<polyline class="{kind}" points="{" ".join(points)}"/>')
    return _svg(height, "".join(lines), scale)


def _log_y(value_s: float, height: int, decades: int) -> float:
    from math import log10

    return height - min(max(log10(max(value_s, 1e-9) * 1000), 0.0), decades) / decades * height


def _bands(bands: Sequence[Band], scale: _Scale) -> str:
    """A lane per fault: full while it lasts, faint until everything is as it was."""
    names = [fault.name for fault in every_fault() if any(fault.name in band.faults for band in bands)]
    height = LANE * len(names) + 4
    drawn = [
        f'<text class="label" x="{LEFT - 8}" y="{LANE * number + 13}">{escape(name)}</text>'
        for number, name in enumerate(names)
    ]
    for band in bands[:BANDS_SHOWN]:
        text = escape(f"{band.begun:.1f} s: {' and '.join(band.faults)}: {band.text} {band.missed}")
        for name in band.faults:
            y = LANE * names.index(name) + 2
            kind = "missed" if band.missed else "struck"
            spans = ((kind, band.begun, band.ended), (f"{kind} back", band.ended, band.back))
            drawn += [_band(style, scale.x(begun), scale.x(ended), y, text) for style, begun, ended in spans]
    return _svg(height, "".join(drawn), scale)


def _band(style: str, x: float, end: float, y: int, text: str) -> str:
    return (
        f'<rect class="{style}" x="{x:.1f}" y="{y}" width="{max(end - x, 1.0):.1f}" height="{LANE - 4}">'
        f"<title>{text}</title></rect>"
    )


# --- tables ----------------------------------------------------------------------------------------------------------


def _row(*cells: object, kind: str = "") -> str:
    return f"<tr{kind}>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>"


def _fault_rows(found: dict[str, Any]) -> str:
    rows = []
    for fault in every_fault():
        struck, missed = found["cycles"].get(fault.name, 0), found["missed"].get(fault.name, 0)
        why = found["skipped"].get(fault.name, "")
        if struck or missed or why:
            rows.append(_row(fault.name, struck, missed, f"skipped: {why}" if why else fault.what))
    rows += [_row(f"{pair} together", count, "", "") for pair, count in found["pairs"].items()]
    return "".join(rows)


def _figure_rows(measured: dict[str, dict[str, float]]) -> str:
    return "".join(
        _row(what, f["count"], f"{f['sum']:g}", f"{f['p50']:g}", f"{f['p99']:g}", f"{f['max']:g}")
        for what, f in measured.items()
        if f["count"]
    )


def _step_rows(bands: Sequence[Band]) -> str:
    return "".join(
        _row(
            f"{band.begun:.1f}",
            f"{band.ended - band.begun:.1f}",
            f"{band.back - band.ended:.1f}",
            " and ".join(band.faults),
            band.text,
            band.missed,
            kind=' class="bad"' if band.missed else "",
        )
        for band in bands[:BANDS_SHOWN]
    )
