"""Faults of disks: full, failing, forgetting, slow, hung; and kills at the N-th system call or at a durable step."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import trio

from tools.chaos.arena import STORAGE, Arena
from tools.chaos.faults import Fault, Kind, NotStruck
from tools.chaos.places import ForgetfulDisk, SmallDisk

STRUCK_S = 4.0
"""How long a fault that waits for a peer's next system call or durable step may wait."""
GONE_S = 10.0
"""Within this a peer whose disk hangs has ended itself: twice the stall limit."""
CALLS = ("fdatasync", "pwrite64", "sendto", "recvfrom", "epoll_wait", "futex")
STEPS = ("save.begin", "save.commit", "save.done", "flush.begin", "flush.commit", "flush.done", "reply")


@asynccontextmanager
async def disk_full(arena: Arena, rng: Random) -> AsyncIterator[str]:
    """A small disk is filled: to below the reserve, so that the peer raises its alarm, or to the last byte, so that a
    commit may fail and end it. Then there is room again."""
    name = _drawn(rng, arena.placed(SmallDisk))
    place = arena.cluster.places[name]
    assert isinstance(place, SmallDisk)
    left = rng.choice((0, 0, 1 << 20, 32 << 20))
    arena.dead.add(name)
    await trio.to_thread.run_sync(place.fill, left)
    try:
        yield f"{name}, {left >> 20} MiB left"
    finally:
        place.empty()


@asynccontextmanager
async def lost_writes(arena: Arena, rng: Random) -> AsyncIterator[str]:
    """Power cut: peers are killed and their disks forget what was not synced, all of it or each block by chance."""
    names = arena.placed(ForgetfulDisk)
    if not names:
        raise NotStruck("no peer is on a disk that forgets")
    names = sorted(rng.sample(names, rng.randint(1, len(names))))
    share = rng.choice((1.0, 0.5))
    await arena.kill(names)
    lost = 0
    for name in names:
        place = arena.cluster.places[name]
        assert isinstance(place, ForgetfulDisk)
        lost += await trio.to_thread.run_sync(place.forget, share, rng)
    arena.measured("blocks lost with unsynced writes", lost)
    yield f"{', '.join(names)}: {lost} blocks lost"


@asynccontextmanager
async def hung_disk(arena: Arena, rng: Random) -> AsyncIterator[str]:
    """A leader's commits do not return. Another peer must lead soon, and the hung one must end itself. What is measured:
    until both."""
    gid = rng.choice([gid for gid in arena.gids if len(arena.names(gid)) > 2] or arena.gids)
    name = await arena.some_leader(gid)
    arena.dead.add(name)
    if not await arena.arm(name, "save.commit=sleep:30"):
        await arena.disarm(name, "save.commit")
        raise NotStruck(f"{name} could not be armed")
    hang = _Hang(arena, name)
    await hang.succeeded(gid)
    yield name
    await hang.ended()


class _Hang:
    """A peer that hangs at its next save, which on an idle group may be a while: all times run from that save."""

    def __init__(self, arena: Arena, name: str) -> None:
        self._arena = arena
        self._name = name
        self._armed = trio.current_time()
        self._begun = self._armed
        """When it had not come to that save yet, for the last time that is known."""
        self._hangs = False

    async def _look(self, timeout_s: float) -> None:
        """Ask it whether it hangs. One that does may not answer."""
        asked = trio.current_time()
        self._hangs = await self._arena.reached(self._name, "save.commit", timeout_s)
        if not self._hangs:
            self._begun = asked

    async def _watch(self) -> None:
        while not self._hangs:
            await self._look(0.1)
            await trio.sleep(0.02)

    async def succeeded(self, gid: int) -> None:
        """Measure how long it takes until another peer leads."""
        with trio.move_on_after(STRUCK_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch)
                while await self._arena.leader(gid, but=self._name) is None:
                    await trio.sleep(0.02)
                took_s = trio.current_time() - self._begun
                self._arena.measured("another leader after the disk of the first hung", took_s)
                nursery.cancel_scope.cancel()

    async def ended(self) -> None:
        """Measure how long it takes until it has ended itself; if it does not, that is a finding."""
        arena, name = self._arena, self._name
        while not await arena.wait_dead(name, 0.2):
            await self._look(1.0)
            waited_s = trio.current_time() - self._begun
            if self._hangs and waited_s > GONE_S:
                arena.findings.append(f"{name}: its disk hangs, and it is still there after {waited_s:.1f} s")
                await arena.kill([name])
            elif not self._hangs and trio.current_time() - self._armed > GONE_S + STRUCK_S:
                await arena.disarm(name, "save.commit")
                raise NotStruck(f"{name} had nothing to save")
        if (
            arena.cluster.process(name).exit_code() == STORAGE
        ):  # by itself, not by a fault that was struck beside this one
            arena.measured("a peer whose disk hung is gone", trio.current_time() - self._begun)


