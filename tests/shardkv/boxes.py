"""Machines on the verified fake engine, driven as the replicated state machine drives them."""

from typing import Any

from raftlog.codec import loads
from raftlog.machine import Operation, plain
from raftlog.sessions import SESSIONS_MAX, apply_operation
from raftlog.types import LogId
from shardkv.commands import (
    EMPTY_SUMMARY,
    Command,
    DeleteShard,
    Freeze,
    Install,
    InstallChunk,
    encode_command,
    unpack_summary,
)
from shardkv.kvmachine import VersionedMachine
from shardkv.methods import Method
from store.memory_engine import MemoryDisk, MemoryEngine


class Box:
    """One peer: a machine and its tables."""

    def __init__(self, machine: VersionedMachine, *, sessions_max: int = SESSIONS_MAX) -> None:
        self.machine = machine
        self.sessions_max = sessions_max
        self.engine = MemoryEngine(MemoryDisk(machine.tables))
        self.applied = 0

    def run(self, op: Operation) -> list[Any]:
        self.applied += 1
        with self.engine.write() as txn:
            reply = apply_operation(self.machine, txn, op, LogId(1, self.applied), sessions_max=self.sessions_max)
        decoded = loads(reply)
        assert type(decoded) is list
        return decoded

    def do(self, command: Command) -> list[Any]:
        return self.run(plain(encode_command(command)))

    def read(self, method: Method, *args: Any) -> list[Any]:
        with self.engine.read() as txn:
            return self.machine.read(txn, method, list(args))

    def get(self, key: bytes) -> list[Any]:
        return self.read(Method.GET, key)

    def background(self, budget: int) -> bool:
        with self.engine.write() as txn:
            return self.machine.background(txn, budget)

    @property
    def hash(self) -> bytes:
        with self.engine.read() as txn:
            return self.machine.state_hash(txn)

    def rows(self) -> int:
        """The rows of all tables that hold data, dead ones too."""
        with self.engine.read() as txn:
            return sum(len(list(txn.scan(table))) for table in ("rows", "sessions", "session_order"))


def install_empty(box: Box, num: int = 1, shards: int = 12) -> None:
    """The group owns every shard."""
    for shard in range(shards):
        assert box.do(Install(shard, num, EMPTY_SUMMARY)) == [0]


def move(source: Box, target: Box, shard: int, num: int, *, page: int = 1 << 20) -> None:
    """The whole hand-over, without trouble."""
    assert target.do(InstallChunk(shard, num, b"", b"")) == [0, b""]
    assert source.do(Freeze(shard, num, 2, ("b-0",)))[0] == 0
    after = b""
    more = True
    while more:
        ok, summary, entries, last, more = source.read(Method.READ_SHARD, shard, num, after, page)
        assert ok == 0
        assert target.do(InstallChunk(shard, num, after, entries)) == [0, last]
        after = last
    assert target.do(Install(shard, num, unpack_summary(summary))) == [0]
    assert source.do(DeleteShard(shard, num)) == [0]
