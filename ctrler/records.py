"""What the config store holds: keys, and values as CBOR arrays with a format version in front (version 1).

    next              [1, config JSON, request id, nonce, time_ms]   the change that runs, or the last one that did
    current           [1, config JSON]                               the configuration in force
    config/<num>      [1, config JSON, request id, time_ms, end_ms]  the history, each created once
    request/<hex id>  [1, num] or [1, num, why]                      the outcome of a request; with why if it was given up
    cleaned           [1, num]                                       up to here nothing is left to delete at old owners
    addresses/<gid>   [1, {server name: address}]                    where the servers listen; reported by them

A crash can leave any prefix of a change: next -> config/<num> -> request -> current -> cleaned. Each step may be repeated.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from raftlog.codec import CodecError, array, dumps, loads
from shardkv.config import ShardConfig

FORMAT = 1
NEXT = "next"
CURRENT = "current"
CLEANED = "cleaned"


def config_key(num: int) -> str:
    """The key of a configuration of the history. Zero-padded, so that key order is number order."""
    return f"config/{num:015d}"


def request_key(request: bytes) -> str:
    """The key of a request's outcome."""
    return f"request/{request.hex()}"


def addresses_key(gid: int) -> str:
    """The key of a group's addresses."""
    return f"addresses/{gid:010d}"


class Change(NamedTuple):
    """A posted change. `nonce` tells one controller's post from another's of the same configuration."""

    config: ShardConfig
    request: bytes = b""
    nonce: bytes = b""
    time_ms: int = 0


class Past(NamedTuple):
    """A configuration of the history: by which request, when it was begun and when it was in force (ms)."""

    config: ShardConfig
    request: bytes
    time_ms: int
    end_ms: int


class Outcome(NamedTuple):
    """What came of a request: the configuration's number, and why that is not the one that was asked for."""

    num: int
    given_up: str = ""


def _unpack(value: bytes, fields: int) -> list[Any]:
    row = array(loads(value))
    if row[:1] != [FORMAT]:
        raise CodecError(f"a record of the config store of format {row[:1]!r:.20}, this is {FORMAT}")
    return array(row, fields + 1)[1:]


def _config(text: Any) -> ShardConfig:
    try:
        return ShardConfig.from_json(text)
    except (ValueError, TypeError) as error:
        raise CodecError(f"no configuration: {error}") from error


def pack_change(change: Change) -> bytes:
    """The value of `next`."""
    return dumps([FORMAT, change.config.to_json(), change.request, change.nonce, change.time_ms])


def unpack_change(value: bytes) -> Change:
    """Raises `CodecError`."""
    text, request, nonce, time_ms = _unpack(value, 4)
    return Change(_config(text), request, nonce, time_ms)


def pack_config(config: ShardConfig) -> bytes:
    """The value of `current`."""
    return dumps([FORMAT, config.to_json()])


def unpack_config(value: bytes) -> ShardConfig:
    """Raises `CodecError`."""
    return _config(_unpack(value, 1)[0])


def pack_past(past: Past) -> bytes:
    """The value of `config/<num>`."""
    return dumps([FORMAT, past.config.to_json(), past.request, past.time_ms, past.end_ms])


def unpack_past(value: bytes) -> Past:
    """Raises `CodecError`."""
    text, request, time_ms, end_ms = _unpack(value, 4)
    return Past(_config(text), request, time_ms, end_ms)


def pack_outcome(outcome: Outcome) -> bytes:
    """The value of `request/...`."""
    return dumps([FORMAT, outcome.num, outcome.given_up] if outcome.given_up else [FORMAT, outcome.num])


def unpack_outcome(value: bytes) -> Outcome:
    """Raises `CodecError`."""
    if len(array(loads(value))) == 2:
        return Outcome(unpack_num(value))
    num, why = _unpack(value, 2)
    if type(num) is not int or type(why) is not str:
        raise CodecError(f"no outcome: {num!r:.40}, {why!r:.60}")
    return Outcome(num, why)


def pack_num(num: int) -> bytes:
    """The value of `cleaned`."""
    return dumps([FORMAT, num])


def unpack_num(value: bytes) -> int:
    """Raises `CodecError`."""
    (num,) = _unpack(value, 1)
    if type(num) is not int:
        raise CodecError(f"no number: {num!r:.40}")
    return num


def pack_addresses(addresses: dict[str, str]) -> bytes:
    """The value of `addresses/<gid>`."""
    return dumps([FORMAT, dict(sorted(addresses.items()))])


def unpack_addresses(value: bytes) -> dict[str, str]:
    """Raises `CodecError`."""
    (found,) = _unpack(value, 1)
    if type(found) is not dict or any(type(k) is not str or type(v) is not str for k, v in found.items()):
        raise CodecError(f"no addresses: {found!r:.60}")
    return found
