"""Frames: any cut of a stream gives the same frames, limits hold before allocation, hostile bytes raise one error."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftlog.codec import CodecError, dumps
from raftlog.messages import Heartbeat
from raftlog.net.frames import (
    BATCH_BYTES,
    BATCH_ITEMS,
    MAX_FRAME_BYTES,
    MAX_ITEM_BYTES,
    PROTOCOL,
    Deframer,
    FrameError,
    Hello,
    Kind,
    WrongProtocol,
    decode_hello,
    decode_messages,
    decode_replies,
    decode_requests,
    decode_welcome,
    encode_batch,
    encode_message_bytes,
    encode_reply,
    encode_request,
    encode_welcome,
    frame,
)

NUMBERS = st.integers(0, (1 << 63) - 1)
HELLOS = st.builds(Hello, st.sampled_from(Kind), st.binary(max_size=16), NUMBERS, NUMBERS, NUMBERS, NUMBERS)


def only(frames: list[bytes]) -> bytes:
    """The body of the one frame."""
    (one,) = frames
    assert int.from_bytes(one[:4], "big") == len(one) - 4
    return one[4:]


@given(st.lists(st.binary(max_size=50), max_size=8), st.data())
def test_any_cut_of_a_stream_gives_the_same_frames(bodies: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(frame(body) for body in bodies)
    deframer = Deframer()
    found: list[bytes] = []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        found += deframer.feed(stream[:cut])
        stream = stream[cut:]
    assert found == bodies


def test_long_frames_come_whole_out_of_short_reads() -> None:
    bodies = [bytes([number]) * size for number, size in enumerate((200_000, 0, 1, 70_000, 3))]
    stream = b"".join(frame(body) for body in bodies)
    for read in (1 << 16, 65_537, 999):
        deframer = Deframer()
        assert [b for at in range(0, len(stream), read) for b in deframer.feed(stream[at : at + read])] == bodies
        assert deframer.feed(frame(b"next")) == [b"next"]


def test_a_length_above_the_limit_is_refused_as_soon_as_it_is_seen() -> None:
    deframer = Deframer(10)
    assert deframer.feed(frame(bytes(10)) + b"\0\0\0") == [bytes(10)]
    with pytest.raises(FrameError, match="11 bytes; at most 10"):
        deframer.feed(b"\x0b")
    with pytest.raises(FrameError, match="4294967295"):
        Deframer().feed(b"\xff\xff\xff\xff")


def test_a_frame_above_the_limit_is_not_made() -> None:
    with pytest.raises(FrameError):
        frame(bytes(MAX_FRAME_BYTES + 1))
    with pytest.raises(FrameError):
        encode_batch([bytes(MAX_FRAME_BYTES)])


@given(HELLOS)
def test_a_handshake_comes_back_equal(hello: Hello) -> None:
    assert decode_hello(only([hello.encode()])) == hello


@pytest.mark.parametrize("reason", ["", "wrong cluster"])
def test_the_answer_to_a_handshake_comes_back(reason: str) -> None:
    assert decode_welcome(only([encode_welcome(reason)])) == reason


def test_another_version_of_the_protocol_is_told_apart_from_nonsense() -> None:
    with pytest.raises(WrongProtocol, match=f"protocol {PROTOCOL + 1}, this is {PROTOCOL}"):
        decode_hello(dumps([b"SKVR", PROTOCOL + 1, "and", "more"]))
    with pytest.raises(FrameError, match="no handshake of shardkv"):
        decode_hello(dumps([b"HTTP", 1]))


@pytest.mark.parametrize(
    "row",
    [
        [b"SKVR", 1, 3, b"", 0, 0, 0, 0],
        [b"SKVR", 1, True, b"", 0, 0, 0, 0],
        [b"SKVR", 1, 1, "", 0, 0, 0, 0],
        [b"SKVR", 1, 1, b"", -1, 0, 0, 0],
        [b"SKVR", 1, 1, b"", 0, 0, 1 << 63, 0],
        [b"SKVR", 1, 1, b"", 0, 0, 0],
        [b"SKVR"],
        [],
    ],
)
def test_a_handshake_with_a_wrong_field_is_refused(row: list[Any]) -> None:
    with pytest.raises(FrameError):
        decode_hello(dumps(row))


@given(st.binary(max_size=60) | st.lists(st.integers() | st.binary(max_size=5), max_size=9).map(dumps))
def test_hostile_bodies_raise_codec_error_and_nothing_else(body: bytes) -> None:
    for decode in (decode_hello, decode_welcome, decode_messages, decode_requests, decode_replies):
        try:
            decode(body)
        except CodecError as error:
            assert len(str(error)) < 300


@pytest.mark.parametrize("row", [[1], [1, 2], [1, 2, 3], [b"1", 2, []], [1, None, []], [True, 2, []], 7])
def test_no_request(row: Any) -> None:
    with pytest.raises(CodecError):
        decode_requests(dumps([row]))


@pytest.mark.parametrize("row", [[1], [1, 2, 3], [b"1", 2], [None, 2], 7])
def test_no_reply(row: Any) -> None:
    with pytest.raises(CodecError):
        decode_replies(dumps([row]))


def test_requests_and_replies_come_back_in_order() -> None:
    requests = [(number, number * 2, [number, b"x"]) for number in range(300)]
    assert decode_requests(only(encode_batch([encode_request(*row) for row in requests]))) == requests
    replies = [(number, [number, None]) for number in range(30)]
    assert decode_replies(only(encode_batch([encode_reply(*row) for row in replies]))) == replies


def test_a_batch_is_cut_into_frames_by_bytes_and_by_items() -> None:
    large = [encode_request(number, 1, [bytes(BATCH_BYTES // 3)]) for number in range(5)]
    assert [len(decode_requests(one[4:])) for one in encode_batch(large)] == [2, 2, 1]
    small = [encode_message_bytes(Heartbeat(1, 1))] * (BATCH_ITEMS + 1)
    assert [len(decode_messages(one[4:])) for one in encode_batch(small)] == [BATCH_ITEMS, 1]
    assert encode_batch([]) == []


def test_a_frame_of_too_many_items_is_refused() -> None:
    row = encode_message_bytes(Heartbeat(1, 1))
    with pytest.raises(CodecError, match=f"{BATCH_ITEMS + 1} items"):
        decode_messages(b"\x99" + (BATCH_ITEMS + 1).to_bytes(2, "big") + row * (BATCH_ITEMS + 1))


def test_the_largest_item_fits_into_a_frame_and_a_larger_one_is_refused() -> None:
    overhead = len(encode_reply(1, bytes(MAX_ITEM_BYTES - 100))) - (MAX_ITEM_BYTES - 100)
    largest = encode_reply(1, bytes(MAX_ITEM_BYTES - overhead))
    assert len(largest) == MAX_ITEM_BYTES
    only(encode_batch([largest]))
    with pytest.raises(CodecError, match=str(MAX_ITEM_BYTES)):
        encode_reply(1, bytes(MAX_ITEM_BYTES - overhead + 1))
