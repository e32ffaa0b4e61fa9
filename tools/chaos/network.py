"""Faults of the network: partitions of every shape, and links that are slow or lose frames. Struck by the proxy."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random

from tools.chaos.arena import Arena
from tools.chaos.faults import Fault, Kind, Strike
from tools.proxy import CUT, Conditions

CLIENT = "client"
"""The proxy's host that all clients are on."""


@asynccontextmanager
async def _mended(arena: Arena, text: str) -> AsyncIterator[str]:
    """What was cut is mended afterwards."""
    try:
        yield text
    finally:
        arena.proxy.mend()


def _others(arena: Arena, names: list[str]) -> list[str]:
    return [host for host in arena.proxy.hosts if host not in names]


@asynccontextmanager
async def partition_one(arena: Arena, rng: Random) -> AsyncIterator[str]:
    """One peer reaches nobody, or only nobody of its group."""
    async with _alone(arena, rng, rng.choice(arena.names())) as text:
        yield text


@asynccontextmanager
async def partition_leader(arena: Arena, rng: Random) -> AsyncIterator[str]:
    """The same for a leader, whose clients may go on talking to it."""
    async with _alone(arena, rng, await arena.some_leader(rng.choice(arena.gids))) as text:
        yield text


@asynccontextmanager
async def _alone(arena: Arena, rng: Random, name: str) -> AsyncIterator[str]:
    group = name.rpartition("-")[0]
    from_all = rng.random() < 0.5
    others = [host for host in _others(arena, [name]) if from_all or host.startswith(f"{group}-")]
    arena.proxy.split([[name], others])
    async with _mended(arena, f"{name} from {'all' if from_all else 'its group'}") as text:
        yield text


@asynccontextmanager
async def partition_halves(arena: Arena, rng: Random) -> AsyncIterator[str]:
    """A group in two, the clients and the other groups on one side or on both."""
    names = arena.names(rng.choice(arena.gids))
    rng.shuffle(names)
    cut = rng.randint(1, len(names) - 1) if len(names) > 1 else 0
    sides = [names[:cut], names[cut:]]
    rest = _others(arena, names)
    where = rng.randrange(3)
    if where < 2:
        sides[where] += rest
    arena.proxy.split(sides)
    async with _mended(arena, f"{', '.join(names[:cut])} | {', '.join(names[cut:])}") as text:
        yield text


@asynccontextmanager
async def partition_ring(arena: Arena, rng: Random) -> AsyncIterator[str]:
    """Each peer of a group reaches a majority, and each another one. Of three peers two do not reach each other."""
    names = arena.names(rng.choice(arena.gids))
    rng.shuffle(names)
    reach = len(names) // 4 or (1 if len(names) > 3 else 0)
    for number, name in enumerate(names):
        near = {names[(number + step) % len(names)] for step in range(-reach, reach + 1)} if reach else {name}
        for other in names:
            if other not in near and (reach or {name, other} == {names[0], names[1]}):
                arena.proxy.set(name, other, CUT)
    async with _mended(arena, " - ".join(names)) as text:
        yield text


@asynccontextmanager
async def partition_one_way(arena: Arena, rng: Random) -> AsyncIterator[str]:
    """A peer is heard and hears nothing, or hears and is not heard."""
    gid = rng.choice(arena.gids)
    name = await arena.some_leader(gid) if rng.random() < 0.5 else rng.choice(arena.names(gid))
    deaf = rng.random() < 0.5
    for other in _others(arena, [name]):
        arena.proxy.set(*((other, name) if deaf else (name, other)), CUT)
    async with _mended(arena, f"{name} {'hears nothing' if deaf else 'is not heard'}") as text:
        yield text


@asynccontextmanager
async def partition_clients(arena: Arena, rng: Random) -> AsyncIterator[str]:
    """The clients reach one peer of each group only, or none of one group, one way or both."""
    gid = rng.choice(arena.gids)
    names = arena.names(gid)
    some = names if rng.random() < 0.3 else rng.sample(names, len(names) - 1)
    there, back = rng.choice(((True, True), (True, False), (False, True)))
    for name in some:
        if there:
            arena.proxy.set(CLIENT, name, CUT)
        if back:
            arena.proxy.set(name, CLIENT, CUT)
    async with _mended(arena, f"clients from {', '.join(some)}") as text:
        yield text


@asynccontextmanager
async def partition_controllers(arena: Arena, rng: Random) -> AsyncIterator[str]:
    """The controllers do not reach the shard groups, one of them or all, or are not reached by anybody else."""
    gids = [gid for gid in arena.gids if gid]
    gid = rng.choice([*gids, None])
    targets = _others(arena, arena.names(0)) if gid is None else arena.names(gid)
    arena.proxy.split([arena.names(0), targets])
    async with _mended(arena, f"controllers from {'all' if gid is None else f'group {gid}'}") as text:
        yield text


def _everywhere(draw: Callable[[Random], Conditions]) -> Strike:
    @asynccontextmanager
    async def strike(arena: Arena, rng: Random) -> AsyncIterator[str]:
        conditions = draw(rng)
        arena.proxy.mend(conditions)
        text = f"{conditions.loss:.0%} lost, {conditions.delay_s[0] * 1000:.0f}-{conditions.delay_s[1] * 1000:.0f} ms"
        async with _mended(arena, text) as said:
            yield said

    return strike


def _slow(rng: Random) -> Conditions:
    shortest = rng.uniform(0.0, 0.05)
    return Conditions(delay_s=(shortest, shortest + rng.uniform(0.0, 0.15)))


def _lossy(rng: Random) -> Conditions:
    return Conditions(loss=rng.uniform(0.05, 0.3), delay_s=(0.0, rng.uniform(0.0, 0.03)), reordered=True)


LAST_S = (0.5, 1.5)

FAULTS = [
    Fault(
        "partition-one", Kind.PARTITION, "one peer cut off, from all or from its group", partition_one, last_s=LAST_S
    ),
    Fault("partition-leader", Kind.PARTITION, "a leader cut off", partition_leader, last_s=LAST_S),
    Fault("partition-halves", Kind.PARTITION, "a group cut in two", partition_halves, last_s=LAST_S),
    Fault("partition-ring", Kind.PARTITION, "overlapping majorities", partition_ring, last_s=LAST_S),
    Fault(
        "partition-one-way", Kind.PARTITION, "a peer is not heard, or hears nothing", partition_one_way, last_s=LAST_S
    ),
    Fault(
        "partition-clients",
        Kind.PARTITION,
        "clients cut off from peers, one way or both",
        partition_clients,
        last_s=LAST_S,
    ),
    Fault(
        "partition-controllers",
        Kind.PARTITION,
        "controllers cut off from a group, or from all",
        partition_controllers,
        last_s=LAST_S,
        sharded=True,
    ),
    Fault("slow-links", Kind.LINK, "every frame takes up to 0.2 s", _everywhere(_slow), last_s=LAST_S),
    Fault(
        "lossy-links", Kind.LINK, "5 to 30 % of all frames lost, others overtake", _everywhere(_lossy), last_s=LAST_S
    ),
]
