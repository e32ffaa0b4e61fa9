"""The state of a peer as of any index that its log still reaches: from nothing, from an export, or from what is stored.

The state is built in a temporary directory by the entries and the state machine alone, so that it says something about the
peer if it equals what the peer has stored. Compared are, at the stored applied position: the stored hash, the hash of the
stored tables, and row by row what the shards hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from raftlog import sessions
from raftlog.durable import (
    LOG_TABLES,
    CorruptLog,
    fill_state,
    read_applied,
    read_base,
    read_entries,
    read_hard,
    read_slot,
    state_tables,
)
from raftlog.slots import SlotEngine
from raftlog.types import Entry, LogId
from shardkv import kv
from shardkv.bases import base_files
from shardkv.kvmachine import VersionedMachine
from shardkv.shards import ShardRecord, scope_of
from store.engine import FormatMismatch, ReadTxn
from store.keys import prefix_stop
from store.lmdb_engine import LmdbEngine
from tools.inspect.logview import entries, printable
from tools.inspect.peer import OpenPeer, View, open_peer
from tools.inspect.playing import Moment, Player, colon, joins, machine_for, needs_log, overlaid
from tools.inspect.portable import import_peer
from tools.inspect.state import HELD, Row, key_of
from tools.inspect.structure import NotThere

DIFFERENCES_MAX = 10
"""How many differences are told."""


@dataclass(frozen=True)
class Reach:
    """Where a peer's log and state stand. What is applied is committed too."""

    base: LogId
    last: int
    committed: int
    stored: LogId
    stored_hash: bytes


def reach(peer: OpenPeer) -> Reach:
    """Of one moment. Raises `NotThere` for a kvsrv, `CorruptLog`, `CorruptRecord`."""
    needs_log(peer)
    with peer.view() as view:
        return _reach(view)


def _reach(view: View) -> Reach:
    assert view.log is not None
    applied, _, state_hash = read_applied(view.meta)
    base, _ = read_base(view.log)
    tail = view.log.last("entries")
    last = base.index if tail is None else int.from_bytes(tail[0], "big")
    return Reach(base, last, max(read_hard(view.log).commit, applied.index), applied, state_hash)


# --- where it begins -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Start:
    """A state to play on. `before`: the entries behind it that the peer's own log has not any more. `words`: what it is."""

    player: Player
    before: Iterator[Entry]
    words: str


@contextmanager
def start(
    peer: OpenPeer, here: Reach, base: Path | None, shards: int | None, folder: Path | None = None
) -> Iterator[Start]:
    """The state in the export `base`, else an empty one, in a temporary directory in `folder`. Raises `NotThere` if the log
    does not reach back to it, `BadFile` or `FormatMismatch` for the export, `CorruptLog`."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="shardkv-inspect-", dir=folder))) / "base"
        with peer.view() as view:
            machine = machine_for(peer, view.state, shards)
        before: Iterator[Entry] = iter(())
        if base is not None:
            there = _imported(peer, base, folder)
            if there.stored.index < here.base.index:
                before = _from_export(stack, base, folder, there, here)
            else:
                _check_joint(peer, there)
            words = f"{base}, as of index {there.stored.index}"
        elif here.base.index == 0:
            LmdbEngine.create(folder / "state", state_tables(machine.tables), peer.stamps["state"], fill_state)
            words = "an empty state"
        else:
            raise NotThere(f"the log begins behind {here.base.index}: give --base an export")
        engine = LmdbEngine.open(folder / "state", state_tables(machine.tables), None)
        stack.callback(engine.close)
        with engine.read() as txn:
            live = SlotEngine(engine, machine.tables, read_slot(txn))
            player = Player(machine, live, read_applied(txn)[0], live)
        stack.callback(player.close)
        yield Start(player, before, words)


def _imported(peer: OpenPeer, base: Path, folder: Path) -> Reach:
    import_peer(base, folder)
    with open_peer(folder) as made:
        theirs, ours = made.stamp, peer.stamp
        if (theirs.cluster, theirs.gid) != (ours.cluster, ours.gid):
            raise FormatMismatch(
                f"{base} is of group {theirs.gid} or of another cluster, not of group {ours.gid}'s peers"
            )
        if "log" not in made.engines:
            raise NotThere(f"{base} is a kvsrv's: it has no index to go on from")
        return reach(made)


def _from_export(stack: ExitStack, base: Path, folder: Path, there: Reach, here: Reach) -> Iterator[Entry]:
    """The entries from the export's state to the peer's log, out of the export's own log."""
    if there.committed < here.base.index:
        raise NotThere(
            f"{base} is as of {there.stored.index} and knows what was committed up to {there.committed}; "
            f"the log begins behind {here.base.index}"
        )
    log = LmdbEngine.open_readonly(folder / "log", LOG_TABLES)
    stack.callback(log.close)
    return entries(log, there.stored.index + 1, here.base.index)


