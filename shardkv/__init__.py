"""The data plane: versioned key/value, shard groups that hand shards over to each other, the routing clerk.

Floor: stands on `raftlog` and `store`; knows nothing of the controller (`ctrler`), which moves shards through it.

Law: who owns a shard is decided in `apply` and nowhere else; whoever reads checks it in the same view.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shardkv.clerk import Clerk as Clerk
    from shardkv.client import connect as connect
    from shardkv.config import ShardConfig as ShardConfig
    from shardkv.errors import Maybe as Maybe
    from shardkv.errors import NoKey as NoKey
    from shardkv.errors import Refused as Refused
    from shardkv.errors import Unavailable as Unavailable
    from shardkv.errors import VersionMismatch as VersionMismatch

_HOMES = {
    "Clerk": "clerk",
    "connect": "client",
    "ShardConfig": "config",
    "Maybe": "errors",
    "NoKey": "errors",
    "Refused": "errors",
    "Unavailable": "errors",
    "VersionMismatch": "errors",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """The client's names, loaded when they are first used: a peer that starts needs none of them."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module 'shardkv' has no attribute {name!r}")
    return getattr(import_module(f"shardkv.{_HOMES[name]}"), name)
