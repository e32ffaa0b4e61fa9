"""Versioned key/value without shards: the labs' semantics, pages, the hash, and apply and read as total functions."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftlog.codec import dumps, loads
from raftlog.machine import Operation, StateMachine, plain
from shardkv import kv
from shardkv.commands import (
    MAX_KEY_BYTES,
    MAX_PAGE_BYTES,
    MAX_PAGE_ROWS,
    MAX_VALUE_BYTES,
    Delete,
    DeleteShard,
    Put,
    encode_command,
)
from shardkv.kvmachine import KvMachine
from shardkv.methods import Method
from shardkv.replies import Code
from store.engine import CorruptRecord
from tests.shardkv.boxes import Box

MACHINE: StateMachine = KvMachine()


def box() -> Box:
    return Box(KvMachine())


# --- semantics -------------------------------------------------------------------------------------------------------


def test_the_labs_versioned_puts() -> None:
    b = box()
    assert b.do(Put(b"k", b"6.5840", 0)) == [0, 1]
    assert b.get(b"k") == [0, b"6.5840", 1]
    assert b.do(Put(b"k", b"x", 0)) == [Code.VERSION, 1]
    assert b.do(Put(b"y", b"x", 1)) == [Code.NO_KEY]
    assert b.get(b"y") == [Code.NO_KEY]
    assert b.do(Put(b"k", b"x", 1)) == [0, 2]
    assert b.do(Put(b"k", b"x", 3)) == [Code.VERSION, 2]


def test_an_unconditional_put_creates_or_goes_on() -> None:
    b = box()
    assert [b.do(Put(b"k", b"%d" % i)) for i in range(3)] == [[0, 1], [0, 2], [0, 3]]
    assert b.get(b"k") == [0, b"2", 3]


def test_after_a_delete_a_key_is_as_if_never_written() -> None:
    b = box()
    empty = b.hash
    assert b.do(Delete(b"k")) == [Code.NO_KEY]
    b.do(Put(b"k", b"v"))
    b.do(Put(b"k", b"w"))
    assert b.do(Delete(b"k", 1)) == [Code.VERSION, 2]
    assert b.do(Delete(b"k", 2)) == [0, 2]
    assert b.do(Delete(b"k", 0)) == [Code.NO_KEY]
    assert b.get(b"k") == [Code.NO_KEY]
    assert b.hash == empty
    assert b.do(Put(b"k", b"v", 0)) == [0, 1]


def test_the_empty_key_and_the_largest_of_all_are_keys() -> None:
    b = box()
    largest = b"\xff" * MAX_KEY_BYTES
    for key, value in [(b"", b""), (largest, b"v" * MAX_VALUE_BYTES)]:
        assert b.do(Put(key, value, 0)) == [0, 1]
        assert b.get(key) == [0, value, 1]
    assert b.read(Method.SCAN, 0, b"", None, 10, 0) == [0, [[b"", b"", 1]], True]


def test_a_reply_under_a_session_ends_with_the_tick() -> None:
    b = box()
    put = encode_command(Put(b"k", b"v", 0))
    assert b.run(Operation(7, 1, 0, 0, put)) == [0, 1, 1]
    assert b.run(Operation(7, 1, 0, 0, put)) == [0, 1, 1]
    assert b.run(Operation(7, 2, 0, 0, put)) == [Code.VERSION, 1, 2]
    assert b.run(Operation(7, 3, 2, 0, put)) == [Code.VERSION, 1, 3]
    assert b.run(Operation(7, 1, 0, 0, put)) == [
        Code.REFUSED,
        "the client has acknowledged this operation already",
        3,
    ]
    assert b.run(Operation(7, 999, 3, 0, put)) == [Code.REFUSED, "too many operations of the client are open", 3]


def test_an_expired_session_is_told_with_the_tick() -> None:
    b = Box(KvMachine(), sessions_max=1)
    for client in (1, 2):
        assert b.run(Operation(client, 1, 0, 0, encode_command(Put(b"k", b"v"))))[0] == Code.OK
    assert b.run(Operation(1, 1, 0, 0, encode_command(Put(b"k", b"v")))) == [Code.SESSION_EXPIRED, 2]
    assert b.get(b"k") == [0, b"v", 2]


# --- apply and read are total ----------------------------------------------------------------------------------------


@given(st.binary(max_size=40))
def test_any_bytes_get_a_reply_and_leave_no_trace_unless_they_are_a_command(data: bytes) -> None:
    b = box()
    before = b.hash
    reply = b.run(plain(data))
    if reply[0] in (Code.BAD_REQUEST, Code.TOO_LARGE):
        assert b.hash == before
        assert b.run(Operation(7, 1, 0, 0, data)) == reply
        assert b.hash == before


def test_too_large_is_told_with_the_limit() -> None:
    assert box().run(plain(dumps([1, b"k" * 401, b"", None]))) == [Code.TOO_LARGE, "a key of 401 bytes; at most 400"]
    assert box().run(plain(dumps([1, b"k", b"v" * (MAX_VALUE_BYTES + 1), None])))[0] == Code.TOO_LARGE


def test_a_server_without_shards_hands_none_over() -> None:
    assert box().do(DeleteShard(0, 1))[0] == Code.BAD_REQUEST
    assert box().read(Method.READ_SHARD, 0, 1, b"", 100)[0] == Code.BAD_REQUEST


@pytest.mark.parametrize(
    ("method", "args"),
    [
        (Method.GET, []),
        (Method.GET, ["k"]),
        (Method.GET, [b"k", b"l"]),
        (Method.GET, None),
        (Method.GET_MANY, [b"k"]),
        (Method.GET_MANY, [["k"]]),
        (Method.GET_MANY, [[b"k"] * (MAX_PAGE_ROWS + 1)]),
        (Method.SCAN, [1, b"", None, 1, 1]),
        (Method.SCAN, [0, "", None, 1, 1]),
        (Method.SCAN, [0, b"", 1, 1, 1]),
        (Method.SCAN, [0, b"x" * 402, None, 1, 1]),
        (Method.SCAN, [0, b"", None, 0, 1]),
        (Method.SCAN, [0, b"", None, 1, -1]),
        (Method.STATUS, [1]),
        (Method.WRITE, [0, 0, 0, 0, b""]),
        (99, []),
        ("x", []),
    ],
)
def test_what_is_no_call_is_refused(method: Any, args: Any) -> None:
    b = box()
    with b.engine.read() as txn:
        assert b.machine.read(txn, method, args)[0] == Code.BAD_REQUEST


def test_a_key_that_is_too_large_is_told_to_readers_too() -> None:
    assert box().get(b"k" * 401) == [Code.TOO_LARGE, "a key of 401 bytes; at most 400"]


def test_only_what_needs_room_grows() -> None:
    grows = KvMachine().grows
    assert grows(encode_command(Put(b"k", b"")))
    assert not grows(encode_command(Delete(b"k")))
    assert not grows(encode_command(DeleteShard(0, 1)))
    assert grows(b"")


def test_a_damaged_row_is_named() -> None:
    b = box()
    b.do(Put(b"k", b"v"))
    with b.engine.write() as txn:
        txn.put(kv.ROWS, bytes(10) + b"k", b"short")
    with pytest.raises(CorruptRecord, match="rows"):
        b.get(b"k")


# --- pages -----------------------------------------------------------------------------------------------------------


def test_scan_pages_by_rows_and_by_bytes_without_gaps() -> None:
    b = box()
    keys = [b"%03d" % i for i in range(25)]
    for key in keys:
        b.do(Put(key, b"v" * 10))
    for limit, size in [(10, 1 << 20), (100, 65), (1, 0), (25, 1 << 20), (24, 1 << 20)]:
        start, found, more = b"", [], True
        while more:
            ok, rows, more = b.read(Method.SCAN, 0, start, None, limit, size)
            assert ok == 0
            assert 1 <= len(rows) <= limit
            found += [key for key, _, _ in rows]
            start = found[-1] + b"\0"
        assert found == keys
    assert [key for key, _, _ in b.read(Method.SCAN, 0, b"003", b"006", 10, 100)[1]] == keys[3:6]
    assert b.read(Method.SCAN, 0, b"x", None, 10, 100) == [0, [], False]
    assert b.read(Method.SCAN, 0, b"006", b"003", 10, 100) == [0, [], False]


def test_get_many_answers_each_key_and_leaves_out_what_grows_too_large() -> None:
    b = box()
    for key in (b"a", b"b", b"c"):
        b.do(Put(key, key * (MAX_PAGE_BYTES * 2 // 3)))
    replies = b.read(Method.GET_MANY, [b"a", b"x", b"b", b"c"])[1]
    assert [reply[0] for reply in replies] == [Code.OK, Code.NO_KEY, Code.LATER, Code.LATER]
    assert b.read(Method.GET_MANY, [b"b"])[1][0][0] == Code.OK
    assert b.read(Method.GET_MANY, []) == [0, []]


def test_status_tells_rows_bytes_sessions_and_tick() -> None:
    b = box()
    b.do(Put(b"key", b"value"))
    b.run(Operation(7, 1, 0, 0, encode_command(Put(b"k", b"v"))))
    assert b.read(Method.STATUS) == [0, [[0, "serving", 0, None, 2, 10, 1, 1]]]


# --- a model ---------------------------------------------------------------------------------------------------------

KEYS = st.sampled_from([b"", b"a", b"b", b"ab", b"\xff"])
VERSIONS = st.none() | st.integers(0, 3)
COMMANDS = st.lists(
    st.one_of(st.builds(Put, KEYS, st.binary(max_size=3), VERSIONS), st.builds(Delete, KEYS, VERSIONS)), max_size=40
)


def step(model: dict[bytes, tuple[bytes, int]], command: Put | Delete) -> list[Any]:
    """The labs' semantics, once more and simply."""
    current = model.get(command.key, (b"", 0))[1]
    if command.version is not None and command.version != current:
        return [Code.VERSION, current] if current else [Code.NO_KEY]
    if isinstance(command, Delete):
        if not current:
            return [Code.NO_KEY]
        del model[command.key]
        return [Code.OK, current]
    model[command.key] = (command.value, current + 1)
    return [Code.OK, current + 1]


@settings(deadline=None)
@given(COMMANDS)
def test_the_machine_is_a_dict_with_versions(commands: list[Put | Delete]) -> None:
    b = box()
    model: dict[bytes, tuple[bytes, int]] = {}
    for command in commands:
        assert b.do(command) == step(model, command)
    rows = [[key, value, version] for key, (value, version) in sorted(model.items())]
    assert b.read(Method.SCAN, 0, b"", None, 100, 1 << 20) == [0, rows, False]
    with b.engine.read() as txn:
        record = b.machine.record(txn, 0)
    assert record.rows == len(rows)
    assert record.size == sum(len(key) + len(value) for key, value, _ in rows)
    assert record.hash == sum(kv.row_hash(k, kv.encode_row(n, v)) for k, v, n in rows) % kv.HASH_MODULUS
    # The way does not show in the hash: the same content, put another way, in the other order.
    other = box()
    for key, value, version in reversed(rows):
        for _ in range(version):
            other.do(Put(key, value))
    assert other.hash == b.hash


def test_the_row_of_format_1() -> None:
    assert kv.encode_row(3, b"v").hex() == "0000000000000003" + "76"
    assert loads(encode_command(Put(b"", b"")))[0] == 1
