"""Checking everything that can be checked about one peer's directory, and about several of one group side by side.

A finding names the record and says what was wrong with it. Nothing found means: the files' pages are whole, every record
of every table passes its CRC, the log has no gaps and its terms never fall, base <= applied <= last with matching terms,
commit <= last, the stamps agree, the stored state hash is the one that the tables give, the shards' own counts are those
of their rows and sessions; and no two peers of a group have committed different entries at an index.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from raftlog.codec import CodecError, loads, unpack_entry
from raftlog.durable import (
    EMPTY,
    CorruptLog,
    read_applied,
    read_base,
    read_boot,
    read_entries,
    read_hard,
    read_intent,
    read_journal,
)
from raftlog.sessions import counters, tally
from raftlog.types import Entry, LogId
from shardkv import kv
from shardkv.group import GroupMachine, stored_shards
from shardkv.shards import State, scope_of
from store.directory import has_owner
from store.engine import CorruptRecord, FormatMismatch, StoreError
from store.keys import prefix_stop
from store.records import OVERHEAD_BYTES, TOLD_RECORDS
from tools.inspect.peer import OpenPeer, View, halves, open_peer
from tools.inspect.structure import NotThere, environments, live_findings, structure_findings

Finding = str

BATCH = 4096
"""Digests per object of a verdict."""

LOOKS = 3
"""How often a running peer is looked at: what is wrong with it on disk is wrong each time, what only looks wrong because
it was writing meanwhile is not."""


@dataclass(frozen=True)
class Committed:
    """What a peer's log says of the entries that it has committed, durably: a digest of each, from `first` on."""

    first: int
    digests: array[int] = field(default_factory=lambda: array("Q"))

    def at(self, index: int) -> int | None:
        """The digest of the entry at `index`, if the log has it."""
        position = index - self.first
        return self.digests[position] if 0 <= position < len(self.digests) else None


@dataclass(frozen=True)
class Verdict:
    """`group` and `committed` are None where the directory could not be read so far; `opened` is false where there is
    nothing to read, or something that another version wrote."""

    findings: list[Finding]
    group: tuple[str, int] | None = None
    committed: Committed | None = None
    opened: bool = True


@dataclass(frozen=True)
class Found:
    """The findings about a place: a directory, or "group <gid>"."""

    place: str
    findings: list[Finding]
    opened: bool = True


class Progress:
    """How far the looking at one directory is; `told` hears of it: the directory, records looked at, records to look at."""

    def __init__(self, place: str, told: Callable[[str, int, int], None]) -> None:
        self.done = self.total = 0
        self._place = place
        self._told = told

    def begin(self, peer: OpenPeer) -> None:
        """Each record is looked at once, each entry of the log once more."""
        self.done = 0
        self.total = sum(engine.records(table) for engine in peer.engines.values() for table in engine.tables)
        if "log" in peer.engines:
            self.total += peer.engines["log"].records("entries")

    def add(self, count: int) -> None:
        """So many more."""
        self.done += count
        self._told(self._place, self.done, self.total)


def _silent(place: str, done: int, total: int) -> None:
    """Nobody listens."""


def verify_peer(directory: Path, told: Callable[[str, int, int], None] = _silent) -> Verdict:
    """What is wrong with a peer's directory, each time one looks."""
    progress = Progress(str(directory), told)
    try:
        paths = environments(directory)
        findings = [finding for path in paths.values() for finding in structure_findings(path)]
        if findings:
            return Verdict(findings)
        for _ in range(LOOKS):
            verdict, running = _look(directory, progress)
            if not verdict.findings or not running:
                break
        return verdict
    except (StoreError, CodecError) as error:
        return Verdict([str(error)], opened=not isinstance(error, NotThere | FormatMismatch))


def _look(directory: Path, progress: Progress) -> tuple[Verdict, bool]:
    findings = [found for path in environments(directory).values() if has_owner(path) for found in live_findings(path)]
    committed = None
    with open_peer(directory, mixed=True) as peer:
        findings += filter(None, (halves(peer.stamps),))
        progress.begin(peer)
        findings += _records(peer, progress.add)
        if not findings:
            try:
                committed = _relations(peer, findings, progress)
            except (CorruptRecord, CorruptLog, CodecError) as error:
                findings.append(str(error))
        return Verdict(findings, (peer.stamp.cluster.hex(), peer.stamp.gid), committed), peer.running


