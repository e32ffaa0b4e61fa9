"""A small world of cores: virtual time, seeded chance, simulated disks, a network that loses, doubles and delays.

No node, no Trio: each peer is a `RaftCore` and what a node does with its effects, in one queue of events. It is made to
reach what hurts: messages that arrive while a save is in flight, a crash on either side of the instant of a commit, a
late announcement, clocks of different speeds, pauses. After every step of a core the invariants are checked, and every
promise that leaves is held against the bytes that would survive a power cut at that moment.
"""

from __future__ import annotations

import heapq
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from raftlog.codec import decode_message, dumps, encode_message, loads, pack_membership
from raftlog.config import RaftConfig
from raftlog.core import RaftCore
from raftlog.invariants import GroupWitness, Snapshot, check, check_step, check_taken, snapshot
from raftlog.messages import AppendReply, Envelope, HeartbeatReply, ImageChunk, ImageReply, RequestVote, VoteReply
from raftlog.roles import Leader
from raftlog.saves import Save
from raftlog.state import Effects
from raftlog.types import ZERO, Entry, EntryKind, HardState, LogId, Member, Membership, PeerId, Proposal, Restored

EMPTY = Membership(())


def membership_of(voters: int, learners: int = 0) -> Membership:
    """Voters 0.., then learners."""
    members = [Member(i, 100 + i) for i in range(voters + learners)]
    return Membership(tuple(members[:voters]), tuple(members[voters:]))


def first_entry(membership: Membership) -> Entry:
    """Entry 1 of a group, as a bootstrap writes it."""
    return Entry(LogId(1, 1), EntryKind.MEMBERSHIP, dumps(pack_membership(membership)))


def chained(before: int, entry: Entry) -> int:
    """The state of the world's state machine: a checksum over everything applied, in order."""
    return zlib.crc32(entry.data, zlib.crc32(repr(entry.id).encode(), before))


class Disk:
    """What survives a power cut now: the log environment and the state environment of one peer."""

    def __init__(self, membership: Membership) -> None:
        self.hard = HardState(term=1, commit=1)
        self.base, self.base_membership = ZERO, EMPTY
        self.entries: list[Entry] = [first_entry(membership)]
        self.intent: tuple[LogId, Membership] | None = None
        self.applied, self.state = ZERO, 0
        self.boot = 0

    @property
    def last(self) -> LogId:
        return self.entries[-1].id if self.entries else self.base

    def term_at(self, index: int) -> int | None:
        if index == self.base.index:
            return self.base.term
        at = index - self.base.index - 1
        return self.entries[at].term if 0 <= at < len(self.entries) else None

    def write_save(self, save: Save) -> None:
        self.hard = save.hard
        if save.first is not None:
            del self.entries[save.first - self.base.index - 1 :]
            self.entries.extend(save.entries)
        last = self.base
        for entry in self.entries:
            assert entry.index == last.index + 1, f"a gap on disk: {last}, {entry.id}"
            assert entry.term >= last.term, f"the term falls on disk: {last}, {entry.id}"
            last = entry.id
        assert self.hard.commit <= last.index, f"commit {self.hard.commit} on disk, past its last entry {last}"

    def write_purge(self, to: LogId, membership: Membership) -> None:
        assert to.index <= self.applied.index, f"purge at {to}, durably applied {self.applied}"
        self.entries = [e for e in self.entries if e.index > to.index]
        self.base, self.base_membership = to, membership

    def write_reset(self, at: LogId, membership: Membership) -> None:
        kept = self.term_at(at.index) == at.term and at.index > self.base.index
        self.entries = [e for e in self.entries if kept and e.index > at.index]
        self.base, self.base_membership, self.intent = at, membership, None

    def write_flip(self, at: LogId, state: int) -> None:
        self.applied, self.state = at, state

    def recover(self) -> Restored:
        """What a start does (`durable.recover`)."""
        if self.intent is not None:
            if self.intent[0] == self.applied:
                self.write_reset(*self.intent)
            self.intent = None
        assert self.base.index <= self.applied.index <= self.last.index, f"{self.base} {self.applied} {self.last}"
        assert self.term_at(self.applied.index) == self.applied.term, f"applied {self.applied} is not in the log"
        self.boot += 1
        return Restored(self.hard, self.base, self.base_membership, tuple(self.entries), self.applied, self.boot)


@dataclass(slots=True)
class Chance:
    """How bad the world is. Times in virtual seconds, the rest are probabilities."""

    loss: float = 0.0
    double: float = 0.0
    late: float = 0.0
    late_s: float = 1.0
    commit_s: float = 0.001
    slow_disk: float = 0.0
    slow_disk_s: float = 0.5
    clock_speed: float = 0.0


