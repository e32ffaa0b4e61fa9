"""What a node is told, and what it tells: its limits and its status. Frozen values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from raftlog.machine import Operation, Outcome
from raftlog.rsm import FLUSH_BYTES
from raftlog.types import LogId, Membership, Mode, PeerId, Role


@dataclass(frozen=True, slots=True)
class NodeLimits:
    """When a node batches, flushes and purges. Sizes in bytes, times in seconds."""

    batch_operations: int = 128
    """The most operations in one entry. 1 gives every operation an entry of its own (as the labs count)."""
    batch_bytes: int = 256 << 10
    """An entry is closed once its operations hold this much."""
    inbox_slice: int = 512
    """How many messages a turn steps before it looks at anything else."""
    queue_operations: int = 8192
    """The most submitted operations that wait for a turn; more are refused."""
    log_bytes: int = 16 << 20
    """The log is purged when it is longer than this ..."""
    keep_bytes: int = 8 << 20
    """... down to this much, for followers that are a little behind; never past the durable applied position."""
    flush_bytes: int = FLUSH_BYTES
    """Pending effects beyond this are flushed."""
    flush_idle_s: float = 1.0
    """Pending effects are flushed at the latest after this long."""
    image_retry_s: float = 0.5
    """A piece of an image unanswered for this long is sent again ..."""
    image_patience_s: float = 10.0
    """... and the transfer given up when nothing moved for this long ..."""
    image_age_s: float = 120.0
    """... or at this age of its snapshot, which pins pages of state/ ..."""
    image_growth_bytes: int = 512 << 20
    """... or when state/ has grown by this much meanwhile."""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A node as of now. Positions are indexes unless they are LogIds. `recover_to` is where a recovering peer has to get to;
    with `refill` it has no state and waits for an image."""

    role: Role
    mode: Mode
    recover_to: LogId | None
    refill: bool
    term: int
    vote: PeerId | None
    leader: PeerId | None
    commit: int
    applied: LogId
    flushed: LogId
    last: LogId
    stable: int
    base: LogId
    membership: Membership
    state_hash: bytes
    log_bytes: int
    pending_bytes: int
    boot: int


Submitted = tuple[Operation, Callable[[Outcome], Any]]
"""An operation, and who is told what became of it."""


def in_batches(submitted: Sequence[Submitted], limits: NodeLimits) -> Iterator[Sequence[Submitted]]:
    """Cut what came in, in order, into what may stand in one entry each."""
    first = size = 0
    for number, (operation, _) in enumerate(submitted):
        grown = size + len(operation.command) + 24
        if number > first and (number - first >= limits.batch_operations or grown > limits.batch_bytes):
            yield submitted[first:number]
            first, grown = number, len(operation.command) + 24
        size = grown
    yield submitted[first:]
