"""What processes have used so far, from /proc: CPU time and memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """CPU time of all threads in seconds (to 10 ms), user and kernel. Memory in bytes, of the process's own: pages of mapped
    data files are the system's cache, given back whenever somebody needs room."""

    cpu_s: float
    memory_bytes: int


def usage(pid: int) -> Usage | None:
    """What a process has used since it began; None if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return parsed(stat, status)


def parsed(stat: str, status: str) -> Usage:
    """From the texts of /proc/<pid>/stat, whose second field may hold anything, and of its status."""
    fields = stat.rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    own = [line.split()[1] for line in status.splitlines() if line.startswith("RssAnon:")]
    return Usage(ticks / _TICKS, 1024 * int(own[0]) if own else 0)


def usages(pids: Mapping[str, int]) -> dict[str, Usage]:
    """By name; who is gone is left out."""
    found = {name: usage(pid) for name, pid in pids.items()}
    return {name: used for name, used in found.items() if used is not None}


def cpu_between(before: Mapping[str, Usage], after: Mapping[str, Usage]) -> dict[str, float]:
    """CPU seconds by name between two looks, of those who are in both."""
    return {name: after[name].cpu_s - before[name].cpu_s for name in _both(before, after)}


def _both(before: Mapping[str, Usage], after: Mapping[str, Usage]) -> Iterable[str]:
    return (name for name in before if name in after)
