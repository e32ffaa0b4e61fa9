"""Lab 4, parts B and C: the replicated key/value service in simulation, by name (MIT 6.5840, `kvraft1`).

Every scenario runs with the labs' clerk (`sessions` False: a repeated put may end in `Maybe`) and with the session clerk (a
put takes effect exactly once, and no `Maybe` while its session lives). Clerks wait for ever, as the labs' do. Limits are in
virtual seconds; histories must be linearizable, and "unknown" is no answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

from raftlog.net.sim import RELIABLE, UNRELIABLE
from raftlog.node_values import NodeLimits
from shardkv.errors import Maybe, NoKey, VersionMismatch
from shardkv.kv_clerk import KvClerk
from shardkv.kvmachine import KvMachine
from tools.checker.history import Recorder
from tools.checker.linearizability import check
from tools.scenarios.asserts import ends_within, require
from tools.scenarios.raft_lab import PLAIN_LIMITS, SNAPSHOT_LIMITS, log_bytes_of
from tools.sim.group import SimGroup
from tools.sim.world import World

ITERATIONS = 3
CLIENT_S = 1.0
ELECTION_S = 1.0
MAX_RAFT_STATE = 1000
LOG_FACTOR = 8
SPEED_PUTS = 1000
SPEED_S = 0.1 / 3
"""The labs' limit per operation: three per heartbeat."""


class LabClient:
    """A client with the labs' wrappers: it records, counts, and remembers versions."""

    def __init__(self, lab: KvLab, name: str, clerk: KvClerk) -> None:
        self.lab = lab
        self.name = name
        self.clerk = clerk
        self.versions: dict[str, int] = {}
        self.ok = self.maybe = 0

    async def get(self, key: str) -> tuple[bytes | None, int]:
        """(value, version), (None, 0) for a missing key."""
        record, now = self.lab.history, self.lab.world.now
        number = record.begin(self.name, "get", key.encode(), now())
        self.lab.ops += 1
        try:
            value, version = await self.clerk.get(key, deadline_s=None)
        except NoKey:
            record.end(number, now(), "no key")
            return None, 0
        record.end(number, now(), "ok", value=value, version=version)
        return value, version

    async def put(self, key: str, value: bytes, version: int) -> str:
        """ "ok", "no key", "mismatch" or, without sessions, "maybe"."""
        record, now = self.lab.history, self.lab.world.now
        number = record.begin(self.name, "put", key.encode(), now(), value=value, version=version)
        self.lab.ops += 1
        current = None
        try:
            current = await self.clerk.put(key, value, version, deadline_s=None)
            told = "ok"
        except NoKey:
            told = "no key"
        except VersionMismatch as error:
            told, current = "mismatch", error.current
        except Maybe:
            told = "maybe"
        record.end(number, now(), told, version=current)
        require(told != "maybe" or not self.lab.sessions, "a put ended in Maybe although its session lived")
        return told

    async def put_at_least_once(self, key: str, value: bytes, version: int) -> int:
        """Put until it is OK, with the version that is there; the new version."""
        while (told := await self.put(key, value, version)) != "ok":
            found, current = await self.get(key)
            if told == "maybe" and found == value:
                return current
            version = current
        return version + 1

    async def one_put(self, key: str, value: bytes) -> None:
        """OneClientPut: by the version it knows; if that is not it, it looks."""
        told = await self.put(key, value, self.versions.get(key, 0))
        if told == "ok":
            self.ok += 1
            self.versions[key] = self.versions.get(key, 0) + 1
            return
        self.maybe += told == "maybe"
        _, self.versions[key] = await self.get(key)


