"""The CBOR forms of the values and messages of the replicated log, on the wire and on the disk.

Everything is an array, with an integer tag first where it is one of several. Decoding checks every type and limit and
builds the frozen classes of `types` and `messages`; anything else is a `CodecError`, trailing bytes included. So are
CBOR's tags (dates, regular expressions, shared and cyclic values, integers beyond 64 bits), items of indefinite length,
deep nesting, and keys of maps that are not strings: nothing here uses them, and each has been a way to waste a server's
time.

    entry       [term, index, kind, version, time_ms, data]
    membership  [[[id, incarnation], ...] voters, [...] learners]
    hard state  [term, vote | null, commit, mode, [recover term, recover index]]
    message     [tag, fields in the order of the class ...]     LogId and image names flattened to arrays
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from struct import Struct
from typing import Any

import cbor2

from raftlog.messages import (
    AppendEntries,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    ImageChunk,
    ImageReply,
    Message,
    RequestVote,
    StateHash,
    TransferNow,
    VoteReply,
)
from raftlog.types import (
    MAX_ENTRY_BYTES,
    Entry,
    EntryKind,
    HardState,
    LogId,
    Member,
    Membership,
    Mode,
)

MAX_INT = 1 << 63
"""Every integer of the formats is below this."""
MAX_DEPTH = 32
"""How deep arrays may nest; the deepest of ours, an append inside a frame, is 4."""


class CodecError(ValueError):
    """Bytes that are no value of this format; the text says what was wrong. Close the connection or name the record."""


def shown(value: Any) -> str:
    """A short text for an error, of any decoded value: never the `repr` of something large."""
    match value:
        case bytes() | str():
            return repr(value[:40]) + ("..." if len(value) > 40 else "")
        case list() | dict():
            return f"{type(value).__name__} of {len(value)}"
    return f"{value!r:.60}"


def _no_tag(*found: Any) -> Any:
    raise ValueError("tags are not used here")


_NO_TAGS = dict.fromkeys((*range(64), 100, 256, 258, 260, 261, 1004, 43000, 55799), _no_tag)
"""Every tag that cbor2 would decode by itself; `tag_hook` gets all others."""

_UINT_8, _UINT_16, _UINT_32, _UINT_64 = Struct(">BB"), Struct(">BH"), Struct(">BI"), Struct(">BQ")
_TWO_ITEMS = b"\x82"
_MARK = hash("the end of a value").to_bytes(8, "big", signed=True)
"""Python keys the hashes of strings with a random number per process."""
_MARK_ENCODED = cbor2.dumps(_MARK)

LONG_BYTES = 64 << 10
"""From here on data is read as a file."""
_LIMITS: dict[str, Any] = {
    "tag_hook": _no_tag,
    "semantic_decoders": _NO_TAGS,
    "max_depth": MAX_DEPTH + 1,
    "allow_indefinite": False,
    "allow_duplicate_keys": False,
    "strict_hashable_types": True,
}
_LONG_LIMITS = {**_LIMITS, "max_depth": MAX_DEPTH}


def dumps(value: Any) -> bytes:
    """Canonical enough: equal values of arrays, ints (64 bits), bytes, str, bool and None give equal bytes."""
    return cbor2.dumps(value)


def dumps_uint(value: int) -> bytes:
    """What `dumps` gives for an integer that is not negative, sooner."""
    if value < 24:
        return value.to_bytes(1)
    if value < 1 << 8:
        return _UINT_8.pack(0x18, value)
    if value < 1 << 16:
        return _UINT_16.pack(0x19, value)
    return _UINT_32.pack(0x1A, value) if value < 1 << 32 else _UINT_64.pack(0x1B, value)


def loads(data: bytes) -> Any:
    """The one CBOR value that `data` is. Raises `CodecError` on damage and on trailing bytes.

    cbor2 ignores what follows a value unless it reads from a file, which costs twice the time. So `data` is read as the
    first of two items; the second is a mark that nobody outside this process knows, and comes out whole only if `data` is
    exactly one value. To copy long data for that takes longer than the file.
    """
    try:
        if len(data) < LONG_BYTES:
            value, mark = cbor2.loads(b"".join((_TWO_ITEMS, data, _MARK_ENCODED)), **_LIMITS)
            whole = mark == _MARK
        else:
            file = BytesIO(data)
            value = cbor2.CBORDecoder(file, **_LONG_LIMITS).decode()
            whole = file.tell() == len(data)
    except (cbor2.CBORDecodeError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise CodecError(f"not CBOR: {error}") from error
    if not whole:
        raise CodecError("more bytes after the value")
    return value


def _int(value: Any) -> int:
    if type(value) is not int or not 0 <= value < MAX_INT:
        raise CodecError(f"not an integer in range: {shown(value)}")
    return value


def _bool(value: Any) -> bool:
    if type(value) is not bool:
        raise CodecError(f"not a boolean: {shown(value)}")
    return value


def _bytes(value: Any) -> bytes:
    if type(value) is not bytes:
        raise CodecError(f"not bytes: {shown(value)}")
    return value


def array(value: Any, length: int | None = None) -> list[Any]:
    """`value` as an array, of exactly `length` items if given."""
    if type(value) is not list:
        raise CodecError(f"not an array: {shown(value)}")
    if length is not None and len(value) != length:
        raise CodecError(f"an array of {len(value)} items, not {length}")
    return value


def pack_log_id(log_id: LogId) -> list[int]:
    """A position as [term, index]."""
    return [log_id.term, log_id.index]


def unpack_log_id(value: Any) -> LogId:
    """Raises `CodecError`."""
    term, index = array(value, 2)
    return LogId(_int(term), _int(index))


def pack_entry(entry: Entry) -> list[Any]:
    """An entry as an array."""
    return [
        entry.id.term,
        entry.id.index,
        int(entry.kind),
        entry.version,
        entry.time_ms,
        entry.data,
    ]


_KINDS = {int(kind): kind for kind in EntryKind}


def unpack_entry(value: Any) -> Entry:
    """Raises `CodecError`, also for data over the limit."""
    term, index, kind, version, time_ms, data = array(value, 6)
    for number in (term, index, version, time_ms):
        if type(number) is not int or not 0 <= number < MAX_INT:
            raise CodecError(f"not an integer in range: {shown(number)}")
    if type(kind) is not int or kind not in _KINDS:
        raise CodecError(f"unknown kind of entry: {shown(kind)}")
    if len(_bytes(data)) > MAX_ENTRY_BYTES:
        raise CodecError(f"an entry of {len(data)} bytes, at most {MAX_ENTRY_BYTES}")
    return Entry(LogId(term, index), _KINDS[kind], data, time_ms, version)


def pack_membership(membership: Membership) -> list[Any]:
    """A membership as [voters, learners]."""
    return [[list(m) for m in membership.voters], [list(m) for m in membership.learners]]


def unpack_membership(value: Any) -> Membership:
    """Raises `CodecError`."""

    def members(items: Any) -> tuple[Member, ...]:
        return tuple(Member(_int(i), _int(n)) for i, n in (array(m, 2) for m in array(items)))

    voters, learners = array(value, 2)
    try:
        return Membership(members(voters), members(learners))
    except CodecError:
        raise
    except ValueError as error:
        raise CodecError(f"no membership: {error}") from error


def pack_hard_state(hard: HardState) -> list[Any]:
    """A hard state as an array."""
    row = [hard.term, hard.vote, hard.commit, int(hard.mode)]
    return [*row, pack_log_id(hard.recover_to), pack_log_id(hard.highest), pack_log_id(hard.ends)]


_MODES = {int(mode): mode for mode in Mode}


def unpack_hard_state(value: Any) -> HardState:
    """Raises `CodecError`. Format 1 had no `highest` and no `ends`."""
    items = array(value)
    if len(items) == 5:
        items = [*items, [0, 0], [0, 0]]
    term, vote, commit, mode, recover_to, highest, ends = array(items, 7)
    if type(mode) is not int or mode not in _MODES:
        raise CodecError(f"unknown mode of a peer: {shown(mode)}")
    return HardState(
        _int(term),
        None if vote is None else _int(vote),
        _int(commit),
        _MODES[mode],
        unpack_log_id(recover_to),
        unpack_log_id(highest),
        unpack_log_id(ends),
    )


def _unpack_image(value: Any) -> tuple[int, LogId]:
    incarnation, log_id = array(value, 2)
    return (_int(incarnation), unpack_log_id(log_id))


def encode_message(message: Message) -> list[Any]:
    """The array form of a message, ready for `dumps` inside a frame."""
    match message:
        case RequestVote(term, last, pre, transfer):
            return [1, term, pack_log_id(last), pre, transfer]
        case VoteReply(term, granted, pre):
            return [2, term, granted, pre]
        case AppendEntries(term, prev, entries, commit, context):
            packed = [pack_entry(e) for e in entries]
            return [3, term, pack_log_id(prev), packed, commit, context]
        case AppendReply(term, match, prev_index, hint, conflict_term, context, counts):
            return [4, term, match, prev_index, hint, conflict_term, context, counts]
        case Heartbeat(term, commit, context):
            return [5, term, commit, context]
        case HeartbeatReply(term, match, context, counts, no_space, refill):
            return [6, term, match, context, counts, no_space, refill]
        case TransferNow(term):
            return [7, term]
        case ImageChunk(term, (incarnation, at), membership, number, last, data, crc):
            name = [incarnation, pack_log_id(at)]
            return [8, term, name, pack_membership(membership), number, last, data, crc]
        case ImageReply(term, (incarnation, at), wanted, installed):
            return [9, term, [incarnation, pack_log_id(at)], wanted, installed]
        case StateHash(term, at, state_hash):
            return [10, term, pack_log_id(at), state_hash]


def _append_entries(term: Any, prev: Any, entries: Any, commit: Any, context: Any) -> Message:
    items = tuple(unpack_entry(e) for e in array(entries))
    return AppendEntries(_int(term), unpack_log_id(prev), items, _int(commit), _int(context))


def _append_reply(
    term: Any, match: Any, prev_index: Any, hint: Any, conflict_term: Any, context: Any, counts: Any
) -> Message:
    matched = None if match is None else _int(match)
    return AppendReply(
        _int(term), matched, _int(prev_index), _int(hint), _int(conflict_term), _int(context), _bool(counts)
    )


def _image_chunk(term: Any, image: Any, membership: Any, number: Any, last: Any, data: Any, crc: Any) -> Message:
    return ImageChunk(
        _int(term),
        _unpack_image(image),
        unpack_membership(membership),
        _int(number),
        _bool(last),
        _bytes(data),
        _int(crc),
    )


_DECODERS: dict[int, tuple[int, Callable[..., Message]]] = {
    1: (
        4,
        lambda t, last, pre, tr: RequestVote(_int(t), unpack_log_id(last), _bool(pre), _bool(tr)),
    ),
    2: (3, lambda t, granted, pre: VoteReply(_int(t), _bool(granted), _bool(pre))),
    3: (5, _append_entries),
    4: (7, _append_reply),
    5: (3, lambda t, commit, context: Heartbeat(_int(t), _int(commit), _int(context))),
    6: (6, lambda t, m, context, *flags: HeartbeatReply(_int(t), _int(m), _int(context), *map(_bool, flags))),
    7: (1, lambda t: TransferNow(_int(t))),
    8: (7, _image_chunk),
    10: (3, lambda t, at, state_hash: StateHash(_int(t), unpack_log_id(at), _bytes(state_hash))),
    9: (4, lambda t, i, n, done: ImageReply(_int(t), _unpack_image(i), _int(n), _bool(done))),
}


def decode_message(value: Any) -> Message:
    """The message that an array is. Raises `CodecError`; nothing partly decoded escapes."""
    items = array(value)
    if not items or type(items[0]) is not int or items[0] not in _DECODERS:
        raise CodecError(f"unknown message: {shown(items[0]) if items else 'an empty array'}")
    length, decode = _DECODERS[items[0]]
    if len(items) != length + 1:
        raise CodecError(f"message {items[0]} with {len(items) - 1} fields, not {length}")
    return decode(*items[1:])
