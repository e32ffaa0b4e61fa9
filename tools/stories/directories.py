"""From a simulated world to directories on the disk: every record as the peer had committed it."""

from __future__ import annotations

import os
from pathlib import Path

from store.directory import DATA_FILE
from store.engine import WriteTxn
from store.format import KEY as STAMP_KEY
from store.format import Stamp
from store.lmdb_engine import LmdbEngine
from store.memory_engine import MemoryDisk
from store.records import open_record, seal
from tools.sim.world import World


def write_directories(world: World, folder: Path) -> list[Path]:
    """Every peer's directory under `folder`, each with log/ and state/, as a stop at this moment would leave them. Raises
    `CannotOpen` if one is there already."""
    cluster = world.rng("cluster id").randbytes(16)
    made = []
    for (host, kind), disk in sorted(world.disks.items()):
        directory = folder / host
        _, gid, peer = host.split("-")
        stamp = Stamp(kind, cluster, int(gid), int(peer), incarnation=1)
        LmdbEngine.create(directory / kind, tuple(disk.tables), stamp, lambda txn, disk=disk: _fill(txn, disk))  # type: ignore[misc]
        if directory not in made:
            made.append(directory)
    return made


def _fill(txn: WriteTxn, disk: MemoryDisk) -> None:
    for name, table in disk.tables.items():
        for key in table.keys:
            if (name, key) != ("meta", STAMP_KEY):
                txn.put(name, key, open_record(name, key, table.records[key]))


def flip_bit(environment: Path, table: str, key: bytes, payload: bytes) -> int:
    """Flip a bit in the middle of a record, in the data file itself: where, in bytes from its start. `LookupError` if the
    record is not there exactly once."""
    file = environment / DATA_FILE
    record = seal(table, key, payload)
    data = file.read_bytes()
    if data.count(record) != 1:
        raise LookupError(f"{file} has the record {data.count(record)} times, not once")
    at = data.index(record) + len(record) // 2
    with file.open("r+b") as stream:
        stream.seek(at)
        stream.write(bytes([data[at] ^ 0x10]))
        stream.flush()
        os.fsync(stream.fileno())
    return at
