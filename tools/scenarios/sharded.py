"""Lab 5, parts A and B: shards that move, in simulation, by name (MIT 6.5840, `shardkv1`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from raftlog.node_values import NodeLimits
from shardkv.config import shard_of
from tools.scenarios.asserts import ends_within, require, stays_open
from tools.scenarios.controllers import recover_ctrler_5b
from tools.scenarios.lab5 import GROUPS, KEYS, Lab5, Scenario, StoreKind, with_clerks
from tools.sim.group import SimGroup
from tools.sim.world import World

MAX_RAFT_STATE = 10_000
CLERKS_S = 20.0


async def init_query_5a(world: World, kind: StoreKind) -> int:
    """TestInitQuery5A: the first configuration, as a query gives it."""
    lab = Lab5(world, kind)
    controller, _ = await lab.set_up()
    config = (await controller.query()).current
    require(config.num == 1 and config.shards[0] == 1, f"the query gives {config}")
    config.check([1])
    return lab.ops


async def static_one_shard_group_5a(world: World, kind: StoreKind) -> int:
    """TestStaticOneShardGroup5A: one group; its leader is shut down."""
    lab = Lab5(world, kind)
    _, clerk = await lab.set_up()
    await lab.spread_puts(clerk)
    await lab.check_gets(clerk)
    group = lab.cluster.group(1)
    group.crash(await group.wait_leader())
    await lab.check_gets(clerk)
    return lab.ops


async def join_basic_5a(world: World, kind: StoreKind) -> int:
    """TestJoinBasic5A: group 2 joins; each group alone serves its own keys and not the other's."""
    lab = Lab5(world, kind)
    controller, clerk = await lab.set_up()
    await lab.spread_puts(clerk)
    before, _ = await controller.current()
    await lab.join(controller, 2)
    config, _ = await controller.current()
    require(config.num == before.num + 1 and config.is_member(2), f"after the join: {config}")
    config.check([1, 2])
    await lab.check_shutdown_sharding(lab.cluster.group(1))
    await lab.check_gets(clerk)
    await lab.check_shutdown_sharding(lab.cluster.group(2))
    await lab.check_gets(clerk)
    return lab.ops


async def delete_basic_5a(world: World, kind: StoreKind) -> int:
    """TestDeleteBasic5A: what moved away is deleted at its old owner."""
    limits = NodeLimits(log_bytes=MAX_RAFT_STATE, keep_bytes=0, flush_idle_s=0.1)
    lab = Lab5(world, kind, limits=limits)
    controller, clerk = await lab.set_up()
    await lab.spread_puts(clerk, size=1000)
    before = max(lab.snapshot_bytes(1))
    require(before >= KEYS * 1000, f"group 1 holds {before} bytes")
    await lab.join(controller, 2)
    for _ in range(5):
        await lab.check_gets(clerk)
    logs = [peer.node.core.state.log.base.index for peer in lab.cluster.group(1).peers.values()]
    require(min(logs) > 0, f"no snapshot was taken of the logs: purged up to {logs}")
    after = max(lab.snapshot_bytes(1)) + max(lab.snapshot_bytes(2))
    require(after <= before + MAX_RAFT_STATE, f"both groups hold {after} bytes, one held {before}: nothing was deleted")
    return lab.ops


async def join_leave_basic_5a(world: World, kind: StoreKind) -> int:
    """TestJoinLeaveBasic5A: group 2 joins, group 1 leaves, is shut down, comes back and joins again."""
    lab = Lab5(world, kind)
    controller, clerk = await lab.set_up()
    await lab.spread_puts(clerk)
    await lab.join(controller, 2)
    await lab.check_shutdown_sharding(lab.cluster.group(1))
    await lab.leave(controller, 1)
    await lab.check_gets(clerk)
    await lab.join(controller, 1)
    await lab.check_gets(clerk)
    await lab.check_shutdown_sharding(lab.cluster.group(2))
    await lab.check_gets(clerk)
    return lab.ops


