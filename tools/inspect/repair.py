"""Salvage of a damaged peer's directory, into a new one only.

What loses nothing is done at once: pages that nothing points to, an intent that the next start would end or drop, the
slot of state/ that is not the live one. All else needs `unsafe`: every durable entry is possibly committed, so the log is
cut, or the state dropped, only with the mode `recovering`, in which the peer neither campaigns, votes nor counts until it
holds `recover_to` again. Three ways, the first that verifies:

    cut       the state is whole: the entries from the first bad one on go (those at or below `applied` are in the state)
    replay    the state is not, the log is whole from entry 1 on: the state is emptied, the log makes it again
    empty     neither: term, vote and journal stay, the rest comes from the leader's image

The hard state is never made up: with the term or the vote unknown no mode is safe. `recover_to` is the last entry that
was there; if its term cannot be read, the term of the hard state at its index; if the end of the log cannot be known, an
entry of a later term than any this peer has seen, since its leader was elected without this peer's vote.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from raftlog.codec import CodecError, dumps, loads, unpack_entry
from raftlog.durable import (
    EMPTY,
    JournalRecord,
    fill_state,
    read_applied,
    read_base,
    read_boot,
    read_hard,
    read_intent,
    read_journal,
    read_slot,
    write_base,
    write_hard,
    write_journal,
)
from raftlog.types import ZERO, HardState, LogId, Membership, Mode
from store.directory import DATA_FILE, has_owner, read_shape, sync_file
from store.engine import CannotOpen, StoreError, WriteTxn
from store.format import Stamp, read_stamp
from store.lmdb_engine import LmdbEngine
from tools.inspect.making import Record, make_environment, new_directory, tables_of
from tools.inspect.structure import environments, structure_findings
from tools.inspect.verify import printable_key, verify_peer

AUDIT = "repair.json"
BAD = (StoreError, CodecError)

T = TypeVar("T")


@dataclass
class Half:
    """One environment of the source. `bad`: what cannot be read of which table."""

    kind: str
    engine: LmdbEngine
    stamp: Stamp
    bad: dict[str, list[str]] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    """Tables that cannot be walked to their end."""


@dataclass
class Survey:
    """What the source says of itself. `last` is the last entry's key, `last_id` its position if it is readable; `good`
    the last entry of the run without a gap that begins behind `base`."""

    hard: HardState
    boot: int
    base: tuple[LogId, Membership] | None
    applied: tuple[LogId, Membership] | None
    intent: tuple[LogId, Membership] | None
    last: int = 0
    last_id: LogId | None = None
    good: LogId = ZERO
    at_applied: bool = False


@dataclass
class Plan:
    """What to make: the base, the entries base+1..last, and whether the state is kept."""

    way: str
    base: tuple[LogId, Membership]
    last: int
    state: bool
    hard: HardState
    dropped: list[str] = field(default_factory=list)


def repair_peer(directory: Path, new: Path, unsafe: bool) -> dict[str, Any]:
    """Make `new`; the audit record, which is `new`/repair.json too. Raises `CannotOpen` with one line if nothing can be
    salvaged, or not without `unsafe`; then there is no `new`."""
    paths = environments(directory)
    if "log" not in paths:
        raise CannotOpen(f"{directory} is a kvsrv's, which has no log: there is nobody to refill it, restore a copy")
    if any(has_owner(path) for path in paths.values()):
        raise CannotOpen(f"{directory} is in use: stop its peer first")
    if new.exists():
        raise CannotOpen(f"{new} exists already: a new directory is made, none is changed")
    found = {kind: structure_findings(path) for kind, path in paths.items()}
    contested = [text for text in found["log"] if "meta page" in text]
    if contested:
        raise CannotOpen(f"{directory}: {contested[0]}: which term and vote hold cannot be told, refill an empty peer")
    with ExitStack() as stack:
        halves = _halves(stack, paths, new.absolute().parent)
        survey = _survey(directory, halves)
        losses = [text for half in halves.values() for texts in half.bad.values() for text in texts]
        losses += [text for text in found["state"] if "meta page" in text]
        last_error = ""
        for plan in _plans(survey, halves, losses):
            if plan.way != "whole" and not unsafe:
                why = losses[0] if losses else last_error or "log and state contradict each other"
                raise CannotOpen(f"{directory}: {why}: to go on without it, --unsafe")
            audit = _audit(directory, plan, survey, losses, found)
            try:
                _make(halves, survey, plan, new, audit)
            except BAD as error:
                last_error = str(error)
                continue
            return audit
        raise CannotOpen(f"{directory} cannot be repaired: {last_error}")


# --- reading what is left ------------------------------------------------------------------------------------------


def _halves(stack: ExitStack, paths: dict[str, Path], beside: Path) -> dict[str, Half]:
    """Both environments, opened as copies that are as long as their meta pages say: the originals are only read."""
    if not beside.is_dir():
        raise CannotOpen(f"{beside} is no directory")
    engines: dict[str, LmdbEngine] = {}
    stamps: dict[str, Stamp] = {}
    copies = {}
    for kind, path in paths.items():
        copies[kind] = Path(stack.enter_context(TemporaryDirectory(prefix=".repair-", dir=beside)))
        shutil.copy(path / DATA_FILE, copies[kind])
        shape = read_shape(path)
        os.truncate(copies[kind] / DATA_FILE, max(shape.size_bytes, shape.needed_bytes))
        with suppress(*BAD), ExitStack() as probing:
            probe = LmdbEngine.open_readonly(copies[kind], ("meta",))
            probing.callback(probe.close)
            with probe.read() as txn:
                stamps[kind] = read_stamp(txn, str(path))
    if not stamps:
        raise CannotOpen("neither log/ nor state/ has a readable stamp: whose they are cannot be told")
    known = next(iter(stamps.values()))
    for kind, path in copies.items():
        stamp = stamps.get(kind, replace(known, kind=kind))
        if replace(stamp, kind="") != replace(known, kind=""):
            raise CannotOpen("log/ and state/ are two peers' halves: a repair would mix them")
        stamps[kind] = stamp
        engines[kind] = LmdbEngine.open_readonly(path, tables_of(stamp, with_log=True))
        stack.callback(engines[kind].close)
    return {kind: Half(kind, engines[kind], stamps[kind]) for kind in ("log", "state")}


def _or_none(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except BAD:
        return None


def _survey(directory: Path, halves: dict[str, Half]) -> Survey:
    log, state = halves["log"], halves["state"]
    with log.engine.read() as txn, state.engine.read() as meta:
        try:
            hard = read_hard(txn)
        except BAD as error:
            raise CannotOpen(
                f"{directory}: the hard state cannot be read ({error}): whom it voted for is unknown, refill an empty peer"
            ) from error
        base = _or_none(lambda: read_base(txn))
        applied = _or_none(lambda: read_applied(meta)[:2])
        slot = _or_none(lambda: read_slot(meta))
        found = Survey(hard, _or_none(lambda: read_boot(txn)) or 0, base, applied, _or_none(lambda: read_intent(txn)))
        if found.intent is not None and applied is not None and found.intent[0] == applied[0]:
            base = found.base = found.intent  # the start that follows would do the same
    for half in halves.values():
        for table in half.engine.tables:
            if half.kind == "state" and slot is not None and table.endswith(f"@{1 - slot}"):
                continue
            _walk(half, table, found)
    missing = {"base": found.base, "applied": found.applied, "slot": slot}
    for name, value in missing.items():
        if value is None:
            half = log if name == "base" else state
            half.bad.setdefault("meta", []).append(f"{half.kind}/meta, record {name}: missing or unreadable")
    return found


def _walk(half: Half, table: str, found: Survey) -> None:
    """Every record of a table: what is bad is noted, the log's run of good entries is measured."""
    is_log = table == "entries"
    found.good = found.base[0] if is_log and found.base else found.good
    bad: list[str] = []
    try:
        for key, payload in half.engine.salvage(table):
            if is_log:
                problem = _entry(found, key, payload)
            else:
                problem = "its checksum is wrong" if payload is None else ""
            if problem:
                shown = int.from_bytes(key, "big") if table in ("entries", "journal") else printable_key(key)
                bad.append(f"{half.kind}/{table}, record {shown}: {problem}")
    except StoreError as error:
        half.broken.add(table)
        bad.append(f"{half.kind}/{error}")
    if bad:
        half.bad.setdefault(table, []).extend(bad)


