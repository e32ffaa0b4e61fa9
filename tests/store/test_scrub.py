"""The scrub sees every record once a round, in bounded steps, and tells each that fails its check."""

from store.memory_engine import MemoryDisk, MemoryEngine
from store.scrub import Scrubber


def filled(count: int = 25) -> MemoryDisk:
    disk = MemoryDisk(("a", "b"))
    with MemoryEngine(disk).write() as txn:
        for number in range(count):
            for table in ("a", "b"):
                txn.put(table, bytes([number]), b"x" * 10)
    return disk


def test_a_round_sees_every_record_once_however_small_the_steps() -> None:
    for records, size_bytes in ((1, 1 << 20), (7, 1 << 20), (1000, 30), (1000, 1 << 20)):
        scrub = Scrubber(MemoryEngine(filled()), ("a", "b"))
        while not scrub.passes:
            before = scrub.records
            assert scrub.step(records, size_bytes) == []
            assert scrub.records - before <= min(records, size_bytes // 11 + 1)
        assert scrub.records == 50


def test_every_damaged_record_is_told_each_round_and_hides_none_behind_it() -> None:
    disk = filled()
    for table, key in (("a", 0), ("a", 1), ("a", 24), ("b", 13)):
        disk.corrupt(table, bytes([key]))
    scrub = Scrubber(MemoryEngine(disk), ("a", "b"))
    for rounds in (1, 2):
        found = []
        while scrub.passes < rounds:
            found += scrub.step(10, 1 << 20)
        assert [(error.table, error.key[0]) for error in found] == [("a", 0), ("a", 1), ("a", 24), ("b", 13)]


def test_what_comes_behind_the_scrub_is_seen_in_the_next_round() -> None:
    disk = filled()
    scrub = Scrubber(MemoryEngine(disk), ("a",))
    scrub.step(10, 1 << 20)
    disk.corrupt("a", bytes([3]))
    found = []
    while scrub.passes < 2:
        found += scrub.step(10, 1 << 20)
    assert [error.key for error in found] == [bytes([3])]