def _records(peer: OpenPeer, told: Callable[[int], object] = lambda count: None) -> Iterator[Finding]:
    """Every record of every table, one by one: a bad one does not hide those behind it."""
    for kind, engine in peer.engines.items():
        for table in engine.tables:
            for key, error, record in engine.damaged(table, told):
                shown = int.from_bytes(key, "big") if table in ("entries", "journal") else printable_key(key)
                yield f"{kind}/{table}, record {shown}: {error}; {_what_it_was(kind, table, record)}"


def checksums(peer: OpenPeer) -> tuple[int, list[Finding]]:
    """How many records there are, and those that fail their check."""
    return sum(e.records(table) for e in peer.engines.values() for table in e.tables), list(_records(peer))


_TABLES = {
    "entries": "an entry of the log",
    "journal": "a note of the journal",
    "meta": "one of the peer's own numbers",
    "rows": "a key with its value",
    "shards": "a shard's record",
    "sessions": "a client's session",
    "session_order": "the order of sessions",
}


def _what_it_was(kind: str, table: str, record: bytes) -> str:
    """What a record was that fails its check, as far as what is left of it says."""
    payload = record[OVERHEAD_BYTES:]
    what = f"it was {_TABLES.get(table.partition('@')[0], f'a record of {kind}/{table}')}, {len(payload)} bytes"
    if table != "entries":
        return what
    try:
        entry = unpack_entry(loads(payload))
    except CodecError:
        return f"{what}, which cannot be read"
    return f"{what}: what is left reads as {_position(entry.id)}, {entry.kind.name.lower()}"


def printable_key(key: bytes) -> str:
    """A key for people."""
    return key.decode() if key.isascii() and key.decode().isprintable() else key.hex()


# --- the log, and the log against the state -------------------------------------------------------------------------


def _relations(peer: OpenPeer, findings: list[Finding], progress: Progress) -> Committed | None:
    with peer.view() as view:
        committed = _log(view, peer.stamp.incarnation, findings, progress)
        if not findings:
            findings += _hash(view)
            findings += _shards(view)
    return committed


def _log(view: View, owner: int, findings: list[Finding], progress: Progress) -> Committed | None:
    if view.log is None:
        return None
    read_boot(view.log)
    for line in read_journal(view.log):
        if line.owner not in (None, owner):
            findings.append(
                f"log/journal has a line ({line.name}, term {line.term}) of another peer, incarnation {line.owner}"
            )
    applied, _, _ = read_applied(view.meta)
    intent = read_intent(view.log)
    if intent is not None and intent[0] == applied:
        findings.append(f"the installation of an image at {_position(applied)} is unfinished: the next start ends it")
        return None
    hard = read_hard(view.log)
    base, _ = read_base(view.log)
    committed = Committed(base.index + 1)
    last = base
    at_applied = base if base.index == applied.index else None
    for entry in read_entries(view.log):
        if entry.id.index != last.index + 1 or entry.id.term < last.term:
            findings.append(f"log/entries, record {entry.id.index} ({_position(entry.id)}) follows {_position(last)}")
            return committed
        last = entry.id
        if not last.index % TOLD_RECORDS:
            progress.add(TOLD_RECORDS)
        if last.index == applied.index:
            at_applied = last
        if last.index <= max(hard.commit, applied.index):
            committed.digests.append(_digest(entry))
    findings += _positions(base, applied, at_applied, last, hard.commit, hard.term)
    return committed


def _positions(
    base: LogId, applied: LogId, at_applied: LogId | None, last: LogId, commit: int, term: int
) -> Iterator[Finding]:
    if at_applied is None:
        yield f"applied {_position(applied)} is not between the purge base {_position(base)} and the last {_position(last)}"
    elif at_applied != applied:
        yield f"applied is {_position(applied)}, but the log has {_position(at_applied)} there"
    if commit > last.index:
        yield f"commit {commit} is past the last entry {_position(last)}"
    if term < last.term:
        yield f"the term {term} is below that of the last entry {_position(last)}"


