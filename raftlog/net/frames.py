"""Frames: what goes over a connection. Pure bytes in, values out; no socket.

A frame is a length, 4 bytes big-endian, and that many bytes of one CBOR array. The length is checked before anything is
allocated. The first frame each way is a handshake:

    client -> server   [magic, protocol, kind, cluster id, gid, sender, incarnation, to]
    server -> client   [magic, protocol, True, ""]  or  [magic, protocol, False, reason] and the end

Then, by kind of connection:

    PEER     one way   [message, ...]                        messages of `codec`, from `sender` to `to`
    CLIENT   requests  [[call id, method, [arg, ...]], ...]
             replies   [[call id, body], ...]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import cbor2

from raftlog.codec import MAX_INT, CodecError, array, decode_message, dumps, encode_message, loads, shown
from raftlog.messages import Message

MAGIC = b"SKVR"
PROTOCOL = 2
"""1 had no `refill` in a heartbeat's answer, and no `StateHash`."""
MAX_FRAME_BYTES = 8 << 20
"""The longest frame, in bytes, without its length. Above the largest append and the largest page."""
MAX_HANDSHAKE_BYTES = 512
MAX_ITEM_BYTES = MAX_FRAME_BYTES - 16
"""The longest message, request or reply: it must fit into a frame of its own."""
BATCH_BYTES = 4 << 20
"""A batch is cut into frames of about this size."""
BATCH_ITEMS = 4096
"""The most items of a frame. Without it 8 MiB of the smallest requests would hold up a server for a second."""


class FrameError(CodecError):
    """The connection speaks no such protocol; close it."""


class WrongProtocol(FrameError):
    """A handshake of ours, of another version: it deserves an answer."""


class Kind(IntEnum):
    """What a connection is for."""

    PEER = 1
    CLIENT = 2


@dataclass(frozen=True, slots=True)
class Hello:
    """Who calls, and whom it means to reach. A client may leave the cluster id empty: it takes any."""

    kind: Kind
    cluster: bytes = b""
    gid: int = 0
    sender: int = 0
    incarnation: int = 0
    to: int = 0

    def encode(self) -> bytes:
        """As a frame."""
        row = [MAGIC, PROTOCOL, int(self.kind), self.cluster, self.gid, self.sender, self.incarnation, self.to]
        return frame(dumps(row))


def decode_hello(body: bytes) -> Hello:
    """Raises `FrameError`, `WrongProtocol` if only the version is not ours."""
    row = _handshake(body, 8)
    kind, cluster, gid, sender, incarnation, to = row[2:]
    numbers = (kind, gid, sender, incarnation, to)
    if type(cluster) is not bytes or any(type(n) is not int or not 0 <= n < MAX_INT for n in numbers):
        raise FrameError("no handshake: a field has the wrong type or range")
    if kind not in (1, 2):
        raise FrameError(f"no handshake: unknown kind of connection {kind}")
    return Hello(Kind(kind), cluster, gid, sender, incarnation, to)


def encode_welcome(reason: str = "") -> bytes:
    """The server's answer, as a frame; with a reason it is a refusal."""
    return frame(dumps([MAGIC, PROTOCOL, not reason, reason[:200]]))


def decode_welcome(body: bytes) -> str:
    """The reason of a refusal, "" for welcome. Raises `FrameError`."""
    accepted, reason = _handshake(body, 4)[2:]
    if type(accepted) is not bool or type(reason) is not str:
        raise FrameError("no answer to a handshake")
    return "" if accepted else reason or "refused"


def _handshake(body: bytes, length: int) -> list[Any]:
    try:
        row = array(loads(body))
    except CodecError as error:
        raise FrameError(f"no handshake: {error}") from error
    if row[:1] != [MAGIC]:
        raise FrameError("no handshake of shardkv")
    if row[1:2] != [PROTOCOL]:
        raise WrongProtocol(f"protocol {shown(row[1]) if row[1:] else 'unknown'}, this is {PROTOCOL}")
    if len(row) != length:
        raise FrameError(f"a handshake of {len(row)} fields, not {length}")
    return row


def frame(body: bytes) -> bytes:
    """The body with its length in front."""
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {len(body)} bytes; at most {MAX_FRAME_BYTES}")
    return len(body).to_bytes(4, "big") + body


