"""What single stages cost, in this process alone: `python -m tools.bench.stages`.

For whoever changes a stage and wants to know what it gave: CPU time, and the least of many blocks, so that it says the
same on a machine that works on something else. What a whole cluster makes of it is for `shardkv bench kv`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import cast

import trio

from raftlog.durable import fill_state, state_tables
from raftlog.machine import Operation, encode_operations, plain
from raftlog.net.base import Request
from raftlog.net.tcp import TcpRpcClient
from raftlog.net.tcp_server import TcpServer
from raftlog.rsm import Rsm
from raftlog.types import Entry, EntryKind, LogId
from shardkv.commands import Install, Put, encode_command, summary_of_nobody
from shardkv.config import NSHARDS, shard_of
from shardkv.group import GroupMachine
from store.engine import Writer
from store.memory_engine import MemoryDisk, MemoryEngine

CLIENTS = 64
KEYS = 1000
VALUE = b"y" * 128
METHOD = 1


class _Unused:
    """In the place of a writer: nothing is flushed here, so only its engine is asked for."""

    def __init__(self, engine: MemoryEngine) -> None:
        self.engine = engine


class Applying:
    """A shard group's machine that is given entries of one put by each of 64 clients."""

    def __init__(self) -> None:
        self._machine = machine = GroupMachine(NSHARDS)
        engine = MemoryEngine(MemoryDisk(state_tables(machine.tables)), state_tables(machine.tables))
        with engine.write() as txn:
            fill_state(txn)
        self._rsm = Rsm(machine, cast(Writer, _Unused(engine)))
        self._index = 0
        self._puts = 0
        self._seqs: dict[tuple[int, int], int] = {}
        first = [plain(encode_command(Install(shard, 1, summary_of_nobody(1)))) for shard in range(NSHARDS)]
        self.apply(self._entry(first))

    def _entry(self, operations: list[Operation]) -> Entry:
        self._index += 1
        return Entry(LogId(1, self._index), EntryKind.COMMAND, encode_operations(operations), 0)

    def entry(self) -> Entry:
        """The next one."""
        operations = []
        for client in range(1, CLIENTS + 1):
            self._puts += 1
            key = b"key-%d" % (self._puts * 7919 % KEYS)
            place = client, shard_of(key, NSHARDS)
            seq = self._seqs[place] = self._seqs.get(place, 0) + 1
            operations.append(Operation(client, seq, seq, 0, encode_command(Put(key, VALUE))))
        return self._entry(operations)

    def apply(self, *entries: Entry) -> None:
        """As a follower does."""
        self._rsm.apply(entries, lambda index: self._rsm.membership)

    def took_effect(self) -> int:
        """How many puts did: each is a tick of its shard."""
        return sum(shard.tick for shard in self._machine.shard_table(self._rsm.view))


def apply_us(blocks: int) -> float:
    """CPU microseconds to apply one put, the least of so many blocks."""
    applying = Applying()
    applying.apply(*(applying.entry() for _ in range(20)))
    found = []
    for _ in range(blocks):
        entries = [applying.entry() for _ in range(5)]
        began = time.process_time()
        applying.apply(*entries)
        found.append((time.process_time() - began) / (5 * CLIENTS))
    return min(found) * 1e6


async def call_us(at_once: int, blocks: int) -> float:
    """CPU microseconds of one call over TCP, caller and server together, with so many at once."""

    def answer(requests: Sequence[Request]) -> None:
        for request in requests:
            request.reply([0, VALUE, 1])

    calls = max(200 // at_once, 10)
    found = []
    async with trio.open_nursery() as nursery:
        server = TcpServer(b"stages", 1, 0, answer)
        host, port = await nursery.start(server.serve, ("127.0.0.1", 0))
        async with TcpRpcClient(b"stages") as rpc:

            async def caller() -> None:
                for _ in range(calls):
                    await rpc.call(f"{host}:{port}", METHOD, [b"key"], timeout_s=10)

            await caller()
            for _ in range(blocks):
                began = time.process_time()
                async with trio.open_nursery() as callers:
                    for _ in range(at_once):
                        callers.start_soon(caller)
                found.append((time.process_time() - began) / (calls * at_once))
        nursery.cancel_scope.cancel()
    return min(found) * 1e6


def main(blocks: int = 40) -> None:
    """Measure each stage and print a line for it."""
    print(f"apply one put of {CLIENTS} in an entry: {apply_us(blocks):.1f} us")
    for at_once in (1, 8, CLIENTS):
        print(f"a call over TCP, {at_once} at once, both sides: {trio.run(call_us, at_once, blocks):.1f} us")


if __name__ == "__main__":
    main()
