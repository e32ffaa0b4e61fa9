"""Do the peers of a group have the same state? Each tells the others the hash of its state at agreed positions.

The positions are every `EVERY`-th index, and where a flush ends: on an idle group that is the same for all. A majority of
the voters with one hash at a position is right, and who has another one there is odd. Without a majority nobody is: two
peers of two, or of three while the third is silent, only differ. Costs a hash of the state (about 0.1 ms, kept up by
`apply` but for its end) and a small message to each other peer at each position.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from raftlog.messages import Envelope, StateHash
from raftlog.types import ZERO, LogId, Membership, PeerId
from store.engine import CorruptRecord

if TYPE_CHECKING:
    from raftlog.node import Node

EVERY = 256
"""Every so many entries."""
KEPT = 64
"""How many positions of each peer are remembered."""


class StateDiffers(CorruptRecord):
    """A majority has another state at this position: this peer's is wrong, whatever its records say."""

    def __init__(self, at: LogId) -> None:
        super().__init__("state", b"", f"at {at.term}:{at.index} it is not that of the majority")
        self.args = (f"the state at {at.term}:{at.index} differs from that of a majority of the group",)


class Comparison:
    """What one peer knows of the others' states. `agreed` is the last position at which a majority had one hash, `odd` who
    had another one there, with where (this peer included), `split` where hashes differ and no majority is known."""

    def __init__(self, me: PeerId) -> None:
        self.me = me
        self.agreed = ZERO
        self.odd: dict[PeerId, LogId] = {}
        self.split: LogId | None = None
        self._hashes: dict[PeerId, dict[LogId, bytes]] = {}

    def hear(self, peer: PeerId, at: LogId, state_hash: bytes, membership: Membership) -> None:
        """`peer`, perhaps this one, has this hash there."""
        known = self._hashes.setdefault(peer, {})
        known[at] = state_hash
        while len(known) > KEPT:
            del known[min(known)]
        self._judge(at, membership)

    def _judge(self, at: LogId, membership: Membership) -> None:
        told = {m.id: known[at] for m in membership.voters if at in (known := self._hashes.get(m.id, {}))}
        if len(told) < 2 or at < self.agreed:
            return
        best, count = min(Counter(told.values()).items(), key=lambda item: (-item[1], item[0]))
        if count >= membership.quorum:
            self.agreed = at
            self.odd = {peer: at for peer, found in sorted(told.items()) if found != best} | {
                peer: where for peer, where in self.odd.items() if peer not in told
            }
            if self.split is not None and self.split <= at:
                self.split = None
        elif count < len(told):
            self.split = at


class NodeComparison(Comparison):
    """A node's. With `heal` a peer whose state is odd gives it up (the node's `fatal` gets `StateDiffers`), else it only
    says so."""

    def __init__(self, node: Node) -> None:
        super().__init__(node.core.state.me)
        self.heal = True
        self._node = node

    def tell(self, at: LogId, state_hash: bytes) -> None:
        """This peer's state has this hash there: compare it, and let the others compare."""
        state = self._node.core.state
        message = StateHash(state.term, at, state_hash)
        self._node.transport.send([Envelope(self.me, peer, message) for peer in state.peers()])
        self.compare(self.me, at, state_hash)

    def compare(self, peer: PeerId, at: LogId, state_hash: bytes) -> None:
        """A hash is known."""
        self.hear(peer, at, state_hash, self._node.core.state.membership)
        if self.heal and self.me in self.odd:
            self._node.fatal(StateDiffers(self.odd[self.me]))
