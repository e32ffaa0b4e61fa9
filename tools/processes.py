"""The processes of peers on this machine: started, found again, signalled, awaited.

A peer's process holds a lock (flock) on `run/<name>.pid` for as long as it lives: the launcher takes it and the child
inherits it, so there is no moment in which the process runs and the lock is free, even if the launcher is killed in
between. The kernel releases it with the process, however that ends. So a held lock is the fact "it runs", and the pid
in the file, written by the child itself and by the launcher, is the pid of that process: a pid that the system has
given to somebody else is never signalled, because then the lock is free. (Beside the pid the file has the process's
start time, for people who look.)
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

POLL_S = 0.01
# Below the ports that the system hands out for outgoing connections, so that a dead peer's port stays free.
PORTS = range(11_000, 32_000)
ROOT = Path(__file__).resolve().parent.parent


class ProcessError(Exception):
    """A process did not start, did not end, or is not what it should be. One line for the user."""


class LockHeld(Exception):
    """Somebody else holds the lock."""


@dataclass
class PeerProcess:
    """The process of one peer, running or not. Its log is `logs/<name>.jsonl`, one event per line."""

    name: str
    folder: Path
    child: subprocess.Popen[bytes] | None = None
    """Set if this process is the launcher, which then has to reap it."""
    log_start: int = field(default=0)
    """Where in the log file the latest start begins, in bytes."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables that its next start gets beside ours."""
    program: tuple[str, ...] = ("-m", "tools.serve")
    """What runs it, as Python's arguments."""

    @property
    def pid_file(self) -> Path:
        """The file that the process holds locked."""
        return self.folder / "run" / f"{self.name}.pid"

    @property
    def log_file(self) -> Path:
        """The events of all its lives."""
        return self.folder / "logs" / f"{self.name}.jsonl"

    # --- start -------------------------------------------------------------------------------------------------------

    def start(self, settings: Path) -> bool:
        """Start the process unless it runs; return whether it was started. It then still has to open its data."""
        for file in (self.pid_file, self.log_file):
            file.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                lock = take_lock(self.pid_file)
                break
            except LockHeld:
                # By the process, or for a moment by somebody who asks whether there is one (`is_locked`).
                if is_locked(self.pid_file):
                    return False
        try:
            os.ftruncate(lock, 0)
            with self.log_file.open("ab") as log:
                self.log_start = log.tell()
                self.child = subprocess.Popen(
                    serve_command(settings, pid_fd=lock, program=self.program),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(lock,),
                    start_new_session=True,
                    env={**child_environment(), **self.environment},
                )
            write_pid(lock, self.child.pid)
        finally:
            os.close(lock)  # the child has it
        return True

    # --- is it there -------------------------------------------------------------------------------------------------

    def is_running(self) -> bool:
        """Whether the process lives (paused counts)."""
        if self.child is not None:
            self.child.poll()  # reaps it, if it ended
        return is_locked(self.pid_file)

    def pid(self) -> int | None:
        """The process's id, None if it does not run."""
        if not self.is_running():
            return None
        words = self.pid_file.read_text(encoding="ascii").split()
        return int(words[0]) if words else None

    def is_paused(self) -> bool:
        """Whether it was stopped by SIGSTOP."""
        pid = self.pid()
        fields = _stat_fields(pid) if pid is not None else []
        return bool(fields) and fields[0] == "T"

    def exit_code(self) -> int | None:
        """How it ended, if it was started by us and ended."""
        return None if self.child is None else self.child.poll()

    # --- signals -----------------------------------------------------------------------------------------------------

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal to the process; return whether it was there to get it. Never reaches another process."""
        pid = self.pid()
        if pid is None:
            return False
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        try:
            # From here on the descriptor is one process. If the peer's lock is still held, it is the peer.
            if self.pid() != pid:
                return False
            signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(descriptor)
        return True

    async def wait_ended(self, limit_s: float) -> bool:
        """Wait until it does not run any more, `limit_s` at most; return whether that came."""
        with trio.move_on_after(limit_s):
            while self.is_running() or (self.child is not None and self.child.poll() is None):
                await trio.sleep(POLL_S)
            return True
        return not self.is_running()

    async def kill(self, limit_s: float = 10.0) -> None:
        """`kill -9`, and wait until it is gone. Raises `ProcessError` if it stays."""
        self.signal(signal.SIGKILL)
        if not await self.wait_ended(limit_s):
            raise ProcessError(f"{self.name}: still there {limit_s:.0f} s after kill -9")

    # --- what it tells -----------------------------------------------------------------------------------------------

    def events(self, start: int | None = None) -> list[dict[str, Any]]:
        """The events of its latest start (or from a place in the log on). Lines that are none are left out."""
        try:
            with self.log_file.open("rb") as file:
                file.seek(self.log_start if start is None else start)
                lines = file.read().splitlines()
        except FileNotFoundError:
            return []
        return [event for line in lines if (event := _event(line)) is not None]

    def event(self, kind: str) -> dict[str, Any] | None:
        """The first event of this kind since its latest start by us, None if there is none yet."""
        return next((event for event in self.events() if event.get("event") == kind), None)

    def last_words(self) -> str:
        """Why its latest start by us ended, in one line."""
        if (error := self.event("error")) is not None:
            return str(error.get("text"))
        with suppress(FileNotFoundError), self.log_file.open("rb") as file:
            file.seek(self.log_start)
            lines = file.read().decode(errors="replace").strip().splitlines()
            if lines and _event(lines[-1].encode()) is None:
                return lines[-1]
        code = self.exit_code()
        how = "" if code is None else f" by signal {-code}" if code < 0 else f" with exit code {code}"
        return f"it ended{how} without a word; its log is {self.log_file}"

    async def wait_event(self, kind: str, limit_s: float) -> dict[str, Any]:
        """Wait for an event since its latest start by us. Raises `ProcessError` if it ends before or takes longer."""
        with trio.move_on_after(limit_s):
            while True:
                running = self.is_running()
                if (event := self.event(kind)) is not None:
                    return event
                if not running:
                    raise ProcessError(f"{self.name}: {self.last_words()}")
                await trio.sleep(POLL_S)
        raise ProcessError(f"{self.name}: no {kind!r} event after {limit_s:.0f} s; its log is {self.log_file}")


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


def serve_command(
    settings: Path, pid_fd: int | None = None, program: tuple[str, ...] = ("-m", "tools.serve")
) -> list[str]:
    """The command that runs a peer. `-P`: what lies in the working directory must not hide a module."""
    command = [sys.executable, "-P", *program, str(settings), "--json"]
    return command if pid_fd is None else [*command, f"--pid-fd={pid_fd}"]


def child_environment() -> dict[str, str]:
    """The environment of a peer: ours, and this source tree first on the path, installed or not."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


