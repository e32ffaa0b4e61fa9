"""What `shardkv top` shows: two looks at a cluster, and what happened between them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import trio

from raftlog.net.base import NetworkError
from shardkv.errors import KvError
from tools.admin import control, network
from tools.cluster import LocalCluster

CHANGE_DEADLINE_S = 0.5
"""How long the controllers may take to say what change runs; a cluster without a quorum of them is shown all the same."""

SHOWN = (
    "name",
    "gid",
    "peer",
    "state",
    "role",
    "term",
    "log_bytes",
    "pending_bytes",
    "map_used_bytes",
    "no_space",
    "boot",
)


@dataclass(frozen=True, slots=True)
class Look:
    """A cluster at one moment. `at` in seconds of Trio's clock; `peers` as `LocalCluster.status` has them; `change` as the
    controllers tell it, None if they do not answer."""

    at: float
    peers: list[dict[str, Any]]
    change: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Frame:
    """What is shown. Per peer: what it says of itself, and `commit`, `applied`, `behind` (entries that its group has
    committed and it has not applied), `entries_per_s`, `requests_per_s` (None if it was not there at the look before). Per
    group: its leader's name, `entries_per_s`, its shards."""

    peers: list[dict[str, Any]]
    groups: list[dict[str, Any]]
    change: dict[str, Any] | None = field(default=None)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {"peers": self.peers, "groups": self.groups, "change": self.change}


async def look(cluster: LocalCluster) -> Look:
    """Ask every peer and the controllers, all at once."""
    found: list[Any] = [None, None]

    async def peers() -> None:
        found[0] = await cluster.status()

    async def change() -> None:
        async with network(cluster.manifest.cluster) as rpc:
            clerk = control(rpc, cluster.manifest.groups[0].addresses)
            try:
                found[1] = await clerk.status(deadline_s=CHANGE_DEADLINE_S)
            except (KvError, NetworkError):
                found[1] = None

    async with trio.open_nursery() as nursery:
        nursery.start_soon(peers)
        if cluster.manifest.store == "kvraft":
            nursery.start_soon(change)
    return Look(trio.current_time(), found[0], found[1])


def frame(before: Look | None, now: Look) -> Frame:
    """What is shown of `now`; rates since `before`, which must be of the same cluster."""
    old = {row["name"]: row for row in before.peers} if before is not None else {}
    seconds = now.at - before.at if before is not None else 0.0
    committed: dict[int, int] = {}
    for row in now.peers:
        committed[row["gid"]] = max(committed.get(row["gid"], 0), row.get("commit") or 0)
    peers = [_peer(row, old.get(row["name"]), seconds, committed[row["gid"]]) for row in now.peers]
    gids = sorted({row["gid"] for row in now.peers})
    shown = {peer["name"]: peer for peer in peers}
    groups = [_group(gid, [row for row in now.peers if row["gid"] == gid], shown) for gid in gids]
    return Frame(peers, groups, now.change)


def _peer(row: dict[str, Any], old: dict[str, Any] | None, seconds: float, committed: int) -> dict[str, Any]:
    shown = {name: row.get(name) for name in SHOWN}
    if "applied" not in row:
        return {**shown, "commit": None, "applied": None, "behind": None, "entries_per_s": None, "requests_per_s": None}
    known = old if old is not None and old.get("boot") == row.get("boot") and "applied" in old else None
    applied = row["applied"][1]
    return {
        **shown,
        "commit": row.get("commit"),
        "applied": applied,
        "behind": max(0, committed - applied),
        "entries_per_s": None if known is None or seconds <= 0 else (applied - known["applied"][1]) / seconds,
        "requests_per_s": _rate(row, known, "requests_sent", seconds),
    }


def _rate(row: dict[str, Any], known: dict[str, Any] | None, name: str, seconds: float) -> float | None:
    if known is None or seconds <= 0 or name not in row or name not in known:
        return None
    return float(row[name] - known[name]) / seconds


def _group(gid: int, rows: list[dict[str, Any]], shown: dict[str, dict[str, Any]]) -> dict[str, Any]:
    leaders = [row for row in rows if row.get("role") == "leader"]
    leader = max(leaders, key=lambda row: row["term"], default=None)
    table: Iterable[list[Any]] = leader.get("shards") or [] if leader is not None else []
    return {
        "gid": gid,
        "leader": leader["name"] if leader is not None else None,
        "up": sum(row["state"] == "running" for row in rows),
        "peers": len(rows),
        "entries_per_s": shown[leader["name"]]["entries_per_s"] if leader is not None else None,
        "shards": [[shard, state] for shard, state, *_ in table],
    }
