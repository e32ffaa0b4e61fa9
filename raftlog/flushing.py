"""What a node does behind: the applied effects go to state/ from time to time, and the log that they make needless goes.

A flush and a purge are slow work beside the loop, and their order is fixed: the log is purged up to what a flush has made
durable in state/, never past it, and keeps what a follower that is a little behind, or an image on its way, still needs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from raftlog.durable import write_purge
from store.failpoints import step

if TYPE_CHECKING:
    from raftlog.node import Node

PURGE = step("purge", "the log's beginning is removed")

BACKGROUND_S = 0.01
"""The pause between two steps of the machine's background work, while more of it is left."""


class NodeFlush:
    """See the module. `before_purge` is given the index that state/ is as of, and what purges the log, to be called when it
    may be."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.before_purge: Callable[[int, Callable[[], Any]], Any] = lambda applied, go: go()
        self.purging = False
        """The log's beginning is being removed."""
        self.due: float | None = None
        """When something is flushed at the latest, on the node's clock; None while there is nothing."""

    def work(self) -> None:
        """Once all else of a turn is done: flush if it is time to."""
        node, rsm, limits = self._node, self._node.rsm, self._node.limits
        if not (rsm.pending or rsm.background_due or rsm.overlay.size_bytes):
            self.due = None
            return
        now = node.clock()
        if self.due is None:
            self.due = now + limits.flush_idle_s
        over = node.core.state.log.bytes > limits.log_bytes and rsm.flushing is None
        if rsm.overlay.size_bytes > limits.flush_bytes or now >= self.due or (over and rsm.pending):
            if rsm.flushing is None:
                rsm.work_behind()
            self._flush()
            self.due = now + (BACKGROUND_S if rsm.background_due else limits.flush_idle_s)

    def _flush(self, on_done: Callable[[], Any] = lambda: None) -> bool:
        """Start a flush of the applied effects (see `Rsm.flush`); the log may be purged after it."""
        if self._node.core.state.installing is not None or self._node.failure is not None:
            return False

        def done() -> None:
            self.purge()
            self._node.wake()
            on_done()

        return self._node.rsm.flush(done)

    def purge(self) -> None:
        """Begin to remove what the log need not keep, if that is enough to be worth it."""
        node, limits = self._node, self._node.limits
        log = node.core.state.log
        if self.purging or log.bytes <= limits.log_bytes or node.core.state.installing is not None:
            return
        index = node.rsm.flushed.index
        while index > log.base.index and log.bytes_between(index, log.last.index) < limits.keep_bytes:
            index -= max((index - log.base.index) // 2, 1)
        pin = node.image_pin
        if pin is not None:
            index = min(index, pin)
        if index <= log.base.index:
            return
        base, membership = log.id_at(index), log.membership_at(index)
        self.purging = True

        def purged(_: None) -> None:
            self.purging = False
            if node.core.state.log.base.index < base.index:
                node.core.compacted(base)
            self.purge()  # a flush may have ended meanwhile, and on an idle group no other follows

        job = partial(write_purge, base=base, membership=membership)
        self.before_purge(node.rsm.flushed.index, lambda: node.log.submit(job, purged, PURGE))

    async def all_flushed(self) -> None:
        """Wait until all that is applied now is durable in state/."""
        rsm = self._node.rsm
        wanted = rsm.applied.index
        while rsm.flushed.index < wanted:
            event = trio.Event()
            if self._flush(event.set):
                await event.wait()
            else:
                await trio.sleep(0.01)
