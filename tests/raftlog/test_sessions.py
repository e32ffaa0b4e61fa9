"""Exactly once: replays, windows, eviction by tick, horizons, moving a scope."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftlog import sessions
from raftlog.machine import Operation, Refusal, plain
from raftlog.sessions import (
    WINDOW,
    BadSession,
    Counters,
    Session,
    Sessions,
    apply_operation,
    counters,
    decode_session,
    drop_sessions,
    encode_session,
    export_sessions,
    finish_import,
    import_sessions,
    last_session,
)
from raftlog.types import LogId
from store.engine import CorruptRecord, ReadTxn, WriteTxn
from store.keys import prefix_stop, u32, u64
from store.memory_engine import MemoryDisk, MemoryEngine

AT = LogId(1, 1)


class Appender:
    """A state machine that appends each command to a text; its reply is the whole text, then `@tick`. A command goes to
    the scope that its first byte names; "-" has none."""

    tables = (*sessions.TABLES, "text")

    def scope(self, txn: ReadTxn, command: bytes) -> bytes | None:
        return None if command.startswith(b"-") else b"scope-" + command[:1]

    def apply(self, txn: WriteTxn, command: bytes, at: LogId) -> bytes:
        text = (txn.get("text", b"text") or b"") + command
        txn.put("text", b"text", text)
        return text

    def stamp(self, reply: bytes, tick: int) -> bytes:
        return reply + b"@%d" % tick

    def refuse(self, why: Refusal, tick: int) -> bytes:
        return why.name.encode() + b"@%d" % tick

    def background(self, txn: WriteTxn, budget: int) -> bool:
        return False

    def state_hash(self, txn: ReadTxn) -> bytes:
        return bytes(16)


class Rig:
    def __init__(self, sessions_max: int = 4) -> None:
        self.engine = MemoryEngine(MemoryDisk(Appender.tables))
        self.sessions_max = sessions_max

    def send(self, client: int, seq: int, command: bytes = b"a", *, acked_below: int = 0, as_of: int = 0) -> bytes:
        op = Operation(client, seq, acked_below, as_of, command)
        with self.engine.write() as txn:
            return apply_operation(Appender(), txn, op, AT, sessions_max=self.sessions_max)

    @property
    def text(self) -> bytes:
        with self.engine.read() as txn:
            return txn.get("text", b"text") or b""

    def counters(self, scope: bytes = b"scope-a") -> Counters:
        with self.engine.read() as txn:
            return counters(txn, scope)

    def check(self, scope: bytes = b"scope-a") -> None:
        """What must hold of a scope's rows at any time."""
        with self.engine.read() as txn:
            found = counters(txn, scope)
            rows = list(export_sessions(txn, scope))
            order = [key for key, _ in txn.scan(sessions.ORDER, scope, prefix_stop(scope))]
        assert found.sessions == len(rows) <= self.sessions_max
        assert found.hash == sum(sessions._hash(c, p) for c, p in rows) % (1 << 128)
        assert sorted(key[-8:] for key in order) == [client for client, _ in rows]
        ticks = {client: decode_session(payload).last_tick for client, payload in rows}
        assert all(key[len(scope) : -8] <= u64(ticks[key[-8:]]) for key in order)
        assert all(found.horizon < tick <= found.tick for tick in ticks.values())
        assert len(set(ticks.values())) == len(ticks)


def test_an_operation_without_a_session_is_applied_each_time() -> None:
    rig = Rig()
    with rig.engine.write() as txn:
        replies = [apply_operation(Appender(), txn, plain(b"a"), AT) for _ in range(2)]
    assert replies == [b"a", b"aa"]
    assert rig.counters() == Counters()


def test_a_repeated_operation_gets_its_first_reply_and_no_effect() -> None:
    rig = Rig()
    first = rig.send(7, 1)
    assert first == b"a@1"
    rig.send(8, 1, b"ab")
    before = rig.counters()
    assert rig.send(7, 1) == first
    assert rig.send(7, 1, b"other") != first  # another scope: "o"
    assert rig.text == b"aabother"
    assert rig.counters() == before
    rig.check()


def test_a_command_without_a_scope_leaves_no_session() -> None:
    rig = Rig()
    assert rig.send(7, 1, b"-x") == b"-x"
    assert rig.send(7, 1, b"-x") == b"-x-x"
    assert rig.send(7, 1, b"a") == b"-x-xa@1"


