"""Lab 2: one key/value server in simulation, by name (MIT 6.5840, `kvsrv1`), and the lock that is built on it.

As in `kvraft`, each runs with the labs' clerk and with the session clerk.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Awaitable, Callable
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import NamedTuple

import trio

from raftlog.net.sim import RELIABLE, UNRELIABLE, SimNetwork
from shardkv.errors import Maybe, NoKey, VersionMismatch
from shardkv.kv_clerk import KvClerk
from store.memory_engine import MemoryDisk
from tools.checker.history import Recorder
from tools.checker.linearizability import check
from tools.scenarios.asserts import require
from tools.sim.cluster import SimKvServer
from tools.sim.world import World

RACE_S = 1.0
LOCK_S = 2.0
HOLD_S = 0.01
TRIES = 100
CLIENTS = 4_000
"""The labs have 100,000 (20,000 since 2026); what is asserted is per client. Just below the number of sessions that a server
keeps, so that with sessions none of them is evicted: the most that a client can cost."""
BYTES_PER_CLIENT = 200
_APART = (World, SimNetwork, MemoryDisk, trio.Event, type, ModuleType, CodeType, FrameType)
"""What hangs on a server and is not of it. Its disk is counted in another way."""


class Client(NamedTuple):
    """A clerk, and what the history calls it."""

    name: str
    clerk: KvClerk


class SrvLab:
    """A server, its clients and what they were told."""

    def __init__(self, world: World, sessions: bool, *, unreliable: bool = False) -> None:
        self.world = world
        self.sessions = sessions
        world.net.conditions = UNRELIABLE if unreliable else RELIABLE
        self.server = SimKvServer(world)
        self.server.start()
        self.history = Recorder()
        self.ops = 0
        self._clients = 0

    def client(self) -> Client:
        """A new one, on a host of its own."""
        self._clients += 1
        name = f"client-{self._clients}"
        rpc = self.world.net.rpc(self.world.host(name))
        sessions = {"sessions": self.sessions, "resend": not self.sessions}
        return Client(name, KvClerk(rpc, self.server.addresses, rng=self.world.rng(name), **sessions))

    async def put(self, client: Client, key: str, value: bytes, version: int) -> str:
        """ "ok", "no key", "mismatch" or, without sessions, "maybe"; recorded."""
        self.ops += 1
        now = self.world.now
        number = self.history.begin(client.name, "put", key.encode(), now(), value=value, version=version)
        current = None
        try:
            current = await client.clerk.put(key, value, version, deadline_s=None)
            told = "ok"
        except NoKey:
            told = "no key"
        except VersionMismatch as error:
            told, current = "mismatch", error.current
        except Maybe:
            told = "maybe"
        self.history.end(number, now(), told, version=current)
        require(told != "maybe" or not self.sessions, "a put ended in Maybe although its session lived")
        return told

    async def get(self, client: Client, key: str) -> tuple[bytes | None, int]:
        """(value, version), (None, 0) for a missing key; recorded."""
        self.ops += 1
        now = self.world.now
        number = self.history.begin(client.name, "get", key.encode(), now())
        try:
            value, version = await client.clerk.get(key, deadline_s=None)
        except NoKey:
            self.history.end(number, now(), "no key")
            return None, 0
        self.history.end(number, now(), "ok", value=value, version=version)
        return value, version

    def check_history(self) -> None:
        """Linearizable, and surely so."""
        verdict = check(self.history.ops)
        require(verdict.verdict == "ok", str(verdict))

    def server_bytes(self) -> int:
        """What the server keeps: the rows of its tables, encoded, and the Python objects that can be reached from it and
        from the handler of its calls."""
        name = self.server.names[0]
        disk, _ = self.world.disk(name, "state", ())
        return disk.used_bytes + _held_bytes(self.server.server, self.world.net.hosts[name].requests)


def _held_bytes(*roots: object) -> int:
    total, seen, left = 0, set[int](), list(roots)
    while left:
        found = left.pop()
        if id(found) in seen or isinstance(found, _APART):
            continue
        seen.add(id(found))
        total += sys.getsizeof(found)
        if isinstance(found, FunctionType):  # without its module
            left += [*(found.__closure__ or ()), *(found.__defaults__ or ())]
        else:
            left += gc.get_referents(found)
    return total


async def reliable_put_2(world: World, sessions: bool) -> int:
    """TestReliablePut: what a put and a get answer, each way."""
    lab = SrvLab(world, sessions)
    clerk = lab.client()
    require(await lab.put(clerk, "k", b"6.5840", 0) == "ok", "the first put")
    require(await lab.get(clerk, "k") == (b"6.5840", 1), "the value and version 1")
    require(await lab.put(clerk, "k", b"6.5840", 0) == "mismatch", "a second put by version 0")
    require(await lab.put(clerk, "y", b"6.5840", 1) == "no key", "a put by version 1 of a missing key")
    require(await lab.get(clerk, "y") == (None, 0), "the missing key")
    lab.check_history()
    return lab.ops


async def put_concurrent_reliable_2(world: World, sessions: bool) -> int:
    """TestPutConcurrentReliable: 10 clients race on one key; the version counts the puts that were OK."""
    lab = SrvLab(world, sessions)
    counts = [0]

    async def client(number: int) -> None:
        clerk = lab.client()
        version = turn = 0
        until = world.now() + RACE_S
        while world.now() < until:
            turn += 1
            told = await lab.put(clerk, "k", b"%d %d" % (number, turn), version)
            counts[0] += told == "ok"
            version = version + 1 if told == "ok" else (await lab.get(clerk, "k"))[1]

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(client, number)
    _, version = await lab.get(lab.client(), "k")
    require(version == counts[0] > 0, f"version {version} after {counts[0]} puts that were OK")
    lab.check_history()
    return lab.ops


async def mem_put_many_clients_reliable_2(world: World, sessions: bool) -> int:
    """TestMemPutManyClientsReliable: many clients put once each; what the server keeps of a client is bounded. Measured is
    the growth of `SrvLab.server_bytes`: its own objects and its rows, not the clients, the network or the interpreter."""
    lab = SrvLab(world, sessions)
    value = b"x" * 1000
    require(await lab.put(lab.client(), "k", value, 0) == "ok", "the first put")
    before = lab.server_bytes()
    for number in range(1, CLIENTS + 1):
        client = lab.client()
        await client.clerk.put("k", value, number, deadline_s=None)
        world.net.crash(client.name)
        del world.net.hosts[client.name]
    each = (lab.server_bytes() - before) / CLIENTS
    require(each <= BYTES_PER_CLIENT, f"{each:.0f} bytes per client, at most {BYTES_PER_CLIENT}")
    return 0


async def unreliable_net_2(world: World, sessions: bool) -> int:
    """TestUnreliableNet: each put happens exactly once: one that is repeated after a Maybe finds another version, and the
    value is the first one's. Without sessions at least one ends in Maybe, with them none does."""
    lab = SrvLab(world, sessions, unreliable=True)
    clerk = lab.client()
    maybes = 0
    for number in range(TRIES):
        turn = 0
        while (told := await lab.put(clerk, "k", b"%d, turn %d" % (number, turn), number)) == "maybe":
            turn += 1
        require(told == ("mismatch" if turn else "ok"), f"put {number}, turn {turn}: {told}")
        maybes += turn
        found = await lab.get(clerk, "k")
        require(found == (b"%d, turn 0" % number, number + 1), f"after put {number}: {found}")
    require((maybes == 0) == sessions, f"{maybes} puts ended in Maybe")
    lab.check_history()
    return lab.ops


