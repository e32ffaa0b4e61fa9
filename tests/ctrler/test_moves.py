"""Moving one shard between simulated groups, step by step."""

from __future__ import annotations

import trio

from ctrler.moves import Move, Mover
from shardkv.commands import EMPTY_SUMMARY, Install, Put, encode_command
from shardkv.group import GroupMachine
from shardkv.group_clerk import GroupClerk
from shardkv.shards import ShardRecord, State
from tools.sim.group import SimGroup, SimPeer
from tools.sim.world import World, simulate


def record_of(peer: SimPeer) -> ShardRecord:
    assert isinstance(peer.machine, GroupMachine)
    return peer.machine.record(peer.node.view, 0)


def test_a_copy_goes_on_beside_a_peer_of_the_source_that_never_heard_of_the_freeze() -> None:
    """The source's leader dies in the middle of the copy; the peer that is asked next has been cut off from the others since
    before the freeze. Any peer that has applied it gives the pages, also without a leader."""

    async def body(world: World) -> None:
        source, target = (SimGroup(world, gid, 3, lambda: GroupMachine(1)) for gid in (1, 2))
        source.start()
        target.start()
        leader = await source.wait_leader()
        await target.wait_leader()
        rpc = world.net.rpc(world.host("controller"))
        give, take = (GroupClerk(rpc, g.gid, g.addresses, rng=world.rng("clerk", g.gid)) for g in (source, target))
        commands = [Install(0, 1, EMPTY_SUMMARY), *(Put(b"%d" % n, bytes(100)) for n in range(200))]
        for command in commands:
            assert (await give.command(encode_command(command), deadline_s=10.0))[0] == 0
        cut_off = source.names[(leader + 1) % 3]
        world.net.isolate(cut_off, source.addresses)

        async def fenced() -> bool:
            return False

        async def kill_when_it_copies() -> None:
            while record_of(source.peers[(leader + 2) % 3]).state is not State.FROZEN:
                await trio.sleep(0.001)
            assert record_of(target.peers[0]).state is State.STAGING
            source.crash(leader)

        mover = Mover(2, fenced, lambda step, shard: None, world.now, page_bytes=1000)
        with trio.fail_after(20.0):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(kill_when_it_copies)
                nursery.start_soon(mover.move, Move(0, give, take))
        record = record_of(target.peers[await target.wait_leader()])
        assert record.state is State.SERVING and record.rows == 200

    simulate(body, limit_s=60.0)