def test_several_operations_of_a_client_may_be_open_in_any_order() -> None:
    rig = Rig()
    late, early = rig.send(7, 2), rig.send(7, 1)
    assert (rig.send(7, 2), rig.send(7, 1)) == (late, early)
    with rig.engine.read() as txn:
        (_, payload) = next(export_sessions(txn, b"scope-a"))
    assert decode_session(payload).replies == ((1, early), (2, late))
    assert rig.send(7, 3, acked_below=2) == b"aaa@3"
    assert rig.send(7, 2) == late
    assert rig.send(7, 1) == b"ACKNOWLEDGED@3"
    assert rig.text == b"aaa"
    rig.check()


def test_acked_below_never_goes_back() -> None:
    rig = Rig()
    rig.send(7, 5, acked_below=5)
    rig.send(7, 6, acked_below=2)
    assert rig.send(7, 4, acked_below=2) == b"ACKNOWLEDGED@2"


def test_a_number_too_far_ahead_is_refused() -> None:
    rig = Rig()
    assert rig.send(7, WINDOW) == b"WINDOW_FULL@0"
    assert rig.send(7, WINDOW - 1) == b"a@1"
    assert rig.send(7, WINDOW) == b"WINDOW_FULL@1"
    assert rig.send(7, WINDOW, acked_below=1) == b"aa@2"
    rig.check()


def test_the_least_recently_used_session_goes_and_its_late_duplicate_is_refused() -> None:
    rig = Rig(sessions_max=2)
    rig.send(1, 1)
    rig.send(2, 1, as_of=1)
    rig.send(1, 2, as_of=1)  # tick 3: now client 2 is the oldest
    rig.send(3, 1, as_of=3)
    assert rig.counters() == rig.counters()._replace(tick=4, horizon=2, sessions=2)
    assert rig.send(2, 1, as_of=1) == b"EXPIRED@4"
    assert rig.send(1, 1) == b"a@1"  # still remembered
    assert rig.text == b"aaaa"
    assert rig.send(2, 2, as_of=4) == b"aaaaa@5"
    rig.check()


def test_a_client_that_has_seen_nothing_is_new_until_something_was_evicted() -> None:
    rig = Rig(sessions_max=2)
    for client in (1, 2, 3):
        rig.send(client, 1)
    assert rig.counters().horizon == 1
    assert rig.send(4, 1) == b"EXPIRED@3"
    assert rig.send(4, 1, as_of=3).endswith(b"@4")


def test_a_duplicate_from_an_evicted_session_does_not_pass_as_new_in_the_clients_next_one() -> None:
    rig = Rig(sessions_max=1)
    rig.send(2, 1)
    rig.send(1, 1)  # client 2 is evicted, horizon 1
    rig.send(2, 2, as_of=1)  # client 2 has a session again
    assert rig.send(2, 1) == b"EXPIRED@3"
    assert rig.text == b"aaa"


def test_scopes_are_apart() -> None:
    rig = Rig(sessions_max=1)
    assert rig.send(1, 1, b"a") == b"a@1"
    assert rig.send(1, 1, b"b") == b"ab@1"
    assert rig.send(2, 1, b"b").endswith(b"@2")
    assert rig.counters(b"scope-a").horizon == 0
    assert rig.counters(b"scope-b").horizon == 1


def test_a_scope_moves_with_its_replies_tick_and_horizon() -> None:
    rig = Rig(sessions_max=2)
    for client in (1, 2, 3):
        rig.send(client, 1)
    with rig.engine.write() as txn:
        rows = list(export_sessions(txn, b"scope-a"))
        assert [int.from_bytes(client, "big") for client, _ in rows] == [2, 3]
        assert list(export_sessions(txn, b"scope-a", rows[0][0])) == rows[1:]
        assert last_session(txn, b"scope-a") == rows[1][0]
        import_sessions(txn, b"scope-b", rows[:1])
        import_sessions(txn, b"scope-b", rows[1:])
        finish_import(txn, b"scope-b", *counters(txn, b"scope-a")[:2])
        assert counters(txn, b"scope-b") == counters(txn, b"scope-a")
        assert last_session(txn, b"scope-c") is None
    rig.check(b"scope-b")
    assert rig.send(2, 1, b"b") == b"aa@2"
    assert rig.send(1, 1, b"b") == b"EXPIRED@3"
    # The order was rebuilt: client 2 is the oldest at both.
    for scope in (b"a", b"b"):
        rig.send(9, 1, scope, as_of=3)
        assert rig.send(2, 1, scope) == b"EXPIRED@4"


