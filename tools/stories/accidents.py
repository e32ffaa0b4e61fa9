"""The five accidents. Each is given a world with a new cluster and does what a cluster must never have done to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from raftlog.durable import LOG_TABLES, index_key, read_entries
from raftlog.node_values import NodeLimits
from raftlog.types import EntryKind
from shardkv.errors import KvError
from shardkv.group import GroupMachine
from store.lmdb_engine import LmdbEngine
from tools.sim.cluster import SimCluster
from tools.sim.group import server_name
from tools.sim.world import World, simulate
from tools.stories.directories import flip_bit, write_directories

GROUP = 1
PEERS = range(3)


@dataclass(frozen=True, slots=True)
class Story:
    """An accident. `play` makes it happen in a cluster that has settled; `damage` is done to the directories afterwards.
    `seed`: one by which those win their elections of whom docs/what-happened.md tells."""

    title: str
    play: Callable[[World, SimCluster], Awaitable[None]]
    damage: Callable[[Path], None] = lambda folder: None
    seed: int = 1


def make(name: str, folder: Path) -> list[Path]:
    """Play the story and leave its directories in `folder`, which must not exist. The directories. Raises `KeyError` for a
    stranger and `FileExistsError`."""
    story = STORIES[name]
    if folder.exists():
        raise FileExistsError(f"{folder} exists already")

    async def body(world: World) -> list[Path]:
        cluster = SimCluster(world, controllers=3, replicas=3, shards=4, service=True, limits=LIMITS)
        for gid in (1, 2):
            cluster.start_group(gid)
        cluster.store.start()
        await cluster.controller_clerk().init({1: cluster.servers(1), 2: cluster.servers(2)}, deadline_s=30.0)
        await puts(cluster, "morning", 20)
        await trio.sleep(1.0)
        await story.play(world, cluster)
        return write_directories(world, folder)

    made = simulate(body, seed=story.seed)
    story.damage(folder)
    return made


LIMITS = NodeLimits(batch_operations=1, flush_idle_s=0.1)
"""Every operation is an entry of its own, and its effect soon in the state: the stories are read entry by entry."""


async def puts(cluster: SimCluster, prefix: str, count: int, deadline_s: float = 10.0) -> int:
    """Put `prefix-0`, `prefix-1`, ... one after another; how many were acknowledged."""
    clerk, acknowledged = cluster.service_clerk(deadline_s=deadline_s), 0
    for number in range(count):
        with suppress(KvError):
            await clerk.put(f"{prefix}-{number}", b"value %d" % number)
            acknowledged += 1
    return acknowledged


def names(gid: int = GROUP) -> list[str]:
    """The hosts of a group."""
    return [server_name(gid, peer) for peer in PEERS]


def cut(world: World, name: str) -> None:
    """Cut a peer off from everybody, in both directions."""
    world.net.isolate(name, [other for other in world.net.hosts if other != name])


def stop_all(cluster: SimCluster) -> None:
    """Everybody dies at once: what is on the disks is all that is left."""
    for group in (cluster.store, *cluster.groups.values()):
        group.crash()


async def until(holds: Callable[[], bool], within_s: float = 20.0) -> None:
    """Wait. Raises `trio.TooSlowError`."""
    with trio.fail_after(within_s):
        while not holds():
            await trio.sleep(0.001)


# --- a lost vote ---------------------------------------------------------------------------------------------------


async def lost_vote(world: World, cluster: SimCluster) -> None:
    """A peer votes, and its directory is then replaced by a copy from before: it votes again in the same term, so two peers
    lead it, and both acknowledge writes at the same places."""
    group = cluster.group(GROUP)
    old = await group.wait_leader()
    others = [peer for peer in PEERS if peer != old]
    backup = {place: disk.copy() for place, disk in world.disks.items() if place[0] in names()}
    cut(world, group.names[old])
    await until(lambda: any(peer in group.leaders() for peer in others))
    await puts(cluster, "noon", 8)
    await until(lambda: old not in group.leaders())
    second = next(peer for peer in others if peer in group.leaders())
    voter = next(peer for peer in others if peer != second)
    group.crash(voter)
    world.disks |= {place: disk for place, disk in backup.items() if place[0] == group.names[voter]}
    group.start(voter)
    world.net.rejoin(group.names[old])
    cut(world, group.names[second])
    await until(lambda: any(peer in group.leaders() for peer in (old, voter)))
    await puts(cluster, "evening", 8)
    stop_all(cluster)


# --- a full disk ---------------------------------------------------------------------------------------------------


async def full_disk(world: World, cluster: SimCluster) -> None:
    """Two peers of a group run out of space: puts are refused although the leader has room; deletes pass, until there is
    space again."""
    group = cluster.group(GROUP)
    leader = await group.wait_leader()
    short = [peer for peer in PEERS if peer != leader]
    for peer in short:
        group.peers[peer].node.no_space = True
    await trio.sleep(0.5)
    await puts(cluster, "refused", 4, deadline_s=0.5)
    clerk = cluster.service_clerk()
    for number in range(10):
        await clerk.delete(f"morning-{number}")
    group.peers[short[0]].node.no_space = False
    await trio.sleep(0.5)
    await puts(cluster, "evening", 6)
    await trio.sleep(0.5)
    stop_all(cluster)


# --- a partitioned leader ------------------------------------------------------------------------------------------


async def partitioned_leader(world: World, cluster: SimCluster) -> None:
    """The leader is cut off from its group, not from its clients: it takes writes that it can never commit, while the others
    elect a leader and go on. Then the power fails."""
    group = cluster.group(GROUP)
    old = await group.wait_leader()
    others = [peer for peer in PEERS if peer != old]
    for peer in others:
        world.net.block(group.names[old], group.names[peer])
        world.net.block(group.names[peer], group.names[old])
    await puts(cluster, "lost", 4, deadline_s=0.1)
    await until(lambda: any(peer in group.leaders() for peer in others))
    await puts(cluster, "evening", 10)
    await trio.sleep(0.5)
    stop_all(cluster)


# --- a controller killed in a move ---------------------------------------------------------------------------------


async def killed_in_a_move(world: World, cluster: SimCluster) -> None:
    """Group 2 leaves. Its shards are frozen when group 1, which is to get them, is cut off from the controllers; then the
    power fails."""
    source = cluster.group(2)
    leader = source.peers[await source.wait_leader()]
    assert isinstance(leader.machine, GroupMachine)
    machine, node = leader.machine, leader.node
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_leave, cluster)
        await until(lambda: any(shard.state == "frozen" for shard in machine.shard_table(node.rsm.view)))
        for controller in names(0):
            for server in names(1):
                world.net.block(controller, server)
        await trio.sleep(1.0)
        stop_all(cluster)
        nursery.cancel_scope.cancel()


async def _leave(cluster: SimCluster) -> None:
    with suppress(KvError):
        await cluster.controller_clerk().leave([2], deadline_s=30.0)


# --- a flipped bit -------------------------------------------------------------------------------------------------


async def quiet_evening(world: World, cluster: SimCluster) -> None:
    """Nothing happens. What happens, happens to the disk."""
    await puts(cluster, "evening", 10)
    await trio.sleep(1.0)
    stop_all(cluster)


def one_bit(folder: Path) -> None:
    """Flip a bit of a log entry of one peer: that of the last put."""
    environment = folder / server_name(GROUP, 2) / "log"
    engine = LmdbEngine.open_readonly(environment, LOG_TABLES)
    try:
        with engine.read() as txn:
            entry = [entry for entry in read_entries(txn) if entry.kind is EntryKind.COMMAND][-1]
            key = index_key(entry.id.index)
            payload = txn.get("entries", key)
    finally:
        engine.close()
    assert payload is not None
    flip_bit(environment, "entries", key, payload)


STORIES = {
    "lost-vote": Story("a directory is put back from an old copy, and with it a vote", lost_vote, seed=4),
    "full-disk": Story("two disks of three run full, and are cleared", full_disk),
    "partitioned-leader": Story(
        "a leader is cut off from its group, and goes on taking writes", partitioned_leader, seed=4
    ),
    "killed-in-a-move": Story("the power fails while shards move", killed_in_a_move),
    "flipped-bit": Story("a bit of a log entry flips on one disk", quiet_evening, one_bit),
}
"""By the name that `shardkv story` knows."""
