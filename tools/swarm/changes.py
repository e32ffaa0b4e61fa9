"""Changes of configuration while everything else happens: joins, leaves and moves, by several controllers at once, some of
which die or are cut off in the middle of one."""

from __future__ import annotations

from random import Random
from typing import Protocol

import trio

from ctrler.clerk import ControllerClerk
from ctrler.controller import Controller
from shardkv.config import ShardConfig
from shardkv.errors import KvError
from tools.sim.cluster import SimCluster, SimController
from tools.swarm.shape import Shape


class Changes(Protocol):
    """What a changer asks of: a controller on its own host, or a clerk of the controller peers."""

    async def config(self) -> ShardConfig:
        """The configuration in force."""
        ...

    async def join(self, gid: int) -> None:
        """Take a group in."""
        ...

    async def leave(self, gid: int) -> None:
        """Let one go."""
        ...

    async def move(self, shard: int, gid: int) -> None:
        """Give a shard to a group."""
        ...


class OwnController:
    """As in the labs: a controller on a client host."""

    def __init__(self, cluster: SimCluster, controller: Controller) -> None:
        self._cluster, self._controller = cluster, controller

    async def config(self) -> ShardConfig:
        """See `Changes`."""
        return (await self._controller.current())[0]

    async def join(self, gid: int) -> None:
        """See `Changes`."""
        await self._controller.join({gid: self._cluster.servers(gid)})

    async def leave(self, gid: int) -> None:
        """See `Changes`."""
        await self._controller.leave([gid])

    async def move(self, shard: int, gid: int) -> None:
        """See `Changes`."""
        await self._controller.move(shard, gid)


class AskedController:
    """As in production: the controller peers do it."""

    def __init__(self, cluster: SimCluster, clerk: ControllerClerk) -> None:
        self._cluster, self._clerk = cluster, clerk

    async def config(self) -> ShardConfig:
        """See `Changes`."""
        return await self._clerk.query(deadline_s=5.0)

    async def join(self, gid: int) -> None:
        """See `Changes`."""
        await self._clerk.join({gid: self._cluster.servers(gid)}, deadline_s=20.0)

    async def leave(self, gid: int) -> None:
        """See `Changes`."""
        await self._clerk.leave([gid], deadline_s=20.0)

    async def move(self, shard: int, gid: int) -> None:
        """See `Changes`."""
        await self._clerk.move(shard, gid, deadline_s=20.0)


class Changer:
    """Asks for one change after another. Its host can die: it goes on with a new controller on another."""

    def __init__(self, cluster: SimCluster, shape: Shape, rng: Random) -> None:
        self.cluster = cluster
        self.shape = shape
        self.rng = rng
        self.done: dict[str, int] = {}
        self.controller: SimController | None = None
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        """For ever."""
        while True:
            self._scope = trio.CancelScope()
            with self._scope:
                changes = self._changes()
                while True:
                    await trio.sleep(self.rng.expovariate(1 / self.shape.change_every_s))
                    await self.once(changes)

    def _changes(self) -> Changes:
        if self.shape.service:
            return AskedController(self.cluster, self.cluster.controller_clerk())
        self.controller = self.cluster.controller()
        return OwnController(self.cluster, self.controller.controller)

    def crash(self) -> None:
        """The host of the controller dies in the middle of whatever it does."""
        if self.controller is not None:
            self.controller.host.alive = False
            self._scope.cancel()

    async def once(self, changes: Changes) -> None:
        """One change, drawn from what is possible."""
        try:
            config = await changes.config()
            inside = sorted(config.groups)
            outside = [gid for gid in sorted(self.cluster.groups) if gid not in config.groups]
            kinds = ["join"] * 3 * bool(outside) + ["leave"] * 2 * (len(inside) > 1) + ["move"] * bool(inside)
            if not kinds:
                return
            kind = self.rng.choice(kinds)
            if kind == "join":
                await changes.join(self.rng.choice(outside))
            elif kind == "leave":
                await changes.leave(self.rng.choice(inside))
            else:
                await changes.move(self.rng.randrange(len(config.shards)), self.rng.choice(inside))
        except KvError as error:
            given_up = "was given up" in str(error)
            self.count("change given up" if given_up else f"change refused: {type(error).__name__}")
        else:
            self.count(kind)

    def count(self, what: str) -> None:
        """One more of these was made."""
        self.done[what] = self.done.get(what, 0) + 1
