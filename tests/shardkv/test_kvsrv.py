"""A kvsrv's queue: nothing is answered before its commit, and what waits is bounded in number and in bytes."""

from __future__ import annotations

from raftlog.machine import Applied, NotTaken, Operation, Outcome
from shardkv.commands import MAX_VALUE_BYTES, Put, encode_command
from shardkv.kvmachine import KvMachine
from shardkv.kvsrv import QUEUE_BYTES_MAX, QUEUE_MAX, KvServer
from store.memory_engine import MemoryDisk, MemoryEngine
from tools.sim.disk import DiskConditions, SimWriter
from tools.sim.world import World, simulate


def served(world: World) -> tuple[KvServer, SimWriter]:
    machine = KvMachine()
    engine = MemoryEngine(MemoryDisk(("meta", *machine.tables)))
    conditions = DiskConditions(commit_s=(1.0, 1.0))
    writer = SimWriter(engine, world.net.later, world.rng("disk"), lambda error: None, conditions)
    return KvServer(machine, writer), writer


def put(number: int, size: int) -> Operation:
    return Operation(0, 0, 0, 0, encode_command(Put(b"%d" % number, bytes(size), None)))


def test_large_values_that_wait_are_refused_above_a_bound_and_all_others_are_committed() -> None:
    async def body(world: World) -> None:
        server, writer = served(world)
        outcomes: list[Outcome] = []
        count = 3 * QUEUE_BYTES_MAX // MAX_VALUE_BYTES
        for number in range(count):
            server.submit(put(number, MAX_VALUE_BYTES), outcomes.append)
        refused = [outcome for outcome in outcomes if isinstance(outcome, NotTaken)]
        assert len(refused) == len(outcomes), "nothing is answered as applied before its commit"
        held = count - len(refused)
        assert QUEUE_BYTES_MAX <= held * MAX_VALUE_BYTES <= QUEUE_BYTES_MAX + 2 * MAX_VALUE_BYTES
        await writer.drain()
        applied = [outcome for outcome in outcomes if isinstance(outcome, Applied)]
        assert len(applied) == held and writer.commits > 5, "no commit is a giant"
        server.submit(put(1, 10), outcomes.append)
        await writer.drain()
        assert isinstance(outcomes[-1], Applied), "the bound is on what waits now"

    simulate(body)


def test_more_small_operations_than_may_wait_are_refused() -> None:
    async def body(world: World) -> None:
        server, writer = served(world)
        outcomes: list[Outcome] = []
        for number in range(QUEUE_MAX + 10):
            server.submit(put(number, 1), outcomes.append)
        assert 0 < len(outcomes) <= 10 and {type(outcome) for outcome in outcomes} == {NotTaken}
        server.close()
        assert len(outcomes) > QUEUE_MAX
        await writer.drain()

    simulate(body)
