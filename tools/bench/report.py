"""Reports: what was measured on what, as plain data, which is also the JSON of `--json`.

command     the benchmark
version     of shardkv
machine     {processor cores memory_gb kernel file_system python trio lmdb cbor2 load_average}
warnings    [what makes these figures worth less]
probes      [{fdatasync_p50_ms fdatasync_p99_ms commit_p50_ms commit_p99_ms}], before, between and after the rounds
seconds     how long it took
results     [the benchmark's own, see its module]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tools.bench.figures import median, spread
from tools.bench.machine import DiskProbe, facts, probe_disk, warnings

Tell = Callable[[str], None]


@dataclass
class Report:
    """One benchmark's."""

    command: str
    version: str
    machine: dict[str, Any]
    warnings: list[str]
    probes: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    systems: list[Mapping[str, Any]] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """With numbers that are not longer than they are exact."""
        rounded: dict[str, Any] = tidy(asdict(self))
        return rounded

    def probed(self) -> DiskProbe:
        """The medians of all probes."""
        names = ("fdatasync_p50_ms", "fdatasync_p99_ms", "commit_p50_ms", "commit_p99_ms")
        return DiskProbe(*(median([probe[name] for probe in self.probes]) for name in names))

    def probe_text(self) -> str:
        """The probes in a line, with the range of what varies by the hour."""
        found = self.probed()
        commits = [probe["commit_p50_ms"] for probe in self.probes]
        return (
            f"disk: fdatasync p50 {found.fdatasync_p50_ms:.2f} ms, p99 {found.fdatasync_p99_ms:.2f}; synced commit p50 "
            f"{found.commit_p50_ms:.2f} ms ({min(commits):.2f} to {max(commits):.2f}), p99 {found.commit_p99_ms:.2f}"
        )

    def machine_text(self) -> str:
        """The machine in a line."""
        m = self.machine
        return (
            f"{m['processor']}, {m['cores']} cores, {m['memory_gb']:g} GB, {m['file_system']}, Linux {m['kernel']}, "
            f"Python {m['python']}, trio {m['trio']}, lmdb {m['lmdb']}, cbor2 {m['cbor2']}"
        )


class Reporting:
    """A report in the making: its clock runs, and every `probe` is one more look at the disk under `folder`."""

    def __init__(self, command: str, folder: Path) -> None:
        found = facts(folder)
        self.report = Report(command, version("shardkv"), found, warnings(found))
        self._folder = folder
        self._began = time.monotonic()

    def probe(self) -> None:
        """Look at the disk. Nothing else should run meanwhile."""
        self.report.probes.append(asdict(probe_disk(self._folder)))

    def end(self) -> Report:
        """The finished report."""
        self.report.seconds = time.monotonic() - self._began
        return self.report


def over_rounds(rounds: Sequence[Mapping[str, float | None]]) -> dict[str, dict[str, Any]]:
    """Per figure its median, its spread (greatest less least, as a share of the median) and the rounds' values. A figure
    that a round has not is left out."""
    found: dict[str, dict[str, Any]] = {}
    for name in rounds[0]:
        values = [value for one in rounds if (value := one[name]) is not None]
        if len(values) == len(rounds):
            found[name] = {"median": median(values), "spread": spread(values), "rounds": values}
    return found


def tidy(value: Any) -> Any:
    """Floats to five significant digits; not-a-number as None, for JSON has none."""
    match value:
        case float():
            return None if value != value else float(f"{value:.5g}")
        case Mapping():
            return {key: tidy(inner) for key, inner in value.items()}
        case list() | tuple():
            return [tidy(inner) for inner in value]
    return value
