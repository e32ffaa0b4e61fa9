"""The catalogue: its titles, and which scenarios have no fault in them."""

from __future__ import annotations

from typing import Any

import pytest

from raftlog.net.sim import NetConditions, SimHost, SimNetwork
from tools.scenarios.catalogue import FAULT_FREE, entries, play

QUICK = [
    title for title in FAULT_FREE if title[-2] in "3" or title.startswith(("TestBasic4", "TestInit", "TestDelete"))
]


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The kinds of faults that take place in this test."""
    found: set[str] = set()

    def told(kind: str, before: Any) -> Any:
        def call(self: SimNetwork, *args: Any) -> Any:
            found.add(kind)
            return before(self, *args)

        return call

    for name in ("block", "partition", "isolate"):
        monkeypatch.setattr(SimNetwork, name, told(name, getattr(SimNetwork, name)))
    conditions_of, alive = SimNetwork.conditions_of, SimHost.alive

    def conditions(self: SimNetwork, source: str, target: str) -> NetConditions:
        held = conditions_of(self, source, target)
        if held.request_loss or held.reply_loss:
            found.add("loss")
        return held

    def died(self: SimHost, now: bool) -> None:
        if self.alive and not now:
            found.add("death")
        assert alive.fset is not None
        alive.fset(self, now)

    monkeypatch.setattr(SimNetwork, "conditions_of", conditions)
    monkeypatch.setattr(SimHost, "alive", property(alive.fget, died))
    return found


def test_titles_are_unique_and_those_without_faults_exist() -> None:
    titles = [entry.title for entry in entries()]
    assert len(titles) == len(set(titles))
    assert set(FAULT_FREE) <= set(titles)


@pytest.mark.parametrize("title", QUICK)
def test_those_without_faults_have_none(title: str, faults: set[str]) -> None:
    assert play(title, seed=5).passed
    assert faults == set()


@pytest.mark.parametrize(
    ("title", "kinds"),
    [("TestLeaderFailure3B", {"partition"}), ("TestPersist13C", {"death"}), ("TestUnreliableAgree3C", {"loss"})],
)
def test_faults_are_seen(title: str, kinds: set[str], faults: set[str]) -> None:
    assert play(title, seed=5).passed
    assert kinds <= faults
