"""What only a real disk has: creation, ownership, damaged files, failing commits, other processes."""

import os
import resource
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb
import pytest

from store.engine import CommitFailed, FormatMismatch, StoreError
from store.lmdb_engine import LmdbEngine
from store.lmdb_file import check_structure
from tests.store.boxes import STAMP, TABLES, content, looking, nothing, opened, put, raw, the_line

CHECKOUT = Path(__file__).resolve().parents[2]
PAGE = 4096


# --- creation --------------------------------------------------------------------------------------------------------


def test_a_new_environment_holds_what_filled_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "down" / "log"
    LmdbEngine.create(path, TABLES, STAMP, lambda txn: txn.put("a", b"k", b"v"))
    assert sorted(child.name for child in path.parent.iterdir()) == ["log"]
    with opened(path) as engine:
        assert content(engine, "a") == {b"k": b"v"}


def test_what_exists_is_not_made_again(path: Path) -> None:
    with opened(path) as engine:
        put(engine, "a", (b"k", b"v"))
    assert "exists already" in the_line(lambda: LmdbEngine.create(path, TABLES, STAMP, nothing))
    with opened(path) as engine:
        assert content(engine, "a") == {b"k": b"v"}


def test_an_empty_directory_of_the_name_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    assert "exists already" in the_line(lambda: LmdbEngine.create(tmp_path / "log", TABLES, STAMP, nothing))


