"""The file that says what a cluster consists of: `cluster.toml` in the cluster's directory.

    format = 1
    cluster = "8f14e45fceea167a5a36dedd4bea2543"
    local = true            # its peers run on this machine, started by `up`; false: made by `init`, they run elsewhere
    published = false       # the first configuration is made, and every group of the beginning is in it
    join = true             # the groups of the beginning share the shards; false: group 1 owns all, the others wait
    shards = 12
    store = "kvraft"
    insecure = false
    lease_reads = false     # leaders answer gets under their lease
    retain_bases = 0        # how many bases each peer keeps, one per purge of its log (`shardkv.bases`)

    [groups.0]              # the controllers; shard groups are numbered from 1
    created = true          # every peer's directory exists: from now on none is ever made again
    active = true           # its peers run while the cluster is up; false after `group remove`
    addresses = ["127.0.0.1:20001", "127.0.0.1:20002", "127.0.0.1:20003"]    # of peer 0, 1, 2
    incarnations = [4711, 4712, 4713]

**What a crash leaves.** The file is replaced as a whole (written beside, synced, renamed, the folder synced): after a
crash it is the old one or the new one. It comes before everything it names. So there is no file and nothing else (the
first `up` starts anew), or it has a group with `created = false`, of which some peers' directories exist and no peer
has ever run (they are kept, the missing ones are made), or `created = true`: then a directory that is missing or empty
has been lost, with the promises of its peer, and is refused. That is the whole point of the mark: a peer that votes
anew from an empty disk can lose what was acknowledged.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tools.settings import (
    CLUSTER_ID_BYTES,
    FORMAT,
    MAX_BASES,
    MAX_GROUP_PEERS,
    MAX_INCARNATION,
    MAX_SHARDS,
    STORES,
    PeerSettings,
    SettingsError,
    Table,
    parse_address,
    settings_text,
    toml_text,
)

FILE = "cluster.toml"


@dataclass(frozen=True)
class GroupSpec:
    """One group: where its peers listen and with which incarnations they were made, by number of the peer."""

    addresses: tuple[str, ...]
    incarnations: tuple[int, ...]
    created: bool = False
    active: bool = True

    @classmethod
    def fresh(cls, addresses: tuple[str, ...]) -> GroupSpec:
        """A group that is still to be made, with new incarnations."""
        return cls(addresses, tuple(1 + secrets.randbelow(MAX_INCARNATION) for _ in addresses))


@dataclass(frozen=True)
class Manifest:
    """What `cluster.toml` says. A frozen value: a change gives a new one, and `write` makes it true."""

    cluster: bytes
    groups: Mapping[int, GroupSpec] = field(default_factory=dict)
    shards: int = 12
    store: str = STORES[0]
    local: bool = True
    published: bool = False
    join: bool = True
    insecure: bool = False
    lease_reads: bool = False
    retain_bases: int = 0

    @property
    def controllers(self) -> tuple[str, ...]:
        """The addresses of the controller group."""
        return self.groups[0].addresses

    def names(self, gid: int | None = None) -> list[str]:
        """The peers' names, of one group or of all, in order."""
        gids = sorted(self.groups) if gid is None else [gid]
        return [peer_name(g, number) for g in gids for number in range(len(self.groups[g].addresses))]

    def with_group(self, gid: int, group: GroupSpec) -> Manifest:
        """The manifest with this group added or replaced."""
        return replace(self, groups=dict(sorted({**self.groups, gid: group}.items())))

    def settings(self, folder: Path, gid: int, peer: int) -> PeerSettings:
        """What the file of one peer has to say, its data being in `folder`."""
        group = self.groups[gid]
        peers = {number: parse_address(text) for number, text in enumerate(group.addresses)}
        return PeerSettings(
            cluster=self.cluster,
            gid=gid,
            peer=peer,
            directory=folder.resolve() / peer_name(gid, peer),
            listen=peers[peer],
            peers=peers,
            incarnations=dict(enumerate(group.incarnations)),
            controllers=self.controllers,
            store=self.store,
            shards=self.shards,
            insecure=self.insecure,
            lease_reads=self.lease_reads,
            retain_bases=self.retain_bases,
        )

    def write_settings(self, folder: Path, gid: int, routes: Mapping[str, Mapping[str, str]] | None = None) -> None:
        """Write the files of a group's peers, `server-<gid>-<peer>.toml`; `routes` are by their names."""
        for peer in range(len(self.groups[gid].addresses)):
            settings = self.settings(folder, gid, peer)
            settings = replace(settings, routes=(routes or {}).get(settings.name, {}))
            path, text = folder / f"{settings.name}.toml", settings_text(settings, folder.resolve())
            if not path.exists() or path.read_bytes() != text.encode():
                write_durably(path, text)


