"""The calls of the control plane (methods 32..63), and their replies. Answered by the controller peer that leads.

    QUERY    [num | null]                        [current, next | null, [[gid, [address ...]] ...]]    see `shardkv.routing`
    INIT     [request id, [[gid, [address ...]] ...]]  [num]      the first configuration: these groups own all
    JOIN     [request id, [[gid, [address ...]] ...]]  [num]
    LEAVE    [request id, [gid ...]]             [num]
    MOVE     [request id, shard, gid]            [num]
    STATUS   []                                  [{current, next, cleaned, trouble, steps: [[shard, step, gid, age_s] ...]}]
    HISTORY  [first, last | null]                [[[num, config JSON, request id, begun ms, in force ms] ...]]
    REPORT   [gid, {server name: address}]       []         where servers listen now

Replies are [OK, fields ...] or the errors of `shardkv.replies`. A change may be sent again with its request id: it
answers with the recorded outcome. MAYBE means "ask again".
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from raftlog.codec import CodecError, array
from shardkv.commands import checked_int, checked_shard
from shardkv.config import MAX_GID, MAX_NAME_BYTES, MAX_SERVERS
from shardkv.routing import QUERY as QUERY_METHOD
from shardkv.routing import REPORT as REPORT_METHOD

REQUEST_BYTES = 16
"""The length of a request id: random bytes."""


class Control(IntEnum):
    """The methods."""

    QUERY = QUERY_METHOD
    INIT = 33
    JOIN = 34
    LEAVE = 35
    MOVE = 36
    STATUS = 37
    HISTORY = 38
    REPORT = REPORT_METHOD


CHANGES = frozenset((Control.INIT, Control.JOIN, Control.LEAVE, Control.MOVE))


def checked_request(value: Any) -> bytes:
    """A request id. Raises `CodecError`."""
    if type(value) is not bytes or len(value) > 64:
        raise CodecError(f"no request id: {value!r:.60}")
    return value


def checked_gid(value: Any) -> int:
    """A shard group's number. Raises `CodecError`."""
    return checked_int(value, 1, MAX_GID, "a group")


def checked_groups(value: Any) -> dict[int, tuple[str, ...]]:
    """gid -> addresses. Raises `CodecError`."""
    found: dict[int, tuple[str, ...]] = {}
    for item in array(value):
        gid, addresses = array(item, 2)
        servers = tuple(array(addresses))
        if not 0 < len(servers) <= MAX_SERVERS or any(type(a) is not str or len(a) > MAX_NAME_BYTES for a in servers):
            raise CodecError(f"group {gid!r:.20} needs 1..{MAX_SERVERS} addresses: {addresses!r:.60}")
        found[checked_gid(gid)] = servers
    if not found:
        raise CodecError("no group is named")
    return found


def checked_gids(value: Any) -> list[int]:
    """At least one gid. Raises `CodecError`."""
    gids = [checked_gid(gid) for gid in array(value)]
    if not gids:
        raise CodecError("no group is named")
    return gids


def checked_names(value: Any) -> dict[str, str]:
    """Server name -> address. Raises `CodecError`."""
    if type(value) is not dict or len(value) > MAX_SERVERS:
        raise CodecError(f"no addresses: {value!r:.60}")
    for item in (*value.keys(), *value.values()):
        if type(item) is not str or len(item) > MAX_NAME_BYTES:
            raise CodecError(f"no name or address: {item!r:.60}")
    return value


def check_change(method: int, args: list[Any]) -> None:
    """Raise `CodecError` for a change whose arguments are wrong, before it is queued."""
    match method:
        case Control.INIT | Control.JOIN:
            request, groups = array(args, 2)
            checked_groups(groups)
        case Control.LEAVE:
            request, gids = array(args, 2)
            checked_gids(gids)
        case Control.MOVE:
            request, shard, gid = array(args, 3)
            checked_shard(shard)
            checked_gid(gid)
        case _:
            raise CodecError(f"method {method!r:.40} is no change")
    checked_request(request)
