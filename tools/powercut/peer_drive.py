"""The life of the recorded peer: three peers, clients, and what makes the one under strace do all that touches its disk.

It leads, purges and flushes; takes entries that nobody else gets, which are cut off later; falls behind the others' purge
base and gets an image; is started again; follows, votes, campaigns. The two others are ordinary processes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import trio

from raftlog.net.base import CallFailed, RpcClient
from shardkv.commands import Install, encode_command, summary_of_nobody
from shardkv.errors import KvError
from shardkv.group_clerk import GroupClerk
from shardkv.kv_clerk import KvClerk
from shardkv.methods import Method
from tools.admin import network, peer_status, peer_statuses
from tools.powercut.peer_load import CLUSTER, GID, Plan, die_with_parent, value_of
from tools.powercut.recording import strace_command
from tools.powercut.strace import BadTrace
from tools.processes import free_ports

RECORDED = 0
CLIENTS = 6
LIVES = 2
LIMIT_S = 240.0
"""The longest that the whole may take; on an idle machine it takes a tenth of it."""
KEYS = 5
"""So many keys of each kind has a client."""
LARGE_PUTS = 4
"""Of each client while the recorded peer is stopped: together more than one piece of an image."""


class Died(BadTrace):
    """A peer ended that should live; its last words."""


@dataclass
class Peer:
    """A process of a peer. `command` starts it."""

    number: int
    command: list[str]
    events: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, with its events appended to its file."""
        with self.events.open("ab") as out:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, preexec_fn=die_with_parent
            )

    def pid(self) -> int:
        """Of the peer itself, not of its tracer."""
        begun = [line for line in self.events.read_text().splitlines() if '"begun"' in line]
        return int(json.loads(begun[-1])["pid"])

    def check(self) -> None:
        """Raise `Died` if it does not run."""
        if self.process is None or self.process.poll() is not None:
            words = self.events.read_text().strip().splitlines()
            raise Died(f"peer {self.number} ended: {words[-1] if words else 'no word'}")

    def end(self, by: signal.Signals = signal.SIGKILL) -> None:
        """End it, and wait."""
        if self.process is None:
            return
        with suppress(ProcessLookupError, IndexError):
            self.signal(by)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def signal(self, number: signal.Signals) -> None:
        """To the peer itself."""
        os.kill(self.pid(), number)


