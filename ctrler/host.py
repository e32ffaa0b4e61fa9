"""A controller peer in a process of its own: a kvraft peer (or the one kvsrv) of group 0, with the controller's service."""

from __future__ import annotations

from collections.abc import Callable
from random import SystemRandom
from typing import Any

import trio

from ctrler.service import ControllerService, read_routing
from raftlog.net.base import RpcClient
from raftlog.net.tcp import TcpRpcClient
from raftlog.types import LogId
from shardkv.group_clerk import GroupClerk
from shardkv.host import Event, PeerHost, PeerSpec, create_peer, live, wall_ms
from shardkv.kvmachine import KvMachine
from shardkv.kvsrv_host import KvServerHost, create_kvsrv
from store.engine import ReadTxn


def create_controller(spec: PeerSpec, recover_to: LogId | None = None) -> None:
    """The explicit bootstrap of a controller peer's directory; see `create_peer`. Raises `CannotOpen` if it exists."""
    if spec.store == "kvsrv":
        create_kvsrv(spec, KvMachine())
    else:
        create_peer(spec, KvMachine(), recover_to)


def configuration(view: ReadTxn, shards: int) -> dict[str, Any]:
    """The configuration that a view of the config store holds, for people: its number and text, and the next's number."""
    routing = read_routing(KvMachine(), view, shards)
    following = None if routing.next is None else routing.next.num
    return {"num": routing.current.num, "next": following, "json": routing.current.to_json()}


def group_clerks(rpc: RpcClient) -> Callable[[int, tuple[str, ...]], GroupClerk]:
    """Clerks of groups, kept so that a group's leader is remembered from change to change."""
    known: dict[tuple[int, tuple[str, ...]], GroupClerk] = {}
    rng = SystemRandom()

    def group_of(gid: int, addresses: tuple[str, ...]) -> GroupClerk:
        key = (gid, addresses)
        if key not in known:
            known[key] = GroupClerk(rpc, gid, addresses, rng=rng)
        return known[key]

    return group_of


async def run_controller(spec: PeerSpec, *, on_event: Callable[[Event], None], stop: trio.Event) -> None:
    """A controller peer, until `stop`."""
    nonce = SystemRandom().randbytes(12)

    def make_service(host: PeerHost | KvServerHost, rpc: TcpRpcClient) -> ControllerService:
        return ControllerService(
            host.node,
            host.machine,
            group_clerks(rpc),
            host.server.not_leader,
            nonce=nonce,
            shards=spec.shards,
            wall_ms=wall_ms,
            on_event=on_event,
        )

    def config_of(view: ReadTxn) -> dict[str, Any]:
        return configuration(view, spec.shards)

    if spec.store == "kvsrv":
        await KvServerHost(spec, KvMachine(), on_event, config_of=config_of).run(stop, make_service)
        return
    await live(
        lambda damage: PeerHost(spec, KvMachine(), on_event, config_of=config_of, damage=damage),
        lambda host: host.run(stop, make_service),
    )
