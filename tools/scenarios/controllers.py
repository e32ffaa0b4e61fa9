"""Lab 5, parts B and C: controllers that die in a change, that compete, and that are cut off and come back (MIT 6.5840,
`shardkv1`). Each runs on a client host of its own and moves shards with ChangeConfigTo, as in the labs.
"""

from __future__ import annotations

import trio

from ctrler.controller import Controller
from shardkv.clerk import Clerk
from tools.scenarios.asserts import ends_within, require
from tools.scenarios.lab5 import GROUP_DELAY_S, Lab5, Scenario, StoreKind, with_clerks
from tools.sim.cluster import SimController
from tools.sim.world import World

CONTENDERS = 4
CONTEND_S = 2.0
PARTITIONED_CLERKS = 5
PARTITIONED_CLERKS_S = 60.0
STUCK_S = 10.0
"""How long it may take beyond the labs' second until a controller is stuck in a change; on a network that loses, the end of
the change before, with group 1 down, can take longer than that second."""
RETURN_S = 10.0
"""How long a controller that was cut off may take to return, once it is back."""


# --- a controller that gets stuck in a change, is cut off, and is superseded -----------------------------------------


class OldController:
    """A controller that has new groups join and leave, one after another, until it is told that it is superseded."""

    def __init__(self, lab: Lab5) -> None:
        self.lab = lab
        self.sim: SimController = lab.cluster.controller()
        self.gid = 0
        self.joining = False
        self.superseded = False
        self.ended = trio.Event()

    async def run(self) -> None:
        """For ever, or until the change that it is in returns to a superseded controller."""
        lab, controller = self.lab, self.sim.controller
        while not self.superseded:
            self.gid = lab.new_gid()
            group = lab.cluster.start_group(self.gid)
            self.joining = True
            await lab.post_join(controller, self.gid)
            await trio.sleep(GROUP_DELAY_S)
            if self.superseded:
                break
            self.joining = False
            await lab.post_leave(controller, self.gid)
            await trio.sleep(GROUP_DELAY_S)
            if not self.superseded:
                group.crash()
        self.ended.set()

    def cut_off(self) -> None:
        """From everybody."""
        self.superseded = True
        self.lab.world.net.isolate(self.sim.host.name, sorted(self.lab.world.net.hosts))

    def reconnect(self) -> None:
        """To everybody."""
        self.lab.world.net.rejoin(self.sim.host.name)


async def partition_controller(lab: Lab5, clerk: Clerk, nursery: trio.Nursery, *, reconnect: bool) -> bool:
    """The labs' partitionCtrler: group 1 goes down under a controller that moves shards, which is cut off then; a new one
    finishes its change once group 1 is back; with `reconnect` the old one comes back and returns. Whether it was cut off
    in a change: if not, that change ended at the very moment of the cut."""
    start = (await lab.cluster.controller().controller.query()).current
    old = OldController(lab)
    nursery.start_soon(old.run)
    await trio.sleep(1.0 + 0.4 * lab.world.rng("partition", start.num).random())
    group = lab.cluster.group(1)
    group.crash()
    await trio.sleep(1.0)
    successor = lab.cluster.controller().controller
    await ends_within(lambda: _next_posted(successor), STUCK_S, "the way of a controller into a change without group 1")
    old.cut_off()
    gid, joining = old.gid, old.joining
    seen = await successor.query()
    running = seen.next is not None
    if reconnect:
        await trio.sleep(1.0)
    require(not (running and old.ended.is_set()), "the old controller's change ended while group 1 was down")
    group.start()
    await successor.init_controller()
    config = (await successor.query()).current
    require(config.num > start.num, f"no change from configuration {start.num}")
    present = joining if running else gid in seen.current.groups
    require(
        (gid in config.groups) == present,
        f"the old controller was in a {'join' if joining else 'leave'} of group {gid}, and now there is {config}",
    )
    if present:
        require(await lab.post_leave(successor, gid), "the successor's leave was not the one that was made")
    lab.cluster.group(gid).crash()
    if reconnect:
        old.reconnect()
        await trio.sleep(0.1)
    await lab.check_gets(clerk)
    if reconnect:
        await ends_within(old.ended.wait, RETURN_S, "the change of the controller that was cut off, once it was back,")
    return running


async def _next_posted(controller: Controller) -> None:
    while (await controller.query()).next is None:
        await trio.sleep(0.1)


async def _partitions(lab: Lab5, clerk: Clerk, times: int, *, reconnect: bool) -> None:
    async with trio.open_nursery() as nursery:
        hits = [await partition_controller(lab, clerk, nursery, reconnect=reconnect) for _ in range(times)]
        nursery.cancel_scope.cancel()
    require(any(hits), "no controller was cut off in a change")


async def recover_ctrler_5b(world: World, kind: StoreKind) -> int:
    """TestRecoverCtrler5B: five times a controller is lost in a change, for good, and another one finishes it."""
    lab = Lab5(world, kind)
    _, clerk = await lab.set_up()
    await lab.spread_puts(clerk)
    await _partitions(lab, clerk, 5, reconnect=False)
    return lab.ops


async def _partition_recovery(world: World, kind: StoreKind, times: int, *, unreliable: bool, clerks: int = 0) -> int:
    lab = Lab5(world, kind, unreliable=unreliable)
    _, clerk = await lab.set_up()
    await lab.spread_puts(clerk)

    async def work() -> None:
        await _partitions(lab, clerk, times, reconnect=True)

    if clerks:
        del lab.values["k0"]  # theirs
        await with_clerks(lab, clerks, PARTITIONED_CLERKS_S, work)
    else:
        await work()
    return lab.ops


