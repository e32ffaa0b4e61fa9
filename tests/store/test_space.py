"""The reserve: when the alarm begins and ends, and the ballast beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from store.engine import Fenced
from store.memory_engine import MemoryDisk, MemoryEngine
from store.space import BALLAST_FILE, SpaceMonitor, drop_ballast, make_ballast

MIB = 1 << 20


class Disk:
    """How much the disk has, for whoever asks."""

    def __init__(self, free_bytes: int) -> None:
        self.free_bytes = free_bytes

    def __call__(self, path: Path) -> int:
        return self.free_bytes


def test_the_alarm_begins_below_the_reserve_and_ends_by_itself_a_little_above_it(tmp_path: Path) -> None:
    disk = Disk(100 * MIB)
    engine = MemoryEngine(MemoryDisk(("t",)))
    monitor = SpaceMonitor(engine, tmp_path, map_reserve_bytes=1, disk_reserve_bytes=64 * MIB, disk_free_bytes=disk)
    alarms = []
    for free_mib in (100, 65, 63, 65, 79, 81, 65, 10, 200):
        disk.free_bytes = free_mib * MIB
        alarms.append(monitor.look().alarm)
    assert alarms == [False, False, True, True, True, False, False, True, False]


def test_a_map_that_fills_up_raises_it_too(tmp_path: Path) -> None:
    engine = MemoryEngine(MemoryDisk(("t",)))
    size = engine.info().map_size_bytes
    monitor = SpaceMonitor(engine, tmp_path, map_reserve_bytes=size - 1000, disk_free_bytes=Disk(1 << 40))
    assert not monitor.look().alarm
    with engine.write() as txn:
        txn.put("t", b"k", bytes(2000))
    space = monitor.look()
    assert space.alarm and space.map_free_bytes < size - 2000
    with engine.write() as txn:
        txn.delete("t", b"k")
    assert not SpaceMonitor(engine, tmp_path, map_reserve_bytes=1, disk_free_bytes=Disk(1 << 40)).look().alarm


def test_nobody_looks_at_a_dead_engine(tmp_path: Path) -> None:
    engine = MemoryEngine(MemoryDisk(("t",)))
    monitor = SpaceMonitor(engine, tmp_path)
    engine.fence()
    with pytest.raises(Fenced):
        monitor.look()


def test_the_ballast_takes_real_room_and_can_be_given_back(tmp_path: Path) -> None:
    assert make_ballast(tmp_path, MIB) and make_ballast(tmp_path, MIB)
    ballast = tmp_path / BALLAST_FILE
    assert ballast.stat().st_blocks * 512 >= MIB, "a hole would take no room"
    ballast.write_bytes(b"cut off by a crash")
    assert make_ballast(tmp_path, MIB) and ballast.stat().st_size == MIB
    assert drop_ballast(tmp_path) and not drop_ballast(tmp_path)


def test_no_ballast_where_it_would_take_a_quarter_of_what_is_left(tmp_path: Path) -> None:
    assert not make_ballast(tmp_path, 1 << 50)
    assert not (tmp_path / BALLAST_FILE).exists()
