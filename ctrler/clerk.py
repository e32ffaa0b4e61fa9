"""The clerk of the controllers: query, init, join, leave, move, status and history, from anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random, SystemRandom
from typing import Any, NamedTuple

from ctrler.api import REQUEST_BYTES, Control
from raftlog.net.base import RpcClient
from shardkv.config import ShardConfig
from shardkv.errors import NoKey, Refused
from shardkv.group_clerk import ATTEMPT_S, GroupClerk
from shardkv.replies import Code, decode_reply
from shardkv.routing import Routing, decode_routing

DEADLINE_S = 10.0
CHANGE_DEADLINE_S = 60.0
CHANGE_ATTEMPT_S = 5.0
"""How long one controller peer may take over a change before another one is asked, in seconds."""


class PastConfig(NamedTuple):
    """A configuration of the history: by which request, when its change was begun and when it was in force (unix ms)."""

    config: ShardConfig
    request: bytes
    begun_ms: int
    in_force_ms: int


class ControllerClerk:
    """Calls the controller group; follows its leader. Every call has a deadline in seconds (None = for ever) and raises
    `Unavailable` when it passes: a change may then still be carried out, and can be asked for again with its request id."""

    def __init__(self, rpc: RpcClient, addresses: Sequence[str], rng: Random | None = None) -> None:
        self._rng = rng or SystemRandom()
        self._group = GroupClerk(rpc, 0, addresses, rng=self._rng)

    @property
    def requests_sent(self) -> int:
        """How many requests this clerk's client has handed to the network."""
        return self._group.rpc.requests_sent

    def request_id(self) -> bytes:
        """A new request id."""
        return self._rng.randbytes(REQUEST_BYTES)

    async def _call(
        self, method: Control, args: list[Any], fields: int, deadline_s: float | None, attempt_s: float = ATTEMPT_S
    ) -> tuple[Any, ...]:
        body = await self._group.call(method, args, deadline_s=deadline_s, attempt_s=attempt_s)
        reply = decode_reply(body, fields)
        if reply.code is Code.NO_KEY:
            raise NoKey("there is no such configuration")
        if reply.code is not Code.OK:
            raise Refused(str(reply.fields[0]) if reply.fields else reply.code.name)
        return reply.fields

    async def routing(self, num: int | None = None, *, deadline_s: float | None = DEADLINE_S) -> Routing:
        """The configuration in force (or number `num`), the next while a change runs, and the addresses."""
        return decode_routing(list(await self._call(Control.QUERY, [num], 3, deadline_s)))

    async def query(self, num: int | None = None, *, deadline_s: float | None = DEADLINE_S) -> ShardConfig:
        """The configuration in force, or number `num`. Raises `NoKey` for one that never was."""
        return (await self.routing(num, deadline_s=deadline_s)).current

    async def init(
        self,
        groups: Mapping[int, Sequence[str]],
        *,
        request: bytes | None = None,
        deadline_s: float | None = CHANGE_DEADLINE_S,
    ) -> int:
        """Make the first configuration: these groups (gid -> addresses) own all shards. The number in force."""
        return await self._change(Control.INIT, [_listed(groups)], request, deadline_s)

    async def join(
        self,
        groups: Mapping[int, Sequence[str]],
        *,
        request: bytes | None = None,
        deadline_s: float | None = CHANGE_DEADLINE_S,
    ) -> int:
        """Take groups in (gid -> addresses); the number of the configuration that it made. Raises `Refused`."""
        return await self._change(Control.JOIN, [_listed(groups)], request, deadline_s)

    async def leave(
        self, gids: Sequence[int], *, request: bytes | None = None, deadline_s: float | None = CHANGE_DEADLINE_S
    ) -> int:
        """Let groups go; the number of the configuration that it made. Raises `Refused`."""
        return await self._change(Control.LEAVE, [list(gids)], request, deadline_s)

    async def move(
        self, shard: int, gid: int, *, request: bytes | None = None, deadline_s: float | None = CHANGE_DEADLINE_S
    ) -> int:
        """Give one shard to a group; the number of the configuration that it made. Raises `Refused`."""
        return await self._change(Control.MOVE, [shard, gid], request, deadline_s)

    async def _change(self, method: Control, args: list[Any], request: bytes | None, deadline_s: float | None) -> int:
        # A change takes as long as its shards take: the tries of one call are as patient as the call.
        known = request if request is not None else self.request_id()
        num: int = (await self._call(method, [known, *args], 1, deadline_s, CHANGE_ATTEMPT_S))[0]
        return num

    async def status(self, *, deadline_s: float | None = DEADLINE_S) -> dict[str, Any]:
        """What a running change waits for: keys current, next, cleaned, trouble, steps [[shard, step, gid, age_s]]."""
        found: dict[str, Any] = (await self._call(Control.STATUS, [], 1, deadline_s))[0]
        return found

    async def history(
        self, first: int = 1, last: int | None = None, *, deadline_s: float | None = DEADLINE_S
    ) -> list[PastConfig]:
        """The configurations first..last (the one in force), oldest first."""
        (rows,) = await self._call(Control.HISTORY, [first, last], 1, deadline_s)
        return [PastConfig(ShardConfig.from_json(text), bytes(r), a, b) for _, text, r, a, b in rows]

    async def report(self, gid: int, names: Mapping[str, str], *, deadline_s: float | None = DEADLINE_S) -> None:
        """Say where servers of a group listen (name -> address)."""
        await self._call(Control.REPORT, [gid, dict(names)], 0, deadline_s)


def _listed(groups: Mapping[int, Sequence[str]]) -> list[list[Any]]:
    return [[gid, list(addresses)] for gid, addresses in sorted(groups.items())]
