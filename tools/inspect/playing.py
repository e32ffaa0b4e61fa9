"""Applying entries of a log to a state that is only looked at: the effects stay in memory, or in a directory of our own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from raftlog.codec import CodecError
from raftlog.durable import CorruptLog, read_applied, read_base, read_entries, read_hard, read_intent
from raftlog.machine import Operation, decode_operations
from raftlog.rsm import FLUSH_BYTES
from raftlog.sessions import apply_operation
from raftlog.slots import SlotEngine
from raftlog.types import Entry, EntryKind, LogId
from shardkv.config import NSHARDS
from shardkv.group import GroupMachine, stored_shards
from shardkv.kvmachine import KvMachine, VersionedMachine
from store.engine import FormatMismatch, ReadTxn, StoreError, WriteTxn
from store.overlay import Overlay, Readable
from tools.inspect.peer import OpenPeer, View
from tools.inspect.structure import NotThere

OVERLAY_BYTES_MAX = 256 << 20
"""The most effects that are kept in memory where there is no directory to spill them to."""


class Snapshot:
    """One read transaction in the place of an engine, for an overlay over it."""

    def __init__(self, txn: ReadTxn, tables: Sequence[str]) -> None:
        self._txn = txn
        self.tables = tuple(tables)

    @contextmanager
    def read(self) -> Iterator[ReadTxn]:
        """The one transaction, each time; it goes on afterwards."""
        yield self._txn


class Player:
    """A state as of `at`, and what follows: entries are applied as a peer applies them. With `spill` the effects go to
    that engine (the one that is read) as soon as they are large, else they stay in memory. `close` it."""

    def __init__(self, machine: VersionedMachine, engine: Readable, at: LogId, spill: SlotEngine | None = None) -> None:
        self.machine = machine
        self.at = at
        self._overlay = Overlay(engine)
        self._spill = spill

    @property
    def view(self) -> WriteTxn:
        """The state as of `at`."""
        return self._overlay

    def go_to(self, entry: Entry) -> list[Operation]:
        """Move on to the next entry; its operations, to be given to `do`. Raises `CorruptLog` if it is not the next."""
        if entry.id.index != self.at.index + 1 or entry.id.term < self.at.term:
            raise CorruptLog(f"log/entries, record {entry.id.index} ({colon(entry.id)}) follows {colon(self.at)}")
        self.at = entry.id
        if entry.kind is not EntryKind.COMMAND:
            return []
        try:
            return decode_operations(entry.data)
        except CodecError:
            return []  # answered with BAD_ENTRY, without effect

    def do(self, operation: Operation) -> bytes:
        """Apply one operation of the entry at `at`; its encoded reply."""
        return apply_operation(self.machine, self._overlay, operation, self.at)

    def settle(self) -> None:
        """Keep the memory bounded; to be called between entries. Raises `StoreError` where nothing can be done."""
        if self._spill is None:
            if self._overlay.size_bytes > OVERLAY_BYTES_MAX:
                raise StoreError(
                    f"the log up to {colon(self.at)} has more effects than fit in memory: use inspect replay"
                )
        elif self._overlay.size_bytes > FLUSH_BYTES:
            job = self._overlay.freeze()
            with self._spill.write() as txn:
                job(txn)
            self._overlay.flushed()

    def play(self, entry: Entry) -> None:
        """Apply the next entry."""
        for operation in self.go_to(entry):
            self.do(operation)
        self.settle()

    def close(self) -> None:
        """End the read transaction of the view."""
        self._overlay.close()


def colon(at: LogId) -> str:
    """A position for people, term:index."""
    return f"{at.term}:{at.index}"


def needs_log(peer: OpenPeer) -> None:
    """Raises `NotThere` for a kvsrv's directory."""
    if "log" not in peer.engines:
        raise NotThere(f"{peer.directory} is a kvsrv's: it has no log, so no index and nothing to replay")


def machine_for(peer: OpenPeer, state: ReadTxn, shards: int | None) -> VersionedMachine:
    """The machine of a peer's tables. `shards`: the cluster's number of shards, for a group whose state does not say it yet
    (its first shard's entry does). Raises `FormatMismatch` if the state says another."""
    if peer.stamp.gid == 0:
        return KvMachine()
    stored = stored_shards(state)
    if shards is not None and stored not in (None, shards):
        raise FormatMismatch(f"the state is of {stored} shards, not of the {shards} of --shards")
    return GroupMachine(stored or shards or NSHARDS)


# --- the state on disk, or with the log on top of it -----------------------------------------------------------------


@dataclass(frozen=True)
class Moment:
    """A state to look at. `at` is the applied position that it shows, None for a kvsrv, which numbers nothing; `stored` is
    the one on disk, and `through_log` says that the entries between them were applied in memory."""

    peer: str
    gid: int
    at: LogId | None
    stored: LogId | None
    through_log: bool
    txn: ReadTxn
    machine: VersionedMachine


@contextmanager
def moment(peer: OpenPeer, *, through_log: bool = False, shards: int | None = None) -> Iterator[Moment]:
    """The state of a peer as of its stored applied position, or `through_log`: as of its durable commit. It pins pages of
    the peer while it is open. Raises `StoreError`; `NotThere` for the log of a kvsrv."""
    if through_log:
        needs_log(peer)
    with peer.view() as view:
        machine = machine_for(peer, view.state, shards)
        stored = None if view.log is None else read_applied(view.meta)[0]
        if not through_log or view.log is None or stored is None:
            yield Moment(peer.name, peer.stamp.gid, stored, stored, False, view.state, machine)
            return
        with overlaid(view, machine, stored) as player:
            for entry in committed_tail(view.log, stored):
                player.play(entry)
            yield Moment(peer.name, peer.stamp.gid, player.at, stored, True, player.view, machine)


@contextmanager
def overlaid(view: View, machine: VersionedMachine, at: LogId) -> Iterator[Player]:
    """A player whose effects lie in memory over a view of a peer's state, which is as of `at`."""
    player = Player(machine, Snapshot(view.state, ("meta", *machine.tables)), at)
    try:
        yield player
    finally:
        player.close()


def committed_tail(log: ReadTxn, applied: LogId) -> Iterator[Entry]:
    """The committed entries behind the applied position, of one moment. Raises `CorruptLog` if the log has another entry
    there."""
    commit = read_hard(log).commit
    if commit > applied.index and joins(log, applied):
        yield from read_entries(log, applied.index + 1, commit)


def joins(log: ReadTxn, applied: LogId) -> bool:
    """The log goes on from `applied`. False after an image whose installation is unfinished: its end drops the entries.
    Raises `CorruptLog` if the log contradicts it."""
    there = position_at(log, applied.index)
    if there == applied:
        return True
    intent = read_intent(log)
    if intent is not None and intent[0] == applied:
        return False
    words = "nothing" if there is None else colon(there)
    raise CorruptLog(f"applied is {colon(applied)}, but the log has {words} there")


def position_at(log: ReadTxn, index: int) -> LogId | None:
    """The position at an index of the log, None if it is purged or not there. The purge base is known."""
    base, _ = read_base(log)
    if index == base.index:
        return base
    return next((entry.id for entry in read_entries(log, index, index)), None)
