"""What a start makes of every state that a crash can leave, and what it refuses by name. (The powers of a crash itself are
played in simulation and on real disks.)"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from raftlog.codec import dumps, pack_entry
from raftlog.durable import (
    HARD_COPY,
    JOURNAL_MAX,
    LOG_TABLES,
    CorruptLog,
    JournalRecord,
    StateLost,
    append_entries,
    fill_log,
    fill_state,
    index_key,
    read_applied,
    read_entries,
    read_intent,
    read_journal,
    recover,
    restore,
    state_tables,
    write_applied,
    write_flip,
    write_hard,
    write_intent,
    write_journal,
    write_purge,
    write_reset,
    write_save,
)
from raftlog.saves import Save
from raftlog.types import Entry, EntryKind, HardState, LogId, Member, Membership, Restored
from store.engine import CorruptRecord, WriteTxn
from store.memory_engine import MemoryDisk, MemoryEngine

THREE = Membership(tuple(Member(i, 1) for i in range(3)))


def entry(term: int, index: int) -> Entry:
    return Entry(LogId(term, index), EntryKind.COMMAND, b"%d:%d" % (term, index))


class Peer:
    """The two environments of a peer of which entries 2..9 are in term 2 and applied up to 6."""

    def __init__(self) -> None:
        self.disks = MemoryDisk(LOG_TABLES), MemoryDisk(state_tables(("t",)))
        self.log, self.state = (MemoryEngine(disk) for disk in self.disks)
        self.write_log(lambda txn: fill_log(txn, THREE))
        self.write_state(fill_state)
        self.write_log(lambda txn: append_entries(txn, [entry(2, index) for index in range(2, 10)]))
        self.write_log(lambda txn: write_hard(txn, HardState(term=2, vote=0, commit=7)))
        self.write_state(lambda txn: write_applied(txn, LogId(2, 6), THREE, b"hash"))

    def write_log(self, job: Callable[[WriteTxn], object]) -> None:
        with self.log.write() as txn:
            job(txn)

    def write_state(self, job: Callable[[WriteTxn], object]) -> None:
        with self.state.write() as txn:
            job(txn)

    def start(self) -> Restored:
        return recover(self.log, self.state, time_ms=1)

    def check(self) -> Restored:
        """As a start does first, without its mending."""
        with self.state.read() as txn:
            applied, _, _ = read_applied(txn)
        with self.log.read() as txn:
            return restore(txn, applied)

    def indexes(self) -> list[int]:
        with self.log.read() as txn:
            return [found.id.index for found in read_entries(txn)]


def test_a_tail_above_applied_is_normal_and_every_start_is_counted() -> None:
    peer = Peer()
    found = peer.start()
    assert (found.applied, found.hard.commit, found.entries[-1].id) == (LogId(2, 6), 7, LogId(2, 9))
    assert (found.boot, peer.start().boot) == (1, 2)
    with peer.log.read() as txn:
        assert [(r.name, r.boot) for r in read_journal(txn)] == [("start", 1), ("start", 2)]


def test_a_purge_keeps_base_and_tail_in_one_step() -> None:
    peer = Peer()
    peer.write_log(lambda txn: write_purge(txn, LogId(2, 6), THREE))
    found = peer.start()
    assert (found.base, found.base_membership, peer.indexes()) == (LogId(2, 6), THREE, [7, 8, 9])


def test_a_save_cuts_the_overwritten_tail_in_the_same_step() -> None:
    peer = Peer()
    save = Save(1, HardState(term=3, vote=1, commit=7), 8, (entry(3, 8),))
    peer.write_log(lambda txn: write_save(txn, save, []))
    found = peer.start()
    assert peer.indexes() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert (found.entries[-1].id, found.hard.term, found.hard.vote) == (LogId(3, 8), 3, 1)


# --- an image whose installation was cut off ---------------------------------------------------------------------------


def test_an_intent_without_its_flip_is_dropped() -> None:
    peer = Peer()
    peer.write_log(lambda txn: write_intent(txn, LogId(3, 20), THREE))
    found = peer.start()
    assert (found.applied, found.base.index, peer.indexes()[-1]) == (LogId(2, 6), 0, 9)
    with peer.log.read() as txn:
        assert read_intent(txn) is None


@pytest.mark.parametrize(
    ("at", "kept"),
    [(LogId(3, 20), []), (LogId(2, 8), [9]), (LogId(3, 8), [])],
    ids=["past the log", "index and term match", "another term"],
)
def test_an_intent_with_its_flip_is_finished(at: LogId, kept: list[int]) -> None:
    peer = Peer()
    peer.write_log(lambda txn: write_intent(txn, at, THREE))
    peer.write_state(lambda txn: write_flip(txn, 1, at, THREE, b"hash"))
    found = peer.start()
    assert (found.base, found.applied, peer.indexes()) == (at, at, kept)
    assert peer.start().base == at, "and that once and for all"


def test_an_image_of_where_the_log_begins_leaves_what_follows() -> None:
    """The peer has lost its state and not its log; what it acknowledged behind its base is not in the image."""
    peer, at = Peer(), LogId(2, 6)
    peer.write_log(lambda txn: write_purge(txn, at, THREE))
    peer.write_log(lambda txn: write_intent(txn, at, THREE))
    peer.write_log(lambda txn: write_reset(txn, at, THREE))
    assert peer.indexes() == [7, 8, 9]
    peer.write_log(lambda txn: write_intent(txn, at, THREE))
    peer.write_state(lambda txn: write_flip(txn, 1, at, THREE, b"hash"))
    found = peer.start()
    assert (found.base, found.applied, peer.indexes()) == (at, at, [7, 8, 9]), "nor does a start that finishes it"
    assert [e.id.index for e in found.entries] == [7, 8, 9]


# --- what cannot be ----------------------------------------------------------------------------------------------------


def put_entry(txn: WriteTxn, at: int, found: Entry) -> None:
    txn.put("entries", index_key(at), dumps(pack_entry(found)))


def forget_hard(txn: WriteTxn) -> None:
    txn.delete("meta", b"hard")
    txn.delete("journal", HARD_COPY)


def purge_too_far(peer: Peer) -> None:
    peer.write_log(lambda txn: write_purge(txn, LogId(2, 6), THREE))
    peer.write_state(lambda txn: write_applied(txn, LogId(2, 5), THREE, b""))


WRONG: dict[str, tuple[Callable[[Peer], None], str]] = {
    "applied past the log": (
        lambda p: p.write_state(lambda txn: write_applied(txn, LogId(2, 12), THREE, b"")),
        r"applied .*12.* is not between",
    ),
    "applied below the base": (
        purge_too_far,
        r"state/ is of .*5.*, the log begins behind .*6",
    ),
    "applied in another term": (
        lambda p: p.write_state(lambda txn: write_applied(txn, LogId(3, 6), THREE, b"")),
        r"applied .*, but the log has",
    ),
    "commit past the log": (
        lambda p: p.write_log(lambda txn: write_hard(txn, HardState(term=2, commit=10))),
        "commit 10 is past the last entry",
    ),
    "a gap": (lambda p: p.write_log(lambda txn: txn.delete("entries", index_key(4))), "does not follow"),
    "an entry in another's place": (
        lambda p: p.write_log(lambda txn: put_entry(txn, 5, entry(2, 6))),
        "record entries/5 holds entry 6",
    ),
    "a term that falls": (lambda p: p.write_log(lambda txn: put_entry(txn, 9, entry(1, 9))), "does not follow"),
    "no hard state in either place": (lambda p: p.write_log(forget_hard), "hard"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_no_crash_leaves_is_named_and_left_as_it_is(what: str) -> None:
    """(What a start then makes of it is `raftlog.healing`'s.)"""
    plant, told = WRONG[what]
    peer = Peer()
    plant(peer)
    before = [disk.last_txnid for disk in peer.disks]
    with pytest.raises((CorruptLog, StateLost), match=told):
        peer.check()
    assert [disk.last_txnid for disk in peer.disks] == before


def test_a_damaged_record_of_the_log_is_named() -> None:
    peer = Peer()
    peer.disks[0].corrupt("entries", index_key(7))
    with pytest.raises(CorruptRecord, match="entries"):
        peer.check()


# --- the journal -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("items", [4, 7])
def test_a_line_of_the_journal_with_another_number_of_items_is_damaged(items: int) -> None:
    peer = Peer()
    peer.write_log(lambda txn: txn.put("journal", (1).to_bytes(8, "big"), dumps([1] * items)))
    with peer.log.read() as txn, pytest.raises(CorruptRecord):
        list(read_journal(txn))


def test_the_journal_keeps_its_newest_records_and_no_more() -> None:
    peer = Peer()
    for start in range(0, JOURNAL_MAX + 300, 100):
        records = [JournalRecord(number, 1, "term", number, None) for number in range(start, start + 100)]
        peer.write_log(lambda txn, records=records: write_journal(txn, records))  # type: ignore[misc]
    with peer.log.read() as txn:
        kept = [record.term for record in read_journal(txn)]
    assert len(kept) == JOURNAL_MAX and kept[-1] == kept[0] + JOURNAL_MAX - 1 >= JOURNAL_MAX + 299
