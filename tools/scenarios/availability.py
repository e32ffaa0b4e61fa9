"""5D: the controller on a replicated store, with peers of it down (the seed write-up's extension; its availability list)."""

from __future__ import annotations

from collections.abc import Awaitable

import trio

from tools.scenarios.asserts import ends_within, require, stays_open
from tools.scenarios.lab5 import Lab5, Scenario, StoreKind
from tools.sim.cluster import SimController
from tools.sim.world import World


async def raft_peer_down_5d(world: World, kind: StoreKind, *, leader: bool = False) -> int:
    """TestRaftPeerDown5D: one controller peer down (server 0, or whichever leads); a join, gets, a leave, and a query
    within 2 s. A kvsrv is restarted a second later: the join waits for it."""
    lab = Lab5(world, kind)
    controller, clerk = await lab.set_up()
    await lab.spread_puts(clerk)
    store = lab.cluster.store
    store.crash(await store.wait_leader() if leader else 0)
    if kind.store == "kvsrv":
        world.net.later(1.0, store.start)
    await lab.join(controller, 2)
    await lab.check_gets(clerk)
    await lab.leave(controller, 1, exit_group=False)
    await ends_within(controller.query, 2.0, "the query")
    return lab.ops


async def minority_down_5d(world: World, kind: StoreKind) -> int:
    """As many controller peers down as a quorum can bear, the leader among them."""
    lab = Lab5(world, kind)
    controller, clerk = await lab.set_up()
    await lab.spread_puts(clerk)
    store = lab.cluster.store
    first = await store.wait_leader()
    others = [peer for peer in sorted(store.names) if peer != first]
    store.crash(first, *others[: (kind.peers - 1) // 2 - 1])
    await lab.join(controller, 2)
    await lab.check_gets(clerk)
    await lab.leave(controller, 1)
    await ends_within(controller.query, 2.0, "the query")
    await lab.check_gets(clerk)
    return lab.ops


async def rolling_restarts_5d(world: World, kind: StoreKind) -> int:
    """Controller peers crash and come back one after another while groups join and leave."""
    lab = Lab5(world, kind)
    controller, clerk = await lab.set_up()
    await lab.spread_puts(clerk)
    store = lab.cluster.store

    async def roll() -> None:
        while True:
            for peer in sorted(store.names):
                store.crash(peer)
                await trio.sleep(0.7)
                store.start(peer)
                await trio.sleep(1.5)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(roll)
        for _ in range(3):
            await lab.join(controller, 2)
            await lab.check_gets(clerk)
            await lab.leave(controller, 2, exit_group=False)
            await lab.check_gets(clerk)
        nursery.cancel_scope.cancel()
    return lab.ops


async def majority_down_and_back_5d(world: World, kind: StoreKind) -> int:
    """Without a quorum of controllers no change is made and all keys are served; with it back, the change goes on."""
    lab = Lab5(world, kind)
    controller, clerk = await lab.set_up()
    await lab.spread_puts(clerk)
    lab.cluster.start_group(2)
    await lab.cluster.group(2).wait_leader()
    store = lab.cluster.store
    down = sorted(store.names)[: kind.peers // 2 + 1]
    store.crash(*down)
    done = trio.Event()

    async def join() -> None:
        await controller.join({2: lab.cluster.servers(2)})
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(join)
        await stays_open(3.0, done, "a join without a quorum of controllers")
        await lab.check_gets(clerk)
        store.start(*down)
        await ends_within(done.wait, 5.0, "the join, once the quorum was back,")
    config, _ = await controller.current()
    require(config.num == 2 and 2 in config.groups, f"after the join: {config}")
    await lab.check_gets(clerk)
    return lab.ops


async def partitioned_leader_5d(world: World, kind: StoreKind) -> int:
    """The store's leader is cut off together with the old controller, in the middle of a change; a new controller
    finishes; the old one is fenced and returns once it is back."""
    lab = Lab5(world, kind)
    _, clerk = await lab.set_up()
    await lab.spread_puts(clerk)
    old: SimController = lab.cluster.controller()
    lab.cluster.group(2)  # its peers are down: the change cannot end
    returned = trio.Event()

    async def change() -> None:
        await old.controller.join({2: lab.cluster.servers(2)})
        returned.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(change)
        await trio.sleep(1.0)
        leader = lab.cluster.store.names[await lab.cluster.store.wait_leader()]
        everybody = sorted(world.net.hosts)
        outside = [name for name in everybody if name not in (leader, old.host.name)]
        for name in (leader, old.host.name):
            world.net.isolate(name, outside)
        await trio.sleep(1.0)
        lab.cluster.start_group(2)
        await lab.cluster.group(2).wait_leader()
        successor = lab.cluster.controller().controller
        await ends_within(successor.init_controller, 10.0, "the successor's init_controller")
        config, _ = await successor.current()
        require(2 in config.groups, f"the successor did not finish the join: {config}")
        require(not returned.is_set(), "the old controller finished a change while it was cut off")
        await lab.check_gets(lab.cluster.clerk())
        world.net.heal()
        await ends_within(returned.wait, 10.0, "the old controller's change, once it was back,")
    await lab.check_gets(clerk)
    return lab.ops


async def all_killed_in_a_move_5d(world: World, kind: StoreKind) -> int:
    """Every controller peer and the controller are killed at once in the middle of a move; from their disks and a new
    controller the move goes on and nothing is lost. At 8 moments."""
    lab = Lab5(world, kind)
    controller, clerk = await lab.set_up()
    await lab.spread_puts(clerk)
    lab.cluster.start_group(2)
    await lab.cluster.group(2).wait_leader()
    store = lab.cluster.store
    hits = 0
    for moment in range(8):
        mover = lab.cluster.controller()
        joined = 2 in (await controller.current())[0].groups
        change = mover.controller.leave([2]) if joined else mover.controller.join({2: lab.cluster.servers(2)})

        async def run(change: Awaitable[int] = change) -> None:
            await change

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await trio.sleep(0.02 + 0.015 * moment)
            mover.host.alive = False
            store.crash()
            nursery.cancel_scope.cancel()
        store.start()
        routing = await controller.query()
        hits += routing.next is not None
        await ends_within(lab.cluster.controller().controller.init_controller, 20.0, "the new controller's start")
        await lab.check_gets(clerk)
    require(hits > 0, "no kill hit a move: the moments are wrong")
    return lab.ops


async def raft_leader_down_5d(world: World, kind: StoreKind) -> int:
    """TestRaftPeerDown5D with the controllers' leader as the one that goes down."""
    return await raft_peer_down_5d(world, kind, leader=True)


async def controller_peer_failure_5d(world: World, kind: StoreKind) -> int:
    """TestControllerPeerFailure5D: a controller peer is shut down; a query at once, and a join, go on."""
    lab = Lab5(world, kind)
    controller, _ = await lab.set_up()
    before, _ = await controller.current()
    lab.cluster.store.crash(0)
    config = (await ends_within(controller.query, 2.0, "the query")).current
    require(config == before, f"the query gives {config}, it was {before}")
    await lab.join(controller, 2)
    config = (await controller.query()).current
    require(config.num > before.num and config.is_member(2), f"after the join: {config}")
    return lab.ops


LAB_5D: dict[str, Scenario] = {
    "TestRaftPeerDown5D": raft_peer_down_5d,
    "TestRaftPeerDown5D (leader)": raft_leader_down_5d,
    "TestControllerPeerFailure5D": controller_peer_failure_5d,
    "Minority down 5D": minority_down_5d,
    "Rolling restarts 5D": rolling_restarts_5d,
    "Majority down and back 5D": majority_down_and_back_5d,
    "Partitioned leader 5D": partitioned_leader_5d,
    "All killed in a move 5D": all_killed_in_a_move_5d,
}
"""The seed write-up's, and its availability list. All need a replicated store but the first."""
