"""A small world of cores: virtual time, seeded chance, simulated disks, a network that loses, doubles and delays.

No node, no Trio: each peer is a `RaftCore` and what a node does with its effects, in one queue of events. It is made to
reach what hurts: messages that arrive while a save is in flight, a crash on either side of the instant of a commit, a
late announcement, clocks of different speeds, pauses. After every step of a core the invariants are checked, and every
promise that leaves is held against the bytes that would survive a power cut at that moment.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from raftlog.codec import decode_message, dumps, encode_message, loads
from raftlog.config import RaftConfig
from raftlog.invariants import GroupWitness
from raftlog.messages import Envelope
from raftlog.roles import Leader
from raftlog.types import Entry, LogId, PeerId, Proposal
from tests.raftlog.core_disk import chained, membership_of
from tests.raftlog.core_peer import Chance, Peer, Question


@dataclass
class World:
    """The group, its network and its clients. `steps` counts checked steps of cores."""

    seed: int
    voters: int = 3
    learners: int = 0
    config: RaftConfig = field(default_factory=RaftConfig)
    chance: Chance = field(default_factory=Chance)

    def __post_init__(self) -> None:
        self.rng = Random(self.seed)
        self.now = 0.0
        self.steps = 0
        self.queue: list[tuple[float, int, Callable[..., Any], tuple[Any, ...]]] = []
        self.events = 0
        self.witness = GroupWitness()
        self.cut: set[tuple[PeerId, PeerId]] = set()
        self.marks: dict[str, int] = {}
        self.acked = 0
        self.acked_count = 0
        self.reads_done = self.leases_done = 0
        self.proposed = 0
        membership = membership_of(self.voters, self.learners)
        self.peers = [Peer(self, i, membership) for i in range(self.voters + self.learners)]
        for peer in self.peers:
            peer.start()

    # --- time ----------------------------------------------------------------------------------------------------

    def at(self, when: float, call: Callable[..., Any], *args: Any) -> None:
        self.events += 1
        heapq.heappush(self.queue, (when, self.events, call, args))

    def after(self, wait: float, call: Callable[..., Any], *args: Any) -> None:
        self.at(self.now + wait, call, *args)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.queue and self.queue[0][0] <= end:
            self.now, _, call, args = heapq.heappop(self.queue)
            call(*args)
        self.now = end

    # --- the network ---------------------------------------------------------------------------------------------

    def transmit(self, envelope: Envelope) -> None:
        """Through the codec and, with luck, once, soon, to the other side."""
        chance, rng = self.chance, self.rng
        wire = dumps(encode_message(envelope.message))
        for _ in range(2 if rng.random() < chance.double else 1):
            if rng.random() >= chance.loss:
                wait = rng.uniform(0.001, 0.004)
                if rng.random() < chance.late:
                    wait = rng.uniform(0, chance.late_s)
                self.after(wait, self.arrive, envelope.sender, envelope.to, wire)

    def arrive(self, sender: PeerId, to: PeerId, wire: bytes) -> None:
        if (sender, to) in self.cut:
            return
        envelope = Envelope(sender, to, decode_message(loads(wire)))
        peer = self.peers[to]
        peer.post(lambda: peer.act(lambda core, now: core.step(envelope, now)))

    def partition(self, *sides: set[PeerId]) -> None:
        """Only peers on the same side hear each other."""
        everyone = [p.me for p in self.peers]
        self.cut = {
            (a, b) for a in everyone for b in everyone if a != b and not any(a in side and b in side for side in sides)
        }

    # --- clients -------------------------------------------------------------------------------------------------

    def running(self) -> list[Peer]:
        return [p for p in self.peers if p.core is not None and not p.paused]

    def leaders(self) -> list[Peer]:
        """Everybody who believes to lead."""
        return [p for p in self.running() if isinstance(p.up.state.role, Leader)]

    def propose(self, peer: Peer, count: int = 1) -> list[LogId]:
        """Propose fresh commands; where they were put, if they were."""
        items = [Proposal(dumps(self.proposed + i)) for i in range(count)]
        self.proposed += count
        outcomes = [at for at in peer.up.propose_many(items, peer.clock()) if isinstance(at, LogId)]
        peer.waiting.update({at.index: at for at in outcomes})
        peer.act(lambda core, now: None)
        return outcomes

    def acknowledged(self, entry: Entry) -> None:
        """A client got its answer: from now on every read must see it."""
        self.acked = max(self.acked, entry.index)
        self.acked_count += 1
        assert self.witness.committed[entry.index] == entry

    def read(self, peer: Peer) -> None:
        question = Question(self.acked)
        peer.act(lambda core, now: core.read(question, now))

    def answered(self, peer: Peer, question: Question) -> None:
        kind = "a lease read" if question.lease else "a read"
        assert peer.applied.index >= question.floor, (
            f"{kind} at peer {peer.me} saw {peer.applied}, acknowledged before it began was {question.floor}"
        )
        self.acked = max(self.acked, peer.applied.index)  # what one read saw, the next one sees
        self.reads_done += 1

    def lease_read(self, peer: Peer) -> None:
        question = Question(self.acked, lease=True)
        if peer.clock() < peer.up.lease_until():
            self.leases_done += 1
            self.answered(peer, question)

    # --- at rest -------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """No more faults from here on; everybody up."""
        self.chance = Chance(clock_speed=self.chance.clock_speed)
        self.cut = set()
        for peer in self.peers:
            if peer.core is None:
                peer.start()
            elif peer.paused:
                peer.resume()

    def check_logs(self) -> None:
        self.witness.check_logs([p.core for p in self.peers if p.core is not None])

    def settle(self, seconds: float = 5.0) -> None:
        """Run until an entry proposed from now on is applied at everybody; fail if that takes longer."""
        end = self.now + seconds
        wanted: list[LogId] = []
        while self.now < end:
            wanted.extend(at for leader in self.leaders() for at in self.propose(leader))
            self.run(0.25)
            kept = [at.index for at in wanted if at.index in self.witness.committed]
            kept = [i for i in kept if self.witness.committed[i].id in wanted]
            if kept and all(peer.applied.index >= kept[0] for peer in self.peers):
                self.run(0.25)  # let what was proposed last arrive too
                if len({peer.applied for peer in self.peers}) == 1:
                    return
        states = [
            (p.me, p.up.state.role_name.name, p.up.state.term, p.applied, p.up.state.log.last) for p in self.peers
        ]
        raise AssertionError(f"no agreement {seconds} s after the last fault: {states}")

    def check_end(self) -> None:
        """Everybody applied the same, and it is exactly what the group ever committed."""
        state = 0
        for index in range(1, self.peers[0].applied.index + 1):
            state = chained(state, self.witness.committed[index])
        for peer in self.peers:
            assert peer.state == state, f"peer {peer.me} at {peer.applied} has another state"
        assert self.acked <= self.peers[0].applied.index
        self.check_logs()


class Chaos:
    """Faults and clients at random, from the world's own chance. Half of the faults look for a leader, and each ends by
    itself after a while: a group that is always down shows nothing."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.fault_s = world.rng.choice((0.2, 0.7, 2.0))

    def run(self, seconds: float) -> None:
        world, rng = self.world, self.world.rng
        end = world.now + seconds
        next_fault = world.now
        while world.now < end:
            world.run(rng.expovariate(40))
            self.client()
            if world.now >= next_fault:
                self.fault()
                next_fault = world.now + rng.expovariate(1 / self.fault_s)

    def client(self) -> None:
        """Ask everybody who believes to lead, or somebody who does not."""
        world, rng = self.world, self.world.rng
        running = world.running()
        if not running:
            return
        for peer in world.leaders() or [rng.choice(running)]:
            what = rng.random()
            if what < 0.5:
                world.propose(peer, rng.randint(1, 4))
            elif what < 0.8:
                world.read(peer)
            else:
                world.lease_read(peer)

    def fault(self) -> None:
        world, rng = self.world, self.world.rng
        peer = rng.choice(world.leaders() or world.peers) if rng.random() < 0.5 else rng.choice(world.peers)
        if peer not in world.running():
            return
        lasts = rng.uniform(0.05, 1.0)
        match rng.choice(("crash", "cut", "cut", "pause", "purge", "flush", "transfer")):
            case "crash":
                peer.crash()
                world.after(lasts, lambda: peer.core is None and peer.start())
            case "cut":
                self.cut(peer)
                world.after(lasts, world.cut.clear)
            case "pause":
                peer.pause()
                starts = peer.starts
                world.after(lasts, lambda: peer.starts == starts and peer.resume())
            case "purge":
                peer.purge()
            case "flush":
                peer.flush()
            case _:
                to = rng.choice(world.peers).me
                peer.act(lambda core, now: core.transfer(to, now))

    def cut(self, peer: Peer) -> None:
        """Cut the peer off with up to half of the others, now and then in one direction only."""
        world, rng = self.world, self.world.rng
        others = [p.me for p in world.peers if p is not peer]
        side = {peer.me, *rng.sample(others, rng.randint(0, len(others) // 2))}
        world.partition(side, {p.me for p in world.peers} - side)
        if rng.random() < 0.3:
            inward = rng.random() < 0.5
            world.cut = {(a, b) for a, b in world.cut if (b in side) is inward}
