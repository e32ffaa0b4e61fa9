"""What a new cluster is to consist of, and what `tools.cluster` says of one that is not as it would have to be."""

from __future__ import annotations

from dataclasses import dataclass

from tools.manifest import GroupSpec, Manifest, new_cluster_id
from tools.processes import free_ports
from tools.settings import MAX_GROUP_PEERS

MAX_GROUPS = 1000
"""The most shard groups that `up` makes at once."""


class ClusterError(Exception):
    """The cluster is not as it would have to be for what was asked. One line for the user."""


class WrongCall(ClusterError):
    """What was asked for can't be: an unknown peer or group, an impossible layout."""


@dataclass(frozen=True)
class Layout:
    """What a new cluster is to consist of: `ctrl_peers` controllers and `groups` shard groups of `replicas` peers.

    With `join`, all of the groups share the shards from the beginning; without, group 1 owns all and the others wait.
    `retain_bases`: how many bases each peer keeps, one per purge of its log.
    """

    ctrl_peers: int = 3
    groups: int = 2
    replicas: int = 3
    store: str = "kvraft"
    shards: int = 12
    join: bool = True
    lease_reads: bool = False
    retain_bases: int = 0

    def __post_init__(self) -> None:
        for name, most in (("ctrl_peers", MAX_GROUP_PEERS), ("replicas", MAX_GROUP_PEERS), ("groups", MAX_GROUPS)):
            if not 1 <= getattr(self, name) <= most:
                raise WrongCall(f"--{name.replace('_', '-')} {getattr(self, name)}: it must be 1..{most}")
        if self.store == "kvsrv" and self.ctrl_peers != 1:
            raise WrongCall(f"--ctrl-peers {self.ctrl_peers}: a kvsrv is one server")

    def local_manifest(self) -> Manifest:
        """A new cluster of this layout, with free ports of this machine; nothing is made yet."""
        sizes = {0: self.ctrl_peers, **dict.fromkeys(range(1, self.groups + 1), self.replicas)}
        ports = iter(free_ports(sum(sizes.values())))
        groups = {
            gid: GroupSpec.fresh(tuple(f"127.0.0.1:{next(ports)}" for _ in range(size))) for gid, size in sizes.items()
        }
        return Manifest(
            new_cluster_id(),
            groups,
            self.shards,
            self.store,
            join=self.join,
            lease_reads=self.lease_reads,
            retain_bases=self.retain_bases,
        )
