"""Layers of pending writes over an ordered table, and how they are read together.

A layer maps keys to values; `None` is "not there". The upper layer's word on a key hides the lower one's.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

Item = tuple[bytes, bytes | None]

ENTRY_OVERHEAD_BYTES = 64
"""What a pending write counts for beside its key and payload."""

_FEW = 16
"""Up to so many new keys are inserted one by one; more are sorted in."""


class Layer:
    """Writes of one table. Cheap to write to, and to scan between writes, however large it is."""

    __slots__ = ("_fresh", "_sorted", "writes")

    def __init__(self) -> None:
        self.writes: dict[bytes, bytes | None] = {}
        # Invariant: _sorted and _fresh together hold each key of `writes` once.
        self._sorted: list[bytes] = []
        self._fresh: list[bytes] = []

    def put(self, key: bytes, value: bytes | None) -> int:
        """Take a write; None for a deletion. By how many bytes the layer grows."""
        writes = self.writes
        size = 0 if value is None else len(value)
        if key in writes:
            old = writes[key]
            writes[key] = value
            return size if old is None else size - len(old)
        self._fresh.append(key)
        writes[key] = value
        return size + len(key) + ENTRY_OVERHEAD_BYTES

    def _ordered(self) -> list[bytes]:
        ordered, fresh = self._sorted, self._fresh
        if fresh:
            if len(fresh) <= _FEW:
                for key in fresh:
                    insort(ordered, key)
            else:
                fresh.sort()
                ordered.extend(fresh)
                ordered.sort()  # two runs in order: a merge
            fresh.clear()
        return ordered

    def keys(self, start: bytes, stop: bytes | None) -> list[bytes]:
        """The keys in start <= key < stop, in order."""
        ordered = self._ordered()
        low = bisect_left(ordered, start)
        high = len(ordered) if stop is None else bisect_left(ordered, stop)
        return ordered[low:high]

    def items(self, start: bytes, stop: bytes | None, *, reverse: bool) -> Iterator[Item]:
        """(key, value or None) in start <= key < stop, in order or reversed. Ends in confusion if written to meanwhile."""
        ordered, writes = self._ordered(), self.writes
        low = bisect_left(ordered, start)
        high = len(ordered) if stop is None else bisect_left(ordered, stop)
        for place in range(high - 1, low - 1, -1) if reverse else range(low, high):
            key = ordered[place]
            yield key, writes[key]

    def touches(self, start: bytes, stop: bytes | None) -> bool:
        """There is a write in start <= key < stop."""
        if not self.writes:
            return False
        ordered = self._ordered()
        low = bisect_left(ordered, start)
        return low < len(ordered) and (stop is None or ordered[low] < stop)


def overlaid(upper: Iterator[Item], lower: Iterator[Item], *, reverse: bool) -> Iterator[Item]:
    """Two streams in (reversed) key order as one; where both name a key, the upper one's value."""
    above, below = next(upper, None), next(lower, None)
    while above is not None and below is not None:
        if above[0] == below[0]:
            yield above
            above, below = next(upper, None), next(lower, None)
        elif (above[0] < below[0]) is not reverse:
            yield above
            above = next(upper, None)
        else:
            yield below
            below = next(lower, None)
    if above is not None:
        yield above
        yield from upper
    if below is not None:
        yield below
        yield from lower
