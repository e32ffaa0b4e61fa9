"""The formats of the data plane: golden bytes, limits, replies."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftlog.codec import CodecError, dumps, loads
from raftlog.machine import encode_operations, plain
from raftlog.types import MAX_ENTRY_BYTES
from shardkv.commands import (
    EMPTY_SUMMARY,
    MAX_ENTRIES_BYTES,
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    Command,
    Delete,
    DeleteShard,
    Freeze,
    Install,
    InstallChunk,
    Keep,
    Put,
    TooLarge,
    decode_command,
    decode_entries,
    encode_command,
    encode_entries,
)
from shardkv.config import MAX_NUM
from shardkv.replies import Code, Hint, Reply, bad_request, decode_reply, error, hint_of, ok_fields, rows_of

GOLDEN: list[tuple[Command, str]] = [
    (Put(b"k", b"v", 0), "8401416b417600"),
    (Put(b"", b"", None), "84014040f6"),
    (Delete(b"k", 7), "8302416b07"),
    (Freeze(3, 9, 2, ("a:1",)), "851003090281" + "63613a31"),
    (InstallChunk(3, 9, b"\0k", b""), "85110309" + "42006b" + "40"),
    (
        Install(3, 9, EMPTY_SUMMARY),
        "8412030988000050" + "00" * 16 + "0050" + "00" * 16 + "000040",
    ),
    (DeleteShard(3, 9), "83130309"),
    (Keep(3, 9), "83140309"),
]


@pytest.mark.parametrize(("command", "data"), GOLDEN)
def test_the_commands_of_format_1(command: Command, data: str) -> None:
    assert encode_command(command).hex() == data
    assert decode_command(bytes.fromhex(data)) == command
    assert type(decode_command(bytes.fromhex(data))) is type(command)


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([], "unknown command None"),
        ([99], "unknown command 99"),
        ([True, b"", b"", None], "unknown command True"),
        (["1"], "unknown command '1'"),
        ([1, b"k", b"v"], "command 1 with 2 fields, not 3"),
        ([1, "k", b"v", None], "a key is bytes"),
        ([1, b"k", "v", None], "a value is bytes"),
        ([1, b"k", b"v", -1], "a version is an integer"),
        ([1, b"k", b"v", True], "a version is an integer"),
        ([2, b"k", 1 << 64], "not CBOR|a version is an integer"),
        ([16, 65536, 1, 1, []], "a shard is an integer"),
        ([16, 0, 0, 1, []], "the number of a change is an integer"),
        ([16, 0, 1, -1, []], "a group is an integer"),
        ([16, 0, 1, 1, [b"a"]], "addresses"),
        ([16, 0, 1, 1, ["a"] * 10], "addresses"),
        ([17, 0, 1, "x", b""], "a position is bytes"),
        ([17, 0, 1, b"x", []], "a chunk is bytes"),
        ([18, 0, 1, []], "an array of 0 items, not 8"),
        ([18, 0, 1, [0, 0, b"", 0, bytes(16), 0, 0, b""]], "a hash is 16 bytes"),
        ([18, 0, 1, [-1, 0, bytes(16), 0, bytes(16), 0, 0, b""]], "a number of a summary"),
        ([19, 0], "command 19 with 1 fields, not 2"),
        ({}, "not an array"),
    ],
)
def test_what_is_no_command_is_refused_with_its_reason(items: Any, words: str) -> None:
    with pytest.raises(CodecError, match=words):
        decode_command(dumps(items))


@given(st.binary(max_size=40))
def test_any_bytes_are_a_command_or_a_codec_error(data: bytes) -> None:
    try:
        decode_command(data)
    except CodecError as problem:
        assert bad_request(problem)[0] in (Code.BAD_REQUEST, Code.TOO_LARGE)


def test_one_limit_for_keys_and_values_on_both_ways() -> None:
    largest = Put(b"k" * MAX_KEY_BYTES, b"v" * MAX_VALUE_BYTES, (1 << 64) - 1)
    assert decode_command(encode_command(largest)) == largest
    for key, value in [(b"k" * (MAX_KEY_BYTES + 1), b""), (b"", b"v" * (MAX_VALUE_BYTES + 1))]:
        with pytest.raises(TooLarge, match="at most"):
            encode_command(Put(key, value))
        with pytest.raises(TooLarge, match="at most"):
            decode_command(dumps([1, key, value, None]))
    assert bad_request(TooLarge("a key"))[0] == Code.TOO_LARGE


def test_the_largest_put_and_the_largest_chunk_fit_into_an_entry() -> None:
    put = Put(b"k" * MAX_KEY_BYTES, b"v" * MAX_VALUE_BYTES, (1 << 64) - 1)
    position = b"\0" + b"k" * MAX_KEY_BYTES
    row = encode_entries([(position, bytes(8) + b"v" * MAX_VALUE_BYTES)])
    assert len(row) <= MAX_ENTRIES_BYTES
    chunk = InstallChunk(65535, MAX_NUM, position, bytes(MAX_ENTRIES_BYTES))
    for command in (put, chunk):
        op = plain(encode_command(command))._replace(client=(1 << 64) - 1, seq=(1 << 63), as_of=1 << 63)
        assert len(encode_operations([op])) <= MAX_ENTRY_BYTES


def test_entries_ascend() -> None:
    entries = [(b"\0a", b"1"), (b"\0b", b""), (b"\1" + bytes(8), b"2")]
    assert decode_entries(encode_entries(entries)) == entries
    assert encode_entries([]) == b""
    assert decode_entries(b"") == []
    for wrong in ([b"a", b"", b"a", b""], [b"b", b"", b"a", b""], [b"", b""], [b"a"], [1, 2], [b"a", "x"]):
        with pytest.raises(CodecError):
            decode_entries(dumps(wrong))


def test_a_reply_is_read_with_and_without_a_tick_as_array_and_as_bytes() -> None:
    assert decode_reply([0, b"v", 3], 2) == Reply(Code.OK, (b"v", 3))
    assert decode_reply(dumps([0, 3, 17]), 1) == Reply(Code.OK, (3,), 17)
    assert decode_reply([2, 5], 1) == Reply(Code.VERSION, (5,))
    assert decode_reply([2, 5, 17], 1) == Reply(Code.VERSION, (5,), 17)
    assert decode_reply([6, 9], 1).tick == 9
    assert decode_reply([9, "words"], 0).why == "REFUSED: words"


@pytest.mark.parametrize("body", [[], [99], ["0"], [True], [1, 2, 3], [0], [2], [2, 5, -1], b"\xff", {}, None, 7])
def test_what_is_no_reply_is_refused(body: Any) -> None:
    with pytest.raises(CodecError):
        decode_reply(body, 1)


def test_every_error_has_its_number_of_fields() -> None:
    assert error(Code.WRONG_GROUP, 3, None, None) == [3, 3, None, None]
    with pytest.raises(AssertionError, match="VERSION has 1 fields, not 0"):
        error(Code.VERSION)


def test_hints_and_rows_are_checked() -> None:
    assert hint_of(Reply(Code.WRONG_GROUP, (4, 2, ["a:1"]))) == Hint(4, 2, ("a:1",))
    assert hint_of(Reply(Code.WRONG_GROUP, (0, None, None))) == Hint(0, None, None)
    assert list(rows_of(Reply(Code.OK, ([[b"k", b"v", 1]], False)))) == [(b"k", b"v", 1)]
    for fields in [(-1, None, None), (1, "2", None), (1, 2, "ab")]:
        with pytest.raises(CodecError):
            hint_of(Reply(Code.WRONG_GROUP, fields))
    for row in ([b"k", b"v", 0], [b"k", b"v"], ["k", b"v", 1]):
        with pytest.raises(CodecError):
            list(rows_of(Reply(Code.OK, ([row], False))))


def test_ok_fields_of_commands() -> None:
    assert [ok_fields(command) for command, _ in GOLDEN] == [1, 1, 1, 1, 1, 0, 0, 0]
    assert loads(encode_command(GOLDEN[0][0]))[0] == 1
