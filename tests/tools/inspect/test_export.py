"""Export, import, copy: what comes out is what went in, and a damaged file or a name that is taken is refused."""

from __future__ import annotations

import io
import random
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from raftlog.durable import LOG_TABLES, append_entries, recover
from raftlog.types import LogId
from store.directory import read_shape
from store.engine import CannotOpen, FormatMismatch, StoreError
from store.lmdb_engine import LmdbEngine
from tests.store.boxes import kept_by_lmdb_1
from tests.tools.inspect.small_peer import STATE_TABLES, damage_record, entry, make_peer, stamp
from tests.tools.inspect.test_damage import contents
from tools.inspect.commands import inspect
from tools.inspect.exportfile import MAGIC, BadFile, ExportReader, ExportWriter, Row, Table
from tools.inspect.portable import copy_peer, export_peer, import_peer
from tools.inspect.reader import findings


@pytest.fixture
def peer(tmp_path: Path) -> Path:
    return make_peer(tmp_path / "peer")


def test_an_import_holds_what_was_exported_and_a_peer_starts_from_it(peer: Path, tmp_path: Path) -> None:
    export_peer(peer, tmp_path / "x.skv")
    import_peer(tmp_path / "x.skv", tmp_path / "new")
    assert contents(tmp_path / "new") == contents(peer)
    assert not findings([tmp_path / "new"])
    log = LmdbEngine.open(tmp_path / "new" / "log", LOG_TABLES, stamp("log"))
    state = LmdbEngine.open(tmp_path / "new" / "state", STATE_TABLES, stamp("state"))
    restored = recover(log, state, 0)
    assert (restored.hard.vote, restored.applied, restored.entries[-1].id) == (2, LogId(2, 6), LogId(2, 10))
    log.close()
    state.close()


def test_a_cluster_made_by_processes_survives_export_import_and_copy(cluster_directory: Path, tmp_path: Path) -> None:
    for name in ("server-0-0", "server-1-2"):
        source = cluster_directory / name
        export_peer(source, tmp_path / f"{name}.skv")
        import_peer(tmp_path / f"{name}.skv", tmp_path / "imported" / name)
        copy_peer(source, tmp_path / "copied" / name)
        assert contents(tmp_path / "imported" / name) == contents(source) == contents(tmp_path / "copied" / name)


def test_an_export_leads_from_another_generation_of_lmdb_to_this_one(peer: Path, tmp_path: Path) -> None:
    """The records of a peer as LMDB 1.0 keeps them, exported from there, are imported as files of LMDB 0.9."""
    export_peer(peer, tmp_path / "x.skv")
    with (tmp_path / "x.skv").open("rb") as stream:
        reader = ExportReader(stream, "x")
        items = list(reader.items())
    tables: dict[Table, list[tuple[bytes, bytes]]] = {}
    for item in items:
        if isinstance(item, Table):
            rows = tables[item] = []
        else:
            rows.append((item.key, item.payload))
    kept = kept_by_lmdb_1(tmp_path / "one", {f"{t.kind} {t.name}": rows for t, rows in tables.items()})
    with (tmp_path / "y.skv").open("wb") as target:
        writer = ExportWriter(target, [replace(one, generation=1) for one in reader.stamps])
        for table in tables:
            writer.begin(table.kind, table.name)
            for key, payload in kept[f"{table.kind} {table.name}"]:
                writer.row(key, payload)
        writer.end()
    with pytest.raises(FormatMismatch, match=r"LMDB 1\.x"):
        read_shape(tmp_path / "one")
    import_peer(tmp_path / "y.skv", tmp_path / "new")
    assert contents(tmp_path / "new") == contents(peer)
    assert not findings([tmp_path / "new"])


def test_any_cut_and_any_flip_is_refused_and_nothing_is_left(peer: Path, tmp_path: Path) -> None:
    export_peer(peer, tmp_path / "x.skv")
    whole = (tmp_path / "x.skv").read_bytes()
    rng = random.Random(1)
    for at in rng.sample(range(len(whole)), 300):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << rng.randrange(8)
        for data in (bytes(flipped), whole[:at]):
            with pytest.raises((BadFile, StoreError)) as caught:
                list(ExportReader(io.BytesIO(data), "x").items())
            assert "\n" not in str(caught.value)
    (tmp_path / "cut.skv").write_bytes(whole[:-20])
    with pytest.raises(BadFile, match="cut off"):
        import_peer(tmp_path / "cut.skv", tmp_path / "new")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("new")]


def test_a_length_is_checked_before_it_is_read() -> None:
    class Greedy(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            assert size is not None and 0 <= size <= 1 << 20
            return super().read(size)

    with pytest.raises(BadFile, match="4294967295 bytes"):
        ExportReader(Greedy(MAGIC + b"H" + b"\xff" * 4), "x")


def test_bytes_behind_the_trailer_and_keys_out_of_order_are_refused() -> None:
    def made(keys: list[bytes]) -> bytes:
        stream = io.BytesIO()
        writer = ExportWriter(stream, [stamp("state")])
        writer.begin("state", "meta")
        for key in keys:
            writer.row(key, b"v")
        writer.end()
        return stream.getvalue()

    good = made([b"a", b"b"])
    rows = [item for item in ExportReader(io.BytesIO(good), "x").items() if isinstance(item, Row)]
    assert rows == [Row(b"a", b"v"), Row(b"b", b"v")]
    with pytest.raises(BadFile, match="after the trailer"):
        list(ExportReader(io.BytesIO(good + b"\0"), "x").items())
    with pytest.raises(BadFile, match="does not follow"):
        list(ExportReader(io.BytesIO(made([b"b", b"a"])), "x").items())


def test_a_copy_is_of_one_moment_while_the_owner_goes_on(peer: Path, tmp_path: Path) -> None:
    before = contents(peer)
    log = LmdbEngine.open(peer / "log", LOG_TABLES, None)
    try:
        result = CliRunner().invoke(inspect, ["copy", str(peer), str(tmp_path / "new")])
        assert result.exit_code == 0, result.output
        with log.write() as txn:
            append_entries(txn, [entry(11)])
    finally:
        log.close()
    assert contents(tmp_path / "new") == before != contents(peer)


def test_nothing_that_exists_is_written_to(peer: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_bytes(b"mine")
    for verb in ("export", "copy", "repair"):
        result = CliRunner().invoke(inspect, [verb, str(peer), str(taken)])
        assert result.exit_code == 2 and "exists already" in result.output
    assert taken.read_bytes() == b"mine"
    with pytest.raises(CannotOpen, match="exists already"):
        export_peer(peer, taken)


def test_a_damaged_peer_is_neither_exported_nor_copied(peer: Path, tmp_path: Path) -> None:
    damage_record(peer, "log", "entries", (7).to_bytes(8, "big"))
    for verb in ("export", "copy"):
        result = CliRunner().invoke(inspect, [verb, str(peer), str(tmp_path / verb)])
        assert result.exit_code == 1 and len(result.output.splitlines()) == 1, result.output
        assert not (tmp_path / verb).exists()
