"""The durable form of a peer: the schema of its two environments and the rules of recovery.

    log/    the sync path                                      state/   written behind: on size, idle, purge, stop
      meta     format  the stamp (store.format)                  meta    format   the stamp
               hard    hard state                                        applied  [log id, membership, state hash]
               base    [log id, membership] last purged                  slot     0 | 1: which tables are live
               boot    number of starts                          T@0 T@1 for each table T of the state machine
               intent  [log id, membership] of an image
      entries  index (u64 BE) -> entry
      journal  0 -> the hard state, again
               number (u64 BE) -> [time_ms, boot, name, term, peer | null]

**The second copy of the hard state** (term, vote, commit, mode, the greatest position ever durable, where the log ends) is
written with the first, in the same transaction: it costs a page more per commit and no sync. It lies in the journal because a
table is a tree of its own, so the two never share a page: a flipped bit, a record or a page gone bad takes one of them. It
is not in state/, for that is written behind, and a vote that is seconds old is worth nothing: state/ would have to be
synced with each save. So what takes all of log/data.mdb takes both copies: then nobody but the group can say what may be
done (`raftlog.replacing`). Where both are readable and differ, a page of an older commit came back: the newer one holds.
Format 1 has neither the copy nor the last two fields; it is read, and written in this format at the first start.

Payloads are the CBOR arrays of `raftlog.codec`, each sealed with a CRC by the engine. What a crash can leave:

* A save is one transaction: hard state, truncation and new entries together, or nothing of them.
* Effects are in `state/` together with `applied`, or not at all; base <= applied <= last is normal, the tail is
  replayed. The purge base moves in the purge transaction, never beyond the durable `applied`.
* Installing an image: (0) `intent` in log/; (1) `slot` and `applied` flip in state/, one transaction; (2) the log's
  base is reset and the intent removed, one transaction; (3) acknowledge. An intent found at start redoes (2) if (1)
  happened, else it is dropped.
* Anything else is corruption. `recover` has log/ mended as far as that is safe (`raftlog.healing`) or raises `CorruptLog`,
  which names it. A state/ that cannot be used raises `StateLost`: give it an empty one and call again. If the log reaches
  back to entry 1 it is replayed; else the peer asks for an image (`Restored.refill`), and keeps its log and its vote.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from raftlog.codec import (
    CodecError,
    array,
    dumps,
    loads,
    pack_entry,
    pack_hard_state,
    pack_log_id,
    pack_membership,
    unpack_entry,
    unpack_hard_state,
    unpack_log_id,
    unpack_membership,
)
from raftlog.saves import Save
from raftlog.types import ZERO, Entry, EntryKind, HardState, LogId, Membership, Mode, PeerId, Restored
from store.engine import CorruptRecord, Engine, ReadTxn, StoreError, WriteTxn
from store.failpoints import step
from store.format import owner_of, upgrade_stamp

START = step("start", "the number of the boot")
REDO = step("start.redo", "an installation that was interrupted")
MEND = step("start.mend", "a damaged log is mended")

LOG_TABLES = ("meta", "entries", "journal")
JOURNAL_MAX = 4096
"""How many journal records a peer keeps."""

HARD_COPY = bytes(8)
"""The key of the second copy of the hard state, in the journal: record 0."""

EMPTY = Membership(())
"""The membership before entry 1."""


class CorruptLog(StoreError):
    """The directories of a peer contradict themselves; the text names the records. Nothing was changed."""


class PromisesLost(CorruptLog):
    """Both copies of the hard state are unreadable: what the peer promised is unknown. It may come back as recovering
    only, by what its group can prove (`raftlog.replacing`)."""


class StateLost(StoreError):
    """state/ cannot be used. It holds no promise: put an empty one in its place and start again."""


@dataclass(frozen=True, slots=True)
class JournalRecord:
    """One line of a peer's history: starts, stops, roles, votes. `time_ms` is wall time; `owner` the incarnation of the peer
    that wrote it, by its stamp, for a line of another peer's is as whole as one of its own."""

    time_ms: int
    boot: int
    name: str
    term: int
    peer: PeerId | None
    owner: int | None = None


