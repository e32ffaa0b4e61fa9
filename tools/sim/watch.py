"""Cores under watch: after every call of a core its state, its step and its group are checked, and every promise that leaves
is held against what a power cut at that moment would leave on its disk."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from raftlog.codec import loads, unpack_entry, unpack_hard_state, unpack_log_id
from raftlog.config import RaftConfig
from raftlog.core import RaftCore
from raftlog.durable import CorruptLog, index_key, read_base, read_entries
from raftlog.invariants import ALL_BYTES, GroupWitness, InvariantBroken, check, check_step, check_taken, snapshot
from raftlog.leading import Refusal
from raftlog.messages import AppendReply, Envelope, HeartbeatReply, ImageReply, Message, RequestVote, VoteReply
from raftlog.roles import Leader
from raftlog.state import Effects
from raftlog.types import HardState, LogId, Membership, PeerId, Restored
from store.engine import CorruptRecord
from store.memory_engine import MemoryDisk, MemoryEngine


class Watch:
    """All the cores of a world. `steps` counts the checked calls; `rare` the branches that cores say are rare, of cores that
    are gone too. With `invariants` off nothing is checked, only counted."""

    def __init__(self, *, invariants: bool = True) -> None:
        self.invariants = invariants
        self.groups: dict[int, GroupWitness] = {}
        self.cores: list[tuple[int, WatchedCore]] = []
        self.latest: dict[tuple[int, PeerId], WatchedCore] = {}
        """Of each peer of a group the core that it runs, or ran when it died."""
        self.promised: dict[tuple[int, PeerId], int] = {}
        """The latest term in which a peer of a group gave a promise: no restart may forget it."""
        self.steps = 0
        self.on_role: Callable[[int, PeerId, str, int], None] | None = None
        """Called with (gid, peer, role, term) whenever one of them changes."""

    def core_of(
        self, gid: int, disk: MemoryDisk, clock: Callable[[], float]
    ) -> Callable[[PeerId, RaftConfig, Restored, Random, float], RaftCore]:
        """Makes the watched cores of one peer. `clock` is the one its node reads."""
        witness = self.groups.setdefault(gid, GroupWitness())

        def make(me: PeerId, config: RaftConfig, restored: Restored, rng: Random, now: float) -> RaftCore:
            core = WatchedCore(self, gid, witness, disk, clock, me, config, restored, rng, now)
            self.cores.append((gid, core))
            self.latest[gid, me] = core
            return core

        return make

    @property
    def rare(self) -> dict[str, int]:
        """How often each rare branch was reached."""
        found: dict[str, int] = {}
        for _, core in self.cores:
            for name, count in core.state.rare.items():
                found[name] = found.get(name, 0) + count
        return found

    def forget(self, gid: int, peer: PeerId) -> None:
        """The peer's disk is gone, and its successor knows nothing of it. What its group can never contradict stays."""
        self.promised.pop((gid, peer), None)
        if gid in self.groups:
            self.groups[gid].forget(peer)

    def check_logs(self, gid: int, cores: list[RaftCore]) -> None:
        """The whole logs of a group's living cores, against each other and against their disks."""
        if self.invariants:
            self.groups[gid].check_logs(cores)
            for core in cores:
                if isinstance(core, WatchedCore):
                    core.check_log_on_disk()