def new_cluster_id() -> bytes:
    """A random cluster id."""
    return secrets.token_bytes(CLUSTER_ID_BYTES)


def peer_name(gid: int, peer: int) -> str:
    """The name of a peer, and of its directory and files."""
    return f"server-{gid}-{peer}"


def split_name(name: str) -> tuple[int, int] | None:
    """The inverse of `peer_name`; None for what is no name."""
    parts = name.split("-")
    if len(parts) != 3 or parts[0] != "server" or not all(p.isascii() and p.isdecimal() for p in parts[1:]):
        return None
    gid, peer = int(parts[1][:10]), int(parts[2][:10])
    return (gid, peer) if peer_name(gid, peer) == name else None


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of the cluster in `folder`, None if there is none. Raises `SettingsError`."""
    path = folder / FILE
    if not path.exists():
        return None
    found = Table.read(path)
    found.integer("format", FORMAT, FORMAT)
    insecure = found.boolean("insecure", False)
    groups = {}
    for gid, table in found.numbered("groups", 1 << 16).items():
        addresses = table.addresses("addresses", insecure)
        incarnations = table.integers("incarnations", 1, MAX_INCARNATION)
        if len(addresses) != len(incarnations) or len(addresses) > MAX_GROUP_PEERS:
            raise table.wrong("incarnations", f"{len(incarnations)} of them for {len(addresses)} addresses")
        groups[gid] = GroupSpec(addresses, incarnations, table.boolean("created", False), table.boolean("active", True))
        table.end()
    if 0 not in groups:
        raise found.wrong("groups", "group 0, the controllers, is missing")
    manifest = Manifest(
        cluster=found.hex("cluster", CLUSTER_ID_BYTES),
        groups=groups,
        shards=found.integer("shards", 1, MAX_SHARDS),
        store=found.choice("store", STORES, STORES[0]),
        local=found.boolean("local", True),
        published=found.boolean("published", False),
        join=found.boolean("join", True),
        insecure=insecure,
        lease_reads=found.boolean("lease_reads", False),
        retain_bases=found.integer("retain_bases", 0, MAX_BASES, 0),
    )
    found.end()
    return manifest


def need_manifest(folder: Path) -> Manifest:
    """The manifest of the cluster in `folder`. Raises `SettingsError`, also if there is none."""
    manifest = read_manifest(folder)
    if manifest is None:
        raise SettingsError(
            f"{folder}: no cluster there ({FILE} is missing): make one with `shardkv up`, or name --dir"
        )
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Make `cluster.toml` say `manifest`. On return it is durable; a crash leaves the old one or the new one."""
    values = {
        "format": FORMAT,
        "cluster": manifest.cluster.hex(),
        "local": manifest.local,
        "published": manifest.published,
        "join": manifest.join,
        "shards": manifest.shards,
        "store": manifest.store,
        "insecure": manifest.insecure,
        "lease_reads": manifest.lease_reads,
        "retain_bases": manifest.retain_bases,
        "groups": {
            str(gid): {
                "created": group.created,
                "active": group.active,
                "addresses": list(group.addresses),
                "incarnations": list(group.incarnations),
            }
            for gid, group in sorted(manifest.groups.items())
        },
    }
    write_durably(folder / FILE, toml_text(values))


def write_durably(path: Path, text: str) -> None:
    """Replace the file at once and durably."""
    beside = path.with_name(f".{path.name}.new")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
