"""Turns that a batch from the network takes at once, in the task that read it (`Node.at_once`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio

from raftlog.machine import Operation
from raftlog.sessions import Sessions
from raftlog.types import LogId, Role
from shardkv.commands import Put, encode_command
from shardkv.host import PeerHost, PeerSpec, create_peer
from shardkv.kvmachine import KvMachine
from shardkv.methods import Method
from shardkv.replies import Code
from tools.processes import free_ports
from tools.sim.disk import DiskConditions
from tools.sim.group import SimGroup
from tools.sim.world import World, simulate


def put(key: bytes) -> Operation:
    return Operation(0, 0, 0, 0, encode_command(Put(key, b"v", None)))


class Asked(NamedTuple):
    """A request to write."""

    args: list[Any]
    reply: Any
    method: int = Method.WRITE


def order_of_each_turn(node: Any, order: list[str], before: Callable[[], Any] = lambda: None) -> list[tuple[str, ...]]:
    """What stands in `order` after each turn of the node from now on; `before` is called before each."""
    turn, turns = node._turn, []

    def watched(*, timed: bool = True) -> None:
        order.clear()
        before()
        turn(timed=timed)
        turns.append(tuple(order))

    node._turn = watched
    return turns


class Died(Exception):
    """In the middle of an entry."""


def spec_of(folder: Path) -> PeerSpec:
    address = ("127.0.0.1", free_ports(1)[0])
    return PeerSpec(
        cluster=b"c" * 16,
        gid=1,
        peer=0,
        incarnation=1,
        directory=folder / "peer",
        listen=address,
        peers={0: address},
        incarnations={0: 1},
    )


async def leads(host: PeerHost) -> None:
    with trio.fail_after(20):
        while not (hasattr(host, "node") and host.node.is_leader() and host.rsm.applied.index):
            await trio.sleep(0.01)


async def test_after_a_turn_that_raised_there_is_no_other_and_nothing_is_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of an entry may be applied by then: a flush would store it under a position that does not cover it, and after
    the next start the entry were applied a second time."""
    spec = spec_of(tmp_path)
    create_peer(spec, KvMachine())
    apply = Sessions.apply

    def dies(self: Sessions, op: Operation, at: LogId) -> bytes:
        if b"second" in op.command:
            raise Died
        return apply(self, op, at)

    host = PeerHost(spec, KvMachine(), lambda event: None)
    with pytest.RaisesGroup(Died, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.run, trio.Event())
            await leads(host)
            monkeypatch.setattr(Sessions, "apply", dies)
            node = host.node
            for key in (b"first", b"second"):
                node.submit(put(key), lambda outcome: None)
            turn = node.at_once(node.deliver)
            while node.failure is None:
                turn([])
            before = host.rsm.applied
            node.submit(put(b"third"), lambda outcome: None)
            node.flushing.due = node.clock() - 1  # it would be time to flush
            turn([])
            assert host.rsm.applied == before and host.rsm.flushing is None
            with trio.move_on_after(0.05, shield=True):
                await node.flushing.all_flushed()
            assert host.rsm.flushing is None
            await trio.sleep_forever()

    host.close()
    monkeypatch.undo()
    again = PeerHost(spec, KvMachine(), lambda event: None)
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(again.run, stop)
        await leads(again)
        for key in (b"first", b"second"):
            assert again.machine.get(again.node.view, key) == [Code.OK, b"v", 1]
        stop.set()


def test_in_a_turn_at_once_no_time_passes() -> None:
    """After a pause the first socket that is read may be a client's, with the leader's heartbeats in the next."""

    async def body(world: World) -> None:
        group = SimGroup(world, 0, 3, KvMachine)
        group.start()
        leader = await group.wait_leader()
        follower = next(p for p in range(3) if p != leader)
        peer = group.peers[follower]
        node: Any = peer.node
        await trio.sleep(0.3)
        peer.host.pause()
        await trio.sleep(3 * group.config.election_max_s)
        node.at_once(node.deliver)([])
        assert node.core.state.role_name is Role.FOLLOWER and node.leader() == leader
        assert node.clock() >= node.core.deadline(), "its own turn is due, and takes what came first"
        peer.host.resume()
        await trio.sleep(0.5)
        assert group.leaders() == [leader]

    simulate(body)


def test_a_follower_acknowledges_new_entries_before_it_applies_older_ones() -> None:
    """The news of a commit comes with the next entries: it is those that the leader waits for."""

    async def body(world: World) -> None:
        world.disk_conditions = DiskConditions(at_once=True)
        world.turns_at_once = True
        group = SimGroup(world, 0, 3, KvMachine)
        group.start()
        leader = group.peers[await group.wait_leader()]
        await trio.sleep(0.3)
        node: Any = next(peer.node for peer in group.peers.values() if peer is not leader)
        order: list[str] = []
        send, apply = node.transport.send, node.rsm.apply
        node.transport.send = lambda envelopes: order.append("sent") or send(envelopes)
        node.rsm.apply = lambda *args: order.append("applied") or apply(*args)
        turns = order_of_each_turn(node, order)
        for number in range(200):
            leader.node.submit(put(b"%d" % number), lambda outcome: None)
            await trio.sleep(0.0005)
        await trio.sleep(0.3)
        assert node.rsm.applied == leader.node.rsm.applied
        both = [order for order in turns if "applied" in order and "sent" in order]
        assert both and all(order[0] == "sent" and order[-1] == "applied" for order in both)

    simulate(body)


@pytest.mark.parametrize("at_once", [False, True])
def test_the_nodes_of_a_world_take_their_turns_with_a_delivery_or_after_it(at_once: bool) -> None:
    async def body(world: World) -> None:
        world.turns_at_once = at_once
        group = SimGroup(world, 0, 3, KvMachine)
        group.start()
        leader = group.peers[await group.wait_leader()]
        await trio.sleep(0.3)
        last = leader.node.core.state.log.last
        deliver = leader.host.requests
        assert deliver is not None
        answers: list[Any] = []
        deliver([Asked([0, 0, 0, 0, encode_command(Put(b"k", b"v", None))], answers.append)])
        assert (leader.node.core.state.log.last != last) is at_once
        await trio.sleep(0.3)
        assert len(answers) == 1

    simulate(body)


def test_a_leader_answers_what_is_committed_before_it_saves_what_is_new() -> None:
    """An acknowledgement and a new operation come in one turn: whoever waits for the old one does not wait for a disk."""

    async def body(world: World) -> None:
        world.disk_conditions = DiskConditions(at_once=True)
        world.turns_at_once = True
        group = SimGroup(world, 0, 3, KvMachine)
        group.start()
        node: Any = group.peers[await group.wait_leader()].node
        await trio.sleep(0.3)
        order: list[str] = []
        settle = node.log.settle

        def settled() -> bool:
            done: bool = settle()
            order.extend(["saved"] * done)
            return done

        def ask() -> None:
            if len(turns) < 100:
                node.submit(put(b"%d" % len(turns)), lambda outcome: order.append("answered"))

        node.log.settle = settled
        turns = order_of_each_turn(node, order, ask)
        await trio.sleep(1.0)
        both = [order for order in turns if "answered" in order and "saved" in order]
        assert both and all(order[0] == "answered" and order[-1] == "saved" for order in both)

    simulate(body)