async def partition_recovery_reliable_no_clerk_5c(world: World, kind: StoreKind) -> int:
    """TestPartitionRecoveryReliableNoClerk5C: five times a controller is cut off in a change, superseded, and back."""
    return await _partition_recovery(world, kind, 5, unreliable=False)


async def partition_recovery_unreliable_no_clerk_5c(world: World, kind: StoreKind) -> int:
    """TestPartitionRecoveryUnreliableNoClerk5C: three times, on an unreliable network."""
    return await _partition_recovery(world, kind, 3, unreliable=True)


async def partition_recovery_reliable_clerks_5c(world: World, kind: StoreKind) -> int:
    """TestPartitionRecoveryReliableClerks5C: five times, with 5 clerks that put to k0 for 60 s. They pause, see `THINK_S`."""
    return await _partition_recovery(world, kind, 5, unreliable=False, clerks=PARTITIONED_CLERKS)


async def partition_recovery_unreliable_clerks_5c(world: World, kind: StoreKind) -> int:
    """TestPartitionRecoveryUnreliableClerks5C: three times, with 5 clerks, on an unreliable network."""
    return await _partition_recovery(world, kind, 3, unreliable=True, clerks=PARTITIONED_CLERKS)


async def partition_controller_join_5c(world: World, kind: StoreKind) -> int:
    """TestPartitionControllerJoin5C: a controller that waits for a dead group is cut off; the group comes up; another one
    finishes the join; the first returns once it is back."""
    lab = Lab5(world, kind)
    _, clerk = await lab.set_up()
    await lab.spread_puts(clerk)
    old = lab.cluster.controller()
    gid = lab.new_gid()
    lab.cluster.group(gid)  # its peers are down: the change cannot end
    returned = trio.Event()

    async def join() -> None:
        await lab.post_join(old.controller, gid)
        returned.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(join)
        await trio.sleep(1.0)
        world.net.isolate(old.host.name, [*sorted(world.net.hosts), *lab.cluster.servers(gid)])
        await trio.sleep(1.0)
        await lab.start_groups(gid)
        successor = lab.cluster.controller().controller
        await successor.init_controller()
        config = (await successor.query()).current
        require(config.is_member(gid), f"the successor did not finish the join: {config}")
        require(not returned.is_set(), "the join of the controller that was cut off returned")
        world.net.rejoin(old.host.name)
        await ends_within(returned.wait, RETURN_S, "the join of the controller that was cut off, once it was back,")
    await trio.sleep(1.0)
    await lab.check_gets(clerk)
    return lab.ops


# --- controllers that compete ----------------------------------------------------------------------------------------


class Contest:
    """Controllers that all change the configuration at once. Counts the changes that they won and lost."""

    def __init__(self, lab: Lab5) -> None:
        self.lab = lab
        self.won = self.lost = 0

    def _count(self, made: bool) -> None:
        self.won += made
        self.lost += not made

    async def contend(self, gid: int, until: float) -> None:
        """Again and again a new controller, which has the group join, and leave if it is a member then. A group whose join
        or leave lost is left running."""
        lab = self.lab
        while lab.world.now() < until:
            controller: Controller = lab.cluster.controller().controller
            await controller.init_controller()
            group = lab.cluster.start_group(gid)
            if gid not in (await controller.query()).current.groups:
                self._count(await lab.post_join(controller, gid))
            if gid not in (await controller.query()).current.groups:
                continue
            made = await lab.post_leave(controller, gid)
            self._count(made)
            if made:
                require(gid not in (await controller.query()).current.groups, f"group {gid} left and is a member")
                group.crash()


async def _contest(world: World, kind: StoreKind, *, unreliable: bool) -> int:
    lab = Lab5(world, kind, unreliable=unreliable)
    controller, clerk = await lab.set_up()
    await lab.spread_puts(clerk)
    contest = Contest(lab)
    async with trio.open_nursery() as nursery:
        for _ in range(CONTENDERS):
            nursery.start_soon(contest.contend, lab.new_gid(), world.now() + CONTEND_S)
    await lab.check_gets(clerk)
    await controller.init_controller()
    config = (await controller.query()).current
    config.check()
    require(config.num == 1 + contest.won, f"configuration {config.num} after {contest.won} changes that were made")
    require(contest.won > 0 and contest.lost > 0, f"{contest.won} changes were made, {contest.lost} lost: no contest")
    return lab.ops


async def concurrent_reliable_5c(world: World, kind: StoreKind) -> int:
    """TestConcurrentReliable5C: four controllers at a time join and leave groups of their own for 2 s; no key is lost."""
    return await _contest(world, kind, unreliable=False)


async def acquire_lock_concurrent_unreliable_5c(world: World, kind: StoreKind) -> int:
    """TestAcquireLockConcurrentUnreliable5C: the same on an unreliable network."""
    return await _contest(world, kind, unreliable=True)


LAB_5C: tuple[tuple[str, Scenario], ...] = (
    ("TestConcurrentReliable5C", concurrent_reliable_5c),
    ("TestAcquireLockConcurrentUnreliable5C", acquire_lock_concurrent_unreliable_5c),
    ("TestPartitionControllerJoin5C", partition_controller_join_5c),
    ("TestPartitionRecoveryReliableNoClerk5C", partition_recovery_reliable_no_clerk_5c),
    ("TestPartitionRecoveryUnreliableNoClerk5C", partition_recovery_unreliable_no_clerk_5c),
    ("TestPartitionRecoveryReliableClerks5C", partition_recovery_reliable_clerks_5c),
    ("TestPartitionRecoveryUnreliableClerks5C", partition_recovery_unreliable_clerks_5c),
)
