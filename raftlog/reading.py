"""The reads of a node: they wait here for a turn, in the core for their round, and are answered when it is done.

A read needs a state that has all that was committed when it was asked for, and the certainty that nobody else led by then.
The core finds out the second by a round of heartbeats; the first is true of the leader's own state as soon as it has
applied what it knows to be committed. So a small read is made while the round is out, and only told after it.

Reads are made and told a few in a turn. So what was told first is on its way while the others are made, and clients that
asked together do not go on asking together, with this peer idle until the last of them has its answer.
"""

from __future__ import annotations

from collections import deque
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

SLICE = 32
"""How many reads are made, and how many are told, in one turn."""

_UNREAD: Any = object()


@dataclass(slots=True)
class _Read:
    read: Callable[[ReadTxn], Any]
    done: Callable[[Any], Any]
    early: bool
    value: Any = _UNREAD
    out: bool = True
    """Its round is."""


class NodeReads:
    """See the module. A token of the core is the list of the reads that came in one turn; answered, it is empty."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._new: list[_Read] = []
        self._asked: deque[_Read] = deque()
        """Those that may be made early, if their rounds are still out."""
        self._made = 0
        """How many were made early and not told yet."""
        self._ready: deque[_Read] = deque()
        """Those whose rounds are done."""
        self.waiting = 0
        """How many wait for an answer."""

    def __bool__(self) -> bool:
        """Some wait for a turn."""
        return bool(self._new or self._ready or self._asked)

    def add(self, read: Callable[[ReadTxn], Any], done: Callable[[Any], Any], *, early: bool) -> None:
        """See `ReplicatedStateMachine.when_readable`."""
        self._new.append(_Read(read, done, early))
        self.waiting += 1

    def ask(self) -> None:
        """Give the core what came in since the last turn."""
        if self._new:
            asked, self._new = self._new, []
            self._node.core.read(asked, self._node.clock())
            self._asked.extend(read for read in asked if read.early and read.out)

    def answer(self, done: ReadDone) -> None:
        """The round of these is done: they are told what they read, or that this peer does not lead."""
        reads: list[_Read] = done.token
        for read in reads:
            read.out = False
            if done.ready:
                self._ready.append(read)
            else:
                self._told(read)
                read.done(NotLeader(self._node.leader()))
        reads.clear()

    def work(self) -> None:
        """Once all else of the turn is done: tell some whose round is done, and make some whose round is out."""
        view = self._node.rsm.view
        ready, asked = self._ready, self._asked
        for _ in range(min(len(ready), SLICE)):
            read = ready.popleft()
            self._told(read)
            read.done(read.read(view) if read.value is _UNREAD else read.value)
        if asked and not self._node.core.may_read_early():
            asked.clear()
        for _ in range(min(len(asked), SLICE)):
            read = asked.popleft()
            if read.out and self._made < EARLY_READS:
                read.value = read.read(view)
                self._made += 1

    def _told(self, read: _Read) -> None:
        self.waiting -= 1
        if read.value is not _UNREAD:
            self._made -= 1

    def close(self) -> None:
        """Answer those whose round is done, and those that the core has not seen."""
        while self._ready:
            self.work()
        for read in self._new:
            read.done(Unknown("the peer stops"))
        self._new.clear()
