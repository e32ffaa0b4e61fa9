"""Lab 5, 5D and the challenges, each with the controller's configuration on one kind of store here; `make scenarios` plays
all of them on all kinds."""

from __future__ import annotations

import itertools

import pytest

from tools.scenarios.availability import LAB_5D
from tools.scenarios.challenges import CHALLENGES
from tools.scenarios.controllers import LAB_5C
from tools.scenarios.lab5 import KVRAFT_3, KVRAFT_5_ONE_DOWN, KVRAFT_7, KVSRV, LIMIT_S, Scenario, StoreKind
from tools.scenarios.sharded import LAB_5A, LAB_5B
from tools.sim.world import World, simulate

SEED = 5

OPS = {
    "TestInitQuery5A": 0,
    "TestStaticOneShardGroup5A": 180,
    "TestJoinBasic5A": 180,
    "TestDeleteBasic5A": 360,
    "TestJoinLeaveBasic5A": 240,
    "TestManyJoinLeaveReliable5A": 180,
    "TestManyJoinLeaveUnreliable5A": 180,
    "TestShutdown5A": 180,
    "TestProgressShutdown5A": 82,
    "TestJoinLeave5B": 120,
    "TestRecoverCtrler5B": 360,
    "TestConcurrentReliable5C": 120,
    "TestAcquireLockConcurrentUnreliable5C": 120,
    "TestPartitionControllerJoin5C": 120,
    "TestPartitionRecoveryReliableNoClerk5C": 360,
    "TestPartitionRecoveryUnreliableNoClerk5C": 240,
    "TestRaftPeerDown5D": 120,
    "TestRaftPeerDown5D (leader)": 120,
}
"""The official counts, where they are fixed."""


def play(scenario: Scenario, kind: StoreKind, seed: int = SEED) -> tuple[int, str]:
    """(counted operations, trace hash)."""

    async def body(world: World) -> tuple[int, str]:
        ops = await scenario(world, kind)
        return ops, world.trace.hexdigest()

    return simulate(body, seed=seed, limit_s=LIMIT_S)


KINDS = itertools.cycle((KVSRV, KVRAFT_3, KVRAFT_5_ONE_DOWN))
ONCE = [
    (name, scenario, next(KINDS)) for name, scenario in {**LAB_5A, **LAB_5B, **dict(LAB_5C), **dict(CHALLENGES)}.items()
]


@pytest.mark.scenario
@pytest.mark.parametrize(
    ("name", "scenario", "kind"), ONCE, ids=lambda found: str(found) if not callable(found) else ""
)
def test_lab_5(name: str, scenario: Scenario, kind: StoreKind) -> None:
    ops, _ = play(scenario, kind)
    assert ops == OPS.get(name, ops)


@pytest.mark.parametrize("kind", [KVRAFT_3, KVRAFT_7], ids=str)
@pytest.mark.parametrize("name", LAB_5D)
def test_5d(name: str, kind: StoreKind) -> None:
    ops, _ = play(LAB_5D[name], kind)
    assert ops == OPS.get(name, ops)


def test_5d_with_a_kvsrv_waits_for_it() -> None:
    assert play(LAB_5D["TestRaftPeerDown5D"], KVSRV)[0] == 120


def test_equal_seeds_give_equal_traces_and_others_do_not() -> None:
    scenario = LAB_5D["TestRaftPeerDown5D"]
    first, again, other = (play(scenario, KVRAFT_3, seed) for seed in (1, 1, 2))
    assert first == again != other
