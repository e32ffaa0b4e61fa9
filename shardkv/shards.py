"""The life of a shard in one group: the hand-over as a table (MIT 6.5840 lab 5, "shardgrp"), and the shard's record.

    absent --install--> serving --freeze--> frozen --delete--> deleted
       any dead state --chunk--> staging --install--> serving

Each event carries the number of the configuration that wants it. The table gives the action for every (state, event,
relation of the event's num to the stored one); `draw` writes it for the documentation. The laws it holds:

* A lower num is fenced, whatever the state (`STALE`): an old controller changes nothing.
* The same num again is answered without a second effect. An install on `serving` has no effect: puts may have happened.
* A higher num freezes only what is served, deletes only what was frozen, and installs over anything dead.
* A group that is the destination of a num refuses to freeze or delete under it; its source refuses to install.
* What is kept under a num is not frozen under it any more: the change that wanted it for nobody is given up.

Format of a shard's record (table "shards", key: shard u16), version 1, big-endian:

    [version u8, state u8, num u48, incarnation u64, rows u64, size u64, hash 16 bytes] + tail
    tail    frozen, deleted: CBOR [gid, [address ...]]; staging: the position; else nothing

`incarnation` names where the rows are: num * 2^16 + how often the staging was begun again. Each is used once.
"""

from __future__ import annotations

from enum import Enum, IntEnum, auto
from struct import Struct
from struct import error as StructError
from typing import NamedTuple

from raftlog.codec import CodecError, array, dumps, loads
from store.engine import CorruptRecord, FormatMismatch
from store.keys import u16

SHARDS = "shards"

RECORD_VERSION = 1

_HEAD = Struct(">Q QQQ 16s")
_SCOPE = Struct(">HQ")
_STATE_SHIFT = 48
_VERSION_SHIFT = 56
_NUM = (1 << 48) - 1
_RESTARTS = 1 << 16


class State(IntEnum):
    """What a shard is here. The numbers are on disk."""

    ABSENT = 0
    """Never here; it has no record."""
    STAGING = 1
    """Rows arrive; nothing is served."""
    SERVING = 2
    """Ours."""
    FROZEN = 3
    """Was ours and goes elsewhere: immutable, to be read in pages."""
    DELETED = 4
    """Was ours; its rows are retired."""


class Event(Enum):
    """What a controller asks for."""

    FREEZE = auto()
    CHUNK = auto()
    INSTALL = auto()
    DELETE = auto()
    KEEP = auto()


class Relation(Enum):
    """The event's num against the record's."""

    LOWER = "<"
    SAME = "="
    HIGHER = ">"


class Action(Enum):
    """What is done, or answered."""

    STALE = "stale"
    """Answer STALE with the stored num."""
    GONE = "gone"
    """Answer GONE."""
    REFUSE = "refused"
    """Answer REFUSED: no controller that follows the protocol asks for this."""
    AGAIN = "same answer"
    """Answer as the first time, change nothing."""
    INSTALLED = "installed"
    """Answer that the shard is installed already."""
    FREEZE = "freeze"
    """-> frozen."""
    STAGE = "stage anew"
    """-> staging at this num, empty; what was there is retired. Then as STAGE_ON."""
    STAGE_ON = "stage"
    """Add the entries if they follow the position."""
    INSTALL_ANEW = "stage anew, install"
    """As STAGE, then INSTALL: right for a shard that holds nothing."""
    INSTALL = "install"
    """-> serving, if what is staged is what the source says."""
    DELETE = "delete"
    """-> deleted; the rows are retired."""
    KEEP = "keep"
    """-> serving at this num, unless it was frozen for another group."""


_SAME: dict[tuple[State, Event], Action] = {
    (State.STAGING, Event.FREEZE): Action.REFUSE,
    (State.STAGING, Event.CHUNK): Action.STAGE_ON,
    (State.STAGING, Event.INSTALL): Action.INSTALL,
    (State.STAGING, Event.DELETE): Action.REFUSE,
    (State.STAGING, Event.KEEP): Action.REFUSE,
    (State.SERVING, Event.FREEZE): Action.REFUSE,
    (State.SERVING, Event.CHUNK): Action.INSTALLED,
    (State.SERVING, Event.INSTALL): Action.AGAIN,
    (State.SERVING, Event.DELETE): Action.REFUSE,
    (State.SERVING, Event.KEEP): Action.AGAIN,
    (State.FROZEN, Event.FREEZE): Action.AGAIN,
    (State.FROZEN, Event.CHUNK): Action.REFUSE,
    (State.FROZEN, Event.INSTALL): Action.REFUSE,
    (State.FROZEN, Event.DELETE): Action.DELETE,
    (State.FROZEN, Event.KEEP): Action.KEEP,
    (State.DELETED, Event.FREEZE): Action.GONE,
    (State.DELETED, Event.CHUNK): Action.REFUSE,
    (State.DELETED, Event.INSTALL): Action.REFUSE,
    (State.DELETED, Event.DELETE): Action.AGAIN,
    (State.DELETED, Event.KEEP): Action.REFUSE,
}
_HIGHER: dict[tuple[State, Event], Action] = {
    (State.ABSENT, Event.FREEZE): Action.REFUSE,
    (State.ABSENT, Event.CHUNK): Action.STAGE,
    (State.ABSENT, Event.INSTALL): Action.INSTALL_ANEW,
    (State.ABSENT, Event.DELETE): Action.REFUSE,
    (State.ABSENT, Event.KEEP): Action.REFUSE,
    (State.STAGING, Event.FREEZE): Action.REFUSE,
    (State.STAGING, Event.CHUNK): Action.STAGE,
    (State.STAGING, Event.INSTALL): Action.INSTALL_ANEW,
    (State.STAGING, Event.DELETE): Action.REFUSE,
    (State.STAGING, Event.KEEP): Action.REFUSE,
    (State.SERVING, Event.FREEZE): Action.FREEZE,
    (State.SERVING, Event.CHUNK): Action.REFUSE,
    (State.SERVING, Event.INSTALL): Action.REFUSE,
    (State.SERVING, Event.DELETE): Action.REFUSE,
    (State.SERVING, Event.KEEP): Action.KEEP,
    (State.FROZEN, Event.FREEZE): Action.REFUSE,
    (State.FROZEN, Event.CHUNK): Action.STAGE,
    (State.FROZEN, Event.INSTALL): Action.INSTALL_ANEW,
    (State.FROZEN, Event.DELETE): Action.DELETE,
    (State.FROZEN, Event.KEEP): Action.REFUSE,
    (State.DELETED, Event.FREEZE): Action.REFUSE,
    (State.DELETED, Event.CHUNK): Action.STAGE,
    (State.DELETED, Event.INSTALL): Action.INSTALL_ANEW,
    (State.DELETED, Event.DELETE): Action.REFUSE,
    (State.DELETED, Event.KEEP): Action.REFUSE,
}

