"""Put reports into the docs: `python -m tools.bench.publish kv.json controllers.json ...`, each what `--json` printed.

In `docs/performance.md` the text between `<!-- bench kv -->` and `<!-- end -->` becomes the machine, the probe and the
tables; its pictures become `docs/bench-kv.svg`. So what the docs say was measured, and nobody copies numbers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tools.bench.charts import Chart, stacked
from tools.bench.grid import Grid
from tools.bench.report import Report
from tools.bench.show_controllers import controllers_charts, controllers_grids
from tools.bench.show_kv import kv_charts, kv_grids
from tools.bench.show_recovery import recovery_charts, recovery_grids
from tools.bench.show_scale import scale_charts, scale_grids

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
END = "<!-- end -->"

Show = tuple[Callable[[Report], Sequence[Grid]], Callable[[Report], Sequence[Chart]]]
SHOWS: dict[str, Show] = {
    "kv": (kv_grids, kv_charts),
    "controllers": (controllers_grids, controllers_charts),
    "recovery": (recovery_grids, recovery_charts),
    "scale": (scale_grids, scale_charts),
}


class NotThere(Exception):
    """A report or a place for it is not what it should be. One line."""


def read_report(text: str) -> Report:
    """A report from its JSON. Raises `NotThere`."""
    try:
        report = Report(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise NotThere(f"no report of a benchmark: {error}") from error
    if report.command not in SHOWS:
        raise NotThere(f"there is no benchmark {report.command!r}")
    return report


def section(report: Report) -> str:
    """What stands in the docs."""
    grids, _ = SHOWS[report.command]
    lines = [report.machine_text() + ".", report.probe_text() + "."]
    lines += [f"**{line[:1].upper()}{line[1:]}.**" for line in report.warnings if line.startswith("other work")]
    tables = [f"{grid.title}:\n\n{grid.markdown()}" for grid in grids(report)]
    picture = f"![{report.command}](bench-{report.command}.svg)"
    return "\n\n".join(["\n".join(lines), *tables, picture])


def put_into(text: str, report: Report) -> str:
    """The document with the report's section in its place. Raises `NotThere` if it has none."""
    begin = f"<!-- bench {report.command} -->"
    before, found, rest = text.partition(begin)
    _, end, after = rest.partition(END)
    if not found or not end:
        raise NotThere(f"there is no {begin} ... {END} in the document")
    return f"{before}{begin}\n{section(report)}\n{END}{after}"


def publish(files: Sequence[Path], docs: Path) -> None:
    """Put all of them in. Raises `NotThere`, `OSError`."""
    document = docs / "performance.md"
    text = document.read_text(encoding="utf-8")
    pictures: dict[str, Any] = {}
    for file in files:
        report = read_report(file.read_text(encoding="utf-8"))
        text = put_into(text, report)
        pictures[report.command] = stacked(SHOWS[report.command][1](report))
    document.write_text(text, encoding="utf-8")
    for command, picture in pictures.items():
        (docs / f"bench-{command}.svg").write_text(picture, encoding="utf-8")


def main() -> int:
    """Returns the exit code."""
    try:
        publish([Path(word) for word in sys.argv[1:]], DOCS)
    except (NotThere, OSError) as error:
        print(f"publish: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
