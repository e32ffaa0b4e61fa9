"""Keys in byte order: big-endian numbers and the ends of ranges."""

from __future__ import annotations


def u16(value: int) -> bytes:
    """2 bytes, big-endian."""
    return value.to_bytes(2, "big")


def u32(value: int) -> bytes:
    """4 bytes, big-endian."""
    return value.to_bytes(4, "big")


def u64(value: int) -> bytes:
    """8 bytes, big-endian."""
    return value.to_bytes(8, "big")


def prefix_stop(prefix: bytes) -> bytes | None:
    """The smallest key greater than every key with this prefix; None if there is none (empty or all 0xff)."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None
