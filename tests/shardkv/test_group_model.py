"""Two groups of two peers each against a dict: shards move back and forth while clients write, everything may be repeated
or come late, and the peers clean up at times of their own. Nothing is lost, nothing applied twice, one owner at a time."""

from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from raftlog.machine import Operation, plain
from shardkv import kv
from shardkv.commands import (
    EMPTY_SUMMARY,
    Command,
    Delete,
    DeleteShard,
    Freeze,
    Install,
    InstallChunk,
    Keep,
    Put,
    Summary,
    encode_command,
    unpack_summary,
)
from shardkv.config import shard_of
from shardkv.group import GroupMachine
from shardkv.methods import Method
from shardkv.replies import Code
from shardkv.shards import State
from tests.shardkv.boxes import Box
from tests.shardkv.test_kv import step

SHARDS = 2
SESSIONS_MAX = 3
KEYS = [b"a", b"b", b"c", b"d", b"e", b"f"]


class Group:
    """Two peers that apply the same log; the second forgets all its caches at each step."""

    def __init__(self) -> None:
        self.peers = [Box(GroupMachine(SHARDS), sessions_max=SESSIONS_MAX) for _ in range(2)]

    def run(self, op: Operation) -> list[Any]:
        self.peers[1].machine = GroupMachine(SHARDS)
        replies = [peer.run(op) for peer in self.peers]
        assert replies[0] == replies[1]
        assert self.peers[0].hash == self.peers[1].hash
        return replies[0]

    def do(self, command: Command) -> list[Any]:
        return self.run(plain(encode_command(command)))

    def state(self, shard: int) -> State:
        with self.peers[0].engine.read() as txn:
            return self.peers[0].machine.record(txn, shard).state


@dataclass
class Move:
    """A change that runs: `step` 0 to be announced, 1 frozen, 2 copying, 3 installed."""

    num: int
    source: int
    step: int = 0
    summary: Summary | None = None
    after: bytes = b""


@dataclass
class Client:
    """Keeps to the rules of sessions, per shard."""

    number: int
    seq: list[int] = field(default_factory=lambda: [0] * SHARDS)
    as_of: list[int] = field(default_factory=lambda: [0] * SHARDS)


PICK = st.integers(0, 1000)


