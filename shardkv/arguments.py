"""What a caller of the client API passes, checked before anything is sent: `TypeError` for another type, `Refused` for
what is over a limit. The servers check again."""

from __future__ import annotations

from typing import Any

from raftlog.codec import CodecError
from shardkv.commands import checked_int, checked_key, checked_value
from shardkv.errors import Refused

MAX_VERSION = (1 << 64) - 1


def key_bytes(key: Any) -> bytes:
    """A key as bytes: a str as UTF-8, any bytes-like object as it is."""
    if isinstance(key, str):
        try:
            key = key.encode()
        except UnicodeEncodeError as error:
            raise Refused(f"a key that is no UTF-8: {error.reason}") from error
    return _checked(checked_key, _plain("key", key))


def value_bytes(value: Any) -> bytes:
    """A value: any bytes-like object. A str is none, since only its writer knows its encoding."""
    return _checked(checked_value, _plain("value", value))


def version_number(version: Any) -> int | None:
    """A version to compare with, None for none."""
    if version is None:
        return None
    if type(version) is not int:
        raise TypeError(f"a version is an int or None, not {version!r:.60}")
    try:
        return checked_int(version, 0, MAX_VERSION, "a version")
    except CodecError as error:
        raise Refused(str(error)) from error


def row_limit(limit: Any) -> int | None:
    """How many rows a scan may give, None for all."""
    if limit is not None and (type(limit) is not int or limit < 0):
        raise TypeError(f"the limit of a scan is an int of 0 or more, or None, not {limit!r:.60}")
    return None if limit is None else int(limit)


def _plain(what: str, given: Any) -> bytes:
    if isinstance(given, bytes):
        return bytes(given)
    if isinstance(given, bytearray | memoryview):
        return bytes(given)
    raise TypeError(f"a {what} is {'str or ' if what == 'key' else ''}bytes, not {given!r:.60}")


def _checked(check: Any, raw: bytes) -> bytes:
    try:
        checked: bytes = check(raw)
    except CodecError as error:
        raise Refused(str(error)) from error
    return checked
