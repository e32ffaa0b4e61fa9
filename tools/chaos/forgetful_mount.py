"""Mounts a disk that forgets: `python -m tools.chaos.forgetful_mount MOUNT STORE`, until it is unmounted.

To forget, kill whoever has its files open, and set the attribute `user.forget` of the mounted directory to "SHARE:SEED": each
block that is not durable is lost with that probability. The attribute `user.lost` has the number of blocks lost so far.

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

import mfusepy

from tools.chaos.forgetful import ForgetfulFiles


class Served(mfusepy.Operations):  # type: ignore[misc]  # it has no types
    """The operations, as libfuse asks for them; what they raise is the caller's errno."""

    use_ns = True

    def __init__(self, files: ForgetfulFiles) -> None:
        self.files = files

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        """See stat(2)."""
        found = self.files.at(path).lstat()
        names = ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid", "st_blocks")
        times = {f"st_{kind}time": getattr(found, f"st_{kind}time_ns") for kind in "amc"}
        return {**{name: getattr(found, name) for name in names}, **times}

    def readdir(self, path: str, fh: int) -> list[str]:
        """The names in a directory."""
        return [".", "..", *os.listdir(self.files.at(path))]  # noqa: PTH208

    def open(self, path: str, flags: int) -> int:
        """For reading and writing, whatever was asked for."""
        truncates = bool(flags & os.O_TRUNC)
        if truncates:
            self.files.truncate(path, 0)
        return os.open(self.files.at(path), os.O_RDWR | os.O_CLOEXEC)

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        """See `ForgetfulFiles.create`."""
        return self.files.create(path, stat.S_IMODE(mode))

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        """See pread(2)."""
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        """See `ForgetfulFiles.write`."""
        return self.files.write(path, data, offset, fh)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        """See `ForgetfulFiles.truncate`."""
        self.files.truncate(path, length)
        return 0

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        """See `ForgetfulFiles.sync`."""
        self.files.sync(path)
        return 0

    def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
        """Names are durable at once."""
        return 0

    def release(self, path: str, fh: int) -> int:
        """The last user has closed it."""
        os.close(fh)
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        """See `ForgetfulFiles.mkdir`."""
        self.files.mkdir(path, stat.S_IMODE(mode))
        return 0

    def unlink(self, path: str) -> int:
        """See `ForgetfulFiles.unlink`."""
        self.files.unlink(path)
        return 0

    def rmdir(self, path: str) -> int:
        """See `ForgetfulFiles.rmdir`."""
        self.files.rmdir(path)
        return 0

    def rename(self, old: str, new: str) -> int:
        """See `ForgetfulFiles.rename`."""
        self.files.rename(old, new)
        return 0

    def chmod(self, path: str, mode: int) -> int:
        """Durable or not, it does not matter here."""
        self.files.at(path).chmod(stat.S_IMODE(mode))
        return 0

    def statfs(self, path: str) -> dict[str, int]:
        """Of the disk below."""
        found = os.statvfs(self.files.live)
        return {name: getattr(found, name) for name in dir(found) if name.startswith("f_") and name != "f_fsid"}

    def getxattr(self, path: str, name: str, position: int = 0) -> bytes:
        """How much was lost so far."""
        if name == "user.lost":
            return str(self.files.lost).encode()
        raise mfusepy.FuseOSError(errno.ENODATA)

    def setxattr(self, path: str, name: str, value: bytes, options: int, position: int = 0) -> int:
        """Forget."""
        if name != "user.forget":
            raise mfusepy.FuseOSError(errno.ENOTSUP)
        share, _, seed = bytes(value).decode().partition(":")
        self.files.forget(float(share), Random(int(seed)))
        return 0


def main(target: str, store: str) -> None:
    """Serve the files in `store` at `target`. One thread is enough, and nothing is cached that a loss would have to undo."""
    served = Served(ForgetfulFiles(Path(store)))
    mfusepy.FUSE(served, target, foreground=True, nothreads=True, attr_timeout=0, entry_timeout=0)


if __name__ == "__main__":
    main(*sys.argv[1:])
