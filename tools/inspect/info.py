"""What `inspect info` tells of a peer's directory: who it is and where it stands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from ctrler.host import configuration
from raftlog.codec import CodecError, loads, unpack_entry
from raftlog.durable import read_applied, read_base, read_boot, read_entries, read_hard, read_intent, read_slot
from raftlog.machine import decode_operations
from raftlog.types import ZERO, EntryKind, LogId
from shardkv import kv
from shardkv.commands import Delete, Put, decode_command
from shardkv.config import NSHARDS
from shardkv.kvmachine import VersionedMachine
from shardkv.shards import scope_of
from store.engine import ReadTxn
from tools.inspect.peer import OpenPeer, View

Position = tuple[int, int]
"""[term, index] in JSON."""


@dataclass(frozen=True)
class Position5:
    """Where a peer's log and state stand, and what it has promised; of a kvsrv, which has no log, all zero or None."""

    boot: int | None = None
    term: int = 0
    vote: int | None = None
    mode: str | None = None
    recover_to: Position | None = None
    commit: int | None = None
    base: Position | None = None
    first: Position | None = None
    last: Position = ZERO
    applied: Position = ZERO
    membership: list[list[int]] | None = None
    learners: list[list[int]] | None = None
    intent: Position | None = None
    slot: int | None = None
    state_hash: str | None = None
