"""The log view: the whole unpurged log in memory, above a purge base (sections 5.3 and 7).

Invariants: entry i of the list has index base.index + 1 + i; terms never fall; the membership in force is the latest
one in the log, else the one stored with the base.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from raftlog.codec import loads, unpack_membership
from raftlog.types import ZERO, Entry, EntryKind, LogId, Membership


class LogView:
    """Positions and entries, by index. Synchronous, no I/O; what is durable is not known here (see `saves`)."""

    def __init__(self, base: LogId, base_membership: Membership, entries: Sequence[Entry] = ()) -> None:
        self.base = base
        self._entries: list[Entry] = []
        self._sizes: list[int] = [0]  # _sizes[i] = bytes of the first i entries, counted from _dropped
        self._memberships: list[tuple[int, Membership]] = [(base.index, base_membership)]
        self.append(entries)

    # --- reading -------------------------------------------------------------------------------------------------

    @property
    def last(self) -> LogId:
        return self._entries[-1].id if self._entries else self.base

    @property
    def membership(self) -> Membership:
        """The membership in force: the latest in the log, committed or not (section 6)."""
        return self._memberships[-1][1]

    @property
    def membership_since(self) -> int:
        """The index since which it is in force."""
        return self._memberships[-1][0]

    def membership_at(self, index: int) -> Membership:
        """The latest membership at or below `index`, which must not be below the base."""
        if index < self.base.index:
            raise ValueError(f"index {index} is below the purge base {self.base.index}")
        return next(m for i, m in reversed(self._memberships) if i <= index)

    def term_at(self, index: int) -> int | None:
        """The term of the entry at `index`, None if it is purged or not there. The base itself is known."""
        if index == self.base.index:
            return self.base.term
        at = index - self.base.index - 1
        return self._entries[at].id.term if 0 <= at < len(self._entries) else None

    def id_at(self, index: int) -> LogId:
        """The position at `index`; `index` must be known."""
        term = self.term_at(index)
        assert term is not None, f"no entry at {index}: base {self.base}, last {self.last}"
        return LogId(term, index)

    def slice(self, first: int, last: int, bytes_max: int) -> tuple[Entry, ...]:
        """Entries first..last, cut after `bytes_max` bytes but never to nothing."""
        low = first - self.base.index - 1
        high = last - self.base.index
        assert low >= 0, f"entries from {first} are purged: base {self.base}"
        if low >= high:
            return ()
        cut = bisect_left(self._sizes, self._sizes[low] + bytes_max + 1, low, high + 1) - 1
        return tuple(self._entries[low : max(cut, low + 1)])

    def bytes_between(self, above: int, upto: int) -> int:
        """The bytes of the entries with above < index <= upto."""
        first = max(above - self.base.index, 0)
        return self._sizes[max(upto - self.base.index, first)] - self._sizes[first]

    @property
    def bytes(self) -> int:
        """What the log holds in memory."""
        return self._sizes[-1] - self._sizes[0]

    def first_index_of_term(self, index: int, floor: int) -> int:
        """The lowest index above `floor` whose entries up to `index` share the term of `index` (fast backtracking)."""
        term = self.term_at(index)
        low = max(floor, self.base.index) + 1
        start = low - self.base.index - 1
        end = index - self.base.index - 1
        return low + bisect_left(self._entries, term or 0, start, end, key=lambda e: e.id.term) - start

    def last_index_of_term(self, term: int, below: int) -> int | None:
        """The highest known index <= `below` with exactly this term, None if there is none."""
        end = max(min(below, self.last.index) - self.base.index, 0)
        at = bisect_left(self._entries, term + 1, 0, end, key=lambda e: e.id.term) - 1
        if at >= 0 and self._entries[at].id.term == term:
            return self._entries[at].id.index
        return self.base.index if self.base.term == term and self.base != ZERO else None

    # --- changing ------------------------------------------------------------------------------------------------

    def append(self, entries: Sequence[Entry]) -> None:
        """Add entries after the last one. A gap or a falling term is a programmer's error."""
        for entry in entries:
            last = self.last
            assert entry.id.index == last.index + 1, f"a gap: {entry.id} after {last}"
            assert entry.id.term >= last.term, f"the term falls: {entry.id} after {last}"
            self._entries.append(entry)
            self._sizes.append(self._sizes[-1] + entry.size_bytes)
            if entry.kind is EntryKind.MEMBERSHIP:
                self._memberships.append((entry.id.index, unpack_membership(loads(entry.data))))

    def truncate(self, first: int) -> None:
        """Drop every entry at or above `first`, and with it the memberships they brought."""
        at = first - self.base.index - 1
        assert at >= 0, f"truncation at {first}, at or below the base {self.base}"
        del self._entries[at:]
        del self._sizes[at + 1 :]
        while self._memberships[-1][0] >= first:
            self._memberships.pop()

    def compact(self, to: LogId) -> None:
        """Purge every entry at or below `to`, which must be in the log; `to` becomes the base."""
        if to.index <= self.base.index:
            return
        assert self.term_at(to.index) == to.term, f"purge at {to}, but the log has term {self.term_at(to.index)}"
        membership = self.membership_at(to.index)
        count = to.index - self.base.index
        del self._entries[:count]
        del self._sizes[:count]
        later = [(i, m) for i, m in self._memberships if i > to.index]
        self._memberships = [(to.index, membership), *later]
        self.base = to

    def reset(self, to: LogId, membership: Membership) -> bool:
        """Put the base at an installed image. The suffix stays only if index *and* term match (figure 13, rule 6);
        True if it stayed."""
        if self.term_at(to.index) == to.term and to.index >= self.base.index:
            self.compact(to)
            self._memberships[0] = (to.index, membership)
            return True
        self.base = to
        self._entries.clear()
        self._sizes = [0]
        self._memberships = [(to.index, membership)]
        return False
