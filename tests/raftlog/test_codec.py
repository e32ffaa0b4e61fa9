"""What is encoded comes back equal; bytes that are no value of ours raise `CodecError` and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftlog.codec import (
    LONG_BYTES,
    MAX_DEPTH,
    MAX_INT,
    CodecError,
    decode_message,
    dumps,
    dumps_uint,
    encode_message,
    loads,
    pack_entry,
    pack_hard_state,
    pack_membership,
    shown,
    unpack_entry,
    unpack_hard_state,
    unpack_log_id,
    unpack_membership,
)
from raftlog.messages import (
    AppendEntries,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    ImageChunk,
    ImageReply,
    Message,
    RequestVote,
    TransferNow,
    VoteReply,
)
from raftlog.types import MAX_ENTRY_BYTES, Entry, EntryKind, HardState, LogId, Member, Membership, Mode

NUMBERS = st.integers(0, MAX_INT - 1)
DATA = st.binary(max_size=64)
LOG_IDS = st.builds(LogId, NUMBERS, NUMBERS)
ENTRIES = st.builds(Entry, LOG_IDS, st.sampled_from(EntryKind), DATA, NUMBERS, NUMBERS)
IMAGES = st.tuples(NUMBERS, LOG_IDS)


@st.composite
def memberships(draw: st.DrawFn) -> Membership:
    incarnations = draw(st.dictionaries(NUMBERS, NUMBERS, max_size=12))
    members = tuple(Member(i, n) for i, n in sorted(incarnations.items()))
    learner = [len(members) > 9 or draw(st.booleans()) for _ in members]
    return Membership(
        tuple(m for m, learns in zip(members, learner, strict=True) if not learns),
        tuple(m for m, learns in zip(members, learner, strict=True) if learns),
    )


HARD_STATES = st.builds(HardState, NUMBERS, st.none() | NUMBERS, NUMBERS, st.sampled_from(Mode), LOG_IDS)

MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(RequestVote, NUMBERS, LOG_IDS, st.booleans(), st.booleans()),
    st.builds(VoteReply, NUMBERS, st.booleans(), st.booleans()),
    st.builds(
        AppendEntries, NUMBERS, LOG_IDS, st.lists(ENTRIES, max_size=5).map(lambda found: tuple(found)), NUMBERS, NUMBERS
    ),
    st.builds(AppendReply, NUMBERS, st.none() | NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.booleans()),
    st.builds(Heartbeat, NUMBERS, NUMBERS, NUMBERS),
    st.builds(HeartbeatReply, NUMBERS, NUMBERS, NUMBERS, st.booleans()),
    st.builds(TransferNow, NUMBERS),
    st.builds(ImageChunk, NUMBERS, IMAGES, memberships(), NUMBERS, st.booleans(), DATA, NUMBERS),
    st.builds(ImageReply, NUMBERS, IMAGES, NUMBERS, st.booleans()),
)

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 64), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | DATA
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=20,
)

DECODERS: list[Callable[[Any], Any]] = [
    decode_message,
    unpack_entry,
    unpack_membership,
    unpack_hard_state,
    unpack_log_id,
]


@given(MESSAGES)
def test_a_message_comes_back_equal(message: Message) -> None:
    assert decode_message(loads(dumps(encode_message(message)))) == message


@given(ENTRIES)
def test_an_entry_comes_back_equal(entry: Entry) -> None:
    assert unpack_entry(loads(dumps(pack_entry(entry)))) == entry


@given(memberships())
def test_a_membership_comes_back_equal(membership: Membership) -> None:
    assert unpack_membership(loads(dumps(pack_membership(membership)))) == membership


@given(HARD_STATES)
def test_a_hard_state_comes_back_equal(hard: HardState) -> None:
    assert unpack_hard_state(loads(dumps(pack_hard_state(hard)))) == hard


@given(VALUES)
def test_any_plain_value_comes_back_equal_and_equal_values_give_equal_bytes(value: Any) -> None:
    data = dumps(value)
    assert loads(data) == value
    assert dumps(loads(data)) == data


def fails_with_codec_error_only(decode: Callable[[Any], Any], value: Any) -> None:
    try:
        decode(value)
    except CodecError as error:
        assert len(str(error)) < 300


@given(st.binary(max_size=80))
@settings(max_examples=500)
def test_hostile_bytes_raise_codec_error_and_nothing_else(data: bytes) -> None:
    fails_with_codec_error_only(loads, data)
    for decode in DECODERS:
        fails_with_codec_error_only(lambda found, decode=decode: decode(loads(found)), data)


@given(VALUES)
def test_well_formed_values_of_the_wrong_shape_raise_codec_error_and_nothing_else(value: Any) -> None:
    for decode in DECODERS:
        fails_with_codec_error_only(decode, value)


@given(MESSAGES, st.data())
@settings(max_examples=500)
def test_a_message_with_a_wrong_part_raises_codec_error_and_nothing_else(message: Message, data: st.DataObject) -> None:
    array = loads(dumps(encode_message(message)))
    place = array
    while True:
        at = data.draw(st.integers(0, len(place) - 1))
        if type(place[at]) is not list or not place[at] or data.draw(st.booleans()):
            break
        place = place[at]
    place[at] = data.draw(VALUES)
    fails_with_codec_error_only(decode_message, array)


@given(MESSAGES, st.data())
def test_a_message_cut_short_or_with_bytes_after_it_is_refused(message: Message, data: st.DataObject) -> None:
    encoded = dumps(encode_message(message))
    with pytest.raises(CodecError):
        loads(encoded[: data.draw(st.integers(0, len(encoded) - 1))])
    with pytest.raises(CodecError):
        loads(encoded + data.draw(st.binary(min_size=1, max_size=9)))


@given(MESSAGES, st.data())
@settings(max_examples=300)
def test_a_flipped_byte_gives_another_message_or_codec_error(message: Message, data: st.DataObject) -> None:
    encoded = bytearray(dumps(encode_message(message)))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    fails_with_codec_error_only(lambda found: decode_message(loads(found)), bytes(encoded))


NEVER_SAID = pytest.mark.parametrize(
    "what",
    [
        pytest.param("c0 61 78", id="date as text"),
        pytest.param("c1 fb 7e37e43c8800759c", id="date out of range"),
        pytest.param("c2 49 ffffffffffffffffff", id="integer beyond 64 bits"),
        pytest.param("c5 82 1a05f5e100 03", id="float with a huge exponent"),
        pytest.param("d8 1e 82 01 00", id="fraction by zero"),
        pytest.param("d8 23 65 28612b292b", id="regular expression"),
        pytest.param("d8 24 61 78", id="MIME message"),
        pytest.param("d8 1c 81 d8 1d 00", id="cyclic array"),
        pytest.param("d9 0100 82 64 61616161 d8 19 00", id="reference to a string"),
        pytest.param("d9 0102 81 01", id="set"),
        pytest.param("d8 fe 01", id="unknown tag"),
        pytest.param("d9 d9f7 01", id="self-described CBOR"),
        pytest.param("9f 01 ff", id="array of indefinite length"),
        pytest.param("5f 41 61 ff", id="bytes of indefinite length"),
        pytest.param("a1 01 01", id="map with a number as key"),
        pytest.param("a2 61 61 01 61 61 02", id="map with a key twice"),
        pytest.param("9b 7fffffffffffffff", id="array of a huge length"),
        pytest.param("5b 7fffffffffffffff", id="bytes of a huge length"),
        pytest.param("7b 7fffffffffffffff", id="text of a huge length"),
        pytest.param("bb 7fffffffffffffff", id="map of a huge length"),
        pytest.param("61 ff", id="text that is not UTF-8"),
        pytest.param("ff", id="a break outside of anything"),
        pytest.param("81" * (MAX_DEPTH + 1) + "01", id="deep nesting"),
        pytest.param("81" * 100_000, id="very deep nesting"),
        pytest.param("", id="nothing"),
    ],
)


@NEVER_SAID
def test_what_cbor_can_say_and_we_never_do_is_refused(what: str) -> None:
    with pytest.raises(CodecError):
        loads(bytes.fromhex(what))


@NEVER_SAID
def test_it_is_refused_in_long_data_too(what: str) -> None:
    """Which is read in another way."""
    with pytest.raises(CodecError):
        loads(b"\x82" + dumps(bytes(LONG_BYTES)) + bytes.fromhex(what))


@pytest.mark.parametrize("size", [0, LONG_BYTES - 5, LONG_BYTES, 1 << 20])
def test_data_of_any_length_is_held_to_the_same_limits(size: int) -> None:
    data = dumps(bytes(size))
    deepest = b"\x81" * MAX_DEPTH + data
    assert dumps(loads(deepest)) == deepest
    for wrong in (b"\x81" + deepest, deepest + b"\0", deepest + data, deepest[:-1]):
        with pytest.raises(CodecError):
            loads(wrong)


def test_an_integer_of_a_million_digits_is_refused_before_it_is_made() -> None:
    # Its decimal text would raise another error than CodecError; and take seconds.
    with pytest.raises(CodecError):
        loads(b"\xc2\x5a\x00\x80\x00\x00" + b"\xff" * (1 << 23))


def test_an_entry_above_the_limit_is_refused() -> None:
    entry = Entry(LogId(1, 1), EntryKind.COMMAND, bytes(MAX_ENTRY_BYTES))
    assert unpack_entry(pack_entry(entry)) == entry
    with pytest.raises(CodecError, match=str(MAX_ENTRY_BYTES)):
        unpack_entry([1, 1, 1, 1, 0, bytes(MAX_ENTRY_BYTES + 1)])


@pytest.mark.parametrize("number", [-1, MAX_INT, True, 1.0, None, "1", b"1", []])
def test_a_number_of_the_wrong_type_or_range_is_refused(number: Any) -> None:
    with pytest.raises(CodecError):
        unpack_log_id([number, 1])
    with pytest.raises(CodecError):
        decode_message([7, number])


def test_an_error_shows_little_of_a_large_value() -> None:
    assert shown(b"x" * 1000) == repr(b"x" * 40) + "..."
    assert shown([1, 2]) == "list of 2"
    assert shown("short") == "'short'"
    assert shown(7) == "7"


@pytest.mark.parametrize("bits", [0, 1, 5, 8, 16, 32, 64])
def test_an_integer_that_is_encoded_by_hand_is_encoded_as_by_dumps(bits: int) -> None:
    for value in {0, 23, 24, (1 << bits) - 1, 1 << bits >> 1, (1 << bits) >> 2}:
        assert dumps_uint(value) == dumps(value)
    assert dumps_uint(min(1 << bits, (1 << 64) - 1)) == dumps(min(1 << bits, (1 << 64) - 1))
