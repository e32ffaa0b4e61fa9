"""The client's half of exactly once: sequence numbers, what is acknowledged, the last tick seen.

The server's half is `raftlog.sessions`.

One `ClientSession` a clerk, one `ShardSession` in it per shard, since sessions live with the shard and move with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

WINDOW = 64
"""The most operations of one client on one shard that may be open at once (the server's window is wider)."""


class Stamp(NamedTuple):
    """What an operation carries at every try of it, fixed at its first send."""

    client: int
    seq: int
    acked_below: int
    as_of: int


@dataclass(slots=True)
class ShardSession:
    """Sequence numbers of one client on one shard."""

    client: int
    next_seq: int = 1
    as_of: int = 0
    open: set[int] = field(default_factory=set)

    def begin(self) -> Stamp:
        """A new operation."""
        seq = self.next_seq
        self.next_seq += 1
        self.open.add(seq)
        return Stamp(self.client, seq, min(self.open), self.as_of)

    def end(self, stamp: Stamp) -> None:
        """The operation will not be sent again, whatever became of it."""
        self.open.discard(stamp.seq)

    def seen(self, tick: int | None) -> None:
        """A reply carried the shard's tick."""
        if tick is not None:
            self.as_of = max(self.as_of, tick)

    @property
    def full(self) -> bool:
        """Too many operations are open: wait for one to end."""
        return len(self.open) >= WINDOW or (bool(self.open) and self.next_seq - min(self.open) >= WINDOW)


class ClientSession:
    """A clerk's identity: a random number, and a session per shard."""

    def __init__(self, rng: Random) -> None:
        self.client = rng.getrandbits(63) | 1
        self._shards: dict[int, ShardSession] = {}

    def of(self, shard: int) -> ShardSession:
        """The session on `shard`."""
        return self._shards.setdefault(shard, ShardSession(self.client))