def _check_joint(peer: OpenPeer, there: Reach) -> None:
    with peer.view() as view:
        assert view.log is not None
        joins(view.log, there.stored)


def entries_of(peer: OpenPeer, here: Reach, begun: Start, to: int) -> Iterator[Entry]:
    """The entries behind a start up to index `to`. Raises `NotThere` if a running peer purges them meanwhile, `CorruptLog`
    if those of an export do not lead to the peer's own."""
    for entry in begun.before:
        if entry.id.index <= to:
            yield entry
        if entry.id.index == here.base.index and entry.id != here.base:
            raise CorruptLog(f"the purge base is {colon(here.base)}, but {begun.words} leads to {colon(entry.id)}")
    expected = max(begun.player.at.index, here.base.index) + 1
    for entry in entries(peer.engines["log"], expected, to):
        if entry.id.index != expected:
            break
        expected += 1
        yield entry
    if expected <= to:
        now = reach(peer)
        if now.base.index >= expected:
            raise NotThere(f"entry {expected} was purged while the log was read: try again")
        raise CorruptLog(f"log/entries, record {expected} is missing")


# --- the state as of an index ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """What to replay. `to`: an index, or the word applied or commit, for what stands on disk. `folder`: where there is room
    for the state, the directory for temporary files if None."""

    to: str
    base: Path | None = None
    shards: int | None = None
    uncommitted: bool = False
    folder: Path | None = None


@dataclass(frozen=True)
class _Reached:
    """The player is at the asked index, behind entry `first` by which it began."""

    here: Reach
    player: Player
    words: str
    first: int


@contextmanager
def replayed(peer: OpenPeer, asked: Asked) -> Iterator[tuple[Moment, Row]]:
    """The state as of the asked index, and its summary with the keys of `replay --json`. Raises `NotThere` if that index is
    out of reach, or not committed and not asked for as such."""
    here = reach(peer)
    index = _index(asked, here)
    own = asked.base is None and (here.base.index > 0 or index > here.last)
    if own and index < here.stored.index and base_files(peer.directory):
        with _retained(peer, asked, index) as found:
            yield found
        return
    with (_from_stored if own else _from_start)(peer, asked) as reached:
        player, here = reached.player, reached.here
        shown = Moment(peer.name, peer.stamp.gid, player.at, here.stored, True, player.view, player.machine)
        row = _summary(shown, reached.words, player.at.index <= here.committed)
        row["entries"] = player.at.index - reached.first
        yield shown, row | _comparison(peer, here, shown, own)


@contextmanager
def _retained(peer: OpenPeer, asked: Asked, index: int) -> Iterator[tuple[Moment, Row]]:
    """The state as of an index that the peer's log does not reach any more, out of the bases that it has retained: each has
    the log from the purge before it on, so the last base at or below the index gives the state, the next one the entries."""
    bases = base_files(peer.directory)
    below = [path for number, path in bases.items() if number <= index]
    above = [path for number, path in bases.items() if number > index]
    to = replace(asked, to=str(index), base=below[-1] if below else None)
    if not above:
        with replayed(peer, to) as found:
            yield found
        return
    with TemporaryDirectory(prefix="shardkv-inspect-", dir=asked.folder) as folder:
        import_peer(above[0], Path(folder) / "next")
        with open_peer(Path(folder) / "next") as following:
            if not below and reach(following).base.index:
                raise NotThere(f"index {index} is not reached any more: the first base retained is as of {min(bases)}")
            with replayed(following, to) as found:
                yield found


def _index(asked: Asked, here: Reach) -> int:
    """The index that is asked for. Raises `NotThere` if it may not be."""
    known = {"applied": here.stored.index, "commit": here.committed}
    to = known[asked.to] if asked.to in known else int(asked.to)
    if to > here.last and to != here.stored.index:
        raise NotThere(f"index {to} is not in the log: it ends at {here.last}")
    if to > here.committed and not asked.uncommitted:
        raise NotThere(f"index {to} is not committed, the durable commit is {here.committed}: give --uncommitted")
    return to


@contextmanager
def _from_start(peer: OpenPeer, asked: Asked) -> Iterator[_Reached]:
    here = reach(peer)
    to = _index(asked, here)
    with start(peer, here, asked.base, asked.shards, asked.folder) as begun:
        first = begun.player.at.index
        if first > to:
            raise NotThere(f"index {to} is not reached from {begun.words}")
        for entry in entries_of(peer, here, begun, to):
            begun.player.play(entry)
        yield _Reached(here, begun.player, begun.words, first)


@contextmanager
def _from_stored(peer: OpenPeer, asked: Asked) -> Iterator[_Reached]:
    """The stored state and the log behind it, of one moment, where the log reaches nothing earlier."""
    with peer.view() as view:
        assert view.log is not None
        here = _reach(view)
        to, stored = _index(asked, here), here.stored
        if to < stored.index:
            raise NotThere(
                f"index {to} is not reached any more: the log begins behind {here.base.index}, the state is as of "
                f"{stored.index}; give --base an export as of {to} or before"
            )
        with overlaid(view, machine_for(peer, view.state, asked.shards), stored) as player:
            if to > stored.index and joins(view.log, stored):
                for entry in read_entries(view.log, stored.index + 1, to):
                    player.play(entry)
            yield _Reached(here, player, f"the stored state, as of index {stored.index}", stored.index)


def _summary(shown: Moment, words: str, committed: bool) -> Row:
    table = shown.machine.shard_table(shown.txn)
    assert shown.at is not None
    return {
        "peer": shown.peer,
        "at": list(shown.at),
        "base": words,
        "committed": committed,
        "state_hash": shown.machine.state_hash(shown.txn).hex(),
        "rows": sum(status.rows for status in table),
        "size": sum(status.size for status in table),
        "sessions": sum(status.sessions for status in table),
        "shards": [list(status) for status in table],
    }


# --- against what is stored ------------------------------------------------------------------------------------------


def _comparison(peer: OpenPeer, here: Reach, shown: Moment, own: bool) -> Row:
    """Nothing is compared but at the stored applied position. `own`: it was replayed from the stored state itself."""
    row: Row = {
        "stored": list(here.stored),
        "stored_hash": here.stored_hash.hex(),
        "compared": "nothing",
        "findings": [],
    }
    if shown.at is None or shown.at.index != here.stored.index:
        return row
    findings: list[str] = []
    if shown.at != here.stored:
        findings.append(f"applied is {colon(here.stored)}, but the log has {colon(shown.at)} there")
    found = shown.machine.state_hash(shown.txn)
    if here.stored_hash:  # nothing was flushed yet if there is none
        row["compared"] = "hash"
        if found != here.stored_hash:
            findings.append(f"the log gives the state {found.hex()}, stored with it is {here.stored_hash.hex()}")
    if not own:
        with peer.view() as view:
            if read_applied(view.meta)[0] == here.stored:  # a running peer may have gone on
                row["compared"] = "rows"
                findings += islice(differences(shown.machine, shown.txn, view.state), DIFFERENCES_MAX)
    return {**row, "findings": findings}


def differences(machine: VersionedMachine, played: ReadTxn, stored: ReadTxn) -> Iterator[str]:
    """What the shards hold otherwise in two states of one group, in words. Where their rows lie does not matter."""
    for shard in range(machine.shard_count(played)):
        a, b = machine.record(played, shard), machine.record(stored, shard)
        if a._replace(incarnation=0) != b._replace(incarnation=0):
            yield f"shard {shard}: stored as {_shard_words(b)}, the log gives {_shard_words(a)}"
        if a.state not in HELD or b.state not in HELD:
            continue
        scopes = scope_of(shard, a), scope_of(shard, b)
        for key, ours, theirs in _unequal(kv.ROWS, (played, stored), scopes):
            words = [_row_words(scope, key, row) for scope, row in zip(scopes, (ours, theirs), strict=True)]
            yield f"shard {shard}, key {key_of(key, False)}: stored is {words[1]}, the log gives {words[0]}"
        for key, _, _ in _unequal(sessions.SESSIONS, (played, stored), scopes):
            whose = f"the session of client {key.hex()}" if key else "the count of the sessions"
            yield f"shard {shard}: {whose} is not the one that the log gives"


def _unequal(
    table: str, views: tuple[ReadTxn, ReadTxn], scopes: tuple[bytes, bytes]
) -> Iterator[tuple[bytes, bytes | None, bytes | None]]:
    """(key behind the scope, payload in either view) where they differ, in order of keys."""
    streams = [view.scan(table, scope, prefix_stop(scope)) for view, scope in zip(views, scopes, strict=True)]
    heads = [next(stream, None) for stream in streams]
    while True:
        keys = [head[0][kv.SCOPE_BYTES :] for head in heads if head is not None]
        if not keys:
            return
        key = min(keys)
        found: list[bytes | None] = [None, None]
        for side, head in enumerate(heads):
            if head is not None and head[0][kv.SCOPE_BYTES :] == key:
                found[side] = head[1]
                heads[side] = next(streams[side], None)
        if found[0] != found[1]:
            yield key, found[0], found[1]


def _shard_words(record: ShardRecord) -> str:
    words = f"{record.state.name.lower()} at num {record.num}, {record.rows} rows of {record.size} bytes"
    return f"{words}, hash {record.digest.hex()}"


def _row_words(scope: bytes, key: bytes, payload: bytes | None) -> str:
    if payload is None:
        return "nothing"
    return f"version {kv.version_of(scope, key, payload)}, {printable(payload[kv.VERSION_BYTES :])}"
