"""`shardkv peer replace`: a peer of a local cluster whose disk is gone gets a successor, in the same place, under its name.

In this order, so that it may be cut short anywhere and be repeated:

1. the group takes in a new incarnation (`raftlog.replacing`): refused, or given up, where no majority without it answers
2. what is left of the old directory is set aside, as NAME.replaced
3. `cluster.toml` and the settings of the group name the new incarnation
4. the directory is made, `recovering`, and the peer started

After 1 or 2 the peer is one whose directory is lost, or one whose incarnation is refused: it does not run, and the next try
takes another incarnation.
"""

from __future__ import annotations

import secrets
import shutil
from dataclasses import replace
from pathlib import Path

import trio

from raftlog.net.base import CallFailed, RpcClient
from raftlog.types import LogId
from shardkv.errors import Refused
from tools.admin import network, take_in
from tools.cluster import ASK_AGAIN_S, LocalCluster, UpReport
from tools.layout import ClusterError, WrongCall
from tools.manifest import GroupSpec, Manifest, split_name, sync_folder, write_manifest
from tools.settings import MAX_INCARNATION

REPLACE_S = 20.0
"""How long the group may take to agree, in seconds."""
ASIDE = ".replaced"


async def replace_peer(cluster: LocalCluster, name: str, limit_s: float = REPLACE_S) -> LogId:
    """Give a peer that does not run a successor, and start it; the position that it recovers to. Raises `ClusterError`
    with why not."""
    with cluster.locked():
        manifest = cluster.manifest
        cluster.address(name)  # raises for a name that nobody has
        gid, peer = split_name(name) or (0, 0)
        group = manifest.groups[gid]
        if not manifest.local:
            raise ClusterError(f"{cluster.folder}: a cluster made by `shardkv init`: its peers are not of this machine")
        if (gid, manifest.store) == (0, "kvsrv"):
            raise ClusterError(f"{name} is a kvsrv: it has no group that could refill it")
        if not group.created:
            raise ClusterError(f"{name} is not made yet: run `shardkv up`")
        if cluster.process(name).is_running():
            raise WrongCall(f"{name} runs: end it first (`shardkv peer kill {name}`)")
        incarnation = group.incarnations[peer] + 1 + secrets.randbelow(1 << 16)
        if incarnation > MAX_INCARNATION:
            raise ClusterError(f"{name} has no greater incarnation than {group.incarnations[peer]}")
        async with network(manifest.cluster) as rpc:
            at, incarnation = await _agreed(cluster, rpc, name, incarnation, limit_s)
        _make(cluster, manifest, name, _with(group, peer, incarnation), at)
        report = UpReport()
        cluster.start_one(name, report)
        await cluster.process(name).wait_event("listening", limit_s)
    return at


def _with(group: GroupSpec, peer: int, incarnation: int) -> GroupSpec:
    known = list(group.incarnations)
    known[peer] = incarnation
    return replace(group, incarnations=tuple(known))


async def _agreed(
    cluster: LocalCluster, rpc: RpcClient, name: str, incarnation: int, limit_s: float
) -> tuple[LogId, int]:
    """Ask until the group has taken it in."""
    gid, peer = split_name(name) or (0, 0)
    why = f"group {gid} has no leader that a majority without {name} follows"
    with trio.move_on_after(limit_s):
        while True:
            leader = await cluster.leader_of(rpc, cluster.manifest, gid)
            if leader is None:
                await trio.sleep(ASK_AGAIN_S)
                continue
            cluster.tell(f"{leader} has its group take {name} in anew")
            try:
                return LogId(*await take_in(rpc, cluster.address(leader), peer, incarnation)), incarnation
            except Refused as refused:
                why = str(refused)
                if "no quorum without" in why:
                    break
            except CallFailed as failed:
                why = str(failed)
            incarnation += 1  # it may have been taken in all the same
            await trio.sleep(0.2)
    raise ClusterError(f"{name} is not replaced: {why}")


def _make(cluster: LocalCluster, manifest: Manifest, name: str, group: GroupSpec, at: LogId) -> None:
    from ctrler.host import create_controller
    from shardkv.host import create_peer

    gid, peer = split_name(name) or (0, 0)
    directory = cluster.folder / name
    _set_aside(directory)
    manifest = manifest.with_group(gid, group)
    write_manifest(cluster.folder, manifest)
    manifest.write_settings(cluster.folder, gid)
    spec = manifest.settings(cluster.folder, gid, peer).spec()
    if gid:
        create_peer(spec, recover_to=at)
    else:
        create_controller(spec, at)
    cluster.tell(f"{name} is made anew: it recovers to {at.term}:{at.index}")


def _set_aside(directory: Path) -> None:
    if directory.exists():
        aside = directory.with_name(directory.name + ASIDE)
        shutil.rmtree(aside, ignore_errors=True)
        directory.rename(aside)
        sync_folder(directory.parent)
