"""Mending log/ at a start: what can be told from the rest is put right, what was lost is owed to the group.

Found damaged, and what becomes of it (`applied` is the position of a sound state/):

    hard state, one copy   the other one holds; both are written again
    hard state, both       `PromisesLost`: whom the peer voted for is unknown. Nothing here is changed
    base                   the log begins behind `applied`, whose membership is stored with it
    intent                 dropped, or finished if `applied` is not in the log: then the image had taken its place
    boot                   counted on from the journal
    an entry at or below `applied`      the log begins behind `applied`: the state holds what the entries did
    an entry above, or a missing end    the log ends before it, and the peer is `recovering` up to the greatest position
                                        that was ever durable here

The last line is the one that costs. Whatever this peer acknowledged is at or below `HardState.highest`, term and vote are
known, and until its log reaches there again it neither votes, campaigns nor counts: so nobody is elected with its help
who lacks an entry that was committed with its help. `ends` tells an end that is missing without a trace.

All is one transaction. A peer that is alone in its group has nobody to get entries from: it refuses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from raftlog.codec import CodecError, dumps, loads, unpack_entry, unpack_membership
from raftlog.durable import (
    EMPTY,
    CorruptLog,
    hard_copies,
    index_key,
    read_base,
    read_boot,
    read_hard,
    read_intent,
    read_journal,
    write_base,
    write_hard,
)
from raftlog.types import ZERO, Entry, EntryKind, HardState, LogId, Membership, Mode
from store.engine import CorruptRecord, ReadTxn, StoreError, WriteTxn

Base = tuple[LogId, Membership]


@dataclass(frozen=True, slots=True)
class Finding:
    """A record that fails its check. `key` as it is stored."""

    table: str
    key: bytes
    why: str

    def __str__(self) -> str:
        shown = str(int.from_bytes(self.key, "big")) if self.table in ("entries", "journal") else self.key.decode()
        return f"log/{self.table}, record {shown}: {self.why}"


@dataclass
class _Entries:
    """The log as far as it can be read: positions by index, and what cannot be read."""

    good: dict[int, Entry]
    bad: list[Finding]
    last: int


def mend(txn: WriteTxn, applied: Base | None) -> list[str]:
    """Put log/ right; `applied` is None where there is no state. What was wrong, a line each. Raises `CorruptLog` for
    what cannot be mended; then the transaction is to be given up."""
    notes = [str(finding) for finding in _meta(txn)]
    hard = read_hard(txn)
    found = _read_entries(txn)
    notes += [str(finding) for finding in found.bad]
    base = _base(txn, found, applied)
    last = _end_of_run(found, base[0])
    reached = max(found.last, hard.ends.index)
    if last.index < reached:
        if not found.bad:
            notes.append(f"log/entries ends at {last.index}, it had reached {reached}")
        hard = _owing(hard, found)
        _not_alone(found, base, last)
    _write(txn, base, last, replace(hard, commit=max(base[0].index, min(hard.commit, last.index)), ends=last))
    return notes


def _meta(txn: WriteTxn) -> Iterator[Finding]:
    """Deal with what stands alone; yields what was wrong."""
    for error in hard_copies(txn)[1]:
        yield Finding(error.table, error.key, error.why)
    try:
        read_boot(txn)
    except StoreError as error:
        boots = []
        with suppress(StoreError):  # the journal is told of when it is looked at for its own sake
            boots = [record.boot for record in read_journal(txn)]
        txn.put("meta", b"boot", dumps(max(boots, default=1)))
        yield Finding("meta", b"boot", _why(error))


def _why(error: Exception) -> str:
    return error.why if isinstance(error, CorruptRecord) else str(error)


def _read_entries(txn: ReadTxn) -> _Entries:
    found = _Entries({}, [], 0)
    start: bytes | None = b""
    while start is not None:
        start = _walk(txn, start, found)
    return found


def _walk(txn: ReadTxn, start: bytes, found: _Entries) -> bytes | None:
    """Read on from `start`; where to go on behind a bad record, None at the end."""
    try:
        for key, payload in txn.scan("entries", start):
            index = found.last = int.from_bytes(key, "big")
            try:
                entry = unpack_entry(loads(payload))
            except CodecError as error:
                found.bad.append(Finding("entries", key, str(error)))
                continue
            if entry.index == index:
                found.good[index] = entry
            else:
                found.bad.append(Finding("entries", key, f"holds entry {entry.index}"))
    except CorruptRecord as error:
        found.last = int.from_bytes(error.key, "big")
        found.bad.append(Finding("entries", error.key, error.why))
        return error.key + b"\0"
    return None


# --- where the log begins ------------------------------------------------------------------------------------------


def _base(txn: WriteTxn, found: _Entries, applied: Base | None) -> Base:
    """The base that the log has from now on."""
    try:
        intent, torn = read_intent(txn), False
    except (StoreError, CodecError):
        intent, torn = None, True
    txn.delete("meta", b"intent")
    try:
        base: Base | None = read_base(txn)
    except (StoreError, CodecError):
        base = None
    if applied is None:
        return _base_without_state(base)
    at = applied[0]
    there = found.good.get(at.index)
    if intent is not None and intent[0] == at:
        return applied
    if there is not None and there.id != at:
        if torn:
            return applied
        raise CorruptLog(f"applied {at}, but the log has {there.id} there")
    if base is not None and base[0].index > at.index:
        raise CorruptLog(f"applied {at} is below the purge base {base[0]}")
    if base is not None and (base[0] == at or (there is not None and _end_of_run(found, base[0]).index >= at.index)):
        return base
    reached = max(found.last, read_hard(txn).ends.index)
    if at.index > reached and not torn:
        raise CorruptLog(f"applied {at} is past {reached}, the end of the log: log/ is older than state/")
    return applied


def _base_without_state(base: Base | None) -> Base:
    """Without a base the log begins at its first entry, or nowhere: then it is emptied."""
    return (ZERO, EMPTY) if base is None else base


# --- where it ends -------------------------------------------------------------------------------------------------


def _end_of_run(found: _Entries, base: LogId) -> LogId:
    last = base
    while (entry := found.good.get(last.index + 1)) is not None and entry.term >= last.term:
        last = entry.id
    return last


def _owing(hard: HardState, found: _Entries) -> HardState:
    """Recovering up to the greatest position that was ever durable."""
    known = max((entry.id for entry in found.good.values()), default=ZERO)
    to = max(hard.highest, hard.ends, known, hard.recover_to)
    if hard.highest == ZERO:  # format 1 did not say
        to = max(to, LogId(hard.term, found.last))
    return replace(hard, mode=Mode.RECOVERING, recover_to=to, highest=to)


def _not_alone(found: _Entries, base: Base, last: LogId) -> None:
    membership = base[1]
    for index in range(base[0].index + 1, last.index + 1):
        if found.good[index].kind is EntryKind.MEMBERSHIP:
            membership = unpack_membership(loads(found.good[index].data))
    if len(membership.peers) == 1:
        raise CorruptLog(
            f"{found.bad[0] if found.bad else 'the end of the log is missing'}; nobody else has its entries"
        )


def _write(txn: WriteTxn, base: Base, last: LogId, hard: HardState) -> None:
    write_base(txn, *base)
    txn.delete_range("entries", b"", index_key(base[0].index + 1))
    txn.delete_range("entries", index_key(last.index + 1), None)
    write_hard(txn, hard)