@dataclass
class Drive:
    """The three of them and their clients."""

    peers: list[Peer]
    addresses: list[str]
    rpc: RpcClient
    rng: Random
    numbers: dict[str, int] = field(default_factory=dict)

    # --- waiting -----------------------------------------------------------------------------------------------------

    async def until(
        self, holds: Callable[[dict[int, dict[str, Any]]], bool], alive: tuple[int, ...] = (0, 1, 2)
    ) -> None:
        """Wait until the statuses of the peers that answer are so."""
        while True:
            for number in alive:
                self.peers[number].check()
            names = {str(at): self.addresses[at] for at in alive}
            found = {int(name): status for name, status in (await peer_statuses(self.rpc, names)).items()}
            if holds(found):
                return
            await trio.sleep(0.03)

    async def led(self, alive: tuple[int, ...] = (0, 1, 2)) -> int:
        """Who leads, once somebody does."""
        leader: list[int] = []

        def holds(found: dict[int, dict[str, Any]]) -> bool:
            leader[:] = [at for at, status in found.items() if status["role"] == "leader"]
            return bool(leader)

        await self.until(holds, alive)
        return leader[0]

    async def all_equal(self) -> None:
        """All three have applied the same."""
        await self.until(
            lambda found: len(found) == 3 and len({tuple(status["applied"]) for status in found.values()}) == 1
        )

    async def lead_by(self, wanted: int) -> None:
        """Have one of them lead."""
        while (leader := await self.led()) != wanted:
            with suppress(CallFailed):
                await self.rpc.call(self.addresses[leader], int(Method.PEER_TRANSFER), [wanted])
            await trio.sleep(0.1)

    # --- load --------------------------------------------------------------------------------------------------------

    async def puts(self, count: int, *, kind: str = "key", deadline_s: float = 10.0) -> None:
        """`count` writes of each client, each to keys of its own, whose values count up."""
        async with trio.open_nursery() as nursery:
            for client in range(CLIENTS):
                nursery.start_soon(self._client, client, count, kind, deadline_s)

    async def _client(self, client: int, count: int, kind: str, deadline_s: float) -> None:
        clerk = KvClerk(self.rpc, self.addresses, rng=Random(self.rng.random()), gid=GID)
        for at in range(count):
            key = f"{kind}-{client}-{at % KEYS}"
            number = self.numbers[key] = self.numbers.get(key, 0) + 1
            with suppress(KvError):
                await clerk.put(key, value_of(key, number), deadline_s=deadline_s)

    # --- the story ---------------------------------------------------------------------------------------------------

    async def play(self) -> None:
        """All of it."""
        await self.led()
        clerk = GroupClerk(self.rpc, GID, self.addresses, rng=Random(1))
        await clerk.command(encode_command(Install(0, 1, summary_of_nobody(1))), deadline_s=20)
        await self.lead_by(RECORDED)
        await self.puts(14)
        await self.cut_off()
        await self.fall_behind()
        await self.start_again()
        await self.elections()
        await self.puts(6)
        await self.all_equal()

    async def cut_off(self) -> None:
        """It leads, and takes writes that reach nobody; the others go on without it."""
        others = [peer for peer in self.peers if peer.number != RECORDED]
        alone = False
        while not alone:  # it may have been deposed before a write came: once more
            await self.lead_by(RECORDED)
            for peer in others:
                peer.end()
            await self.puts(1, deadline_s=0.25)
            status = await peer_status(self.rpc, self.addresses[RECORDED], 5.0)
            alone = status is not None and status["last"][1] > status["commit"]
            if alone:
                self.peers[RECORDED].signal(signal.SIGSTOP)
            for peer in others:
                peer.start()
        await self.led((1, 2))
        await self.puts(2)
        self.peers[RECORDED].signal(signal.SIGCONT)
        await self.all_equal()

    async def fall_behind(self) -> None:
        """It is stopped until the others have purged what it would need next, and more than one piece is to be sent."""
        await self.puts(2)
        await self.all_equal()
        status = await peer_status(self.rpc, self.addresses[RECORDED], 5.0)
        assert status is not None, "it was asked a moment ago"
        self.peers[RECORDED].signal(signal.SIGSTOP)
        await self.led((1, 2))
        await self.puts(LARGE_PUTS, kind="large")
        await self.puts(8)
        last = status["last"][1]
        await self.until(lambda found: len(found) == 2 and all(its["base"][1] > last for its in found.values()), (1, 2))
        self.peers[RECORDED].signal(signal.SIGCONT)
        await self.all_equal()

    async def start_again(self) -> None:
        """It ends in good order and is started again, while the others go on."""
        self.peers[RECORDED].signal(signal.SIGTERM)
        await self.puts(3)
        await self.all_equal()

    async def elections(self) -> None:
        """Whoever leads dies, twice: it votes, or campaigns."""
        for _ in range(2):
            await self.lead_by(1 + self.rng.randrange(2))
            await self.puts(2)
            leader = await self.led()
            if leader != RECORDED:
                self.peers[leader].end()
                await self.led(tuple(at for at in range(3) if at != leader))
                await self.puts(2)
                self.peers[leader].start()
                await self.all_equal()


async def drive(
    folder: Path, root: Path, marks: Path, trace: Path, seed: int, planted: str
) -> tuple[list[int], dict[str, int]]:
    """Play it; the trace is whole on return. The peers' ports, and how often each key was written at most. Raises `BadTrace`,
    `FileNotFoundError` without strace."""
    ports = free_ports(3)
    async with _peers(folder, root, marks, trace, ports, planted) as peers:
        async with network(CLUSTER) as rpc:
            with trio.move_on_after(LIMIT_S) as scope:
                it = Drive(peers, [f"127.0.0.1:{port}" for port in ports], rpc, Random(seed))
                await it.play()
            if scope.cancelled_caught:
                raise BadTrace(f"the recorded peer and its group did not come through within {LIMIT_S:g} s")
        peers[RECORDED].end(signal.SIGTERM)
    return ports, it.numbers


@asynccontextmanager
async def _peers(
    folder: Path, root: Path, marks: Path, trace: Path, ports: list[int], planted: str
) -> AsyncIterator[list[Peer]]:
    peers = []
    for number in range(len(ports)):
        here = root if number == RECORDED else folder
        directory = str(here / f"server-{GID}-{number}")
        own = str(marks if number == RECORDED else folder / f"marks-{number}")
        plan = Plan(directory, number, ports, own, LIVES if number == RECORDED else 1)
        file = folder / f"peer-{number}.json"
        file.write_text(json.dumps(plan.as_json()), encoding="utf-8")
        command = [sys.executable, "-m", "tools.powercut.peer_load", str(file)]
        if number == RECORDED:
            command = strace_command(trace, [*command, *([planted] if planted else [])], sockets=True)
        peers.append(Peer(number, command, folder / f"events-{number}"))
    try:
        for peer in peers:
            peer.start()
        yield peers
    finally:
        for peer in peers:
            peer.end()
