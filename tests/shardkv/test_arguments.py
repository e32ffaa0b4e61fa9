"""What callers pass to the client API, right and wrong."""

from __future__ import annotations

from typing import Any

import pytest

from shardkv.arguments import key_bytes, value_bytes, version_number
from shardkv.errors import Refused


def test_keys_and_values_of_every_kind() -> None:
    assert key_bytes("ä" * 200) == "ä".encode() * 200
    assert key_bytes(b"") == b"" and key_bytes(bytearray(b"ab")) == b"ab"
    assert value_bytes(memoryview(b"abc")[1:]) == b"bc" and type(value_bytes(bytearray(1))) is bytes
    assert version_number(None) is None and version_number(0) == 0


@pytest.mark.parametrize("key", ["x" * 401, b"x" * 401, "ä" * 200 + "x", "\udc80"])
def test_a_key_over_the_limit_is_refused(key: Any) -> None:
    with pytest.raises(Refused, match=r"at most 400|no UTF-8"):
        key_bytes(key)


def test_a_value_over_the_limit_is_refused() -> None:
    with pytest.raises(Refused, match="a value of 1048577 bytes; at most 1048576"):
        value_bytes(bytes((1 << 20) + 1))


@pytest.mark.parametrize("given", [None, 5, 1.5, ["a"]])
def test_another_type_is_a_type_error(given: Any) -> None:
    with pytest.raises(TypeError, match="a key is str or bytes, not"):
        key_bytes(given)
    with pytest.raises(TypeError, match="a value is bytes, not"):
        value_bytes(given)


def test_a_str_is_no_value_and_a_bool_no_version() -> None:
    with pytest.raises(TypeError, match="a value is bytes, not 'text'"):
        value_bytes("text")
    with pytest.raises(TypeError, match="a version is an int or None"):
        version_number(True)
    with pytest.raises(Refused, match="a version"):
        version_number(-1)
