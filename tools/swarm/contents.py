"""Whether a replica really holds what its state hash says: the hash is of counts and sums that are kept up with each write,
so a row that never came with an image, or is lost, does not show in it. Here the rows are counted."""

from __future__ import annotations

from collections.abc import Iterator

from raftlog import sessions
from shardkv import kv
from shardkv.kvmachine import VersionedMachine
from shardkv.shards import State, scope_of
from store.engine import ReadTxn
from store.keys import prefix_stop


def wrong_contents(machine: VersionedMachine, view: ReadTxn) -> Iterator[str]:
    """What is not as a shard's record, or the counters of its sessions, say."""
    for shard in range(machine.shard_count(view)):
        record = machine.record(view, shard)
        if record.state not in (State.SERVING, State.FROZEN):
            continue
        scope = scope_of(shard, record)
        rows = list(kv.rows_from(view, scope, scope, prefix_stop(scope)))
        total = sum(kv.row_hash(key, payload) for key, payload in rows) % kv.HASH_MODULUS
        if (len(rows), total) != (record.rows, record.hash):
            yield f"shard {shard}: {len(rows)} rows, its record says {record.rows}, or others"
        counted = sessions.counters(view, scope)
        clients = [client for client, _ in sessions.export_sessions(view, scope)]
        ordered = {key[-8:] for key, _ in view.scan(sessions.ORDER, scope, prefix_stop(scope))}
        if len(clients) != counted.sessions or ordered != set(clients):
            yield f"shard {shard}: {len(clients)} sessions, {len(ordered)} in the order, {counted.sessions} counted"