def state_tables(machine_tables: Sequence[str]) -> tuple[str, ...]:
    """The physical tables of state/: meta and two slots of each machine table."""
    return ("meta", *(f"{t}@{slot}" for slot in (0, 1) for t in machine_tables))


def index_key(index: int) -> bytes:
    """Big-endian, so that byte order is index order."""
    return index.to_bytes(8, "big")


# --- bootstrap ---------------------------------------------------------------------------------------------------


def bootstrap_entry(membership: Membership) -> Entry:
    """Entry 1 of every group, byte-identical on all its peers."""
    return Entry(LogId(1, 1), EntryKind.MEMBERSHIP, dumps(pack_membership(membership)))


def fill_log(txn: WriteTxn, membership: Membership) -> None:
    """The contents of a new voting peer's log/ (explicit bootstrap only)."""
    write_hard(txn, HardState(term=1, vote=None, commit=1))
    write_base(txn, ZERO, EMPTY)
    txn.put("meta", b"boot", dumps(0))
    append_entries(txn, [bootstrap_entry(membership)])


def fill_log_recovering(txn: WriteTxn, recover_to: LogId) -> None:
    """The contents of log/ for a peer whose disk was lost: it takes the log but counts for nothing."""
    write_hard(txn, HardState(mode=Mode.RECOVERING, recover_to=recover_to))
    write_base(txn, ZERO, EMPTY)
    txn.put("meta", b"boot", dumps(0))


def fill_state(txn: WriteTxn) -> None:
    """The contents of a new peer's state/."""
    write_applied(txn, ZERO, EMPTY, b"")
    txn.put("meta", b"slot", dumps(0))


# --- records -----------------------------------------------------------------------------------------------------


def _read(txn: ReadTxn, key: bytes) -> Any:
    payload = txn.get("meta", key)
    if payload is None:
        raise CorruptLog(f"record meta/{key.decode()} is missing")
    try:
        return loads(payload)
    except CodecError as error:
        raise CorruptRecord("meta", key, str(error)) from error


def write_hard(txn: WriteTxn, hard: HardState) -> None:
    """Store the hard state, both copies."""
    payload = dumps(pack_hard_state(hard))
    txn.put("meta", b"hard", payload)
    txn.put("journal", HARD_COPY, payload)


def hard_copies(txn: ReadTxn) -> tuple[list[HardState], list[CorruptRecord]]:
    """The copies that can be read, and what is wrong with the others. Format 1 has one copy."""
    found, wrong = [], []
    for table, key in (("meta", b"hard"), ("journal", HARD_COPY)):
        try:
            payload = txn.get(table, key)
            if payload is not None:
                found.append(unpack_hard_state(loads(payload)))
        except CodecError as error:
            wrong.append(CorruptRecord(table, key, str(error)))
        except CorruptRecord as error:
            wrong.append(error)
    if len(found) == 2 and found[0] != found[1]:
        wrong.append(CorruptRecord("meta", b"hard", "its two copies differ"))
    return found, wrong


def read_hard(txn: ReadTxn) -> HardState:
    """The stored hard state: what its copies say together. Raises `PromisesLost` if none can be read."""
    found, wrong = hard_copies(txn)
    if not found:
        why = wrong[0].why if wrong else "missing"
        raise PromisesLost(f"record meta/hard, the hard state, and its copy are unreadable ({why})")
    newest = max(found, key=lambda hard: (hard.term, hard.vote is not None, hard.highest, hard.commit))
    if len(found) == 1:
        return newest
    recovering = any(hard.mode is Mode.RECOVERING for hard in found)
    return replace(
        newest,
        commit=max(hard.commit for hard in found),
        mode=Mode.RECOVERING if recovering else Mode.VOTER,
        recover_to=max(hard.recover_to for hard in found),
        highest=max(hard.highest for hard in found),
    )


