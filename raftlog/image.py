"""Images of the state machine for a peer that is behind the purge base (section 7).

The sender (`image_sender`) reads one snapshot of its live slot in pieces of bounded size; a piece is found again from
where it began, so any piece can be sent again while the snapshot is open. An image's name is (a number for the sender's
disk and the commit that the snapshot sees, applied position); a transfer goes on where it stopped, within one name only.
The position alone would not do: background work removes rows between two snapshots of one position, and then a piece of
the one does not end where the next piece of the other begins. The receiver stages pieces in small transactions in the
slot that is not live, checks the state hash against the sender's, and installs in the steps of `raftlog.durable`.

A piece's data is CBOR `[state hash, [[table, key, payload], ...]]`. At most one image goes out and one comes in
at a time; each piece is acknowledged before the next is sent.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, Protocol

from raftlog.codec import CodecError, array, dumps, loads
from raftlog.durable import read_applied, read_slot, write_flip, write_intent, write_reset
from raftlog.machine import StateMachine
from raftlog.messages import Envelope, ImageChunk
from raftlog.slots import SlotEngine, SlotReadTxn
from raftlog.types import LogId, Membership, PeerId
from store.engine import Snapshot, Writer, WriteTxn
from store.failpoints import step
from store.keys import u64

PIECE_BYTES = 256 << 10
"""A piece is closed once it holds this many bytes of rows."""
CLEAR_ROWS = 4096
"""How many staged rows one transaction removes."""

CLEAR = step("image.clear", "rows in the slot that is not live are removed")
STAGE = step("image.stage", "a piece of an image")
INTENT = step("image.intent", "an image will be installed")
FLIP = step("image.flip", "an image takes the place of the state")
RESET = step("image.reset", "the log begins at the image")

ImageName = tuple[int, LogId]


class ImageReader:
    """One snapshot in pieces. `txn` is an open read transaction on state/ of the disk that `incarnation` names; whoever
    opened it closes it."""

    def __init__(self, txn: Snapshot, tables: Sequence[str], incarnation: int) -> None:
        self.tables = tables
        self.starts: list[tuple[int, bytes]] = [(0, b"")]  # where each piece begins: (number of the table, key)
        self.at, self.membership, self.state_hash = read_applied(txn)
        content = blake2b(u64(incarnation) + u64(txn.number), digest_size=8)
        self.name: ImageName = (int.from_bytes(content.digest(), "big") >> 1, self.at)
        slot = read_slot(txn)
        self._view = SlotReadTxn(txn, {t: f"{t}@{slot}" for t in tables})

    def reach(self, number: int) -> int:
        """Read up to piece `number` (or the last one) without sending; the number that was reached."""
        while (known := len(self.starts) - 1) < number and not self.piece(known)[1]:
            pass
        return min(number, len(self.starts) - 1)

    def piece(self, number: int) -> tuple[bytes, bool]:
        """(data, whether it is the last). Pieces are first read in order; any earlier one may be read again."""
        table_at, start = self.starts[number]
        rows: list[list[Any]] = []
        size = 0
        for index in range(table_at, len(self.tables)):
            table = self.tables[index]
            for key, payload in self._view.scan(table, start):
                if size >= PIECE_BYTES:
                    if number + 1 == len(self.starts):
                        self.starts.append((index, key))
                    return dumps([self.state_hash, rows]), False
                rows.append([table, key, payload])
                size += len(key) + len(payload)
            start = b""
        return dumps([self.state_hash, rows]), True


def unpack_piece(data: bytes, tables: Sequence[str]) -> tuple[bytes, list[tuple[str, bytes, bytes]]]:
    """(state hash, rows). Raises `CodecError`."""
    state_hash, rows = array(loads(data), 2)
    found = []
    for row in array(rows):
        table, key, payload = array(row, 3)
        if table not in tables or type(key) is not bytes or type(payload) is not bytes:
            raise CodecError(f"no row of an image: {row!r:.80}")
        found.append((table, key, payload))
    return bytes(state_hash), found


def clear_slot(writer: Writer, tables: Sequence[str], slot: int, on_done: Callable[[], Any]) -> None:
    """Remove every row of the slot that is not live, in bounded transactions."""

    def job(txn: WriteTxn) -> bool:
        assert read_slot(txn) != slot, f"slot {slot} is live"
        return any(txn.delete_range(f"{t}@{slot}", b"", None, limit=CLEAR_ROWS) == CLEAR_ROWS for t in tables)

    def done(more: bool) -> None:
        if more:
            writer.submit(job, done, CLEAR)
        else:
            on_done()

    writer.submit(job, done, CLEAR)


class ImageHost(Protocol):
    """What the image machinery needs of its node (implemented by `raftlog.node.Node`)."""

    def has(self, at: LogId) -> bool:
        """The log is committed and durable here up to `at`: the image brings nothing."""
        ...

    def reply(self, to: PeerId, image: ImageName, wanted: int, *, installed: bool = False) -> None:
        """Send an `ImageReply` in the term of now."""
        ...

    def begin_install(self, at: LogId) -> bool:
        """See `RaftCore.begin_install`; also stops flushes until `finish_install`."""
        ...

    def finish_install(self, at: LogId, membership: Membership) -> None:
        """Steps 0 to 2 are durable."""
        ...

    def trouble(self, text: str) -> None:
        """Say one line to whoever runs the peer."""
        ...


class ImageReceiver:
    """The receiving side of one peer. `reply(envelope_to, ImageReply)` and the core are reached through `host`."""

    def __init__(self, host: ImageHost, machine: StateMachine, log: Writer, state: Writer) -> None:
        self.host = host
        self.machine = machine
        self.log = log
        self.state = state
        self.name: ImageName | None = None
        self.wanted = 0
        self.busy = False

    def on_chunk(self, envelope: Envelope) -> None:
        """One piece came. What it leads to goes on through the writers; nothing here blocks."""
        chunk = envelope.message
        assert isinstance(chunk, ImageChunk)
        if self.busy:
            return
        if self.host.has(chunk.image[1]):
            self.host.reply(envelope.sender, chunk.image, chunk.number + 1, installed=True)
            return
        if self.name != chunk.image:
            self._begin(envelope.sender, chunk)
        elif chunk.number == self.wanted and zlib.crc32(chunk.data) == chunk.crc:
            self._stage(envelope.sender, chunk)
        else:
            self.host.reply(envelope.sender, chunk.image, self.wanted)

    def sweep(self) -> None:
        """At a start and after an installation: remove what is in the slot that is not live, the beginning of an image that
        never came to its end or the state before one. Pieces that come meanwhile are sent again."""
        spare = self._spare_slot()
        with spare.read() as txn:
            if all(txn.last(table) is None for table in self.machine.tables):
                return
        self.busy = True

        def swept() -> None:
            self.busy = False

        clear_slot(self.state, self.machine.tables, spare.slot, swept)

    def _spare_slot(self) -> SlotEngine:
        with self.state.engine.read() as txn:
            live = read_slot(txn)
        return SlotEngine(self.state.engine, self.machine.tables, 1 - live)

    def _begin(self, sender: int, chunk: ImageChunk) -> None:
        self.busy = True
        self.name = None

        def cleared() -> None:
            self.busy, self.name, self.wanted = False, chunk.image, 0
            self.host.reply(sender, chunk.image, 0)

        clear_slot(self.state, self.machine.tables, self._spare_slot().slot, cleared)

    def _stage(self, sender: int, chunk: ImageChunk) -> None:
        try:
            state_hash, rows = unpack_piece(chunk.data, self.machine.tables)
        except CodecError:
            self.host.reply(sender, chunk.image, self.wanted)
            return
        self.busy = True
        slot = self._spare_slot()

        def job(txn: WriteTxn) -> None:
            staged = slot.on(txn)
            for table, key, payload in rows:
                staged.put(table, key, payload)

        def done(_: None) -> None:
            self.busy = False
            self.wanted += 1
            if chunk.last:
                self._install(sender, chunk, slot, state_hash)
            else:
                self.host.reply(sender, chunk.image, self.wanted)

        self.state.submit(job, done, STAGE)

    def _install(self, sender: int, chunk: ImageChunk, slot: SlotEngine, state_hash: bytes) -> None:
        name, at, membership = chunk.image, chunk.image[1], chunk.membership
        with slot.read() as txn:
            staged_hash = self.machine.state_hash(txn)
        if staged_hash != state_hash:
            self.host.trouble(f"an image of {at} hashes to {staged_hash.hex()}, its sender has {state_hash.hex()}")
            self.name = None  # stage it anew
            return
        if not self.host.begin_install(at):
            self.name = None
            return
        self.busy = True

        def acknowledge(_: Any) -> None:
            self.busy, self.name = False, None
            self.host.finish_install(at, membership)
            self.host.reply(sender, name, chunk.number + 1, installed=True)
            self.sweep()

        def reset(_: Any) -> None:
            self.log.submit(lambda txn: write_reset(txn, at, membership), acknowledge, RESET)

        def flip(_: Any) -> None:
            self.state.submit(lambda txn: write_flip(txn, slot.slot, at, membership, state_hash), reset, FLIP)

        self.log.submit(lambda txn: write_intent(txn, at, membership), flip, INTENT)
