"""The labs' Raft tester over simulated groups (MIT 6.5840, `raft1`): start, one, wait, connect, crash, and its checkers.

Indexes count *client commands*, as in the labs: no-ops and the membership entry are skipped. `client_index` is the one place
that maps. Waits and limits are the labs', in virtual seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import trio

from raftlog.codec import dumps
from raftlog.machine import Refusal, StateMachine, plain
from raftlog.net.sim import LONG_DELAYS, UNRELIABLE, NetConditions
from raftlog.node import Node
from raftlog.node_values import NodeLimits
from raftlog.types import EntryKind, LogId
from store.engine import ReadTxn, WriteTxn
from store.keys import u64
from tools.scenarios.asserts import require
from tools.sim.group import SimGroup, server_name
from tools.sim.world import World

COMMANDS, COUNT = "commands", "count"
MAX_LOG_BYTES = 2000
"""The labs' MAXLOGSIZE: what a peer's Raft state may hold with snapshots on."""
SNAPSHOT_LIMITS = NodeLimits(batch_operations=1, log_bytes=700, keep_bytes=0, flush_idle_s=0.05)
"""Stands for the labs' snapshot at every tenth command: the log is purged at 700 bytes, about ten small commands."""
PLAIN_LIMITS = NodeLimits(batch_operations=1)

Seen = Callable[[int, bytes], None]


class CommandLog:
    """A state machine that remembers every command, in order: what the labs' tester keeps of its apply channels."""

    tables: tuple[str, ...] = (COMMANDS, COUNT)

    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    def scope(self, txn: ReadTxn, command: bytes) -> bytes | None:
        """No sessions."""
        return None

    def apply(self, txn: WriteTxn, command: bytes, at: LogId) -> bytes:
        """Append it; the reply is its index."""
        index = applied_count(txn) + 1
        txn.put(COMMANDS, u64(index), command)
        txn.put(COUNT, b"n", u64(index))
        self._seen(index, command)
        return dumps([index])

    def stamp(self, reply: bytes, tick: int) -> bytes:
        """There are no sessions: nothing to stamp."""
        return reply

    def refuse(self, why: Refusal, tick: int) -> bytes:
        """There are no sessions: nothing is refused."""
        return dumps([0])

    def grows(self, command: bytes) -> bool:
        """Every command does."""
        return True

    def background(self, txn: WriteTxn, budget: int) -> bool:
        """Nothing."""
        return False

    def state_hash(self, txn: ReadTxn) -> bytes:
        """The count is enough: the checker compares the commands themselves."""
        return u64(applied_count(txn)).rjust(16, b"\0")


def applied_count(txn: ReadTxn) -> int:
    """How many commands the machine has applied in this view."""
    found = txn.get(COUNT, b"n")
    return int.from_bytes(found, "big") if found else 0


def log_bytes_of(world: World, name: str) -> int:
    """The Raft state of a peer on its disk: encoded log records and the hard state."""
    disk, _ = world.disk(name, "log", ())
    entries = disk.tables["entries"].records
    return len(disk.tables["meta"].records[b"hard"]) + sum(len(k) + len(r) for k, r in entries.items())


def client_index(node: Node, index: int) -> int:
    """The labs' index of the log entry at `index`, which is not purged: the commands applied, and those after them."""
    log = node.core.state.log
    applied = node.rsm.applied.index
    low, high = min(applied, index), max(applied, index)
    between = log.slice(low + 1, high, 1 << 30) if high > low else ()
    commands = sum(entry.kind is EntryKind.COMMAND for entry in between)
    return applied_count(node.view) + (commands if index > applied else -commands)


