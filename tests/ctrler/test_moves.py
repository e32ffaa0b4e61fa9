"""Moving one shard between simulated groups, step by step."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from ctrler.moves import Move, Mover, Stuck
from shardkv.commands import EMPTY_SUMMARY, Install, Put, encode_command
from shardkv.group import GroupMachine
from shardkv.group_clerk import GroupClerk
from shardkv.shards import ShardRecord, State
from tools.sim.cluster import SimCluster
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


@pytest.mark.parametrize("seed", range(1, 5))
def test_while_the_target_is_dead_it_is_the_target_that_is_waited_for(seed: int) -> None:
    """Though the next page is read meanwhile, at a source that is well."""

    async def body(world: World) -> None:
        cluster = SimCluster(world, shards=1, page_bytes=2000)
        controller = cluster.controller().controller
        await cluster.set_up(controller)
        clerk = cluster.clerk()
        for number in range(40):
            await clerk.put(b"k%d" % number, bytes(500))
        cluster.start_group(2)
        await cluster.group(2).wait_leader()
        await controller.join({2: cluster.servers(2)})
        copies = 0
        command = Mover._command

        async def then_dies(self: Mover, group: Any, step: str, sent: Any) -> Any:
            nonlocal copies
            copies += step == "copy"
            if copies == 4:
                cluster.group(2).crash()
            return await command(self, group, step, sent)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Mover, "_command", then_dies)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(controller.move, 0, 2)
                await trio.sleep(15.0)
                (step,) = (await controller.status()).steps
                assert (step.step, step.gid) == ("copy", 2)
                nursery.cancel_scope.cancel()

    simulate(body, limit_s=60.0, seed=seed)


@pytest.mark.parametrize("page", [[b"", "z", False], [7, b"z", False], [b"", b"z", 1], [b"", b"", True]])
def test_a_page_of_another_format_ends_the_move_with_one_line(page: list[Any]) -> None:
    class Other:
        gid = 1

        async def call(self, method: int, args: list[Any], **options: Any) -> list[Any]:
            return [0, None, *page]

    async def fenced() -> bool:
        return False

    async def main() -> None:
        mover = Mover(2, fenced, lambda step, shard: None, trio.current_time)
        with pytest.raises(Stuck, match="shard 0, read: group 1 speaks another format: no page behind"):
            await mover._read(Other(), 0, b"")  # type: ignore[arg-type]

    trio.run(main)


@pytest.mark.parametrize("field", ["z", [300], 1 << 40, None, bytes(1000)])
def test_a_position_or_summary_of_another_format_ends_the_move_with_one_line(field: Any) -> None:
    class Other:
        gid = 1

        async def command(self, data: bytes, **options: Any) -> list[Any]:
            return [0, field]

    async def fenced() -> bool:
        return False

    async def main() -> None:
        mover = Mover(2, fenced, lambda step, shard: None, trio.current_time)
        other: Any = Other()
        with pytest.raises(Stuck, match="shard 0, probe: group 1 speaks another format"):
            await mover._probe(other, 0)
        with pytest.raises(Stuck, match="shard 0, freeze: group 1 speaks another format"):
            await mover._freeze(other, 0, 2, ())

    trio.run(main)
