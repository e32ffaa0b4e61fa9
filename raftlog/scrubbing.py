"""The scrub of a running peer: both environments, record by record, and what becomes of a record that fails its check.

log/    is written again from memory, which holds the whole log behind its base, the hard state and the base: nothing is
        lost, nothing is asked of anybody. A damaged line of the journal is removed
state/  is not mended record by record: one that was damaged says nothing good of the others, and all of it can be had
        again. The peer must start over with an empty one (`fatal` gets the `CorruptRecord`)

A round is made slowly and then left alone for a while; after a stop that was none (a crash, a power cut) the first one is
made at once and ten times as fast. A step takes about 0.1 ms of the loop's time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from raftlog.codec import dumps
from raftlog.durable import HARD_COPY, LOG_TABLES, append_entries, index_key, write_base
from store.engine import CorruptRecord, Fenced, WriteTxn
from store.failpoints import step
from store.format import KEY, Stamp, write_stamp
from store.scrub import Scrubber

if TYPE_CHECKING:
    from raftlog.node import Node

REWRITE = step("rewrite", "a damaged record of the log is written again")


@dataclass(frozen=True, slots=True)
class ScrubPace:
    """How much a step looks at, and the pauses: between steps, between steps after an unclean stop, between rounds."""

    step_records: int = 64
    step_bytes: int = 64 << 10
    pause_s: float = 0.05
    hurry_s: float = 0.005
    rest_s: float = 600.0


class Scrub:
    """One peer's. `stamp` is that of its log/, None where there is none (in simulation)."""

    def __init__(self, node: Node, stamp: Stamp | None, *, hurry: bool = False, pace: ScrubPace | None = None) -> None:
        self.pace = pace or ScrubPace()
        self.found = 0
        self.mended = 0
        self._node = node
        self._stamp = stamp
        self._hurry = hurry
        self._log = Scrubber(node.log.engine, LOG_TABLES)
        self._state = self._of_state()

    def _of_state(self) -> Scrubber:
        rsm = self._node.rsm
        self._slot = rsm.slot
        return Scrubber(rsm.writer.engine, ("meta", *(f"{table}@{rsm.slot}" for table in rsm.machine.tables)))

    @property
    def records(self) -> int:
        """How many records were looked at."""
        return self._log.records + self._state.records

    @property
    def rounds(self) -> int:
        """How often everything was."""
        return min(self._log.passes, self._state.passes)

    def step(self) -> None:
        """One step in each environment."""
        self._step_log()
        self._step_state()

    def _step_log(self) -> None:
        for error in self._log.step(self.pace.step_records, self.pace.step_bytes):
            self.found += 1
            self._mend(error)

    def _step_state(self) -> None:
        if self._slot != self._node.rsm.slot:  # an image took its place
            passes, self._state = self._state.passes, self._of_state()
            self._state.passes = passes
        for error in self._state.step(self.pace.step_records, self.pace.step_bytes):
            self.found += 1
            self._node.fatal(error)

    async def run(self) -> None:
        """For as long as the peer lives."""
        while True:
            rounds = self.rounds
            while self.rounds == rounds:
                await trio.sleep(self.pace.hurry_s if self._hurry and not rounds else self.pace.pause_s)
                try:
                    self.step()
                except Fenced:
                    return  # the peer ends
            await trio.sleep(self.pace.rest_s)

    def whole_round(self) -> None:
        """Look at everything now (in simulation)."""
        passes = self._log.passes, self._state.passes
        while self._log.passes == passes[0]:
            self._step_log()
        while self._state.passes == passes[1]:
            self._step_state()

    # --- log/ --------------------------------------------------------------------------------------------------------

    def _mend(self, error: CorruptRecord) -> None:
        node, table, key = self._node, error.table, error.key
        number = int.from_bytes(key, "big")
        name = str(number) if table in ("entries", "journal") else key.decode("ascii", "replace")
        if (table, key) in (("meta", b"hard"), ("journal", HARD_COPY)):
            node.save_again()
        elif table == "entries":
            self._write_entry(number)
        elif table == "journal" and key:
            node.log.submit(lambda txn: txn.delete("journal", key), self._done, REWRITE)
        elif table == "meta":
            self._write_meta(key)
        if key:
            node.trouble(f"log/{table}, record {name}: {error.why}: written again")
        else:
            node.trouble(
                f"log/{table} cannot be read on: {error.why}. The peer has it all in memory as long as it runs"
            )

    def _done(self, _: object) -> None:
        self.mended += 1

    def _write_entry(self, index: int) -> None:
        """Of one that is not durable a save is due, or on its way; one below the base is being removed."""
        state = self._node.core.state
        if not state.log.base.index < index <= state.durability.stable or state.installing is not None:
            return
        (entry,) = state.log.slice(index, index, 0)

        def job(txn: WriteTxn) -> None:
            if not txn.delete("entries", index_key(index)):
                return  # purged meanwhile
            append_entries(txn, [entry], append=False)

        self._node.log.submit(job, self._done, REWRITE)

    def _write_meta(self, key: bytes) -> None:
        """What a purge or an image is about to write comes right by itself, or is found again in the next round."""
        node, stamp = self._node, self._stamp
        state, log = node.core.state, node.core.state.log
        if node.flushing.purging or state.installing is not None:
            return
        base, membership = log.base, log.membership_at(log.base.index)
        boot = state.boot

        def job(txn: WriteTxn) -> None:
            match key:
                case b"base":
                    write_base(txn, base, membership)
                case b"boot":
                    txn.put("meta", b"boot", dumps(boot))
                case b"intent":
                    txn.delete("meta", b"intent")
                case _ if key == KEY and stamp is not None:
                    write_stamp(txn, stamp)
                case _:
                    pass

        node.log.submit(job, self._done, REWRITE)
