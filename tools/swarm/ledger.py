"""What the state machines of a world did: which write took effect where, and who served which shard. Nothing it says
depends on the machines' own bookkeeping of sessions and owners, so it can catch that lying.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raftlog.codec import CodecError, loads
from raftlog.types import LogId
from shardkv.commands import Delete, Put, decode_command
from shardkv.group import GroupMachine
from shardkv.kvmachine import VersionedMachine
from shardkv.replies import Code
from shardkv.shards import State
from store.engine import ReadTxn, WriteTxn


class LedgerBroken(AssertionError):
    """Something happened that must not; the text says what."""


class Ledger:
    """Of one world. `now` gives virtual time."""

    def __init__(self, *, exactly_once: bool, strict: bool) -> None:
        self.exactly_once = exactly_once
        self.strict = strict
        self.effects: dict[tuple[int, int, bytes, bytes], int] = {}
        """(gid, log index, key, written value) -> the version it gave. All replicas must agree."""
        self.versions: dict[tuple[bytes, bytes], int] = {}
        """(key, written value) -> the version, of everything that took effect."""
        self.serving: dict[int, dict[int, int]] = {}
        """shard -> the groups that serve it -> since which log index."""
        self.hashes: dict[tuple[int, LogId], bytes] = {}
        """(gid, applied position) -> the state hash there."""
        self.replicas = 0
        self._first: dict[int, tuple[int, int]] = {}
        """gid -> the greatest log index that any of its replicas has applied, and which replica was the first to."""

    def _require(self, holds: bool, text: str) -> None:
        if self.strict and not holds:
            raise LedgerBroken(text)

    def wrote(self, gid: int, at: LogId, key: bytes, value: bytes, version: int) -> None:
        """A replica applied a put, with effect."""
        where = (gid, at.index, key, value)
        known = self.effects.get(where)
        self._require(known in (None, version), f"group {gid}, entry {at}: {key!r} got version {known} and {version}")
        if known is None:
            self.effects[where] = version
            before = self.versions.setdefault((key, value), version)
            again = (
                f"group {gid}, entry {at}: the put of {value!r} took effect again, as version {version} after {before}"
            )
            self._require(not self.exactly_once or before == version, again)

    def applied(self, gid: int, at: LogId, replica: int, served: Callable[[], set[int]]) -> None:
        """A replica applied a command that may change who serves what; `served` are the group's shards after it. Only the
        first replica to apply an entry counts, with all of the entry's commands."""
        if (at.index, replica) != self._first.get(gid) and at.index <= self._first.get(gid, (0, 0))[0]:
            return
        self._first[gid] = (at.index, replica)
        mine = served()
        for shard, owners in self.serving.items():
            if shard not in mine:
                owners.pop(gid, None)
        for shard in mine:
            owners = self.serving.setdefault(shard, {})
            owners.setdefault(gid, at.index)
            self._require(len(owners) == 1, f"shard {shard} is served by groups {sorted(owners)}, since {owners}")

    def hashed(self, gid: int, at: LogId, state_hash: bytes) -> None:
        """A replica's state hash at an applied position."""
        known = self.hashes.setdefault((gid, at), state_hash)
        self._require(known == state_hash, f"group {gid}: two replicas that have applied {at} have different states")


def watched(machine: VersionedMachine, gid: int, ledger: Ledger) -> VersionedMachine:
    """The machine, with what it does written into the ledger."""
    apply = machine.apply
    ledger.replicas += 1
    replica = ledger.replicas

    def watching(txn: WriteTxn, command: bytes, at: LogId) -> bytes:
        reply = apply(txn, command, at)
        try:
            found: Any = decode_command(command)
        except CodecError:
            return reply
        if isinstance(found, Put):
            body = loads(reply)
            if body[0] == Code.OK:
                ledger.wrote(gid, at, found.key, found.value, body[1])
        elif not isinstance(found, Delete) and isinstance(machine, GroupMachine):
            ledger.applied(gid, at, replica, lambda: served_by(machine, txn))
        return reply

    machine.apply = watching  # type: ignore[method-assign]
    return machine


def served_by(machine: VersionedMachine, txn: ReadTxn) -> set[int]:
    """The shards that a group serves, in this view."""
    return {s for s in range(machine.shard_count(txn)) if machine.record(txn, s).state is State.SERVING}
