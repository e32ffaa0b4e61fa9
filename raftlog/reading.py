"""The reads of a node: they wait here for a turn, in the core for their round, and are answered when it is done.

A read needs a state that has all that was committed when it was asked for, and the certainty that nobody else led by then.
The core finds out the second by a round of heartbeats; the first is true of the leader's own state as soon as it has
applied what it knows to be committed. So a small read is made while the round is out, and only told after it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raftlog.machine import NotLeader, Unknown
from raftlog.state import ReadDone
from store.engine import ReadTxn

if TYPE_CHECKING:
    from raftlog.node import Node

EARLY_READS = 512
"""The most reads that were made and may not be told yet: their values take memory."""

_UNREAD: Any = object()


@dataclass(slots=True)
class _Read:
    read: Callable[[ReadTxn], Any]
    done: Callable[[Any], Any]
    early: bool
    value: Any = _UNREAD


class NodeReads:
    """See the module. A token of the core is the list of the reads that came in one turn; answered, it is empty."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._new: list[_Read] = []
        self._asked: list[_Read] = []
        """Those of this turn."""
        self._made = 0
        """How many were made and not told yet."""

    def __bool__(self) -> bool:
        """Some wait for a turn."""
        return bool(self._new)

    def add(self, read: Callable[[ReadTxn], Any], done: Callable[[Any], Any], *, early: bool) -> None:
        """See `ReplicatedStateMachine.when_readable`."""
        self._new.append(_Read(read, done, early))

    def ask(self) -> None:
        """Give the core what came in since the last turn."""
        if self._new:
            self._asked, self._new = self._new, []
            self._node.core.read(self._asked, self._node.clock())

    def make_early(self) -> None:
        """Once all else of the turn is done: make the reads of the turn that may be made now."""
        asked = self._asked
        if asked:
            self._asked = []
            if self._node.core.may_read_early():
                view = self._node.rsm.view
                for read in asked[: EARLY_READS - self._made]:
                    if read.early:
                        read.value = read.read(view)
                        self._made += 1

    def answer(self, done: ReadDone) -> None:
        """Tell those of a round what they read, or that this peer does not lead."""
        reads: list[_Read] = done.token
        view = self._node.rsm.view
        for read in reads:
            if read.value is not _UNREAD:
                self._made -= 1
            if not done.ready:
                read.done(NotLeader(self._node.leader()))
            else:
                read.done(read.read(view) if read.value is _UNREAD else read.value)
        reads.clear()

    def close(self) -> None:
        """Answer those that the core has not seen."""
        for read in self._new:
            read.done(Unknown("the peer stops"))
        self._new.clear()
