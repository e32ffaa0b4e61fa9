"""A peer's log/ with every kind of record damaged, one at a time: what the start makes of it, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raftlog.durable import (
    EMPTY,
    HARD_COPY,
    LOG_TABLES,
    CorruptLog,
    PromisesLost,
    StateLost,
    append_entries,
    fill_log,
    fill_state,
    index_key,
    read_hard,
    read_journal,
    recover,
    state_tables,
    write_applied,
    write_base,
    write_hard,
    write_intent,
    write_journal,
    write_purge,
    write_save,
)
from raftlog.durable import JournalRecord as Line
from raftlog.saves import Save
from raftlog.types import ZERO, Entry, EntryKind, HardState, LogId, Member, Membership, Mode, Restored
from store.memory_engine import MemoryDisk, MemoryEngine

MEMBERS = Membership((Member(0, 7), Member(1, 8), Member(2, 9)))
HARD = HardState(term=5, vote=2, commit=8, highest=LogId(4, 10), ends=LogId(4, 10))


class Disk:
    """Entries 1..10, the last of term 4; applied is 6, or what a test makes it."""

    def __init__(self, applied: int = 6, base: int = 0, members: Membership = MEMBERS) -> None:
        self.log, self.state = MemoryDisk(LOG_TABLES), MemoryDisk(state_tables(("rows",)))
        with self.writing() as txn:
            fill_log(txn, members)
            append_entries(txn, [entry(i) for i in range(2, 11)])
            write_hard(txn, HARD)
            write_journal(txn, [Line(0, 3, "start", 4, None), Line(1, 3, "vote", 5, 2)])
        with MemoryEngine(self.state).write() as txn:
            fill_state(txn)
            if applied:
                write_applied(txn, entry(applied).id, members, b"hash")
        if base:
            with self.writing() as txn:
                write_purge(txn, entry(base).id, members)

    def writing(self):  # type: ignore[no-untyped-def]
        return MemoryEngine(self.log).write()

    def recover(self) -> Restored:
        return recover(MemoryEngine(self.log), MemoryEngine(self.state), 99)

    def hard(self) -> HardState:
        with MemoryEngine(self.log).read() as txn:
            return read_hard(txn)


def entry(index: int) -> Entry:
    return Entry(LogId(1 if index < 5 else 3 if index < 9 else 4, index), EntryKind.COMMAND, b"data")


def last(restored: Restored) -> int:
    return restored.entries[-1].index if restored.entries else restored.base.index


def test_an_undamaged_disk_is_left_as_it_is() -> None:
    disk = Disk()
    restored = disk.recover()
    assert (restored.mended, restored.hard, last(restored), restored.refill) == ((), HARD, 10, False)


@pytest.mark.parametrize(("table", "key"), [("meta", b"hard"), ("journal", HARD_COPY)])
def test_one_copy_of_the_hard_state_is_enough_and_both_are_whole_again(table: str, key: bytes) -> None:
    disk = Disk()
    disk.log.corrupt(table, key)
    restored = disk.recover()
    assert restored.hard == HARD and restored.mended
    disk.log.corrupt("journal" if table == "meta" else "meta", HARD_COPY if table == "meta" else b"hard")
    assert disk.recover().hard == HARD


def test_a_page_of_an_older_commit_that_came_back_takes_no_vote_back() -> None:
    disk = Disk()
    old = MemoryDisk(LOG_TABLES)
    with MemoryEngine(old).write() as txn:
        write_hard(txn, HardState(term=4, vote=1, commit=3, highest=LogId(3, 8), ends=LogId(3, 8)))
    disk.log.tables["meta"].records[b"hard"] = old.tables["meta"].records[b"hard"]
    restored = disk.recover()
    assert (restored.hard.term, restored.hard.vote, restored.hard.mode) == (5, 2, Mode.VOTER)
    assert "differ" in restored.mended[0]


def test_without_a_readable_hard_state_the_peer_does_not_start() -> None:
    disk = Disk()
    disk.log.corrupt("meta", b"hard")
    disk.log.corrupt("journal", HARD_COPY)
    before = disk.log.last_txnid
    with pytest.raises(PromisesLost, match="hard state, and its copy"):
        disk.recover()
    assert disk.log.last_txnid == before


def test_a_log_of_format_1_gets_its_second_copy_at_the_first_start() -> None:
    disk = Disk()
    with disk.writing() as txn:
        txn.delete("journal", HARD_COPY)
    assert disk.recover().mended == ()
    disk.log.corrupt("meta", b"hard")
    assert disk.recover().hard == HARD


def test_a_damaged_entry_that_is_applied_costs_nothing() -> None:
    disk = Disk()
    disk.log.corrupt("entries", index_key(4))
    restored = disk.recover()
    assert (restored.base, last(restored)) == (LogId(3, 6), 10)
    assert (restored.hard, restored.base_membership) == (HARD, MEMBERS)


def test_a_damaged_entry_above_applied_makes_the_peer_recover_up_to_its_highest() -> None:
    disk = Disk()
    disk.log.corrupt("entries", index_key(8))
    restored = disk.recover()
    assert last(restored) == 7
    assert restored.hard == replace(HARD, commit=7, mode=Mode.RECOVERING, recover_to=LogId(4, 10), ends=LogId(3, 7))
    again = disk.recover()
    assert (again.hard, again.mended) == (restored.hard, ())  # a crash in the middle forgets nothing


def test_the_highest_position_is_owed_though_a_later_leader_had_cut_it_off() -> None:
    disk = Disk()
    with disk.writing() as txn:
        write_hard(txn, replace(HARD, highest=LogId(4, 15)))
    disk.log.corrupt("entries", index_key(9))
    assert disk.recover().hard.recover_to == LogId(4, 15)


def test_a_log_whose_end_is_missing_without_a_trace_is_found() -> None:
    disk = Disk()
    with disk.writing() as txn:
        txn.delete_range("entries", index_key(9), None)
    restored = disk.recover()
    assert (restored.hard.mode, restored.hard.recover_to, last(restored)) == (Mode.RECOVERING, LogId(4, 10), 8)
    assert "it had reached 10" in restored.mended[0]


def test_a_log_whose_end_was_cut_by_a_leader_is_not_taken_for_damaged() -> None:
    disk = Disk()
    with disk.writing() as txn:
        write_save(txn, Save(1, replace(HARD, ends=LogId(3, 8)), 9, ()), [])
    restored = disk.recover()
    assert (restored.mended, last(restored)) == ((), 8)


def test_a_hole_in_the_log_is_found() -> None:
    disk = Disk()
    with disk.writing() as txn:
        txn.delete("entries", index_key(8))
    restored = disk.recover()
    assert (restored.hard.mode, last(restored)) == (Mode.RECOVERING, 7)


def test_a_damaged_base_is_replaced_by_the_applied_position() -> None:
    disk = Disk(base=5)
    disk.log.corrupt("meta", b"base")
    restored = disk.recover()
    assert (restored.base, last(restored), restored.hard) == (LogId(3, 6), 10, HARD)


def test_a_damaged_base_of_a_whole_log_without_a_state_is_the_beginning() -> None:
    disk = Disk(applied=0)
    disk.log.corrupt("meta", b"base")
    restored = disk.recover()
    assert (restored.base, restored.base_membership, last(restored), restored.hard) == (ZERO, EMPTY, 10, HARD)


def test_without_base_and_state_the_log_is_emptied_and_owed() -> None:
    disk = Disk(applied=0, base=5)
    disk.log.corrupt("meta", b"base")
    restored = disk.recover()
    assert (restored.base, last(restored), restored.refill) == (ZERO, 0, False)
    assert (restored.hard.mode, restored.hard.recover_to) == (Mode.RECOVERING, LogId(4, 10))
    assert (restored.hard.term, restored.hard.vote) == (5, 2)


def test_a_damaged_boot_number_goes_on_from_the_journal() -> None:
    disk = Disk()
    disk.log.corrupt("meta", b"boot")
    assert disk.recover().boot == 4


@pytest.mark.parametrize("at", [LogId(3, 7), LogId(6, 20)])
def test_a_damaged_intent_is_finished_if_its_image_is_in_place(at: LogId) -> None:
    disk = Disk()
    with disk.writing() as txn:
        write_intent(txn, at, MEMBERS)
    with MemoryEngine(disk.state).write() as txn:
        write_applied(txn, at, MEMBERS, b"hash")
    disk.log.corrupt("meta", b"intent")
    restored = disk.recover()
    assert (restored.applied, restored.hard.mode) == (at, Mode.VOTER)
    assert at.index == 7 or (restored.base, restored.entries) == (at, ())


def test_a_damaged_intent_of_an_image_that_is_not_in_place_is_dropped() -> None:
    disk = Disk()
    with disk.writing() as txn:
        write_intent(txn, LogId(6, 20), MEMBERS)
    disk.log.corrupt("meta", b"intent")
    restored = disk.recover()
    assert (restored.applied, last(restored), restored.hard) == (LogId(3, 6), 10, HARD)


def test_a_damaged_line_of_the_journal_stops_nothing() -> None:
    disk = Disk()
    disk.log.corrupt("journal", index_key(2))
    assert disk.recover().hard == HARD
    with pytest.raises(Exception, match="corrupt record in table 'journal'"), MemoryEngine(disk.log).read() as txn:
        list(read_journal(txn))


def test_a_log_that_is_older_than_the_state_is_refused() -> None:
    disk = Disk(applied=0)
    with MemoryEngine(disk.state).write() as txn:
        write_applied(txn, LogId(6, 30), MEMBERS, b"hash")
    with pytest.raises(CorruptLog, match="log/ is older than state/"):
        disk.recover()


def test_a_state_that_contradicts_the_log_is_refused() -> None:
    disk = Disk(applied=0)
    with MemoryEngine(disk.state).write() as txn:
        write_applied(txn, LogId(2, 6), MEMBERS, b"hash")
    with pytest.raises(CorruptLog, match="the log has"):
        disk.recover()


def test_a_peer_alone_in_its_group_does_not_cut_its_log() -> None:
    disk = Disk(members=Membership((Member(0, 7),)))
    disk.log.corrupt("entries", index_key(8))
    with pytest.raises(CorruptLog, match="nobody else has its entries"):
        disk.recover()


@pytest.mark.parametrize("key", [b"applied", b"slot"])
def test_a_state_without_its_marks_is_lost(key: bytes) -> None:
    disk = Disk()
    disk.state.corrupt("meta", key)
    with pytest.raises(StateLost):
        disk.recover()


def test_a_state_older_than_the_log_begins_is_lost() -> None:
    disk = Disk(applied=3, base=2)
    with disk.writing() as txn:
        write_base(txn, LogId(3, 5), MEMBERS)
        txn.delete_range("entries", b"", index_key(6))
    with pytest.raises(StateLost, match="the log begins behind"):
        disk.recover()


def test_an_empty_state_beside_a_whole_log_is_replayed() -> None:
    restored = Disk(applied=0).recover()
    assert (restored.applied, restored.refill, last(restored)) == (ZERO, False, 10)


def test_an_empty_state_beside_a_purged_log_is_refilled_and_the_log_kept() -> None:
    restored = Disk(applied=0, base=5).recover()
    assert (restored.applied, restored.refill, last(restored)) == (LogId(3, 5), True, 10)
    assert restored.hard == HARD


def test_whether_the_peer_had_stopped_in_good_order_is_known() -> None:
    disk = Disk()
    assert not disk.recover().clean
    with disk.writing() as txn:
        write_journal(txn, [Line(0, 4, "stop", 5, None)])
    assert disk.recover().clean
