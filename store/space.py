"""Watching for room: the map and the disk, with a reserve, so that a peer refuses data before it can no longer delete.

At a really full map even deletes fail, so the reserve is never spent on data: below it the peer raises the NOSPACE alarm
and lets through only what frees space or keeps the peer alive. The alarm ends by itself, a little above where it began.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from store.engine import Engine

MAP_RESERVE_BYTES = 64 << 20
"""The free map below which the alarm begins."""
DISK_RESERVE_BYTES = 64 << 20
"""The free disk below which the alarm begins, beside the ballast."""
BALLAST_BYTES = 16 << 20
"""A file that only takes room; remove it by hand to get a full machine going again."""
BALLAST_FILE = "ballast"


@dataclass(frozen=True, slots=True)
class Space:
    """What is free, in bytes, and whether that is too little."""

    map_free_bytes: int
    disk_free_bytes: int
    alarm: bool


def make_ballast(directory: Path, size_bytes: int = BALLAST_BYTES) -> None:
    """Take `size_bytes` of the disk for worse days. Does nothing if it is there or there is no room for it."""
    path = directory / BALLAST_FILE
    if path.exists() or shutil.disk_usage(directory).free < 4 * size_bytes:
        return
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.posix_fallocate(handle, 0, size_bytes)
    except OSError:
        path.unlink(missing_ok=True)
    finally:
        os.close(handle)


class SpaceMonitor:
    """Looks at one environment and the disk it is on. Cheap: call it each second."""

    def __init__(
        self,
        engine: Engine,
        directory: Path,
        *,
        map_reserve_bytes: int = MAP_RESERVE_BYTES,
        disk_reserve_bytes: int = DISK_RESERVE_BYTES,
    ) -> None:
        self.engine = engine
        self.directory = directory
        self.map_reserve_bytes = map_reserve_bytes
        self.disk_reserve_bytes = disk_reserve_bytes
        self._alarm = False

    def look(self) -> Space:
        """The space of now. The alarm begins below a reserve and ends above one and a quarter of it."""
        info = self.engine.info()
        map_free = info.map_size_bytes - info.used_bytes
        disk_free = shutil.disk_usage(self.directory).free
        factor = 1.25 if self._alarm else 1.0
        self._alarm = map_free < self.map_reserve_bytes * factor or disk_free < self.disk_reserve_bytes * factor
        return Space(map_free, disk_free, self._alarm)
