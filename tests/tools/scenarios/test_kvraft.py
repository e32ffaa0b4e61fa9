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


@pytest.mark.parametrize("sessions", [False, True], ids=["lab clerk", "sessions"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_lab_4(name: str, sessions: bool) -> None:
    ops = play(SCENARIOS[name], sessions)
    assert ops > 0 or "Speed" in name


def test_all_of_4b_and_4c_are_there() -> None:
    parts = [name[-2:] for name in SCENARIOS]
    assert (parts.count("4B"), parts.count("4C")) == (13, 9)
    assert len(PARAMS) == 17
