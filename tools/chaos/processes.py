"""Faults of processes: killed, stopped where they are, started anew one after another, and clocks that jump."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import trio

from tools.chaos.arena import Arena, has_own_clock, set_clock
from tools.chaos.clocked_peer import SEEN_S
from tools.chaos.faults import Fault, Kind, NotStruck
from tools.layout import ClusterError

CLOCK_STEPS_S = (-86_400, -3_600, -5, 5, 3_600, 86_400)


@asynccontextmanager
async def kill_one(arena: Arena, rng: Random) -> AsyncIterator[str]:
    """Any peer of any group."""
    name = rng.choice(arena.names())
    await arena.kill([name])
    yield name


@asynccontextmanager
async def kill_minority(arena: Arena, rng: Random) -> AsyncIterator[str]:
    """The largest minority of every group at once: all of them go on."""
    names = [name for gid in arena.gids for name in rng.sample(arena.names(gid), (len(arena.names(gid)) - 1) // 2)]
    await arena.kill(names)
    yield ", ".join(names)


@asynccontextmanager
async def kill_leader(arena: Arena, rng: Random) -> AsyncIterator[str]:
    """The leader of a group. What is measured: until another peer says that it leads."""
    gid = rng.choice(arena.gids)
    name = await arena.some_leader(gid)
    begun = trio.current_time()
    await arena.kill([name])
    yield name
    if len(arena.names(gid)) > 2:
        with trio.move_on_after(5.0):
            while await arena.leader(gid) is None:
                await trio.sleep(0.02)
            arena.measured("a leader after kill -9 of the last", trio.current_time() - begun)


@asynccontextmanager
async def kill_all(arena: Arena, rng: Random) -> AsyncIterator[str]:
    """All peers of a group, or of all groups."""
    if rng.random() < 0.3:
        await arena.kill(arena.names())
        yield "all"
    else:
        gid = rng.choice(arena.gids)
        await arena.kill(arena.names(gid))
        yield f"group {gid}"


@asynccontextmanager
async def _paused(arena: Arena, names: list[str]) -> AsyncIterator[str]:
    for name in names:
        arena.signal(name, signal.SIGSTOP)
    try:
        yield ", ".join(names)
    finally:
        for name in names:
            arena.signal(name, signal.SIGCONT)


@asynccontextmanager
async def pause_leader(arena: Arena, rng: Random) -> AsyncIterator[str]:
    """SIGSTOP for a leader, who afterwards must notice that it leads no longer."""
    async with _paused(arena, [await arena.some_leader(rng.choice(arena.gids))]) as text:
        yield text


@asynccontextmanager
async def pause_some(arena: Arena, rng: Random) -> AsyncIterator[str]:
    """SIGSTOP for one to all peers of a group."""
    names = arena.names(rng.choice(arena.gids))
    async with _paused(arena, sorted(rng.sample(names, rng.randint(1, len(names))))) as text:
        yield text


@asynccontextmanager
async def clock_step(arena: Arena, rng: Random) -> AsyncIterator[str]:
    """The wall clocks of some peers jump, and back again."""
    names = [name for name in arena.names() if has_own_clock(name)]
    names = sorted(rng.sample(names, rng.randint(1, len(names))))
    step = rng.choice(CLOCK_STEPS_S)
    for name in names:
        set_clock(arena.cluster.folder, name, step)
    await trio.sleep(SEEN_S)
    try:
        yield f"{step:+d} s: {', '.join(names)}"
    finally:
        for name in names:
            set_clock(arena.cluster.folder, name, 0)


@asynccontextmanager
async def rolling_restart(arena: Arena, rng: Random) -> AsyncIterator[str]:
    """The peers of a group are ended in good order and started again, one after another. No leader is lost: each hands
    over before it ends."""
    gid = rng.choice(arena.gids)
    names = arena.names(gid)
    for name in rng.sample(names, len(names)):
        arena.dead.add(name)
        try:
            await arena.cluster.stop(name)
        except ClusterError as error:
            raise NotStruck(str(error)) from error  # it has ended by itself: the nemesis looks into that
        await arena.start([name])
        await arena.some_leader(gid)
    yield f"group {gid}"


FAULTS = [
    Fault("kill-one", Kind.KILL, "kill -9 of one peer", kill_one),
    Fault("kill-minority", Kind.KILL, "kill -9 of a minority of every group at once", kill_minority),
    Fault("kill-leader", Kind.KILL, "kill -9 of a group's leader", kill_leader),
    Fault("kill-all", Kind.KILL, "kill -9 of a whole group, or of everything", kill_all),
    Fault("pause-leader", Kind.PAUSE, "SIGSTOP of a leader, then SIGCONT", pause_leader, last_s=(0.2, 1.5)),
    Fault("pause-some", Kind.PAUSE, "SIGSTOP of some or all peers of a group", pause_some, last_s=(0.2, 1.5)),
    Fault("clock-step", Kind.CLOCK, "wall clocks jump by seconds, an hour or a day, and back", clock_step),
    Fault("rolling-restart", Kind.RESTART, "a graceful stop and a start of each peer of a group", rolling_restart),
]
