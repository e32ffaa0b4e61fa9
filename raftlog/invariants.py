"""The invariants of the Raft core as code: a legal state, a legal step, a legal hand-out, and a legal group.

`check` and `check_step` look at one core; `check_taken` at what a `take()` handed out; `GroupWitness` watches all cores
of a group and remembers what a group may never contradict (figure 3: election safety, leader append-only, log matching,
leader completeness, state machine safety). Run after every step in tests and simulation.

A check reads a core and never changes it. Its cost is in the entries above commit, not in the length of the log, but
for `GroupWitness.check_logs`, which compares whole logs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raftlog.core import RaftCore
from raftlog.messages import AppendReply, HeartbeatReply, ImageReply, RequestVote, VoteReply
from raftlog.roles import Candidate, Flow, Leader, Progress, quorum_value
from raftlog.state import CoreState, Effects
from raftlog.types import Entry, LogId, PeerId, Role

ALL_BYTES = 1 << 62


class InvariantBroken(AssertionError):
    """A core or a group is where no rule leads. A programmer's error: the text carries peer and numbers."""


def _broken(core: RaftCore, text: str) -> InvariantBroken:
    state = core.state
    return InvariantBroken(f"peer {state.me} (term {state.term}, {state.role_name.name.lower()}): {text}")


# --- a legal state -----------------------------------------------------------------------------------------------


def check(core: RaftCore) -> None:
    """A legal state of one core, between any two calls. Raises `InvariantBroken`."""
    state = core.state
    _check_positions(core, state)
    _check_durability(core, state)
    match state.role:
        case Leader() as leader:
            _check_leader(core, state, leader)
        case Candidate(pre=pre):
            if not pre and state.vote != state.me:
                raise _broken(core, f"a candidate whose vote is {state.vote}")
        case _:
            pass


def _check_positions(core: RaftCore, state: CoreState) -> None:
    base, last, stable = state.log.base.index, state.log.last, state.durability.stable
    order = (base, state.applied, state.handed, min(state.commit, stable))
    if list(order) != sorted(order):
        text = f"not base {base} <= applied {state.applied} <= handed {state.handed} <= min(commit {state.commit}"
        raise _broken(core, f"{text}, stable {stable})")
    if state.commit > last.index:
        raise _broken(core, f"commit {state.commit} is past the last entry {last}")
    if stable > last.index:
        raise _broken(core, f"stable {stable} is past the last entry {last}")
    if state.term < last.term:
        raise _broken(core, f"the last entry {last} is of a later term")


def _check_durability(core: RaftCore, state: CoreState) -> None:
    durability, last = state.durability, state.log.last.index
    save, stable, dirty = durability.in_flight, durability.stable, durability.dirty
    if durability.durable_generation > durability.generation:
        raise _broken(
            core, f"hard state {durability.durable_generation} is durable, the newest is {durability.generation}"
        )
    if (save is None) != (durability.in_flight_since is None):
        raise _broken(core, f"save {save} without its time")
    if dirty is not None and not (stable < dirty <= last + 1):
        raise _broken(core, f"dirty {dirty}, stable {stable}, last {last}")
    if stable < last and not (dirty is not None and dirty <= stable + 1):
        covered = save is not None and save.first is not None and save.first <= stable + 1
        end = save.first + len(save.entries) if save is not None and save.first is not None else 0
        if not covered or (last + 1 if dirty is None else dirty) > end:
            raise _broken(
                core, f"entries above stable {stable} up to {last} are in no save: in flight {save}, dirty {dirty}"
            )
    for promise in durability.held:
        if promise.term >= state.term and (promise.term != state.term or promise.index > last):
            raise _broken(core, f"promise {promise} for a log up to {last}")


