"""What the peers' data lies on: plain directories, small disks that can be filled, disks that forget.

A place is mounted before the peer's directory is made in it, and turned back into a plain directory with the same content
at the end. What cannot be mounted on this machine is told by `missing`, and is a plain directory instead.
"""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from random import Random

import trio

from tools.processes import ROOT

SMALL_BYTES = 320 << 20
"""The size of a small disk: far above what a peer keeps in a run, the alarm's reserve and the ballast together."""
MOUNTED_S = 60.0
"""How long mounting and unmounting may take, on a crowded machine too."""


class Place:
    """A plain directory; the base of the others."""

    kind = "plain"

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    async def mount(self) -> None:
        """Make the directory ready for a peer to be made in it."""

    async def unmount(self) -> None:
        """Make it a plain directory with what it has. Nobody may use it any more. May be repeated."""


class SmallDisk(Place):
    """A file system in memory that other files can fill."""

    kind = "small"

    @staticmethod
    @cache
    def missing() -> str:
        """Why there can be none here, "" if there can. Tries it, once."""
        if os.geteuid() != 0:
            return "needs root, to mount a tmpfs"
        if not shutil.which("mount"):
            return "needs the program mount"
        with tempfile.TemporaryDirectory(prefix="shardkv-chaos-") as folder:
            return _tried(SmallDisk(Path(folder) / "disk"), "needs the right to mount a tmpfs")

    async def mount(self) -> None:
        """See `Place`. Raises `OSError` where it is not allowed."""
        self.directory.mkdir(parents=True, exist_ok=True)
        await _run("mount", "-t", "tmpfs", "-o", f"size={SMALL_BYTES},mode=755", "shardkv-chaos", str(self.directory))

    async def unmount(self) -> None:
        """See `Place`."""
        if self.directory.is_mount():
            beside = self.directory.with_name(f"{self.directory.name}.copy")
            await trio.to_thread.run_sync(shutil.copytree, self.directory, beside)
            await _run("umount", str(self.directory))
            self.directory.rmdir()
            beside.rename(self.directory)

    @property
    def _filler(self) -> Path:
        return self.directory / "filler"

    def fill(self, left_bytes: int) -> None:
        """Take all room but so many bytes."""
        size = max(shutil.disk_usage(self.directory).free - left_bytes, 0)
        handle = os.open(self._filler, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with suppress(OSError):  # somebody else may have taken some meanwhile: then it is full enough
                os.posix_fallocate(handle, 0, max(size, 1))
        finally:
            os.close(handle)

    def empty(self) -> None:
        """Give the room back."""
        self._filler.unlink(missing_ok=True)


class ForgetfulDisk(Place):
    """A file system that loses what was not synced (see `forgetful`); its files are beside, in `NAME.store`."""

    kind = "forgetful"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.store = directory.with_name(f"{directory.name}.store")
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    @cache
    def missing() -> str:
        """Why there can be none here, "" if there can. Tries it, once."""
        if importlib.util.find_spec("mfusepy") is None:
            return "needs the Python package mfusepy (pip install 'shardkv[chaos]')"
        if ctypes.util.find_library("fuse3") is None or shutil.which("fusermount3") is None:
            return "needs the Debian package fuse3"
        if not os.access("/dev/fuse", os.R_OK | os.W_OK):
            return "needs /dev/fuse"
        with tempfile.TemporaryDirectory(prefix="shardkv-chaos-") as folder:
            return _tried(ForgetfulDisk(Path(folder) / "disk"), "needs the right to mount a FUSE file system")

    async def mount(self) -> None:
        """See `Place`. Raises `OSError` if it does not come to be."""
        self.directory.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-P", "-m", "tools.chaos.forgetful_mount", str(self.directory), str(self.store)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        with trio.move_on_after(MOUNTED_S):
            while not self.directory.is_mount() and self._process.poll() is None:
                await trio.sleep(0.02)
        if not self.directory.is_mount():
            raise OSError(f"{self.directory}: the file system that forgets could not be mounted")

    async def unmount(self) -> None:
        """See `Place`."""
        if self._process is None:
            return
        if self.directory.is_mount():
            await _run("fusermount3", "-u", "-z", str(self.directory))
            with trio.move_on_after(MOUNTED_S):
                while self._process.poll() is None:
                    await trio.sleep(0.02)
        self._process.kill()
        self._process.wait()
        self._process = None
        if (self.store / "live").exists():
            self.directory.rmdir()
            (self.store / "live").rename(self.directory)
            shutil.rmtree(self.store)

    def forget(self, share: float, rng: Random) -> int:
        """Lose what is not synced, each block with probability `share`; return how many blocks. The peer must be dead."""
        before = self._lost()
        os.setxattr(self.directory, "user.forget", f"{share}:{rng.getrandbits(32)}".encode())
        return self._lost() - before

    def _lost(self) -> int:
        return int(os.getxattr(self.directory, "user.lost"))


def _tried(place: Place, otherwise: str) -> str:
    """Mount a place and unmount it, in a thread with a loop of its own; what to say if that does not work."""

    async def once() -> str:
        try:
            await place.mount()
        except OSError:
            return otherwise
        finally:
            await place.unmount()
        return ""

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(trio.run, once).result()


async def _run(*command: str) -> None:
    done = await trio.run_process(list(command), check=False, capture_stdout=True, capture_stderr=True)
    if done.returncode:
        raise OSError(f"{command[0]}: {done.stderr.decode(errors='replace').strip() or done.returncode}")
