"""The nemesis: draws faults from those that the shape has, and ends each one. Every fault that took place is counted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from random import Random

import trio

from raftlog.node import Node
from store.engine import StoreError
from store.memory_engine import MemoryDisk
from tools.sim.cluster import SimCluster, SimKvServer
from tools.sim.group import SimGroup
from tools.sim.world import World
from tools.swarm.changes import Changer
from tools.swarm.cuts import Cuts
from tools.swarm.healing import Healing
from tools.swarm.shape import Shape

Member = tuple[SimGroup, int]
"""A peer of a group, up or down."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What one peer suffered, for the picture: `kind` is "pause", "disk" or "cut"."""

    peer: str
    kind: str
    begin: float
    end: float
    text: str


class Nemesis:
    """Of one world. `marks` counts what it did; `lost` are peers that are gone for good (a corrupted record), never so many
    that a group has no quorum without them."""

    def __init__(self, world: World, cluster: SimCluster, shape: Shape, changers: list[Changer], rng: Random) -> None:
        self.world = world
        self.cluster = cluster
        self.shape = shape
        self.changers = changers
        self.rng = rng
        self.marks: dict[str, int] = {}
        self.lost: set[str] = set()
        self.healing = Healing(self)
        self.cuts = Cuts(self)
        self.troubles: list[Trouble] = []
        self.resting = False
        self._compacting: dict[Node, int] = {}
        self._acts: dict[str, Callable[[float], Awaitable[bool]]] = {
            "crash one": lambda s: self._crash(s, self.some(1)),
            "crash a leader": lambda s: self._crash(s, self.leader()),
            "crash new leaders": self._crash_new_leaders,
            "crash at a commit": self._crash_at_commit,
            "crash a majority": lambda s: self._crash(s, self._majority()),
            "crash all": lambda s: self._crash(s, self._everybody()),
            "pause": lambda s: self._pause(s, self.some(1)),
            "pause a leader": lambda s: self._pause(s, self.leader()),
            "isolate a leader": self.cuts.isolate_leader,
            "strand a leader": self.cuts.strand_leader,
            "split": self.cuts.split,
            "ring": self.cuts.ring,
            "one-way cut": self.cuts.one_way,
            "cut a group from another": self.cuts.groups,
            "bad link": self.cuts.bad_link,
            "disk stalls": lambda s: self._disk(s, stall=0.2),
            "disk hangs": lambda s: self._disk(s, stall=1.0, hang=True),
            "disk errors": lambda s: self._disk(s, error=0.2),
            "no space": self._no_space,
            "corrupt a record": self._corrupt,
            "lose a disk": self._lose_disk,
            "heal a record": self.healing.damage,
            "replace a disk": self.healing.replace,
            "transfer leadership": self._transfer,
            "compact": self._compact,
            "cut a controller": self._cut_controller,
            "crash a controller": self._crash_controller,
            "slow a controller": self._slow_controller,
        }

    async def run(self) -> None:
        """One fault after another, some at the same time, until cancelled. A peer that died by itself is started again."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._supervise)
            names = sorted(self.shape.faults)
            weights = [self.shape.faults[name] for name in names]
            while names:
                await trio.sleep(self.rng.expovariate(1 / self.shape.fault_every_s))
                name = self.rng.choices(names, weights)[0]
                nursery.start_soon(self._one, name, self.rng.expovariate(1 / self.shape.fault_s))

    async def _one(self, name: str, seconds: float) -> None:
        self.world.trace.add("fault", self.world.now(), name, f"{seconds:.3f}")
        if await self._acts[name](seconds):
            self.mark(name)

    async def _supervise(self) -> None:
        """Start again what died of its disk, unless it is lost."""
        while True:
            await trio.sleep(0.5 + self.rng.random())
            for group in self.groups():
                for peer, _ in list(group.died):
                    if peer not in group.peers:
                        self.start(group, peer)
                group.died.clear()

    # --- whom -----------------------------------------------------------------------------------------------------

    def groups(self) -> list[SimGroup]:
        """All Raft groups, the controllers' first."""
        store = self.cluster.store
        first = [store] if isinstance(store, SimGroup) else []
        return first + [self.cluster.groups[gid] for gid in sorted(self.cluster.groups)]

    def group(self) -> SimGroup:
        """One of them."""
        return self.rng.choice(self.groups())

    def some(self, count: int) -> list[Member]:
        """Peers of a group that are up."""
        return self._some_of(self.group(), count)

    def _some_of(self, group: SimGroup, count: int = 1) -> list[Member]:
        up = sorted(group.peers)
        return [(group, peer) for peer in self.rng.sample(up, min(count, len(up)))]

    def leader(self) -> list[Member]:
        """The leader of a group, if there is one."""
        group = self.group()
        return [(group, peer) for peer in group.leaders()[:1]]

    def _majority(self) -> list[Member]:
        group = self.group()
        up = sorted(group.peers)
        return [(group, peer) for peer in self.rng.sample(up, min(group.membership.quorum, len(up)))]

    def _everybody(self) -> list[Member]:
        groups = self.groups() if self.rng.random() < 0.5 else [self.group()]
        return [(group, peer) for group in groups for peer in sorted(group.peers)]

    def start(self, group: SimGroup, peer: int, *, although_lost: bool = False) -> bool:
        """Start a peer from its disk, and whether the disk was refused. A lost one may only try: it goes on as long as
        nobody reads what is wrong, but nothing is to depend on it."""
        name = group.names[peer]
        away = name in self.healing.away or (name in self.lost and not although_lost)
        if self.resting or peer in group.peers or away:
            return False
        try:
            group.start(peer)
        except StoreError:
            assert name in self.lost, f"{name} refuses a disk that nobody damaged"
            return True
        return False

    def mark(self, name: str) -> None:
        """It took place."""
        self.marks[name] = self.marks.get(name, 0) + 1

    @contextmanager
    def suffers(self, kind: str, peers: Iterable[tuple[str, str]]) -> Iterator[None]:
        """The block is the time for which these peers have this trouble; (peer, what exactly)."""
        begin = self.world.now()
        try:
            yield
        finally:
            end = self.world.now()
            self.troubles += [Trouble(peer, kind, begin, end, text) for peer, text in peers]

    # --- crashes and pauses ---------------------------------------------------------------------------------------

    async def _crash(self, seconds: float, members: list[Member]) -> bool:
        store = self.cluster.store
        server = isinstance(store, SimKvServer) and self.rng.random() < 0.3
        if server:
            store.crash()
        for group, peer in members:
            group.crash(peer)
        await trio.sleep(seconds)
        if self.resting:
            return True
        if server:
            store.start()
        for group, peer in members:
            self.start(group, peer)
        return bool(members) or server

    async def _crash_new_leaders(self, seconds: float) -> bool:
        """In one group, each new leader soon after it was elected (the paper's figure 8): before or after its first entries
        have reached the others, and their disks."""
        group, done = self.group(), False
        until = self.world.now() + 2 * seconds
        known = {(peer, group.peers[peer].node.core.state.term) for peer in group.leaders()}
        async with trio.open_nursery() as nursery:
            while self.world.now() < until and not self.resting:
                await trio.sleep(0.005)
                for peer in group.leaders():
                    claim = (peer, group.peers[peer].node.core.state.term)
                    if claim not in known:
                        known.add(claim)
                        nursery.start_soon(self._crash_soon, group, peer)
                        done = True
        return done

    async def _crash_soon(self, group: SimGroup, peer: int) -> None:
        await trio.sleep(self.rng.expovariate(1 / 0.05))
        await self._crash(self.rng.expovariate(1 / 0.3), [(group, peer)])

    async def _crash_at_commit(self, seconds: float) -> bool:
        """Peers of a group die when a commit, of their log or of their state, is durable and nothing that follows has
        happened: any one of one peer, or one of any peer that installs an image (intent, flip and reset are three)."""
        group = self.group()
        installs = self.rng.random() < 0.5
        chosen = sorted(group.peers) if installs else [peer for _, peer in self._some_of(group)]
        writers = [(peer, w) for peer in chosen for w in (group.peers[peer].log, group.peers[peer].state)]
        died: list[int] = []

        def struck(peer: int, step: str) -> None:
            alive = group.peers.get(peer)
            if alive is None or (installs and (alive.node.core.state.installing is None or self.rng.random() < 0.5)):
                return
            died.append(peer)
            self.mark(f"crash at a commit: {step}")
            group.crash(peer)

        for peer, writer in writers:
            writer.trap = partial(struck, peer)
        try:
            with trio.move_on_after(seconds + (5.0 if installs else 1.0)):
                while not died:
                    await trio.sleep(0.02)
        finally:
            for _, writer in writers:
                writer.trap = None
        await trio.sleep(self.rng.expovariate(1 / 0.3))
        for peer in died:
            self.start(group, peer)
        return bool(died)

    async def _pause(self, seconds: float, members: list[Member]) -> bool:
        hosts = [group.peers[peer].host for group, peer in members]
        for host in hosts:
            host.pause()
        with self.suffers("pause", [(host.name, "paused") for host in hosts]):
            await trio.sleep(seconds)
        for host in hosts:
            host.resume()
        return bool(hosts)

    # --- disks ----------------------------------------------------------------------------------------------------

    async def _disk(self, seconds: float, *, stall: float = 0.0, error: float = 0.0, hang: bool = False) -> bool:
        """One peer's disk; errors kill it, a hang makes it give up."""
        members = self.leader() if self.rng.random() < 0.5 else self.some(1)
        writers = [w for group, peer in members for w in (group.peers[peer].log, group.peers[peer].state)]
        for writer in writers:
            stall_s = (6.0, 9.0) if hang else (0.05, 1.0)
            writer.conditions = replace(writer.conditions, stall=stall, error=error, stall_s=stall_s)
        kind = "the disk hangs" if hang else "the disk stalls" if stall else "the disk fails"
        with self.suffers("disk", [(group.names[peer], kind) for group, peer in members]):
            await trio.sleep(seconds)
        for writer in writers:
            writer.conditions = self.shape.disk
        return bool(writers)

    async def _no_space(self, seconds: float) -> bool:
        members = self._majority() if self.rng.random() < 0.5 else self.leader()
        if members and self.rng.random() < 0.5:  # so that what is refused then has been done
            await self.cuts.answers(self.rng.uniform(0.1, 0.5), members[0][0])
        peers = [group.peers[peer] for group, peer in members if peer in group.peers]
        for peer in peers:
            peer.node.no_space = True
        with self.suffers("disk", [(peer.host.name, "the disk is full") for peer in peers]):
            await trio.sleep(seconds)
        for peer in peers:
            peer.node.no_space = False
        return bool(peers)

    async def _corrupt(self, seconds: float) -> bool:
        """A bit of a record of one peer flips. It is lost from then on: it must notice before it says anything wrong."""
        for group, peer in self.some(1):
            name = group.names[peer]
            if not self.spare(group, name):
                return False
            disks = [d for (host, _), d in sorted(self.world.disks.items()) if host == name]
            if not corrupt_some_record(self.rng.choice(disks), self.rng):
                return False
            self.lost.add(name)
            await trio.sleep(seconds)
            group.crash(peer)
            found = self.start(group, peer, although_lost=True)
            self.mark("corruption found at start" if found else "corruption not read at start")
            return True
        return False

    def spare(self, group: SimGroup, name: str) -> bool:
        """Whether the group keeps a quorum of good peers without this one."""
        gone = {other for other in group.names.values() if self.bad(other)} | {name}
        return len(group.names) - len(gone) >= group.membership.quorum

    def bad(self, name: str) -> bool:
        """Nothing may depend on this peer: it is lost, or damaged and not known to be whole again."""
        return name in self.lost or name in self.healing.names

    async def _lose_disk(self, seconds: float) -> bool:
        """A peer dies and its directory is empty afterwards. It has forgotten what it promised: it must not come back."""
        for group, peer in self.some(1):
            name = group.names[peer]
            if self.bad(name) or not self.spare(group, name):
                return False
            self.lost.add(name)
            group.crash(peer)
            for place in [place for place in self.world.disks if place[0] == name]:
                del self.world.disks[place]
            await trio.sleep(seconds)
            self.start(group, peer, although_lost=True)
            return True
        return False

    # --- what a group does itself ---------------------------------------------------------------------------------

    async def _transfer(self, seconds: float) -> bool:
        for group, peer in self.leader():
            node = group.peers[peer].node
            to = self.rng.choice(sorted(group.names))
            return node.core.transfer(to, node.clock())
        return False

    async def _compact(self, seconds: float) -> bool:
        """Purge the log down to nothing for a while, so that who is behind needs an image."""
        for group, peer in self.leader():
            with self.compacting(group.peers[peer].node):
                await trio.sleep(seconds)
            return True
        return False

    @contextmanager
    def compacting(self, node: Node) -> Iterator[None]:
        """In the block the node keeps no entry that it need not. Blocks may overlap."""
        self._compacting[node] = self._compacting.get(node, 0) + 1
        node.limits = replace(node.limits, log_bytes=1, keep_bytes=0)
        try:
            yield
        finally:
            self._compacting[node] -= 1
            if not self._compacting[node]:
                node.limits = self.shape.limits

    def _controllers(self) -> list[Changer]:
        return [c for c in self.changers if c.controller is not None and c.controller.host.alive]

    def _controller_host(self) -> str | None:
        hosts = [c.controller.host.name for c in self._controllers() if c.controller is not None]
        return self.rng.choice(hosts) if hosts else None

    async def _cut_controller(self, seconds: float) -> bool:
        name = self._controller_host()
        if name is None:
            return False
        return await self.cuts.apart(seconds, name)

    async def _crash_controller(self, seconds: float) -> bool:
        alive = self._controllers()
        if not alive:
            return False
        self.rng.choice(alive).crash()
        return True

    async def _slow_controller(self, seconds: float) -> bool:
        """What it asks of some groups, and the answers, take long or are lost: others post a change before it, finish its
        own meanwhile, and begin the next."""
        name, net = self._controller_host(), self.world.net
        if name is None:
            return False
        loss = self.rng.choice((0.0, 0.5))
        slow = replace(net.conditions, delay_s=(0.01, 0.9), request_loss=loss, reply_loss=loss)
        groups = [group for group in self.groups() if self.rng.random() < 0.7]
        links = [link for group in groups for peer in group.names.values() for link in ((name, peer), (peer, name))]
        net.links |= dict.fromkeys(links, slow)
        await trio.sleep(2 * seconds)
        for link in links:
            net.links.pop(link, None)
        return bool(links)


def corrupt_some_record(disk: MemoryDisk, rng: Random) -> bool:
    """Flip a bit of one record; False if there is none."""
    tables = [name for name, table in sorted(disk.tables.items()) if table.keys]
    if not tables:
        return False
    table = rng.choice(tables)
    disk.corrupt(table, rng.choice(disk.tables[table].keys))
    return True
