"""What is measured on: the machine's facts, and what its disk does at this moment.

A disk's speed is the one figure under all others, and varies by the hour. So every report has a probe of it, made in the
directory that the measured data is in, before and between the rounds.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from store.format import Stamp
from store.lmdb_engine import LmdbEngine
from tools.bench.figures import quantile

PROBES = 300
PROBE_BYTES = 128
PROBE_S = 0.5
"""A probe ends after this long, however few samples it has by then."""
MEMORY_FILES = ("tmpfs", "ramfs")


@dataclass(frozen=True)
class DiskProbe:
    """Times of `fdatasync` after a write of 4 KiB, and of a synced commit of one record to LMDB, in milliseconds."""

    fdatasync_p50_ms: float
    fdatasync_p99_ms: float
    commit_p50_ms: float
    commit_p99_ms: float


def probe_disk(folder: Path) -> DiskProbe:
    """Probe the disk under `folder`; takes about 0.2 s, at most 1 s, and leaves nothing."""
    with tempfile.TemporaryDirectory(prefix="probe-", dir=folder) as place:
        syncs = _timed_syncs(Path(place) / "file")
        commits = _timed_commits(Path(place) / "env")
    return DiskProbe(*(1000 * quantile(times, share) for times in (syncs, commits) for share in (0.5, 0.99)))


def _timed_syncs(file: Path) -> list[float]:
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.pwrite(descriptor, bytes(4096 * 64), 0)
        os.fsync(descriptor)  # from here on neither size nor blocks change, as in a file of LMDB
        times: list[float] = []
        until = time.perf_counter() + PROBE_S
        while len(times) < PROBES and (began := time.perf_counter()) < until:
            os.pwrite(descriptor, os.urandom(4096), 4096 * (len(times) % 64))
            os.fdatasync(descriptor)
            times.append(time.perf_counter() - began)
        return times
    finally:
        os.close(descriptor)


def _timed_commits(folder: Path) -> list[float]:
    stamp = Stamp("probe", bytes(16), 0, 0, 0)
    LmdbEngine.create(folder, ("meta", "rows"), stamp, lambda txn: None)
    engine = LmdbEngine.open(folder, ("meta", "rows"), stamp)
    try:
        times: list[float] = []
        until = time.perf_counter() + PROBE_S
        while len(times) < PROBES and (began := time.perf_counter()) < until:
            with engine.write() as txn:
                txn.put("rows", len(times).to_bytes(8, "big"), bytes(PROBE_BYTES))
            times.append(time.perf_counter() - began)
        return times
    finally:
        engine.close()


def facts(folder: Path) -> dict[str, object]:
    """The machine: processor, cores, memory, kernel, file system under `folder`, versions, what else runs."""
    load, _, _ = os.getloadavg()
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "kernel": platform.release(),
        "file_system": file_system(folder),
        "python": sys.version.split()[0],
        **{name: version(name) for name in ("trio", "lmdb", "cbor2")},
        "load_average": round(load, 2),
    }


def warnings(facts: dict[str, object]) -> list[str]:
    """What makes figures of such a machine worth little."""
    found = []
    if facts["file_system"] in MEMORY_FILES:
        found.append(f"the data is on {facts['file_system']}: syncs cost nothing there; use --dir")
    load, cores = facts["load_average"], facts["cores"]
    if isinstance(load, float) and isinstance(cores, int) and load > cores / 2:
        found.append(f"other work runs: the load average was {load} on {cores} cores when this began")
    return found


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def file_system(folder: Path) -> str:
    """The kind of file system that a directory is on, as the kernel names it."""
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    return file_system_of(folder.resolve(), mounts)


def file_system_of(folder: Path, mounts: Sequence[str]) -> str:
    """The same from the lines of a table of mounts: of the mounts above the directory the deepest, the last if several."""
    found = ("", "unknown")
    for line in mounts:
        words = line.split()
        if len(words) < 3:
            continue
        at = words[1].replace("\\040", " ")
        if folder.is_relative_to(at) and len(at) >= len(found[0]):
            found = (at, words[2])
    return found[1]
