"""Lab 4, parts A and C of the replicated state machine (MIT 6.5840, `kvraft1/rsm`): a counter with Inc, Dec and Null."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from raftlog.codec import dumps, loads
from raftlog.machine import Applied, NotLeader, NotTaken, Outcome, Refusal, Unknown, plain
from raftlog.node_values import NodeLimits
from raftlog.types import LogId
from store.engine import ReadTxn, WriteTxn
from tools.scenarios.asserts import ends_within, require
from tools.scenarios.raft_lab import RaftLab
from tools.sim.world import World

INC, DEC, NULL = b"inc", b"dec", b"null"
COUNTER = "counter"
MAX_RAFT_STATE = 1000


class Counter:
    """A counter, and nothing else."""

    tables: tuple[str, ...] = (COUNTER,)

    def scope(self, txn: ReadTxn, command: bytes) -> bytes | None:
        """No sessions: each submit counts."""
        return None

    def apply(self, txn: WriteTxn, command: bytes, at: LogId) -> bytes:
        """Inc and Dec answer with the new value, Null with nothing."""
        if command == NULL:
            return dumps(None)
        value = counted(txn) + (1 if command == INC else -1)
        txn.put(COUNTER, b"n", dumps(value))
        return dumps(value)

    def stamp(self, reply: bytes, tick: int) -> bytes:
        """There are no sessions."""
        return reply

    def refuse(self, why: Refusal, tick: int) -> bytes:
        """There are no sessions."""
        return dumps(None)

    def grows(self, command: bytes) -> bool:
        """It never does."""
        return False

    def background(self, txn: WriteTxn, budget: int) -> bool:
        """Nothing."""
        return False

    def state_hash(self, txn: ReadTxn) -> bytes:
        """The value itself."""
        return (counted(txn) % (1 << 128)).to_bytes(16, "big")


def counted(txn: ReadTxn) -> int:
    """The counter's value in this view."""
    found = txn.get(COUNTER, b"n")
    return 0 if found is None else int(loads(found))


class RsmLab(RaftLab):
    """Three counters, reliable network, no long delays."""

    def __init__(self, world: World, limits: NodeLimits | None = None) -> None:
        super().__init__(world, 3, machine=Counter, limits=limits or NodeLimits(batch_operations=1))

    async def submit(self, peer: int, command: bytes) -> Outcome:
        """Submit at one peer and wait for what becomes of it, for ever."""
        node = self.node(peer)
        if node is None:
            return NotLeader(None)
        answer: list[Outcome] = []
        done = trio.Event()

        def found(outcome: Outcome) -> None:
            answer.append(outcome)
            done.set()

        node.submit(plain(command), found)
        await done.wait()
        return answer[0]

    async def one_of(self, peers: tuple[int, ...], command: bytes) -> int | None:
        """onePartition: try these peers until one has applied it, up to 10 s; the value."""
        until = self.world.now() + 10.0
        while self.world.now() < until:
            for peer in peers:
                if self.connected[peer]:
                    outcome = await self.submit(peer, command)
                    if isinstance(outcome, Applied):
                        value: int | None = loads(outcome.reply)
                        return value
            await trio.sleep(0.05)
        require(False, f"none of {peers} took {command!r} in 10 s")
        raise AssertionError

    async def inc(self) -> int | None:
        """Inc at whoever takes it."""
        return await self.one_of((0, 1, 2), INC)

    async def check_counter(self, value: int, peers: int) -> None:
        """At least so many peers have this value, within 10 s."""
        for _ in range(30):
            counters = [counted(p.node.view) for p in self.group.peers.values()]
            if counters.count(value) >= peers:
                return
            await trio.sleep(0.33)
        require(False, f"the counters are {counters}, {value} is expected at {peers}")

    def restart_all(self) -> None:
        """Everybody again, from their disks."""
        self.restart(*self.everybody())


async def basic_4a(world: World) -> None:
    """10 Incs one after another answer 1 to 10."""
    lab = RsmLab(world)
    for value in range(1, 11):
        found = await lab.inc()
        require(found == value, f"Inc gave {found}, expected {value}")
        await lab.check_counter(value, 3)


async def concurrent_4a(world: World) -> None:
    """50 Incs at once."""
    lab = RsmLab(world)
    await lab.check_one_leader()
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(lab.inc)
    await lab.check_counter(50, 3)