def write_base(txn: WriteTxn, base: LogId, membership: Membership) -> None:
    """Store the purge base and the membership as of it."""
    txn.put("meta", b"base", dumps([pack_log_id(base), pack_membership(membership)]))


def read_base(txn: ReadTxn) -> tuple[LogId, Membership]:
    """The stored purge base."""
    base, membership = array(_read(txn, b"base"), 2)
    return unpack_log_id(base), unpack_membership(membership)


def read_boot(txn: ReadTxn) -> int:
    """How often the peer was started."""
    boot = _read(txn, b"boot")
    if type(boot) is not int:
        raise CorruptRecord("meta", b"boot", f"not a number: {boot!r:.40}")
    return boot


def write_applied(txn: WriteTxn, applied: LogId, membership: Membership, state_hash: bytes) -> None:
    """Store the applied position; always in the transaction of the effects it covers."""
    txn.put("meta", b"applied", dumps([pack_log_id(applied), pack_membership(membership), state_hash]))


def read_applied(txn: ReadTxn) -> tuple[LogId, Membership, bytes]:
    """The stored applied position, the membership as of it, and the state hash at it."""
    applied, membership, state_hash = array(_read(txn, b"applied"), 3)
    return unpack_log_id(applied), unpack_membership(membership), bytes(state_hash)


def read_slot(txn: ReadTxn) -> int:
    """Which slot of tables is live."""
    slot = _read(txn, b"slot")
    if slot not in (0, 1):
        raise CorruptRecord("meta", b"slot", f"neither 0 nor 1: {slot!r:.40}")
    return int(slot)


def read_intent(txn: ReadTxn) -> tuple[LogId, Membership] | None:
    """The image whose installation was begun, if any."""
    if txn.get("meta", b"intent") is None:
        return None
    at, membership = array(_read(txn, b"intent"), 2)
    return unpack_log_id(at), unpack_membership(membership)


def read_entries(txn: ReadTxn, first: int = 0, last: int | None = None) -> Iterator[Entry]:
    """The stored entries first..last in index order. Raises `CorruptRecord` / `CorruptLog` at the first wrong one."""
    stop = None if last is None else index_key(last + 1)
    for key, payload in txn.scan("entries", index_key(first), stop):
        try:
            entry = unpack_entry(loads(payload))
        except CodecError as error:
            raise CorruptRecord("entries", key, str(error)) from error
        if index_key(entry.id.index) != key:
            raise CorruptLog(f"record entries/{int.from_bytes(key, 'big')} holds entry {entry.id.index}")
        yield entry


def read_journal(txn: ReadTxn) -> Iterator[JournalRecord]:
    """The journal, oldest first."""
    for key, payload in txn.scan("journal", index_key(1)):
        try:
            row = array(loads(payload))
            time_ms, boot, name, term, peer, owner = array([*row, None] if len(row) == 5 else row, 6)
        except CodecError as error:
            raise CorruptRecord("journal", key, str(error)) from error
        yield JournalRecord(time_ms, boot, name, term, peer, owner)


# --- writes ------------------------------------------------------------------------------------------------------


def append_entries(txn: WriteTxn, entries: Sequence[Entry], *, append: bool = True) -> None:
    """Append after the last stored entry; the engine refuses a key that is not the greatest. Without `append` put them
    anywhere."""
    for entry in entries:
        txn.put("entries", index_key(entry.id.index), dumps(pack_entry(entry)), append=append)


def write_save(txn: WriteTxn, save: Save, journal: Sequence[JournalRecord]) -> None:
    """A save of the core, with the journal records that wait for a ride."""
    write_hard(txn, save.hard)
    if save.first is not None:
        txn.delete_range("entries", index_key(save.first), None)
        append_entries(txn, save.entries)
        if save.entries:
            last = txn.last("entries")
            assert last is not None and last[0] == index_key(save.entries[-1].id.index), f"last key {last}"
    write_journal(txn, journal)


