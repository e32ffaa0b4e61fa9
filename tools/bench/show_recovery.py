"""`bench recovery` as tables and pictures. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from tools.bench.charts import Bars, Chart, Lines
from tools.bench.grid import Grid, figure, spread_text
from tools.bench.report import Report


def recovery_grids(report: Report) -> Sequence[Grid]:
    """A table per part that was done."""
    restart = Grid(
        "Restart of a group, killed under load", ["peers", "keys", "first get s", "+-%", "listening s", "MB"], 0
    )
    behind = Grid("A follower catches up", ["how", "by", "MB missed", "seconds", "MB/s"], 2)
    names = ["the others' load", "MB moved", "seconds", "MB/s", "rate/s", "kept", "p50 ms", "p99", "p99.9", "peer MB"]
    move = Grid("A shard moves", names)
    failover = Grid(
        "Fail-over: the longest pause of a client, ms", ["leader", "trials", "min", "p50", "p90", "p99", "max"]
    )
    for result in report.results:
        found = result["figures"]
        match result["kind"]:
            case "restart":
                cells = [figure(found, "first_get_s"), spread_text(found, "first_get_s"), figure(found, "listening_s")]
                restart.add(str(result["peers"]), f"{result['keys']:,}", *cells, figure(found, "memory_mb", ".0f"))
            case "catch-up":
                size, seconds = f"{result['bytes'] / 1e6:.1f}", figure(found, "seconds")
                behind.add(result["how"], result["by"], size, seconds, figure(found, "mb_per_s", ".1f"))
            case "move":
                rate = f"{result['rate_per_s']:,.0f}" if "rate_per_s" in result else "-"
                cells = [
                    figure(found, "seconds"),
                    figure(found, "mb_per_s", ".0f"),
                    rate,
                    figure(found, "share", ".0%"),
                ]
                cells += [figure(found, name) for name in ("p50_ms", "p99_ms", "p999_ms")]
                move.add(result["load"], f"{result['bytes'] / 1e6:.0f}", *cells, figure(found, "memory_mb", ".0f"))
            case "fail-over":
                words = ("min_ms", "p50_ms", "p90_ms", "p99_ms", "max_ms")
                failover.add(result["way"], str(result["trials"]), *(figure(found, word, ".0f") for word in words))
    return [grid for grid in (restart, behind, move, failover) if grid.rows]


def recovery_charts(report: Report) -> Sequence[Chart]:
    """Restart by the number of keys, and the distribution of fail-over pauses."""
    restarts = [result for result in report.results if result["kind"] == "restart"]
    pauses = [result for result in report.results if result["kind"] == "fail-over"]
    charts: list[Chart] = []
    if restarts:
        rows = tuple(
            (f"{r['keys']:,} keys, {r['peers']} peers", (float(r["figures"]["first_get_s"]["median"]),))
            for r in restarts
        )
        charts.append(Bars("Restart to the first get", "s", ("first get",), rows))
    if pauses:
        series = {
            f"{r['way']} ({r['trials']} trials)": [
                (pause, (number + 1) / len(r["pauses_ms"])) for number, pause in enumerate(r["pauses_ms"])
            ]
            for r in pauses
        }
        charts.append(Lines("Fail-over: pauses of a client", "pause, ms", "share of the trials", series, log_x=True))
    return charts
