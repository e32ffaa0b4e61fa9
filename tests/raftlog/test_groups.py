"""Whole groups in the simulated world: leases, transfer of leadership, images, space, and determinism."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import trio

from raftlog.durable import read_slot
from raftlog.messages import ImageChunk
from raftlog.net.frames import decode_messages
from raftlog.node_values import NodeLimits
from raftlog.reading import SLICE
from shardkv.errors import Unavailable
from shardkv.kv_clerk import KvClerk
from shardkv.kvmachine import KvMachine
from tools.sim.group import SimGroup, SimPeer, server_name
from tools.sim.world import World, simulate


def clerk(world: World, group: SimGroup, name: str = "client") -> KvClerk:
    return KvClerk(world.net.rpc(world.host(name)), group.addresses, rng=world.rng(name))


def test_lease_reads_cost_no_request_between_peers() -> None:
    async def body(world: World) -> None:
        group = SimGroup(world, 0, 3, KvMachine, lease_reads=True)
        group.start()
        leader = await group.wait_leader()
        kv = clerk(world, group)
        await kv.put("k", b"v")
        await trio.sleep(0.3)
        before = group.peers[leader].host.sent
        for _ in range(20):
            assert await kv.get("k") == (b"v", 1)
        assert group.peers[leader].host.sent - before <= 2 * 3, "the heartbeats of that time and nothing more"

    simulate(body)


@pytest.mark.parametrize("early", [False, True])
def test_many_reads_at_once_are_made_and_told_a_few_in_a_turn_and_in_order(early: bool) -> None:
    async def body(world: World) -> None:
        group = SimGroup(world, 0, 3, KvMachine)
        group.start()
        leader = group.peers[await group.wait_leader()]
        node = leader.node
        await trio.sleep(0.5)
        told: list[tuple[Any, int]] = []
        turns, turn = 0, node._turn

        def counted(*, timed: bool = True) -> None:
            nonlocal turns
            turns += 1
            turn(timed=timed)

        node._turn = counted  # type: ignore[method-assign]

        def ask(number: int) -> None:
            node.when_readable(lambda view: number, lambda n: told.append((n, turns)), early=early)

        for number in range(3 * SLICE + 1):
            ask(number)
        await trio.sleep(0.5)
        assert [number for number, _ in told] == list(range(3 * SLICE + 1))
        assert len({when for _, when in told}) == 4

        # Who stops tells what it may tell, and the others that it stops: nobody waits for ever.
        told.clear()
        for number in range(3 * SLICE):
            ask(number)
        await node.stop()
        await trio.sleep(0.5)
        assert len(told) == 3 * SLICE

    simulate(body)


def test_a_lease_is_over_before_another_leader_can_write() -> None:
    """A leader that is cut off, with a client that still reaches it, must not read stale values from its lease."""

    async def body(world: World) -> int:
        group = SimGroup(world, 0, 3, KvMachine, lease_reads=True)
        group.start()
        old = await group.wait_leader()
        kv, reader = clerk(world, group), clerk(world, group, "reader")
        await kv.put("k", b"1")
        await reader.get("k")
        others = [server_name(0, p) for p in range(3) if p != old]
        world.net.isolate(server_name(0, old), [*others, "client"])
        acknowledged = [1]
        stale: list[int] = []
        served = [0]

        async def read_at_old() -> None:
            while True:
                floor = acknowledged[0]
                attempt = await reader.group.attempt(1, [b"k"], 0.05)
                reader.group._guess = server_name(0, old)
                if attempt.reply is not None and attempt.reply[0] == 0:
                    served[0] += 1
                    if int(attempt.reply[1]) < floor:
                        stale.append(int(attempt.reply[1]))
                await trio.sleep(0.005)

        reader.group._guess = server_name(0, old)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_at_old)
            for value in range(2, 40):
                await kv.put("k", str(value).encode())
                acknowledged[0] = value
            nursery.cancel_scope.cancel()
        assert not stale, f"stale reads: {stale}"
        return served[0]

    assert sum(simulate(body, seed=seed) for seed in range(1, 6)) > 0, (
        "the old leader served no read: nothing was tested"
    )


def test_leadership_is_handed_over_without_an_election_timeout() -> None:
    async def body(world: World) -> None:
        group = SimGroup(world, 0, 3, KvMachine)
        group.start()
        old = await group.wait_leader()
        kv = clerk(world, group)
        await kv.put("k", b"v")
        began = world.now()
        assert await group.peers[old].node.hand_over()
        new = await group.wait_leader()
        assert new != old and world.now() - began < 0.2
        assert await kv.get("k") == (b"v", 1)

    simulate(body)


def test_an_image_goes_on_where_it_was_cut_off() -> None:
    """The follower is behind the purge base; the link breaks in the middle of the image, longer than the sender is
    patient; afterwards the pieces that had come are not sent again. The state before the image is removed."""

    async def body(world: World) -> None:
        limits = NodeLimits(log_bytes=200_000, keep_bytes=0, flush_idle_s=0.05, image_patience_s=1.0)
        group = SimGroup(world, 0, 3, KvMachine, limits=limits)
        group.start()
        leader = await group.wait_leader()
        behind = server_name(0, (leader + 1) % 3)
        names = [server_name(0, p) for p in range(3)]
        world.net.isolate(behind, names)
        kv = clerk(world, group)
        for number in range(60):
            await kv.put(f"k{number}", bytes([number]) * 60_000)
        await trio.sleep(1.0)
        pieces: list[int] = []

        def watch(kind: str, now: float, source: str, target: str, data: bytes) -> None:
            if kind == "message" and target == behind:
                found = [m for m in decode_messages(b"\x81" + data) if isinstance(m, ImageChunk)]
                pieces.extend(m.number for m in found)
                if len(set(pieces)) == 6:
                    world.net.isolate(behind, names)

        world.net.on_event = watch
        world.net.rejoin(behind)
        with trio.fail_after(20):
            while len(set(pieces)) < 6:
                await trio.sleep(0.01)
        await trio.sleep(3.0)
        first_half = list(pieces)
        world.net.on_event = world.trace.add
        resumed: list[int] = []

        def watch_again(kind: str, now: float, source: str, target: str, data: bytes) -> None:
            if kind == "message" and target == behind:
                resumed.extend(m.number for m in decode_messages(b"\x81" + data) if isinstance(m, ImageChunk))

        world.net.on_event = watch_again
        world.net.rejoin(behind)
        wanted = group.peers[leader].node.rsm.applied
        with trio.fail_after(30):
            while group.peers[(leader + 1) % 3].node.rsm.applied.index < wanted.index:
                await trio.sleep(0.05)
        again = set(resumed) & set(first_half[:-1])
        assert len(resumed) > 3 and len(again) <= 2, f"sent {first_half}, then {resumed}"
        hashes = {p.node.rsm.state_hash() for p in group.peers.values()}
        assert len(hashes) == 1
        await trio.sleep(1.0)
        assert all(not spare_rows(peer) for peer in group.peers.values())

    simulate(body, seed=4)


def spare_rows(peer: SimPeer) -> list[bytes]:
    """The keys in the slot of state/ that is not live."""
    with peer.node.rsm.writer.engine.read() as txn:
        spare = 1 - read_slot(txn)
        return [key for table in peer.node.rsm.machine.tables for key, _ in txn.scan(f"{table}@{spare}")]


def test_half_an_image_is_removed_at_the_next_start() -> None:
    async def body(world: World) -> None:
        limits = NodeLimits(log_bytes=200_000, keep_bytes=0, flush_idle_s=0.05)
        group = SimGroup(world, 0, 3, KvMachine, limits=limits)
        group.start()
        behind = ((await group.wait_leader()) + 1) % 3
        group.crash(behind)
        kv = clerk(world, group)
        for number in range(60):
            await kv.put(f"k{number}", bytes([number]) * 60_000)
        await trio.sleep(1.0)
        group.start(behind)
        with trio.fail_after(20):
            while not spare_rows(group.peers[behind]):
                await trio.sleep(0.01)
        group.crash(behind)
        world.net.isolate(group.names[behind], list(group.names.values()))
        group.start(behind)
        assert spare_rows(group.peers[behind]), "the crash came in the middle of the image"
        await trio.sleep(1.0)
        assert not spare_rows(group.peers[behind]), "and half an image is nobody's"
        world.net.rejoin(group.names[behind])
        with trio.fail_after(30):
            while group.peers[behind].node.rsm.applied.index < 60:
                await trio.sleep(0.05)

    simulate(body)


def test_without_space_only_deletes_pass_and_it_ends_by_itself() -> None:
    async def body(world: World) -> None:
        group = SimGroup(world, 0, 3, KvMachine)
        group.start()
        leader = await group.wait_leader()
        kv = clerk(world, group)
        await kv.put("k", b"v")
        group.peers[leader].node.no_space = True
        with pytest.raises(Unavailable, match="space"):
            await kv.put("other", b"v")
        assert await kv.get("k") == (b"v", 1)
        await kv.delete("k")
        group.peers[leader].node.no_space = False
        assert await kv.put("other", b"v") == 1
        followers = [peer for peer in group.peers if peer != leader]
        for number, peer in enumerate(followers):
            assert await kv.put(f"with {number} followers short of space", b"v") == 1
            group.peers[peer].node.no_space = True
            await trio.sleep(0.3)
        with pytest.raises(Unavailable, match="space"):
            await kv.put("with two", b"v")
        group.peers[followers[0]].node.no_space = False
        await trio.sleep(0.3)  # two heartbeats
        assert await kv.put("with two", b"v") == 1

    simulate(body)


TRACE = """
from tools.sim.world import simulate
from tools.scenarios.availability import raft_peer_down_5d
from tools.scenarios.lab5 import KVRAFT_3

async def body(world):
    await raft_peer_down_5d(world, KVRAFT_3)
    return world.trace.hexdigest(), world.trace.count

print(simulate(body, seed=9))
"""


def test_equal_seeds_give_equal_traces_in_processes_with_different_hash_seeds() -> None:
    traces = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", TRACE], env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        traces.add(done.stdout)
    assert len(traces) == 1, traces
