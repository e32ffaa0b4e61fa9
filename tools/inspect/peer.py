"""One peer's directory, opened to look: its environments, whose they are, and consistent views of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from raftlog.durable import LOG_TABLES, read_slot, state_tables
from raftlog.slots import SlotReadTxn
from shardkv.config import NSHARDS
from shardkv.group import GroupMachine, stored_shards
from shardkv.kvmachine import KvMachine, VersionedMachine
from shardkv.kvsrv_host import kvsrv_tables
from store.directory import DATA_FILE, has_owner, read_shape
from store.engine import ReadTxn, StoreError
from store.format import Stamp, read_stamp
from store.lmdb_engine import LmdbEngine
from store.lmdb_file import check_structure
from tools.inspect.structure import environments

PAIRS = 20
"""How often a view of both environments is tried before one is taken between whose halves the peer committed."""


@dataclass(frozen=True)
class View:
    """Both environments at one moment. `log` is None for a kvsrv, which has none. `state` sees the live slot under the
    logical names of the tables, `meta` is all of state/."""

    log: ReadTxn | None
    meta: ReadTxn
    state: ReadTxn
    machine: VersionedMachine


@dataclass(frozen=True)
class OpenPeer:
    """The opened environments and their stamps; `running`: a process had them open for writing."""

    directory: Path
    stamps: dict[str, Stamp]
    engines: dict[str, LmdbEngine]
    running: bool

    @property
    def stamp(self) -> Stamp:
        """Of log/, if there is one, else of state/."""
        return self.stamps.get("log", self.stamps["state"])

    @property
    def name(self) -> str:
        """`server-<gid>-<peer>`, by its stamp."""
        return f"server-{self.stamp.gid}-{self.stamp.peer}"

    @contextmanager
    def view(self) -> Iterator[View]:
        """A view of both environments. It pins their pages while it is open: keep it short."""
        with ExitStack() as stack:
            log, meta = self._pair(stack)
            machine = _machine(self.stamps["state"])
            state = meta
            if log is not None:
                slot = read_slot(meta)
                state = SlotReadTxn(meta, {"meta": "meta", **{t: f"{t}@{slot}" for t in machine.tables}})
            if isinstance(machine, GroupMachine):
                machine = GroupMachine(stored_shards(state) or NSHARDS)
            yield View(log, meta, state, machine)

    def _pair(self, stack: ExitStack) -> tuple[ReadTxn | None, ReadTxn]:
        state = self.engines["state"]
        if "log" not in self.engines:
            return None, stack.enter_context(state.read())
        for attempt in range(PAIRS + 1):
            with ExitStack() as pair:
                before = state.info().last_txnid
                log = pair.enter_context(self.engines["log"].read())
                meta = pair.enter_context(state.read())
                if attempt == PAIRS or state.info().last_txnid == before:
                    stack.push(pair.pop_all())
                    return log, meta
        raise AssertionError("the last attempt is taken")


def _machine(stamp: Stamp) -> VersionedMachine:
    return KvMachine() if stamp.gid == 0 else GroupMachine()


def halves(stamps: Mapping[str, Stamp]) -> str:
    """What is wrong if log/ and state/ are not of one peer, else ""."""
    a, b = stamps.get("log", stamps["state"]), stamps["state"]
    if (a.cluster, a.gid, a.peer, a.incarnation) == (b.cluster, b.gid, b.peer, b.incarnation):
        return ""
    return (
        f"log/ is peer {a.peer} of group {a.gid} (incarnation {a.incarnation}), "
        f"state/ is peer {b.peer} of group {b.gid} (incarnation {b.incarnation}): they are two peers' halves"
    )


@contextmanager
def open_peer(directory: Path, *, mixed: bool = False) -> Iterator[OpenPeer]:
    """Raises `NotThere`, `CannotOpen`, `FormatMismatch`, `CorruptRecord`, and unless `mixed` is wanted `StoreError` for two
    peers' halves: what they say together is nobody's state. Only in a process that may die of it."""
    paths = environments(directory)
    with ExitStack() as stack:
        engines: dict[str, LmdbEngine] = {}
        stamps: dict[str, Stamp] = {}
        if "log" in paths:
            engines["log"] = _opened(stack, paths["log"], LOG_TABLES)
            with engines["log"].read() as txn:
                stamps["log"] = read_stamp(txn, str(paths["log"]))
        with ExitStack() as probing:
            probe = _opened(probing, paths["state"], ("meta",))
            with probe.read() as txn:
                stamps["state"] = read_stamp(txn, str(paths["state"]))
        if not mixed and (wrong := halves(stamps)):
            raise StoreError(wrong)
        machine = _machine(stamps["state"])
        tables = state_tables(machine.tables) if "log" in paths else kvsrv_tables(machine)
        engines["state"] = _opened(stack, paths["state"], tables)
        yield OpenPeer(directory, stamps, engines, any(has_owner(path) for path in paths.values()))


def _opened(stack: ExitStack, path: Path, tables: tuple[str, ...]) -> LmdbEngine:
    """A stopped peer's file that is shorter than it says is read in a copy that is not: what is cut off reads as zeros
    there, which fail their records' checks, and would kill the reader here."""
    shape = read_shape(path)
    if shape.size_bytes < shape.needed_bytes and not has_owner(path):
        check_structure(path)
        whole = Path(stack.enter_context(TemporaryDirectory(prefix="shardkv-inspect-")))
        shutil.copy(path / DATA_FILE, whole)
        os.truncate(whole / DATA_FILE, shape.needed_bytes)
        path = whole
    engine = LmdbEngine.open_readonly(path, tables)
    stack.callback(engine.close)
    return engine