async def join_leave_5b(world: World, kind: StoreKind) -> int:
    """TestJoinLeave5B: a join waits for a dead source and is done within 2 s of its return; so does a leave for a dead
    destination."""
    lab = Lab5(world, kind)
    controller, clerk = await lab.set_up()
    await lab.spread_puts(clerk)
    lab.cluster.group(1).crash()
    lab.cluster.start_group(2)
    await lab.cluster.group(2).wait_leader()
    await _waits_then_ends(
        lambda: controller.join({2: lab.cluster.servers(2)}), lab.cluster.group(1), "the join", patience_s=0.5
    )
    config, _ = await controller.current()
    require(config.num == 2 and 2 in config.groups, f"after the join: {config}")
    lab.cluster.group(2).crash()
    await _waits_then_ends(lambda: controller.leave([1]), lab.cluster.group(2), "the leave", patience_s=2.0)
    await lab.check_gets(clerk)
    return lab.ops


async def _waits_then_ends(
    change: Callable[[], Awaitable[int]], dead: SimGroup, what: str, *, patience_s: float
) -> None:
    done = trio.Event()

    async def run() -> None:
        await change()
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await stays_open(patience_s, done, f"{what}, with group {dead.gid} dead,")
        dead.start()
        await ends_within(done.wait, 2.0, f"{what}, once group {dead.gid} was back,")


async def _many_join_leave(world: World, kind: StoreKind, *, unreliable: bool) -> int:
    lab = Lab5(world, kind, unreliable=unreliable)
    controller, clerk = await lab.set_up()
    await lab.spread_puts(clerk)
    gids = list(range(2, 2 + GROUPS))
    for gid in gids:
        await lab.join(controller, gid)
    await lab.check_shutdown_sharding(lab.cluster.group(gids[0]))
    await lab.check_gets(clerk)
    for gid in gids:
        await lab.leave(controller, gid)
    await lab.check_gets(clerk)
    return lab.ops


async def many_join_leave_reliable_5a(world: World, kind: StoreKind) -> int:
    """TestManyJoinLeaveReliable5A: 8 groups join, and leave."""
    return await _many_join_leave(world, kind, unreliable=False)


async def many_join_leave_unreliable_5a(world: World, kind: StoreKind) -> int:
    """TestManyJoinLeaveUnreliable5A: the same with a network that loses."""
    return await _many_join_leave(world, kind, unreliable=True)


async def shutdown_5a(world: World, kind: StoreKind) -> int:
    """TestShutdown5A: all groups are shut down and started: every key is back."""
    lab = Lab5(world, kind)
    controller, clerk = await lab.set_up()
    await lab.spread_puts(clerk)
    for gid in (2, 3):
        await lab.join(controller, gid)
    await lab.check_gets(clerk)
    for gid in (1, 2, 3):
        lab.cluster.group(gid).crash()
    for gid in (1, 2, 3):
        lab.cluster.group(gid).start()
    await lab.check_gets(clerk)
    return lab.ops


async def progress_shutdown_5a(world: World, kind: StoreKind) -> int:
    """TestProgressShutdown5A: with two groups down, the keys of the others are served, within 2 s."""
    lab = Lab5(world, kind)
    controller, clerk = await lab.set_up()
    await lab.spread_puts(clerk)
    for gid in (2, 3, 4, 5):
        await lab.join(controller, gid)
    for gid in (2, 3):
        lab.cluster.group(gid).crash()
    config, _ = await controller.current()
    alive = [key for key in lab.values if config.shards[config.shard_of(key)] in (4, 5)]
    require(len(alive) == 22, f"{len(alive)} keys are in groups 4 and 5")

    async def gets() -> None:
        for key in alive:
            await lab.check_get(clerk, key)

    await ends_within(gets, 2.0, "the gets of the living groups' keys")
    return lab.ops