def test_a_dead_scope_is_removed_in_steps() -> None:
    rig = Rig()
    for client in (1, 2, 3):
        rig.send(client, 1)
    rig.send(1, 1, b"b")
    removed = []
    while not removed or removed[-1] == 2:
        with rig.engine.write() as txn:
            removed.append(drop_sessions(txn, b"scope-a", 2))
    assert removed == [2, 2, 2, 1]
    rig.check(b"scope-a")
    rig.check(b"scope-b")
    assert rig.counters(b"scope-b").sessions == 1


def test_the_session_of_format_1() -> None:
    session = Session(3, 2, 1, ((1, b"xy"), (4, b"")))
    data = encode_session(session)
    assert data == b"".join([u64(3), u64(2), u64(1), u64(1), u32(2), b"xy", u64(4), u32(0)])
    assert decode_session(data) == session


@pytest.mark.parametrize("data", [b"", bytes(23), bytes(25), bytes(24) + u64(1) + b"\0\0\0\1"])
def test_what_is_no_session_is_refused(data: bytes) -> None:
    with pytest.raises(BadSession):
        decode_session(data)


def test_a_damaged_session_of_our_own_is_named() -> None:
    rig = Rig()
    with rig.engine.write() as txn:
        txn.put(sessions.SESSIONS, b"scope-a" + u64(7), b"x")
    with pytest.raises(CorruptRecord, match="sessions"):
        rig.send(7, 1)


# --- a model ---------------------------------------------------------------------------------------------------------


class Client:
    """Keeps to the rules of sessions; may repeat anything it ever sent."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.seq = 0
        self.as_of = 0
        self.sent: list[dict[str, Any]] = []

    def new(self, acknowledge: bool) -> dict[str, Any]:
        self.seq += 1
        acked = self.seq if acknowledge else max([0, *(op["acked_below"] for op in self.sent)])
        self.sent.append({"seq": self.seq, "acked_below": acked, "as_of": self.as_of})
        return self.sent[-1]


MOVES = st.lists(
    st.tuples(st.integers(1, 5), st.sampled_from(["new", "new", "ack", "again", "lost"]), st.integers(0, 30)),
    max_size=60,
)


@settings(deadline=None)
@given(MOVES, st.integers(1, 3))
def test_no_operation_is_ever_applied_twice(moves: list[tuple[int, str, int]], sessions_max: int) -> None:
    rig = Rig(sessions_max)
    clients = {number: Client(number) for number in range(1, 6)}
    applied: dict[tuple[int, int], bytes] = {}
    for number, verb, pick in moves:
        client = clients[number]
        if verb == "again":
            if not client.sent:
                continue
            stamp = client.sent[pick % len(client.sent)]
        else:
            stamp = client.new(acknowledge=verb == "ack")
        if verb == "lost":
            continue
        command = b"a%d.%d;" % (number, stamp["seq"])
        reply = rig.send(number, command=command, **stamp)
        word, _, tick = reply.partition(b"@")
        if verb != "again":
            client.as_of = int(tick)
        if word in (b"EXPIRED", b"ACKNOWLEDGED", b"WINDOW_FULL"):
            continue
        assert word.endswith(command)
        assert applied.setdefault((number, stamp["seq"]), reply) == reply
        assert rig.text.count(command) == 1
        rig.check()
    assert all(rig.text.count(b"a%d.%d;" % key) == 1 for key in applied)
    assert rig.text.count(b";") == len(applied)


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(1, 8), st.sampled_from([b"a", b"ab", b"b", b"-"]), st.integers(0, 40)),
        max_size=60,
    ),
    st.sets(st.integers(0, 60)),
)
def test_many_in_one_entry_do_what_each_alone_would(ops: list[tuple[int, int, bytes, int]], ends: set[int]) -> None:
    """`Sessions` keeps counters back until `settle`, and sessions decoded; nobody can tell."""
    alone, together = Rig(), Rig()
    operations = [Operation(client, seq, max(0, seq - 2), as_of, command) for client, seq, command, as_of in ops]
    with alone.engine.write() as txn:
        wanted = [apply_operation(Appender(), txn, op, AT, sessions_max=4) for op in operations]
    found = []
    with together.engine.write() as txn:
        books = Sessions(Appender(), txn, sessions_max=4)
        for number, op in enumerate(operations):
            found.append(books.apply(op, AT))
            if number in ends:
                books.settle()
        books.settle()
    assert found == wanted
    with alone.engine.read() as a, together.engine.read() as b:
        for table in Appender.tables:
            assert list(a.scan(table)) == list(b.scan(table))
    for scope in (b"scope-a", b"scope-b"):
        together.check(scope)
