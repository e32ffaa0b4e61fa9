"""Cores under random faults: every step is checked, every promise is held against what is durable at that moment.

A failing seed is reproduced by `play(seed)`; nothing else decides what happens.
"""

from __future__ import annotations

from random import Random

import pytest

from raftlog import elections, following, leading
from raftlog.messages import AppendReply, Envelope, RequestVote, VoteReply
from raftlog.roles import Candidate
from raftlog.saves import Durability
from raftlog.state import CoreState
from raftlog.types import Membership
from tests.raftlog.core_peer import Chance
from tests.raftlog.core_world import Chaos, World

SHAPES = ((1, 0), (2, 0), (3, 0), (3, 1), (5, 0), (3, 0), (4, 0))


def play(seed: int, seconds: float = 5.0) -> World:
    """A swarm: the seed draws the shape of the group and which faults exist at all, and how strong."""
    rng = Random(seed)

    def drawn(most: float) -> float:
        return rng.uniform(0, most) if rng.random() < 0.5 else 0.0

    chance = Chance(
        loss=drawn(0.2),
        double=drawn(0.2),
        late=drawn(0.1),
        commit_s=rng.choice((0.001, 0.01, 0.05)),
        slow_disk=drawn(0.05),
        clock_speed=drawn(0.04),
    )
    voters, learners = rng.choice(SHAPES)
    world = World(seed, voters=voters, learners=learners, chance=chance)
    Chaos(world).run(seconds)
    world.heal()
    world.settle(8.0)
    world.check_end()
    return world


@pytest.mark.parametrize("seed", range(24))
def test_nothing_breaks_under_random_faults(seed: int) -> None:
    world = play(seed)
    assert world.steps > 100


def test_the_same_seed_plays_the_same() -> None:
    first, again = play(3), play(3)
    assert (first.steps, first.acked, first.events) == (again.steps, again.acked, again.events)


# --- the suite finds bugs: each is planted, and must be found --------------------------------------------------------


def found_within(seeds: int, first: int = 0, seconds: float = 6.0) -> int | None:
    """The first seed from `first` on that fails, None if none does."""
    for seed in range(first, first + seeds):
        try:
            play(seed, seconds)
        except (AssertionError, StopIteration):
            return seed
    return None


def test_a_vote_that_is_not_durable_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def on_request_vote(state: CoreState, sender: int, message: RequestVote, now: float) -> None:
        if message.term == state.term and state.vote is None and not message.pre and message.last >= state.log.last:
            state.vote = sender
            state.send(sender, VoteReply(state.term, True))
        else:
            original(state, sender, message, now)

    original = elections.on_request_vote
    monkeypatch.setattr(elections, "on_request_vote", on_request_vote)
    assert found_within(20) is not None


def test_an_acknowledgement_before_its_save_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def promise(self: CoreState, to: int, message: object, index: int = 0) -> None:
        if isinstance(message, AppendReply):
            self.outbox.append(Envelope(self.me, to, message))
        else:
            original(self, to, message, index)  # type: ignore[arg-type]

    original = CoreState.promise
    monkeypatch.setattr(CoreState, "promise", promise)
    assert found_within(20) is not None


def test_stable_raised_over_a_truncation_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def truncated(self: Durability, first: int) -> None:
        original(self, first)
        self._cut = None

    original = Durability.truncated
    monkeypatch.setattr(Durability, "truncated", truncated)
    assert found_within(20, first=20) is not None  # rare: the first seed that finds it is 27


def test_committing_an_older_term_by_counting_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def maybe_commit(state: CoreState, leader: object) -> None:
        progress = leader.progress  # type: ignore[attr-defined]
        matches = [float(p.match) for _, p in sorted(progress.items()) if p.counts]
        ranked = sorted([*matches, float(state.durability.stable)], reverse=True)
        index = int(ranked[state.membership.quorum - 1]) if len(ranked) >= state.membership.quorum else 0
        if index > state.commit:
            state.raise_commit(index)

    monkeypatch.setattr(leading, "maybe_commit", maybe_commit)
    assert found_within(60) is not None


def test_truncating_without_a_conflict_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def take(state: CoreState, entries: tuple[object, ...]) -> None:
        if entries:
            first = entries[0].id.index  # type: ignore[attr-defined]
            if first <= state.log.last.index:
                state.truncate(first)
        original(state, entries)  # type: ignore[arg-type]

    original = following._take
    monkeypatch.setattr(following, "_take", take)
    assert found_within(20) is not None


def test_half_a_group_taken_for_a_quorum_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Membership, "quorum", property(lambda self: max((len(self.voters) + 1) // 2, 1)))
    assert found_within(40) is not None


def test_a_read_answered_without_its_round_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def confirm_reads(state: CoreState, leader: object) -> None:
        rounds = leader.rounds  # type: ignore[attr-defined]
        while rounds:
            leader.confirmed.append(rounds.popleft())  # type: ignore[attr-defined]
        leading.answer_reads(state, leader)  # type: ignore[arg-type]

    monkeypatch.setattr(leading, "confirm_reads", confirm_reads)
    assert found_within(20, first=80) is not None  # rare, thanks to check-quorum: the first seed that finds it is 87


def test_a_won_election_without_votes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def won(state: CoreState) -> bool:
        assert isinstance(state.role, Candidate)
        return True

    monkeypatch.setattr(elections, "won", won)
    assert found_within(20) is not None
