"""The clerk of a versioned key/value group that is not sharded: kvsrv, or kvraft with n peers."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import trio

from raftlog.net.base import RpcClient
from shardkv.arguments import key_bytes, value_bytes, version_number
from shardkv.client_session import ClientSession, ShardSession
from shardkv.commands import Command, Delete, Put
from shardkv.errors import NoKey
from shardkv.group_clerk import GroupClerk
from shardkv.methods import Method
from shardkv.replies import OK_FIELDS, Code, decode_reply
from shardkv.writing import Write, outcome, written


class KvClerk:
    """Get and put by version. Puts take effect exactly once under a session; `sessions` and `resend` as in
    `shardkv.connect`."""

    def __init__(
        self,
        rpc: RpcClient,
        addresses: Sequence[str],
        *,
        rng: Random,
        gid: int = 0,
        sessions: bool = True,
        resend: bool = False,
    ) -> None:
        self.group = GroupClerk(rpc, gid, addresses, rng=rng)
        self._session = ClientSession(rng).of(0) if sessions else None
        self._resend = resend

    async def get(self, key: str | bytes, *, deadline_s: float | None = 10.0) -> tuple[bytes, int]:
        """(value, version). Linearizable. Raises `NoKey`, `Unavailable` at the deadline."""
        body = await self.group.call(Method.GET, [key_bytes(key)], deadline_s=deadline_s)
        reply = decode_reply(body, OK_FIELDS[Method.GET])
        if reply.code is Code.NO_KEY:
            raise NoKey(f"no such key: {key!r}")
        outcome(reply, open_before=False)
        return reply.fields[0], reply.fields[1]

    async def put(
        self, key: str | bytes, value: bytes, version: int | None = None, *, deadline_s: float | None = 10.0
    ) -> int:
        """Store; the new version. `version` None is unconditional, 0 means "must be missing". Raises `NoKey`,
        `VersionMismatch`, `Maybe` (unknown outcome), `Unavailable` (surely without effect)."""
        new: int = await self._write(Put(key_bytes(key), value_bytes(value), version_number(version)), deadline_s)
        return new

    async def delete(self, key: str | bytes, version: int | None = None, *, deadline_s: float | None = 10.0) -> int:
        """Remove; the version that was deleted. Raises as `put`."""
        old: int = await self._write(Delete(key_bytes(key), version_number(version)), deadline_s)
        return old

    async def _write(self, command: Command, deadline_s: float | None) -> Any:
        async def session() -> ShardSession | None:
            return self._session

        async def tries(write: Write) -> Any:
            failures = 0
            while True:
                reply = await write.attempt(self.group)
                if reply is not None:
                    return write.finish(reply)
                failures += 1
                await trio.sleep(self.group.pause(failures))

        def why() -> str:
            return f"group {self.group.gid} is silent: {self.group.why}"

        return await written(command, deadline_s, resend=self._resend, session=session, tries=tries, why=why)
