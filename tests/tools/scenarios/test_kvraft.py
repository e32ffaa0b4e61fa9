"""Lab 4, parts B and C, with the labs' clerk and with sessions."""

from __future__ import annotations

import pytest

from tools.scenarios.kvraft import PARAMS, SCENARIOS, Scenario
from tools.sim.world import World, simulate

SEED = 3
LIMIT_S = 120.0


def play(scenario: Scenario, sessions: bool) -> int:
    async def body(world: World) -> int:
        return await scenario(world, sessions)

    return simulate(body, seed=SEED, limit_s=LIMIT_S)


@pytest.mark.scenario
@pytest.mark.parametrize(("number", "name"), list(enumerate(SCENARIOS)))
def test_lab_4(number: int, name: str) -> None:
    """With the labs' clerk and with sessions in turn; `make scenarios` plays both of each."""
    ops = play(SCENARIOS[name], sessions=number % 2 == 1)
    assert ops > 0 or "Speed" in name


def test_an_idle_group_purges_what_it_could_not_purge_before() -> None:
    """The seed at which a log stayed long after an image had pinned it."""
    assert play(SCENARIOS["TestSnapshotUnreliableRecoverConcurrentPartitionLinearizable4C"], sessions=True) > 0


def test_all_of_4b_and_4c_are_there() -> None:
    parts = [name[-2:] for name in SCENARIOS]
    assert (parts.count("4B"), parts.count("4C")) == (13, 9)
    assert len(PARAMS) == 17
