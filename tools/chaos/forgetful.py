"""A file system that forgets what was not synced: `python -m tools.chaos.forgetful MOUNT STORE`, until it is unmounted.

    STORE/live       what its users see
    STORE/durable    what a power cut would leave

Writes go to `live`; fsync and fdatasync (and each write to a file opened with O_SYNC or O_DSYNC, for which the kernel calls
fsync) bring a file's changed blocks to `durable`. To forget, set the attribute `user.forget` of the mounted directory to
"SHARE:SEED": each block that was changed and not synced is lost with that probability, as the disk's cache may have written
some of them. Kill whoever has the files open first. The attribute `user.lost` has the number of blocks lost so far.

Left out: names. Making, renaming and removing a file is durable at once.

Needs mfusepy and libfuse3; without root also fusermount3.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path
from random import Random
from typing import Any

BLOCK = 4096


class ForgetfulFiles:
    """The files, without FUSE. Paths are relative to the root."""

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


def mount(target: Path, files: ForgetfulFiles) -> None:
    """Serve the files at `target` until it is unmounted. Raises `ImportError` or `OSError` where it cannot."""
    import mfusepy

    class Served(mfusepy.Operations):  # type: ignore[misc]  # the library is not there for every checker
        use_ns = True

        def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
            found = files.at(path).lstat()
            names = ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid", "st_blocks")
            times = {f"st_{kind}time": getattr(found, f"st_{kind}time_ns") for kind in "amc"}
            return {**{name: getattr(found, name) for name in names}, **times}

        def readdir(self, path: str, fh: int) -> list[str]:
            return [".", "..", *os.listdir(files.at(path))]  # noqa: PTH208

        def open(self, path: str, flags: int) -> int:
            truncates = bool(flags & os.O_TRUNC)
            if truncates:
                files.truncate(path, 0)
            return os.open(files.at(path), os.O_RDWR | os.O_CLOEXEC)

        def create(self, path: str, mode: int, fi: Any = None) -> int:
            return files.create(path, stat.S_IMODE(mode))

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            return os.pread(fh, size, offset)

        def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
            return files.write(path, data, offset, fh)

        def truncate(self, path: str, length: int, fh: int | None = None) -> int:
            files.truncate(path, length)
            return 0

        def fsync(self, path: str, datasync: int, fh: int) -> int:
            files.sync(path)
            return 0

        def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
            return 0

        def release(self, path: str, fh: int) -> int:
            os.close(fh)
            return 0

        def mkdir(self, path: str, mode: int) -> int:
            files.mkdir(path, stat.S_IMODE(mode))
            return 0

        def unlink(self, path: str) -> int:
            files.unlink(path)
            return 0

        def rmdir(self, path: str) -> int:
            files.rmdir(path)
            return 0

        def rename(self, old: str, new: str) -> int:
            files.rename(old, new)
            return 0

        def chmod(self, path: str, mode: int) -> int:
            files.at(path).chmod(stat.S_IMODE(mode))
            return 0

        def statfs(self, path: str) -> dict[str, int]:
            found = os.statvfs(files.live)
            return {name: getattr(found, name) for name in dir(found) if name.startswith("f_") and name != "f_fsid"}

        def getxattr(self, path: str, name: str, position: int = 0) -> bytes:
            if name == "user.lost":
                return str(files.lost).encode()
            raise mfusepy.FuseOSError(errno.ENODATA)

        def setxattr(self, path: str, name: str, value: bytes, options: int, position: int = 0) -> int:
            if name != "user.forget":
                raise mfusepy.FuseOSError(errno.ENOTSUP)
            share, _, seed = bytes(value).decode().partition(":")
            files.forget(float(share), Random(int(seed)))
            return 0

    mfusepy.FUSE(Served(), str(target), foreground=True, nothreads=True, attr_timeout=0, entry_timeout=0)


if __name__ == "__main__":
    mount(Path(sys.argv[1]), ForgetfulFiles(Path(sys.argv[2])))
