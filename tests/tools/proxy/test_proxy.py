"""The proxy between real servers, links and clients on the loopback."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from random import Random

import pytest
import trio

from raftlog.messages import Envelope, TransferNow
from raftlog.net.base import CallFailed
from raftlog.net.tcp import TcpRpcClient, parse_address
from tests.raftlog.net.worlds import CLUSTER, Inbox, Requests, TcpWorld, play_tcp
from tools.proxy import CUT, PERFECT, Conditions, Proxy, open_proxy

SHORT_S = 0.1
"""The deadline of calls that shall have no answer."""


class Net:
    """Peers 0 and 1 of `TcpWorld`, named a and b, and a client c, all of them behind a proxy."""

    def __init__(self, world: TcpWorld, proxy: Proxy, rpc: TcpRpcClient) -> None:
        self.world = world
        self.proxy = proxy
        self.rpc = rpc
        self.inboxes: dict[str, Inbox] = {}
        self.requests: dict[str, Requests] = {}

    async def call(self, host: str, *args: object, timeout_s: float = 10.0) -> object:
        return await self.rpc.call(self.world.address("ab".index(host)), 1, list(args), timeout_s=timeout_s)

    async def fails(self, host: str, *args: object, timeout_s: float = 10.0) -> CallFailed:
        with pytest.raises(CallFailed) as caught:
            await self.call(host, *args, timeout_s=timeout_s)
        return caught.value


def play(body: Callable[[Net], Awaitable[None]]) -> None:
    async def main(world: TcpWorld) -> None:
        inboxes, requests = {"a": Inbox(), "b": Inbox()}, {"a": Requests(), "b": Requests()}
        for number, host in enumerate("ab"):
            await world.start(number, requests[host], inboxes[host])
        async with AsyncExitStack() as stack:
            addresses = {"a": world.address(0), "b": world.address(1)}
            proxy = await stack.enter_async_context(open_proxy(addresses, Random(1)))
            for number, host in enumerate("ab"):
                routes = await proxy.join(host)
                other = 1 - number
                transport = world.running[number].transport
                transport.set_address(other, parse_address(routes[world.address(other)]))
            rpc = await stack.enter_async_context(TcpRpcClient(CLUSTER, await proxy.join("c")))
            net = Net(world, proxy, rpc)
            net.inboxes, net.requests = inboxes, requests
            await body(net)

    play_tcp(main)


def test_through_a_perfect_proxy_calls_are_as_without_it() -> None:
    async def body(net: Net) -> None:
        large = bytes(1 << 20)
        assert await net.call("a", 1, "two", large) == [1, "two", large]
        assert await net.call("b", 3) == [3]
        assert net.proxy.counts()["c", "a"].dropped == 0
        assert net.proxy.counts()["c", "a"].passed >= 2  # the handshake and the request
        assert net.proxy.hosts == ["a", "b", "c"]

    play(body)


def test_a_cut_there_loses_the_request_a_cut_back_the_reply_and_the_connection_survives_both() -> None:
    async def body(net: Net) -> None:
        await net.call("a", "first")
        net.proxy.set("c", "a", CUT)
        assert (await net.fails("a", "there", timeout_s=SHORT_S)).sent
        net.proxy.set("c", "a", PERFECT)
        net.proxy.set("a", "c", CUT)
        assert (await net.fails("a", "back", timeout_s=SHORT_S)).sent
        net.proxy.mend()
        assert await net.call("a", "last") == ["last"]
        assert [request.args[0] for request in net.requests["a"].taken] == ["first", "back", "last"]
        assert net.world.servers[0].clients == 1

    play(body)


def test_a_connection_begun_during_a_cut_is_made_when_it_is_mended() -> None:
    async def body(net: Net) -> None:
        net.proxy.split([["a", "b"], ["c"]])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(net.call, "a", "patient")
            await net.fails("b", "impatient", timeout_s=SHORT_S)
            net.proxy.mend()
        assert [request.args[0] for request in net.requests["a"].taken] == ["patient"]

    play(body)


def test_the_death_of_a_server_is_told_at_once_but_not_through_a_cut() -> None:
    async def body(net: Net) -> None:
        for host, number, cut in (("a", 0, False), ("b", 1, True)):
            await net.call(host)
            net.requests[host].answer = None
            async with trio.open_nursery() as nursery:
                wait_s = SHORT_S if cut else 30.0
                failed: list[CallFailed] = []

                async def fail(host: str = host, wait_s: float = wait_s, failed: list[CallFailed] = failed) -> None:
                    failed.append(await net.fails(host, "asked", timeout_s=wait_s))

                nursery.start_soon(fail)
                await net.requests[host].wait_count(2)
                if cut:
                    net.proxy.set(host, "c", CUT)
                await net.world.stop(number)
            assert ("no answer" in str(failed[0])) is cut

    play(body)


def test_a_server_that_is_down_is_seen_to_be_down_and_is_reached_again() -> None:
    async def body(net: Net) -> None:
        await net.world.stop(0)
        assert not (await net.fails("a", "asked")).sent
        await net.world.start(0)
        assert await net.call("a", "again") == ["again"]

    play(body)


def test_messages_of_peers_can_be_cut_one_way() -> None:
    async def body(net: Net) -> None:
        a, b = (net.world.running[number].transport for number in (0, 1))
        await net.inboxes["b"].wait_sending(a, Envelope(0, 1, TransferNow(1)))
        await net.inboxes["a"].wait_sending(b, Envelope(1, 0, TransferNow(2)))
        net.proxy.set("a", "b", CUT)
        got = len(net.inboxes["b"].envelopes)
        a.send([Envelope(0, 1, TransferNow(3))])
        await net.inboxes["a"].wait_sending(b, Envelope(1, 0, TransferNow(4)))
        while not net.proxy.counts()["a", "b"].dropped:
            await net.inboxes["a"].wait_sending(b, Envelope(1, 0, TransferNow(5)))
        assert len(net.inboxes["b"].envelopes) == got
        net.proxy.mend()
        await net.inboxes["b"].wait_sending(a, Envelope(0, 1, TransferNow(6)))

    play(body)


def test_a_reset_breaks_the_connections_of_one_pair_at_both_ends() -> None:
    async def body(net: Net) -> None:
        await net.call("a")
        net.requests["a"].answer = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(net.fails, "a", "asked")
            await net.requests["a"].wait_count(2)
            assert net.proxy.reset("c", "a") == 1
        assert net.proxy.reset("c", "b") == 0
        net.requests["a"].answer = lambda request: request.args
        assert await net.call("a", "again") == ["again"]

    play(body)


def test_the_usual_conditions_hold_for_hosts_that_come_later() -> None:
    async def body(net: Net) -> None:
        await net.world.start(2)
        net.proxy.mend(Conditions(loss=1.0))
        await net.proxy.add({"late": net.world.address(2)})
        routes = await net.proxy.join("c")
        assert net.proxy.way("c", "late").conditions.loss == 1.0
        async with TcpRpcClient(CLUSTER, routes) as rpc:
            with pytest.raises(CallFailed, match="no answer"):
                await rpc.call(net.world.address(2), 1, [], timeout_s=SHORT_S)
            net.proxy.mend()
            assert await rpc.call(net.world.address(2), 1, [7]) == [7]

    play(body)


def test_a_split_leaves_a_host_on_two_sides_in_touch_with_both() -> None:
    async def body(net: Net) -> None:
        net.proxy.split([["a", "c"], ["b", "c"]])
        cut = {
            (source, target)
            for source in "abc"
            for target in "abc"
            if source != target and net.proxy.way(source, target).conditions.cut
        }
        assert cut == {("a", "b"), ("b", "a")}

    play(body)


def test_an_unknown_host_is_named() -> None:
    async def body(net: Net) -> None:
        with pytest.raises(KeyError, match="no host 'd': there are a, b, c"):
            net.proxy.set("a", "d", CUT)

    play(body)
