"""Repair: only into a new directory; what may be committed is given up only with --unsafe, and then the peer must be
refilled before it votes."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from raftlog.config import RaftConfig
from raftlog.core import RaftCore
from raftlog.durable import HARD_COPY, LOG_TABLES, read_journal, recover, write_hard, write_intent
from raftlog.messages import AppendEntries, Envelope, RequestVote, VoteReply
from raftlog.types import HardState, LogId, Mode, Restored
from store.engine import CannotOpen
from store.lmdb_engine import LmdbEngine
from tests.tools.inspect.small_peer import MEMBERS, STATE_TABLES, damage_record, entry, make_peer
from tests.tools.inspect.test_damage import contents
from tools.inspect.reader import findings
from tools.inspect.repair import repair_peer


@pytest.fixture
def peer(tmp_path: Path) -> Path:
    return make_peer(tmp_path / "peer")


def started(directory: Path) -> Restored:
    log = LmdbEngine.open(directory / "log", LOG_TABLES, None)
    state = LmdbEngine.open(directory / "state", STATE_TABLES, None)
    try:
        return recover(log, state, 0)
    finally:
        log.close()
        state.close()


def files(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("data.mdb")}


def test_a_stale_intent_is_dropped_and_nothing_else(peer: Path, tmp_path: Path) -> None:
    before = contents(peer)
    log = LmdbEngine.open(peer / "log", LOG_TABLES, None)
    with log.write() as txn:
        write_intent(txn, LogId(4, 40), MEMBERS)
    log.close()
    audit = repair_peer(peer, tmp_path / "new", unsafe=False)
    assert (audit["way"], audit["intent"], audit["mode"]) == ("whole", [4, 40], "voter")
    after = contents(tmp_path / "new")
    for place in before:
        if place != ("log", "journal"):
            assert after[place] == before[place], place
    assert not findings([tmp_path / "new"])


def test_a_bad_entry_needs_unsafe_and_then_marks_the_peer(peer: Path, tmp_path: Path) -> None:
    damage_record(peer, "log", "entries", (8).to_bytes(8, "big"))
    before = files(peer)
    with pytest.raises(CannotOpen, match=r"record 8: its checksum is wrong: .*--unsafe"):
        repair_peer(peer, tmp_path / "new", unsafe=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["peer"]
    audit = repair_peer(peer, tmp_path / "new", unsafe=True)
    assert files(peer) == before
    assert json.loads((tmp_path / "new" / "repair.json").read_text()) == audit
    assert (audit["way"], audit["last"], audit["recover_to"]) == ("cut", 7, [2, 10])
    assert not findings([tmp_path / "new"])
    restored = started(tmp_path / "new")
    hard = HardState(5, 2, 7, Mode.RECOVERING, LogId(2, 10), highest=LogId(2, 10), ends=LogId(2, 7))
    assert restored.hard == hard
    assert [e.id.index for e in restored.entries] == list(range(1, 8))
    log = LmdbEngine.open(tmp_path / "new" / "log", LOG_TABLES, None)
    with log.read() as txn:
        assert "repaired: cut" in [record.name for record in read_journal(txn)]
    log.close()


def test_a_bad_record_of_the_state_is_made_again_from_a_whole_log(peer: Path, tmp_path: Path) -> None:
    damage_record(peer, "state", "meta", b"applied")
    with pytest.raises(CannotOpen, match="--unsafe"):
        repair_peer(peer, tmp_path / "new", unsafe=False)
    audit = repair_peer(peer, tmp_path / "new", unsafe=True)
    assert (audit["way"], audit["mode"]) == ("replay", "recovering")
    assert started(tmp_path / "new").entries[-1].id == LogId(2, 10)


def test_without_log_and_state_only_the_promises_stay(peer: Path, tmp_path: Path) -> None:
    damage_record(peer, "state", "meta", b"applied")
    damage_record(peer, "log", "entries", (10).to_bytes(8, "big"))
    audit = repair_peer(peer, tmp_path / "new", unsafe=True)
    assert audit["way"] == "empty"
    restored = started(tmp_path / "new")
    hard = HardState(5, 2, 0, Mode.RECOVERING, LogId(5, 10), highest=LogId(5, 10))
    assert restored.hard == hard and not restored.entries


def test_an_unreadable_hard_state_is_refused_even_so(peer: Path, tmp_path: Path) -> None:
    damage_record(peer, "log", "meta", b"hard")
    damage_record(peer, "log", "journal", HARD_COPY)
    with pytest.raises(CannotOpen, match="whom it voted for is unknown"):
        repair_peer(peer, tmp_path / "new", unsafe=True)
    assert not (tmp_path / "new").exists()


def test_a_running_peer_is_refused(peer: Path, tmp_path: Path) -> None:
    log = LmdbEngine.open(peer / "log", LOG_TABLES, None)
    try:
        with pytest.raises(CannotOpen, match="stop its peer first"):
            repair_peer(peer, tmp_path / "new", unsafe=True)
    finally:
        log.close()


def test_a_log_that_is_older_than_its_state_is_not_taken_for_whole(peer: Path, tmp_path: Path) -> None:
    log = LmdbEngine.open(peer / "log", LOG_TABLES, None)
    with log.write() as txn:
        txn.delete_range("entries", (4).to_bytes(8, "big"), None)
        write_hard(txn, HardState(5, 2, 3))
    log.close()
    with pytest.raises(CannotOpen, match="--unsafe"):
        repair_peer(peer, tmp_path / "new", unsafe=False)
    audit = repair_peer(peer, tmp_path / "new", unsafe=True)
    assert (audit["way"], audit["base"], audit["mode"]) == ("cut", [2, 6], "recovering")
    assert audit["recover_to"][0] > 5  # how far the log went is unknown: only a later leader's entry will do


def sent_by(core: RaftCore, now: float) -> list[object]:
    """What leaves the core once everything that it wants saved is saved."""
    sent: list[object] = []
    while effects := core.take():
        sent += [envelope.message for envelope in effects.send]
        if effects.save is not None:
            core.saved(effects.save.ticket, now)
    return sent


def test_a_repaired_peer_neither_votes_nor_campaigns_until_it_is_refilled(peer: Path, tmp_path: Path) -> None:
    damage_record(peer, "log", "entries", (8).to_bytes(8, "big"))
    repair_peer(peer, tmp_path / "new", unsafe=True)
    core = RaftCore(0, RaftConfig(), started(tmp_path / "new"), Random(1), 0.0)
    now = 0.0
    for term in range(6, 20):
        now += 30.0
        core.on_time(now)
        core.step(Envelope(1, 0, RequestVote(term, LogId(5, 50))), now)
        sent = sent_by(core, now)
        assert not [m for m in sent if isinstance(m, RequestVote) or (isinstance(m, VoteReply) and m.granted)]
    refill = AppendEntries(20, LogId(2, 7), (entry(8), entry(9), entry(10), entry(11, 20)), 11)
    core.step(Envelope(1, 0, refill), now)
    sent_by(core, now)
    assert core.state.mode is Mode.VOTER
    now += 60.0
    core.on_time(now)
    assert [m for m in sent_by(core, now) if isinstance(m, RequestVote)]
