"""The replicated state machine: waiters, sessions, the write-behind view and its flushes.

Applies committed entries to the view, in order, and answers who waits for them. The reply may leave as soon as the
entry is applied: it is durable on a quorum. The view is flushed behind, off the critical path: on size, when idle, before a
purge and at a stop; `applied` is in the same transaction as the effects that it covers.

A waiter is keyed by the position its operation was given. The same position applied = done; another term applied at
that index = definitely not taken; truncated, overrun by an image, or the end of the peer = unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from raftlog.codec import CodecError, dumps
from raftlog.comparing import EVERY
from raftlog.durable import read_applied, read_slot, write_applied
from raftlog.machine import Applied, NotTaken, Operation, Outcome, StateMachine, Unknown, decode_operations
from raftlog.sessions import SESSIONS_MAX, Sessions
from raftlog.slots import SlotEngine
from raftlog.types import Entry, EntryKind, LogId, Membership
from store.engine import ReadTxn, Writer, WriteTxn
from store.failpoints import step
from store.overlay import Overlay

FLUSH = step("flush", "applied effects")

FLUSH_BYTES = 4 << 20
"""Pending effects beyond this are flushed."""
PENDING_BYTES_MAX = 32 << 20
"""Pending effects beyond this refuse new operations (back-pressure) until a flush is done."""
BACKGROUND_ROWS = 256
"""How many rows one step of background work may touch."""

BAD_ENTRY = dumps([255, "undecodable entry"])
"""The reply to an entry that no version of this program can have proposed."""


@dataclass(frozen=True, slots=True)
class Waiter:
    """Operations proposed here as one entry, and who waits for each."""

    term: int
    operations: Sequence[Operation]
    done: Sequence[Callable[[Outcome], Any]]


class Rsm:
    """The machine of one peer over its state environment. All calls on the loop's thread."""

    def __init__(self, machine: StateMachine, writer: Writer, *, sessions_max: int = SESSIONS_MAX) -> None:
        """`sessions_max` is the same on all peers and for all of a group's life; only simulations have another."""
        self.sessions_max = sessions_max
        self.machine = machine
        self.writer = writer
        self.waiters: dict[int, Waiter] = {}
        self.flushing: LogId | None = None
        self.background_due = True
        self.on_position: Callable[[LogId, bytes], None] | None = None
        """Told the hash of the state at the positions at which peers compare theirs (see `raftlog.comparing`)."""
        self._open()

    def _open(self) -> None:
        with self.writer.engine.read() as txn:
            self.slot = read_slot(txn)
            self.applied, self.membership, _ = read_applied(txn)
        self.flushed = self.applied
        self.live = SlotEngine(self.writer.engine, self.machine.tables, self.slot)
        self.overlay = Overlay(self.live)
        self._sessions = Sessions(self.machine, self.overlay, sessions_max=self.sessions_max)

    @property
    def view(self) -> ReadTxn:
        """The state as applied now, pending effects included."""
        return self.overlay

    def state_hash(self) -> bytes:
        """Of the live state as applied now."""
        return self.machine.state_hash(self.overlay)

    # --- applying ------------------------------------------------------------------------------------------------

    def expect(self, at: LogId, operations: Sequence[Operation], done: Sequence[Callable[[Outcome], Any]]) -> None:
        """Somebody waits for the entry proposed at `at`."""
        self.waiters[at.index] = Waiter(at.term, operations, done)

    def apply(self, entries: Sequence[Entry], membership_at: Callable[[int], Membership]) -> None:
        """Apply committed entries, in order, and answer their waiters."""
        for entry in entries:
            assert entry.id.index == self.applied.index + 1, f"applying {entry.id} after {self.applied}"
            waiter = self.waiters.pop(entry.id.index, None)
            ours = waiter if waiter is not None and waiter.term == entry.id.term else None
            if entry.kind is EntryKind.COMMAND:
                replies = self._apply_command(entry, ours)
            else:
                replies = []
            if entry.kind is EntryKind.MEMBERSHIP:
                self.membership = membership_at(entry.id.index)
            self.applied = entry.id
            if entry.id.index % EVERY == 0 and self.on_position is not None:
                self.on_position(entry.id, self.state_hash())
            if ours is not None:
                for done, reply in zip(ours.done, replies, strict=True):
                    done(Applied(reply, entry.id))
            elif waiter is not None:
                for done in waiter.done:
                    done(NotTaken(f"another entry, of term {entry.id.term}, is committed at {entry.id.index}"))

    def _apply_command(self, entry: Entry, ours: Waiter | None) -> list[bytes]:
        if ours is not None:
            operations = ours.operations
        else:
            try:
                operations = decode_operations(entry.data)
            except CodecError:
                return [BAD_ENTRY]
        replies = [self._sessions.apply(operation, entry.id) for operation in operations]
        self._sessions.settle()
        return replies

    def release(self, first: int, why: str) -> None:
        """Tell the waiters at or above `first` that their outcome is unknown."""
        for index in sorted(i for i in self.waiters if i >= first):
            for done in self.waiters.pop(index).done:
                done(Unknown(why))

    # --- flushing ------------------------------------------------------------------------------------------------

    @property
    def pending(self) -> bool:
        """There are applied effects that no flush covers yet."""
        return self.applied != self.flushed and self.flushing is None

    def full(self) -> bool:
        """Too many pending effects: refuse at the door."""
        return self.overlay.size_bytes > PENDING_BYTES_MAX

    def work_behind(self) -> bool:
        """One bounded step of the machine's background work. True if more is left."""
        self.background_due = self.machine.background(self.overlay, BACKGROUND_ROWS)
        return self.background_due

    def flush(self, on_done: Callable[[], Any]) -> bool:
        """Start writing the pending effects and `applied`, as of now, in one transaction. False if there is nothing to
        flush or a flush is under way; else `on_done` is called when it is durable."""
        if self.flushing is not None or (self.applied == self.flushed and not self.overlay.size_bytes):
            return False
        write = self.overlay.freeze()
        applied, membership, state_hash = self.applied, self.membership, self.state_hash()
        live, overlay = self.live, self.overlay
        self.flushing = applied

        def job(txn: WriteTxn) -> None:
            write(live.on(txn))
            write_applied(txn, applied, membership, state_hash)

        def done(_: None) -> None:
            if overlay is not self.overlay:
                return  # an image took the place of all this
            self.overlay.flushed()
            self.flushing, self.flushed = None, applied
            if self.on_position is not None:
                self.on_position(applied, state_hash)
            on_done()

        self.writer.submit(job, done, FLUSH)
        return True

    # --- images --------------------------------------------------------------------------------------------------

    def reopen(self) -> None:
        """After an image was flipped in: forget pending effects and waiters below it, start from what is on disk."""
        self.overlay.close()
        self.flushing = None
        self.background_due = True
        self._open()
        for index in sorted(i for i in self.waiters if i <= self.applied.index):
            for done in self.waiters.pop(index).done:
                done(Unknown("overrun by an image"))

    def close(self) -> None:
        """Release every waiter and the view."""
        self.release(0, "the peer stops")
        self.overlay.close()
