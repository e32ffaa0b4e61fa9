"""Calls to peers that are about the peers: how is it, hand over, end. And the controllers' clerk, made ready for use.

All of them take an `RpcClient`; `network` opens one. Addresses are `host:port`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from raftlog.net.base import CallFailed, RpcClient
from shardkv.errors import Refused
from shardkv.methods import Method
from shardkv.replies import Code

if TYPE_CHECKING:
    from ctrler.clerk import ControllerClerk

PROBE_S = 0.5
"""How long a peer on this machine may take to say how it is, in seconds."""


@asynccontextmanager
async def network(cluster: bytes) -> AsyncIterator[RpcClient]:
    """An RPC client over TCP for the peers of one cluster."""
    from raftlog.net.tcp import TcpRpcClient

    async with TcpRpcClient(cluster_id=cluster) as rpc:
        yield rpc


def control(rpc: RpcClient, controllers: Sequence[str]) -> ControllerClerk:
    """The clerk of the controllers."""
    from ctrler.clerk import ControllerClerk

    return ControllerClerk(rpc, tuple(controllers))


async def _ask(rpc: RpcClient, address: str, method: Method, timeout_s: float) -> Any:
    """The reply's body without its code. Raises `CallFailed`, also for a refusal."""
    body = await rpc.call(address, int(method), [], timeout_s=timeout_s)
    if isinstance(body, list):
        if not body or body[0] != int(Code.OK):
            raise CallFailed(f"{address} answered {body!r:.100}", sent=True)
        return body[1] if len(body) > 1 else None
    return body


async def peer_status(rpc: RpcClient, address: str, timeout_s: float = PROBE_S) -> dict[str, Any] | None:
    """How the peer is, None if it does not answer. The keys are those of the peer's STATUS reply."""
    try:
        status = await _ask(rpc, address, Method.PEER_STATUS, timeout_s)
    except CallFailed:
        return None
    return status if isinstance(status, dict) else None


async def peer_statuses(
    rpc: RpcClient, addresses: Mapping[str, str], timeout_s: float = PROBE_S
) -> dict[str, dict[str, Any]]:
    """How the peers are, all asked at once, by name; who does not answer is left out."""
    found: dict[str, dict[str, Any]] = {}

    async def ask(name: str, address: str) -> None:
        if (status := await peer_status(rpc, address, timeout_s)) is not None:
            found[name] = status

    async with trio.open_nursery() as nursery:
        for name, address in addresses.items():
            nursery.start_soon(ask, name, address)
    return {name: found[name] for name in addresses if name in found}


async def failpoints(rpc: RpcClient, address: str, specs: Sequence[str], timeout_s: float = 2.0) -> list[list[Any]]:
    """Arm some and see all: [name, what, spec, how often reached since] each. Raises `Refused` if the peer was not started
    for it or a spec is wrong, `CallFailed`."""
    body = await rpc.call(address, int(Method.PEER_FAILPOINTS), list(specs), timeout_s=timeout_s)
    if not isinstance(body, list) or len(body) != 2:
        raise CallFailed(f"{address} answered {body!r:.100}", sent=True)
    if body[0] != int(Code.OK):
        raise Refused(str(body[1]))
    found: list[list[Any]] = body[1]
    return found


async def take_in(rpc: RpcClient, address: str, peer: int, incarnation: int, timeout_s: float = 8.0) -> tuple[int, int]:
    """Ask a leader to have its group take in the successor of a peer whose disk is gone; the position (term, index) that it
    recovers to. Raises `Refused` with why not, `CallFailed`: then it may have been taken in, and another incarnation
    serves."""
    body = await rpc.call(address, int(Method.PEER_REPLACE), [peer, incarnation], timeout_s=timeout_s)
    match body:
        case [int(Code.OK), [int(term), int(index)]]:
            return term, index
        case [int(), str(why)]:
            raise Refused(why)
        case _:
            raise CallFailed(f"{address} answered {body!r:.100}", sent=True)


async def shut_down(rpc: RpcClient, address: str, timeout_s: float = 2.0) -> bool:
    """Ask a peer to hand over leadership and end; return whether it took the request."""
    try:
        await _ask(rpc, address, Method.PEER_SHUTDOWN, timeout_s)
    except CallFailed:
        return False
    return True