def write_journal(txn: WriteTxn, records: Sequence[JournalRecord]) -> None:
    """Append to the journal and drop its oldest records beyond the bound."""
    if not records:
        return
    number = _journal_end(txn)
    owner = owner_of(txn)
    for record in records:
        number += 1
        row = [record.time_ms, record.boot, record.name, record.term, record.peer]
        if owner is not None:
            row.append(owner)
        txn.put("journal", index_key(number), dumps(row), append=True)
    if number > JOURNAL_MAX:
        txn.delete_range("journal", index_key(1), index_key(number - JOURNAL_MAX + 1))


def _journal_end(txn: ReadTxn) -> int:
    """The number of the last record, whatever is in it: a damaged line of history stops no save."""
    try:
        last = txn.last("journal", index_key(1))
    except CorruptRecord as error:
        return int.from_bytes(error.key, "big")
    return int.from_bytes(last[0], "big") if last else 0


def write_purge(txn: WriteTxn, base: LogId, membership: Membership) -> None:
    """Remove the entries at or below `base`, which becomes the purge base in the same transaction."""
    write_base(txn, base, membership)
    txn.delete_range("entries", b"", index_key(base.index + 1))


def write_intent(txn: WriteTxn, at: LogId, membership: Membership) -> None:
    """Step 0 of an installation."""
    txn.put("meta", b"intent", dumps([pack_log_id(at), pack_membership(membership)]))


def write_flip(txn: WriteTxn, slot: int, at: LogId, membership: Membership, state_hash: bytes) -> None:
    """Step 1 of an installation, in state/: the staged slot becomes the live one."""
    txn.put("meta", b"slot", dumps(slot))
    write_applied(txn, at, membership, state_hash)


def write_reset(txn: WriteTxn, at: LogId, membership: Membership) -> bool:
    """Step 2 of an installation: the base moves to the image; the suffix stays only if it follows the image, by index *and*
    term: behind an entry, or behind a base that is there already (of a peer that has lost its state and not its log)."""
    try:
        base, _ = read_base(txn)
        payload = txn.get("entries", index_key(at.index))
    except CorruptRecord as error:
        raise CorruptLog(str(error)) from error  # for a running peer a `CorruptRecord` is state/'s
    kept = payload is not None and unpack_entry(loads(payload)).id == at
    kept = kept or base == at
    write_base(txn, at, membership)
    txn.delete_range("entries", b"", index_key(at.index + 1) if kept else None)
    txn.delete("meta", b"intent")
    hard = read_hard(txn)
    ends = hard.ends if kept else at
    write_hard(txn, replace(hard, ends=ends, highest=max(hard.highest, at)))
    return kept


# --- recovery ----------------------------------------------------------------------------------------------------


def recover(log: Engine, state: Engine, time_ms: int) -> Restored:
    """What the peer's directories say, checked, after finishing or dropping an interrupted installation and mending what
    can be mended.

    Counts the start (durably) and writes it into the journal. Raises `StateLost`, or `CorruptLog` for what cannot be
    mended; then nothing was changed but perhaps a finished installation.
    """
    applied = _stored_state(state)
    _finish_installation(log, applied)
    notes: list[str] = []
    try:
        restored = _restored(log, applied)
    except (CorruptLog, CorruptRecord, CodecError) as problem:
        notes = _mend(log, applied, problem)
        try:
            restored = _restored(log, applied)
        except (CorruptRecord, CodecError) as error:
            raise CorruptLog(f"log/ cannot be mended: {error}") from error
    with log.read() as txn:
        clean = _ended_well(txn)
    boot = restored.boot + 1
    last = restored.entries[-1].id if restored.entries else restored.base
    hard = replace(restored.hard, ends=last, highest=max(restored.hard.highest, last))
    with log.write() as wtxn:
        START.begin.reach()
        upgrade_stamp(wtxn)
        wtxn.put("meta", b"boot", dumps(boot))
        write_hard(wtxn, hard)
        told = [JournalRecord(time_ms, boot, f"mended: {note:.200}", hard.term, None) for note in notes]
        write_journal(wtxn, [JournalRecord(time_ms, boot, "start", hard.term, None), *told])
        START.commit.reach()
    START.done.reach()
    return replace(restored, hard=hard, boot=boot, clean=clean, mended=tuple(notes))


