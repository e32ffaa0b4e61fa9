"""Which group a shard's requests go to: the cached configuration, hints of groups that gave a shard away, re-queries."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random

import trio

from raftlog.net.base import RpcClient
from shardkv.config import ShardConfig, shard_of
from shardkv.errors import Unavailable
from shardkv.group_clerk import GroupClerk
from shardkv.replies import Hint
from shardkv.routing import Routing

RETRY_S = 0.02
"""The pause before a shard that nobody serves yet is asked for again."""


class Router:
    """Shared by all calls of a clerk. `query` asks the controllers, for ever if need be; `why` tells why it takes so long."""

    def __init__(
        self,
        rpc: RpcClient,
        query: Callable[[], Awaitable[Routing]],
        rng: Random,
        why: Callable[[], str] = lambda: "no answer yet",
    ) -> None:
        self.rpc = rpc
        self.why = why
        self.rng = rng
        self._query = query
        self._routing: Routing | None = None
        self._refreshing: trio.Event | None = None
        self._groups: dict[int, GroupClerk] = {}
        self._hints: dict[int, Hint] = {}

    async def config(self) -> ShardConfig:
        """The configuration as cached; asked for if there is none yet."""
        if self._routing is None:
            await self.refresh()
        assert self._routing is not None
        return self._routing.current

    async def refresh(self) -> None:
        """Ask the controllers again; calls at the same time share one query."""
        if self._refreshing is not None:
            await self._refreshing.wait()
            return
        self._refreshing = trio.Event()
        try:
            routing = await self._query()
            if self._routing is None or routing.current.num >= self._routing.current.num:
                self._routing = routing
            for shard in [s for s, hint in self._hints.items() if hint.num <= routing.current.num]:
                del self._hints[shard]
        finally:
            self._refreshing.set()
            self._refreshing = None

    def group(self, shard: int, *, ahead: bool) -> GroupClerk | None:
        """The clerk of the group to ask, None if nobody is known to serve the shard."""
        hint = self._hints.get(shard)
        if hint is not None and hint.gid and hint.addresses:
            return self._clerk(hint.gid, hint.addresses)
        assert self._routing is not None
        gid = self._routing.owner(shard, ahead=ahead)
        addresses = self._routing.addresses.get(gid)
        return self._clerk(gid, addresses) if gid and addresses else None

    def _clerk(self, gid: int, addresses: tuple[str, ...]) -> GroupClerk:
        clerk = self._groups.get(gid)
        if clerk is None or not set(addresses) <= set(clerk.addresses):
            clerk = self._groups[gid] = GroupClerk(self.rpc, gid, addresses, rng=self.rng)
        return clerk

    def moved(self, shard: int, hint: Hint) -> bool:
        """A group said that it does not serve the shard. True if it said who does."""
        known = self._hints.get(shard)
        if hint.gid and hint.addresses and (known is None or hint.num > known.num):
            self._hints[shard] = hint
            return True
        if known is not None and hint.num > known.num:
            del self._hints[shard]
        return False

    def served(self, shard: int, group: GroupClerk) -> None:
        """A group has answered for the shard. If a running change gives it the shard, ask it first from now on."""
        routing = self._routing
        if routing is None or routing.next is None or shard in self._hints:
            return
        if group.gid != routing.owner(shard, ahead=False) and group.gid == routing.owner(shard, ahead=True):
            self._hints[shard] = Hint(routing.next.num, group.gid, group.addresses)

    def forget(self, shard: int, gid: int) -> None:
        """The group that a hint names is silent: it may have gone, or died."""
        known = self._hints.get(shard)
        if known is not None and known.gid == gid:
            del self._hints[shard]


class Search:
    """The way of one call from group to group until one serves its shard, or the shard of its key."""

    def __init__(self, router: Router, of: bytes | int) -> None:
        self.router = router
        self.shard = -1
        self._why = ""
        self._of = of
        self._failures = 0
        self._refusals = 0
        """How often a group refused, or was silent for a whole round of its servers: every other time the configuration that
        a running change leads to is tried, for a shard is served as soon as it is installed."""

    async def start(self) -> int:
        """Once, first: the shard, which is known when the number of shards is. Waits for the controllers if need be."""
        shards = (await self.router.config()).shards
        self.shard = self._of if isinstance(self._of, int) else shard_of(self._of, len(shards))
        self._why = "no group serves its shard"
        return self.shard

    @property
    def why(self) -> str:
        """What the call waits for."""
        return self._why or f"the controllers are silent: {self.router.why()}"

    async def group(self) -> GroupClerk:
        """The group to try now; waits while nobody is known to serve the shard."""
        while True:
            found = self.router.group(self.shard, ahead=self._refusals % 2 == 1)
            if found is None and self._refusals:
                found = self.router.group(self.shard, ahead=False)
            if found is not None:
                return found
            await trio.sleep(RETRY_S)
            await self.router.refresh()

    async def silent(self, group: GroupClerk) -> None:
        """A try gave no answer. A group that stays silent may have left: after a round of its servers, ask again."""
        self._failures += 1
        self._why = f"group {group.gid} is silent: {group.why}"
        await trio.sleep(group.pause(self._failures))
        if self._failures % len(group.addresses) == 0:
            self._refusals += 1
            self.router.forget(self.shard, group.gid)
            await self.router.refresh()

    async def refused(self, hint: Hint) -> None:
        """The group does not serve the shard: follow its hint, or ask again after a moment."""
        self._why = f"shard {self.shard} is moving"
        if self.router.moved(self.shard, hint):
            return
        self._refusals += 1
        await self.router.refresh()
        if self._refusals > 1:
            await trio.sleep(RETRY_S * self.router.rng.uniform(0.5, 1.0))

    def late(self, deadline_s: float | None) -> Unavailable:
        """What to raise at the deadline of a call without effect."""
        return Unavailable(f"no answer in {deadline_s} s: {self.why}")
