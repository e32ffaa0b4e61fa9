"""The sending side of images: one at a time, one piece at a time, the one that the receiver asked for last.

The snapshot is the one long read transaction that a peer allows itself: bounded by age and by how much state/ grows under
it. The purge point is pinned while it is open and released on any end.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import trio

from raftlog.image import ImageName, ImageReader
from raftlog.messages import Envelope, ImageChunk, ImageReply
from raftlog.roles import Leader
from raftlog.types import ZERO, PeerId
from store.failpoints import place

if TYPE_CHECKING:
    from raftlog.node import Node

SEND = place("image.send", "a piece of an image: read, not sent")


class ImageSender:
    """One node's. `peer` is who gets an image now, `pin` the index up to which the log must not be purged meanwhile."""

    def __init__(self, node: Node) -> None:
        self.peer: PeerId | None = None
        self.pin: int | None = None
        self._node = node
        self._name: ImageName = (0, ZERO)
        self._wanted = 0
        self._installed = False
        self._moved = trio.Event()

    def on_reply(self, sender: PeerId, reply: ImageReply) -> None:
        """What the receiver says; of another image it says nothing to us."""
        if sender == self.peer and reply.image == self._name:
            self._installed = self._installed or reply.installed
            self._wanted = reply.wanted
            self._moved.set()

    async def send(self, peer: PeerId) -> None:
        """One transfer, from a snapshot as of now. Ends when it is installed, given up, or this peer leads no more."""
        node = self._node
        self._wanted, self._installed = 0, False
        try:
            await node.flushing.all_flushed()
            with node.rsm.writer.engine.read() as txn:
                reader = ImageReader(txn, node.rsm.machine.tables, node.incarnation)
                self._name = reader.name
                self.pin = reader.at.index
                await self._send_pieces(peer, reader)
        finally:
            self.peer = self.pin = None
            node.image_ended(peer, installed=self._installed)

    async def _send_pieces(self, peer: PeerId, reader: ImageReader) -> None:
        node, limits, state = self._node, self._node.limits, self._node.core.state
        begun = moved = trio.current_time()
        engine = node.rsm.writer.engine
        size = engine.info().used_bytes
        while not self._installed and isinstance(state.role, Leader):
            wanted = reader.reach(self._wanted)  # a transfer that is resumed begins in the middle
            data, last = reader.piece(wanted)
            chunk = ImageChunk(state.term, self._name, reader.membership, wanted, last, data, zlib.crc32(data))
            self._moved = trio.Event()
            SEND.reach()
            node.transport.send([Envelope(state.me, peer, chunk)])
            with trio.move_on_after(limits.image_retry_s) as waited:
                await self._moved.wait()
            now = trio.current_time()
            if not waited.cancelled_caught:
                moved = now
            if now - moved > limits.image_patience_s or now - begun > limits.image_age_s:
                return
            if (grown := engine.info().used_bytes - size) > limits.image_growth_bytes:
                node.trouble(f"the image for peer {peer} is given up: state/ grew by {grown} bytes meanwhile")
                return
