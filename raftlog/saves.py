"""What is durable, what is on its way to the disk, and which promises wait for it.

One save at most is in flight; what changes meanwhile coalesces into the next (law 1). A promise is a message, or the
peer's own vote, that may only take effect once what it promises is durable (law 2).
"""

from __future__ import annotations

from dataclasses import dataclass

from raftlog.messages import Envelope
from raftlog.types import Entry, HardState, LogId


@dataclass(frozen=True, slots=True)
class Save:
    """One durable transaction on the log environment, all or nothing.

    `hard` is stored; then, if `first` is not None, every stored entry at or above `first` is removed and `entries`,
    which begin at `first`, are appended.
    """

    ticket: int
    hard: HardState
    first: int | None
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Promise:
    """Held until the hard state of `generation` and the log up to `index` are durable; void in another term.

    `envelope` None is the peer's own vote.
    """

    term: int
    generation: int
    index: int
    envelope: Envelope | None


class Durability:
    """The storage side of a core.

    Invariants: every entry at or below `stable` is durable as the log view has it; `stable` never passes the last
    entry; `dirty` is the lowest index that no save in flight or done covers, None if there is none.
    """

    def __init__(self, hard: HardState, last: LogId) -> None:
        self.stable = last.index
        self.ends = last
        """Where the log on the disk ends at the least, once the save in flight is done (see `HardState.ends`)."""
        self.generation = 0  # of the hard state now; moves with term, vote and mode, not with commit
        self.durable_generation = 0
        self.dirty: int | None = None
        self.in_flight: Save | None = None
        self.in_flight_since: float | None = None
        self.held: list[Promise] = []
        self._tickets = 0
        self._in_flight_generation = 0
        self._cut: int | None = None  # the lowest truncation since the save in flight was taken

    def hard_changed(self) -> None:
        """Term, vote or mode changed: a save is due before any promise that rests on it."""
        self.generation += 1

    def appended(self, first: int) -> None:
        """Entries from `first` on are new."""
        self.dirty = first if self.dirty is None else min(self.dirty, first)

    def truncated(self, first: int) -> None:
        """Entries from `first` on are gone. `stable` falls; a save in flight can't raise it past the cut (law 3)."""
        self.stable = min(self.stable, first - 1)
        self._cut = first if self._cut is None else min(self._cut, first)
        self.appended(first)

    @property
    def hard_durable(self) -> bool:
        """Term, vote and mode are durable as they are now."""
        return self.generation == self.durable_generation

    @property
    def due(self) -> bool:
        """A save is needed and none is in flight."""
        return self.in_flight is None and (self.dirty is not None or not self.hard_durable)

    def begin(self, hard: HardState, entries: tuple[Entry, ...], *, with_log: bool, last: int, now: float) -> Save:
        """Put a save in flight. `entries` begin at `dirty`; if they stop short of `last` the rest stays dirty."""
        assert self.in_flight is None, f"save {self.in_flight} is still in flight"
        self._tickets += 1
        first = self.dirty if with_log else None
        save = Save(self._tickets, hard, first, entries)
        if first is not None:
            end = first + len(entries)
            self.dirty = end if end <= last else None
        self.in_flight, self.in_flight_since = save, now
        self._in_flight_generation = self.generation
        self._cut = None
        return save

    def saved(self, ticket: int) -> None:
        """The save is durable. A truncation that came after it was taken limits what it proves (law 3)."""
        save = self.in_flight
        assert save is not None and save.ticket == ticket, f"saved({ticket}), in flight: {save}"
        self.in_flight = self.in_flight_since = None
        self.durable_generation = self._in_flight_generation
        if save.first is not None:
            end = save.first + len(save.entries) - 1
            if self._cut is not None:
                end = min(end, self._cut - 1)
            self.stable = max(self.stable, end)
        self._cut = None

    def installed(self, index: int, last: int) -> None:
        """The log's base is durably at an image; entries above it, if any stayed, are durable only up to `stable`."""
        assert self.in_flight is None or self.in_flight.first is None, "a log save is in flight during an installation"
        self.stable = max(min(self.stable, last), index)
        self.dirty = self.stable + 1 if self.stable < last else None

    def hold(self, term: int, index: int, envelope: Envelope | None) -> None:
        """Keep a promise back until it is safe."""
        self.held.append(Promise(term, self.generation, index, envelope))

    def release(self, term: int) -> list[Promise]:
        """The promises of this term that are safe now, in order; those of other terms are dropped."""
        if not self.held:
            return []
        ready: list[Promise] = []
        still: list[Promise] = []
        for promise in self.held:
            if promise.term != term:
                continue
            safe = promise.generation <= self.durable_generation and promise.index <= self.stable
            (ready if safe else still).append(promise)
        self.held = still
        return ready