@asynccontextmanager
async def slow_disk(arena: Arena, rng: Random) -> AsyncIterator[str]:
    """Each of a peer's commits takes a while longer."""
    name = _drawn(rng, arena.busy())
    slower = rng.choice((0.01, 0.05, 0.2))
    arena.dead.add(name)
    try:
        if not await arena.arm(name, f"save.commit=sleep:{slower}", f"flush.commit=sleep:{slower}"):
            raise NotStruck(f"{name} could not be armed")
        yield f"{name}, {slower * 1000:.0f} ms"
    finally:
        await arena.disarm(name, "save.commit", "flush.commit")


@asynccontextmanager
async def kill_at_step(arena: Arena, rng: Random) -> AsyncIterator[str]:
    """A peer dies at a durable step: by SIGKILL, by its own exit, or as by a failed commit."""
    name = _drawn(rng, arena.busy())
    step = rng.choice(STEPS)
    action = rng.choice(("kill", "exit", "error") if step != "reply" else ("kill", "exit"))
    nth = rng.randint(1, 5) if step.startswith("save") else 1
    if step == "reply":
        name = await arena.some_leader(rng.choice(arena.gids[1:] or arena.gids))
    arena.dead.add(name)
    armed = await arena.arm(name, f"{step}={action}@{nth}")
    if not await arena.wait_dead(name, STRUCK_S if armed else 0.0):
        await arena.disarm(name, step)
        raise NotStruck(f"{name} did not come to {step}")
    yield f"{name} at {step}, {action}"


@asynccontextmanager
async def kill_at_call(arena: Arena, rng: Random) -> AsyncIterator[str]:
    """A peer is killed in its N-th system call of a kind."""
    name, call, nth = _drawn(rng, arena.busy()), rng.choice(CALLS), rng.randint(1, 20)
    async with _traced(arena, name, call, f"signal=KILL:when={nth}"):
        if not await arena.wait_dead(name, STRUCK_S):
            raise NotStruck(f"{name} made fewer than {nth} calls of {call}")
        yield f"{name} at {call} {nth}"


@asynccontextmanager
async def disk_error(arena: Arena, rng: Random) -> AsyncIterator[str]:
    """A system call of a peer on its disk fails with EIO or ENOSPC: the peer must end, and must not try again."""
    name, call = _drawn(rng, arena.busy()), rng.choice(("fdatasync", "pwrite64"))
    error, nth = rng.choice(("EIO", "ENOSPC")), rng.randint(1, 10)
    async with _traced(arena, name, call, f"error={error}:when={nth}") as trace:
        if not await arena.wait_dead(name, STRUCK_S):
            if "(INJECTED)" in trace.read_text(encoding="utf-8", errors="replace"):
                arena.findings.append(f"{name}: {error} from {call}, and it is still there after {STRUCK_S:.0f} s")
            raise NotStruck(f"{name} made fewer than {nth} calls of {call}")
        yield f"{name}: {error} from {call} {nth}"


@asynccontextmanager
async def _traced(arena: Arena, name: str, call: str, how: str) -> AsyncIterator[Path]:
    """strace hangs on a peer and meddles with one of its calls; the file has the calls that it has seen."""
    pid = arena.cluster.process(name).pid()
    if pid is None:
        raise NotStruck(f"{name} does not run")
    arena.dead.add(name)
    trace = arena.cluster.folder / "run" / f"{name}.strace"
    trace.write_bytes(b"")
    which = ["-e", f"trace={call}", "-e", f"inject={call}:{how}"]
    command = ["strace", "-f", "-qq", "-o", str(trace), "-p", str(pid), *which]
    tracer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield trace
    finally:
        tracer.send_signal(signal.SIGTERM)
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(tracer.wait)


def _drawn(rng: Random, names: list[str]) -> str:
    if not names:
        raise NotStruck("no such peer runs")
    return rng.choice(names)


def _missing_strace() -> str:
    if not shutil.which("strace"):
        return "needs the Debian package strace"
    guard = Path("/proc/sys/kernel/yama/ptrace_scope")
    closed = os.geteuid() != 0 and guard.exists() and guard.read_text(encoding="ascii").strip() != "0"
    return f"needs root, or 0 in {guard}" if closed else ""


FAULTS = [
    Fault(
        "disk-full",
        Kind.DISK,
        "a small disk is filled, then emptied",
        disk_full,
        needs="root (tmpfs)",
        missing=SmallDisk.missing,
        last_s=(1.0, 2.0),
    ),
    Fault(
        "disk-error",
        Kind.DISK,
        "EIO or ENOSPC from a peer's N-th write or sync",
        disk_error,
        needs="strace",
        missing=_missing_strace,
    ),
    Fault(
        "lost-writes",
        Kind.DISK,
        "kill -9, and what was not synced is lost",
        lost_writes,
        needs="fuse3, mfusepy",
        missing=ForgetfulDisk.missing,
    ),
    Fault("hung-disk", Kind.DISK, "a leader's commits do not return", hung_disk, last_s=(0.0, 0.1)),
    Fault("slow-disk", Kind.DISK, "a peer's commits take 10 to 200 ms longer", slow_disk),
    Fault("kill-at-step", Kind.KILL, "a peer dies at a durable step", kill_at_step),
    Fault(
        "kill-at-call",
        Kind.KILL,
        "kill -9 at a peer's N-th system call",
        kill_at_call,
        needs="strace",
        missing=_missing_strace,
    ),
]
