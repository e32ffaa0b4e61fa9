"""A group's past of random puts, deletes, retries and moves of shards, what it has to come to, and peers that hold it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

from raftlog.codec import dumps
from raftlog.durable import bootstrap_entry, state_tables, write_applied
from raftlog.machine import Operation, decode_operations, encode_operations, plain
from raftlog.sessions import apply_operation
from raftlog.slots import SlotEngine
from raftlog.types import Entry, EntryKind, LogId
from shardkv.commands import Delete, Freeze, Install, Put, encode_command, summary_of_nobody
from shardkv.config import shard_of
from shardkv.group import GroupMachine
from store.engine import WriteTxn
from store.lmdb_engine import LmdbEngine
from store.memory_engine import MemoryDisk, MemoryEngine
from tests.tools.inspect.made import MEMBERS, NOON_MS, Made, noop

SHARDS = 4
CLIENTS = (0x0123456789ABCDEF, 0xFEDCBA9876543210)
KEYS = [b"a", b"ab", b"b/1", b"b/2", b"b/3", b"c\xff\x00", b"", "d\u00e9".encode(), b"e" * 400]
TABLES = state_tables(GroupMachine.tables)

Rows = dict[bytes, tuple[int, bytes]]
"""Key -> version and value."""


@dataclass
class Kept:
    """What a session has to hold: replies are (sequence number -> version in the OK)."""

    last_tick: int = 0
    acked_below: int = 0
    replies: dict[int, int] = field(default_factory=dict)


Sessions = dict[tuple[int, int], Kept]
"""(shard, client) -> its session."""


@dataclass
class Past:
    """The entries from 2 on; `rows[i]` and `sessions[i]` are what has to be there after entry i, `rows[0]` nothing."""

    entries: list[Entry]
    rows: list[Rows]
    sessions: list[Sessions]

    @property
    def last(self) -> int:
        return self.entries[-1].id.index

    def id_at(self, index: int) -> LogId:
        return LogId(1, 1) if index == 1 else self.entries[index - 2].id

    def write(self, folder: Path, applied: int, commit: int, purge: int = 0, peer: int = 0, slot: int = 0) -> Path:
        """A peer's directory: all entries behind `purge`, the state as of `applied` in a slot."""
        base = self.id_at(purge) if purge else None
        directory = Made(peer, self.entries, commit, purge=base).write(folder)
        state = LmdbEngine.open(directory / "state", TABLES, None)
        live = SlotEngine(state, GroupMachine.tables, slot)
        machine = GroupMachine(SHARDS)
        with live.write() as txn:
            for entry in [bootstrap_entry(MEMBERS), *self.entries][:applied]:
                step(machine, txn, entry)
            txn.put("meta", b"slot", dumps(slot))
            write_applied(txn, self.id_at(applied), MEMBERS, machine.state_hash(txn))
        state.close()
        return directory

    def hashes(self) -> Iterator[tuple[int, str]]:
        """(index, state hash) after each entry, applied one by one."""
        engine = MemoryEngine(MemoryDisk(("meta", *GroupMachine.tables)))
        machine = GroupMachine(SHARDS)
        for entry in [bootstrap_entry(MEMBERS), *self.entries]:
            with engine.write() as txn:
                step(machine, txn, entry)
            with engine.read() as view:
                yield entry.id.index, machine.state_hash(view).hex()


def step(machine: GroupMachine, txn: WriteTxn, entry: Entry) -> None:
    if entry.kind is EntryKind.COMMAND:
        for operation in decode_operations(entry.data):
            apply_operation(machine, txn, operation, entry.id)


def make_past(seed: int, count: int = 30) -> Past:
    """Entry 1 the membership, 2 a leader's, 3 the shards, then `count` of commands, each with a few operations."""
    maker = _Maker(random.Random(seed))
    installs = [plain(encode_command(Install(s, 1, summary_of_nobody(1)))) for s in range(SHARDS)]
    entries = [noop(2, 2, 0), _entry(3, installs)]
    rows: list[Rows] = [{}] * 4
    sessions: list[Sessions] = [{}] * 4
    for index in range(4, 4 + count):
        entries.append(_entry(index, [maker.operation() for _ in range(maker.rng.randint(1, 3))]))
        rows.append(dict(maker.rows))
        sessions.append(deepcopy(maker.sessions))
    return Past(entries, rows, sessions)


def freeze(past: Past, shard: int) -> Past:
    """The past with one entry more, which gives a shard away."""
    index = past.last + 1
    entry = _entry(index, [plain(encode_command(Freeze(shard, 2, 7, ("elsewhere:1",))))])
    return Past([*past.entries, entry], [*past.rows, past.rows[-1]], [*past.sessions, past.sessions[-1]])


def _entry(index: int, operations: list[Operation]) -> Entry:
    return Entry(LogId(2, index), EntryKind.COMMAND, encode_operations(operations), NOON_MS + index)


class _Maker:
    """Operations and a model of what they do; what is sent again is the same."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.rows: Rows = {}
        self.sessions: Sessions = {}
        self.ticks = [0] * SHARDS
        self.sent: dict[tuple[int, int], tuple[Operation, int]] = {}

    def operation(self) -> Operation:
        client = self.rng.choice((0, *CLIENTS))
        key = self.rng.choice(KEYS)
        shard = shard_of(key, SHARDS)
        if client and (shard, client) in self.sent and self.rng.random() < 0.3:
            return self.sent[shard, client][0]  # a retry: without effect
        version = self.rows.get(key, (0, b""))[0]
        expected = self.rng.choice((None, version, version + 1)) if not client else None
        value = self.rng.randbytes(self.rng.randint(0, 9))
        put = client or self.rng.random() < 0.7
        command = Put(key, value, expected) if put else Delete(key, expected)
        if expected in (None, version):
            if put:
                self.rows[key] = (version + 1, value)
            else:
                self.rows.pop(key, None)
        if not client:
            return plain(encode_command(command))
        return self._kept(client, shard, encode_command(command), version + 1)

    def _kept(self, client: int, shard: int, command: bytes, version: int) -> Operation:
        seq = 1 + (self.sent[shard, client][1] if (shard, client) in self.sent else 0)
        kept = self.sessions.setdefault((shard, client), Kept())
        acked_below = self.rng.choice((kept.acked_below, seq))
        operation = Operation(client, seq, acked_below, self.ticks[shard], command)
        self.sent[shard, client] = operation, seq
        self.ticks[shard] += 1
        kept.last_tick, kept.acked_below = self.ticks[shard], acked_below
        kept.replies = {s: v for s, v in kept.replies.items() if s >= acked_below} | {seq: version}
        return operation
