"""All scenarios by their official names, with every variant that they are played in, and the official figures."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from time import process_time
from typing import Any

from tools.scenarios import kvraft, kvsrv, raft_agree, raft_persist, rsm
from tools.scenarios.availability import LAB_5D
from tools.scenarios.challenges import CHALLENGES
from tools.scenarios.controllers import LAB_5C
from tools.scenarios.lab5 import KVRAFT_3, KVRAFT_5, KVRAFT_5_ONE_DOWN, KVRAFT_7, KVSRV
from tools.scenarios.sharded import LAB_5A, LAB_5B
from tools.sim.world import World, simulate

LIMIT_S = 120.0
"""Virtual seconds that a scenario may take: the labs' real ones."""

Official = tuple[float, int, int]
"""Seconds, RPCs and operations of the staff's solution (5D: of the seed write-up)."""

OFFICIAL: dict[str, Official] = {
    "TestSpeed4B": (15.9, 3169, 0),
    "TestInitQuery5A": (0.0, 3, 0),
    "TestStaticOneShardGroup5A": (5.1, 792, 180),
    "TestJoinBasic5A": (12.9, 6300, 180),
    "TestDeleteBasic5A": (8.4, 1533, 360),
    "TestJoinLeaveBasic5A": (13.7, 5676, 240),
    "TestManyJoinLeaveReliable5A": (22.1, 3529, 180),
    "TestManyJoinLeaveUnreliable5A": (54.8, 5055, 180),
    "TestShutdown5A": (11.7, 2807, 180),
    "TestProgressShutdown5A": (8.8, 974, 82),
    "TestProgressJoin5A": (13.9, 2443, 390),
    "TestOneConcurrentClerkReliable5A": (20.0, 5326, 1248),
    "TestManyConcurrentClerkReliable5A": (20.4, 21688, 10500),
    "TestOneConcurrentClerkUnreliable5A": (25.8, 2654, 176),
    "TestManyConcurrentClerkUnreliable5A": (25.3, 7553, 1896),
    "TestJoinLeave5B": (9.2, 899, 120),
    "TestRecoverCtrler5B": (26.4, 3724, 360),
    "TestConcurrentReliable5C": (8.2, 1753, 120),
    "TestAcquireLockConcurrentUnreliable5C": (23.8, 1850, 120),
    "TestPartitionControllerJoin5C": (7.8, 876, 120),
    "TestPartitionRecoveryReliableNoClerk5C": (36.8, 3981, 360),
    "TestPartitionRecoveryUnreliableNoClerk5C": (52.4, 2901, 240),
    "TestPartitionRecoveryReliableClerks5C": (60.2, 27415, 11182),
    "TestPartitionRecoveryUnreliableClerks5C": (60.5, 11422, 2336),
    "TestRaftPeerDown5D, kvraft 3": (32.4, 9007, 120),
    "TestRaftPeerDown5D, kvraft 5": (51.2, 9580, 120),
}


FAULT_FREE = (
    "TestInitialElection3A",
    "TestBasicAgree3B",
    "TestRPCBytes3B",
    "TestConcurrentStarts3B",
    "TestCount3B",
    "TestSnapshotBasic3D",
    "TestBasic4A",
    "TestConcurrent4A",
    "TestBasic4B, sessions",
    "TestConcurrent4B, sessions",
    "TestSpeed4B, sessions",
    "TestSpeed4C, sessions",
    "TestSnapshotSize4C, sessions",
    "TestInitQuery5A, kvraft 3",
    "TestDeleteBasic5A, kvraft 3",
    "TestProgressJoin5A, kvraft 3",
    "TestChallenge1Delete, kvraft 3",
    "TestMinimalTransfer, kvraft 3",
)
"""The scenarios of labs 3 to 5 in which nobody dies and nothing is cut off or lost: a bug that is worth planting passes."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One scenario in one variant."""

    name: str
    variant: str
    run: Callable[[World], Awaitable[Any]] = field(compare=False)

    @property
    def title(self) -> str:
        """Name and variant."""
        return f"{self.name}, {self.variant}" if self.variant else self.name

    @property
    def official(self) -> Official | None:
        """What the labs' own solution takes, if that is published."""
        return OFFICIAL.get(self.title, OFFICIAL.get(self.name))


@dataclass(frozen=True, slots=True)
class Result:
    """How a scenario went. `seconds` are virtual; `error` is empty if it passed."""

    name: str
    variant: str
    passed: bool
    seconds: float
    rpcs: int
    ops: int
    cpu_s: float
    error: str
    official: Official | None


def entries() -> list[Entry]:
    """The whole matrix, in the order of the labs."""
    return [*_lab_2_and_4b(), *_lab_3_and_4a(), *_lab_5()]


def _lab_3_and_4a() -> Iterator[Entry]:
    for scenario in (*raft_agree.SCENARIOS, *raft_persist.SCENARIOS, *rsm.SCENARIOS):
        yield Entry(official_name(scenario.__name__), "", scenario)  # type: ignore[arg-type]


def _lab_2_and_4b() -> Iterator[Entry]:
    for table in (kvsrv.SCENARIOS, kvraft.SCENARIOS):
        for name, scenario in dict(table).items():
            for sessions, variant in ((False, "lab clerk"), (True, "sessions")):
                yield Entry(name, variant, _with(scenario, sessions))


def _lab_5() -> Iterator[Entry]:
    for table in (LAB_5A, LAB_5B, LAB_5C, CHALLENGES):
        for name, scenario in dict(table).items():
            for kind in (KVSRV, KVRAFT_3, KVRAFT_5_ONE_DOWN):
                yield Entry(name, str(kind), _with(scenario, kind))
    for name, scenario in dict(LAB_5D).items():
        kinds = [KVRAFT_3, KVRAFT_5, KVRAFT_7]
        for kind in [KVSRV, *kinds] if name == "TestRaftPeerDown5D" else kinds:
            yield Entry(name, str(kind), _with(scenario, kind))


def _with(scenario: Callable[[World, Any], Awaitable[Any]], choice: Any) -> Callable[[World], Awaitable[Any]]:
    return lambda world: scenario(world, choice)


def official_name(function: str) -> str:
    """initial_election_3a -> TestInitialElection3A."""
    words = "".join(word.upper() if word in ("rpc",) else word.capitalize() for word in function.split("_"))
    return f"Test{words[:-1]}{words[-1].upper()}"


def play(title: str, seed: int) -> Result:
    """Play one scenario of the matrix; never raises what it raises."""
    entry = next(found for found in entries() if found.title == title)
    seen: list[World] = []

    async def body(world: World) -> Any:
        seen.append(world)
        try:
            return await entry.run(world)
        finally:
            ends.append(world.now())

    ends = [0.0]
    began = process_time()
    ops, error = 0, ""
    try:
        ops = simulate(body, seed=seed, limit_s=LIMIT_S) or 0
    except BaseException as raised:  # tidy: whatever a scenario ends with is its result
        if isinstance(raised, KeyboardInterrupt):
            raise
        error = _text(raised)
    rpcs = seen[0].net.requests_total if seen else 0
    cpu_s = process_time() - began
    return Result(entry.name, entry.variant, not error, ends[-1], rpcs, ops, cpu_s, error, entry.official)


def _text(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