TABLE: dict[tuple[State, Event, Relation], Action] = {
    # An absent shard has num 0 and every event at least 1: for it there is neither "lower" nor "same".
    **{(state, event, Relation.LOWER): Action.STALE for state in State if state is not State.ABSENT for event in Event},
    **{(state, event, Relation.SAME): action for (state, event), action in _SAME.items()},
    **{(state, event, Relation.HIGHER): action for (state, event), action in _HIGHER.items()},
}
"""The hand-over. Total over what can be."""


def relation(num: int, stored: int) -> Relation:
    """How an event's num stands to the stored one."""
    if num == stored:
        return Relation.SAME
    return Relation.LOWER if num < stored else Relation.HIGHER


def draw() -> str:
    """The table as text, a line per state and relation."""
    heads = ["state", "num", *(event.name.lower() for event in Event)]
    lines = [heads]
    for state in State:
        for how in Relation:
            if (state, Event.FREEZE, how) in TABLE:
                lines.append([state.name.lower(), how.value, *(TABLE[state, event, how].value for event in Event)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


# --- the record ------------------------------------------------------------------------------------------------------


class ShardRecord(NamedTuple):
    """A shard of this group.

    `num` is the greatest configuration number that changed it. `rows`, `size` (bytes of keys and values) and `hash`
    (sum of the rows' hashes modulo 2^128) describe the rows of `incarnation`: live ones, or staged ones. `gid` and
    `addresses` say where a frozen or deleted shard went; `position` is the last one staged.
    """

    state: State = State.ABSENT
    num: int = 0
    incarnation: int = 0
    rows: int = 0
    size: int = 0
    hash: int = 0
    gid: int | None = None
    addresses: tuple[str, ...] = ()
    position: bytes = b""

    @property
    def digest(self) -> bytes:
        """The hash as 16 bytes."""
        return self.hash.to_bytes(16, "big")


NO_SHARD = ShardRecord()


def scope_of(shard: int, record: ShardRecord) -> bytes:
    """The prefix of the rows and the sessions of the shard's incarnation."""
    return _SCOPE.pack(shard, record.incarnation)


def incarnation_of(num: int, restarts: int = 0) -> int:
    """The name of a staging's rows."""
    assert 0 <= restarts < _RESTARTS, f"staging of num {num} was begun again {restarts} times"
    return num * _RESTARTS + restarts


def restarts_of(record: ShardRecord) -> int:
    """How often the staging was begun again."""
    return record.incarnation % _RESTARTS


def encode_record(record: ShardRecord) -> bytes:
    """The payload of a shard's row."""
    state, num, incarnation, rows, size, total, gid, addresses, position = record
    head = _HEAD.pack(
        RECORD_VERSION << _VERSION_SHIFT | state << _STATE_SHIFT | num,
        incarnation,
        rows,
        size,
        total.to_bytes(16, "big"),
    )
    if state is State.SERVING:
        return head
    return head + (position if state is State.STAGING else dumps([gid, list(addresses)]))


def decode_record(shard: int, payload: bytes) -> ShardRecord:
    """Raises `CorruptRecord`, and `FormatMismatch` for a later version."""
    key = u16(shard)
    try:
        first, incarnation, rows, size, digest = _HEAD.unpack_from(payload)
        version = first >> _VERSION_SHIFT
        if version != RECORD_VERSION:
            raise FormatMismatch(f"shard {shard} has a record of version {version}; this is version {RECORD_VERSION}")
        state = State(first >> _STATE_SHIFT & 0xFF)
        record = ShardRecord(state, first & _NUM, incarnation, rows, size, int.from_bytes(digest, "big"))
        tail = payload[_HEAD.size :]
        if state is State.STAGING:
            return record._replace(position=tail)
        if state in (State.FROZEN, State.DELETED):
            gid, addresses = array(loads(tail), 2)
            return record._replace(gid=gid, addresses=tuple(array(addresses)))
    except (StructError, ValueError, CodecError) as error:
        raise CorruptRecord(SHARDS, key, str(error)) from error
    return record
