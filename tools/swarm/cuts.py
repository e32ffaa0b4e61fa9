"""Faults of the network between hosts: links that are cut in one direction or both, and links that are bad."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from raftlog.node import Node
from raftlog.roles import Leader
from tools.sim.group import SimGroup

if TYPE_CHECKING:
    from tools.swarm.faults import Nemesis


class Cuts:
    """Of one nemesis. Each fault lasts so many seconds; True once it took place."""

    def __init__(self, nemesis: Nemesis) -> None:
        self.nemesis = nemesis
        self.world = nemesis.world
        self.rng = nemesis.rng

    async def _between(self, seconds: float, cuts: set[tuple[str, str]], over: trio.Event | None = None) -> bool:
        """For so long, or until it is over, which it is afterwards."""
        net = self.world.net
        over = trio.Event() if over is None else over
        for source, target in sorted(cuts):
            net.block(source, target)
        with self.nemesis.suffers("cut", cut_off(cuts)), trio.move_on_after(seconds):
            await over.wait()
        over.set()
        for source, target in sorted(cuts):
            net.unblock(source, target)
        return bool(cuts)

    async def apart(self, seconds: float, name: str) -> bool:
        """One host from all others."""
        others = [other for other in sorted(self.world.net.hosts) if other != name]
        return await self._between(seconds, {p for o in others for p in ((o, name), (name, o))})

    async def isolate_leader(self, seconds: float) -> bool:
        """From its peers, or from everybody."""
        members = self.nemesis.leader()
        cuts = set()
        for group, peer in members:
            name = group.names[peer]
            others = [other for other in group.names.values() if other != name]
            if self.rng.random() < 0.4:  # from everybody, clients too
                others = [other for other in sorted(self.world.net.hosts) if other != name]
            cuts |= {(name, other) for other in others} | {(other, name) for other in others}
        return await self._between(seconds, cuts)

    async def strand_leader(self, seconds: float) -> bool:
        """Clients reach a leader that its peers do not; the others elect another one, which purges its log up to its first
        entry, and then all is well again: what the old one took meanwhile lies where the new one's image ends."""
        for group, old in self.nemesis.leader():
            name = group.names[old]
            if len(group.names) < 3:
                return False
            others = [other for other in group.names.values() if other != name]
            clients = [host for host in sorted(self.world.net.hosts) if not host.startswith("server")]
            pairs = [(name, other) for other in others] + [(client, other) for client in clients for other in others]
            over = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._between, seconds + 3.0, {p for a, b in pairs for p in ((a, b), (b, a))}, over)
                while not over.is_set():
                    await trio.sleep(0.02)
                    new = next((group.peers[peer].node for peer in group.leaders() if peer != old), None)
                    if new is not None and await self._purge_first(new):
                        over.set()
            return True
        return False

    async def _purge_first(self, node: Node) -> bool:
        """Whether a leader's log begins where its term does, or after it, if it may purge what it has applied."""
        with self.nemesis.compacting(node):
            node.flushing.purge()  # what is flushed already
            await trio.sleep(0.02)
        role, base = node.core.state.role, node.core.state.log.base
        return isinstance(role, Leader) and base.index >= role.term_start

    async def split(self, seconds: float) -> bool:
        """All hosts in two sides."""
        names = sorted(self.world.net.hosts)
        side = {name for name in names if self.rng.random() < 0.5}
        return await self._between(seconds, {(a, b) for a in names for b in names if (a in side) != (b in side)})

    async def ring(self, seconds: float) -> bool:
        """Overlapping majorities: each peer of a group reaches only its neighbours."""
        names = list(self.nemesis.group().names.values())
        near = {(a, b) for i, a in enumerate(names) for b in (names[i - 1], names[(i + 1) % len(names)])}
        far = {(a, b) for a in names for b in names if a != b} - near
        if len(names) == 3:
            far = {(names[0], names[1]), (names[1], names[0])}
        return await self._between(seconds, far)

    async def one_way(self, seconds: float) -> bool:
        """A peer hears nobody of its group, or nobody hears it."""
        group = self.nemesis.group()
        name = self.rng.choice(list(group.names.values()))
        others = [other for other in group.names.values() if other != name]
        inward = self.rng.random() < 0.5
        return await self._between(seconds, {(o, name) if inward else (name, o) for o in others})

    async def groups(self, seconds: float) -> bool:
        """Between two groups, or a group and the clients."""
        groups = self.nemesis.groups()
        one = self.rng.choice(groups)
        clients = [name for name in sorted(self.world.net.hosts) if not name.startswith("server")]
        others = [list(g.names.values()) for g in groups if g is not one] + [clients]
        other = self.rng.choice(others)
        return await self._between(seconds, {p for a in one.names.values() for b in other for p in ((a, b), (b, a))})

    async def answers(self, seconds: float, group: SimGroup) -> bool:
        """No client hears of a group, which hears all."""
        clients = [host for host in sorted(self.world.net.hosts) if not host.startswith("server")]
        return await self._between(seconds, {(name, client) for name in group.names.values() for client in clients})

    async def bad_link(self, seconds: float) -> bool:
        """One link loses and delays much, in one direction or both."""
        net, names = self.world.net, list(self.nemesis.group().names.values())
        if len(names) < 2:
            return False
        a, b = self.rng.sample(names, 2)
        bad = replace(net.conditions, request_loss=0.5, reply_loss=0.5, delay_s=(0.01, 0.3))
        links = [(a, b), (b, a)][: self.rng.randint(1, 2)]
        for link in links:
            net.links[link] = bad
        await trio.sleep(seconds)
        for link in links:
            net.links.pop(link, None)
        return True


def cut_off(cuts: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """Whom each of the peers in these cuts does not reach, and who does not reach it."""
    found = []
    for peer in sorted({name for cut in cuts for name in cut if name.startswith("server")}):
        to = sorted(target for source, target in cuts if source == peer)
        by = sorted(source for source, target in cuts if target == peer)
        text = f"cut off from {', '.join(to)}" if to else ""
        if by != to:
            text += f"{'; ' if text and by else ''}{'not reached by ' + ', '.join(by) if by else ''}"
        found.append((peer, text))
    return found
