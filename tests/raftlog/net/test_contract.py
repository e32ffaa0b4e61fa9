"""What both networks promise (`raftlog.net.base`), shown on each of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
import trio

from raftlog.messages import (
    AppendEntries,
    AppendReply,
    Envelope,
    Heartbeat,
    HeartbeatReply,
    ImageChunk,
    ImageReply,
    Message,
    RequestVote,
    TransferNow,
    VoteReply,
)
from raftlog.net.base import CallFailed, Request, RpcClient
from raftlog.net.frames import MAX_FRAME_BYTES
from raftlog.types import Entry, EntryKind, LogId, Member, Membership
from tests.raftlog.net.worlds import Inbox, Requests, World, play

both = pytest.mark.parametrize("kind", ["tcp", "sim"])

ENTRY = Entry(LogId(2, 7), EntryKind.COMMAND, b"data", 1234)
EVERY_MESSAGE: list[Message] = [
    RequestVote(3, LogId(2, 7), True, False),
    VoteReply(3, True),
    AppendEntries(3, LogId(2, 6), (ENTRY, ENTRY), 5, 9),
    AppendReply(3, None, 6, 4, 2, 9, False),
    Heartbeat(3, 5, 9),
    HeartbeatReply(3, 5, 9, True, True),
    TransferNow(3),
    ImageChunk(3, (8, LogId(2, 7)), Membership((Member(0, 1), Member(1, 2))), 4, True, b"rows", 99),
    ImageReply(3, (8, LogId(2, 7)), 5, True),
]
REQUESTS = 5
"""So many of them are requests, the others replies."""


async def call(rpc: RpcClient, world: World, peer: int, *args: Any, timeout_s: float = 5.0) -> Any:
    return await rpc.call(world.address(peer), 1, list(args), timeout_s=timeout_s)


async def failure(rpc: RpcClient, world: World, peer: int, *args: Any, timeout_s: float = 5.0) -> CallFailed:
    with pytest.raises(CallFailed) as caught:
        await call(rpc, world, peer, *args, timeout_s=timeout_s)
    return caught.value


# --- calls -----------------------------------------------------------------------------------------------------------


@both
def test_a_call_brings_its_method_and_arguments_and_takes_back_the_body(kind: str) -> None:
    async def body(world: World) -> None:
        requests = Requests()
        await world.start(0, requests)
        args = [1, -5, b"bytes", "text", None, True, [[], [1, [2]]], 2**64 - 1]
        assert await (await world.rpc()).call(world.address(0), 42, args) == args
        assert [(request.method, request.args) for request in requests.taken] == [(42, args)]

    play(kind, body)


@both
def test_a_hundred_calls_in_flight_each_get_their_own_reply_in_any_order(kind: str) -> None:
    async def body(world: World) -> None:
        requests = Requests(None)
        await world.start(0, requests)
        rpc = await world.rpc()
        got: dict[int, Any] = {}

        async def one(number: int) -> None:
            got[number] = await call(rpc, world, 0, number)

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(one, number)
            await requests.wait_count(100)
            for request in reversed(requests.taken):
                request.reply([request.args[0], "reply"])
        assert got == {number: [number, "reply"] for number in range(100)}
        assert rpc.requests_sent == 100

    play(kind, body)


@both
def test_a_call_without_an_answer_fails_at_its_deadline_and_may_have_taken_effect(kind: str) -> None:
    async def body(world: World) -> None:
        requests = Requests(None)
        await world.start(0, requests)
        rpc = await world.rpc()
        before = trio.current_time()
        failed = await failure(rpc, world, 0, timeout_s=0.1)
        assert failed.sent
        assert "0.1 s" in str(failed)
        assert 0.1 <= trio.current_time() - before < 2
        assert len(requests.taken) == 1

    play(kind, body)


@both
def test_each_call_fails_at_its_own_deadline_whatever_others_wait_for(kind: str) -> None:
    async def body(world: World) -> None:
        await world.start(0, Requests(None))
        rpc = await world.rpc()
        order: list[float] = []

        async def one(timeout_s: float) -> None:
            await failure(rpc, world, 0, timeout_s=timeout_s)
            order.append(timeout_s)

        with trio.move_on_after(2.0):
            async with trio.open_nursery() as nursery:
                for timeout_s in (1000.0, 0.3, 0.1, 0.2):
                    nursery.start_soon(one, timeout_s)
        assert order == [0.1, 0.2, 0.3]

    play(kind, body)


@both
def test_a_reply_after_the_deadline_is_dropped_and_the_next_call_gets_its_own(kind: str) -> None:
    async def body(world: World) -> None:
        requests = Requests(None)
        await world.start(0, requests)
        rpc = await world.rpc()
        await failure(rpc, world, 0, "late", timeout_s=0.05)
        requests.taken[0].reply("late")
        requests.answer = lambda request: request.args[0]
        assert await call(rpc, world, 0, "next") == "next"

    play(kind, body)


@both
def test_a_cancelled_call_leaves_the_others_alone(kind: str) -> None:
    async def body(world: World) -> None:
        requests = Requests(None)
        await world.start(0, requests)
        rpc = await world.rpc()
        got: list[Any] = []

        async def one(number: int, scope: trio.CancelScope) -> None:
            with scope:
                got.append(await call(rpc, world, 0, number))

        scopes = [trio.CancelScope() for _ in range(10)]
        async with trio.open_nursery() as nursery:
            for number, scope in enumerate(scopes):
                nursery.start_soon(one, number, scope)
            await requests.wait_count(10)
            for scope in scopes[::2]:
                scope.cancel()
            for request in requests.taken:
                request.reply(request.args[0])
        assert sorted(got) == [1, 3, 5, 7, 9]

    play(kind, body)


@both
def test_a_call_to_where_nobody_listens_was_surely_not_sent(kind: str) -> None:
    async def body(world: World) -> None:
        rpc = await world.rpc()
        failed = await failure(rpc, world, 8)
        assert not failed.sent
        assert world.address(8) in str(failed)

    play(kind, body)


@both
def test_when_the_server_dies_its_unanswered_calls_fail_without_waiting_for_their_deadline(kind: str) -> None:
    async def body(world: World) -> None:
        requests = Requests(None)
        await world.start(0, requests)
        rpc = await world.rpc()
        before = trio.current_time()
        failed: list[CallFailed] = []

        async def one() -> None:
            failed.append(await failure(rpc, world, 0, timeout_s=1000.0))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one)
            nursery.start_soon(one)
            await requests.wait_count(2)
            await world.stop(0)
        assert [one.sent for one in failed] == [True, True]
        assert trio.current_time() - before < 10
        requests.taken[0].reply("from the grave")  # is dropped

    play(kind, body)


@both
def test_a_server_that_was_started_again_is_reached_again(kind: str) -> None:
    async def body(world: World) -> None:
        old, new = Requests(lambda request: "old"), Requests(lambda request: "new")
        await world.start(0, old)
        rpc = await world.rpc()
        assert await call(rpc, world, 0) == "old"
        await world.stop(0)
        assert not (await failure(rpc, world, 0)).sent
        await world.start(0, new)
        assert await call(rpc, world, 0) == "new"
        assert len(old.taken) == len(new.taken) == 1

    play(kind, body)


@both
def test_one_client_talks_to_several_servers(kind: str) -> None:
    async def body(world: World) -> None:
        for peer in range(3):
            await world.start(peer, Requests(lambda request, peer=peer: [peer, *request.args]))
        rpc = await world.rpc()
        assert [await call(rpc, world, peer, "x") for peer in (2, 0, 1, 2)] == [[2, "x"], [0, "x"], [1, "x"], [2, "x"]]

    play(kind, body)


@both
@pytest.mark.parametrize("args", [[bytes(MAX_FRAME_BYTES)], [object()]], ids=["too large", "not CBOR"])
def test_a_request_that_no_frame_holds_fails_before_it_is_sent(kind: str, args: list[Any]) -> None:
    async def body(world: World) -> None:
        requests = Requests()
        await world.start(0, requests)
        rpc = await world.rpc()
        assert not (await failure(rpc, world, 0, *args)).sent
        assert await call(rpc, world, 0, "small") == ["small"]
        assert len(requests.taken) == 1

    play(kind, body)


@both
def test_a_reply_that_no_frame_holds_fails_its_call_and_the_server_goes_on(kind: str) -> None:
    async def body(world: World) -> None:
        await world.start(0, Requests(lambda request: bytes(request.args[0])))
        rpc = await world.rpc()
        assert (await failure(rpc, world, 0, MAX_FRAME_BYTES, timeout_s=1000.0)).sent
        assert await call(rpc, world, 0, 3) == bytes(3)

    play(kind, body)


@both
def test_a_request_is_answered_once(kind: str) -> None:
    async def body(world: World) -> None:
        requests = Requests()
        await world.start(0, requests)
        await call(await world.rpc(), world, 0)
        with pytest.raises(AssertionError, match="second reply"):
            requests.taken[0].reply("again")

    play(kind, body)


@both
def test_requests_can_be_answered_while_others_are_taken(kind: str) -> None:
    async def body(world: World) -> None:
        rounds = 30

        async def chatter(rpc: RpcClient, name: int) -> None:
            for number in range(rounds):
                assert await call(rpc, world, 0, name, number) == [name, number]

        requests = Requests()
        await world.start(0, requests)
        clients = [await world.rpc() for _ in range(8)]
        async with trio.open_nursery() as nursery:
            for name, rpc in enumerate(clients):
                nursery.start_soon(chatter, rpc, name)
        assert len(requests.taken) == 8 * rounds

    play(kind, body)


# --- messages between peers ------------------------------------------------------------------------------------------


@both
def test_every_message_arrives_equal_with_its_sender_and_receiver(kind: str) -> None:
    async def body(world: World) -> None:
        inbox = Inbox()
        await world.start(1, envelopes=inbox)
        transport = await world.start(0)
        await inbox.wait_sending(transport, Envelope(0, 1, Heartbeat(1, 0)))
        inbox.envelopes.clear()
        transport.send([Envelope(0, 1, message) for message in EVERY_MESSAGE])
        await inbox.wait_count(len(EVERY_MESSAGE))
        assert sorted(inbox.messages, key=repr) == sorted(EVERY_MESSAGE, key=repr)
        assert {(envelope.sender, envelope.to) for envelope in inbox.envelopes} == {(0, 1)}

    play(kind, body)


@both
def test_requests_count_as_sent_and_replies_do_not_even_to_a_peer_that_is_down(kind: str) -> None:
    async def body(world: World) -> None:
        transport = await world.start(0)
        transport.send([Envelope(0, 1, message) for message in EVERY_MESSAGE])
        assert transport.requests_sent == REQUESTS

    play(kind, body)


@both
def test_peers_talk_both_ways_and_a_shared_message_reaches_all(kind: str) -> None:
    async def body(world: World) -> None:
        inboxes = [Inbox() for _ in range(3)]
        transports = [await world.start(peer, envelopes=inboxes[peer]) for peer in range(3)]
        for peer, transport in enumerate(transports):
            for other in range(3):
                if other != peer:
                    await inboxes[other].wait_sending(transport, Envelope(peer, other, Heartbeat(peer, 0)))
        for inbox in inboxes:
            inbox.envelopes.clear()
        shared = AppendEntries(9, LogId(2, 6), (ENTRY,), 5)
        transports[1].send([Envelope(1, 0, shared), Envelope(1, 2, shared)])
        for peer in (0, 2):
            while shared not in inboxes[peer].messages:
                await inboxes[peer].wait_count(len(inboxes[peer].envelopes) + 1)

    play(kind, body)


@both
def test_what_is_sent_to_a_dead_or_unknown_peer_is_dropped_and_a_restarted_one_is_reached_again(kind: str) -> None:
    async def body(world: World) -> None:
        old, new = Inbox(), Inbox()
        await world.start(1, envelopes=old)
        transport = await world.start(0)
        await old.wait_sending(transport, Envelope(0, 1, Heartbeat(1, 0)))
        await world.stop(1)
        old.envelopes.clear()
        transport.send([Envelope(0, 1, Heartbeat(2, 0)), Envelope(0, 77, Heartbeat(2, 0))])
        await world.start(1, envelopes=new)
        await new.wait_sending(transport, Envelope(0, 1, Heartbeat(3, 0)))
        assert Heartbeat(3, 0) in new.messages
        assert old.messages == []

    play(kind, body)


@both
def test_large_messages_arrive(kind: str) -> None:
    async def body(world: World) -> None:
        inbox = Inbox()
        await world.start(1, envelopes=inbox)
        transport = await world.start(0)
        await inbox.wait_sending(transport, Envelope(0, 1, Heartbeat(1, 0)))
        inbox.envelopes.clear()
        entries = tuple(Entry(LogId(1, i), EntryKind.COMMAND, bytes([i]) * (1 << 20)) for i in range(1, 6))
        large = AppendEntries(1, LogId(0, 0), entries, 0)
        transport.send([Envelope(0, 1, large), Envelope(0, 1, large)])
        while inbox.messages.count(large) < 2:
            await inbox.wait_count(len(inbox.envelopes) + 1)

    play(kind, body)


@both
def test_a_sink_that_raises_ends_the_network_it_is_called_by(kind: str) -> None:
    class Defect(Exception):
        pass

    def sink(requests: Sequence[Request]) -> None:
        raise Defect

    async def body(world: World) -> None:
        await world.start(0, sink)
        with suppress(CallFailed):
            await call(await world.rpc(), world, 0, timeout_s=1000.0)
        await trio.sleep_forever()

    with pytest.RaisesGroup(Defect, flatten_subgroups=True, allow_unwrapped=True):
        play(kind, body)
