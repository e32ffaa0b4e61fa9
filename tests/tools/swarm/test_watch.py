"""What the watch of a world finds on the disks of its peers."""

from __future__ import annotations

import pytest
import trio

from raftlog.durable import index_key
from raftlog.invariants import InvariantBroken
from raftlog.machine import Operation
from shardkv.commands import Put, encode_command
from shardkv.kvmachine import KvMachine
from tools.sim.group import SimGroup
from tools.sim.watch import Watch
from tools.sim.world import World, simulate


@pytest.mark.parametrize("lost", [None, 0, 2])
def test_an_entry_that_counts_as_durable_is_on_the_disk(lost: int | None) -> None:
    """The last one or any other; a promise names only one of them."""

    async def body(world: World) -> None:
        watch = world.watch = Watch()
        group = SimGroup(world, 0, 3, KvMachine)
        group.start()
        node = group.peers[await group.wait_leader()].node
        for number in range(5):
            node.submit(Operation(0, 0, 0, 0, encode_command(Put(b"%d" % number, b"v"))), lambda outcome: None)
            await trio.sleep(0.05)
        if lost is not None:
            with node.log.engine.write() as txn:  # type: ignore[attr-defined]
                assert txn.delete("entries", index_key(node.core.state.log.last.index - lost))
        watch.check_logs(0, [peer.node.core for peer in group.peers.values()])

    if lost is None:
        simulate(body)
        return
    with pytest.RaisesGroup(pytest.RaisesExc(InvariantBroken, match="no such entry"), flatten_subgroups=True):
        simulate(body)
