"""Lab 2 with the labs' clerk and with sessions."""

from __future__ import annotations

import pytest

from tools.scenarios.kvsrv import SCENARIOS
from tools.sim.world import World, simulate


@pytest.mark.scenario
@pytest.mark.parametrize("sessions", [False, True], ids=["lab clerk", "sessions"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_lab_2(name: str, sessions: bool) -> None:
    async def body(world: World) -> int:
        return await SCENARIOS[name](world, sessions)

    assert simulate(body, seed=3, limit_s=120.0) > 0 or "Mem" in name