class KvLab:
    """A kvraft group, its clients and its checks."""

    def __init__(
        self, world: World, servers: int, sessions: bool, *, unreliable: bool = False, limits: NodeLimits = PLAIN_LIMITS
    ) -> None:
        self.world = world
        self.sessions = sessions
        world.net.conditions = UNRELIABLE if unreliable else RELIABLE
        self.snapshots = limits is not PLAIN_LIMITS
        self.group = SimGroup(world, 0, servers, KvMachine, limits=limits)
        self.group.start()
        self.history = Recorder()
        self.ops = 0
        self._clients = 0

    def client(self, servers: list[int] | None = None) -> LabClient:
        """A new client, which reaches all servers, or only these."""
        self._clients += 1
        name = f"client-{self._clients}"
        host = self.world.host(name)
        reached = sorted(self.group.names) if servers is None else servers
        for peer, server in self.group.names.items():
            if peer not in reached:
                self.world.net.isolate(name, [server])
        addresses = [self.group.names[peer] for peer in reached]
        rng = self.world.rng("client", name)
        sessions = {"sessions": self.sessions, "resend": not self.sessions}
        return LabClient(self, name, KvClerk(self.world.net.rpc(host), addresses, rng=rng, **sessions))

    def partition(self, *sides: list[int]) -> None:
        """Cut the servers into sides; clients reach what they reached."""
        names = self.group.names
        for one, side in enumerate(sides):
            for other in sides[one + 1 :]:
                for a in side:
                    self.world.net.isolate(names[a], [names[b] for b in other])

    def heal(self) -> None:
        """No cuts, for clients neither."""
        self.world.net.heal()

    def log_bytes(self) -> int:
        """The largest Raft state of a server on its disk."""
        return max(log_bytes_of(self.world, name) for name in self.group.names.values())

    def purged(self) -> bool:
        """Whether some server has thrown away a part of its log, which takes a snapshot."""
        return any(peer.node.core.state.log.base.index > 0 for peer in self.group.peers.values())

    def snapshot_bytes(self) -> int:
        """The largest image that a server would send now; 0 as long as no log was purged."""
        if not self.purged():
            return 0
        found = 0
        for peer in self.group.peers.values():
            view = peer.node.view
            rows = [len(k) + len(v) for table in peer.machine.tables for k, v in view.scan(table)]
            found = max(found, sum(rows))
        return found

    def check_sizes(self) -> None:
        """The log stays small with snapshots, and without them there are none."""
        if self.snapshots:
            most = LOG_FACTOR * MAX_RAFT_STATE
            require(self.log_bytes() <= most, f"the log has {self.log_bytes()} bytes, at most {most}")
        else:
            require(self.snapshot_bytes() == 0, "there is a snapshot although none was asked for")

    def check_history(self) -> None:
        """At the end: linearizable, and surely so; and where there are snapshots, one was needed."""
        require(self.purged() == self.snapshots, f"a log was purged: {self.purged()}")
        verdict = check(self.history.ops)
        require(verdict.verdict == "ok", str(verdict))


# --- the generic test ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Params:
    """MakeTest's parameters."""

    clients: int
    servers: int
    unreliable: bool = False
    crash: bool = False
    partitions: bool = False
    snapshots: bool = False
    random_keys: bool = False


@dataclass(slots=True)
class _Clients:
    """The clients of an iteration, and when they stop."""

    stop: bool = False
    running: int = 0
    ended: trio.Event = field(default_factory=trio.Event)


async def generic(world: World, sessions: bool, params: Params) -> int:
    """GenericTest: three iterations of clients that put, with what the parameters say happening to the servers."""
    limits = SNAPSHOT_LIMITS if params.snapshots else PLAIN_LIMITS
    lab = KvLab(world, params.servers, sessions, unreliable=params.unreliable, limits=limits)
    calm = not (params.unreliable or params.crash or params.partitions)
    clients = [lab.client() for _ in range(params.clients)]
    for _ in range(ITERATIONS):
        run = _Clients(running=len(clients))
        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(_puts, lab, client, run, params.random_keys)
            await trio.sleep(CLIENT_S)
            if params.partitions:
                await _partitioned(lab, run)
            run.stop = True
            if params.crash:
                lab.group.crash()
                await trio.sleep(ELECTION_S)
                lab.group.start()
        await _check_puts(lab, clients, params, calm)
        lab.check_sizes()
    lab.check_history()
    return lab.ops


