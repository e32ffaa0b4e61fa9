"""One peer of the world of cores: its disk, its core while it is up, and what a node does with a core's effects."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from raftlog.codec import dumps, loads
from raftlog.core import RaftCore
from raftlog.invariants import Snapshot, check, check_step, check_taken, snapshot
from raftlog.messages import Envelope, ImageChunk, ImageReply
from raftlog.saves import Save
from raftlog.state import Effects
from raftlog.types import Entry, LogId, Membership, PeerId
from tests.raftlog.core_disk import Disk, chained, check_durable, check_promise

if TYPE_CHECKING:
    from tests.raftlog.core_world import World


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
        check_promise(self.up, self.disk, envelope)
        self.world.transmit(envelope)

    def apply(self, core: RaftCore, entries: tuple[Entry, ...]) -> None:
        check_durable(core, self.disk, entries[-1].index, f"peer {self.me} applies up to {entries[-1].id}")
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
            if (
                self.purging
                or core.state.installing is not None
                or self.disk.applied.index <= core.state.log.base.index
            ):
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