# --- the lock --------------------------------------------------------------------------------------------------------


class Lock:
    """A lock in one key: its holder's name, or nothing. Only gets and puts by version (the labs' `lock`)."""

    def __init__(self, lab: SrvLab, client: Client, key: str, me: bytes) -> None:
        self._lab = lab
        self._client = client
        self._key = key
        self._me = me

    async def acquire(self) -> None:
        """Wait until it is ours."""
        while True:
            holder, version = await self._lab.get(self._client, self._key)
            if holder == self._me:
                return  # by a put of which we were only told "maybe"
            if not holder:
                told = await self._lab.put(self._client, self._key, self._me, version)
                if told == "ok":
                    return
                if told == "maybe":
                    continue
            await trio.sleep(0.01)

    async def release(self) -> None:
        """Give it back."""
        while True:
            holder, version = await self._lab.get(self._client, self._key)
            if holder != self._me or await self._lab.put(self._client, self._key, b"", version) == "ok":
                return


async def _locked(world: World, sessions: bool, *, clients: int, unreliable: bool) -> int:
    lab = SrvLab(world, sessions, unreliable=unreliable)
    held = [0]

    async def client(number: int) -> None:
        clerk = lab.client()
        lock = Lock(lab, clerk, "l", b"client %d" % number)
        until = world.now() + LOCK_S
        turn = 0
        while world.now() < until:
            turn += 1
            await lock.acquire()
            held[0] += 1
            require(held[0] == 1, f"{held[0]} clients hold the lock")
            value, version = await lab.get(clerk, "l0")
            require(not value, f"l0 is {value!r} when client {number} has the lock")
            told = await lab.put(clerk, "l0", b"client %d turn %d" % (number, turn), version)
            require(told == "ok" or (told == "maybe" and unreliable), f"a put under the lock: {told}")
            await trio.sleep(HOLD_S)
            _, version = await lab.get(clerk, "l0")
            told = await lab.put(clerk, "l0", b"", version)
            require(told == "ok" or (told == "maybe" and unreliable), f"a put under the lock: {told}")
            held[0] -= 1
            await lock.release()

    async with trio.open_nursery() as nursery:
        for number in range(clients):
            nursery.start_soon(client, number)
    lab.check_history()
    return lab.ops


async def lock_one_client_reliable_2(world: World, sessions: bool) -> int:
    """TestOneClientReliable of the lock."""
    return await _locked(world, sessions, clients=1, unreliable=False)


async def lock_many_clients_reliable_2(world: World, sessions: bool) -> int:
    """TestManyClientsReliable of the lock: never two holders."""
    return await _locked(world, sessions, clients=10, unreliable=False)


async def lock_one_client_unreliable_2(world: World, sessions: bool) -> int:
    """TestOneClientUnreliable of the lock."""
    return await _locked(world, sessions, clients=1, unreliable=True)


async def lock_many_clients_unreliable_2(world: World, sessions: bool) -> int:
    """TestManyClientsUnreliable of the lock."""
    return await _locked(world, sessions, clients=10, unreliable=True)


SCENARIOS: dict[str, Callable[[World, bool], Awaitable[int]]] = {
    "TestReliablePut": reliable_put_2,
    "TestPutConcurrentReliable": put_concurrent_reliable_2,
    "TestMemPutManyClientsReliable": mem_put_many_clients_reliable_2,
    "TestUnreliableNet": unreliable_net_2,
    "lock: TestOneClientReliable": lock_one_client_reliable_2,
    "lock: TestManyClientsReliable": lock_many_clients_reliable_2,
    "lock: TestOneClientUnreliable": lock_one_client_unreliable_2,
    "lock: TestManyClientsUnreliable": lock_many_clients_unreliable_2,
}
"""By their official names."""

KVSRV_2: tuple[tuple[str, Callable[[World, bool], Awaitable[int]]], ...] = tuple(SCENARIOS.items())
