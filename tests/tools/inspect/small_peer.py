"""A peer's directory made without a process: a group of three, ten entries, the state as of the sixth."""

from __future__ import annotations

from pathlib import Path

from raftlog.durable import (
    LOG_TABLES,
    JournalRecord,
    append_entries,
    fill_log,
    fill_state,
    read_applied,
    state_tables,
    write_applied,
    write_hard,
    write_journal,
)
from raftlog.slots import SlotEngine
from raftlog.types import Entry, EntryKind, HardState, LogId, Member, Membership
from shardkv.group import GroupMachine
from store.format import Stamp
from store.lmdb_engine import LmdbEngine

MEMBERS = Membership(tuple(Member(peer, 100 + peer) for peer in range(3)))
TERM, LAST, APPLIED = 5, 10, 6
STATE_TABLES = state_tables(GroupMachine.tables)


def stamp(kind: str) -> Stamp:
    return Stamp(kind, b"c" * 16, 1, 0, 100)


def make_peer(directory: Path) -> Path:
    """Entry 1 of term 1, the others of term 2; voted for peer 2 in term 5; committed up to entry 8."""
    LmdbEngine.create(directory / "state", STATE_TABLES, stamp("state"), fill_state)
    LmdbEngine.create(directory / "log", LOG_TABLES, stamp("log"), lambda txn: fill_log(txn, MEMBERS))
    log = LmdbEngine.open(directory / "log", LOG_TABLES, None)
    with log.write() as txn:
        append_entries(txn, [entry(index) for index in range(2, LAST + 1)])
        write_hard(txn, HardState(TERM, 2, 8))
        txn.put("meta", b"boot", b"\x01")
        write_journal(txn, [JournalRecord(1, 1, "start", 1, None)])
    log.close()
    state = LmdbEngine.open(directory / "state", STATE_TABLES, None)
    slot = SlotEngine(state, GroupMachine.tables, 0)
    machine = GroupMachine()
    with slot.write() as txn:
        machine._ensure_format(txn)
        write_applied(txn, LogId(2, APPLIED), MEMBERS, machine.state_hash(txn))
    with state.read() as meta:
        assert read_applied(meta)[0] == LogId(2, APPLIED)
    state.close()
    return directory


def entry(index: int, term: int = 2) -> Entry:
    return Entry(LogId(term, index), EntryKind.NOOP, b"\x82\x00\x01", index)


def flip(file: Path, at: int, bit: int = 0) -> None:
    """One bit of a file."""
    data = bytearray(file.read_bytes())
    data[at] ^= 1 << bit
    file.write_bytes(data)


def damage_record(directory: Path, kind: str, table: str, key: bytes) -> None:
    """A flipped bit in one record as it lies in the file."""
    file = directory / kind / "data.mdb"
    engine = LmdbEngine.open_readonly(directory / kind, ("meta",) if table == "meta" else (table,))
    with engine.read() as txn:
        payload = txn.get(table, key)
    engine.close()
    assert payload is not None
    from store.records import seal

    record = seal(table, key, payload)
    data = file.read_bytes()
    at = data.find(key + record)
    assert at >= 0
    while at >= 0:
        flip(file, at + len(key) + len(record) - 1)
        at = data.find(key + record, at + 1)
