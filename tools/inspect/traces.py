"""What a peer's log and journal tell of the past, for the views over several peers. Runs in the child process.

    sketch DIR   first the fields of `heading`, then {"rows": [[index, term, digest, kind, voters | null] ...]} per batch
    trace DIR    first the fields of `heading`, then objects with a "type":
        journal  time_ms boot name term peer owner
        run      first last term from_ms to_ms           entries of equal term that follow each other
        noop     index term time_ms leader boot          the first entry of a leader
        members  index term time_ms voters learners
        config   index term time_ms client seq record num shards groups request      controllers: next, current, past
        move     index term time_ms step shard num gid rows                          groups: freeze, chunk, install, delete
        stored   num shards groups request time_ms end_ms    controllers: a record of the history in the state

Both read the log in batches that are each a moment of their own, and keep nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ctrler.records import CURRENT, NEXT, config_key, unpack_change, unpack_config, unpack_past
from raftlog.codec import CodecError, array, loads, pack_membership, unpack_membership
from raftlog.durable import EMPTY, read_applied, read_base, read_boot, read_entries, read_hard, read_journal
from raftlog.machine import Operation, decode_operations
from raftlog.types import Entry, EntryKind, Membership
from shardkv import kv
from shardkv.commands import Delete, DeleteShard, Freeze, Install, InstallChunk, Keep, Put, decode_command
from shardkv.config import ShardConfig
from shardkv.shards import scope_of
from store.keys import prefix_stop
from tools.inspect.logview import entries
from tools.inspect.peer import OpenPeer, open_peer
from tools.inspect.structure import NotThere

BATCH = 512
"""Rows of a sketch per line."""
PAST = config_key(0)[: -len("0" * 15)].encode()
"""What the keys of the stored configurations begin with."""
MOVES = (b"\x85\x10", b"\x85\x11", b"\x84\x12", b"\x83\x13", b"\x83\x14")
"""How the five commands of a hand-over begin: an entry without any of them is not decoded."""


def heading(peer: OpenPeer) -> dict[str, Any]:
    """Who the peer is and where it stands: name directory running cluster gid peer incarnation boot term vote commit base
    last applied, the voters and learners as of `base` and as of the last entry. Raises `NotThere` for a kvsrv."""
    if "log" not in peer.engines:
        raise NotThere(f"{peer.directory} is a kvsrv's: it keeps no log")
    stamp = peer.stamp
    with peer.view() as view:
        assert view.log is not None
        hard = read_hard(view.log)
        base, members = read_base(view.log)
        applied, at_applied, _ = read_applied(view.meta)
        tail = view.log.last("entries")
        last = base if tail is None else next(read_entries(view.log, int.from_bytes(tail[0], "big"))).id
        boot = read_boot(view.log)
        shards = view.machine.shard_count(view.state)
    return {
        "name": peer.name,
        "directory": str(peer.directory),
        "running": peer.running,
        "cluster": stamp.cluster.hex(),
        "gid": stamp.gid,
        "peer": stamp.peer,
        "incarnation": stamp.incarnation,
        "boot": boot,
        "term": hard.term,
        "vote": hard.vote,
        "commit": hard.commit,
        "base": list(base),
        "last": list(last),
        "applied": list(applied),
        "voters": _voters(members),
        "voters_applied": _voters(members if at_applied == EMPTY else at_applied),
        "shards": shards,
    }


def _voters(members: Membership) -> list[list[int]]:
    return [list(member) for member in members.voters]


# --- the sketch ------------------------------------------------------------------------------------------------------


def sketch(directory: Path) -> Iterator[dict[str, Any]]:
    """See the head of the module. Raises `StoreError` and `CodecError`."""
    with open_peer(directory) as peer:
        yield heading(peer)
        rows: list[list[Any]] = []
        for entry in entries(peer.engines["log"]):
            members = None
            if entry.kind is EntryKind.MEMBERSHIP:
                members = _voters(unpack_membership(loads(entry.data)))
            rows.append([entry.id.index, entry.id.term, digest(entry), entry.kind.name.lower(), members])
            if len(rows) == BATCH:
                yield {"rows": rows}
                rows = []
        yield {"rows": rows}


def digest(entry: Entry) -> int:
    """64 bits of everything that two copies of an entry must have in common."""
    head = b"%d %d %d %d %d " % (entry.id.term, entry.id.index, entry.kind, entry.version, entry.time_ms)
    return int.from_bytes(blake2b(head + entry.data, digest_size=8).digest(), "big")


# --- the trace -------------------------------------------------------------------------------------------------------


def trace(directory: Path) -> Iterator[dict[str, Any]]:
    """See the head of the module. Raises `StoreError` and `CodecError`."""
    with open_peer(directory) as peer:
        yield heading(peer)
        with peer.engines["log"].read() as txn:
            journal = [{"type": "journal", **asdict(record)} for record in read_journal(txn)]
        yield from journal
        if peer.stamp.gid == 0:
            yield from _stored(peer)
        yield from _entries(peer)


def _entries(peer: OpenPeer) -> Iterator[dict[str, Any]]:
    run: dict[str, Any] | None = None
    chunks: set[tuple[int, int]] = set()
    for entry in entries(peer.engines["log"]):
        index, term = entry.id.index, entry.id.term
        if run is None or run["term"] != term or run["last"] + 1 != index:
            if run is not None:
                yield run
            run = {"type": "run", "first": index, "last": index, "term": term, "from_ms": 0, "to_ms": 0}
        run["last"] = index
        if entry.time_ms:
            run["from_ms"] = run["from_ms"] or entry.time_ms
            run["to_ms"] = entry.time_ms
        at = {"index": index, "term": term, "time_ms": entry.time_ms}
        for found in _told(entry, peer.stamp.gid):
            if found.get("step") == "chunk":
                if (found["shard"], found["num"]) in chunks:
                    continue  # only the first of a hand-over tells something
                chunks.add((found["shard"], found["num"]))
            yield {**found, **at}
    if run is not None:
        yield run


def _told(entry: Entry, gid: int) -> Iterator[dict[str, Any]]:
    with suppress(CodecError):  # such an entry was answered with an error and had no effect; `inspect log` shows it
        match entry.kind:
            case EntryKind.NOOP:
                leader, boot = array(loads(entry.data), 2)
                yield {"type": "noop", "leader": leader, "boot": boot}
            case EntryKind.MEMBERSHIP:
                voters, learners = pack_membership(unpack_membership(loads(entry.data)))
                yield {"type": "members", "voters": voters, "learners": learners}
            case EntryKind.COMMAND if gid == 0 or any(mark in entry.data for mark in MOVES):
                for operation in decode_operations(entry.data):
                    yield from _command(operation, gid)


def _command(operation: Operation, gid: int) -> Iterator[dict[str, Any]]:
    with suppress(CodecError):
        command = decode_command(operation.command)
        if isinstance(command, Put | Delete):
            if gid == 0 and isinstance(command, Put):
                client = {"client": f"{operation.client:016x}" if operation.client else None, "seq": operation.seq}
                yield from ({"type": "config", **found, **client} for found in _record(command))
            return
        found: dict[str, Any] = {"type": "move", "shard": command.shard, "num": command.num}
        match command:
            case Freeze():
                yield {**found, "step": "freeze", "gid": command.gid}
            case InstallChunk() if command.entries:  # an empty one only asks how far the staging is
                yield {**found, "step": "chunk"}
            case Install():
                yield {**found, "step": "install", "rows": command.summary.rows}
            case DeleteShard():
                yield {**found, "step": "delete"}
            case Keep():
                yield {**found, "step": "keep"}


def _record(command: Put) -> Iterator[dict[str, Any]]:
    if command.key == NEXT.encode():
        change = unpack_change(command.value)
        yield {"record": "next", **_config(change.config), "request": change.request.hex()}
    elif command.key == CURRENT.encode():
        yield {"record": "current", **_config(unpack_config(command.value)), "request": ""}
    elif command.key.startswith(PAST):
        past = unpack_past(command.value)
        yield {"record": "past", **_config(past.config), "request": past.request.hex()}


def _config(config: ShardConfig) -> dict[str, Any]:
    groups = {str(gid): list(servers) for gid, servers in config.groups.items()}
    return {"num": config.num, "shards": list(config.shards), "groups": groups}


def _stored(peer: OpenPeer) -> Iterator[dict[str, Any]]:
    with peer.view() as view:
        scope = scope_of(0, view.machine.record(view.state, 0))
        start = scope + PAST
        for _, payload in kv.rows_from(view.state, scope, start, prefix_stop(start)):
            past = unpack_past(payload[kv.VERSION_BYTES :])
            yield {
                "type": "stored",
                **_config(past.config),
                "request": past.request.hex(),
                "time_ms": past.time_ms,
                "end_ms": past.end_ms,
            }
