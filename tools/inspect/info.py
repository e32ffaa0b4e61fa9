"""What `inspect info` tells of a peer's directory: who it is and where it stands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from ctrler.host import configuration
from raftlog.codec import CodecError, loads, unpack_entry
from raftlog.durable import (
    hard_copies,
    read_applied,
    read_base,
    read_boot,
    read_entries,
    read_hard,
    read_intent,
    read_slot,
)
from raftlog.machine import decode_operations
from raftlog.types import EntryKind, LogId, Mode
from shardkv import kv
from shardkv.commands import Delete, Put, decode_command
from shardkv.config import NSHARDS
from shardkv.shards import scope_of
from store.directory import read_shape
from store.engine import EngineInfo, ReadTxn
from tools.inspect.peer import OpenPeer, View
from tools.inspect.verify import checksums

WRONG_MAX = 10
"""How many wrong records are named."""

Position = list[int]
"""[term, index], as the events of a peer have it."""


@dataclass(frozen=True, kw_only=True)
class PeerInfo:
    """The fields are the keys of `info --json`; what a peer of its kind does not have is None.

    `config` is the configuration in state/, as a restarted peer reports it before it replays its log;
    `config_committed` the one after the log up to the durable commit. `first` is the first entry in the log, None if it
    is empty. `highest` is the greatest position that was ever durable in log/, `hard_copies` how many of the two copies
    of the hard state can be read. `state_hash` is stored with `applied`, `state_hash_now` computed from the tables.
    Sizes: the map, what is used of it, and how much of that is free again. `checksums` is the verdict on all `records`,
    `records_wrong` the first of those that fail.
    """

    name: str
    directory: str
    running: bool
    cluster: str
    gid: int
    peer: int
    incarnation: int
    format: int
    engine: str
    store: str
    boot: int | None = None
    term: int = 0
    vote: int | None = None
    mode: str | None = None
    recover_to: Position | None = None
    highest: Position | None = None
    hard_copies: int | None = None
    commit: int | None = None
    base: Position | None = None
    first: Position | None = None
    last: Position
    applied: Position
    membership: list[list[int]] | None = None
    learners: list[list[int]] | None = None
    intent: Position | None = None
    slot: int | None = None
    state_hash: str | None = None
    state_hash_now: str
    config: dict[str, Any] | None = None
    config_committed: dict[str, Any] | None = None
    shards: list[list[Any]] | None = None
    records: int
    records_wrong: list[str]
    checksums: str
    log_used_bytes: int | None = None
    log_free_bytes: int | None = None
    log_map_bytes: int | None = None
    log_map_percent: float | None = None
    log_txnid: int | None = None
    log_readers: int | None = None
    state_used_bytes: int
    state_free_bytes: int
    state_map_bytes: int
    state_map_percent: float
    state_txnid: int
    state_readers: int

    def as_json(self) -> dict[str, Any]:
        """The keys and values of `info --json`."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def peer_info(peer: OpenPeer) -> PeerInfo:
    """Raises `StoreError` and `CodecError`."""
    stamp = peer.stamp
    sizes: dict[str, Any] = {}
    for kind, engine in peer.engines.items():
        sizes |= _sizes(kind, engine.info(), read_shape(engine.path).map_bytes)
    records, wrong = checksums(peer)
    with peer.view() as view:
        found: dict[str, Any] = {"last": [0, 0], "applied": [0, 0]}
        if view.log is not None:
            found = _positions(view.log, view.meta)
        found["state_hash_now"] = view.machine.state_hash(view.state).hex()
        if stamp.gid == 0:
            found["config"] = configuration(view.state, NSHARDS)
            found["config_committed"] = configuration(committed(view), NSHARDS)
        else:
            found["shards"] = [list(row) for row in view.machine.shard_table(view.state)]
    return PeerInfo(
        name=peer.name,
        directory=str(peer.directory),
        running=peer.running,
        cluster=stamp.cluster.hex(),
        gid=stamp.gid,
        peer=stamp.peer,
        incarnation=stamp.incarnation,
        format=stamp.version,
        engine=f"{stamp.engine} {stamp.generation}.x",
        store="kvraft" if "log" in peer.engines else "kvsrv",
        records=records,
        records_wrong=wrong[:WRONG_MAX],
        checksums="all records pass" if not wrong else f"{len(wrong)} records are wrong",
        **found,
        **sizes,
    )