def _stored_state(state: Engine) -> tuple[LogId, Membership]:
    try:
        with state.read() as txn:
            read_slot(txn)
            return read_applied(txn)[:2]
    except (CorruptLog, CorruptRecord, CodecError) as error:
        raise StateLost(f"state/ cannot be used: {error}") from error


def _finish_installation(log: Engine, applied: tuple[LogId, Membership]) -> None:
    try:
        with log.read() as txn:
            intent = read_intent(txn)
        if intent is None:
            return
        with log.write() as wtxn:
            REDO.begin.reach()
            if intent[0] == applied[0]:
                write_reset(wtxn, *intent)
            else:
                wtxn.delete("meta", b"intent")
            REDO.commit.reach()
        REDO.done.reach()
    except (CorruptLog, CorruptRecord, CodecError):
        pass  # what is damaged is found again, and mended with the rest


def _mend(log: Engine, applied: tuple[LogId, Membership], problem: Exception) -> list[str]:
    from raftlog.healing import mend  # which is made of the parts of this module

    with log.write() as txn:
        MEND.begin.reach()
        notes = mend(txn, applied if applied[0] != ZERO else None)
        MEND.commit.reach()
    MEND.done.reach()
    return notes or [str(problem)]


def _restored(log: Engine, applied: tuple[LogId, Membership]) -> Restored:
    with log.read() as txn:
        restored = restore(txn, applied[0])
        if wrong := hard_copies(txn)[1]:
            raise wrong[0]
    return restored


def _ended_well(txn: ReadTxn) -> bool:
    """The last thing that the journal tells is that the peer stopped, or it never ran."""
    try:
        last = txn.last("journal", index_key(1))
        return last is None or array(loads(last[1]), 5)[2] == "stop"
    except (CorruptRecord, CodecError):
        return False


def restore(txn: ReadTxn, applied: LogId) -> Restored:
    """Read and check log/ against the applied position of state/. Changes nothing. Raises `StateLost` if state/ is older
    than the log begins."""
    hard = read_hard(txn)
    base, membership = read_base(txn)
    entries = tuple(read_entries(txn))
    last = base
    for entry in entries:
        if entry.id.index != last.index + 1 or entry.id.term < last.term:
            raise CorruptLog(f"entry {entry.id} does not follow {last}")
        last = entry.id
    ends = base if hard.ends.index <= base.index else hard.ends
    if ends.index > last.index or (ends != base and entries[ends.index - base.index - 1].id != ends):
        raise CorruptLog(f"the log ends at {last}, it had reached {hard.ends}")
    if applied != ZERO and applied.index < base.index:
        raise StateLost(f"state/ is of {applied}, the log begins behind {base}")
    refill = applied == ZERO != base
    if refill:
        applied = base
    if not base.index <= applied.index <= last.index:
        raise CorruptLog(f"applied {applied} is not between the purge base {base} and the last entry {last}")
    stored = base if applied.index == base.index else entries[applied.index - base.index - 1].id
    if stored != applied:
        raise CorruptLog(f"applied {applied}, but the log has {stored} there")
    if hard.commit > last.index:
        raise CorruptLog(f"commit {hard.commit} is past the last entry {last}")
    return Restored(hard, base, membership, entries, applied, read_boot(txn), refill=refill)
