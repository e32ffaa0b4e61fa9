"""The simulated network: determinism, its fault model, and the fence around the dead."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
import trio

from raftlog.messages import Envelope, Heartbeat, HeartbeatReply
from raftlog.net.base import CallFailed, RpcClient
from raftlog.net.sim import LONG_DELAYS, LONG_REORDERING, RELIABLE, UNRELIABLE, NetConditions
from tests.raftlog.net.worlds import Inbox, Requests, SimWorld, play_sim


async def fails(rpc: RpcClient, address: str, *, timeout_s: float = 100.0) -> CallFailed:
    with pytest.raises(CallFailed) as caught:
        await rpc.call(address, 1, [], timeout_s=timeout_s)
    return caught.value


def trace_of(seed: int, conditions: NetConditions) -> str:
    """The hash of everything that arrives in a little chatter."""
    digest = hashlib.blake2b()

    async def body(world: SimWorld) -> None:
        def note(kind: str, time: float, source: str, target: str, data: bytes) -> None:
            digest.update(f"{kind} {time!r} {source} {target} ".encode() + data)

        world.net.on_event = note
        inbox = Inbox()
        transports = [await world.start(peer, envelopes=inbox) for peer in range(3)]
        rpc = await world.rpc()
        for number in range(40):
            for peer, transport in enumerate(transports):
                transport.send([Envelope(peer, (peer + 1) % 3, Heartbeat(number, peer))])
            try:
                digest.update(repr(await rpc.call(world.address(number % 3), number, [number])).encode())
            except CallFailed as failed:
                digest.update(str(failed).encode())

    play_sim(body, conditions, seed=seed)
    return digest.hexdigest()


@pytest.mark.parametrize("conditions", [RELIABLE, UNRELIABLE, LONG_REORDERING, replace(UNRELIABLE, duplicate=0.3)])
def test_equal_seeds_give_equal_traces_and_others_do_not(conditions: NetConditions) -> None:
    assert trace_of(5, conditions) == trace_of(5, conditions) != trace_of(6, conditions)


def test_a_message_takes_one_to_four_milliseconds_and_a_call_twice_that() -> None:
    async def body(world: SimWorld) -> None:
        inbox = Inbox()
        await world.start(1, envelopes=inbox)
        transport = await world.start(0)
        rpc = await world.rpc()
        for number in range(200):
            before = trio.current_time()
            transport.send([Envelope(0, 1, Heartbeat(number, 0))])
            await inbox.wait_count(number + 1)
            assert 0.001 <= trio.current_time() - before <= 0.0041
            before = trio.current_time()
            await rpc.call(world.address(1), 1, [])
            assert 0.002 <= trio.current_time() - before <= 0.0081

    play_sim(body)


def test_without_conditions_nothing_is_lost_and_messages_overtake_each_other() -> None:
    async def body(world: SimWorld) -> None:
        inbox = Inbox()
        await world.start(1, envelopes=inbox)
        transport = await world.start(0)
        transport.send([Envelope(0, 1, Heartbeat(number, 0)) for number in range(100)])
        await inbox.wait_count(100)
        terms = [message.term for message in inbox.messages]
        assert terms != sorted(terms) == list(range(100))

    play_sim(body)


def test_the_unreliable_network_loses_a_tenth_each_way_and_says_so_at_once() -> None:
    async def body(world: SimWorld) -> None:
        requests = Requests()
        await world.start(0, requests)
        rpc = await world.rpc()
        good, texts = 0, []
        for _ in range(1000):
            before = trio.current_time()
            try:
                await rpc.call(world.address(0), 1, [])
                good += 1
            except CallFailed as failed:
                assert failed.sent
                texts.append(str(failed))
            assert 0.001 <= trio.current_time() - before <= 2 * 0.027 + 0.001
        assert 770 < good < 850
        assert 60 < sum("request was lost" in text for text in texts) < 140
        assert 60 < sum("reply was lost" in text for text in texts) < 140
        assert len(requests.taken) == 1000 - sum("request was lost" in text for text in texts)
        assert world.net.requests_total == rpc.requests_sent == 1000

    play_sim(body, UNRELIABLE)


def test_messages_between_peers_are_lost_and_doubled_as_told() -> None:
    async def body(world: SimWorld) -> None:
        inbox = Inbox()
        await world.start(1, envelopes=inbox)
        transport = await world.start(0)
        transport.send([Envelope(0, 1, Heartbeat(number, 0)) for number in range(1000)])
        transport.send([Envelope(0, 1, HeartbeatReply(number, 0)) for number in range(1000)])
        await trio.sleep(10)  # virtual
        came = [type(message) for message in inbox.messages]
        assert 0.5 * 1.5 * 1000 - 100 < came.count(Heartbeat) < 0.5 * 1.5 * 1000 + 100
        assert 1500 - 100 < came.count(HeartbeatReply) < 1500 + 100
        assert world.host(1).received == came.count(Heartbeat)  # requests only
        assert world.host(0).sent == transport.requests_sent == world.net.requests_total == 1000

    play_sim(body, NetConditions(request_loss=0.5, duplicate=0.5))


@pytest.mark.parametrize(("conditions", "longest_s"), [(RELIABLE, 0.1), (LONG_DELAYS, 7.0)])
def test_a_call_to_a_dead_server_fails_after_a_drawn_time_and_counts(
    conditions: NetConditions, longest_s: float
) -> None:
    async def body(world: SimWorld) -> None:
        rpc = await world.rpc()
        await world.start(0)
        await world.stop(0)
        took = []
        for _ in range(100):
            before = trio.current_time()
            assert not (await fails(rpc, world.address(0))).sent
            took.append(trio.current_time() - before)
        assert longest_s * 0.8 < max(took) <= longest_s + 0.005
        assert min(took) < longest_s * 0.2
        assert world.net.requests_total == 100

    play_sim(body, conditions)


def test_a_cut_has_a_direction() -> None:
    async def body(world: SimWorld) -> None:
        inboxes = [Inbox(), Inbox()]
        requests = Requests()
        transports = [
            await world.start(0, requests, envelopes=inboxes[0]),
            await world.start(1, envelopes=inboxes[1]),
        ]
        rpc = await world.rpc()
        world.net.block(world.address(0), world.address(1))
        world.net.block(world.address(0), "client-1")
        for peer, transport in enumerate(transports):
            transport.send([Envelope(peer, 1 - peer, Heartbeat(1, 0))])
        failed = await fails(rpc, world.address(0))
        assert failed.sent  # the request passed, and took effect; the reply did not
        assert len(requests.taken) == 1
        assert (len(inboxes[0].messages), len(inboxes[1].messages)) == (1, 0)
        world.net.unblock(world.address(0), "client-1")
        assert await rpc.call(world.address(0), 1, []) == []
        world.net.block("client-1", world.address(0))
        assert not (await fails(rpc, world.address(0))).sent

    play_sim(body)


def test_a_partition_lets_only_one_side_talk_among_itself_until_it_is_healed() -> None:
    async def body(world: SimWorld) -> None:
        inboxes = [Inbox() for _ in range(4)]
        transports = [await world.start(peer, envelopes=inboxes[peer]) for peer in range(4)]

        async def heard() -> list[list[int]]:
            for inbox in inboxes:
                inbox.envelopes.clear()
            for peer, transport in enumerate(transports):
                transport.send([Envelope(peer, other, Heartbeat(1, 0)) for other in range(4) if other != peer])
            await trio.sleep(1)  # virtual
            return [sorted(envelope.sender for envelope in inbox.envelopes) for inbox in inboxes]

        names = world.names
        world.net.partition([names[0], names[1]], [names[2]])
        assert await heard() == [[1], [0], [], []]
        world.net.heal()
        assert await heard() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
        world.net.isolate(names[3], names.values())
        assert await heard() == [[1, 2], [0, 2], [0, 1], []]
        world.net.rejoin(names[3])
        assert (await heard())[3] == [0, 1, 2]

    play_sim(body)


def test_a_link_can_have_conditions_of_its_own() -> None:
    async def body(world: SimWorld) -> None:
        inboxes = [Inbox() for _ in range(3)]
        transports = [await world.start(peer, envelopes=inboxes[peer]) for peer in range(3)]
        world.net.links[world.address(0), world.address(1)] = NetConditions(delay_s=(5.0, 6.0))
        transports[0].send([Envelope(0, 1, Heartbeat(1, 0)), Envelope(0, 2, Heartbeat(1, 0))])
        await inboxes[2].wait_count(1)
        assert trio.current_time() < 5 and not inboxes[1].messages
        await inboxes[1].wait_count(1)
        assert 5 <= trio.current_time() < 6.1

    play_sim(body)


def test_what_is_on_its_way_to_or_from_a_crashed_host_is_lost_even_if_it_restarts_at_once() -> None:
    async def body(world: SimWorld) -> None:
        old, new, other = Inbox(), Inbox(), Inbox()
        dying = await world.start(0, envelopes=old)
        standing = await world.start(1, envelopes=other)
        dying.send([Envelope(0, 1, Heartbeat(1, 0))])
        standing.send([Envelope(1, 0, Heartbeat(1, 0))])
        restarted = await world.start(0, envelopes=new)
        dying.send([Envelope(0, 1, Heartbeat(2, 0))])
        await trio.sleep(1)  # virtual
        assert old.messages == new.messages == other.messages == []
        restarted.send([Envelope(0, 1, Heartbeat(3, 0))])
        await other.wait_count(1)
        assert other.messages == [Heartbeat(3, 0)]

    play_sim(body)


def test_a_dead_host_stays_dead() -> None:
    async def body(world: SimWorld) -> None:
        await world.start(0)
        host = world.host(0)
        await world.stop(0)
        with pytest.raises(AssertionError, match="is dead"):
            host.alive = True

    play_sim(body)


def test_calls_of_a_dead_host_never_end() -> None:
    async def body(world: SimWorld) -> None:
        requests = Requests(None)
        await world.start(0, requests)
        rpc = await world.rpc()
        ended: list[Any] = []

        async def one() -> None:
            try:
                ended.append(await rpc.call(world.address(0), 1, []))
            except CallFailed as failed:
                ended.append(failed)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one)
            await requests.wait_count(1)
            world.net.crash("client-1")
            requests.taken[0].reply("too late")
            nursery.start_soon(one)
            await trio.sleep(1000)  # virtual
            assert ended == []
            assert len(requests.taken) == 1
            nursery.cancel_scope.cancel()

    play_sim(body)


def test_a_call_in_flight_when_its_server_dies_fails_within_a_tenth_of_a_second() -> None:
    async def body(world: SimWorld) -> None:
        requests = Requests(None)
        await world.start(0, requests)
        rpc = await world.rpc()

        async def crash() -> None:
            await requests.wait_count(1)
            await trio.sleep(3)  # virtual
            world.host(0).alive = False

        async with trio.open_nursery() as nursery:
            nursery.start_soon(crash)
            assert (await fails(rpc, world.address(0))).sent
        assert 3 < trio.current_time() < 3.2

    play_sim(body)


def test_bytes_are_those_of_requests_messages_and_replies() -> None:
    async def body(world: SimWorld) -> None:
        transport = await world.start(0)
        await world.start(1)
        rpc = await world.rpc()
        await rpc.call(world.address(0), 1, [bytes(1000)])
        assert 2000 < world.net.bytes_total < 2040
        transport.send([Envelope(0, 1, Heartbeat(1, 0))])
        assert 2005 < world.net.bytes_total < 2050

    play_sim(body)