async def leader_failure_4a(world: World) -> None:
    """An Inc without the old leader, which catches up."""
    lab = RsmLab(world)
    require(await lab.inc() == 1, "the first Inc")
    leader = await lab.check_one_leader()
    lab.disconnect(leader)
    others = tuple(p for p in lab.everybody() if p != leader)
    require(await lab.one_of(others, INC) == 2, "the second Inc")
    await lab.check_counter(2, 2)
    lab.connect(leader)
    await lab.check_counter(2, 3)


async def leader_partition_4a(world: World) -> None:
    """100 Decs at a leader in a minority: none is answered OK or returns while it is cut off; all return after the heal,
    and none is ever executed."""
    lab = RsmLab(world)
    require(await lab.inc() == 1, "the first Inc")
    leader = await lab.check_one_leader()
    lab.disconnect(leader)
    outcomes: list[Outcome] = []

    async def dec() -> None:
        outcomes.append(await lab.submit(leader, DEC))

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(dec)
        await trio.sleep(0.01)
        others = tuple(p for p in lab.everybody() if p != leader)
        require(await lab.one_of(others, INC) == 2, "the Inc in the majority")
        await trio.sleep(1.0)
        require(not outcomes, f"{len(outcomes)} submits returned in the minority: {outcomes[:1]}")
        lab.connect(leader)
        await ends_within(_until(lambda: len(outcomes) == 100), 1.0, "the 100 submits, after the heal,")
    wrong = [o for o in outcomes if not isinstance(o, NotTaken | Unknown | NotLeader)]
    require(not wrong, f"{len(wrong)} Decs were executed")
    await lab.check_counter(2, 3)


def _until(holds: Callable[[], bool]) -> Callable[[], Awaitable[None]]:
    async def wait() -> None:
        while not holds():
            await trio.sleep(0.01)

    return wait


async def _hundred(lab: RsmLab) -> None:
    for value in range(1, 101):
        found = await lab.inc()
        require(found == value, f"Inc gave {found}, expected {value}")


async def restart_replay_4a(world: World) -> None:
    """100 Incs, all down, all up, one more: 101 everywhere."""
    lab = RsmLab(world)
    await _hundred(lab)
    lab.crash()
    await trio.sleep(1.0)
    lab.restart_all()
    require(await lab.inc() == 101, "the Inc after the restart")
    await trio.sleep(1.0)
    await lab.check_counter(101, 3)


async def _nulls_and_shutdown(lab: RsmLab) -> None:
    leader = await lab.check_one_leader()
    ended: list[Outcome] = []

    async def null() -> None:
        ended.append(await lab.submit(leader, NULL))

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(null)
        await trio.sleep(0.02)
        for peer in list(lab.group.peers.values()):
            peer.node.close()
        lab.crash()
        await ends_within(_until(lambda: len(ended) == 100), 11.0, "the submits, after the shut-down,")


async def shutdown_4a(world: World) -> None:
    """100 Nulls in flight, all down after 20 ms: every submit returns."""
    await _nulls_and_shutdown(RsmLab(world))


async def restart_submit_4a(world: World) -> None:
    """Restart, Nulls in flight at a second shut-down, restart: old results are not taken for new ones."""
    lab = RsmLab(world)
    await _hundred(lab)
    lab.crash()
    await trio.sleep(1.0)
    lab.restart_all()
    require(await lab.inc() == 101, "the Inc after the restart")
    await _nulls_and_shutdown(lab)
    lab.restart_all()
    require(await lab.inc() == 102, "the Inc after the second restart")
    await trio.sleep(1.0)
    await lab.check_counter(102, 3)


async def snapshot_4c(world: World) -> None:
    """100 Incs with a short log; all restart from what was purged to."""
    limits = NodeLimits(batch_operations=1, log_bytes=MAX_RAFT_STATE // 2, keep_bytes=0, flush_idle_s=0.05)
    lab = RsmLab(world, limits)
    await _hundred(lab)
    await trio.sleep(0.3)
    size = lab.log_bytes()
    require(size <= 2 * MAX_RAFT_STATE, f"the Raft state has {size} bytes, at most {2 * MAX_RAFT_STATE}")
    require(all(p.node.core.state.log.base.index > 0 for p in lab.group.peers.values()), "nothing was ever purged")
    lab.crash()
    await trio.sleep(1.0)
    lab.restart_all()
    require(await lab.inc() == 101, "the Inc after the restart")
    await lab.check_counter(101, 3)


SCENARIOS = (
    basic_4a,
    concurrent_4a,
    leader_failure_4a,
    leader_partition_4a,
    restart_replay_4a,
    shutdown_4a,
    restart_submit_4a,
    snapshot_4c,
)