class WatchedCore(RaftCore):
    """A core that is looked at after every call."""

    def __init__(
        self,
        watch: Watch,
        gid: int,
        witness: GroupWitness,
        disk: MemoryDisk,
        clock: Callable[[], float],
        me: PeerId,
        config: RaftConfig,
        restored: Restored,
        rng: Random,
        now: float,
    ) -> None:
        super().__init__(me, config, restored, rng, now)
        self._watch = watch
        self._gid = gid
        self._told: tuple[str, int] = ("", 0)
        self._led = 0
        self._witness = witness
        self._disk = MemoryEngine(disk)
        self._clock = clock
        self._before = snapshot(self)
        promised = watch.promised.get((gid, me), 0)
        if watch.invariants and restored.hard.term < promised:
            raise InvariantBroken(f"peer {me} starts in term {restored.hard.term}, and has promised in term {promised}")

    def _look(self) -> None:
        self._watch.steps += 1
        if (
            self._watch.on_role is not None
            and (now := (self.state.role_name.name.lower(), self.state.term)) != self._told
        ):
            self._told = now
            self._watch.on_role(self._gid, self.state.me, *now)
        if self._watch.invariants:
            check(self)
            self._before = check_step(self._before, self)
            self._witness.observe(self)
            self._check_lease()
            if isinstance(self.state.role, Leader) and self._led < self.state.term:
                self._led = self.state.term
                self._check_leases_of_others()

    # --- calls that change it --------------------------------------------------------------------------------------

    def on_time(self, now: float) -> None:
        """See `RaftCore.on_time`."""
        super().on_time(now)
        self._look()

    def step(self, envelope: Envelope, now: float) -> None:
        """See `RaftCore.step`."""
        super().step(envelope, now)
        self._look()

    def propose_many(self, items: Any, now: float) -> list[LogId | Refusal]:
        """See `RaftCore.propose_many`."""
        outcomes = super().propose_many(items, now)
        self._look()
        return outcomes

    def read(self, token: Any, now: float) -> None:
        """See `RaftCore.read`."""
        super().read(token, now)
        self._look()

    def transfer(self, to: PeerId, now: float) -> bool:
        """See `RaftCore.transfer`."""
        taken = super().transfer(to, now)
        self._look()
        return taken

    def saved(self, ticket: int, now: float) -> None:
        """See `RaftCore.saved`."""
        save = self.state.durability.in_flight
        if self._watch.invariants and save is not None and save.first is not None:
            self._check_saved(save.first + len(save.entries) - 1)
        super().saved(ticket, now)
        self._look()

    def applied(self, index: int) -> None:
        """See `RaftCore.applied`."""
        super().applied(index)
        self._look()

    def compacted(self, to: LogId) -> None:
        """See `RaftCore.compacted`."""
        super().compacted(to)
        self._look()

    def installed(self, at: LogId, membership: Membership) -> None:
        """See `RaftCore.installed`."""
        super().installed(at, membership)
        self._look()
        if self._watch.invariants:
            self.check_log_on_disk()

    def take(self) -> Effects:
        """See `RaftCore.take`. What leaves is held against the disk. One that hands out nothing has done nothing: the look
        after the next call covers it."""
        effects = super().take()
        if not effects:
            return effects
        if self._watch.invariants:
            check_taken(self, effects)
            for envelope in effects.send:
                self._check_promise(envelope)
        self._look()
        return effects

    def _check_lease(self) -> None:
        """As long as a leader's lease lasts nobody has been elected in a later term, nor asked to be by this leader, and what
        earlier leaders acknowledged is applied."""
        state, role = self.state, self.state.role
        if not isinstance(role, Leader) or self._clock() >= self.lease_until():
            return
        latest = max(self._witness.leaders)
        wrong = f"term {latest} has a leader" if latest > state.term else ""
        if role.transfer_sent:
            wrong = "it has asked another peer to lead"
        if state.applied < role.term_start:
            wrong = f"it has applied {state.applied}, and its term starts at {role.term_start}"
        if wrong:
            raise InvariantBroken(f"peer {state.me} (term {state.term}) has a lease, but {wrong}")

    def _check_leases_of_others(self) -> None:
        """At the moment of an election: no older leader has a lease, on its own clock. One that has died had none either,
        for those who elected know nothing of its death."""
        for (gid, peer), other in self._watch.latest.items():
            left_s = other.lease_until() - other._clock()
            if gid == self._gid and other.state.term < self.state.term and left_s > 0:
                elected = f"peer {self.state.me} is elected in term {self.state.term}"
                raise InvariantBroken(
                    f"{elected} while peer {peer} (term {other.state.term}) has a lease for {left_s:g} s"
                )

    # --- promises against the disk ---------------------------------------------------------------------------------

    def _check_promise(self, envelope: Envelope) -> None:
        """Law 2 against the bytes: what leaves would still be true after a power cut now."""
        message, term = envelope.message, self.state.term
        if message.term != term:
            return
        match message:
            case RequestVote(pre=False):
                self._promised()
                hard = self._hard()
                self._require(hard.term == term and hard.vote == self.state.me, message)
            case VoteReply(granted=True, pre=False):
                self._promised()
                hard = self._hard()
                self._require(hard.term == term and hard.vote == envelope.to, message)
            case AppendReply(match=int(index)) | HeartbeatReply(match=index) if index > 0:
                self._check_durable(index, message)
            case ImageReply(image=(_, at), installed=True):
                self._check_durable(at.index, message)
            case _:
                pass

    def _check_saved(self, end: int) -> None:
        """A save up to `end` leaves no entry behind it on the disk."""
        with self._disk.read() as txn:
            last = txn.last("entries")
        if last is not None and int.from_bytes(last[0], "big") > end:
            left = int.from_bytes(last[0], "big")
            raise InvariantBroken(f"peer {self.state.me}: entry {left} is on the disk behind a save up to {end}")

    def _check_durable(self, index: int, message: Message) -> None:
        """The term, and the log's entry at `index`, are on the disk as the core has them. Those below were looked at when
        they were promised, and `check_step` sees that they stay."""
        self._promised()
        self._require(self._hard().term >= self.state.term, message)
        log = self.state.log
        if index <= log.base.index:
            return
        with self._disk.read() as txn:
            base = txn.get("meta", b"base")
            assert base is not None
            durable_base = unpack_log_id(loads(base)[0])
            if index <= durable_base.index:
                return
            payload = txn.get("entries", index_key(index))
        found = None if payload is None else unpack_entry(loads(payload)).term
        self._require(found == log.term_at(index), message)

    def check_log_on_disk(self) -> None:
        """All entries that count as durable are on the disk, not only the one that a promise names."""
        log, stable = self.state.log, self.state.durability.stable
        if self.state.installing is not None:
            return  # what the disk says is ahead of what the core knows
        try:
            with self._disk.read() as txn:
                base, _ = read_base(txn)
                first = max(base.index, log.base.index) + 1
                found = {entry.id for entry in read_entries(txn, first, stable)}
        except CorruptRecord:
            return  # a planted one: whoever reads it says so
        except CorruptLog as wrong:
            raise InvariantBroken(f"peer {self.state.me}: {wrong}") from wrong
        wanted = [entry.id for entry in log.slice(first, stable, ALL_BYTES)]
        for at in wanted:
            if at not in found:
                raise InvariantBroken(f"peer {self.state.me} counts {at} as durable, its disk has no such entry")

    def _promised(self) -> None:
        self._watch.promised[self._gid, self.state.me] = self.state.term

    def _hard(self) -> HardState:
        with self._disk.read() as txn:
            payload = txn.get("meta", b"hard")
        assert payload is not None
        return unpack_hard_state(loads(payload))

    def _require(self, holds: bool, message: Message) -> None:
        if not holds:
            state = self.state
            raise InvariantBroken(
                f"peer {state.me} (term {state.term}) sent {message}, which its disk does not bear out"
            )
