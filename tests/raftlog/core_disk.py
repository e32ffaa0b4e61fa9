"""A simulated disk: what survives a power cut, and what a start finds on it. Every write is one instant, all or nothing.

The rules are those of `raftlog.durable`, on lists instead of tables.
"""

from __future__ import annotations

import zlib

from raftlog.codec import dumps, pack_membership
from raftlog.core import RaftCore
from raftlog.messages import AppendReply, Envelope, HeartbeatReply, ImageReply, RequestVote, VoteReply
from raftlog.saves import Save
from raftlog.types import ZERO, Entry, EntryKind, HardState, LogId, Member, Membership, Restored

EMPTY = Membership(())


def membership_of(voters: int, learners: int = 0) -> Membership:
    """Voters 0.., then learners."""
    members = [Member(i, 100 + i) for i in range(voters + learners)]
    return Membership(tuple(members[:voters]), tuple(members[voters:]))


def first_entry(membership: Membership) -> Entry:
    """Entry 1 of a group, as a bootstrap writes it."""
    return Entry(LogId(1, 1), EntryKind.MEMBERSHIP, dumps(pack_membership(membership)))


def chained(before: int, entry: Entry) -> int:
    """The state of the world's state machine: a checksum over everything applied, in order."""
    return zlib.crc32(entry.data, zlib.crc32(repr(entry.id).encode(), before))


class Disk:
    """What survives a power cut now: the log environment and the state environment of one peer."""

    def __init__(self, membership: Membership) -> None:
        self.hard = HardState(term=1, commit=1)
        self.base, self.base_membership = ZERO, EMPTY
        self.entries: list[Entry] = [first_entry(membership)]
        self.intent: tuple[LogId, Membership] | None = None
        self.applied, self.state = ZERO, 0
        self.boot = 0

    @property
    def last(self) -> LogId:
        return self.entries[-1].id if self.entries else self.base

    def term_at(self, index: int) -> int | None:
        if index == self.base.index:
            return self.base.term
        at = index - self.base.index - 1
        return self.entries[at].term if 0 <= at < len(self.entries) else None

    def write_save(self, save: Save) -> None:
        self.hard = save.hard
        if save.first is not None:
            del self.entries[save.first - self.base.index - 1 :]
            self.entries.extend(save.entries)
        last = self.base
        for entry in self.entries:
            assert entry.index == last.index + 1, f"a gap on disk: {last}, {entry.id}"
            assert entry.term >= last.term, f"the term falls on disk: {last}, {entry.id}"
            last = entry.id
        assert self.hard.commit <= last.index, f"commit {self.hard.commit} on disk, past its last entry {last}"

    def write_purge(self, to: LogId, membership: Membership) -> None:
        assert to.index <= self.applied.index, f"purge at {to}, durably applied {self.applied}"
        self.entries = [e for e in self.entries if e.index > to.index]
        self.base, self.base_membership = to, membership

    def write_reset(self, at: LogId, membership: Membership) -> None:
        kept = self.term_at(at.index) == at.term and at.index >= self.base.index
        self.entries = [e for e in self.entries if kept and e.index > at.index]
        self.base, self.base_membership, self.intent = at, membership, None

    def write_flip(self, at: LogId, state: int) -> None:
        self.applied, self.state = at, state

    def recover(self) -> Restored:
        """What a start does (`durable.recover`)."""
        if self.intent is not None:
            if self.intent[0] == self.applied:
                self.write_reset(*self.intent)
            self.intent = None
        assert self.base.index <= self.applied.index <= self.last.index, f"{self.base} {self.applied} {self.last}"
        assert self.term_at(self.applied.index) == self.applied.term, f"applied {self.applied} is not in the log"
        self.boot += 1
        return Restored(self.hard, self.base, self.base_membership, tuple(self.entries), self.applied, self.boot)


def check_promise(core: RaftCore, disk: Disk, envelope: Envelope) -> None:
    """Law 2 against the disk itself: what leaves would still be true after a power cut now."""
    message, me, term = envelope.message, core.state.me, core.state.term
    text = f"peer {me} sent {message} with {disk.hard} and the log up to {disk.last} on disk"
    match message:
        case RequestVote(pre=False) if message.term == term:
            assert disk.hard.term == term and disk.hard.vote == me, text
        case VoteReply(granted=True, pre=False) if message.term == term:
            assert disk.hard.term == term and disk.hard.vote == envelope.to, text
        case AppendReply(match=int(index)) | HeartbeatReply(match=index) if index > 0:
            check_durable(core, disk, index, text)
        case ImageReply(image=(_, at), installed=True):
            check_durable(core, disk, at.index, text)
        case _:
            pass


def check_durable(core: RaftCore, disk: Disk, index: int, text: str) -> None:
    """The term, and the log up to `index`, are on the disk as the core has them."""
    log = core.state.log
    assert disk.hard.term >= core.state.term, text
    for at in range(max(disk.base.index, log.base.index), index + 1):
        assert disk.term_at(at) == log.term_at(at), f"{text}: term {disk.term_at(at)} at {at}"
