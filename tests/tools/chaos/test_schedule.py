"""What is struck when: drawn from the seed alone, everything equally often."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest

from tools.chaos.faults import PAIRED, Kind, UnknownFault, chosen_faults, every_fault
from tools.chaos.nemesis import schedule


def names(seed: int, count: int, text: str | None = None) -> list[tuple[str, ...]]:
    return [tuple(fault.name for fault in step) for _, step in islice(schedule(chosen_faults(text), seed), count)]


def test_the_same_seed_gives_the_same_steps_and_another_one_others() -> None:
    assert names(1, 100) == names(1, 100) != names(2, 100)


def test_every_fault_and_every_pair_of_kinds_comes_once_in_each_turn_of_the_deck() -> None:
    every = every_fault()
    turn = len(every) + 3
    steps = names(5, 10 * turn)
    kinds = {fault.name: fault.kind.value for fault in every}
    for at in range(0, len(steps), turn):
        alone = Counter(step[0] for step in steps[at : at + turn] if len(step) == 1)
        pairs = Counter(tuple(sorted(kinds[name] for name in step)) for step in steps[at : at + turn] if len(step) == 2)
        assert alone == Counter(kinds.keys())
        assert pairs == Counter([("kill", "partition"), ("disk", "kill"), ("disk", "partition")])


def test_names_are_unique_and_all_kinds_that_the_issue_asks_for_are_there() -> None:
    every = every_fault()
    assert len({fault.name for fault in every}) == len(every)
    assert {fault.kind for fault in every} == set(Kind)
    assert all(any(fault.kind is kind for fault in every) for kind in PAIRED)


def test_faults_are_chosen_by_name_and_by_kind() -> None:
    assert [fault.name for fault in chosen_faults("move,kill-one")] == ["move", "kill-one"]
    assert {fault.kind for fault in chosen_faults("partition, link")} == {Kind.PARTITION, Kind.LINK}
    assert len(chosen_faults("kill,kill-one")) == len(chosen_faults("kill"))


def test_an_unknown_fault_is_told_with_those_that_there_are() -> None:
    with pytest.raises(UnknownFault, match=r"no fault 'kil': there are .*kill-one"):
        chosen_faults("kil")


def test_one_fault_alone_is_struck_alone() -> None:
    assert names(1, 3, "kill-one") == [("kill-one",)] * 3
