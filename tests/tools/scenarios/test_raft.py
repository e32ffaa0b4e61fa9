"""Lab 3 and the replicated state machine of lab 4, by the names of the originals."""

from __future__ import annotations

from typing import Any

import pytest

from tools.scenarios import raft_agree, raft_persist, rsm
from tools.sim.world import simulate

SEED = 3
LIMIT_S = 120.0


@pytest.mark.scenario
@pytest.mark.parametrize("scenario", raft_agree.SCENARIOS + raft_persist.SCENARIOS, ids=lambda s: s.__name__)
def test_lab_3(scenario: Any) -> None:
    simulate(scenario, seed=SEED, limit_s=LIMIT_S)


@pytest.mark.scenario
@pytest.mark.parametrize("scenario", rsm.SCENARIOS, ids=lambda s: s.__name__)
def test_lab_4(scenario: Any) -> None:
    simulate(scenario, seed=SEED, limit_s=LIMIT_S)