class Writer:
    """The jobs of one environment of a peer, one after another: each happens at one instant, and is announced later."""

    def __init__(self, world: World, peer: Peer) -> None:
        self.world, self.peer = world, peer
        self.jobs: deque[tuple[Callable[[], Any], Callable[[], Any]]] = deque()

    def submit(self, job: Callable[[], Any], done: Callable[[], Any]) -> None:
        self.jobs.append((job, done))
        if len(self.jobs) == 1:
            self._begin()

    def _begin(self) -> None:
        chance, rng = self.world.chance, self.world.rng
        takes = chance.commit_s * rng.uniform(0.5, 1.5)
        if rng.random() < chance.slow_disk:
            takes = rng.uniform(0, chance.slow_disk_s)
        self.world.after(takes * rng.uniform(0.2, 1), self._commit, self.peer.starts, takes)

    def _commit(self, starts: int, takes: float) -> None:
        if self.peer.starts == starts:  # else the peer died before that instant: nothing of it exists
            self.jobs[0][0]()
            self.world.after(takes * self.world.rng.uniform(0, 1), self._announce, starts)

    def _announce(self, starts: int) -> None:
        if self.peer.starts != starts:
            return
        _, done = self.jobs.popleft()
        if self.jobs:
            self._begin()
        self.peer.post(done)


@dataclass(slots=True)
class Question:
    """A read on its way: it must see at least `floor`, what was acknowledged before it began."""

    floor: int
    lease: bool = False


