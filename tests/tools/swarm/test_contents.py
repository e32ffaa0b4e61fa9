"""The look at what a replica really holds finds what its state hash does not show."""

from __future__ import annotations

import pytest

from raftlog.machine import Operation
from shardkv.commands import Delete, Put, encode_command
from shardkv.group import GroupMachine
from tests.shardkv.boxes import Box, install_empty
from tools.swarm.contents import wrong_contents


def filled() -> Box:
    box = Box(GroupMachine(1))
    install_empty(box, shards=1)
    for client in (1, 2, 1):
        seq = box.applied
        box.run(Operation(client, seq, 0, 0, encode_command(Put(b"%d" % seq, b"v"))))
    box.do(Delete(b"1"))
    return box


def found(box: Box) -> list[str]:
    with box.engine.read() as txn:
        return list(wrong_contents(box.machine, txn))


def test_a_replica_that_holds_what_it_should_is_fine() -> None:
    assert found(filled()) == []


@pytest.mark.parametrize("table", ["rows", "sessions", "session_order"])
def test_a_record_that_is_missing_is_found_though_the_state_hash_is_right(table: str) -> None:
    box = filled()
    before = box.hash
    with box.engine.write() as txn:
        last = txn.last(table)
        assert last is not None
        txn.delete(table, last[0])
    assert box.hash == before
    assert len(found(box)) == 1, found(box)