def _entry(found: Survey, key: bytes, payload: bytes | None) -> str:
    index = int.from_bytes(key, "big")
    found.last, found.last_id = index, None
    if payload is None:
        return "its checksum is wrong"
    try:
        at = unpack_entry(loads(payload)).id
    except CodecError as error:
        return str(error)
    if at.index != index:
        return f"holds entry {at.index}"
    found.last_id = at
    if found.base is not None and index <= found.base[0].index:
        return ""  # what an unfinished installation would remove
    if at.index == found.good.index + 1 and at.term >= found.good.term:
        found.good = at
        found.at_applied = found.at_applied or (found.applied is not None and at == found.applied[0])
        return ""
    return "" if at.index > found.good.index + 1 and found.good == ZERO and not found.base else f"follows {found.good}"


# --- deciding ------------------------------------------------------------------------------------------------------


def _plans(survey: Survey, halves: dict[str, Half], losses: list[str]) -> Iterator[Plan]:
    """The ways to try, the one that keeps most first."""
    hard, base, applied = survey.hard, survey.base, survey.applied
    if not losses and base is not None:
        yield Plan("whole", base, survey.good.index, True, hard)
    index = max(survey.last, hard.commit, hard.recover_to.index, *(at[0].index for at in (base, applied) if at))
    if "entries" in halves["log"].broken or index > survey.last > 0:
        to = LogId(hard.term + 1, index)
    elif survey.last_id is not None:
        to = survey.last_id
    else:
        to = LogId(hard.term, index)
    to = max(to, hard.recover_to, applied[0] if applied else ZERO, base[0] if base else ZERO)
    marked = replace(hard, mode=Mode.RECOVERING, recover_to=LogId(to.term, max(to.index, index)))
    if not halves["state"].bad and applied is not None:
        fits = base is not None and (survey.at_applied or base[0] == applied[0])
        start = base if fits and base is not None else applied
        last = survey.good.index if fits else start[0].index
        commit = max(start[0].index, min(hard.commit, last))
        gone = [f"log/entries, all after {last} (to {survey.last})"] if survey.last > last else []
        yield Plan("cut", start, last, True, replace(marked, commit=commit), gone)
    if base is not None and base[0] == ZERO and not halves["log"].bad.get("entries") and survey.last:
        commit = min(hard.commit, survey.last)
        gone = ["state/, all of it: it is made again from the log"]
        yield Plan("replay", base, survey.last, False, replace(marked, commit=commit), gone)
    gone = ["log/entries and state/, all of them: they come from the leader"]
    yield Plan("empty", (ZERO, EMPTY), 0, False, replace(marked, commit=0), gone)


