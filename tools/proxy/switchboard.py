"""All ways between the hosts of one network, and the connections on them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from random import Random
from typing import NamedTuple

import trio

from raftlog.net.frames import FrameError
from raftlog.net.tcp_link import parse_address
from tools.proxy.conditions import CUT, PERFECT, Conditions
from tools.proxy.way import Flow, Way

HOST = "127.0.0.1"
DIAL_S = 2.0
"""How long the real address may take to answer. As long as the peers' own limit."""


class WayCount(NamedTuple):
    """What happened on a way: frames that arrived, and that were dropped."""

    passed: int
    dropped: int


@asynccontextmanager
async def open_proxy(addresses: Mapping[str, str], rng: Random | None = None) -> AsyncIterator[Proxy]:
    """A network of the hosts that listen at `addresses` ("host:port" by name). Perfect until told otherwise; `rng` draws
    losses and delays. Leaving the block closes every port and connection."""
    async with trio.open_nursery() as nursery:
        yield Proxy(nursery, addresses, rng or Random(0))
        nursery.cancel_scope.cancel()


class Proxy:
    """See the package. Made by `open_proxy`. All but `join` and `add` take effect at once and wait for nothing."""

    def __init__(self, nursery: trio.Nursery, addresses: Mapping[str, str], rng: Random) -> None:
        self._nursery = nursery
        self._addresses = dict(addresses)
        self._rng = rng
        self._usual = PERFECT
        self._ways: dict[tuple[str, str], Way] = {}
        self._routes: dict[str, dict[str, str]] = {}
        self._scopes: dict[tuple[str, str], set[trio.CancelScope]] = {}

    # --- who is there ------------------------------------------------------------------------------------------------

    @property
    def hosts(self) -> list[str]:
        """Every host that can be dialled or has joined, in order."""
        return sorted({*self._addresses, *self._routes})

    async def join(self, host: str) -> dict[str, str]:
        """Let a host dial all others; return its routes, from the real addresses to its own ports. May be repeated: a port
        that is there stays. Raises `OSError` without a free port."""
        routes = self._routes.setdefault(host, {})
        for target, address in self._addresses.items():
            if target != host and address not in routes:
                listeners = await trio.open_tcp_listeners(0, host=HOST)
                routes[address] = f"{HOST}:{listeners[0].socket.getsockname()[1]}"
                handler = partial(self._connection, host, target)
                self._nursery.start_soon(trio.serve_listeners, handler, listeners)
        return dict(routes)

    async def add(self, addresses: Mapping[str, str]) -> None:
        """More hosts that can be dialled. Those that have joined already get their ports: take `join` again."""
        self._addresses.update(addresses)
        for host in list(self._routes):
            await self.join(host)

    # --- how the network is ------------------------------------------------------------------------------------------

    def way(self, source: str, target: str) -> Way:
        """The way from one host to another. Raises `KeyError` for a host that is unknown."""
        for host in (source, target):
            if host not in self._addresses and host not in self._routes:
                raise KeyError(f"no host {host!r}: there are {', '.join(self.hosts)}")
        if (source, target) not in self._ways:
            self._ways[source, target] = Way(self._rng, self._usual)
        return self._ways[source, target]

    def set(self, source: str, target: str, conditions: Conditions) -> None:
        """From now on frames travel so from `source` to `target`; the other way stays as it is."""
        self.way(source, target).set(conditions)

    def set_between(self, some: Iterable[str], others: Iterable[str], conditions: Conditions) -> None:
        """The same for every pair of one host of each, both ways."""
        others = list(others)
        for one in some:
            for other in others:
                if one != other:
                    self.set(one, other, conditions)
                    self.set(other, one, conditions)

    def split(self, sides: Sequence[Iterable[str]]) -> None:
        """Cut every way between hosts of different sides. A host on no side, or on two, keeps what it has to the rest."""
        parts = [set(side) for side in sides]
        for number, side in enumerate(parts):
            for other in parts[number + 1 :]:
                self.set_between(side - other, other - side, CUT)

    def mend(self, conditions: Conditions = PERFECT) -> None:
        """Every way is like this from now on, also between hosts that will join."""
        self._usual = conditions
        for way in self._ways.values():
            way.set(conditions)

    def reset(self, source: str, target: str) -> int:
        """Break the connections that `source` has to `target`; return how many. Both ends see it at once."""
        scopes = self._scopes.get((source, target), set())
        for scope in scopes:
            scope.cancel()
        return len(scopes)

    def counts(self) -> dict[tuple[str, str], WayCount]:
        """Frames by way, of those that ever carried one."""
        return {
            pair: WayCount(way.passed, way.dropped)
            for pair, way in sorted(self._ways.items())
            if way.passed or way.dropped
        }

    # --- connections -------------------------------------------------------------------------------------------------

    async def _connection(self, source: str, target: str, near: trio.SocketStream) -> None:
        """One connection that `source` made to its port for `target`."""
        scopes = self._scopes.setdefault((source, target), set())
        there, back = self.way(source, target), self.way(target, source)
        with trio.CancelScope() as scope:
            scopes.add(scope)
            try:
                async with near:
                    await there.wait_open()
                    await back.wait_open()
                    far = await _dial(self._addresses[target])
                    if far is not None:
                        async with far:
                            await _carry(there, back, near, far)
            finally:
                scopes.discard(scope)


async def _dial(address: str) -> trio.SocketStream | None:
    with trio.move_on_after(DIAL_S), suppress(OSError):
        return await trio.open_tcp_stream(*parse_address(address))
    return None


async def _carry(there: Way, back: Way, near: trio.SocketStream, far: trio.SocketStream) -> None:
    """Until either side ends the connection, and the other one can see it."""
    async with trio.open_nursery() as nursery:

        async def flow(way: Way, other: Way, source: trio.SocketStream, target: trio.SocketStream) -> None:
            try:
                await Flow(way, source, target).run()
                word_of_it = way
            except* (trio.BrokenResourceError, FrameError):
                word_of_it = other  # the target ended it, so its word goes the other way
            await word_of_it.wait_open()
            nursery.cancel_scope.cancel()

        nursery.start_soon(flow, there, back, near, far)
        await flow(back, there, far, near)