def _sizes(kind: str, sizes: EngineInfo, map_bytes: int) -> dict[str, int | float]:
    return {
        f"{kind}_used_bytes": sizes.used_bytes,
        f"{kind}_free_bytes": sizes.free_pages * sizes.page_size_bytes,
        f"{kind}_map_bytes": map_bytes,
        f"{kind}_map_percent": round(100 * sizes.used_bytes / max(map_bytes, 1), 3),
        f"{kind}_txnid": sizes.last_txnid,
        f"{kind}_readers": sizes.readers,
    }


def _positions(log: ReadTxn, meta: ReadTxn) -> dict[str, Any]:
    hard = read_hard(log)
    base, base_membership = read_base(log)
    applied, membership, state_hash = read_applied(meta)
    tail = log.last("entries")
    head = next(log.scan("entries"), None)
    intent = read_intent(log)
    members = membership if membership.voters else base_membership
    return {
        "boot": read_boot(log),
        "term": hard.term,
        "vote": hard.vote,
        "mode": hard.mode.name.lower(),
        "recover_to": list(hard.recover_to) if hard.mode is Mode.RECOVERING else None,
        "highest": list(hard.highest),
        "hard_copies": len(hard_copies(log)[0]),
        "commit": hard.commit,
        "base": list(base),
        "first": None if head is None else list(_entry_id(head[1])),
        "last": list(base if tail is None else _entry_id(tail[1])),
        "applied": list(applied),
        "membership": [list(m) for m in members.voters],
        "learners": [list(m) for m in members.learners],
        "intent": None if intent is None else list(intent[0]),
        "slot": read_slot(meta),
        "state_hash": state_hash.hex(),
    }


def _entry_id(payload: bytes) -> LogId:
    return unpack_entry(loads(payload)).id


# --- the state as of the durable commit ----------------------------------------------------------------------------


class _Overlay:
    """A view with some rows on top of it. `get` sees them, nothing else is asked."""

    def __init__(self, under: ReadTxn) -> None:
        self._under = under
        self.rows: dict[bytes, bytes | None] = {}

    def get(self, table: str, key: bytes) -> bytes | None:
        """See `ReadTxn.get`."""
        if table == kv.ROWS and key in self.rows:
            return self.rows[key]
        return self._under.get(table, key)

    def scan(
        self, table: str, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """See `ReadTxn.scan`; without what is on top."""
        return self._under.scan(table, start, stop, reverse=reverse)

    def last(self, table: str, start: bytes = b"", stop: bytes | None = None) -> tuple[bytes, bytes] | None:
        """See `ReadTxn.last`; without what is on top."""
        return self._under.last(table, start, stop)


def committed(view: View) -> ReadTxn:
    """The rows of the config store (one shard, puts by version) as of the durable commit. A command that was proposed
    twice has no effect the second time, since the version has moved."""
    if view.log is None:
        return view.state
    applied, _, _ = read_applied(view.meta)
    commit = read_hard(view.log).commit
    over = _Overlay(view.state)
    scope = scope_of(0, view.machine.record(view.state, 0))
    if commit > applied.index:
        for entry in read_entries(view.log, applied.index + 1, commit):
            if entry.kind is EntryKind.COMMAND:
                _play(over, scope, entry.data)
    return over


def _play(over: _Overlay, scope: bytes, data: bytes) -> None:
    for operation in decode_operations(data):
        try:
            command = decode_command(operation.command)
        except CodecError:
            continue  # answered with an error, without effect
        if not isinstance(command, Put | Delete):
            continue
        key = scope + command.key
        old = over.get(kv.ROWS, key)
        version = 0 if old is None else kv.version_of(scope, command.key, old)
        if command.version is not None and command.version != version:
            continue
        over.rows[key] = kv.encode_row(version + 1, command.value) if isinstance(command, Put) else None
