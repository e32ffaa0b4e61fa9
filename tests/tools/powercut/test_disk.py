"""The model of a disk: what may be lost, what may not."""

from __future__ import annotations

from itertools import product
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.tools.powercut.tape import SECTOR, Tape, sector
from tools.powercut.disk import Atom, Contents, Disk
from tools.powercut.events import ROOT, Sync, Write


def every_state(disk: Disk) -> set[tuple[tuple[str, Contents | None], ...]]:
    """All that a crash now may leave."""
    atoms = disk.atoms()
    choices = product(*(range(newest + 1) for newest in atoms.values()))
    return {tuple(sorted(disk.left(dict(zip(atoms, choice, strict=True))).entries.items())) for choice in choices}


def files(disk: Disk, name: str = "a") -> set[bytes | None]:
    """What the file of that name may hold, None for not there."""
    return {_whole(dict(state).get(name)) for state in every_state(disk)}


def _whole(found: Contents | None) -> bytes | None:
    return None if found is None else found.data.ljust(found.size_bytes, b"\0")


def test_nothing_is_durable_without_a_sync() -> None:
    tape = Tape()
    tape.write(tape.file("a"), 0, b"x")
    assert files(tape.disk()) == {None, b"", b"\0", b"x"}


def test_a_synced_file_without_a_synced_name_may_be_gone_but_never_half_there() -> None:
    tape = Tape()
    file = tape.file("a")
    tape.write(file, 0, b"x")
    tape.sync(file)
    assert files(tape.disk()) == {None, b"x"}
    tape.sync(ROOT)
    assert files(tape.disk()) == {b"x"}


def test_a_large_write_tears_between_any_two_sectors() -> None:
    tape = Tape()
    file = tape.file("a")
    tape.write(file, 0, sector("a") * 3)
    tape.sync(file)
    tape.sync(ROOT)
    tape.write(file, 0, sector("b") * 3)
    assert files(tape.disk()) == {b"".join(s) for s in product((sector("a"), sector("b")), repeat=3)}


def test_writes_of_one_sector_keep_their_order_and_those_of_two_do_not() -> None:
    tape = Tape()
    file = tape.file("a")
    tape.write(file, 0, sector("a") * 2)
    tape.sync(file)
    tape.sync(ROOT)
    tape.write(file, 0, b"1")
    tape.write(file, 1, b"2")
    tape.write(file, SECTOR, b"3")
    heads = {found[:2] + found[SECTOR : SECTOR + 1] for found in files(tape.disk()) if found}
    assert heads == {b"aaa", b"1aa", b"12a", b"aa3", b"1a3", b"123"}


def test_a_synced_descriptor_makes_its_own_bytes_durable_and_no_others() -> None:
    tape = Tape()
    file = tape.file("a")
    tape.write(file, 0, sector("a") * 2)
    tape.sync(file)
    tape.sync(ROOT)
    tape.write(file, SECTOR, sector("b"))
    tape.write(file, 0, b"!", synced=True)
    assert files(tape.disk()) == {b"!" + sector("a")[1:] + tail for tail in (sector("a"), sector("b"))}


def test_a_synced_write_may_be_lost_until_it_returns() -> None:
    tape = Tape()
    file = tape.file("a")
    tape.sync(ROOT)
    call = tape.begin(Write(file, 0, b"x", synced=True))
    assert {found or None for found in files(tape.disk())} == {None, b"\0", b"x"}
    tape.end(call)
    assert files(tape.disk()) == {b"x"}


def test_a_sync_does_not_cover_a_write_that_ran_beside_it() -> None:
    tape = Tape()
    file = tape.file("a")
    tape.write(file, 0, sector("a") * 2)
    tape.sync(file)
    tape.sync(ROOT)
    beside = tape.begin(Write(file, 0, sector("b")))
    sync = tape.begin(Sync(file))
    tape.end(beside)
    tape.write(file, SECTOR, sector("c"))
    tape.end(sync)
    assert len(files(tape.disk())) == 4


def test_a_rename_is_all_or_nothing() -> None:
    tape = Tape()
    file = tape.file("new")
    tape.sync(file)
    tape.sync(ROOT)
    tape.rename("new", "old", file)
    assert {tuple(name for name, _ in state) for state in every_state(tape.disk())} == {("new",), ("old",)}


def test_names_in_a_directory_that_was_not_synced_may_be_gone_though_the_directory_is_there() -> None:
    tape = Tape()
    folder = tape.directory("d")
    tape.file("f", folder)
    tape.sync(ROOT)
    assert {tuple(name for name, _ in state) for state in every_state(tape.disk())} == {("d",), ("d", "d/f")}


def test_a_file_that_was_cut_off_shows_zeros_when_it_grows_again() -> None:
    tape = Tape()
    file = tape.file("a")
    tape.write(file, 0, b"abcdef")
    tape.resize(file, 2)
    tape.resize(file, 4)
    tape.sync(file)
    tape.sync(ROOT)
    assert files(tape.disk()) == {b"ab\0\0"}


@given(st.lists(st.tuples(st.integers(0, 1500), st.binary(min_size=1, max_size=1200)), max_size=8))
def test_the_newest_versions_together_are_what_a_reader_sees(writes: list[tuple[int, bytes]]) -> None:
    tape, expected = Tape(), bytearray()
    file = tape.file("a")
    for at, data in writes:
        tape.write(file, at, data)
        expected.extend(bytes(max(0, at + len(data) - len(expected))))
        expected[at : at + len(data)] = data
    disk = tape.disk()
    assert _whole(disk.left({}).entries["a"]) == bytes(expected)
    tape.sync(file)
    tape.sync(ROOT)
    assert files(tape.disk()) == {bytes(expected)}


def test_states_with_equal_contents_have_one_digest_and_others_have_not(tmp_path: Path) -> None:
    tape = Tape()
    file = tape.file("a")
    tape.write(file, 0, b"x")
    disk = tape.disk()
    size, bytes_ = Atom(file, "size"), Atom(file, "sector", 0)
    assert disk.left({size: 0}).digest == disk.left({size: 0, bytes_: 0}).digest
    assert len({disk.left(choice).digest for choice in ({}, {size: 0}, {bytes_: 0})}) == 3
    disk.left({bytes_: 0}).write(tmp_path / "s")
    assert (tmp_path / "s" / "a").read_bytes() == b"\0"