class Moves(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.groups = [Group(), Group()]
        self.model: dict[bytes, tuple[bytes, int]] = {}
        self.owner = [0] * SHARDS
        self.num = [1] * SHARDS
        self.moves: dict[int, Move] = {}
        self.clients = [Client(number) for number in range(1, 6)]
        self.sent: list[tuple[int, Operation, list[Any] | None]] = []
        self.control: list[tuple[int, Command]] = []
        for shard in range(SHARDS):
            assert self.order(0, Install(shard, 1, EMPTY_SUMMARY)) == [Code.OK]

    def order(self, group: int, command: Command) -> list[Any]:
        self.control.append((group, command))
        return self.groups[group].do(command)

    # --- clients -----------------------------------------------------------------------------------------------------

    @rule(
        client=st.integers(0, 4),
        key=st.sampled_from(KEYS),
        value=st.binary(max_size=3),
        version=st.none() | st.integers(0, 3),
        delete=st.booleans(),
        acknowledge=st.booleans(),
    )
    def write(
        self, client: int, key: bytes, value: bytes, version: int | None, delete: bool, acknowledge: bool
    ) -> None:
        who, shard = self.clients[client], shard_of(key, SHARDS)
        who.seq[shard] += 1
        command: Put | Delete = Delete(key, version) if delete else Put(key, value, version)
        seq = who.seq[shard]
        op = Operation(
            who.number, seq, seq if acknowledge else max(0, seq - 20), who.as_of[shard], encode_command(command)
        )
        self.first(shard, op, command, who)

    def first(self, shard: int, op: Operation, command: Put | Delete, who: Client) -> None:
        group = self.owner[shard]
        reply = self.groups[group].run(op)
        if self.groups[group].state(shard) is not State.SERVING:
            assert reply[0] == Code.WRONG_GROUP
            self.sent.append((shard, op, None))
            return
        who.as_of[shard] = max(who.as_of[shard], reply[-1])
        if reply[0] == Code.SESSION_EXPIRED:
            # Nothing is open, so the client stamps it anew.
            again = op._replace(as_of=who.as_of[shard])
            reply = self.groups[group].run(again)
            op = again
        assert reply[:-1] == step(self.model, command)
        self.sent.append((shard, op, reply))

    @precondition(lambda self: self.sent)
    @rule(pick=PICK, group=st.integers(0, 1))
    def repeat(self, pick: int, group: int) -> None:
        """A duplicate of anything that was ever applied: the first reply, or a refusal; never an effect."""
        shard, op, first = self.sent[pick % len(self.sent)]
        if first is None:
            return
        before = self.groups[group].peers[0].hash
        reply = self.groups[group].run(op)
        if self.groups[group].state(shard) is State.SERVING:
            assert reply == first or reply[0] in (Code.SESSION_EXPIRED, Code.REFUSED)
        else:
            assert reply[0] == Code.WRONG_GROUP
        assert self.groups[group].peers[0].hash == before

    @rule(key=st.sampled_from(KEYS))
    def read(self, key: bytes) -> None:
        shard = shard_of(key, SHARDS)
        for number, group in enumerate(self.groups):
            for peer in group.peers:
                reply = peer.get(key)
                if group.state(shard) is State.SERVING:
                    assert number == self.owner[shard]
                    assert reply == ([Code.OK, *self.model[key]] if key in self.model else [Code.NO_KEY])
                else:
                    assert reply[0] == Code.WRONG_GROUP

    # --- controllers -------------------------------------------------------------------------------------------------

    @rule(shard=st.integers(0, SHARDS - 1), page=st.sampled_from([0, 30, 100, 10_000]), steps=st.integers(1, 6))
    def go_on(self, shard: int, page: int, steps: int) -> None:
        for _ in range(steps):
            move = self.moves.setdefault(shard, Move(self.num[shard] + 1, self.owner[shard]))
            self.go(shard, move, page)

    def go(self, shard: int, move: Move, page: int) -> None:
        source, target = move.source, 1 - move.source
        if move.step == 0:
            assert self.order(target, InstallChunk(shard, move.num, b"", b""))[0] == Code.OK
            reply = self.order(source, Freeze(shard, move.num, target + 1, ("there",)))
            assert reply[0] == Code.OK
            move.summary = unpack_summary(reply[1])
            move.step = 1
        elif move.step == 1:
            assert move.summary is not None
            pages = [
                peer.read(Method.READ_SHARD, shard, move.num, move.after, page) for peer in self.groups[source].peers
            ]
            assert pages[0] == pages[1]
            code, summary, entries, last, more = pages[0]
            assert (code, unpack_summary(summary)) == (Code.OK, move.summary)
            reply = self.order(target, InstallChunk(shard, move.num, move.after, entries))
            assert reply == [Code.OK, last]
            move.after = last
            if not more:
                move.step = 2
        elif move.step == 2:
            assert move.summary is not None
            assert self.order(target, Install(shard, move.num, move.summary)) == [Code.OK]
            self.owner[shard] = target
            self.num[shard] = move.num
            move.step = 3
        else:
            assert self.order(source, DeleteShard(shard, move.num)) == [Code.OK]
            del self.moves[shard]

    @rule(shard=st.integers(0, SHARDS - 1))
    def nobody_is_to_have_it(self, shard: int) -> None:
        """A change that would give the shard to nobody, and is given up, whether or not it has frozen the shard."""
        if shard in self.moves:
            return
        num, owner = self.num[shard] + 1, self.owner[shard]
        holds = any(shard_of(key, SHARDS) == shard for key in self.model)
        assert self.order(owner, Freeze(shard, num, 0, ()))[0] == (Code.REFUSED if holds else Code.OK)
        assert self.order(owner, Keep(shard, num)) == [Code.OK]
        self.num[shard] = num

    @rule(pick=PICK)
    def old_controller(self, pick: int) -> None:
        """Any command that any controller ever sent, once more: it changes nothing."""
        group, command = self.control[pick % len(self.control)]
        before = self.groups[group].peers[0].hash
        reply = self.groups[group].do(command)
        assert reply[0] in (Code.OK, Code.STALE, Code.GONE, Code.REFUSED, Code.RESUME, Code.INSTALLED)
        assert self.groups[group].peers[0].hash == before

    @rule(shard=st.integers(0, SHARDS - 1), group=st.integers(0, 1))
    def torn_chunk(self, shard: int, group: int) -> None:
        """An install of another controller that believes less, or a chunk that follows nothing."""
        move = self.moves.get(shard)
        if move is None or move.step != 1 or group == move.source or move.summary is None:
            return
        if move.after < move.summary.last:
            assert self.groups[group].do(Install(shard, move.num, move.summary)) == [Code.RESUME, move.after]
        wrong = InstallChunk(shard, move.num, move.after + b"\0", b"")
        assert self.groups[group].do(wrong) == [Code.RESUME, move.after]

    @rule(group=st.integers(0, 1), peer=st.integers(0, 1), budget=st.integers(1, 5))
    def clean(self, group: int, peer: int, budget: int) -> None:
        box = self.groups[group].peers[peer]
        before = box.hash
        box.background(budget)
        assert box.hash == before

    # --- what always holds -------------------------------------------------------------------------------------------

    @invariant()
    def at_most_one_group_serves_a_shard(self) -> None:
        for shard in range(SHARDS):
            serving = [number for number, group in enumerate(self.groups) if group.state(shard) is State.SERVING]
            frozen = shard in self.moves and self.moves[shard].step in (1, 2)
            assert serving == ([] if frozen else [self.owner[shard]])

    @invariant()
    def the_record_says_what_the_rows_are(self) -> None:
        for shard in range(SHARDS):
            box = self.groups[self.owner[shard]].peers[0]
            rows = {key: row for key, row in self.model.items() if shard_of(key, SHARDS) == shard}
            with box.engine.read() as txn:
                record = box.machine.record(txn, shard)
            assert (record.rows, record.size) == (len(rows), sum(len(k) + len(v) for k, (v, _) in rows.items()))
            total = sum(kv.row_hash(key, kv.encode_row(version, value)) for key, (value, version) in rows.items())
            assert record.hash == total % kv.HASH_MODULUS

    def teardown(self) -> None:
        for shard in range(SHARDS):
            while shard in self.moves:
                self.go(shard, self.moves[shard], 50)
        for group in self.groups:
            for peer in group.peers:
                while peer.background(10):
                    pass
            assert (
                group.peers[0].engine.disk.tables["rows"].records == group.peers[1].engine.disk.tables["rows"].records
            )
            assert not group.peers[0].engine.disk.tables["garbage"].records
        assert sum(len(group.peers[0].engine.disk.tables["rows"].keys) for group in self.groups) == len(self.model)
        for key in KEYS:
            self.read(key)


Moves.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestMoves = Moves.TestCase