def _audit(
    directory: Path, plan: Plan, survey: Survey, losses: list[str], found: dict[str, list[str]]
) -> dict[str, Any]:
    marked = plan.hard.mode is Mode.RECOVERING
    return {
        "source": directory.name,
        "time_ms": time.time_ns() // 1_000_000,
        "way": plan.way,
        "term": plan.hard.term,
        "vote": plan.hard.vote,
        "commit": plan.hard.commit,
        "base": list(plan.base[0]),
        "last": plan.last,
        "last_before": survey.last,
        "state": "kept" if plan.state else "dropped",
        "intent": None if survey.intent is None else list(survey.intent[0]),
        "mode": plan.hard.mode.name.lower(),
        "recover_to": list(plan.hard.recover_to) if marked else None,
        "dropped": plan.dropped,
        "damage": losses,
        "pages": [text for texts in found.values() for text in texts],
    }


# --- making --------------------------------------------------------------------------------------------------------


def _make(halves: dict[str, Half], survey: Survey, plan: Plan, new: Path, audit: dict[str, Any]) -> None:
    with new_directory(new, check=False) as made:
        log, state = halves["log"], halves["state"]
        base, _ = plan.base
        kept = _kept_log(log, base.index + 1, plan.last)
        make_environment(made, log.stamp, log.engine.tables, kept, lambda txn: _finish_log(txn, plan, survey, audit))
        rows: Iterator[Record] = _kept_state(state) if plan.state else iter(())
        make_environment(made, state.stamp, state.engine.tables, rows, None if plan.state else fill_state)
        if findings := verify_peer(made).findings:
            raise CannotOpen(f"what was salvaged is not fine: {findings[0]}")
        (made / AUDIT).write_text(json.dumps(audit, indent=2) + "\n")
        sync_file(made / AUDIT)


def _kept_log(half: Half, first: int, last: int) -> Iterator[Record]:
    yield from _good(half, "journal")
    for table, key, payload in _good(half, "entries"):
        if first <= int.from_bytes(key, "big") <= last:
            yield table, key, payload


def _finish_log(txn: WriteTxn, plan: Plan, survey: Survey, audit: dict[str, Any]) -> None:
    hard = plan.hard
    if plan.way != "whole":
        last = txn.last("entries")
        ends = plan.base[0] if last is None else unpack_entry(loads(last[1])).id
        hard = replace(hard, ends=ends, highest=max(hard.highest, hard.recover_to, ends))
    write_hard(txn, hard)
    write_base(txn, *plan.base)
    boot = survey.boot or max((record.boot for record in read_journal(txn)), default=0)
    txn.put("meta", b"boot", dumps(boot))
    write_journal(txn, [JournalRecord(audit["time_ms"], boot, f"repaired: {plan.way}", plan.hard.term, None)])


def _kept_state(half: Half) -> Iterator[Record]:
    """meta and the live slot; the other holds at most a part of an image, which is sent again."""
    with half.engine.read() as txn:
        slot = read_slot(txn)
    for table in half.engine.tables:
        if not table.endswith(f"@{1 - slot}"):
            yield from _good(half, table)


def _good(half: Half, table: str) -> Iterator[Record]:
    with suppress(StoreError):
        for key, payload in half.engine.salvage(table):
            if payload is not None:
                yield table, key, payload
