"""Checking everything that can be checked about one peer's directory, and about several of one group side by side.

A finding names the record and says what was wrong with it. Nothing found means: every record of every table passes its
CRC, the log has no gaps and its terms never fall, base <= applied <= last with matching terms, commit <= last, the
stamps agree, the stored state hash is the one that the tables give, and the shards' own counts are those of their rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from raftlog.durable import EMPTY, CorruptLog, read_applied, read_intent, read_slot, restore
from raftlog.types import LogId, Restored
from shardkv import kv
from shardkv.shards import State, scope_of
from store.engine import CorruptRecord, StoreError
from store.keys import prefix_stop
from tools.inspect.peer import OpenPeer, open_peer

Finding = str


LOOKS = 3
"""A running peer commits to log/ and state/ between our looks at them: what is seen once may be the gap."""


def verify_peer(directory: Path) -> tuple[list[Finding], Restored | None]:
    """What is wrong with a peer's directory, each time one looks; and its log as far as it could be read. Raises
    `CannotOpen`."""
    for _ in range(LOOKS):
        findings, restored = _look(directory)
        if not findings:
            break
    return findings, restored


def _look(directory: Path) -> tuple[list[Finding], Restored | None]:
    findings: list[Finding] = []
    with open_peer(directory) as peer:
        findings += _stamps(peer)
        findings += _records(peer)
        restored = None
        try:
            restored = _log(peer, findings)
            if not findings:
                findings += _hash(peer)
                findings += _shards(peer)
        except (CorruptRecord, CorruptLog) as error:
            if str(error) not in findings:
                findings.append(str(error))
    return findings, restored


def _stamps(peer: OpenPeer) -> Iterator[Finding]:
    a, b = peer.stamp, peer.state_stamp
    if (a.cluster, a.gid, a.peer, a.incarnation) != (b.cluster, b.gid, b.peer, b.incarnation):
        yield (
            f"log/ is peer {a.peer} of group {a.gid} (incarnation {a.incarnation}), "
            f"state/ is peer {b.peer} of group {b.gid} (incarnation {b.incarnation}): they are two peers' halves"
        )


def _records(peer: OpenPeer) -> Iterator[Finding]:
    """Every record of every table, one by one: a bad one does not hide those behind it."""
    for kind, engine in peer.engines.items():
        for table in engine.tables:
            for key, error in engine.damaged(table):
                shown = int.from_bytes(key, "big") if table in ("entries", "journal") else printable_key(key)
                yield f"{kind}/{table}, record {shown}: {error}"


def printable_key(key: bytes) -> str:
    """A key for people."""
    return key.decode() if key.isascii() and key.decode().isprintable() else key.hex()


def _log(peer: OpenPeer, findings: list[Finding]) -> Restored | None:
    if peer.log is None:
        return None
    applied, _, _ = read_applied(peer.meta)
    intent = read_intent(peer.log)
    read_slot(peer.meta)
    if intent is not None and intent[0] == applied:
        findings.append(
            f"an installation of an image at {_position(applied)} is unfinished: the next start finishes it"
        )
        return None
    return restore(peer.log, applied)


def _position(at: LogId) -> str:
    return f"{at.term}:{at.index}"


def _hash(peer: OpenPeer) -> Iterator[Finding]:
    if peer.log is None:
        return
    applied, membership, stored = read_applied(peer.meta)
    if membership == EMPTY and not stored:
        return  # nothing was flushed yet
    found = peer.machine.state_hash(peer.state)
    if found != stored:
        yield f"the state at {_position(applied)} hashes to {found.hex()}, stored with it is {stored.hex()}"


def _shards(peer: OpenPeer) -> Iterator[Finding]:
    """Each shard's rows against the count, size and hash that its record keeps."""
    for shard in range(peer.machine.shard_count(peer.state)):
        record = peer.machine.record(peer.state, shard)
        if record.state not in (State.SERVING, State.FROZEN, State.STAGING):
            continue
        scope = scope_of(shard, record)
        rows = size = total = 0
        for key, payload in kv.rows_from(peer.state, scope, scope, prefix_stop(scope)):
            rows += 1
            size += len(key) + len(payload) - kv.VERSION_BYTES
            total = (total + kv.row_hash(key, payload)) % kv.HASH_MODULUS
        if (rows, size, total) != (record.rows, record.size, record.hash):
            told = f"its record says {record.rows} of {record.size}, or a hash differs"
            yield f"shard {shard}: {rows} rows of {size} bytes, {told}"


def verify(directories: Sequence[Path]) -> dict[str, list[Finding]]:
    """The findings per directory, and under "group <gid>" those of several peers of a group side by side."""
    found: dict[str, list[Finding]] = {}
    peers: dict[tuple[bytes, int], dict[Path, Restored]] = {}
    for directory in directories:
        try:
            findings, restored = verify_peer(directory)
        except StoreError as error:
            findings, restored = [str(error)], None
        found[str(directory)] = findings
        if restored is not None:
            with open_peer(directory) as peer:
                peers.setdefault((peer.stamp.cluster, peer.stamp.gid), {})[directory] = restored
    for (_, gid), members in sorted(peers.items()):
        conflicts = list(_conflicts(members))
        if conflicts:
            found[f"group {gid}"] = conflicts
    return found


def _conflicts(members: dict[Path, Restored]) -> Iterator[Finding]:
    """Entries that two peers have committed, durably, and that differ."""
    seen: dict[int, tuple[LogId, bytes, Path]] = {}
    for directory, restored in members.items():
        committed = max(restored.hard.commit, restored.applied.index)
        for entry in restored.entries:
            if entry.id.index > committed:
                break
            known = seen.setdefault(entry.id.index, (entry.id, entry.data, directory))
            if known[:2] != (entry.id, entry.data):
                ours, theirs = _position(entry.id), _position(known[0])
                yield f"committed entry {entry.id.index} is {theirs} at {known[2]} and {ours} at {directory}"
                return
