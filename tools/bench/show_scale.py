"""`bench scale` as tables and pictures. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tools.bench.charts import Bars, Chart, Lines
from tools.bench.grid import Grid, figure, spread_text
from tools.bench.report import Report

_SIZES = ("memory_mb", "state_mb", "log_mb", "files_mb")


def scale_grids(report: Report) -> Sequence[Grid]:
    """A table per part that was done."""
    cpu = ("put, leaders' CPU us", "get, leaders' CPU us")
    groups = Grid("Groups, 64 clients", ["groups", "puts/s", "+-%", "gets/s", "+-%", *cpu], 0)
    names = ["groups", "messages/s per group", "syncs/s per group", "CPU per peer", "MB per peer"]
    idle = Grid("Idle groups of 3 peers", names, 0)
    sizes = ("memory MB", "state MB", "log MB", "files MB")
    growth = Grid("Growth of a peer", ["puts of", "so many", *sizes, "puts/s", "gets/s", "restart s"])
    for result in report.results:
        found = result["figures"]
        match result["kind"]:
            case "groups":
                speeds = [
                    text
                    for name in ("put_per_s", "get_per_s")
                    for text in (figure(found, name, ",.0f"), spread_text(found, name))
                ]
                used = [figure(found, f"{operation}_leader_cpu_us", ".1f") for operation in ("put", "get")]
                groups.add(str(result["groups"]), *speeds, *used)
            case "idle":
                cells = [figure(found, name, ".1f") for name in ("messages_per_s", "syncs_per_s")]
                shares = [figure(found, "cpu_share", ".2%"), figure(found, "memory_mb", ".0f")]
                idle.add(str(result["groups"]), *cells, *shares)
            case "growth":
                what = "new keys" if result["by"] == "keys" else "the same keys"
                cells = [figure(found, name, ".1f") for name in _SIZES]
                speeds = [figure(found, f"{operation}_per_s", ",.0f") for operation in ("put", "get")]
                growth.add(what, f"{result['count']:,}", *cells, *speeds, figure(found, "restart_s"))
    if growth.rows:
        growth.title += _slope(report)
    return [grid for grid in (groups, idle, growth) if grid.rows]


def _slope(report: Report) -> str:
    """What a million keys add, from the last two numbers of them: by then the log has the length that it keeps."""
    grown = [r for r in report.results if r["kind"] == "growth" and r["by"] == "keys" and r["count"]]
    if len(grown) < 2:
        return ""
    first, last = grown[-2], grown[-1]
    per = [
        (_median(last, name) - _median(first, name)) / (last["count"] - first["count"]) * 1e6
        for name in ("memory_mb", "state_mb", "files_mb")
    ]
    return f" (a million keys add {per[0]:.0f} MB of memory, {per[1]:.0f} MB of state, {per[2]:.0f} MB of files)"


def _median(result: dict[str, Any], name: str) -> float:
    return float(result["figures"][name]["median"])


def scale_charts(report: Report) -> Sequence[Chart]:
    """Speed by groups, and sizes by keys and by overwrites."""
    charts: list[Chart] = []
    groups = [result for result in report.results if result["kind"] == "groups"]
    if groups:
        rows = tuple((f"{r['groups']} groups", (_median(r, "put_per_s"), _median(r, "get_per_s"))) for r in groups)
        charts.append(Bars("Operations per second, 64 clients", "/s", ("put", "get"), rows))
    for by, title in (
        ("keys", "Sizes of a peer by its keys"),
        ("overwrites", "Sizes of a peer by puts to 10,000 keys"),
    ):
        grown = [result for result in report.results if result["kind"] == "growth" and result["by"] == by]
        if grown:
            lines = {
                name.removesuffix("_mb"): [(float(result["count"]), _median(result, name)) for result in grown]
                for name in _SIZES
            }
            charts.append(Lines(title, "puts so far", "MB", lines))
    return charts