def _check_leader(core: RaftCore, state: CoreState, leader: Leader) -> None:
    last = state.log.last.index
    if state.vote != state.me:
        raise _broken(core, f"leads, but voted for {state.vote}")
    if not state.electable and state.installing is None:
        raise _broken(core, "leads, but is not electable")
    start = state.log.term_at(leader.term_start)
    if start != state.term and (start is not None or leader.term_start >= state.log.base.index):
        raise _broken(core, f"its term should start at {leader.term_start}, where the log has term {start}")
    if sorted(leader.progress) != state.peers():
        raise _broken(core, f"progress {sorted(leader.progress)}, {state.peers()}")
    for peer, progress in leader.progress.items():
        _check_progress(core, peer, progress, last)
    contexts = [r.context for r in (*leader.confirmed, *leader.rounds)]
    if contexts != sorted(set(contexts)):
        raise _broken(core, f"read rounds out of order: {contexts}")
    if contexts and contexts[-1] > leader.context:
        raise _broken(core, f"round {contexts} past context {leader.context}")
    for read_round in (*leader.confirmed, *leader.rounds):
        if not (leader.term_start <= read_round.index <= state.commit):
            begun = f"the term starts at {leader.term_start}, commit {state.commit}"
            raise _broken(core, f"a read at {read_round.index}: {begun}")
    waiting, most = leader.waiting_reads(), state.config.reads_max
    if waiting > most:
        raise _broken(core, f"{waiting} reads wait, at most {most}")


def _check_progress(core: RaftCore, peer: PeerId, progress: Progress, last: int) -> None:
    match, following = progress.match, progress.next
    if not (match < following <= last + 1):
        raise _broken(core, f"peer {peer}: match {match}, next {following}, last {last}")
    size = sum(item[1] for item in progress.inflight)
    if size != progress.inflight_bytes:
        raise _broken(core, f"peer {peer}: {size} bytes in flight, {progress.inflight_bytes} counted")
    if len(progress.inflight) > core.state.config.window_messages:
        raise _broken(core, f"peer {peer}: {len(progress.inflight)} appends in flight")
    ends = [item[0] for item in progress.inflight]
    if ends != sorted(set(ends)):
        raise _broken(core, f"peer {peer}: appends in flight out of order: {ends}")
    if ends and progress.flow is not Flow.STREAM:
        raise _broken(core, f"peer {peer}: in flight {ends} in {progress.flow.name}")
    if ends and match >= ends[0]:
        raise _broken(core, f"peer {peer}: match {match} but {ends} still in flight")


# --- a legal step ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What `check_step` compares. `tail` are the entries above `commit`, `rounds` (context, index) of the reads that wait."""

    me: PeerId
    boot: int
    now: float
    role: Role
    term: int
    vote: PeerId | None
    commit: LogId
    handed: int
    applied: int
    stable: int
    durable_generation: int
    ticket: int
    base: LogId
    last: LogId
    tail: tuple[Entry, ...]
    rounds: tuple[tuple[int, int], ...]


def snapshot(core: RaftCore) -> Snapshot:
    """A picture of now, for `check_step`."""
    state = core.state
    save = state.durability.in_flight
    return Snapshot(
        me=state.me,
        boot=state.boot,
        now=state.now,
        role=state.role_name,
        term=state.term,
        vote=state.vote,
        commit=state.log.id_at(state.commit),
        handed=state.handed,
        applied=state.applied,
        stable=state.durability.stable,
        durable_generation=state.durability.durable_generation,
        ticket=save.ticket if save is not None else 0,
        base=state.log.base,
        last=state.log.last,
        tail=state.log.slice(state.commit + 1, state.log.last.index, ALL_BYTES),
        rounds=_rounds(state),
    )


def _rounds(state: CoreState) -> tuple[tuple[int, int], ...]:
    match state.role:
        case Leader(confirmed=confirmed, rounds=rounds):
            return tuple((r.context, r.index) for r in (*confirmed, *rounds))
        case _:
            return ()


