"""Who is let in at a peer's port, and what ends a connection: strangers, the silent, the greedy, the half gone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest
import trio
import trio.testing

from raftlog.messages import Heartbeat
from raftlog.net.frames import (
    MAX_FRAME_BYTES,
    Deframer,
    Hello,
    Kind,
    decode_welcome,
    encode_batch,
    encode_message_bytes,
    encode_request,
)
from raftlog.net.tcp_server import ServerLimits
from tests.raftlog.net.worlds import CLUSTER, GID, INCARNATION, LIMIT_S, Inbox, Requests, TcpWorld

PEER = Hello(Kind.PEER, CLUSTER, GID, sender=1, incarnation=INCARNATION, to=0)
CLIENT = Hello(Kind.CLIENT, CLUSTER)
MEMBERS = 3


@asynccontextmanager
async def port(limits: ServerLimits | None = None) -> AsyncIterator[tuple[TcpWorld, Requests, Inbox]]:
    """Peer 0 of a group of three, on a real port; its requests are kept unanswered."""
    with trio.fail_after(LIMIT_S):
        async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
            world = TcpWorld(nursery, stack, limits)
            world.incarnations = dict.fromkeys(range(MEMBERS), INCARNATION)
            requests, inbox = Requests(answer=None), Inbox()
            await world.start(0, requests, inbox)
            yield world, requests, inbox
            nursery.cancel_scope.cancel()


async def dial(world: TcpWorld) -> trio.SocketStream:
    """A connection that has said nothing yet; closed at the end of the test."""
    stream = await trio.open_tcp_stream(*world.addresses[0])
    world.stack.push_async_callback(stream.aclose)
    return stream


async def call(world: TcpWorld, hello: Hello) -> tuple[trio.SocketStream, str]:
    """A connection, and why it is refused ("" if it is not)."""
    stream = await dial(world)
    await stream.send_all(hello.encode())
    deframer = Deframer()
    while not (bodies := deframer.feed(bytes(await stream.receive_some(4096)))):
        pass
    return stream, decode_welcome(bodies[0])


async def ended(stream: trio.SocketStream) -> None:
    """Until the other side closes."""
    try:
        while await stream.receive_some(4096):
            pass
    except trio.BrokenResourceError:
        pass


async def told(world: TcpWorld, text: str) -> None:
    """Until the operator was told this, which may come after the end of the connection."""
    while not any(text in line for line in world.troubles):
        await trio.lowlevel.checkpoint()


# --- who is let in ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        (replace(PEER, cluster=b"another-cluster-"), "this is cluster"),
        (replace(PEER, cluster=b""), "this is cluster"),
        (replace(PEER, gid=GID + 1), "this is peer 0 of group 3, not peer 0 of group 4"),
        (replace(PEER, to=2), "this is peer 0 of group 3, not peer 2"),
        (replace(PEER, sender=7), "peer 7 is no member of group 3"),
        (replace(PEER, incarnation=INCARNATION - 1), "peer 1 has incarnation 76; the membership says 77"),
        (replace(CLIENT, cluster=b"another-cluster-"), "this is cluster"),
    ],
)
async def test_who_means_somebody_else_is_refused_with_the_reason(hello: Hello, reason: str) -> None:
    async with port() as (world, requests, inbox):
        stream, answer = await call(world, hello)
        assert reason in answer
        await ended(stream)
        await told(world, reason)
        assert not requests.taken and not inbox.envelopes


async def test_a_member_and_any_client_are_let_in() -> None:
    async with port() as (world, requests, inbox):
        peer, reason = await call(world, PEER)
        assert reason == ""
        await peer.send_all(b"".join(encode_batch([encode_message_bytes(Heartbeat(2, 1, 1))])))
        await inbox.wait_count(1)
        assert inbox.envelopes[0].sender == 1
        for hello in (CLIENT, replace(CLIENT, cluster=b"")):
            stream, reason = await call(world, hello)
            assert reason == ""
            await stream.send_all(b"".join(encode_batch([encode_request(1, 5, [])])))
        await requests.wait_count(2)


async def test_a_peer_that_lost_its_place_in_the_membership_is_cut_off() -> None:
    async with port() as (world, _, inbox):
        peer, _ = await call(world, PEER)
        del world.incarnations[1]
        await peer.send_all(b"".join(encode_batch([encode_message_bytes(Heartbeat(2, 1, 1))])))
        await ended(peer)
        await told(world, "no member")
        assert not inbox.envelopes


# --- what ends a connection ------------------------------------------------------------------------------------------


async def test_who_does_not_say_who_it_is_is_closed() -> None:
    async with port(ServerLimits(handshake_s=0.05)) as (world, _, _):
        silent = await dial(world)
        slow = await dial(world)
        await slow.send_all(CLIENT.encode()[:7])
        await ended(silent)
        await ended(slow)
        await told(world, "no handshake in 0.05 s")


@pytest.mark.parametrize("hello", [CLIENT, PEER], ids=["client", "peer"])
@pytest.mark.parametrize(
    "attack", [b"\xff\xff\xff\xff", (MAX_FRAME_BYTES + 1).to_bytes(4, "big"), b"\0\0\0\1\xff", b"\0\0\0\0"]
)
async def test_a_frame_that_none_can_be_ends_the_connection_at_once(hello: Hello, attack: bytes) -> None:
    async with port() as (world, requests, inbox):
        stream, _ = await call(world, hello)
        await stream.send_all(attack)
        await ended(stream)
        await told(world, "")
        assert not requests.taken and not inbox.envelopes


async def test_half_a_frame_is_nothing_and_the_port_goes_on() -> None:
    async with port() as (world, requests, _):
        half, _ = await call(world, CLIENT)
        await half.send_all(b"".join(encode_batch([encode_request(1, 5, [bytes(1000)])]))[:500])
        await half.aclose()
        other, _ = await call(world, CLIENT)
        await other.send_all(b"".join(encode_batch([encode_request(2, 5, [])])))
        await requests.wait_count(1)
        assert requests.taken[0].args == []


# --- limits ----------------------------------------------------------------------------------------------------------


async def test_clients_are_counted_and_cannot_keep_out_the_peers() -> None:
    async with port(ServerLimits(clients_max=2, connections_max=4)) as (world, _, _):
        clients = [await call(world, CLIENT) for _ in range(3)]
        assert [reason for _, reason in clients] == ["", "", "there are 2 clients, at most 2"]
        _, reason = await call(world, PEER)
        assert reason == ""
        await clients[0][0].aclose()
        while world.servers[0].clients == 2:
            await trio.lowlevel.checkpoint()
        assert (await call(world, CLIENT))[1] == ""


async def test_more_connections_than_the_port_takes_are_closed() -> None:
    async with port(ServerLimits(clients_max=2, connections_max=3)) as (world, _, _):
        held = [await dial(world) for _ in range(3)]
        while world.servers[0].connections < 3:
            await trio.lowlevel.checkpoint()
        await ended(await dial(world))
        await told(world, "more than 3 connections")
        await held[0].aclose()


async def test_a_client_with_too_many_open_requests_is_not_read_until_some_are_answered() -> None:
    async with port(ServerLimits(outstanding_max=4)) as (world, requests, _):
        stream, _ = await call(world, CLIENT)

        async def send(number: int) -> None:
            await stream.send_all(b"".join(encode_batch([encode_request(number, 5, [bytes(65536)])])))

        async def send_others() -> None:
            for number in range(4, 8):  # they may not fit into the sockets' buffers: then this waits, too
                await send(number)

        for number in range(4):
            await send(number)
            await requests.wait_count(number + 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_others)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert len(requests.taken) == 4
            for request in requests.taken[:4]:
                request.reply([0])
            await requests.wait_count(8)


async def test_a_client_that_does_not_read_is_cut_off_when_its_replies_pile_up() -> None:
    limits = ServerLimits(unread_pause_bytes=1 << 20, unread_bytes_max=16 << 20)
    async with port(limits) as (world, requests, _):
        stream, _ = await call(world, CLIENT)
        batch = encode_batch([encode_request(number, 5, []) for number in range(40)])
        await stream.send_all(b"".join(batch))
        await requests.wait_count(40)
        for request in requests.taken:
            request.reply([bytes(1 << 20)])
        await told(world, "does not read its replies")
        while world.servers[0].clients:
            await trio.lowlevel.checkpoint()
        assert (await call(world, CLIENT))[1] == ""
