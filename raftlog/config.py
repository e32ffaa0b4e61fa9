"""The constants of a Raft group, frozen and checked: units in the names, relations between them enforced."""

from __future__ import annotations

from dataclasses import dataclass

from raftlog.types import MAX_ENTRY_BYTES


@dataclass(frozen=True, slots=True)
class RaftConfig:
    """Times in seconds, sizes in bytes. All published figures use the defaults.

    A wrong value raises `ValueError` that says what the relation is.
    """

    heartbeat_s: float = 0.1
    """How often a leader is heard. Also how late a follower may learn of a commit on an idle group."""
    election_min_s: float = 0.3
    """The shortest election time-out; stickiness and leases last this long. At least 2 heartbeats."""
    election_max_s: float = 0.6
    """The longest. Also the check-quorum window, and how long a restarted peer grants no vote."""
    retry_s: float = 0.3
    """An append unanswered for this long is taken for lost; the leader probes again."""
    storage_slow_s: float = 1.0
    """A leader whose save takes longer hands over to a peer whose disk has been faster, if there is one: its clients wait.
    Below storage_stall_s."""
    storage_stall_s: float = 5.0
    """A save that takes longer means the disk hangs: the peer steps down, then dies. Above election_max_s."""
    clock_drift: float = 0.1
    """Leases are shortened by this share, for clocks that run at different speeds."""
    append_bytes_max: int = 2 << 20
    """The most bytes of entries in one AppendEntries; one entry goes however large it is."""
    window_messages: int = 64
    """The most unanswered appends to one peer."""
    window_bytes: int = 8 << 20
    """The most unanswered bytes of appends to one peer."""
    uncommitted_bytes_max: int = 32 << 20
    """A leader with more bytes than this above its commit index refuses proposals."""
    take_bytes_max: int = 4 << 20
    """Bounds what one `take()` hands out to be saved and to be applied, each (always at least one entry)."""
    read_hedge_s: float = 0.02
    """A read round asks as many peers as make a quorum with the leader; unanswered for this long it asks all. At most a
    heartbeat."""
    reads_max: int = 8192
    """The most reads that wait at a leader."""
    read_rounds_max: int = 16
    """The most read rounds in flight; further reads join the next one."""

    def __post_init__(self) -> None:
        relations = (
            (self.heartbeat_s > 0, "heartbeat_s must be above 0"),
            (self.election_min_s >= 2 * self.heartbeat_s, "election_min_s must be at least 2 heartbeat_s"),
            (self.election_max_s > self.election_min_s, "election_max_s must be above election_min_s"),
            (self.retry_s > self.heartbeat_s, "retry_s must be above heartbeat_s"),
            (self.storage_stall_s > self.election_max_s, "storage_stall_s must be above election_max_s"),
            (0 < self.storage_slow_s < self.storage_stall_s, "storage_slow_s must be in (0, storage_stall_s)"),
            (0 <= self.clock_drift < 0.5, "clock_drift must be in [0, 0.5)"),
            (
                self.append_bytes_max >= 1 and self.take_bytes_max >= 1,
                "append_bytes_max and take_bytes_max must be above 0",
            ),
            (self.window_messages >= 1, "window_messages must be at least 1"),
            (self.window_bytes >= self.append_bytes_max, "window_bytes must be at least append_bytes_max"),
            (self.uncommitted_bytes_max >= MAX_ENTRY_BYTES, "uncommitted_bytes_max must hold one largest entry"),
            (0 < self.read_hedge_s <= self.heartbeat_s, "read_hedge_s must be in (0, heartbeat_s]"),
            (self.reads_max >= 1 and self.read_rounds_max >= 1, "reads_max and read_rounds_max must be at least 1"),
        )
        for holds, text in relations:
            if not holds:
                raise ValueError(f"{text}: {self}")