class Peer:
    """One peer: its disk, and while it is up its core and the volatile state of its machine."""

    def __init__(self, world: World, me: PeerId, membership: Membership) -> None:
        self.world, self.me, self.membership = world, me, membership
        self.disk = Disk(membership)
        self.starts = 0
        self.core: RaftCore | None = None
        self.paused = False
        self.inbox: deque[Callable[[], Any]] = deque()
        self.speed = 1 + world.rng.uniform(-1, 1) * world.chance.clock_speed
        self.offset = world.rng.uniform(0, 1000)
        self.waiting: dict[int, LogId] = {}
        self.timer_due = float("inf")
        self.purging = False

    @property
    def up(self) -> RaftCore:
        assert self.core is not None, f"peer {self.me} is down"
        return self.core

    def clock(self) -> float:
        return self.offset + self.speed * self.world.now

    # --- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self.starts += 1
        restored = self.disk.recover()
        rng = Random(f"{self.world.seed}/{self.me}/{self.starts}")
        self.core = RaftCore(self.me, self.world.config, restored, rng, self.clock())
        self.applied, self.state = self.disk.applied, self.disk.state
        self.flushing = self.purging = False
        self.inbox.clear()
        self.waiting.clear()
        self.paused = False
        self.log, self.states = Writer(self.world, self), Writer(self.world, self)
        self.seen: Snapshot = snapshot(self.core)
        check(self.core)
        self.timer_due = float("inf")
        self.set_timer()

    def crash(self) -> None:
        """Nothing of it runs any more; what was durable stays."""
        self.starts += 1
        self.core = None
        self.inbox.clear()

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        """First the inbox, then the timers: a pause must not become an election."""
        self.paused = False
        while self.core is not None and self.inbox:
            self.inbox.popleft()()
        if self.core is not None:
            self.timer_due = float("inf")
            self.set_timer()

    def post(self, call: Callable[[], Any]) -> None:
        """Run `call` now, or when the pause is over."""
        if self.core is None:
            return
        if self.paused:
            self.inbox.append(call)
        else:
            call()

    # --- the node's part -----------------------------------------------------------------------------------------

    def act(self, call: Callable[[RaftCore, float], Any]) -> Any:
        """One call on the core, then all its effects, with every check after each."""
        core = self.up
        result = call(core, self.clock())
        self.look()
        while effects := core.take():
            check_taken(core, effects)
            self.look()
            self.carry_out(core, effects)
        self.set_timer()
        return result

    def look(self) -> None:
        self.world.steps += 1
        check(self.up)
        self.seen = check_step(self.seen, self.up)
        self.world.witness.observe(self.up)

    def carry_out(self, core: RaftCore, effects: Effects) -> None:
        if effects.save is not None:
            self.save(effects.save)
        for envelope in effects.send:
            self.send(envelope)
        if effects.truncated is not None:
            self.waiting = {i: at for i, at in self.waiting.items() if i < effects.truncated}
        if effects.committed:
            self.apply(core, effects.committed)
        for read in effects.reads:
            if read.ready:
                self.world.answered(self, read.token)
        for envelope in effects.images:
            self.on_image(core, envelope)
        for peer in effects.image_wanted:
            self.send_image(peer)

    def save(self, save: Save) -> None:
        self.log.submit(
            lambda: self.disk.write_save(save), lambda: self.act(lambda core, now: core.saved(save.ticket, now))
        )

    def send(self, envelope: Envelope) -> None:
        self.check_promise(envelope)
        self.world.transmit(envelope)

    def check_promise(self, envelope: Envelope) -> None:
        """Law 2 against the disk itself: what leaves would still be true after a power cut now."""
        disk, message, term = self.disk, envelope.message, self.up.state.term
        text = f"peer {self.me} sent {message} with {disk.hard} and the log up to {disk.last} on disk"
        match message:
            case RequestVote(pre=False) if message.term == term:
                assert disk.hard.term == term and disk.hard.vote == self.me, text
            case VoteReply(granted=True, pre=False) if message.term == term:
                assert disk.hard.term == term and disk.hard.vote == envelope.to, text
            case AppendReply(match=int(index)) | HeartbeatReply(match=index) if index > 0:
                self.check_durable(index, text)
            case ImageReply(image=(_, at), installed=True):
                self.check_durable(at.index, text)
            case _:
                pass

    def check_durable(self, index: int, text: str) -> None:
        """The term and the log up to `index` are on the disk."""
        disk, state = self.disk, self.up.state
        assert disk.hard.term >= state.term, text
        for at in range(max(disk.base.index, state.log.base.index), index + 1):
            assert disk.term_at(at) == state.log.term_at(at), f"{text}: term {disk.term_at(at)} at {at}"

    def apply(self, core: RaftCore, entries: tuple[Entry, ...]) -> None:
        self.check_durable(entries[-1].index, f"peer {self.me} applies up to {entries[-1].id}")
        for entry in entries:
            assert entry.index == self.applied.index + 1, f"applying {entry.id} after {self.applied}"
            self.applied, self.state = entry.id, chained(self.state, entry)
            if self.waiting.pop(entry.index, None) == entry.id:
                self.world.acknowledged(entry)
        core.applied(entries[-1].index)
        self.look()

    # --- flush, purge, images ------------------------------------------------------------------------------------

    def flush(self, then: Callable[[], Any] = lambda: None) -> None:
        """Write the applied state behind."""
        core = self.up
        if self.flushing or core.state.installing is not None:
            return
        at, state = self.applied, self.state
        self.flushing = True

        def done() -> None:
            self.flushing = False
            then()

        self.states.submit(lambda: self.disk.write_flip(at, state), done)

    def purge(self) -> None:
        """Flush, then drop the log up to somewhere at or below what is flushed."""

        def flushed() -> None:
            core = self.up
            if self.purging or core.state.installing is not None or self.disk.applied.index <= core.state.log.base.index:
                return
            log = core.state.log
            to = log.id_at(self.world.rng.randint(log.base.index, self.disk.applied.index))
            membership = log.membership_at(to.index)
            self.purging = True

            def purged() -> None:
                self.purging = False
                self.act(lambda core, now: core.compacted(to))

            self.log.submit(lambda: self.disk.write_purge(to, membership), purged)

        self.flush(flushed)

    def send_image(self, to: PeerId) -> None:
        """One piece: the durable state. Given up after a while, as a node does."""
        core, starts, term = self.up, self.starts, self.up.state.term
        at = self.disk.applied
        data = dumps(self.disk.state)
        chunk = ImageChunk(term, (100 + self.me, at), self.membership, 0, True, data, zlib.crc32(data))
        self.send(Envelope(self.me, to, chunk))

        def ended() -> None:
            if self.starts == starts and core.state.term == term:
                self.post(lambda: self.act(lambda core, now: core.image_ended(to)))

        self.world.after(0.5, ended)

    def on_image(self, core: RaftCore, envelope: Envelope) -> None:
        chunk = envelope.message
        if not isinstance(chunk, ImageChunk) or core.state.installing is not None:
            return
        at, state = chunk.image[1], loads(chunk.data)
        reply = ImageReply(chunk.term, chunk.image, 1, installed=True)
        if at.index <= min(core.state.commit, core.state.durability.stable):
            core.acknowledge_image(envelope.sender, reply)
            return
        if self.purging or not core.begin_install(at):
            return
        membership = chunk.membership

        def installed() -> None:
            self.applied, self.state, self.flushing = at, state, False
            self.waiting = {i: where for i, where in self.waiting.items() if i > at.index}

            def finish(core: RaftCore, now: float) -> None:
                core.installed(at, membership)
                core.acknowledge_image(envelope.sender, ImageReply(core.state.term, chunk.image, 1, installed=True))

            self.act(finish)
            self.world.marks["image installed"] = self.world.marks.get("image installed", 0) + 1

        def flipped() -> None:
            self.log.submit(lambda: self.disk.write_reset(at, membership), installed)

        def intended() -> None:
            self.states.submit(lambda: self.disk.write_flip(at, state), flipped)

        def intend() -> None:
            self.disk.intent = (at, membership)

        self.log.submit(intend, intended)

    # --- time ----------------------------------------------------------------------------------------------------

    def set_timer(self) -> None:
        due = self.up.deadline()
        if due == float("inf"):
            self.timer_due = due
            return
        at = max((due - self.offset) / self.speed, self.world.now) + 1e-6
        if at < self.timer_due or self.timer_due < self.world.now:
            self.timer_due = at
            self.world.at(at, self.on_timer, self.starts, at)

    def on_timer(self, starts: int, at: float) -> None:
        if self.starts != starts or self.core is None or self.paused or at != self.timer_due:
            return
        self.timer_due = float("inf")
        if self.clock() >= self.core.deadline():
            self.act(lambda core, now: core.on_time(now))
        else:
            self.set_timer()


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

    def propose(self, peer: Peer, count: int = 1, size: int = 0) -> None:
        items = []
        for _ in range(count):
            self.proposed += 1
            items.append(Proposal(dumps(self.proposed) + bytes(size)))
        outcomes: list[Any] = peer.up.propose_many(items, peer.clock())
        peer.waiting.update({at.index: at for at in outcomes if isinstance(at, LogId)})
        peer.act(lambda core, now: None)

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

    def settle(self, seconds: float = 10.0) -> None:
        """Run until one leader has a fresh entry applied at everybody; fail if that takes longer."""
        end = self.now + seconds
        wanted: int | None = None
        while self.now < end:
            self.run(0.1)
            if wanted is None and len(self.leaders()) == 1:
                before = self.proposed
                self.propose(self.leaders()[0])
                wanted = before + 1
            if wanted is not None:
                at = {p.applied for p in self.peers}
                if len(at) == 1 and any(e.data == dumps(wanted) for e in self.witness.committed.values()):
                    return
                if len(self.leaders()) == 1 and not any(wanted_in(p, wanted) for p in self.leaders()):
                    wanted = None
        states = [(p.me, p.up.state.role_name.name, p.up.state.term, p.applied, p.up.state.log.last) for p in self.peers]
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


