"""Replies of the data plane (see `commands`): their codes, what follows each code, and how both are checked.

A reply is the array [code, fields ...]. One made under a session has the shard's `tick` as one more item at the
end, OK replies too: the clerk keeps the greatest one per shard and sends it as `as_of`. The body of a reply to WRITE may be
the array itself or a byte string that holds it (as it came from the log).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

from raftlog.codec import CodecError, array, loads
from shardkv.commands import (
    Command,
    DeleteShard,
    Install,
    Keep,
    TooLarge,
    checked_addresses,
    checked_int,
    checked_key,
    checked_value,
)
from shardkv.config import MAX_GID, MAX_NUM
from shardkv.methods import Method

MAX_WORDS = 200
"""The longest explanation in a reply, in characters."""


class Code(IntEnum):
    """The first item of a reply, with the fields that follow it."""

    OK = 0
    """Fields by method and command, see `commands`."""
    NO_KEY = 1
    """[] The key is missing."""
    VERSION = 2
    """[current version] The key has another version; nothing was changed."""
    WRONG_GROUP = 3
    """[num, gid | null, [address ...] | null] The shard is not served here as of config `num`; it went to `gid`."""
    NOT_LEADER = 4
    """[peer | null, address | null] Definitely not taken; ask the leader."""
    MAYBE = 5
    """[why] It may or may not have happened, or happen yet."""
    SESSION_EXPIRED = 6
    """[] Without effect: the session is gone and `as_of` is too old to tell whether it was applied before."""
    STALE = 7
    """[num] Without effect: the shard has seen the greater `num`."""
    GONE = 8
    """[] The shard was frozen and deleted here at this num."""
    REFUSED = 9
    """[why] Without effect: not legal in this state."""
    TOO_LARGE = 10
    """[why] Without effect: over a limit."""
    NO_SPACE = 11
    """[] Without effect: the disk (or a quorum's) is low on space; deletes still pass."""
    BAD_REQUEST = 12
    """[why] Without effect: not a call or command of this format."""
    RESUME = 13
    """[position] The staging goes on after this position: send the entries that follow it."""
    INSTALLED = 14
    """[] The shard is installed at this num already; nothing more to send."""
    NOT_YET = 15
    """[num] This peer has applied no freeze at the asked num yet; ask another peer, or later."""
    LATER = 16
    """[] Left out of a GET_MANY that grew too large: ask again."""


_CODES = {int(code): code for code in Code}
_FIELDS: dict[Code, int] = {
    Code.NO_KEY: 0,
    Code.VERSION: 1,
    Code.WRONG_GROUP: 3,
    Code.NOT_LEADER: 2,
    Code.MAYBE: 1,
    Code.SESSION_EXPIRED: 0,
    Code.STALE: 1,
    Code.GONE: 0,
    Code.REFUSED: 1,
    Code.TOO_LARGE: 1,
    Code.NO_SPACE: 0,
    Code.BAD_REQUEST: 1,
    Code.RESUME: 1,
    Code.INSTALLED: 0,
    Code.NOT_YET: 1,
    Code.LATER: 0,
}


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply, checked as far as its code goes. `fields` is without the tick; `tick` is None if it carries none."""

    code: Code
    fields: tuple[Any, ...]
    tick: int | None = None

    @property
    def why(self) -> str:
        """For people: the code's name with its fields."""
        return ": ".join([self.code.name, *(str(item)[:MAX_WORDS] for item in self.fields)])


def decode_reply(body: Any, fields: int) -> Reply:
    """The reply `body`, whose OK has `fields` fields. Raises `CodecError`: the server speaks another format."""
    items = array(loads(body) if type(body) is bytes else body)
    number = items[0] if items else None
    if type(number) is not int or number not in _CODES:
        raise CodecError(f"unknown code of a reply: {number!r:.60}")
    code = _CODES[number]
    count = _FIELDS.get(code, fields)
    if len(items) == count + 1:
        return Reply(code, tuple(items[1:]))
    if len(items) == count + 2:
        return Reply(code, tuple(items[1:-1]), checked_int(items[-1], 0, (1 << 64) - 1, "a tick"))
    raise CodecError(f"reply {code.name} with {len(items) - 1} fields, not {count}")


OK_FIELDS: dict[Method, int] = {
    Method.GET: 2,
    Method.SCAN: 2,
    Method.READ_SHARD: 4,
    Method.STATUS: 1,
    Method.GET_MANY: 1,
}
"""The number of fields of a call's OK reply. Of WRITE it depends on the command: see `ok_fields`."""


def ok_fields(command: Command) -> int:
    """The number of fields of the OK reply to a command."""
    return 0 if isinstance(command, Install | DeleteShard | Keep) else 1


class Hint(NamedTuple):
    """The fields of WRONG_GROUP: as of config `num` the shard is not served; it went to `gid`, if known."""

    num: int
    gid: int | None
    addresses: tuple[str, ...] | None


def hint_of(reply: Reply) -> Hint:
    """The hint in a WRONG_GROUP reply. Raises `CodecError`."""
    num, gid, addresses = reply.fields
    return Hint(
        checked_int(num, 0, MAX_NUM, "a number"),
        None if gid is None else checked_int(gid, 0, MAX_GID, "a group"),
        None if addresses is None else checked_addresses(addresses),
    )


def rows_of(reply: Reply) -> Iterator[tuple[bytes, bytes, int]]:
    """The (key, value, version) rows of a SCAN's OK. Raises `CodecError`."""
    for row in array(reply.fields[0]):
        key, value, version = array(row, 3)
        yield checked_key(key), checked_value(value), checked_int(version, 1, (1 << 64) - 1, "a version")


def error(code: Code, *fields: Any) -> list[Any]:
    """The array of a reply that is not OK."""
    assert len(fields) == _FIELDS[code], f"{code.name} has {_FIELDS[code]} fields, not {len(fields)}"
    return [int(code), *fields]


def bad_request(problem: CodecError) -> list[Any]:
    """The reply to what could not be decoded: TOO_LARGE or BAD_REQUEST, with the reason."""
    return error(Code.TOO_LARGE if isinstance(problem, TooLarge) else Code.BAD_REQUEST, str(problem)[:MAX_WORDS])
