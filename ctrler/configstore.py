"""`ConfigStore`: what the controller needs of a versioned key/value store, and the stores it runs on.

Any store with a linearizable get and a put by version can stand in (kvsrv, kvraft with n peers, an external one).
"""

from __future__ import annotations

from typing import Any, Protocol

import trio

from raftlog.machine import Applied, NotLeader, NotTaken, Operation, Outcome, ReplicatedStateMachine, Unknown
from shardkv.commands import Put, encode_command
from shardkv.errors import Maybe, NoKey, Unavailable
from shardkv.kv_clerk import KvClerk
from shardkv.kvmachine import VersionedMachine
from shardkv.methods import Method
from shardkv.replies import OK_FIELDS, Code, decode_reply
from shardkv.writing import outcome


class ConfigStore(Protocol):
    """Linearizable. Calls may be repeated; nothing else is promised."""

    async def get(self, key: str) -> tuple[bytes, int]:
        """(value, version). Raises `NoKey`, `Unavailable`."""
        ...

    async def put(self, key: str, value: bytes, version: int) -> int:
        """Store if the key has `version` (0: is missing); the new version. Raises `VersionMismatch`, `NoKey`, `Maybe`
        (read again before you decide), `Unavailable` (surely without effect)."""
        ...


class RemoteStore:
    """A kvsrv or kvraft group over the network. Waits for ever: a controller cut off from it can do nothing else."""

    def __init__(self, clerk: KvClerk) -> None:
        self._clerk = clerk

    async def get(self, key: str) -> tuple[bytes, int]:
        """See `ConfigStore.get`."""
        return await self._clerk.get(key, deadline_s=None)

    async def put(self, key: str, value: bytes, version: int) -> int:
        """See `ConfigStore.put`."""
        return await self._clerk.put(key, value, version, deadline_s=None)


class LocalStore:
    """The group that this peer leads itself, without a network between. `Unavailable` when it does not lead."""

    def __init__(self, group: ReplicatedStateMachine, machine: VersionedMachine) -> None:
        self._group = group
        self._machine = machine

    async def get(self, key: str) -> tuple[bytes, int]:
        """See `ConfigStore.get`."""
        args = [key.encode()]
        answer = _Answer()
        self._group.when_readable(lambda view: self._machine.read(view, Method.GET, args), answer.set)
        found = await answer.wait()
        if isinstance(found, NotLeader | Unknown):
            raise Unavailable("this peer does not lead")
        reply = decode_reply(found, OK_FIELDS[Method.GET])
        if reply.code is Code.NO_KEY:
            raise NoKey(f"no such key: {key!r}")
        outcome(reply, open_before=False)
        return reply.fields[0], reply.fields[1]

    async def put(self, key: str, value: bytes, version: int) -> int:
        """See `ConfigStore.put`. Without a session: it is proposed once, so it takes effect once or not at all."""
        operation = Operation(0, 0, 0, 0, encode_command(Put(key.encode(), value, version)))
        answer = _Answer()
        self._group.submit(operation, answer.set)
        found: Outcome = await answer.wait()
        match found:
            case Applied(reply=body):
                new: int = outcome(decode_reply(body, 1), open_before=False)
                return new
            case Unknown(why):
                raise Maybe(why)
            case NotLeader() | NotTaken():
                raise Unavailable("this peer does not lead, or cannot take it now")


class _Answer:
    """One value, waited for once."""

    def __init__(self) -> None:
        self._event = trio.Event()
        self._value: Any = None

    def set(self, value: Any) -> None:
        self._value = value
        self._event.set()

    async def wait(self) -> Any:
        await self._event.wait()
        return self._value
