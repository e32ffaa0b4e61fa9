"""The labs' tester of the sharded system (MIT 6.5840, `shardkv1`) over simulated clusters: where the controller keeps its
configuration, joins and leaves, checked gets, clerks that record, and the sizes of groups.

Counted operations are the gets that check a value, and those of the clerks that record, as in the labs. Groups are
numbered from 1; all hold three peers. Limits are in virtual seconds.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from ctrler.controller import Controller
from raftlog.net.sim import RELIABLE, UNRELIABLE
from raftlog.node_values import NodeLimits
from shardkv.clerk import Clerk
from shardkv.config import ShardConfig
from shardkv.errors import Maybe, NoKey, VersionMismatch
from tools.checker.history import Recorder
from tools.checker.linearizability import check
from tools.scenarios.asserts import ends_within, require
from tools.scenarios.raft_lab import log_bytes_of
from tools.sim.cluster import SimCluster
from tools.sim.group import SimGroup
from tools.sim.world import World

KEYS = 60
"""The labs' NKEYS: 5 keys a shard."""
GROUPS = 8
"""The labs' NGRP: how many groups join in the larger scenarios, numbers 2 to 9."""
GROUP_DELAY_S = 0.2
"""The labs' pause after every join and leave."""
LIMIT_S = 120.0
THINK_S = 0.1
"""How long a recording clerk pauses between two operations: the labs' do not, but ours pay for each with real time."""


@dataclass(frozen=True, slots=True)
class StoreKind:
    """Where the controller keeps its configuration. `down` peers of it, from number 0 on, are killed as soon as there is a
    first configuration, and stay down."""

    store: str = "kvraft"
    peers: int = 3
    down: int = 0

    def __str__(self) -> str:
        name = "kvsrv" if self.store == "kvsrv" else f"kvraft {self.peers}"
        return f"{name}, {self.down} down" if self.down else name


KVSRV = StoreKind("kvsrv", 1)
KVRAFT_3, KVRAFT_5, KVRAFT_7 = (StoreKind("kvraft", n) for n in (3, 5, 7))
KVRAFT_5_ONE_DOWN = StoreKind("kvraft", 5, 1)

Scenario = Callable[[World, StoreKind], Awaitable[int]]