def wanted_in(peer: Peer, wanted: int) -> bool:
    """The entry is in the peer's log, or committed and purged."""
    log = peer.up.state.log
    entries = log.slice(log.base.index + 1, log.last.index, 1 << 62)
    return any(e.data == dumps(wanted) for e in entries) or wanted in ()


class Chaos:
    """Faults and clients at random, from the world's own chance."""

    def __init__(self, world: World, *, lease: bool = True, transfers: bool = True) -> None:
        self.world = world
        self.lease = lease
        self.transfers = transfers

    def run(self, seconds: float) -> None:
        world, rng = self.world, self.world.rng
        end = world.now + seconds
        while world.now < end:
            world.run(rng.expovariate(30))
            self.client()
            if rng.random() < 0.2:
                self.fault()

    def client(self) -> None:
        world, rng = self.world, self.world.rng
        running = world.running()
        if not running:
            return
        peer = rng.choice(world.leaders() or running)
        what = rng.random()
        if what < 0.5:
            world.propose(peer, rng.randint(1, 4))
        elif what < 0.8 or not self.lease:
            world.read(peer)
        else:
            world.lease_read(peer)

    def fault(self) -> None:
        world, rng = self.world, self.world.rng
        peer = rng.choice(world.peers)
        match rng.choice(("crash", "crash", "start", "start", "cut", "heal", "pause", "purge", "flush", "transfer")):
            case "crash" if peer.core is not None:
                peer.crash()
            case "start" if peer.core is None:
                peer.start()
            case "cut":
                side = {p.me for p in world.peers if rng.random() < 0.5}
                world.partition(side, {p.me for p in world.peers} - side)
                if rng.random() < 0.3:  # one-way
                    world.cut = {pair for pair in world.cut if pair[0] < pair[1]}
            case "heal":
                world.cut = set()
            case "pause" if peer in world.running():
                peer.pause()
                starts = peer.starts
                world.after(rng.uniform(0, 1.5), lambda: peer.starts == starts and peer.resume())
            case "purge" if peer in world.running():
                peer.purge()
            case "flush" if peer in world.running():
                peer.flush()
            case "transfer" if self.transfers and world.leaders():
                leader = rng.choice(world.leaders())
                leader.act(lambda core, now: core.transfer(peer.me, now))
            case _:
                pass
