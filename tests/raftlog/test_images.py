"""Images of the state in the simulated world: what a peer that was far behind holds afterwards, and what stays behind."""

from __future__ import annotations

from collections.abc import Callable

import trio

from raftlog.durable import read_slot
from raftlog.machine import Operation
from raftlog.messages import ImageChunk
from raftlog.net.frames import decode_messages
from raftlog.node_values import NodeLimits
from shardkv.commands import EMPTY_SUMMARY, Command, DeleteShard, Freeze, Install, Put, encode_command
from shardkv.config import shard_of
from shardkv.group import GroupMachine
from shardkv.group_clerk import GroupClerk
from shardkv.kvmachine import KvMachine
from store.engine import WriteTxn
from store.memory_engine import MemoryEngine
from tools.sim.group import SimGroup, server_name
from tools.sim.world import World, simulate

LIMITS = NodeLimits(log_bytes=200_000, keep_bytes=0, flush_idle_s=0.05, image_patience_s=1.0)


class Gated(GroupMachine):
    """Removes nothing until `open`."""

    open = False

    def background(self, txn: WriteTxn, budget: int) -> bool:
        return super().background(txn, budget) if type(self).open else txn.last("garbage") is not None


async def do(clerk: GroupClerk, command: Command) -> None:
    reply = await clerk.command(encode_command(command), deadline_s=10.0)
    assert reply[0] == 0, f"{command!r:.60}: {reply}"


def watch_chunks(world: World, target: str, seen: Callable[[ImageChunk], None]) -> None:
    """Call `seen` with every piece that reaches `target`."""

    def watch(kind: str, now: float, source: str, to: str, data: bytes) -> None:
        if kind == "message" and to == target:
            for message in decode_messages(b"\x81" + data):
                if isinstance(message, ImageChunk):
                    seen(message)

    world.net.on_event = watch


def keys_of(shard: int, count: int) -> list[bytes]:
    """Keys of one of two shards."""
    return [key for key in (b"%d" % n for n in range(4 * count)) if shard_of(key, 2) == shard][:count]


def test_an_image_is_not_resumed_in_a_snapshot_from_which_rows_were_removed_meanwhile() -> None:
    """The transfer is cut off; before the next one begins, at the same position of the log, the leader has removed the
    rows of a shard that moved away. Pieces of the two do not fit together: the peer would miss rows for ever, and its
    state hash, which is kept and not counted, would not show it."""

    class Machine(Gated):
        pass

    async def body(world: World) -> None:
        group = SimGroup(world, 1, 3, lambda: Machine(2), limits=LIMITS)
        group.start()
        leader = await group.wait_leader()
        late = (leader + 1) % 3
        behind, names = server_name(1, late), list(group.names.values())
        world.net.isolate(behind, names)
        clerk = GroupClerk(world.net.rpc(world.host("client")), 1, group.addresses, rng=world.rng("client"))
        for shard in (0, 1):
            await do(clerk, Install(shard, 1, EMPTY_SUMMARY))
            for key in keys_of(shard, (20, 60)[shard]):
                await do(clerk, Put(key, key * 20_000))
        await do(clerk, Freeze(0, 2, 2, ("elsewhere",)))
        await do(clerk, DeleteShard(0, 2))
        await trio.sleep(1.0)
        pieces: list[int] = []

        def cut(chunk: ImageChunk) -> None:
            pieces.append(chunk.number)
            if chunk.number == 3:
                world.net.isolate(behind, names)

        watch_chunks(world, behind, cut)
        world.net.rejoin(behind)
        await trio.sleep(3.0)
        assert max(pieces) == 3
        Machine.open = True
        await trio.sleep(3.0)
        watch_chunks(world, behind, lambda chunk: pieces.append(chunk.number))
        world.net.rejoin(behind)
        wanted = group.peers[leader].node.rsm.applied
        with trio.fail_after(20):
            while group.peers[late].node.rsm.applied.index < wanted.index:
                await trio.sleep(0.05)
        await trio.sleep(1.0)
        rows = [list(peer.node.view.scan("rows")) for peer in group.peers.values()]
        assert len(rows[0]) == 60 and rows[0] == rows[1] == rows[2], f"{[len(found) for found in rows]} rows"

    simulate(body, seed=4)


