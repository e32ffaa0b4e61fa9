"""Which crash states are looked at: enough to find each of the planted mistakes of a small program."""

from __future__ import annotations

import pytest

from tests.tools.powercut.tape import SECTOR, Tape, sector
from tools.powercut.disk import Disk, Tree
from tools.powercut.events import BEGIN, ROOT, Mark, Recording
from tools.powercut.states import PREFIXES_PER_TURN, Survivors, candidates, planned


def saver(*, file_synced: bool = True, name_synced: bool = True, marked_last: bool = True) -> Recording:
    """A program that saves a document of three sectors as one should: write it aside, sync, rename, sync the directory; then
    it says so. Or with one step left out."""
    tape = Tape()
    for letter in "ab":
        file = tape.file("new")
        if not marked_last:
            tape.mark(letter)
        tape.write(file, 0, sector(letter) * 3)
        if file_synced:
            tape.sync(file)
        tape.rename("new", "document", file)
        if name_synced:
            tape.sync(ROOT)
        if marked_last:
            tape.mark(letter)
    return tape.recording()


def broken(recording: Recording, seed: int = 1) -> list[Survivors]:
    """The states in which the document is torn, or older than what was said to be saved."""
    disk, at, said, found = Disk(), 0, "", []
    for state in sorted(planned(recording, seed)):
        for step in recording.steps[at : state.cut]:
            disk.take(step)
            said = getattr(step.action, "text", said)
        at = state.cut
        if not _good(disk.left(state.choice(disk, recording, seed)), said):
            found.append(state)
    return found


def _good(tree: Tree, said: str) -> bool:
    there = tree.entries.get("document")
    allowed = {"": (None, b"a", b"b"), "a": (b"a", b"b"), "b": (b"b",)}[said]
    if there is None:
        return None in allowed
    return any(letter is not None and there.data == letter * 3 * SECTOR for letter in allowed)


def test_a_program_that_saves_as_one_should_has_no_bad_state() -> None:
    assert broken(saver()) == []


@pytest.mark.parametrize("left_out", ["file_synced", "name_synced", "marked_last"])
def test_each_step_that_is_left_out_is_found(left_out: str) -> None:
    assert broken(saver(**{left_out: False}))


def test_a_write_over_the_document_in_place_is_found_torn() -> None:
    tape = Tape()
    file = tape.file("document")
    tape.write(file, 0, sector("a") * 3)
    tape.sync(file)
    tape.sync(ROOT)
    tape.mark("a")
    tape.write(file, 0, sector("b") * 3)
    tape.sync(file)
    kinds = {state.kind for state in broken(tape.recording())}
    assert {"torn", "lost", "only", "mixed"} <= kinds


def test_every_prefix_and_every_single_loss_is_among_the_candidates() -> None:
    recording = saver()
    found = set(candidates(recording))
    disk = Disk()
    for at, step in enumerate(recording.steps):
        disk.take(step)
        if step.action.__class__.__name__ == "Write" and step.moment.name == "BEGIN":
            assert Survivors(at + 1, "all") in found
            assert {Survivors(at + 1, "torn", 1), Survivors(at + 1, "torn", 2)} <= found
        if step.action.__class__.__name__ == "Sync" and step.moment.name == "BEGIN" and len(disk.atoms()) > 1:
            assert {Survivors(at + 1, kind, n) for n in range(len(disk.atoms())) for kind in ("lost", "only")} <= found


def test_the_seed_decides_the_order_and_names_say_the_state() -> None:
    recording = saver()
    assert planned(recording, 5) == planned(recording, 5) != planned(recording, 6)
    assert sorted(planned(recording, 5)) == sorted(candidates(recording))
    for state in candidates(recording):
        assert Survivors.parse(str(state)) == state
    with pytest.raises(ValueError, match="names no state"):
        Survivors.parse("12:gone:3")


def test_the_moments_at_which_something_is_owed_come_in_the_first_turns() -> None:
    recording = saver()
    cuts = [at for at, step in enumerate(recording.steps, 1) if isinstance(step.action, Mark) and step.moment is BEGIN]
    first = planned(recording, 1, {f"mark {cut}": [cut] for cut in cuts})
    assert {state.cut for state in first[: PREFIXES_PER_TURN + 5 + len(cuts)]} >= set(cuts)
    assert sorted(first) == sorted(candidates(recording))
