"""The node: where clock, disk, network and core meet. What others bring waits in queues for a turn. A turn is
synchronous; the node's own task takes it, or the one that brought what it is for (`Node.at_once`).

A turn of the loop: step what came in, propose what was submitted as few entries, start a read round for what wants to
read, let time pass (only after the inbox is drained and the time was sampled anew, or a pause would become an
election), then carry out the effects until there are none. A turn waits for the disk in one place, `_carry_out_all`: for
a commit that a fast disk does at once (see `store.writer`). A leader applies, and answers, before that: clients wait for
what is committed. A follower applies after it: the leader waits for the acknowledgement.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import trio

from raftlog.alarm import Alarm
from raftlog.comparing import NodeComparison
from raftlog.core import RaftCore
from raftlog.durable import JournalRecord, write_journal, write_save
from raftlog.flushing import NodeFlush
from raftlog.image import ImageName, ImageReceiver
from raftlog.image_sender import ImageSender
from raftlog.leading import Refusal
from raftlog.machine import NotLeader, NotTaken, Operation, Outcome, Unknown, encode_operations
from raftlog.messages import Envelope, ImageChunk, ImageReply, StateHash
from raftlog.net.base import Transport
from raftlog.node_values import NodeLimits, NodeStatus, Submitted, in_batches
from raftlog.reading import NodeReads
from raftlog.roles import Leader
from raftlog.rsm import Rsm
from raftlog.saves import Save
from raftlog.state import NOTHING, Effects, Event
from raftlog.types import Entry, LogId, Membership, Mode, PeerId, Proposal
from store.engine import ReadTxn, StoreError, Writer
from store.failpoints import step

T = TypeVar("T")
SAVE = step("save", "term, vote and entries")
LAST = step("last", "the last journal records of a peer that stops")


class StorageStalled(StoreError):
    """A save did not return within `storage_stall_s`."""


class Node:
    """One peer of one group, over its core, its log writer and its state machine.

    `clock` is any monotonic clock in seconds that counts suspended time; `wall_ms` gives data, never a decision.
    `fatal(exception)` is called once for trouble that the peer must die of; it may not return.
    """

    def __init__(
        self,
        core: RaftCore,
        rsm: Rsm,
        log: Writer,
        transport: Transport,
        *,
        incarnation: int,
        clock: Callable[[], float],
        wall_ms: Callable[[], int],
        fatal: Callable[[Exception], Any],
        limits: NodeLimits | None = None,
        lease_reads: bool = False,
        trouble: Callable[[str], Any] = lambda text: None,
        compare: bool = True,
    ) -> None:
        self.core = core
        self.comparison = NodeComparison(self)
        rsm.on_position = self.comparison.tell if compare else None
        self.rsm = rsm
        self.log = log
        self.transport = transport
        self.incarnation = incarnation
        self.clock = clock
        self.wall_ms = wall_ms
        self.fatal = fatal
        self.limits = limits or NodeLimits()
        self.lease_reads = lease_reads
        self.trouble = trouble
        self._inbox: deque[Envelope] = deque()
        self._submitted: list[Submitted] = []
        self._committed: list[Entry] = []
        """What a follower has to apply in this turn."""
        self._reads = NodeReads(self)
        self._journal: list[JournalRecord] = []
        self._images_in = ImageReceiver(self, rsm.machine, log, rsm.writer)
        self._image_out = ImageSender(self)
        self.flushing = NodeFlush(self)
        self._alarm = Alarm()
        self._ring: Callable[[], Any] = self._alarm.ring
        self._in_turn = False
        """A turn is under way, or follows at once."""
        self.failure: Exception | None = None
        """What a turn has raised: there is no other one, and nothing is flushed any more."""
        self._stopping = False
        self._nursery: trio.Nursery | None = None
        self._role: tuple[bool, int, PeerId | None] = (False, 0, None)
        self._role_changed = trio.Event()

    # --- what others see -----------------------------------------------------------------------------------------

    @property
    def view(self) -> ReadTxn:
        """See `ReplicatedStateMachine.view`."""
        return self.rsm.view

    def is_leader(self) -> bool:
        """Leads, as far as it knows."""
        return isinstance(self.core.state.role, Leader)

    def leader(self) -> PeerId | None:
        """Who leads, as far as this peer knows."""
        return self.core.state.leader

    async def role_change(self) -> None:
        """See `ReplicatedStateMachine.role_change`."""
        await self._role_changed.wait()

    def _look_at_role(self) -> None:
        role = (self.is_leader(), self.core.state.term, self.core.state.leader)
        if role != self._role:
            self._role = role
            self._role_changed.set()
            self._role_changed = trio.Event()

    def deliver(self, envelopes: Sequence[Envelope]) -> None:
        """Messages from the transport. Those of strangers are dropped."""
        membership = self.core.state.membership
        for envelope in envelopes:
            if not membership.voters or membership.incarnation_of(envelope.sender) is not None:
                if type(envelope.message) is StateHash:
                    self.comparison.compare(envelope.sender, envelope.message.at, envelope.message.state_hash)
                else:
                    self._inbox.append(envelope)
        self.wake()

    @property
    def no_space(self) -> bool:
        """Whether this peer's disk or map is nearly full: whoever watches it says so here."""
        return self.core.state.no_space

    @no_space.setter
    def no_space(self, alarm: bool) -> None:
        self.core.set_no_space(alarm)

    def replace_member(self, peer: PeerId, incarnation: int) -> LogId | str:
        """See `RaftCore.replace_member`; use `raftlog.replacing.take_in`."""
        outcome = self.core.replace_member(peer, incarnation, self.wall_ms(), self.clock())
        self._ring()
        return outcome

    def save_again(self) -> None:
        """Have term and vote written anew: a copy of them on the disk is damaged."""
        self.core.save_again()
        self._ring()

    def submit(self, operation: Operation, done: Callable[[Outcome], Any]) -> None:
        """See `ReplicatedStateMachine.submit`."""
        if not self.is_leader():
            done(NotLeader(self.leader()))
        elif self._stopping:
            done(NotTaken("the peer stops"))
        elif len(self._submitted) >= self.limits.queue_operations or self.rsm.full():
            done(NotTaken("busy"))
        elif self.core.short_of_space() and self.rsm.machine.grows(operation.command):
            done(NotTaken("no space"))
        else:
            self._submitted.append((operation, done))
            self.wake()

    def start(self, operation: Operation) -> LogId | None:
        """Propose at once, for a caller that watches the state machine itself; None if this peer does not lead."""
        proposal = Proposal(encode_operations([operation]), self.wall_ms())
        (outcome,) = self.core.propose_many([proposal], self.clock())
        self._ring()
        return None if isinstance(outcome, Refusal) else outcome

    def when_readable(
        self, read: Callable[[ReadTxn], T], done: Callable[[T | NotLeader | Unknown], Any], *, early: bool = False
    ) -> None:
        """See `ReplicatedStateMachine.when_readable`."""
        if not self.is_leader():
            done(NotLeader(self.leader()))
            return
        if self.lease_reads:
            value = read(self.rsm.view)
            if self.clock() < self.core.lease_until():  # sampled after the value was read
                done(value)
                return
        self._reads.add(read, done, early=early)
        self.wake()

    def status(self) -> NodeStatus:
        """A frozen picture of now."""
        state = self.core.state
        return NodeStatus(
            role=state.role_name,
            mode=state.mode,
            recover_to=state.recover_to if state.mode is Mode.RECOVERING else None,
            refill=state.refill,
            term=state.term,
            vote=state.vote,
            leader=state.leader,
            commit=state.commit,
            applied=self.rsm.applied,
            flushed=self.rsm.flushed,
            last=state.log.last,
            stable=state.durability.stable,
            base=state.log.base,
            membership=state.membership,
            state_hash=self.rsm.state_hash(),
            log_bytes=state.log.bytes,
            pending_bytes=self.rsm.overlay.size_bytes,
            boot=state.boot,
        )

    # --- the loop ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until `stop`, or for ever. A cancelled node leaves its writers and files to whoever made them."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._images_in.sweep()
            await self._live()
            nursery.cancel_scope.cancel()

    async def _live(self) -> None:
        """Turn after turn until it is stopped."""
        assert self._nursery is not None
        self._nursery.start_soon(self._alarm.run)
        while not self._stopping and self.failure is None:
            self._guarded_turn()
            if self.has_work:
                await trio.lowlevel.checkpoint()
            else:
                await self._alarm.sleep(self._due_at())
        if self.failure is not None:
            raise self.failure

    def at_once(self, sink: Callable[[Sequence[T]], None], *, alone: bool = False) -> Callable[[Sequence[T]], None]:
        """`sink`, with a turn right after each batch, in the task that brings it: to wake the node's own first would take
        as long as the turn. What a turn raises, the node's own task raises. With `alone` only if nobody waits for an
        answer: beside others a batch has company in its turn, and shares a commit with it.

        No time passes in such a turn: after a pause, what the leader has sent may lie in another socket yet.
        """

        def and_turn(batch: Sequence[T]) -> None:
            beside = alone and (self.rsm.waiters or self._submitted or self._reads.waiting)
            if beside or self._nursery is None or self._stopping or self.failure is not None:
                sink(batch)
                return
            self._in_turn = True
            sink(batch)
            self._guarded_turn(timed=False)
            if self.has_work or self.failure is not None:
                self._ring()
            else:
                self._ring_by()

        return and_turn

    def _ring_by(self) -> None:
        """A turn is wanted once one is due."""
        self._alarm.by(self._due_at())

    def _guarded_turn(self, *, timed: bool = True) -> None:
        """A turn, the last one if it raises: an entry may be half applied then, and must not be flushed as a whole one."""
        try:
            self._turn(timed=timed)
        except Exception as failure:  # noqa: BLE001  # tidy: the node's task raises it
            self.failure = failure

    def _due_at(self) -> float:
        return trio.current_time() + max(self.due() - self.clock(), 0.0002)

    def wake(self) -> None:
        """A turn is wanted soon."""
        if not self._in_turn:
            self._ring()

    @property
    def has_work(self) -> bool:
        """Something came in that the next turn takes up."""
        return bool(self._inbox or self._submitted or self._reads)

    def due(self) -> float:
        """When the next turn must be at the latest, on this node's clock."""
        due = self.core.deadline()
        return due if self.flushing.due is None else min(due, self.flushing.due)

    def _turn(self, *, timed: bool = True) -> None:
        self._in_turn = True
        core = self.core
        for _ in range(min(len(self._inbox), self.limits.inbox_slice)):
            core.step(self._inbox.popleft(), self.clock())
        self._propose()
        self._reads.ask()
        if timed and not self._inbox:
            now = self.clock()
            if now >= core.deadline():
                core.on_time(now)
        self._carry_out_all()
        while self._committed:
            self._apply()
            self._carry_out_all()
        self._reads.work()
        if core.state.stalled:
            self.fatal(StorageStalled(f"a save took longer than {core.state.config.storage_stall_s} s"))
        self._look_at_role()
        self.flushing.work()
        self._in_turn = False

    def _propose(self) -> None:
        if not self._submitted:
            return
        submitted, self._submitted = self._submitted, []
        batches = list(in_batches(submitted, self.limits))
        time_ms = self.wall_ms()
        proposals = [Proposal(encode_operations([op for op, _ in batch]), time_ms) for batch in batches]
        outcomes = self.core.propose_many(proposals, self.clock())
        for batch, outcome in zip(batches, outcomes, strict=True):
            if isinstance(outcome, Refusal):
                leader = self.leader()
                refused = NotLeader(leader) if outcome is Refusal.NOT_LEADER else NotTaken(outcome.name.lower())
                for _, done in batch:
                    done(refused)
            else:
                self.rsm.expect(outcome, [op for op, _ in batch], [done for _, done in batch])

    def _carry_out_all(self) -> None:
        """All effects there are; what is to be sent leaves before the disk is asked (`Writer.settle`)."""
        while True:
            while (effects := self.core.take()) is not NOTHING:
                self._carry_out(effects)
            if not self.log.settle():
                return

    def _carry_out(self, effects: Effects) -> None:
        if effects.events:
            self._note(effects.events)
        if effects.save is not None:
            self._save(effects.save)
        if effects.send:
            self.transport.send(effects.send)
        if effects.truncated is not None:
            self.rsm.release(effects.truncated, "its entry was overwritten here")
        self._committed += effects.committed
        if self._committed and self.is_leader():
            self._apply()
        for read in effects.reads:
            self._reads.answer(read)
        for envelope in effects.images:
            self._on_image(envelope)
        for peer in effects.image_wanted:
            self._send_image_to(peer)

    def _apply(self) -> None:
        committed, self._committed = self._committed, []
        self.rsm.apply(committed, self.core.state.log.membership_at)
        self.core.applied(committed[-1].id.index)

    def _note(self, events: Sequence[Event]) -> None:
        time_ms, boot = self.wall_ms(), self.core.state.boot
        self._journal.extend(JournalRecord(time_ms, boot, e.name, e.term, e.peer) for e in events)
        del self._journal[:-256]

    def _save(self, save: Save) -> None:
        journal, self._journal = self._journal, []
        # A flush is slow work for the same disk: behind it a save would stop the loop for longer.
        submit = self.log.submit_soon if self.rsm.flushing is None else self.log.submit
        submit(lambda txn: write_save(txn, save, journal), lambda _: self._saved(save.ticket), SAVE)

    def _saved(self, ticket: int) -> None:
        self.core.saved(ticket, self.clock())
        self.wake()

    # --- images --------------------------------------------------------------------------------------------------

    def has(self, at: LogId) -> bool:
        """See `ImageHost.has`."""
        state = self.core.state
        return at.index <= min(state.commit, state.durability.stable) and not state.refill

    def reply(self, to: PeerId, image: ImageName, wanted: int, *, installed: bool = False) -> None:
        """See `ImageHost.reply`."""
        self.core.acknowledge_image(to, ImageReply(self.core.state.term, image, wanted, installed))
        self._ring()

    def begin_install(self, at: LogId) -> bool:
        """See `ImageHost.begin_install`."""
        return not self.flushing.purging and self.core.begin_install(at)

    def finish_install(self, at: LogId, membership: Membership) -> None:
        """See `ImageHost.finish_install`."""
        self.core.installed(at, membership)
        self.rsm.reopen()
        self._note([Event("image installed", self.core.state.term, None)])
        self._ring()

    def _on_image(self, envelope: Envelope) -> None:
        if isinstance(envelope.message, ImageChunk):
            self._images_in.on_chunk(envelope)
            return
        assert isinstance(envelope.message, ImageReply)
        self._image_out.on_reply(envelope.sender, envelope.message)

    def _send_image_to(self, peer: PeerId) -> None:
        assert self._nursery is not None
        if self._image_out.peer is not None:
            self.core.image_ended(peer)  # one at a time; asked again when the peer is heard
        else:
            self._image_out.peer = peer
            self._nursery.start_soon(self._image_out.send, peer)

    @property
    def image_pin(self) -> int | None:
        """The log is needed from here on by whoever gets an image now; None if nobody does."""
        return self._image_out.pin

    def image_ended(self, peer: PeerId, *, installed: bool) -> None:
        """A transfer is over, for whatever reason."""
        if not installed:
            self.core.image_ended(peer)
        if not self._stopping:
            self.flushing.purge()  # what the transfer has pinned
        self._ring()

    # --- the end -------------------------------------------------------------------------------------------------

    async def hand_over(self) -> bool:
        """If this peer leads, give leadership to the peer that is furthest. True if it does not lead afterwards."""
        role = self.core.state.role
        if isinstance(role, Leader):
            now = self.clock()
            voters = [p for p in self.core.state.peers() if self.core.state.membership.is_voter(p)]
            alive = [p for p in voters if role.progress[p].may_lead(now - self.core.state.config.election_min_s)]
            if alive:
                to = max(alive, key=lambda p: (role.progress[p].match, -p))
                self.core.transfer(to, now)
                self._ring()
                with trio.move_on_after(2 * self.core.state.config.election_max_s):
                    while self.is_leader():
                        await trio.sleep(0.005)
        return not self.is_leader()

    async def stop(self) -> None:
        """End in good order: hand over, flush, write the journal, release who waits. `run` returns."""
        await self.hand_over()
        with trio.move_on_after(self.core.state.config.storage_stall_s):
            await self.flushing.all_flushed()
        self._note([Event("stop", self.core.state.term, None)])
        journal, self._journal = self._journal, []
        self.log.submit(lambda txn: write_journal(txn, journal), lambda _: None, LAST)
        self._stopping = True
        self._ring()
        self.close()

    def close(self) -> None:
        """Answer everybody who waits, with "unknown" where that is the truth. Touches no disk."""
        for _, done in self._submitted:
            done(NotTaken("the peer stops"))
        self._submitted.clear()
        self._reads.close()
        self.rsm.close()