async def progress_join_5a(world: World, kind: StoreKind) -> int:
    """TestProgressJoin5A: while group 7 joins and leaves again and again, the shards that do not move are served: at least
    100 gets in 4 s."""
    lab = Lab5(world, kind)
    controller, clerk = await lab.set_up()
    await lab.spread_puts(clerk)
    for gid in (2, 3, 4):
        await lab.join(controller, gid)
    before, _ = await controller.current()
    after = before.join({7: lab.cluster.servers(7)})
    giving = {before.shards[s] for s in range(12) if before.shards[s] != after.shards[s]}
    staying = [s for s in range(12) if before.shards[s] == after.shards[s] and before.shards[s] in giving]
    keys = [key for key in lab.values if shard_of(key.encode(), 12) in staying]
    require(staying == [4, 5, 10, 11] and len(keys) == 22, f"shards {staying} stay, with {len(keys)} keys")
    lab.cluster.start_group(7)
    await lab.cluster.group(7).wait_leader()
    gets = changes = 0

    async def change() -> None:
        nonlocal changes
        while True:
            await controller.join({7: lab.cluster.servers(7)})
            await controller.leave([7])
            changes += 2

    async with trio.open_nursery() as nursery:
        nursery.start_soon(change)
        until = world.now() + 4.0
        while world.now() < until:
            key = keys[gets % len(keys)]
            await ends_within(lambda key=key: lab.check_get(clerk, key), 8.0, "a get of a shard that does not move")  # type: ignore[misc]
            gets += 1
        nursery.cancel_scope.cancel()
    require(gets >= 100, f"only {gets} gets in 4 s while group 7 joined and left")
    require(changes >= 2, f"only {changes} changes in 4 s")
    return lab.ops


async def _concurrent_clerks(world: World, kind: StoreKind, *, clerks: int, unreliable: bool) -> int:
    lab = Lab5(world, kind, unreliable=unreliable)
    controller, clerk = await lab.set_up()
    await lab.spread_puts(clerk)

    async def changes() -> None:
        for gid in range(2, 2 + GROUPS):
            await lab.join(controller, gid)
        for gid in range(2, 2 + GROUPS):
            await lab.leave(controller, gid)

    await with_clerks(lab, clerks, CLERKS_S, changes)
    return lab.ops


async def one_concurrent_clerk_reliable_5a(world: World, kind: StoreKind) -> int:
    """TestOneConcurrentClerkReliable5A: a clerk puts while 8 groups join and leave."""
    return await _concurrent_clerks(world, kind, clerks=1, unreliable=False)


async def many_concurrent_clerk_reliable_5a(world: World, kind: StoreKind) -> int:
    """TestManyConcurrentClerkReliable5A: 10 clerks do."""
    return await _concurrent_clerks(world, kind, clerks=10, unreliable=False)


async def one_concurrent_clerk_unreliable_5a(world: World, kind: StoreKind) -> int:
    """TestOneConcurrentClerkUnreliable5A."""
    return await _concurrent_clerks(world, kind, clerks=1, unreliable=True)


async def many_concurrent_clerk_unreliable_5a(world: World, kind: StoreKind) -> int:
    """TestManyConcurrentClerkUnreliable5A."""
    return await _concurrent_clerks(world, kind, clerks=10, unreliable=True)


LAB_5A: dict[str, Scenario] = {
    "TestInitQuery5A": init_query_5a,
    "TestStaticOneShardGroup5A": static_one_shard_group_5a,
    "TestJoinBasic5A": join_basic_5a,
    "TestDeleteBasic5A": delete_basic_5a,
    "TestJoinLeaveBasic5A": join_leave_basic_5a,
    "TestManyJoinLeaveReliable5A": many_join_leave_reliable_5a,
    "TestManyJoinLeaveUnreliable5A": many_join_leave_unreliable_5a,
    "TestShutdown5A": shutdown_5a,
    "TestProgressShutdown5A": progress_shutdown_5a,
    "TestProgressJoin5A": progress_join_5a,
    "TestOneConcurrentClerkReliable5A": one_concurrent_clerk_reliable_5a,
    "TestManyConcurrentClerkReliable5A": many_concurrent_clerk_reliable_5a,
    "TestOneConcurrentClerkUnreliable5A": one_concurrent_clerk_unreliable_5a,
    "TestManyConcurrentClerkUnreliable5A": many_concurrent_clerk_unreliable_5a,
}
"""By their official names."""
LAB_5B: dict[str, Scenario] = {
    "TestJoinLeave5B": join_leave_5b,
    "TestRecoverCtrler5B": recover_ctrler_5b,
}
