"""Lab 5 and 5D: the sharded system in simulation, by name (MIT 6.5840, `shardkv1`; the seed write-up's extension 5D).

Every scenario is a function of a world and of where the controller keeps its configuration: a kvsrv, or a kvraft group of
3, 5 or 7 peers. Controllers run on client hosts, as in the labs; limits are in virtual seconds.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from ctrler.controller import Controller
from shardkv.clerk import Clerk
from tools.scenarios.asserts import ends_within, require, stays_open
from tools.sim.cluster import SimCluster, SimController
from tools.sim.group import SimGroup
from tools.sim.world import World

KEYS = 60
"""The labs' NKEYS: 5 keys a shard."""
GROUP_DELAY_S = 0.2
"""The labs' pause after every join and leave."""
LIMIT_S = 120.0


@dataclass(frozen=True, slots=True)
class StoreKind:
    """Where the controller keeps its configuration."""

    store: str = "kvraft"
    peers: int = 3

    def __str__(self) -> str:
        return "kvsrv" if self.store == "kvsrv" else f"kvraft {self.peers}"


KVSRV = StoreKind("kvsrv", 1)
KVRAFT_3, KVRAFT_5, KVRAFT_7 = (StoreKind("kvraft", n) for n in (3, 5, 7))


class Lab5:
    """A cluster with the labs' helpers. Counted operations are the gets that check a value, as in the labs."""

    def __init__(self, world: World, kind: StoreKind) -> None:
        self.world = world
        self.cluster = SimCluster(world, controllers=kind.peers, store=kind.store)
        self.ops = 0
        self.values: dict[str, bytes] = {}

    async def set_up(self) -> tuple[Controller, Clerk]:
        """The first configuration: group 1 owns all."""
        controller = self.cluster.controller().controller
        config = await self.cluster.set_up(controller)
        require(config.num == 1 and config.shards[0] == 1, f"the first configuration is {config}")
        return controller, self.cluster.clerk()

    async def spread_puts(self, clerk: Clerk) -> None:
        """60 keys, created; then checked."""
        for number in range(KEYS):
            key, value = f"k{number}", self.world.rng("value", number).randbytes(10).hex().encode()
            require(await clerk.put(key, value, 0) == 1, f"{key} was not new")
            self.values[key] = value
        await self.check_gets(clerk)

    async def check_gets(self, clerk: Clerk) -> None:
        """Every key has its value and exactly version 1."""
        for key, value in self.values.items():
            found = await clerk.get(key)
            require(found == (value, 1), f"{key} is {found}, it must be {value!r}, version 1")
            self.ops += 1

    async def join(self, controller: Controller, gid: int) -> None:
        """Start the group and have it join; it must be a member afterwards."""
        group = self.cluster.start_group(gid)
        await group.wait_leader()
        await controller.join({gid: group.addresses})
        config, _ = await controller.current()
        require(gid in config.groups, f"group {gid} is no member after its join: {config}")
        await trio.sleep(GROUP_DELAY_S)

    async def leave(self, controller: Controller, gid: int, *, exit_group: bool = True) -> None:
        """Have the group leave; it must be no member afterwards; then shut it down."""
        await controller.leave([gid])
        config, _ = await controller.current()
        require(gid not in config.groups, f"group {gid} is a member after it left: {config}")
        if exit_group:
            self.cluster.group(gid).crash()
        await trio.sleep(GROUP_DELAY_S)

    async def check_shutdown_sharding(self, group: SimGroup) -> None:
        """With one group down, its keys must not be served, and the others' must be right."""
        group.crash()
        done: list[str] = []

        async def one(key: str) -> None:
            found = await self.cluster.clerk().get(key)
            require(found == (self.values[key], 1), f"{key} is {found} while group {group.gid} is down")
            done.append(key)

        async with trio.open_nursery() as nursery:
            for key in self.values:
                nursery.start_soon(one, key)
            count = -1
            while count != len(done):
                count = len(done)
                await trio.sleep(2.0)
            nursery.cancel_scope.cancel()
        require(len(done) < KEYS, f"all {KEYS} keys are served although group {group.gid} is down")
        group.start()
        await group.wait_leader()


# --- 5A, 5B ----------------------------------------------------------------------------------------------------------


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


# --- 5D --------------------------------------------------------------------------------------------------------------


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


Scenario = Callable[[World, StoreKind], Awaitable[int]]


async def raft_leader_down_5d(world: World, kind: StoreKind) -> int:
    """TestRaftPeerDown5D with the controllers' leader as the one that goes down."""
    return await raft_peer_down_5d(world, kind, leader=True)


AVAILABILITY_5D: tuple[Scenario, ...] = (
    raft_peer_down_5d,
    raft_leader_down_5d,
    minority_down_5d,
    rolling_restarts_5d,
    majority_down_and_back_5d,
    partitioned_leader_5d,
    all_killed_in_a_move_5d,
)