def _position(at: LogId) -> str:
    return f"{at.term}:{at.index}"


def _digest(entry: Entry) -> int:
    head = b"%d %d %d " % (entry.id.term, entry.kind, entry.time_ms)
    return int.from_bytes(blake2b(head + entry.data, digest_size=8).digest(), "big")


# --- the state ------------------------------------------------------------------------------------------------------


def _hash(view: View) -> Iterator[Finding]:
    if view.log is None:
        return
    applied, membership, stored = read_applied(view.meta)
    if membership == EMPTY and not stored:
        return  # nothing was flushed yet
    if isinstance(view.machine, GroupMachine) and stored_shards(view.state) is None:
        return  # no shard came yet: the hash is of nothing but their number, which only the peer's settings say
    found = view.machine.state_hash(view.state)
    if found != stored:
        yield f"the state at {_position(applied)} hashes to {found.hex()}, stored with it is {stored.hex()}"


def _shards(view: View) -> Iterator[Finding]:
    """Each shard's rows and sessions against the counts, sizes and hashes that its records keep."""
    for shard in range(view.machine.shard_count(view.state)):
        record = view.machine.record(view.state, shard)
        if record.state not in (State.SERVING, State.FROZEN, State.STAGING):
            continue
        scope = scope_of(shard, record)
        rows = size = total = 0
        for key, payload in kv.rows_from(view.state, scope, scope, prefix_stop(scope)):
            rows += 1
            size += len(key) + len(payload) - kv.VERSION_BYTES
            total = (total + kv.row_hash(key, payload)) % kv.HASH_MODULUS
        if (rows, size, total) != (record.rows, record.size, record.hash):
            told = f"its record says {record.rows} of {record.size}, or a hash differs"
            yield f"shard {shard}: {rows} rows of {size} bytes, {told}"
        kept = counters(view.state, scope)
        there = tally(view.state, scope)
        if there != (kept.sessions, kept.hash):
            told = f"its record says {kept.sessions}, or a hash differs"
            yield f"shard {shard}: {there[0]} clients' sessions, {told}"


# --- several peers --------------------------------------------------------------------------------------------------


def verify(directories: Sequence[Path], told: Callable[[str, int, int], None] = _silent) -> Iterator[Found]:
    """Each directory, and then the groups of which several peers were given and that contradict themselves."""
    groups: dict[tuple[str, int], Members] = {}
    for directory in directories:
        verdict = verify_peer(directory, told)
        yield Found(str(directory), verdict.findings, verdict.opened)
        if verdict.group is not None and verdict.committed is not None:
            groups.setdefault(verdict.group, {})[directory] = verdict.committed
    yield from conflicts(groups)


def verdict(directory: Path, told: Callable[[str, int, int], None]) -> Iterator[dict[str, Any]]:
    """One directory, for a caller who has the others: the fields of `Found`, then of what it has committed {cluster, gid,
    first} and {digests} batch by batch, if that could be read."""
    found = verify_peer(directory, told)
    yield asdict(Found(str(directory), found.findings, found.opened))
    if found.group is None or found.committed is None:
        return
    cluster, gid = found.group
    yield {"cluster": cluster, "gid": gid, "first": found.committed.first}
    digests = found.committed.digests
    for start in range(0, len(digests), BATCH):
        yield {"digests": list(digests[start : start + BATCH])}


Members = dict[Path, Committed]
"""What the peers of a group have committed, by directory or address."""


def conflicts(groups: dict[tuple[str, int], Members]) -> Iterator[Found]:
    """The groups, by cluster and number, that contradict themselves."""
    for (_, gid), members in sorted(groups.items()):
        found = list(_conflicts(members))
        if found:
            yield Found(f"group {gid}", found)


def _conflicts(members: Members) -> Iterator[Finding]:
    """The first entry that two peers have both committed and that differs."""
    names = list(members)
    for position, one in enumerate(names):
        for other in names[position + 1 :]:
            a, b = members[one], members[other]
            first = max(a.first, b.first)
            stop = min(a.first + len(a.digests), b.first + len(b.digests))
            wrong = next((index for index in range(first, stop) if a.at(index) != b.at(index)), None)
            if wrong is not None:
                yield f"committed entry {wrong} at {one} is not the one at {other}"