def check_step(before: Snapshot, core: RaftCore) -> Snapshot:
    """A legal step of one core from `before` to now, by any number of calls; gives the picture of now. Raises
    `InvariantBroken`. A restart is no step: begin with a new `snapshot` after it."""
    after = snapshot(core)
    if after.me != before.me or after.boot != before.boot:
        raise _broken(core, f"a step from peer {before.me}, {before.boot}")
    if after.now < before.now:
        raise _broken(core, f"time went back: {before.now} -> {after.now}")
    if after.term < before.term:
        raise _broken(core, f"the term went back: {before.term} -> {after.term}")
    if after.term == before.term:
        if before.vote not in (None, after.vote):
            raise _broken(core, f"the vote changed: {before.vote} -> {after.vote}")
        if after.role is Role.LEADER and before.role not in (Role.CANDIDATE, Role.LEADER):
            raise _broken(core, f"leads out of being {before.role.name.lower()}")
    for name, old, new in (
        ("commit", before.commit.index, after.commit.index),
        ("handed", before.handed, after.handed),
        ("applied", before.applied, after.applied),
        ("base", before.base.index, after.base.index),
        ("durable generation", before.durable_generation, after.durable_generation),
    ):
        if new < old:
            raise _broken(core, f"{name} went back: {old} -> {new}")
    if after.ticket != 0 and after.ticket < before.ticket:
        raise _broken(core, f"save {before.ticket} -> {after.ticket}")
    _check_log_step(core, before, after)
    if after.role is Role.LEADER and before.role is Role.LEADER and before.term == after.term:
        _check_led_on(core, before, after)
    return after


def _check_log_step(core: RaftCore, before: Snapshot, after: Snapshot) -> None:
    log = core.state.log
    if before.commit.index >= log.base.index:
        now = log.id_at(before.commit.index)
        if now != before.commit:
            raise _broken(core, f"the committed entry {before.commit} became {now}")
    if after.stable < min(before.stable, before.commit.index):
        raise _broken(core, f"stable fell to {after.stable}")
    changed = next((e for e in before.tail if e.index > log.base.index and log.term_at(e.index) != e.term), None)
    if changed is None:
        return
    to = log.term_at(changed.index)
    if before.role is Role.LEADER and after.term <= before.term:
        raise _broken(core, f"a leader's own entry {changed.id} became term {to}")


def _check_led_on(core: RaftCore, before: Snapshot, after: Snapshot) -> None:
    """What a leader does in its term: it commits entries of that term only (section 5.4.2), and answers reads whose round a
    quorum has acknowledged (thesis, 6.4) and whose index it has applied."""
    state, leader = core.state, core.state.role
    assert isinstance(leader, Leader)
    if after.stable < before.stable:
        raise _broken(core, f"a leader's stable fell: {before.stable} -> {after.stable}")
    if after.commit.index > before.commit.index and after.commit.term != state.term:
        raise _broken(core, f"counted {after.commit}, an entry of an older term, as committed")
    seen = [(peer, float(p.context)) for peer, p in leader.progress.items() if p.counts]
    confirmed = quorum_value(state.membership, [*seen, (state.me, float("inf"))])
    for context, index in before.rounds:
        if (context, index) not in after.rounds and (index > state.applied or context > confirmed):
            behind = f"applied {state.applied}, a quorum has acknowledged {confirmed:g}"
            raise _broken(core, f"answered the reads at {index} of round {context}: {behind}")


# --- a legal hand-out --------------------------------------------------------------------------------------------


