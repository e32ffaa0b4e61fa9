"""All that a peer's log says of one key: each entry that touches it, and what became of it, as far as that can be told.

What became of an entry is found by applying the log up to it: from its beginning or from an export if that is at hand, else
from the stored state on. Of an entry before that only a reply that its client's session still remembers is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from raftlog import sessions
from raftlog.codec import CodecError
from raftlog.durable import read_applied, read_entries
from raftlog.machine import Operation, decode_operations
from raftlog.sessions import Refused, Replay
from raftlog.types import Entry, EntryKind
from shardkv import kv
from shardkv.commands import Command, Delete, InstallChunk, Put, decode_command, decode_entries
from shardkv.config import shard_of
from shardkv.kvmachine import VersionedMachine
from shardkv.replies import ok_fields
from shardkv.shards import ShardRecord, scope_of
from store.engine import ReadTxn
from tools.inspect.logview import Wanted, decoded_operation, describe_operation, entries
from tools.inspect.peer import OpenPeer
from tools.inspect.playing import Player, joins, machine_for, moment, overlaid
from tools.inspect.replay import entries_of, reach, start
from tools.inspect.state import HELD, Row, heading, key_of, key_row, reply_row, session_of

_ROW = b"\0"
"""The first byte of a row's position in a chunk."""


@dataclass(frozen=True)
class Subject:
    """The key, its shard, and how to show it; `shards` as for `describe_operation`."""

    key: bytes
    shard: int
    shards: int | None
    committed: int
    stored: int
    in_hex: bool

    def concerned(self, operation: Operation, shards: int) -> Command | None:
        """The command if it is of the key's shard."""
        try:
            command = decode_command(operation.command)
        except CodecError:
            return None  # answered with an error, without effect
        shard = shard_of(command.key, shards) if isinstance(command, Put | Delete) else command.shard
        return command if shard == self.shard else None

    def touches(self, command: Command) -> bool:
        """The command is about the key: it or its shard may change by it."""
        if isinstance(command, Put | Delete):
            return command.key == self.key
        if isinstance(command, InstallChunk):
            try:
                return any(position == _ROW + self.key for position, _ in decode_entries(command.entries))
            except CodecError:
                return False
        return True

    def row(self, entry: Entry, operation: Operation, outcome: Row | None) -> Row:
        """An entry of the history."""
        index = entry.id.index
        return {
            "index": index,
            "term": entry.id.term,
            "time_ms": entry.time_ms,
            "committed": index <= self.committed,
            "applied": index <= self.stored,
            **describe_operation(decoded_operation(operation), Wanted(hex=self.in_hex), self.shards),
            "outcome": outcome,
        }


def history(
    peer: OpenPeer, key: bytes, base: Path | None, shards: int | None, in_hex: bool, folder: Path | None = None
) -> Iterator[Row]:
    """The heading, a row per operation that touches the key, and last {present}: the key as it is stored. `base`, `shards`
    and `folder` as for `start`. Raises `StoreError`, `NotThere` for a kvsrv."""
    here = reach(peer)
    with moment(peer, shards=shards) as now:
        count = now.machine.shard_count(now.txn)
        told = None if peer.stamp.gid == 0 else count
        subject = Subject(key, shard_of(key, count), told, here.committed, here.stored.index, in_hex)
        head = {**heading(now), "key": key_of(key, in_hex), "shard": subject.shard, "first": here.base.index + 1}
        head |= {"last": here.last, "commit": here.committed}
        present = key_row(now, key, in_hex)
    if base is None and here.base.index > 0:
        yield {**head, "told_from": f"the stored state, as of index {here.stored.index}"}
        yield from _from_stored(peer, subject, shards)
    else:
        with start(peer, here, base, shards, folder) as begun:
            yield {**head, "told_from": begun.words}
            early = begun.player.at.index
            if early > here.base.index:
                with peer.view() as view:
                    log = entries(peer.engines["log"], here.base.index + 1, early)
                    yield from _remembered(subject, machine_for(peer, view.state, shards), view.state, log)
            for entry in entries_of(peer, here, begun, here.last):
                yield from _played(subject, begun.player, entry)
    yield {"present": present}


def _from_stored(peer: OpenPeer, subject: Subject, shards: int | None) -> Iterator[Row]:
    with peer.view() as view:
        assert view.log is not None
        machine = machine_for(peer, view.state, shards)
        stored = read_applied(view.meta)[0]
        yield from _remembered(subject, machine, view.state, read_entries(view.log, 0, stored.index))
        if not joins(view.log, stored):
            return
        with overlaid(view, machine, stored) as player:
            for entry in read_entries(view.log, stored.index + 1):
                yield from _played(subject, player, entry)


# --- what became of it -----------------------------------------------------------------------------------------------


def _played(subject: Subject, player: Player, entry: Entry) -> Iterator[Row]:
    """Apply what an entry says of the key's shard, and tell what it says of the key."""
    count = player.machine.shard_count(player.view)
    for operation in player.go_to(entry):
        command = subject.concerned(operation, count)
        if command is None:
            continue
        if not subject.touches(command):
            player.do(operation)
            continue
        before = _standing(subject, player.machine, player.view)
        effect = _by_session(player, operation)
        reply = player.do(operation)
        after = _standing(subject, player.machine, player.view)
        effect = effect or ("applied" if after != before else "none")
        told = {
            "effect": effect,
            **reply_row(reply, ok_fields(command)),
            "version_after": after.version,
            "told_by": "replay",
        }
        yield subject.row(entry, operation, told)
    player.settle()


class _Standing(NamedTuple):
    """The key and its shard in a view; `version` is None where the shard is not held."""

    record: ShardRecord
    row: bytes | None
    version: int | None


def _standing(subject: Subject, machine: VersionedMachine, txn: ReadTxn) -> _Standing:
    record = machine.record(txn, subject.shard)
    if record.state not in HELD:
        return _Standing(record, None, None)
    scope = scope_of(subject.shard, record)
    row = txn.get(kv.ROWS, scope + subject.key)
    return _Standing(record, row, 0 if row is None else kv.version_of(scope, subject.key, row))


def _by_session(player: Player, operation: Operation) -> str | None:
    """What its session makes of an operation: a duplicate, refused, or None for nothing."""
    scope = player.machine.scope(player.view, operation.command) if operation.client else None
    if scope is None:
        return None
    match sessions.lookup(player.view, scope, operation):
        case Replay():
            return "duplicate"
        case Refused():
            return "refused"
        case _:
            return None


def _remembered(subject: Subject, machine: VersionedMachine, txn: ReadTxn, log: Iterable[Entry]) -> Iterator[Row]:
    """What entries that are applied already say of the key, with the replies that sessions in the view still remember."""
    count = machine.shard_count(txn)
    for entry in log:
        if entry.kind is not EntryKind.COMMAND:
            continue
        try:
            operations = decode_operations(entry.data)
        except CodecError:
            continue  # it had no effect
        for operation in operations:
            command = subject.concerned(operation, count)
            if command is not None and subject.touches(command):
                yield subject.row(entry, operation, _reply(subject, machine, txn, operation))


def _reply(subject: Subject, machine: VersionedMachine, txn: ReadTxn, operation: Operation) -> Row | None:
    record = machine.record(txn, subject.shard)
    if not operation.client or record.state not in HELD:
        return None
    session = session_of(txn, scope_of(subject.shard, record), operation.client)
    reply = None if session is None else dict(session.replies).get(operation.seq)
    if reply is None:
        return None
    return {"effect": None, **reply_row(reply), "version_after": None, "told_by": "session"}
