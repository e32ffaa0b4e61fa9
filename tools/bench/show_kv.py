"""`bench kv` as tables and pictures. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tools.bench.charts import Bars, Chart
from tools.bench.grid import Grid, figure, spread_text
from tools.bench.report import Report

_FIGURES = (
    ("ops/s", "ops_per_s", ",.0f"),
    ("p50 ms", "p50_ms", ".2f"),
    ("p99", "p99_ms", ".2f"),
    ("p99.9", "p999_ms", ".2f"),
    ("CPU us/op leader", "leader_cpu_us", ".1f"),
    ("followers", "follower_cpu_us", ".1f"),
    ("load", "load_cpu_us", ".1f"),
    ("RPCs/op", "rpcs_per_op", ".3f"),
    ("syncs/op", "syncs_per_op", ".3f"),
    ("leader busy", "leader_busy", ".0%"),
    ("load busy", "load_busy", ".0%"),
)


def kv_grids(report: Report) -> Sequence[Grid]:
    """One table: a row per point and system."""
    titles = [title for title, _, _ in _FIGURES]
    grid = Grid("Gets and puts", ["load", "system", titles[0], "+-%", *titles[1:], "ratio"], words=2)
    for result in report.results:
        figures = result["figures"]
        cells = [figure(figures, name, form) for _, name, form in _FIGURES]
        ratio = f"{result['ratio']:.2f}" if "ratio" in result else ""
        system = f"{result['system']} ({result['interface']})"
        grid.add(result["point"], system, cells[0], spread_text(figures, "ops_per_s"), *cells[1:], ratio)
    return [grid]


def kv_charts(report: Report) -> Sequence[Chart]:
    """Speed and median latency, a group of bars per point."""
    points = list(dict.fromkeys(result["point"] for result in report.results))
    systems = tuple(dict.fromkeys(_kind(result) for result in report.results))
    found = {(result["point"], _kind(result)): result["figures"] for result in report.results}

    def rows(name: str) -> tuple[tuple[str, tuple[float | None, ...]], ...]:
        return tuple(
            (point, tuple(found.get((point, system), {}).get(name, {}).get("median") for system in systems))
            for point in points
        )

    return [
        Bars("Operations per second", "/s", systems, rows("ops_per_s"), missing=""),
        Bars("Latency, 99 %", "ms", systems, rows("p99_ms"), missing=""),
    ]


def _kind(result: Mapping[str, Any]) -> str:
    """Ours or the other one, whatever kind of cluster it is: a point's name says that."""
    return str(result["system"]).partition(" ")[0]