def check_taken(core: RaftCore, effects: Effects) -> None:
    """Right after `effects = core.take()`: laws 1, 2 and 5. Raises `InvariantBroken`."""
    state, durability = core.state, core.state.durability
    if effects.save is not None:
        if durability.in_flight is not effects.save:
            raise _broken(core, f"save {effects.save} handed out, not in flight")
        hard = effects.save.hard
        if hard.term != state.term:
            raise _broken(core, f"a save of term {hard.term}")
    for promise in durability.held:
        if promise.term != state.term:
            raise _broken(core, f"a promise of another term is still held: {promise}")
    for envelope in effects.send:
        message = envelope.message
        early = isinstance(message, (RequestVote, VoteReply)) and message.pre
        if not early and message.term > state.term:
            raise _broken(core, f"sent {message} of a term to come")
        match message:
            case AppendReply(match=int(index)) | HeartbeatReply(match=index):
                promised = index
            case ImageReply(image=(_, at), installed=True):
                promised = at.index
            case _:
                promised = 0
        if promised > durability.stable:
            raise _broken(core, f"promised {promised} to {envelope.to}: {durability.stable}")
    if effects.committed:
        first, last = effects.committed[0].index, effects.committed[-1].index
        if last != state.handed:
            raise _broken(core, f"handed out up to {last}, noted {state.handed}")
        if last - first + 1 != len(effects.committed):
            raise _broken(core, f"a gap in what is handed out: {first}..{last}")
        if last > min(state.commit, durability.stable):
            raise _broken(core, f"handed out {last} before its time")


# --- a legal group -----------------------------------------------------------------------------------------------


class GroupWitness:
    """What a group has shown so far; its cores may never contradict it, over crashes and restarts too.

    Invariant: `committed[i]` is the entry at i that some core held as committed, `committed_in[i]` the least term in which
    one was seen to.
    """

    def __init__(self) -> None:
        self.leaders: dict[int, PeerId] = {}
        self.committed: dict[int, Entry] = {}
        self.committed_in: dict[int, int] = {}
        self._seen: dict[tuple[PeerId, int], int] = {}  # (peer, boot) -> committed up to here was compared

    def observe(self, core: RaftCore) -> None:
        """Look at one core after a step of it: election safety, state machine safety, leader completeness."""
        state = core.state
        if isinstance(state.role, Leader) and self.leaders.get(state.term) != state.me:
            other = self.leaders.setdefault(state.term, state.me)
            if other != state.me:
                raise _broken(core, f"peer {other} led term {state.term} already")
            self._check_complete(core)
        seen = self._seen.get((state.me, state.boot), state.log.base.index)
        if state.commit <= seen:
            return
        for entry in state.log.slice(max(seen, state.log.base.index) + 1, state.commit, ALL_BYTES):
            known = self.committed.setdefault(entry.index, entry)
            if known != entry:
                raise _broken(core, f"committed {entry.id}, where {known.id} is committed")
            before = self.committed_in.get(entry.index)
            self.committed_in[entry.index] = state.term if before is None else min(before, state.term)
        self._seen[state.me, state.boot] = state.commit

    def forget(self, peer: PeerId) -> None:
        """The peer begins anew, with boot 1: nothing of it was compared yet."""
        self._seen = {key: upto for key, upto in self._seen.items() if key[0] != peer}

    def _check_complete(self, core: RaftCore) -> None:
        state = core.state
        for index, entry in self.committed.items():
            if index > state.log.base.index and self.committed_in[index] < state.term:
                has = state.log.term_at(index)
                if has != entry.term:
                    raise _broken(core, f"a new leader has term {has} at {index}, committed is {entry.id}")

    def check_logs(self, cores: Sequence[RaftCore]) -> None:
        """Log matching over whole logs: where two have the same position, they agree up to it."""
        for at, one in enumerate(cores):
            for two in cores[at + 1 :]:
                self._check_matching(one, two)

    def _check_matching(self, one: RaftCore, two: RaftCore) -> None:
        a, b = one.state.log, two.state.log
        low = max(a.base.index, b.base.index)
        high = min(a.last.index, b.last.index)
        agree = next((i for i in range(high, low, -1) if a.term_at(i) == b.term_at(i)), low)
        mine = a.slice(low + 1, agree, ALL_BYTES)
        theirs = b.slice(low + 1, agree, ALL_BYTES)
        for x, y in zip(mine, theirs, strict=True):
            if x != y:
                raise _broken(one, f"has {x.id} below {agree}, where peer {two.state.me} has {y.id} and both agree")
