"""Taking in the successor of a peer whose disk is gone, so that what the peer promised is kept though nobody knows it.

The successor has the peer's number, a new and greater incarnation, and nothing else: it does not know what it voted, in which
term, nor what it acknowledged. **The rule**: the group's leader appends an entry E, a membership with the new incarnation,
*after* the disk was gone, and a majority of the voters *without that peer* makes E durable; only then is the successor's
directory made, in the mode `recovering` up to E's position.

Why that is enough. Let R be the peer, T the leader's term, Q the majority that holds E: R is not in it.

* *No later term can have had R's help.* Had anybody been elected in a term above T before R was gone, then by a majority
  that shares a member with Q; that member had left T before it acknowledged E in T.
* *What R acknowledged is in front of E.* What was committed with R's help, in a term up to T, is in the log of T's leader
  when it appends E: in a term below T because its voters had it (R among them, with its disk); in T because it appended
  it before R was gone. So whoever holds E holds it, and whoever is elected from now on needs a vote out of Q, hence E.
* *No vote of R's counts twice.* Whoever R voted for asked before E existed, and needs a member of Q to win. In a term above
  T that one refuses whoever lacks E; one that is below T it has left; and in T nobody can ask who holds E.
* *The old disk, if it turns up, is refused*: a peer takes messages of an incarnation that the membership names, or of a later
  one (it may not have heard of it yet), never of an earlier one. Every majority shares a member with Q.

The entry alone would do. The mode is there so that no mistake in the order costs anything: until it holds E, committed, the
successor neither votes, campaigns nor counts. What is needed is a majority without R: a group of one or two, or one that
has lost more, cannot prove anything and refuses.
"""

from __future__ import annotations

from dataclasses import dataclass

import trio

from raftlog.node import Node
from raftlog.roles import Leader
from raftlog.types import LogId, PeerId

ASK_AGAIN_S = 0.01


@dataclass(frozen=True, slots=True)
class Refused:
    """The successor is not taken in; `why` in a line. If `later`, asking again may help."""

    why: str
    later: bool = True


async def take_in(node: Node, peer: PeerId, incarnation: int, limit_s: float) -> LogId | Refused:
    """At the leader: have the group take in the successor of `peer`; the position that it has to recover to, once that is
    committed. Cancelled or refused, it may still be committed: the incarnation is then used up, and another one serves."""
    at = node.replace_member(peer, incarnation)
    if isinstance(at, str):
        return Refused(at)
    state = node.core.state
    with trio.move_on_after(limit_s):
        while isinstance(state.role, Leader) and state.term == at.term:
            if state.commit >= at.index:
                return at
            await trio.sleep(ASK_AGAIN_S)
        return Refused("the leader was deposed meanwhile: ask again")
    return Refused(f"no majority without peer {peer} took it in within {limit_s:g} s")
