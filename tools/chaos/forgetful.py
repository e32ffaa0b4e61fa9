"""The files of a file system that forgets what was not synced; `forgetful_mount` serves them.

    STORE/live       what its users see
    STORE/durable    what a power cut would leave

Writes go to `live`; fsync and fdatasync (and each write to a file opened with O_SYNC or O_DSYNC, for which the kernel calls
fsync) bring a file's changed blocks to `durable`. At a power cut each block that was changed and not synced is lost by
chance, as the disk's cache may have written some of them.

Left out: names. Making, renaming and removing a file is durable at once.
"""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

BLOCK = 4096


class ForgetfulFiles:
    """Paths are those inside the file system, "/f"."""

    def __init__(self, store: Path) -> None:
        self.live = store / "live"
        self.durable = store / "durable"
        self.lost = 0
        self._dirty: dict[str, set[int]] = {}
        for root in (self.live, self.durable):
            root.mkdir(parents=True, exist_ok=True)

    def at(self, path: str) -> Path:
        """Where the live file is."""
        return self.live / path.lstrip("/")

    def _both(self, path: str) -> tuple[Path, Path]:
        return self.at(path), self.durable / path.lstrip("/")

    def create(self, path: str, mode: int) -> int:
        """A new file, open for reading and writing; its name is durable."""
        live, durable = self._both(path)
        os.close(os.open(durable, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode))
        self._dirty[path] = set()
        return os.open(live, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)

    def mkdir(self, path: str, mode: int) -> None:
        """A new directory, durable."""
        for each in self._both(path):
            each.mkdir(mode)

    def unlink(self, path: str) -> None:
        """The file is gone, durably."""
        for each in self._both(path):
            each.unlink(missing_ok=True)
        self._dirty.pop(path, None)

    def rmdir(self, path: str) -> None:
        """The directory is gone, durably."""
        for each in self._both(path):
            each.rmdir()

    def rename(self, old: str, new: str) -> None:
        """Durable, and what of the file's content is not stays so."""
        for before, after in zip(self._both(old), self._both(new), strict=True):
            before.rename(after)
        moved = {path: blocks for path, blocks in self._dirty.items() if path == old or path.startswith(f"{old}/")}
        for path, blocks in moved.items():
            del self._dirty[path]
            self._dirty[new + path[len(old) :]] = blocks

    def write(self, path: str, data: bytes, offset: int, handle: int) -> int:
        """Not durable yet."""
        done = os.pwrite(handle, data, offset)
        self._touch(path, offset, done)
        return done

    def truncate(self, path: str, length: int) -> None:
        """Not durable yet."""
        before = self.at(path).stat().st_size
        os.truncate(self.at(path), length)
        self._touch(path, min(before, length), abs(before - length))

    def _touch(self, path: str, offset: int, length: int) -> None:
        if length:
            blocks = range(offset // BLOCK, (offset + length - 1) // BLOCK + 1)
            self._dirty.setdefault(path, set()).update(blocks)

    def sync(self, path: str) -> None:
        """The file's content is durable as it is now."""
        blocks = self._dirty.pop(path, None)
        if blocks:
            live, durable = self._both(path)
            _copy(live, durable, blocks)
            os.truncate(durable, live.stat().st_size)

    def forget(self, share: float, rng: Random) -> int:
        """Lose each block that is not durable with probability `share`; return how many were lost. The rest is durable."""
        lost = 0
        for path, blocks in sorted(self._dirty.items()):
            live, durable = self._both(path)
            if not live.exists():
                continue
            gone = {block for block in sorted(blocks) if rng.random() < share}
            _copy(live, durable, blocks - gone)
            os.truncate(durable, max(durable.stat().st_size, live.stat().st_size if share < 1 else 0))
            _copy(durable, live, gone)
            os.truncate(live, durable.stat().st_size)
            lost += len(gone)
        self._dirty.clear()
        self.lost += lost
        return lost


def _copy(source: Path, target: Path, blocks: set[int]) -> None:
    """Make these blocks of `target` those of `source`; one beyond its end becomes zeros."""
    if not blocks:
        return
    with source.open("rb") as from_file, target.open("r+b") as to_file:
        for block in sorted(blocks):
            data = os.pread(from_file.fileno(), BLOCK, block * BLOCK)
            if not data:
                size = os.fstat(to_file.fileno()).st_size
                data = bytes(max(0, min(BLOCK, size - block * BLOCK)))
            os.pwrite(to_file.fileno(), data, block * BLOCK)
