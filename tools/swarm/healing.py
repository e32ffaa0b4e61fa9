"""Faults that a group heals by itself: a flipped bit in any record of a peer, and a disk that is lost and replaced.

Unlike a `lost` peer, one that heals has to come back: it may never refuse to start, and once it is whole everything is
checked on it as on any other. At most so many peers of a group heal at a time that the others are a quorum
(`Nemesis.spare`): a group of which more is damaged at once may really have lost what it acknowledged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from raftlog.scrubbing import Scrub
from raftlog.types import Mode
from store.engine import Fenced
from store.memory_engine import MemoryDisk
from tools.sim.group import SimGroup

if TYPE_CHECKING:
    from tools.swarm.faults import Nemesis

LOOK_S = 0.2


class Healing:
    """Of one nemesis. `names` are the peers that are damaged, or were and are not known to be whole; `away` those of them
    whose disk is not made yet."""

    def __init__(self, nemesis: Nemesis) -> None:
        self.nemesis = nemesis
        self.names: set[str] = set()
        self.away: set[str] = set()

    def _one(self) -> tuple[SimGroup, int] | None:
        """A peer that is up and may be damaged."""
        for group, peer in self.nemesis.some(1):
            if group.names[peer] not in self.names and self.nemesis.spare(group, group.names[peer]):
                self.names.add(group.names[peer])
                return group, peer
        return None

    async def damage(self, seconds: float) -> bool:
        """A bit flips; a scrub finds it, or a start, or whoever reads it."""
        nemesis, rng = self.nemesis, self.nemesis.rng
        chosen = self._one()
        if chosen is None:
            return False
        group, peer = chosen
        if rng.random() < 0.3 and await self._in_need(group, peer, seconds):
            await self._whole(group, peer)
            nemesis.mark("healed: log/entries, in need")
            return True
        kind = rng.choice(("log", "log", "state"))
        table = self._flip(nemesis.world.disks[group.names[peer], kind])
        way = rng.choice(("scrub", "crash", "nobody looks"))
        if way == "scrub":
            self._scrub(group, peer)
        await trio.sleep(seconds)
        if way == "crash":
            group.crash(peer)
            await trio.sleep(rng.expovariate(1 / 0.3))
            nemesis.start(group, peer)
        await self._whole(group, peer)
        nemesis.mark(f"healed: {kind}/{table.partition('@')[0]}, {way}")
        return True

    async def _in_need(self, group: SimGroup, peer: int, seconds: float) -> bool:
        """The last entry goes bad when it is needed most: it was committed by a bare majority, whose leader dies too. Those
        that were cut off meanwhile and this one are a majority, and must not lead without it."""
        nemesis, net = self.nemesis, self.nemesis.world.net
        leaders = [leader for leader in group.leaders() if leader != peer]
        others = [other for other in sorted(group.peers) if other != peer and other not in leaders]
        behind = [group.names[other] for other in others[: len(group.names) - group.membership.quorum]]
        if not leaders or not behind:
            return False
        cuts = {pair for a in behind for b in group.names.values() if b not in behind for pair in ((a, b), (b, a))}
        for source, target in sorted(cuts):
            net.block(source, target)
        await trio.sleep(seconds)
        group.crash(peer, *leaders)
        log = nemesis.world.disks[group.names[peer], "log"]
        if keys := log.tables["entries"].keys:
            log.corrupt("entries", keys[-1])
        for source, target in sorted(cuts):
            net.unblock(source, target)
        nemesis.start(group, peer)
        await trio.sleep(seconds + 4 * group.config.election_max_s)
        for leader in leaders:
            nemesis.start(group, leader)
        return True

    def _flip(self, disk: MemoryDisk) -> str:
        rng = self.nemesis.rng
        tables = [name for name, table in sorted(disk.tables.items()) if table.keys]
        table = rng.choice(tables)
        keys = disk.tables[table].keys
        disk.corrupt(table, keys[-1] if rng.random() < 0.3 else rng.choice(keys))
        return table

    def _scrub(self, group: SimGroup, peer: int) -> bool:
        """Look at everything; whether nothing was found. A peer whose state is damaged dies of it, to start over."""
        alive = group.peers.get(peer)
        if alive is None:
            return False
        scrub = Scrub(alive.node, None)
        try:
            scrub.whole_round()
        except Fenced:
            return False
        return scrub.found == 0

    async def _whole(self, group: SimGroup, peer: int) -> None:
        """Until the peer counts, has a state, and nothing on its disk is damaged."""
        name = group.names[peer]
        while True:
            await trio.sleep(LOOK_S)
            alive = group.peers.get(peer)
            if alive is None:
                continue
            state = alive.node.core.state
            if state.mode is Mode.RECOVERING:
                self.nemesis.mark("healing: recovering")
            elif state.refill:
                self.nemesis.mark("healing: waits for an image")
            elif self._scrub(group, peer):
                self.names.discard(name)
                return

    async def replace(self, seconds: float) -> bool:
        """A disk is lost, and a successor is taken in; or nobody is there to do it, and the peer is lost."""
        chosen = self._one()
        if chosen is None:
            return False
        group, peer = chosen
        name = group.names[peer]
        self.away.add(name)
        group.crash(peer)
        await trio.sleep(seconds)
        taken = await group.replace(peer)
        self.away.discard(name)
        if not taken:
            self.nemesis.lost.add(name)
            return False
        await self._whole(group, peer)
        return True
