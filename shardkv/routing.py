"""What a routing clerk knows of the cluster, and the one call of the control plane that it makes to learn it.

    QUERY [num | null] -> [OK, current, next | null, [[gid, [address ...]] ...]]

`current` and `next` are configurations in their JSON text; `next` is there while a change runs. With a number, `current`
is that configuration. The control plane (`ctrler`) answers it; the format stands here because the clerk must read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raftlog.codec import CodecError, array
from shardkv.config import ShardConfig

QUERY = 32

REPORT = 39
"""Where a group's servers listen: REPORT [gid, {server name: address}] -> [OK]. Sent by a peer when it starts."""


@dataclass(frozen=True, slots=True)
class Routing:
    """The configuration in force, the one a running change leads to, and where the groups' servers are."""

    current: ShardConfig
    next: ShardConfig | None
    addresses: dict[int, tuple[str, ...]]

    def owner(self, shard: int, *, ahead: bool) -> int:
        """The group to ask for `shard`: its owner, or with `ahead` the one that the running change gives it to."""
        config = self.next if ahead and self.next is not None else self.current
        return config.shards[shard]


def encode_routing(routing: Routing) -> list[Any]:
    """The fields of QUERY's OK reply."""
    following = None if routing.next is None else routing.next.to_json()
    return [routing.current.to_json(), following, [[gid, list(a)] for gid, a in sorted(routing.addresses.items())]]


def decode_routing(fields: list[Any]) -> Routing:
    """Raises `CodecError`."""
    current, following, addresses = array(fields, 3)
    known: dict[int, tuple[str, ...]] = {}
    for item in array(addresses):
        gid, servers = array(item, 2)
        if type(gid) is not int or any(type(s) is not str for s in array(servers)):
            raise CodecError(f"no addresses of a group: {servers!r:.80}")
        known[gid] = tuple(servers)
    try:
        return Routing(
            ShardConfig.from_json(current), None if following is None else ShardConfig.from_json(following), known
        )
    except (ValueError, TypeError) as error:
        raise CodecError(f"no configuration: {error}") from error
