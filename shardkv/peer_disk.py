"""A peer's disk at a start: both environments opened, recovered, and what was damaged mended as far as it may be.

    log/              holds promises: what cannot be mended in it stops the peer (see `raftlog.healing`)
    state/            holds none: missing, damaged, or told to be, it is set aside and an empty one made
    state.damaged/    the last one that was set aside, for whoever wants to know why; goes with the next

An empty state/ is filled from the log if that reaches back to entry 1, else by an image from the group's leader; until
then the peer has its log and its vote and serves nothing.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from raftlog.durable import (
    LOG_TABLES,
    CorruptLog,
    PromisesLost,
    StateLost,
    fill_state,
    read_base,
    recover,
    state_tables,
)
from raftlog.machine import StateMachine
from raftlog.types import ZERO, Restored
from store.directory import sync_directory
from store.engine import CorruptRecord, Damaged, StoreError
from store.format import Stamp
from store.lmdb_engine import LmdbEngine

ASIDE = "state.damaged"


@dataclass(frozen=True)
class PeerDisk:
    """Both environments, owned, and what they say."""

    log: LmdbEngine
    state: LmdbEngine
    restored: Restored


def open_disk(directory: Path, stamp: Stamp, machine: StateMachine, time_ms: int, damage: str = "") -> PeerDisk:
    """Open and recover. `stamp` is that of log/; `damage` says what is wrong with state/ if that is known already. Raises
    `StoreError`, which names what is wrong and what to do; then nothing is held."""
    with ExitStack() as undo:
        try:
            log = LmdbEngine.open(directory / "log", LOG_TABLES, stamp)
            undo.callback(log.close)
            state, restored = _with_state(log, directory, replace(stamp, kind="state"), machine, time_ms, damage)
        except (Damaged, CorruptRecord, PromisesLost) as error:
            raise lost(error, stamp) from error
        undo.pop_all()
    return PeerDisk(log, state, restored)


def lost(error: Exception, stamp: Stamp) -> PromisesLost:
    """What the peer promised is on no disk any more."""
    name = f"server-{stamp.gid}-{stamp.peer}"
    return PromisesLost(
        f"{error}. It may have voted and acknowledged what only that file knew, so it does not start from it: "
        f"`shardkv peer replace {name}` has its group take it in anew"
    )


def _with_state(
    log: LmdbEngine, directory: Path, stamp: Stamp, machine: StateMachine, time_ms: int, damage: str
) -> tuple[LmdbEngine, Restored]:
    path = directory / "state"
    if not damage:
        try:
            if not path.is_dir():
                raise Damaged(f"{path} is missing")
            return _opened(log, path, stamp, machine, time_ms)
        except (Damaged, CorruptRecord, StateLost) as error:
            damage = str(error)
    _check_refill(log, damage)
    _set_aside(path)
    LmdbEngine.create(path, state_tables(machine.tables), stamp, fill_state)
    state, restored = _opened(log, path, stamp, machine, time_ms)
    return state, replace(restored, mended=(damage, *restored.mended))


def _opened(
    log: LmdbEngine, path: Path, stamp: Stamp, machine: StateMachine, time_ms: int
) -> tuple[LmdbEngine, Restored]:
    with ExitStack() as undo:
        state = LmdbEngine.open(path, state_tables(machine.tables), stamp)
        undo.callback(state.close)
        restored = recover(log, state, time_ms)
        undo.pop_all()
    return state, restored


def _check_refill(log: LmdbEngine, why: str) -> None:
    """Raise `CorruptLog` if nobody could refill the state: the log is purged and there is no other peer."""
    try:
        with log.read() as txn:
            base, membership = read_base(txn)
    except StoreError:
        return  # that is mended, or refused, next
    if base != ZERO and len(membership.peers) == 1:
        raise CorruptLog(f"{why}; nobody else has this state, and the log no longer reaches back to its beginning")


def _set_aside(path: Path) -> None:
    """Make the name free, durably. A crash leaves the damaged one here or there, or an empty place: each is seen again."""
    if path.is_dir():
        aside = path.with_name(ASIDE)
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        sync_directory(path.parent)
