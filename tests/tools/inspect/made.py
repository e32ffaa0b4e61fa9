"""Peers' directories written entry by entry, without any process: the pasts that a test wants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from raftlog.codec import dumps
from raftlog.durable import (
    LOG_TABLES,
    JournalRecord,
    append_entries,
    bootstrap_entry,
    fill_log,
    fill_state,
    state_tables,
    write_applied,
    write_hard,
    write_journal,
    write_purge,
)
from raftlog.machine import encode_operations, plain
from raftlog.types import Entry, EntryKind, HardState, LogId, Member, Membership
from shardkv.commands import Command, Put, encode_command
from shardkv.group import GroupMachine
from shardkv.kvmachine import KvMachine
from store.format import Stamp
from store.lmdb_engine import LmdbEngine

CLUSTER = bytes(range(16))
NOON_MS = 1_700_000_000_000
MEMBERS = Membership(tuple(Member(peer, 100 + peer) for peer in range(3)))


def command(index: int, term: int, *commands: Command, time_ms: int | None = None) -> Entry:
    """A command entry; of a put of its own index if none is given."""
    told = commands or (Put(b"key", b"%d" % index),)
    data = encode_operations([plain(encode_command(one)) for one in told])
    return Entry(LogId(term, index), EntryKind.COMMAND, data, NOON_MS + index * 10 if time_ms is None else time_ms)


def noop(index: int, term: int, leader: int, boot: int = 1) -> Entry:
    """The first entry of a leader."""
    return Entry(LogId(term, index), EntryKind.NOOP, dumps([leader, boot]))


def commands(first: int, last: int, term: int) -> list[Entry]:
    """The entries first..last of one term."""
    return [command(index, term) for index in range(first, last + 1)]


def note(ms: int, name: str, term: int, peer: int | None = None, boot: int = 1) -> JournalRecord:
    """A journal record, `ms` after noon."""
    return JournalRecord(NOON_MS + ms, boot, name, term, peer)


@dataclass
class Made:
    """A peer to write; `entries` follow the bootstrap entry."""

    peer: int
    entries: Sequence[Entry] = ()
    commit: int = 1
    gid: int = 1
    purge: LogId | None = None
    journal: Sequence[JournalRecord] = field(default_factory=list)
    cluster: bytes = CLUSTER

    def write(self, folder: Path) -> Path:
        """Its directory, made in `folder`."""
        directory = folder / f"server-{self.gid}-{self.peer}"
        stamps = [Stamp(kind, self.cluster, self.gid, self.peer, 100 + self.peer) for kind in ("log", "state")]
        tables = (KvMachine() if self.gid == 0 else GroupMachine()).tables
        LmdbEngine.create(directory / "state", state_tables(tables), stamps[1], fill_state)
        LmdbEngine.create(directory / "log", LOG_TABLES, stamps[0], lambda txn: fill_log(txn, MEMBERS))
        last = self.entries[-1].id if self.entries else bootstrap_entry(MEMBERS).id
        log = LmdbEngine.open(directory / "log", LOG_TABLES, None)
        try:
            with log.write() as txn:
                append_entries(txn, self.entries)
                write_hard(txn, HardState(last.term, None, self.commit))
                write_journal(txn, list(self.journal))
                if self.purge is not None:
                    write_purge(txn, self.purge, MEMBERS)
        finally:
            log.close()
        if self.purge is not None:
            state = LmdbEngine.open(directory / "state", state_tables(tables), None)
            try:
                with state.write() as txn:
                    write_applied(txn, self.purge, MEMBERS, b"")
            finally:
                state.close()
        return directory