# --- locks, pids, ports ----------------------------------------------------------------------------------------------


def take_lock(path: Path) -> int:
    """Lock a file for this process and those that inherit the descriptor; return it. Raises `LockHeld`."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise LockHeld(str(path)) from None
    return descriptor


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock of a file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # A shared lock, so that two who ask at once do not see each other and take it for the peer.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def write_pid(descriptor: int, pid: int) -> None:
    """Write a pid and its start time into a locked pid file. Repeating it changes nothing."""
    fields = _stat_fields(pid)
    started = fields[19] if len(fields) > 19 else "0"
    os.pwrite(descriptor, f"{pid} {started}\n".encode(), 0)


def _stat_fields(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat from the state on, [] where there is none. The name before may hold anything."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return stat.rpartition(")")[2].split()


def free_ports(count: int, avoid: frozenset[int] = frozenset()) -> list[int]:
    """`count` ports on the loopback that nobody listens on now. Raises `ProcessError`."""
    found: list[int] = []
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        if len(found) == count:
            return found
        if port not in avoid and port_is_free("127.0.0.1", port):
            found.append(port)
    raise ProcessError(f"fewer than {count} free ports in {PORTS.start}..{PORTS.stop - 1}")


def port_is_free(host: str, port: int) -> bool:
    """Whether one can listen there now."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError:
            return False
    return True
