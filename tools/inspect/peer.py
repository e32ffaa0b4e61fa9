"""One peer's directory, opened to look: the environments, their stamps, and what `info` tells."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctrler.host import configuration
from raftlog.codec import CodecError, loads, unpack_entry
from raftlog.durable import (
    LOG_TABLES,
    read_applied,
    read_base,
    read_boot,
    read_entries,
    read_hard,
    read_intent,
    read_slot,
    state_tables,
)
from raftlog.machine import decode_operations
from raftlog.slots import SlotReadTxn
from raftlog.types import Entry, EntryKind, LogId
from shardkv.commands import decode_command
from shardkv.config import NSHARDS
from shardkv.group import GroupMachine, stored_shards
from shardkv.kvmachine import KvMachine, VersionedMachine
from shardkv.kvsrv_host import kvsrv_tables
from store.engine import ReadTxn
from store.format import Stamp, read_stamp
from store.lmdb_engine import CannotOpen, LmdbEngine


@dataclass
class OpenPeer:
    """Both environments of a peer at one moment each (log first, so `applied` may be ahead of what the log shows).

    `log` is None for a kvsrv, which has none. `state` sees the live slot under the logical names of the tables."""

    directory: Path
    stamp: Stamp
    state_stamp: Stamp
    machine: VersionedMachine
    log: ReadTxn | None
    meta: ReadTxn
    state: ReadTxn
    engines: dict[str, LmdbEngine]

    @property
    def name(self) -> str:
        """`server-<gid>-<peer>`, by its stamp."""
        return f"server-{self.stamp.gid}-{self.stamp.peer}"


@contextmanager
def open_peer(directory: Path) -> Iterator[OpenPeer]:
    """Raises `CannotOpen`, `FormatMismatch`, `CorruptRecord`."""
    if not directory.is_dir():
        raise CannotOpen(f"{directory} is no directory")
    if not (directory / "state").is_dir():
        raise CannotOpen(f"{directory} is no peer's directory: it has no state/")
    with ExitStack() as stack:
        engines: dict[str, LmdbEngine] = {}
        log = None
        if (directory / "log").is_dir():
            engines["log"] = _opened(stack, directory / "log", LOG_TABLES)
            log = stack.enter_context(engines["log"].read())
        probe = _opened(stack, directory / "state", ("meta",))
        with probe.read() as txn:
            state_stamp = read_stamp(txn, str(directory / "state"))
        stamp = read_stamp(log, str(directory / "log")) if log is not None else state_stamp
        machine: VersionedMachine = KvMachine() if state_stamp.gid == 0 else GroupMachine()
        probe.close()
        tables = state_tables(machine.tables) if log is not None else kvsrv_tables(machine)
        engines["state"] = _opened(stack, directory / "state", tables)
        meta = stack.enter_context(engines["state"].read())
        state: ReadTxn = meta
        if log is not None:
            slot = read_slot(meta)
            state = SlotReadTxn(meta, {"meta": "meta", **{t: f"{t}@{slot}" for t in machine.tables}})
            if isinstance(machine, GroupMachine):
                machine = GroupMachine(stored_shards(state) or NSHARDS)
        yield OpenPeer(directory, stamp, state_stamp, machine, log, meta, state, engines)


def _opened(stack: ExitStack, path: Path, tables: tuple[str, ...]) -> LmdbEngine:
    engine = LmdbEngine.open_readonly(path, tables)
    stack.callback(engine.close)
    return engine


def info(peer: OpenPeer) -> dict[str, Any]:
    """What `inspect info` tells; the keys are those of its `--json`."""
    found: dict[str, Any] = {
        "name": peer.name,
        "directory": str(peer.directory),
        "cluster": peer.stamp.cluster.hex(),
        "gid": peer.stamp.gid,
        "peer": peer.stamp.peer,
        "incarnation": peer.stamp.incarnation,
        "format": peer.stamp.version,
        "engine": f"{peer.stamp.engine} {peer.stamp.generation}.x",
        "store": "kvraft" if peer.log is not None else "kvsrv",
    }
    if peer.log is not None:
        found |= _log_info(peer.log, peer.meta)
    else:
        found |= {"boot": None, "term": 0, "last": [0, 0], "applied": [0, 0]}
    found["state_hash_now"] = peer.machine.state_hash(peer.state).hex()
    if peer.stamp.gid == 0:
        found["config"] = configuration(peer.state, NSHARDS)
    else:
        found["shards"] = [list(row) for row in peer.machine.shard_table(peer.state)]
    for kind, engine in peer.engines.items():
        sizes = engine.info()
        found[f"{kind}_used_bytes"] = sizes.used_bytes
        found[f"{kind}_map_bytes"] = sizes.map_size_bytes
        found[f"{kind}_txnid"] = sizes.last_txnid
        found[f"{kind}_readers"] = sizes.readers
    return found


def _log_info(log: ReadTxn, meta: ReadTxn) -> dict[str, Any]:
    hard = read_hard(log)
    base, base_membership = read_base(log)
    applied, membership, state_hash = read_applied(meta)
    tail = log.last("entries")
    head = next(log.scan("entries"), None)
    last = base if tail is None else _entry_id(tail[1])
    intent = read_intent(log)
    return {
        "boot": read_boot(log),
        "term": hard.term,
        "vote": hard.vote,
        "mode": hard.mode.name.lower(),
        "commit": hard.commit,
        "base": list(base),
        "first": list(base) if head is None else list(_entry_id(head[1])),
        "last": list(last),
        "applied": list(applied),
        "state_hash": state_hash.hex(),
        "slot": read_slot(meta),
        "intent": None if intent is None else list(intent[0]),
        "membership": [list(m) for m in (membership if membership.voters else base_membership).voters],
    }


def _entry_id(payload: bytes) -> LogId:
    return unpack_entry(loads(payload)).id


def describe(entry: Entry) -> dict[str, Any]:
    """An entry for people and tools; the keys are those of `inspect log --json`."""
    row: dict[str, Any] = {
        "index": entry.id.index,
        "term": entry.id.term,
        "kind": entry.kind.name.lower(),
        "time_ms": entry.time_ms,
        "bytes": len(entry.data),
    }
    try:
        if entry.kind is EntryKind.COMMAND:
            row["operations"] = [_operation(op) for op in decode_operations(entry.data)]
        elif entry.kind is EntryKind.NOOP:
            row["leader"], row["boot"] = loads(entry.data)
        else:
            row["membership"] = loads(entry.data)
    except (CodecError, ValueError) as error:
        row["undecodable"] = str(error)
    return row


def _operation(operation: Any) -> dict[str, Any]:
    row: dict[str, Any] = {}
    if operation.client:
        row |= {"client": f"{operation.client:016x}", "seq": operation.seq}
    try:
        command = decode_command(operation.command)
    except CodecError as error:
        return {**row, "command": "undecodable", "why": str(error)}
    row["command"] = type(command).__name__.lower()
    for field, value in command._asdict().items():
        if isinstance(value, bytes):
            row[field] = printable(value)
        elif isinstance(value, tuple):
            row[field] = [printable(v) if isinstance(v, bytes) else v for v in value]
        else:
            row[field] = value
    return row


def printable(data: bytes, longest: int = 64) -> str:
    """Bytes as text: as they are if they are plain text, else as hex; long ones cut."""
    shown = data[:longest]
    text = shown.decode("utf-8", "replace")
    if not text.isprintable() or "�" in text:
        text = "0x" + shown.hex()
    return text + (f"... ({len(data)} bytes)" if len(data) > longest else "")


def entries(peer: OpenPeer, first: int, last: int | None) -> Iterator[Entry]:
    """The entries of a peer's log. A kvsrv has none."""
    if peer.log is not None:
        yield from read_entries(peer.log, first, last)