class Deframer:
    """Cuts a stream into frames. Between calls it holds at most one unfinished frame, never more than its limit."""

    def __init__(self, limit_bytes: int = MAX_FRAME_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self._buffer = bytearray()
        self._wanted = 4  # with fewer bytes than this in the buffer there is no frame

    def feed(self, data: bytes) -> list[bytes]:
        """The bodies that `data` completes. Raises `FrameError` at a length over the limit."""
        buffer = self._buffer
        bodies: list[bytes] = []
        if buffer:
            buffer += data
            if len(buffer) < self._wanted:
                return bodies
            with memoryview(buffer) as view:  # a long frame is copied once
                if self._wanted > 4:
                    bodies.append(bytes(view[4 : self._wanted]))
                data = bytes(view[self._wanted if bodies else 0 :])
            buffer.clear()
        at, end = 0, len(data)
        self._wanted = 4
        while end - at >= 4:
            length = int.from_bytes(data[at : at + 4], "big")
            if length > self.limit_bytes:
                raise FrameError(f"a frame of {length} bytes; at most {self.limit_bytes}")
            if end - at - 4 < length:
                self._wanted = 4 + length
                break
            bodies.append(data[at + 4 : at + 4 + length])
            at += 4 + length
        if at < end:
            buffer += data[at:]
        return bodies


# --- peers -----------------------------------------------------------------------------------------------------------


def _head(major: int, length: int) -> bytes:
    """The head of a CBOR array (major type 4) of this many items."""
    if length < 24:
        return bytes([major << 5 | length])
    if length < 256:
        return bytes([major << 5 | 24, length])
    return bytes([major << 5 | 26]) + length.to_bytes(4, "big")


def encode_message_bytes(message: Message) -> bytes:
    """One message; encode it once and queue it for every peer that gets it."""
    return dumps(encode_message(message))


def encode_batch(encoded: Sequence[bytes]) -> list[bytes]:
    """Frames that hold these encoded messages, requests or replies, in order. Each is at most `MAX_ITEM_BYTES`."""
    frames = []
    batch: list[bytes] = []
    size = 0
    for item in encoded:
        if batch and (size + len(item) > BATCH_BYTES or len(batch) == BATCH_ITEMS):
            frames.append(_batch_frame(batch, size))
            batch, size = [], 0
        batch.append(item)
        size += len(item)
    if batch:
        frames.append(_batch_frame(batch, size))
    return frames


def _batch_frame(batch: list[bytes], size: int) -> bytes:
    head = _head(4, len(batch))
    length = len(head) + size
    if length > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {length} bytes; at most {MAX_FRAME_BYTES}")
    return b"".join((length.to_bytes(4, "big"), head, *batch))


encode_messages = encode_batch


def _items(body: bytes) -> list[Any]:
    items = array(loads(body))
    if len(items) > BATCH_ITEMS:
        raise FrameError(f"a frame of {len(items)} items; at most {BATCH_ITEMS}")
    return items


def decode_messages(body: bytes) -> list[Message]:
    """The messages of a frame. Raises `CodecError`."""
    return [decode_message(item) for item in _items(body)]


# --- clients ---------------------------------------------------------------------------------------------------------


def encode_request(call: int, method: int, args: list[Any]) -> bytes:
    """One request. Raises `CodecError` for what CBOR can't hold or a frame can't."""
    return _checked([call, method, args])


def encode_reply(call: int, body: Any) -> bytes:
    """One reply."""
    return _checked([call, body])


def _checked(row: list[Any]) -> bytes:
    try:
        encoded = dumps(row)
    except (cbor2.CBOREncodeError, TypeError, ValueError) as error:
        raise CodecError(f"not CBOR: {error}") from error
    if len(encoded) > MAX_ITEM_BYTES:
        raise CodecError(f"{len(encoded)} bytes; a frame holds {MAX_ITEM_BYTES}")
    return encoded


def decode_requests(body: bytes) -> list[tuple[int, int, list[Any]]]:
    """(call id, method, args) of each request of a frame. Raises `CodecError`."""
    found = []
    for item in _items(body):
        call, method, args = array(item, 3)
        if type(call) is not int or type(method) is not int:
            raise CodecError(f"no request: number {shown(call)}, method {shown(method)}")
        found.append((call, method, array(args)))
    return found


def decode_replies(body: bytes) -> list[tuple[int, Any]]:
    """(call id, body) of each reply of a frame. Raises `CodecError`."""
    found = []
    for item in _items(body):
        call, reply = array(item, 2)
        if type(call) is not int:
            raise CodecError(f"no reply: number {shown(call)}")
        found.append((call, reply))
    return found
