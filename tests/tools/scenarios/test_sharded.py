"""The sharded scenarios, each with the controller's store on a kvsrv and on kvraft groups."""

from __future__ import annotations

import pytest

from tools.scenarios import sharded
from tools.scenarios.sharded import KVRAFT_3, KVRAFT_5, KVRAFT_7, KVSRV, Scenario, StoreKind
from tools.sim.world import World, simulate

SEED = 5


def play(scenario: Scenario, kind: StoreKind, seed: int = SEED) -> tuple[int, str]:
    """(counted operations, trace hash)."""

    async def body(world: World) -> tuple[int, str]:
        ops = await scenario(world, kind)
        return ops, world.trace.hexdigest()

    return simulate(body, seed=seed, limit_s=sharded.LIMIT_S)


@pytest.mark.parametrize("kind", [KVSRV, KVRAFT_3], ids=str)
def test_join_leave_basic_5a(kind: StoreKind) -> None:
    assert play(sharded.join_leave_basic_5a, kind)[0] == 240


@pytest.mark.parametrize("kind", [KVSRV, KVRAFT_3, KVRAFT_5], ids=str)
def test_join_leave_5b(kind: StoreKind) -> None:
    assert play(sharded.join_leave_5b, kind)[0] == 120


@pytest.mark.parametrize("kind", [KVSRV, KVRAFT_3, KVRAFT_5, KVRAFT_7], ids=str)
def test_raft_peer_down_5d(kind: StoreKind) -> None:
    assert play(sharded.raft_peer_down_5d, kind)[0] == 120


@pytest.mark.parametrize("kind", [KVRAFT_3, KVRAFT_5, KVRAFT_7], ids=str)
@pytest.mark.parametrize("scenario", sharded.AVAILABILITY_5D[1:], ids=lambda s: s.__name__)
def test_availability(scenario: Scenario, kind: StoreKind) -> None:
    assert play(scenario, kind)[0] >= 120


def test_equal_seeds_give_equal_traces_and_others_do_not() -> None:
    first, again, other = (play(sharded.raft_peer_down_5d, KVRAFT_3, seed) for seed in (1, 1, 2))
    assert first == again != other