class RaftLab:
    """A group of peers with the labs' helpers."""

    def __init__(
        self,
        world: World,
        peers: int,
        *,
        unreliable: bool = False,
        snapshots: bool = False,
        machine: Callable[[], StateMachine] | None = None,
        limits: NodeLimits | None = None,
    ) -> None:
        self.world = world
        self.peers = peers
        self.set_network(unreliable)
        self.committed: dict[int, bytes] = {}
        self.connected = [True] * peers
        self._images = 0
        chosen = limits or (SNAPSHOT_LIMITS if snapshots else PLAIN_LIMITS)
        self.group = SimGroup(world, 0, peers, machine or self._machine, limits=chosen)
        self.group.start()

    def set_network(self, unreliable: bool, **changes: Any) -> None:
        """Reliable or not; calls to the unreachable take the labs' long delays in any case."""
        base: NetConditions = UNRELIABLE if unreliable else LONG_DELAYS
        self.world.net.conditions = replace(base, unreachable_s=LONG_DELAYS.unreachable_s, **changes)

    def _machine(self) -> CommandLog:
        return CommandLog(self._seen)

    def _seen(self, index: int, command: bytes) -> None:
        known = self.committed.setdefault(index, command)
        require(known == command, f"commit index={index}: {command!r} at one peer, {known!r} at another")

    # --- the network and the peers -------------------------------------------------------------------------------

    def _cut(self) -> None:
        names = [server_name(0, i) for i in range(self.peers) if self.connected[i]]
        self.world.net.partition(names)

    def disconnect(self, *peers: int) -> None:
        """Both directions, to everybody."""
        for peer in peers:
            self.connected[peer] = False
        self._cut()

    def connect(self, *peers: int) -> None:
        """Back again."""
        for peer in peers:
            self.connected[peer] = True
        self._cut()

    def crash(self, *peers: int) -> None:
        """Kill these peers, all without arguments; what was not durable is lost."""
        self._images += self._images_wanted(peers or self.everybody())
        self.group.crash(*peers)

    def restart(self, *peers: int) -> None:
        """From the disk. Restarting a running peer kills it first."""
        for peer in peers:
            self.crash(peer)
            self.group.start(peer)

    def everybody(self) -> range:
        """All peers' numbers."""
        return range(self.peers)

    # --- asking --------------------------------------------------------------------------------------------------

    def node(self, peer: int) -> Node | None:
        """The running node, None if it is down."""
        found = self.group.peers.get(peer)
        return None if found is None else found.node

    def term(self, peer: int) -> int:
        """The peer's term; 0 if it is down."""
        node = self.node(peer)
        return 0 if node is None else node.core.state.term

    def leads(self, peer: int) -> bool:
        """The peer thinks that it leads."""
        node = self.node(peer)
        return node is not None and node.is_leader()

    async def check_one_leader(self) -> int:
        """Exactly one connected leader in the newest term, within about 5 s; never two in a term."""
        for _ in range(10):
            await trio.sleep(0.45 + self.world.rng("poll", self.world.now()).random() * 0.1)
            terms: dict[int, list[int]] = {}
            for peer in self.everybody():
                if self.connected[peer] and self.leads(peer):
                    terms.setdefault(self.term(peer), []).append(peer)
            for term, leaders in terms.items():
                require(len(leaders) == 1, f"term {term} has the leaders {leaders}")
            if terms:
                return terms[max(terms)][0]
        require(False, "expected one leader, got none")
        raise AssertionError

    def check_no_leader(self) -> None:
        """No connected peer claims leadership."""
        leaders = [p for p in self.everybody() if self.connected[p] and self.leads(p)]
        require(not leaders, f"expected no leader among the connected, but {leaders} claim it")

    def check_terms(self) -> int:
        """All connected peers are in one term."""
        terms = {self.term(p) for p in self.everybody() if self.connected[p]}
        require(len(terms) == 1, f"the peers disagree on the term: {terms}")
        return terms.pop()

    def start(self, peer: int, command: bytes) -> tuple[int, int] | None:
        """(client index, term) if the peer took the command, None if it does not lead or is down."""
        node = self.node(peer)
        if node is None:
            return None
        at = node.start(plain(command))
        return None if at is None else (client_index(node, at.index), at.term)

    def at(self, peer: int, index: int) -> bytes | None:
        """What the peer has applied at a client index."""
        node = self.node(peer)
        return None if node is None else node.view.get(COMMANDS, u64(index))

    def committed_by(self, index: int) -> tuple[int, bytes | None]:
        """(how many running peers have applied the index, its command)."""
        found = [c for c in (self.at(p, index) for p in self.everybody()) if c is not None]
        require(len(set(found)) <= 1, f"committed values at index {index} differ: {found}")
        return len(found), found[0] if found else None

    async def one(self, command: bytes, expected: int, *, retry: bool = True) -> int:
        """Have the command committed by at least `expected` peers within 10 s; its index."""
        until = self.world.now() + 10.0
        turn = 0
        while self.world.now() < until:
            taken = None
            for _ in self.everybody():
                turn = (turn + 1) % self.peers
                if self.connected[turn] and (taken := self.start(turn, command)) is not None:
                    break
            if taken is None:
                await trio.sleep(0.05)
                continue
            deadline = self.world.now() + 2.0
            while self.world.now() < deadline:
                count, found = self.committed_by(taken[0])
                if count >= expected and found == command:
                    return taken[0]
                await trio.sleep(0.02)
            require(retry, f"one({command!r}) failed to reach agreement")
        require(False, f"one({command!r}) failed to reach agreement in 10 s")
        raise AssertionError

    async def wait(self, index: int, expected: int, start_term: int | None) -> bytes | None:
        """Wait for `expected` peers to have applied the index; None if a term after `start_term` began."""
        pause = 0.01
        for _ in range(30):
            if self.committed_by(index)[0] >= expected:
                break
            await trio.sleep(pause)
            pause = min(2 * pause, 1.0)
            if start_term is not None and any(self.term(p) > start_term for p in self.everybody()):
                return None
        count, command = self.committed_by(index)
        require(count >= expected, f"only {count} decided for index {index}; wanted {expected}")
        return command

    def requests_received(self, peers: Iterable[int] | None = None) -> int:
        """Requests delivered to these peers, in all their lives' present one."""
        chosen = self.everybody() if peers is None else peers
        return sum(self.group.peers[p].host.received for p in chosen if p in self.group.peers)

    def log_bytes(self) -> int:
        """The largest Raft state of a peer on its disk: encoded log records and the hard state."""
        return max(log_bytes_of(self.world, server_name(0, peer)) for peer in self.everybody())

    def images_sent(self) -> int:
        """How often peers have wanted to send an image, in all their lives."""
        return self._images + self._images_wanted(self.everybody())

    def _images_wanted(self, peers: Iterable[int]) -> int:
        nodes = [node for peer in peers if (node := self.node(peer)) is not None]
        return sum(node.core.state.rare.get("image wanted", 0) for node in nodes)