async def _puts(lab: KvLab, client: LabClient, run: _Clients, random_keys: bool) -> None:
    rng = lab.world.rng("puts", client.name, lab.world.now())
    number = 0
    while not run.stop:
        key = f"k{rng.randrange(100)}" if random_keys else "k"
        await client.one_put(key, f"{client.name} {lab.world.now():.6f} {number}".encode())
        number += 1
    run.running -= 1
    if not run.running:
        run.ended.set()


async def _partitioned(lab: KvLab, run: _Clients) -> None:
    """Partitions until the clients, told to stop after a while, have all ended; then none, and time to elect."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_partitioner, lab)
        await trio.sleep(2 * CLIENT_S)
        run.stop = True
        await run.ended.wait()
        nursery.cancel_scope.cancel()
    lab.heal()
    await trio.sleep(ELECTION_S)


async def _partitioner(lab: KvLab) -> None:
    """Split the servers anew every 1.0 to 1.2 s, each to a side at random."""
    rng = lab.world.rng("partitioner", lab.world.now())
    while True:
        sides: tuple[list[int], list[int]] = ([], [])
        for peer in sorted(lab.group.names):
            sides[rng.randrange(2)].append(peer)
        lab.heal()
        lab.partition(*sides)
        await trio.sleep(ELECTION_S + rng.random() * 0.2)


async def _check_puts(lab: KvLab, clients: list[LabClient], params: Params, calm: bool) -> None:
    ok, maybe = sum(c.ok for c in clients), sum(c.maybe for c in clients)
    require(ok > 0, "no put was ever OK")
    if params.random_keys:
        return
    _, version = await clients[0].get("k")
    if calm or lab.sessions:
        require(version == ok, f"version {version} after {ok} puts that were OK")
    require(ok <= version <= ok + maybe, f"version {version} after {ok} OK puts and {maybe} that may have been")


# --- the others ------------------------------------------------------------------------------------------------------


async def _speed(world: World, sessions: bool, limits: NodeLimits) -> int:
    lab = KvLab(world, 3, sessions, limits=limits)
    client = lab.client()
    require(await client.get("x") == (None, 0), "the first get, which waits for a leader")
    began = world.now()
    for number in range(SPEED_PUTS):
        require(await client.put("x", b"x 0 %d y" % number, number) == "ok", f"put {number} was not OK")
    each = (world.now() - began) / SPEED_PUTS
    require(await client.get("x") == (b"x 0 %d y" % (SPEED_PUTS - 1), SPEED_PUTS), "the last value or its version")
    require(each <= SPEED_S, f"{1000 * each:.2f} ms per operation, at most {1000 * SPEED_S:.2f}")
    lab.check_sizes()
    lab.check_history()
    return 0  # the labs count only their wrappers, which this test does not use


async def speed_4b(world: World, sessions: bool) -> int:
    """TestSpeed4B: 1000 puts one after another, at least three per heartbeat."""
    return await _speed(world, sessions, PLAIN_LIMITS)


async def speed_4c(world: World, sessions: bool) -> int:
    """TestSpeed4C: the same with snapshots."""
    return await _speed(world, sessions, SNAPSHOT_LIMITS)


async def one_partition_4b(world: World, sessions: bool) -> int:
    """TestOnePartition4B: the majority goes on without the leader; who is with the minority waits until the heal."""
    lab = KvLab(world, 5, sessions, unreliable=True)
    everyone = lab.client()
    version = await everyone.put_at_least_once("1", b"13", 0)
    leader = await lab.group.wait_leader()
    others = [peer for peer in sorted(lab.group.names) if peer != leader]
    minority, majority = [leader, others[0]], others[1:]
    lab.partition(minority, majority)
    inside = lab.client(majority)
    outside = [lab.client(minority), lab.client(minority)]
    version = await inside.put_at_least_once("1", b"14", version)
    require(await inside.get("1") == (b"14", version), "the majority's own put")
    done, got = trio.Event(), trio.Event()
    put_version: list[int] = []

    async def put() -> None:
        put_version.append(await outside[0].put_at_least_once("1", b"15", version))
        done.set()

    async def get() -> None:
        await outside[1].get("1")
        got.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(put)
        nursery.start_soon(get)
        await trio.sleep(1.0)
        require(not done.is_set(), "a put was answered in the minority")
        require(not got.is_set(), "a get was answered in the minority")
        require(await inside.get("1") == (b"14", version), "the majority, while others wait in the minority")
        after = await inside.put_at_least_once("1", b"16", version)
        require(await inside.get("1") == (b"16", after), "the majority's second put")
        lab.heal()
        await trio.sleep(ELECTION_S)
        await ends_within(done.wait, 3.0, "the put of the minority, after the heal,")
        await ends_within(got.wait, 3.0, "the get of the minority, after the heal,")
    require(await everyone.get("1") == (b"15", put_version[0]), "the put of the minority is the last one")
    lab.check_history()
    return lab.ops


async def snapshot_rpc_4c(world: World, sessions: bool) -> int:
    """TestSnapshotRPC4C: a server that missed 50 puts catches up by an image, for it is needed then."""
    lab = KvLab(world, 3, sessions, limits=SNAPSHOT_LIMITS)
    client = lab.client()
    await client.put_at_least_once("a", b"A", 0)
    lab.partition([0, 1], [2])
    inside = lab.client([0, 1])
    for number in range(50):
        await inside.put_at_least_once(str(number), str(number).encode(), 0)
    await trio.sleep(ELECTION_S)
    await inside.put_at_least_once("b", b"B", 0)
    lab.check_sizes()
    lab.heal()
    lab.partition([0, 2], [1])
    other = lab.client([0, 2])
    for key, value in (("c", b"C"), ("d", b"D")):
        await other.put_at_least_once(key, value, 0)
    for key, value in (("a", b"A"), ("b", b"B"), ("1", b"1"), ("49", b"49")):
        require(await other.get(key) == (value, 1), f"{key} at the side with the server that lagged")
    require(
        sum(p.node.core.state.rare.get("image installed", 0) for p in lab.group.peers.values()) > 0, "no image was sent"
    )
    lab.heal()
    last = lab.client()
    await last.put_at_least_once("e", b"E", 0)
    for key, value in (("c", b"C"), ("e", b"E"), ("1", b"1")):
        require(await last.get(key) == (value, 1), f"{key} after the heal")
    lab.check_history()
    return lab.ops


async def snapshot_size_4c(world: World, sessions: bool) -> int:
    """TestSnapshotSize4C: 800 operations on one key leave a small log and a small snapshot."""
    lab = KvLab(world, 3, sessions, limits=SNAPSHOT_LIMITS)
    client = lab.client()
    version = 0
    for _ in range(200):
        for value in (b"0", b"1"):
            version = await client.put_at_least_once("x", value, version)
            require(await client.get("x") == (value, version), "the value just put")
    lab.check_sizes()
    size = lab.snapshot_bytes()
    require(0 < size <= 500, f"the snapshot has {size} bytes, at most 500")
    lab.check_history()
    return lab.ops


Scenario = Callable[[World, bool], Awaitable[int]]

PARAMS: dict[str, Params] = {
    "TestBasic4B": Params(1, 5),
    "TestConcurrent4B": Params(5, 5),
    "TestUnreliable4B": Params(5, 5, unreliable=True),
    "TestManyPartitionsOneClient4B": Params(1, 5, partitions=True),
    "TestManyPartitionsManyClients4B": Params(5, 5, partitions=True),
    "TestPersistOneClient4B": Params(1, 5, crash=True),
    "TestPersistConcurrent4B": Params(5, 5, crash=True),
    "TestPersistConcurrentUnreliable4B": Params(5, 5, unreliable=True, crash=True),
    "TestPersistPartition4B": Params(5, 5, crash=True, partitions=True),
    "TestPersistPartitionUnreliable4B": Params(5, 5, unreliable=True, crash=True, partitions=True),
    "TestPersistPartitionUnreliableLinearizable4B": Params(15, 7, True, True, True, random_keys=True),
    "TestSnapshotRecover4C": Params(1, 5, crash=True, snapshots=True),
    "TestSnapshotRecoverManyClients4C": Params(20, 5, crash=True, snapshots=True),
    "TestSnapshotUnreliable4C": Params(5, 5, unreliable=True, snapshots=True),
    "TestSnapshotUnreliableRecover4C": Params(5, 5, unreliable=True, crash=True, snapshots=True),
    "TestSnapshotUnreliableRecoverConcurrentPartition4C": Params(5, 5, True, True, True, True),
    "TestSnapshotUnreliableRecoverConcurrentPartitionLinearizable4C": Params(15, 7, True, True, True, True, True),
}
"""The scenarios that differ in their parameters only."""


def _generic(params: Params) -> Scenario:
    async def scenario(world: World, sessions: bool) -> int:
        return await generic(world, sessions, params)

    return scenario


SCENARIOS: dict[str, Scenario] = {
    **{name: _generic(params) for name, params in PARAMS.items()},
    "TestSpeed4B": speed_4b,
    "TestOnePartition4B": one_partition_4b,
    "TestSnapshotRPC4C": snapshot_rpc_4c,
    "TestSnapshotSize4C": snapshot_size_4c,
    "TestSpeed4C": speed_4c,
}
"""By their official names."""

basic_4b = SCENARIOS["TestBasic4B"]
concurrent_4b = SCENARIOS["TestConcurrent4B"]
unreliable_4b = SCENARIOS["TestUnreliable4B"]
many_partitions_one_client_4b = SCENARIOS["TestManyPartitionsOneClient4B"]
many_partitions_many_clients_4b = SCENARIOS["TestManyPartitionsManyClients4B"]
persist_one_client_4b = SCENARIOS["TestPersistOneClient4B"]
persist_concurrent_4b = SCENARIOS["TestPersistConcurrent4B"]
persist_concurrent_unreliable_4b = SCENARIOS["TestPersistConcurrentUnreliable4B"]
persist_partition_4b = SCENARIOS["TestPersistPartition4B"]
persist_partition_unreliable_4b = SCENARIOS["TestPersistPartitionUnreliable4B"]
persist_partition_unreliable_linearizable_4b = SCENARIOS["TestPersistPartitionUnreliableLinearizable4B"]
snapshot_recover_4c = SCENARIOS["TestSnapshotRecover4C"]
snapshot_recover_many_clients_4c = SCENARIOS["TestSnapshotRecoverManyClients4C"]
snapshot_unreliable_4c = SCENARIOS["TestSnapshotUnreliable4C"]
snapshot_unreliable_recover_4c = SCENARIOS["TestSnapshotUnreliableRecover4C"]
snapshot_unreliable_recover_concurrent_partition_4c = SCENARIOS["TestSnapshotUnreliableRecoverConcurrentPartition4C"]
snapshot_unreliable_recover_concurrent_partition_linearizable_4c = SCENARIOS[
    "TestSnapshotUnreliableRecoverConcurrentPartitionLinearizable4C"
]

KVRAFT_4B: tuple[tuple[str, Scenario], ...] = tuple(item for item in SCENARIOS.items() if item[0].endswith("4B"))
KVRAFT_4C: tuple[tuple[str, Scenario], ...] = tuple(item for item in SCENARIOS.items() if item[0].endswith("4C"))
