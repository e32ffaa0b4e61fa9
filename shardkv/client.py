"""Connecting to a cluster: `async with shardkv.connect(["127.0.0.1:7000", ...]) as kv`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from random import Random, SystemRandom

from raftlog.net.base import RpcClient
from raftlog.net.tcp import TcpRpcClient, parse_address
from shardkv.clerk import DEADLINE_S, Clerk
from shardkv.errors import Refused
from shardkv.group_clerk import GroupClerk
from shardkv.replies import Code
from shardkv.router import Router
from shardkv.routing import QUERY, Routing, decode_routing


def make_clerk(
    rpc: RpcClient,
    controllers: Sequence[str],
    rng: Random,
    *,
    deadline_s: float | None = DEADLINE_S,
    sessions: bool = True,
    resend: bool = False,
) -> Clerk:
    """A clerk over any network. `controllers` are the addresses of some peers of group 0. The rest as in `connect`."""
    control = GroupClerk(rpc, 0, controllers, rng=rng)

    async def query() -> Routing:
        reply = await control.call(QUERY, [None], deadline_s=None)
        if reply[0] != Code.OK:
            raise Refused(f"the controllers refused a query: {reply!r:.100}")
        return decode_routing(reply[1:])

    return Clerk(Router(rpc, query, rng, lambda: control.why), deadline_s=deadline_s, sessions=sessions, resend=resend)


@asynccontextmanager
async def connect(
    addresses: Sequence[str],
    *,
    deadline_s: float | None = DEADLINE_S,
    cluster: bytes = b"",
    sessions: bool = True,
    resend: bool = False,
    routes: Mapping[str, str] | None = None,
) -> AsyncIterator[Clerk]:
    """A clerk of the cluster whose controllers listen at `addresses` ("host:port"; some of them are enough). `ValueError` for
    what is no address, `TypeError` for one address instead of a list.

    `deadline_s` is the default for every call, None = for ever. With `cluster`, its id, only that cluster is talked to,
    whoever listens there by now. `sessions=False` costs the servers nothing to remember: a
    write whose reply is lost is not sent again and ends in `Maybe`. With `resend=True` too, one by version is sent again, as
    the labs' clerk does, and ends in `Maybe` only if the version is another then: right as long as nobody deletes keys, for
    a key that was deleted has the same versions again. Where an address is in `routes`, the one it has there is dialled
    instead.
    Leaving the block closes the connections; nothing is sent before the first call.
    """
    if isinstance(addresses, str | bytes):
        raise TypeError(f"the addresses are a list of texts, not {addresses!r:.60}")
    for address in addresses:
        parse_address(address)
    async with TcpRpcClient(cluster, routes=routes) as rpc:
        yield make_clerk(rpc, addresses, SystemRandom(), deadline_s=deadline_s, sessions=sessions, resend=resend)
