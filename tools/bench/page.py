"""A report as one self-contained page: the machine, the pictures, the tables. Nothing is loaded from elsewhere. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from tools.bench.charts import Chart
from tools.bench.grid import Grid
from tools.bench.report import Report

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>shardkv bench {command}</title><style>
body {{ font: 14px system-ui, sans-serif; margin: 2em; color: #222 }}
table {{ border-collapse: collapse }}
th, td {{ padding: .2em .7em; text-align: right; border-bottom: 1px solid #ddd }}
th:first-child, td:first-child {{ text-align: left }}
.warning {{ color: #b3261e }}
</style></head><body>
<h1>shardkv bench {command}</h1>
<p>shardkv {version}; {machine}<br>{probes}<br>{seconds:.0f} s</p>
{warnings}{pictures}{tables}</body></html>
"""


def page(report: Report, grids: Sequence[Grid], charts: Sequence[Chart]) -> str:
    """The page, as text."""
    return _PAGE.format(
        command=escape(report.command),
        version=escape(report.version),
        machine=escape(report.machine_text()),
        probes=escape(report.probe_text()),
        seconds=report.seconds,
        warnings="".join(f'<p class="warning">{escape(line)}</p>\n' for line in report.warnings),
        pictures="".join(f"<p>{chart.svg()}</p>\n" for chart in charts),
        tables="".join(grid.html() for grid in grids),
    )