class Lab5:
    """A cluster with the labs' helpers. Everything that its clerks put and get is recorded."""

    def __init__(
        self, world: World, kind: StoreKind, *, unreliable: bool = False, limits: NodeLimits | None = None
    ) -> None:
        self.world = world
        self.kind = kind
        world.net.conditions = UNRELIABLE if unreliable else RELIABLE
        self.cluster = SimCluster(world, controllers=kind.peers, store=kind.store, limits=limits)
        self.ops = 0
        self.values: dict[str, bytes] = {}
        self.history = Recorder()
        self._gid = 1

    async def set_up(self) -> tuple[Controller, Clerk]:
        """The first configuration: group 1 owns all."""
        controller = self.cluster.controller().controller
        config = await self.cluster.set_up(controller)
        require(config.num == 1 and config.shards[0] == 1, f"the first configuration is {config}")
        if self.kind.down:
            self.cluster.store.crash(*range(self.kind.down))
        return controller, self.cluster.clerk()

    def new_gid(self) -> int:
        """The number of a group that there never was."""
        self._gid += 1
        return self._gid

    # --- keys ----------------------------------------------------------------------------------------------------

    async def spread_puts(self, clerk: Clerk, *, size: int = 20, keys: int = KEYS) -> None:
        """60 keys, created; then checked."""
        for number in range(keys):
            key = f"k{number}"
            value = self.world.rng("value", number).randbytes(size // 2).hex().encode()
            opened = self.history.begin("spread", "put", key.encode(), self.world.now(), value=value, version=0)
            require(await clerk.put(key, value, 0) == 1, f"{key} was not new")
            self.history.end(opened, self.world.now(), "ok", version=1)
            self.values[key] = value
        await self.check_gets(clerk)

    async def check_gets(self, clerk: Clerk) -> None:
        """Every key has its value and exactly version 1."""
        for key in self.values:
            await self.check_get(clerk, key)

    async def check_get(self, clerk: Clerk, key: str) -> None:
        """This key has."""
        found, value = await clerk.get(key), self.values[key]
        require(found == (value, 1), f"{key} is {found}, it must be {value!r}, version 1")
        self.ops += 1

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

    def check_history(self) -> None:
        """What was recorded is linearizable, and surely so."""
        verdict = check(self.history.ops)
        require(verdict.verdict == "ok", str(verdict))

    # --- groups --------------------------------------------------------------------------------------------------

    async def start_groups(self, *gids: int) -> None:
        """Start these groups and wait until each has a leader."""
        for gid in gids:
            self.cluster.start_group(gid)
        for gid in gids:
            await self.cluster.group(gid).wait_leader()

    async def join(self, controller: Controller, gid: int) -> None:
        """Start the group and have it join; it must be a member afterwards, in the next configuration."""
        before, _ = await controller.current()
        group = self.cluster.start_group(gid)
        await group.wait_leader()
        await controller.join({gid: group.addresses})
        config, _ = await controller.current()
        require(config.num == before.num + 1, f"a join led from {before.num} to {config.num}")
        require(config.is_member(gid), f"group {gid} is no member after its join: {config}")
        await trio.sleep(GROUP_DELAY_S)

    async def leave(self, controller: Controller, gid: int, *, exit_group: bool = True) -> None:
        """Have the group leave; it must be no member afterwards; then shut it down."""
        await controller.leave([gid])
        config, _ = await controller.current()
        require(gid not in config.groups, f"group {gid} is a member after it left: {config}")
        if exit_group:
            self.cluster.group(gid).crash()
        await trio.sleep(GROUP_DELAY_S)

    async def post_join(self, controller: Controller, gid: int) -> bool:
        """The labs' way, for controllers that compete: query, balance, ChangeConfigTo. Whether this one made the change."""
        servers = self.cluster.servers(gid)
        await controller.report(gid, dict(zip(servers, servers, strict=True)))
        return await _post(controller, lambda config: config.join({gid: servers}))

    async def post_leave(self, controller: Controller, gid: int) -> bool:
        """The same for a leave."""
        return await _post(controller, lambda config: config.leave([gid]))

    def log_bytes(self, gid: int) -> int:
        """What the logs of a group's peers hold on their disks, all together."""
        return sum(log_bytes_of(self.world, name) for name in self.cluster.group(gid).names.values())

    def snapshot_bytes(self, gid: int) -> list[int]:
        """How large a snapshot of each running peer of a group would be: the rows of its state."""
        return [
            sum(len(key) + len(row) for table in peer.machine.tables for key, row in peer.node.view.scan(table))
            for _, peer in sorted(self.cluster.group(gid).peers.items())
        ]


async def _post(controller: Controller, make: Callable[[ShardConfig], ShardConfig]) -> bool:
    return await controller.change_config_to(make((await controller.query()).current))


# --- clerks that write, and record -----------------------------------------------------------------------------------


class LabClerk:
    """A clerk on a host of its own that puts to one key by the version it knows, and records."""

    def __init__(self, lab: Lab5, number: int, *, sessions: bool) -> None:
        self.lab = lab
        self.name = f"clerk {number}"
        self.sessions = sessions
        self.clerk = lab.cluster.clerk(sessions=sessions, resend=not sessions)
        self.version = 0
        self.ok = self.maybe = 0
        self.ended = trio.Event()

    async def get(self, key: str) -> int:
        """The version found, 0 for a missing key."""
        record, now = self.lab.history, self.lab.world.now
        number = record.begin(self.name, "get", key.encode(), now())
        self.lab.ops += 1
        try:
            value, version = await self.clerk.get(key)
        except NoKey:
            record.end(number, now(), "no key")
            return 0
        record.end(number, now(), "ok", value=value, version=version)
        return version

    async def one_put(self, key: str, value: bytes) -> None:
        """OneClientPut: by the version that it knows; if that is not it, it looks."""
        record, now = self.lab.history, self.lab.world.now
        number = record.begin(self.name, "put", key.encode(), now(), value=value, version=self.version)
        self.lab.ops += 1
        try:
            self.version = await self.clerk.put(key, value, self.version)
        except VersionMismatch as error:
            record.end(number, now(), "mismatch", version=error.current)
        except Maybe:
            require(not self.sessions, f"{self.name}: a put ended in Maybe although its session lives")
            record.end(number, now(), "maybe")
            self.maybe += 1
        else:
            record.end(number, now(), "ok", version=self.version)
            self.ok += 1
            return
        self.version = await self.get(key)

    async def run(self, key: str, stop: trio.Event) -> None:
        """One put after another, with a pause between them; the last one is finished."""
        rng = self.lab.world.rng("think", self.name)
        puts = 0
        while not stop.is_set():
            puts += 1
            await self.one_put(key, f"{self.name} put {puts}".encode())
            await trio.sleep(THINK_S * rng.uniform(0.5, 1.5))
        self.ended.set()


async def with_clerks(lab: Lab5, count: int, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    """`count` clerks put to k0 while `work` is done, and for `seconds` at least; then the history is checked. Every other
    clerk, the first among them, is the labs': without sessions, so that a repeated put of it may end in Maybe."""
    clerks = [LabClerk(lab, number, sessions=number % 2 == 1) for number in range(count)]
    base = await clerks[0].get("k0")
    stop = trio.Event()
    until = lab.world.now() + seconds
    async with trio.open_nursery() as nursery:
        for clerk in clerks:
            nursery.start_soon(clerk.run, "k0", stop)
        await work()
        await trio.sleep_until(until)
        stop.set()
        for clerk in clerks:
            await ends_within(clerk.ended.wait, 10.0, f"the last operation of {clerk.name}")
    ok, maybe = sum(clerk.ok for clerk in clerks), sum(clerk.maybe for clerk in clerks)
    require(min(clerk.ok for clerk in clerks) > 0, "a clerk has no put that was OK")
    version = await clerks[0].get("k0") - base
    require(
        ok <= version <= ok + maybe, f"{version} versions after {ok} puts that were OK and {maybe} that may have been"
    )
    lab.check_history()
