"""`bench controllers` as tables and pictures. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tools.bench.charts import Bars, Chart
from tools.bench.grid import Grid, figure
from tools.bench.report import Report

_COLUMNS = (
    ("5D seconds", "seconds", ".2f"),
    ("RPCs", "rpcs", ".0f"),
    ("Ops", "ops", ".0f"),
    ("query p50 ms", "query_p50_ms", ".1f"),
    ("p99", "query_p99_ms", ".0f"),
    ("change p50 ms", "change_p50_ms", ".0f"),
    ("p99", "change_p99_ms", ".0f"),
    ("nobody answers, s", "unavailable_s", ".2f"),
)


def _store(result: dict[str, Any]) -> str:
    return "kvsrv" if result["store"] == "kvsrv" else f"kvraft of {result['peers']}"


def controllers_grids(report: Report) -> Sequence[Grid]:
    """A table per network."""
    grids = []
    for network in dict.fromkeys(result["network"] for result in report.results):
        grid = Grid(f"Controllers, {network} network", ["store", "down", *(title for title, _, _ in _COLUMNS)], words=2)
        for result in report.results:
            if result["network"] != network:
                continue
            missing = "n/a" if not result["case"] else "failed" if result["error"] and not result["figures"] else None
            cells = [missing or figure(result["figures"], name, form) for _, name, form in _COLUMNS]
            grid.add(_store(result), result["down"], *cells)
        grids.append(grid)
    return grids


def controllers_charts(report: Report) -> Sequence[Chart]:
    """Seconds of the scenario and of nobody answering, by store; a bar per fault."""
    charts: list[Chart] = []
    for network in dict.fromkeys(result["network"] for result in report.results):
        charts.append(_bars(report, network, "seconds", f"Scenario 5D, {network} network: seconds"))
        charts.append(_bars(report, network, "unavailable_s", f"Nobody answers queries, {network} network: seconds"))
    return charts


def _bars(report: Report, network: str, name: str, title: str) -> Bars:
    results = [result for result in report.results if result["network"] == network]
    down = tuple(dict.fromkeys(result["down"] for result in results))
    found = {(_store(r), r["down"]): r["figures"].get(name, {}).get("median") for r in results}
    stores = list(dict.fromkeys(_store(result) for result in results))
    rows = tuple((store, tuple(found.get((store, one)) for one in down)) for store in stores)
    return Bars(title, "s", tuple("nobody down" if one == "nobody" else one for one in down), rows)