def spare_rows(world: World, name: str) -> int:
    """How many records the slot that is not live holds on the disk of a peer."""
    with MemoryEngine(world.disks[name, "state"]).read() as txn:
        spare = 1 - read_slot(txn)
        return sum(len(list(txn.scan(f"{table}@{spare}"))) for table in KvMachine.tables)


def test_what_an_image_replaces_and_what_is_left_of_one_does_not_stay_on_the_disk() -> None:
    """A peer that was behind holds its state once, not twice: the state before an image goes after it, the pieces of a
    transfer that ended with the peer go when it starts."""

    async def body(world: World) -> None:
        group = SimGroup(world, 0, 3, KvMachine, limits=LIMITS)
        group.start()
        leader = await group.wait_leader()
        late = (leader + 1) % 3
        behind, names = server_name(0, late), list(group.names.values())
        clerk = GroupClerk(world.net.rpc(world.host("client")), 0, group.addresses, rng=world.rng("client"))
        pieces: list[int] = []
        watch_chunks(world, behind, lambda chunk: pieces.append(chunk.number))

        async def fall_behind() -> None:
            world.net.isolate(behind, names)
            for number in range(40):
                await do(clerk, Put(b"%d" % number, bytes(40_000)))
            await trio.sleep(1.0)

        async def until_caught_up() -> None:
            with trio.fail_after(20):
                while group.peers[late].node.rsm.applied != group.peers[leader].node.rsm.applied:
                    await trio.sleep(0.05)
            await trio.sleep(0.5)

        await fall_behind()
        world.net.rejoin(behind)
        await until_caught_up()
        await fall_behind()
        world.net.rejoin(behind)
        await until_caught_up()
        assert pieces and spare_rows(world, behind) == 0, "the state before the image"

        await fall_behind()
        pieces.clear()
        world.net.rejoin(behind)
        with trio.fail_after(20):
            while not spare_rows(world, behind):
                await trio.sleep(0.001)
        group.crash(late)
        world.net.isolate(behind, names)
        assert spare_rows(world, behind) > 0, "it died in the middle of an image"
        group.start(late)
        await trio.sleep(1.0)
        assert spare_rows(world, behind) == 0, "the pieces of an image that was never finished"
        world.net.rejoin(behind)
        await until_caught_up()

    simulate(body, seed=5)


def test_an_image_takes_the_place_of_a_log_that_conflicts_with_it() -> None:
    """Clients reach a leader that its peers do not. The next leader has purged its first entry when the old one is back,
    whose log has entries of its own there and behind it: none of them may stay (lessons 27)."""

    async def body(world: World) -> None:
        group = SimGroup(world, 0, 3, KvMachine, limits=NodeLimits(log_bytes=1, keep_bytes=0, flush_idle_s=0.05))
        group.start()
        old = await group.wait_leader()
        stranded = group.peers[old].node
        world.net.isolate(group.names[old], list(group.names.values()))
        for number in range(20):
            command = encode_command(Put(b"%d" % number, b"lost", None))
            stranded.submit(Operation(0, 0, 0, 0, command), lambda outcome: None)
            await trio.sleep(0.001)
        with trio.fail_after(20):
            while not (new := [group.peers[peer].node for peer in group.leaders() if peer != old]):
                await trio.sleep(0.01)
            while new[0].core.state.log.base != new[0].core.state.log.last or new[0].flushing.purging:
                await trio.sleep(0.01)
            assert stranded.core.state.log.last.index > new[0].core.state.log.last.index
            world.net.rejoin(group.names[old])
            while stranded.rsm.applied != new[0].rsm.applied:
                await trio.sleep(0.01)
        assert stranded.core.state.rare["image over a conflicting suffix"] == 1
        assert stranded.core.state.log.last == new[0].core.state.log.last
        assert list(stranded.view.scan("rows")) == []

    simulate(body)