def test_the_leftover_of_a_crashed_creation_is_removed(tmp_path: Path) -> None:
    path, leftover = tmp_path / "log", tmp_path / "log.new"
    LmdbEngine.create(leftover, TABLES, STAMP, lambda txn: txn.put("a", b"old", b""))
    os.truncate(leftover / "data.mdb", PAGE // 2)
    (leftover / "else").write_text("x")
    assert "does not exist" in the_line(lambda: LmdbEngine.open(path, TABLES, STAMP))
    LmdbEngine.create(path, TABLES, STAMP, nothing)
    assert not leftover.exists()
    with opened(path) as engine:
        assert content(engine, "a") == {}


def test_a_creation_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fill(txn: Any) -> None:
        txn.put("a", b"k", b"v")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        LmdbEngine.create(tmp_path / "log", TABLES, STAMP, fill)
    assert list(tmp_path.iterdir()) == []


def test_a_creation_without_room_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    def fill(txn: Any) -> None:
        txn.put("a", b"k", bytes(1 << 20))

    def create() -> None:
        LmdbEngine.create(tmp_path / "log", TABLES, STAMP, fill, map_size_bytes=1 << 20)

    assert "MDB_MAP_FULL" in the_line(create, CommitFailed)
    assert list(tmp_path.iterdir()) == []


def test_creation_syncs_file_and_directory_before_the_rename_and_the_parent_after(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.store.boxes import *; "
        "LmdbEngine.create(Path(sys.argv[1]), TABLES, STAMP, lambda txn: None)"
    )
    # What Python itself does; LMDB's own system calls are none of it.
    hook = (
        "import os, sys\n"
        "names = {}\n"
        "real_open, real_fsync, real_rename = os.open, os.fsync, os.rename\n"
        "def opening(path, *rest, **named):\n"
        "    handle = real_open(path, *rest, **named); names[handle] = str(path); return handle\n"
        "def syncing(handle):\n"
        "    real_fsync(handle); print('sync', names[handle], flush=True)\n"
        "def renaming(a, b, **named):\n"
        "    real_rename(a, b, **named); print('rename', a, b, flush=True)\n"
        "os.open, os.fsync, os.rename = opening, syncing, renaming\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", hook + code, str(tmp_path / "made" / "log")],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    events = [line.replace(str(tmp_path), ".") for line in done.stdout.splitlines()]
    assert events == [
        "sync .",
        "sync ./made/log.new/data.mdb",
        "sync ./made/log.new",
        "rename ./made/log.new ./made/log",
        "sync ./made",
    ]


# --- opening ---------------------------------------------------------------------------------------------------------


def test_what_was_committed_is_there_after_a_reopen(path: Path) -> None:
    with opened(path) as engine:
        put(engine, "a", (b"k", b"v"))
    with opened(path) as engine:
        assert content(engine, "a") == {b"k": b"v"}


def test_a_missing_directory_is_not_made(tmp_path: Path) -> None:
    assert "does not exist" in the_line(lambda: LmdbEngine.open(tmp_path / "log", TABLES, STAMP))
    assert "holds no database" in the_line(lambda: LmdbEngine.open_readonly(tmp_path / "log", TABLES))
    assert list(tmp_path.iterdir()) == []


def test_a_directory_without_a_database_is_left_alone(tmp_path: Path) -> None:
    assert "data.mdb is missing" in the_line(lambda: LmdbEngine.open(tmp_path, TABLES, STAMP))
    assert "data.mdb is missing" in the_line(lambda: LmdbEngine.open_readonly(tmp_path, TABLES))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_table_is_named(path: Path) -> None:
    assert "no table 'c'" in the_line(lambda: LmdbEngine.open(path, (*TABLES, "c"), STAMP))
    assert "no table 'c'" in the_line(lambda: LmdbEngine.open_readonly(path, ("meta", "c")))
    with opened(path):
        pass


def test_another_stamp_is_refused_and_nothing_stays_held(path: Path) -> None:
    other = type(STAMP)("log", b"c" * 16, 1, 7, 3)
    line = the_line(lambda: LmdbEngine.open(path, TABLES, other), FormatMismatch)
    assert line == f"{path} belongs to peer 2 of its group, not to peer 7"
    with opened(path):
        pass


def test_any_stamp_will_do_if_none_is_expected_but_there_must_be_one(path: Path) -> None:
    LmdbEngine.open(path, TABLES, None).close()
    with raw(path) as (env, dbs), env.begin(write=True) as txn:
        txn.delete(b"format", db=dbs["meta"])
    assert "no format stamp" in the_line(lambda: LmdbEngine.open(path, TABLES, None), FormatMismatch)


def test_a_file_of_lmdb_1_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    lmdb.open(str(tmp_path / "log"), max_dbs=3, lib_version=1).close()
    for call in (LmdbEngine.open, LmdbEngine.open_readonly):
        args = (TABLES, STAMP)[: 2 if call == LmdbEngine.open else 1]
        assert "LMDB 1.x" in the_line(lambda call=call, args=args: call(tmp_path / "log", *args), FormatMismatch)


def test_the_map_may_grow_from_one_open_to_the_next(tmp_path: Path) -> None:
    path = tmp_path / "log"
    LmdbEngine.create(path, TABLES, STAMP, nothing, map_size_bytes=1 << 20)
    engine = LmdbEngine.open(path, TABLES, STAMP, map_size_bytes=1 << 20)
    with pytest.raises(StoreError, match="MDB_MAP_FULL"):
        put(engine, "a", (b"k", bytes(1 << 20)))
    put(engine, "a", (b"small", b"fits"))
    engine.close()
    engine = LmdbEngine.open(path, TABLES, STAMP, map_size_bytes=1 << 24)
    put(engine, "a", (b"k", bytes(1 << 20)))
    assert sorted(content(engine, "a")) == [b"k", b"small"]
    engine.close()


# --- who may open ----------------------------------------------------------------------------------------------------

CHILD = """
import sys
from pathlib import Path
from tests.store.boxes import STAMP, TABLES, put
from store.lmdb_engine import LmdbEngine
engine = LmdbEngine.open(Path(sys.argv[1]), TABLES, STAMP, map_size_bytes=1 << 26)
print("open", flush=True)
for line in sys.stdin:
    for number in range(int(line)):
        put(engine, "a", (b"%d" % number, bytes(1 << 20)))
    print("done", flush=True)
"""


@contextmanager
def owner(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the environment open, and writes so many MiB as it is told."""
    command = [sys.executable, "-c", CHILD, str(path)]
    with subprocess.Popen(command, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "open\n"
            yield child
        finally:
            child.kill()


def tell(child: subprocess.Popen[str], mebibytes: int) -> None:
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(f"{mebibytes}\n")
    child.stdin.flush()
    assert child.stdout.readline() == "done\n"


def test_a_second_open_in_the_process_is_refused_and_the_first_goes_on(path: Path) -> None:
    with opened(path) as engine:
        again = path.parent / "." / path.name
        assert "open in this process already" in the_line(lambda: LmdbEngine.open(again, TABLES, STAMP))
        assert "already open in this process" in the_line(lambda: LmdbEngine.open_readonly(path, TABLES))
        put(engine, "a", (b"k", b"v"))
    with opened(path) as engine:
        assert content(engine, "a") == {b"k": b"v"}


def test_the_owner_is_named_to_another_process_and_its_death_frees_the_environment(path: Path) -> None:
    with owner(path) as child:
        line = the_line(lambda: LmdbEngine.open(path, TABLES, STAMP))
        assert f"in use by another process, {child.pid}" in line
        tell(child, 1)
        child.send_signal(signal.SIGKILL)
        child.wait()
        with opened(path) as engine:
            assert sorted(content(engine, "a")) == [b"0"]


def test_one_may_look_beside_a_live_owner_whose_map_grows_beyond_ours(path: Path) -> None:
    with owner(path) as child, looking(path) as engine:
        assert content(engine, "a") == {}
        with engine.read() as before:
            tell(child, 20)
            assert before.get("a", b"1") is None
            with pytest.raises(StoreError, match="MDB_MAP_RESIZED"), engine.read():
                pass
        assert len(content(engine, "a")) == 20
        with pytest.raises(StoreError), engine.write():
            pass


def test_an_owner_that_is_alive_is_trusted_with_a_short_file(path: Path) -> None:
    with owner(path):
        size = (path / "data.mdb").stat().st_size
        os.truncate(path / "data.mdb", size - PAGE)
        check_structure(path)
        os.truncate(path / "data.mdb", size)


def test_nothing_is_done_across_a_fork(path: Path) -> None:
    with opened(path) as engine:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which the child does not touch
            child = os.fork()
        if child == 0:
            refused = 0
            for call in (lambda: content(engine, "a"), lambda: put(engine, "a", (b"k", b"v")), engine.info):
                try:
                    call()
                except StoreError as error:
                    refused += "fork" in str(error)
            os._exit(refused)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3


# --- commits that fail -----------------------------------------------------------------------------------------------


@contextmanager
def no_room_beyond(size: int) -> Iterator[None]:
    """Every write beyond this place of a file fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_commit_that_fails_fences_the_engine_and_says_why(path: Path) -> None:
    with opened(path) as engine:
        put(engine, "a", (b"k", b"v"))
        with engine.read() as txn:
            with no_room_beyond((path / "data.mdb").stat().st_size):
                assert "commit" in the_line(lambda: put(engine, "a", (b"big", bytes(1 << 20))), CommitFailed)
            assert txn.get("a", b"k") == b"v"  # the loop may be reading, and hears of it by and by
        for call in (lambda: content(engine, "a"), lambda: put(engine, "a", (b"k", b"w"))):
            with pytest.raises(StoreError, match="fenced: a commit to it failed"):
                call()
    with opened(path) as engine:
        assert content(engine, "a") == {b"k": b"v"}


def test_a_full_map_undoes_the_transaction_and_frees_nothing_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "log"
    LmdbEngine.create(path, TABLES, STAMP, nothing, map_size_bytes=1 << 20)
    engine = LmdbEngine.open(path, TABLES, STAMP, map_size_bytes=1 << 20)
    put(engine, "a", (b"1", bytes(400_000)))
    with pytest.raises(StoreError, match="MDB_MAP_FULL"), engine.write() as txn:
        txn.put("a", b"2", bytes(100))
        txn.put("a", b"3", bytes(800_000))
    assert list(content(engine, "a")) == [b"1"]
    engine.close()


def test_free_pages_are_counted(path: Path) -> None:
    with opened(path) as engine:
        before = engine.info()
        put(engine, "a", (b"k", bytes(100 * PAGE)))
        full = engine.info()
        with engine.write() as txn:
            txn.delete("a", b"k")
        empty = engine.info()
        assert full.used_bytes - before.used_bytes >= 100 * PAGE
        assert empty.used_bytes >= full.used_bytes
        assert empty.free_pages - full.free_pages >= 100


def test_readers_that_died_are_swept(path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from tests.store.boxes import *\n"
        "engine = LmdbEngine.open_readonly(Path(sys.argv[1]), TABLES)\n"
        "with engine.read() as txn: os._exit(0)\n"
    )
    with opened(path) as engine:
        assert engine.check_readers() == 0
        subprocess.run([sys.executable, "-c", code, str(path)], cwd=CHECKOUT, check=True)
        assert engine.check_readers() == 1
        assert engine.check_readers() == 0
