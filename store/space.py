"""Watching for room: the map and the disk, with a reserve, so that a peer refuses data before it can no longer delete.

At a really full map even deletes fail, so the reserve is never spent on data: below it the peer raises the NOSPACE alarm
and lets through only what frees space or keeps the peer alive. The alarm ends by itself, a little above where it began.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
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
    """What is free, in bytes (in the map, and for the environment on its disk), and whether that is too little."""

    map_free_bytes: int
    disk_free_bytes: int
    alarm: bool


def make_ballast(directory: Path, size_bytes: int = BALLAST_BYTES) -> bool:
    """Take `size_bytes` of the disk for worse days, really and not as a hole. Whether it is there now: it is not made
    where it would take a quarter of what is left."""
    path = directory / BALLAST_FILE
    if path.exists():
        if path.stat().st_size >= size_bytes:
            return True
        path.unlink()  # a crash came between making and filling it
    if shutil.disk_usage(directory).free < 4 * size_bytes:
        return False
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.posix_fallocate(handle, 0, size_bytes)
    except OSError:
        path.unlink(missing_ok=True)
        return False
    finally:
        os.close(handle)
    return True


def drop_ballast(directory: Path) -> bool:
    """Give the ballast back to the disk. False if there was none."""
    path = directory / BALLAST_FILE
    there = path.exists()
    path.unlink(missing_ok=True)
    return there


class SpaceMonitor:
    """Looks at one environment and the disk it is on. Cheap: call it each second, on the engine's thread.

    Pages freed inside the file count as room: the file never shrinks, but the next commits use them.
    """

    def __init__(
        self,
        engine: Engine,
        directory: Path,
        *,
        map_reserve_bytes: int = MAP_RESERVE_BYTES,
        disk_reserve_bytes: int = DISK_RESERVE_BYTES,
        disk_free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
    ) -> None:
        self.engine = engine
        self.directory = directory
        self.map_reserve_bytes = map_reserve_bytes
        self.disk_reserve_bytes = disk_reserve_bytes
        self._disk_free_bytes = disk_free_bytes
        self._alarm = False

    def look(self) -> Space:
        """The space of now. The alarm begins below a reserve and ends above one and a quarter of it. `Fenced` after the
        engine's end, `OSError` if the directory is gone."""
        info = self.engine.info()
        freed = info.free_pages * info.page_size_bytes
        map_free = info.map_size_bytes - info.used_bytes + freed
        disk_free = self._disk_free_bytes(self.directory) + freed
        factor = 1.25 if self._alarm else 1.0
        self._alarm = map_free < self.map_reserve_bytes * factor or disk_free < self.disk_reserve_bytes * factor
        return Space(map_free, disk_free, self._alarm)
