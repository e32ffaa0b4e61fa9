"""Changes of the configuration, and controllers that are killed in the middle of one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import trio

from ctrler.clerk import ControllerClerk
from shardkv.errors import Refused, Unavailable
from tools.admin import control
from tools.chaos.arena import Arena, NotConverged
from tools.chaos.faults import Fault, Kind, NotStruck
from tools.inspect import reader
from tools.proxy import PERFECT, Conditions

CHANGED_S = 60.0
"""How long a change may take, faults included."""
IN_MOVES = (
    *("config.next", "config.record", "config.current", "config.cleaned"),
    *("move.probe", "move.freeze", "move.read", "move.copy", "move.install", "move.delete"),
)
KILLED = "kills of a controller peer"
IN_CHANGE = "kills of a controller peer in the middle of a change"


def clerk_of(arena: Arena) -> ControllerClerk:
    """A clerk of the controllers that no fault of the network reaches."""
    return control(arena.rpc, list(arena.cluster.addresses(0).values()))


async def random_move(arena: Arena, rng: Random) -> str:
    """Give a shard to another group, and wait for it. Raises `NotStruck` where there is nowhere to move to, and
    `NotConverged` if it takes too long."""
    clerk = clerk_of(arena)
    try:
        config = await clerk.query(deadline_s=CHANGED_S)
        shard = rng.randrange(len(config.shards))
        others = sorted(set(config.groups) - {config.shards[shard]})
        if not others:
            raise NotStruck("there is one group only")
        target = rng.choice(others)
        await clerk.move(shard, target, deadline_s=CHANGED_S)
    except Refused as refused:
        return f"refused: {refused}"  # somebody else's change came between
    except Unavailable as error:
        raise NotConverged(f"a move was not done in {CHANGED_S:.0f} s: {error}") from error
    return f"shard {shard} to group {target}"


@asynccontextmanager
async def move(arena: Arena, rng: Random) -> AsyncIterator[str]:
    """A few shards change their groups, one after another."""
    yield "; ".join([await random_move(arena, rng) for _ in range(rng.randint(1, 3))])


@asynccontextmanager
async def leave_join(arena: Arena, rng: Random) -> AsyncIterator[str]:
    """A group leaves, all its shards go elsewhere, and it joins again."""
    clerk = clerk_of(arena)
    groups = arena.cluster.manifest.groups
    try:
        config = await clerk.query(deadline_s=CHANGED_S)
        if len(config.groups) < 2:
            raise NotStruck("there is one group only")
        gid = rng.choice(sorted(config.groups))
        await clerk.leave([gid], deadline_s=CHANGED_S)
        try:
            yield f"group {gid}"
        finally:
            with trio.CancelScope(shield=True):
                await clerk.join({gid: groups[gid].addresses}, deadline_s=CHANGED_S)
    except Refused as refused:
        raise NotStruck(f"refused: {refused}") from refused  # somebody else's change came between
    except Unavailable as error:
        raise NotConverged(f"a change was not done in {CHANGED_S:.0f} s: {error}") from error


@asynccontextmanager
async def kill_in_change(arena: Arena, rng: Random) -> AsyncIterator[str]:
    """Controllers are killed while shards move, and each must have on its disk what it needs to go on.

    Slow links between controllers and groups make the change last. Who is killed: the leader, any one, a minority or all; or
    the leader by a failpoint. Each directory is then looked at: in the middle of a change the next configuration's number is
    above the current one's. After its start a peer must report just the configuration that its directory had.
    """
    names = arena.names(0)
    groups = [name for name in arena.names() if name not in names]
    slowness = rng.uniform(0.1, 0.15)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(random_move, arena, rng)
        arena.proxy.set_between(names, groups, Conditions(delay_s=(slowness, 2 * slowness)))
        try:
            victims = await _kill_some(arena, rng, names)
        finally:
            arena.proxy.set_between(names, groups, PERFECT)
        wanted = await _on_disks(arena, victims)
        await arena.start(victims)
        for name, info in wanted.items():
            _recovered(arena, name, info)
    text = ", ".join(f"{name}{' in a change' if _in_change(info) else ''}" for name, info in wanted.items())
    yield text


async def _kill_some(arena: Arena, rng: Random, names: list[str]) -> list[str]:
    leader = await arena.some_leader(0)
    way = rng.randrange(6)
    if way == 0:
        where = f"{rng.choice(IN_MOVES)}.{rng.choice(('begin', 'done'))}"
        arena.dead.add(leader)
        if await arena.arm(leader, f"{where}=kill") and await arena.wait_dead(leader, 3.0):
            return [leader]
        await arena.disarm(leader, where)
    if not await _wait_change(arena, leader):
        raise NotStruck("no change came about")
    # A peer's durable commit lags behind what it has seen committed; a second later its state is flushed, and knows.
    await trio.sleep(rng.choice((rng.uniform(0.0, 1.0), *4 * [rng.uniform(1.05, 1.4)])))
    majority = len(names) // 2
    victims = {1: [leader], 2: [rng.choice(names)], 3: rng.sample(names, max(majority, 1))}.get(way, names)
    await arena.kill(victims)
    return list(victims)


async def _wait_change(arena: Arena, leader: str) -> bool:
    """Wait until the controllers carry out a change."""
    clerk = clerk_of(arena)
    with trio.move_on_after(5.0):
        while (await clerk.routing(deadline_s=None)).next is None:
            await trio.sleep(0.02)
        return True
    return False


async def _on_disks(arena: Arena, names: list[str]) -> dict[str, dict[str, Any]]:
    """What `inspect info` says of each dead peer's directory."""
    found: dict[str, dict[str, Any]] = {}

    async def look(name: str) -> None:
        try:
            found[name] = await trio.to_thread.run_sync(reader.peer_info, arena.cluster.folder / name)
        except reader.Unreadable as problem:
            arena.findings.append(f"{name} was killed in a change, and inspect info cannot read it: {problem}")
            found[name] = {"config": None, "config_committed": None}

    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(look, name)
    return dict(sorted(found.items()))


def _in_change(info: dict[str, Any]) -> bool:
    """Whether the directory is in the middle of a change, as far as its log is durably committed."""
    config = info["config_committed"] or info["config"]
    return config is not None and config["next"] is not None and config["next"] > config["num"]


def _recovered(arena: Arena, name: str, info: dict[str, Any]) -> None:
    """Hold what a peer said it recovered against what its directory had."""
    arena.measured(KILLED, 1)
    if _in_change(info):
        arena.measured(IN_CHANGE, 1)
    said = arena.cluster.process(name).event("recovered")
    told = None if said is None else said.get("config")
    if told != info["config"]:
        arena.findings.append(f"{name} recovered configuration {told!r}; its directory had {info['config']!r}")


FAULTS = [
    Fault("move", Kind.CHANGE, "shards move between groups", move, last_s=(0.0, 0.2), sharded=True),
    Fault(
        "leave-join",
        Kind.CHANGE,
        "a group leaves with all its shards and joins again",
        leave_join,
        last_s=(0.0, 0.3),
        sharded=True,
    ),
    Fault(
        "kill-in-change",
        Kind.CHANGE,
        "controllers killed in the middle of a change",
        kill_in_change,
        last_s=(0.0, 0.1),
        sharded=True,
    ),
]
