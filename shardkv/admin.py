"""The calls about a peer itself: who it is, how it is, hand over, end.

PEER_INFO      []     [OK, {name, cluster, gid, peer, incarnation, boot}]
PEER_STATUS    []     [OK, {all of info, and: role, mode, term, vote, leader, commit, applied, flushed, last, base,
                            state_hash, log_bytes, pending_bytes, requests_sent, messages_sent, commits, shards,
                            map_used_bytes, no_space, health, odd {peer: position}, agreed, recover_to, refill,
                            mended [text], scrub {records rounds found mended}}]: requests_sent and messages_sent
                            since the process began (requests are messages that want an answer, to peers and to
                            servers), commits of both environments since they were made, each synced with two disk
                            barriers; health is "ok" or what keeps the peer from being whole; odd is who has another
                            state than the majority and where, agreed where a majority was last seen to be equal
PEER_TRANSFER  [peer] [OK, whether it was begun]
PEER_REPLACE   [peer, incarnation]  [OK, [term, index]]: of the leader. Its group has taken in the successor of a peer whose
                            disk is gone, which recovers to that position (see `raftlog.replacing`); REFUSED with why not
PEER_SHUTDOWN  []     [OK, true]: leadership is handed over, then the process ends
PEER_FAILPOINTS [spec ...]  [OK, [[name, what, spec, reached] ...]]: arm some (see `store.failpoints`), show all. Only of a
                            peer that was started for it
PEER_VIEW      see `views`
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from raftlog.net.base import Request, RpcClient
from raftlog.replacing import Refused, take_in
from raftlog.types import Mode
from shardkv.methods import Method
from shardkv.replies import Code, error
from shardkv.views import Views
from store.failpoints import PLACES, BadFailpoint, arm

if TYPE_CHECKING:
    from raftlog.node import Node
    from shardkv.host import PeerHost


REPLACE_S = 5.0
"""How long a leader tries to have a successor taken in."""


def failpoints(specs: list[Any], *, allowed: bool) -> list[Any]:
    """Arm what `specs` say, all or nothing of them; the reply. Refused unless the peer was started for it."""
    if not allowed:
        return error(Code.REFUSED, "this peer was not started with --failpoints")
    try:
        for spec in specs:
            arm(spec, try_only=True)
        for spec in specs:
            arm(spec)
    except BadFailpoint as problem:
        return error(Code.BAD_REQUEST, str(problem))
    return [int(Code.OK), [[p.name, p.what, p.spec, p.reached] for p in PLACES.values()]]


def health(node: Node) -> str:
    """What keeps a peer from being whole, in a few words; "ok" if nothing does."""
    state, comparison = node.core.state, node.comparison
    if state.refill:
        return "no state: waits for an image"
    if state.mode is Mode.RECOVERING:
        return f"recovering to {state.recover_to.term}:{state.recover_to.index}"
    if (at := comparison.odd.get(state.me)) is not None:
        return f"its state differs from the majority's at {at.term}:{at.index}"
    if (at := comparison.split) is not None:
        return f"states differ at {at.term}:{at.index}, and no majority has one"
    return "ok"


class Admin:
    """Answers them for one peer."""

    def __init__(self, host: PeerHost, rpc: RpcClient, stop: trio.Event, tasks: trio.Nursery, views: Views) -> None:
        self._host = host
        self._views = views
        self._tasks = tasks
        self._rpc = rpc
        self._stop = stop

    def on_request(self, request: Request) -> bool:
        """Answer; False if it is no call of these."""
        match request.method:
            case Method.PEER_INFO:
                request.reply([int(Code.OK), self.info()])
            case Method.PEER_STATUS:
                request.reply([int(Code.OK), self.status()])
            case Method.PEER_TRANSFER:
                to = request.args[0] if len(request.args) == 1 else None
                node = self._host.node
                began = isinstance(to, int) and node.core.transfer(to, node.clock())
                request.reply([int(Code.OK), began])
            case Method.PEER_REPLACE:
                self._tasks.start_soon(self._replace, request)
            case Method.PEER_SHUTDOWN:
                request.reply([int(Code.OK), True])
                self._stop.set()
            case Method.PEER_FAILPOINTS:
                request.reply(failpoints(request.args, allowed=self._host.spec.failpoints))
            case Method.PEER_VIEW:
                self._views.on_request(request)
            case _:
                return False
        return True

    async def _replace(self, request: Request) -> None:
        if [type(item) for item in request.args] != [int, int]:
            request.reply(error(Code.BAD_REQUEST, "the arguments are a peer's number and an incarnation"))
            return
        peer, incarnation = request.args
        outcome = await take_in(self._host.node, peer, incarnation, REPLACE_S)
        if isinstance(outcome, Refused):
            request.reply(error(Code.REFUSED, outcome.why))
        else:
            request.reply([int(Code.OK), list(outcome)])

    def unknown(self, request: Request) -> None:
        """Refuse a method that nobody here knows."""
        request.reply(error(Code.BAD_REQUEST, f"there is no method {request.method!r:.40} here"))

    def info(self) -> dict[str, Any]:
        """Who the peer is."""
        spec = self._host.spec
        return {
            "name": spec.name,
            "cluster": spec.cluster.hex(),
            "gid": spec.gid,
            "peer": spec.peer,
            "incarnation": spec.incarnation,
            "boot": self._host.node.core.state.boot,
        }

    def status(self) -> dict[str, Any]:
        """How it is, now."""
        host = self._host
        status = host.node.status()
        return {
            **self.info(),
            "role": status.role.name.lower(),
            "mode": status.mode.name.lower(),
            "term": status.term,
            "vote": status.vote,
            "leader": status.leader,
            "commit": status.commit,
            "applied": list(status.applied),
            "flushed": list(status.flushed),
            "last": list(status.last),
            "base": list(status.base),
            "state_hash": status.state_hash.hex(),
            "log_bytes": status.log_bytes,
            "pending_bytes": status.pending_bytes,
            "requests_sent": host.transport.requests_sent + self._rpc.requests_sent,
            "messages_sent": host.transport.messages_sent + self._rpc.requests_sent,
            "commits": host.log_engine.last_txnid() + host.state_engine.last_txnid(),
            "shards": [list(row) for row in host.machine.shard_table(host.rsm.view)],
            "map_used_bytes": host.state_engine.info().used_bytes,
            "no_space": host.node.no_space,
            "health": health(host.node),
            "odd": {str(peer): list(at) for peer, at in host.node.comparison.odd.items()},
            "agreed": list(host.node.comparison.agreed),
            "recover_to": None if status.recover_to is None else list(status.recover_to),
            "refill": status.refill,
            "mended": list(host.mended),
            "scrub": {
                "records": host.scrub.records,
                "rounds": host.scrub.rounds,
                "found": host.scrub.found,
                "mended": host.scrub.mended,
            },
        }
