"""Shard groups: the hand-over step by step, what may go wrong in it, and a model with everything at once."""

from typing import Any

import pytest

from raftlog.codec import dumps
from raftlog.machine import Operation, StateMachine
from raftlog.sessions import Session, encode_session
from shardkv import kv
from shardkv.commands import (
    EMPTY_SUMMARY,
    MAX_VALUE_BYTES,
    Delete,
    DeleteShard,
    Freeze,
    Install,
    InstallChunk,
    Keep,
    Put,
    Summary,
    encode_command,
    encode_entries,
    summary_of_nobody,
    unpack_summary,
)
from shardkv.config import MAX_NUM, ShardConfig, shard_of
from shardkv.group import RESTARTS_MAX, GroupMachine, stored_shards
from shardkv.methods import Method
from shardkv.replies import Code
from shardkv.shards import State
from store.engine import CorruptRecord, FormatMismatch
from tests.shardkv.boxes import Box, install_empty, move

MACHINE: StateMachine = GroupMachine()

KEYS = [b"k%d" % i for i in range(60)]
SHARD = 6
HERE = [key for key in [b"k%d" % i for i in range(600)] if shard_of(key, 12) == SHARD]
"""Keys of one shard, in no order."""


def group(*, owns: bool = True) -> Box:
    box = Box(GroupMachine())
    if owns:
        install_empty(box)
    return box


def send(box: Box, client: int, seq: int, command: Put | Delete, *, as_of: int = 0) -> list[Any]:
    return box.run(Operation(client, seq, 0, as_of, encode_command(command)))


# --- ownership -------------------------------------------------------------------------------------------------------


def test_a_group_without_shards_serves_no_key() -> None:
    box = group(owns=False)
    assert box.do(Put(b"k", b"v")) == [Code.WRONG_GROUP, 0, None, None]
    assert box.get(b"k") == [Code.WRONG_GROUP, 0, None, None]
    assert box.read(Method.SCAN, 0, b"", None, 1, 1)[0] == Code.WRONG_GROUP
    assert [row[1] for row in box.read(Method.STATUS)[1]] == ["absent"] * 12


def test_the_labs_sixty_keys() -> None:
    box = group()
    for key in KEYS:
        assert box.do(Put(key, key, 0)) == [Code.OK, 1]
    assert [box.get(key) for key in KEYS] == [[Code.OK, key, 1] for key in KEYS]
    assert box.read(Method.GET_MANY, KEYS) == [Code.OK, [[Code.OK, key, 1] for key in KEYS]]
    found = [row[0] for shard in range(12) for row in box.read(Method.SCAN, shard, b"", None, 100, 1 << 20)[1]]
    assert sorted(found) == sorted(KEYS)


def test_a_key_falls_into_the_shard_that_the_configuration_says() -> None:
    box = group(owns=False)
    config = ShardConfig.initial(12)
    assert box.do(Install(config.shard_of("k0"), 1, EMPTY_SUMMARY)) == [Code.OK]
    assert box.do(Put(b"k0", b"v")) == [Code.OK, 1]
    assert box.do(Put(b"k1", b"v"))[0] == Code.WRONG_GROUP


def test_a_frozen_shard_refuses_gets_and_puts_and_says_where_it_goes() -> None:
    box = group()
    box.do(Put(HERE[0], b"v"))
    assert box.do(Freeze(SHARD, 2, 7, ("x:1", "y:2")))[0] == Code.OK
    there = [Code.WRONG_GROUP, 2, 7, ["x:1", "y:2"]]
    assert box.do(Put(HERE[0], b"w")) == there
    assert box.do(Delete(HERE[0])) == there
    assert box.get(HERE[0]) == there
    assert box.read(Method.GET_MANY, [HERE[0]]) == [Code.OK, [there]]
    assert box.read(Method.SCAN, SHARD, b"", None, 1, 1) == there
    assert box.do(DeleteShard(SHARD, 2)) == [Code.OK]
    assert box.get(HERE[0]) == there


def test_a_shard_with_keys_is_not_frozen_for_nobody() -> None:
    """Found by simulation, seed 11: the last group left with data that came after the controller had looked."""
    box = group()
    box.do(Put(HERE[0], b"v"))
    refused = box.do(Freeze(SHARD, 2, 0, ()))
    assert refused[0] == Code.REFUSED and "holds 1 keys" in refused[1]
    assert box.get(HERE[0]) == [Code.OK, b"v", 1]
    box.do(Delete(HERE[0]))
    assert box.do(Freeze(SHARD, 2, 0, ()))[0] == Code.OK


def test_what_nobody_was_to_have_is_kept_with_its_sessions_and_not_frozen_again() -> None:
    box = group()
    assert send(box, 5, 1, Put(HERE[0], b"v", 0)) == [Code.OK, 1, 1]
    assert box.do(Delete(HERE[0]))[0] == Code.OK
    assert box.do(Freeze(SHARD, 2, 0, ()))[0] == Code.OK
    assert box.get(HERE[0])[0] == Code.WRONG_GROUP
    assert box.do(Keep(SHARD, 2)) == box.do(Keep(SHARD, 2)) == [Code.OK]
    assert box.do(Freeze(SHARD, 2, 0, ()))[0] == Code.REFUSED  # of a controller that does not know yet
    assert box.do(DeleteShard(SHARD, 2))[0] == Code.REFUSED
    assert send(box, 5, 1, Put(HERE[0], b"v", 0)) == [Code.OK, 1, 1]  # the first answer, no second effect
    assert box.get(HERE[0]) == [Code.NO_KEY]
    assert box.do(Freeze(SHARD, 3, 7, ("x:1",)))[0] == Code.OK
    refused = box.do(Keep(SHARD, 3))
    assert refused[0] == Code.REFUSED and "goes to group 7" in refused[1]
    assert box.do(Keep(SHARD, 2)) == [Code.STALE, 3]


def test_what_was_never_frozen_is_kept_under_the_number_too() -> None:
    """Else a freeze that is late would take the shard away after its change was given up."""
    box = group()
    assert box.do(Keep(SHARD, 2)) == [Code.OK]
    assert box.do(Freeze(SHARD, 2, 0, ()))[0] == Code.REFUSED
    assert box.do(Put(HERE[0], b"v"))[0] == Code.OK


def test_a_shard_that_belonged_to_nobody_remembers_that_it_forgot() -> None:
    """Found by simulation, seed 10570: the last group left, and a late retry took effect a second time at the next one."""
    box = group()
    assert send(box, 5, 1, Put(HERE[0], b"v", 0)) == [Code.OK, 1, 1]
    assert box.do(Delete(HERE[0]))[0] == Code.OK
    assert box.do(Freeze(SHARD, 2, 0, ()))[0] == box.do(DeleteShard(SHARD, 2))[0] == Code.OK
    assert box.do(Install(SHARD, 3, summary_of_nobody(3))) == [Code.OK]
    code, tick = send(box, 5, 1, Put(HERE[0], b"v", 0))
    assert (code, tick) == (Code.SESSION_EXPIRED, 3 << 40) and box.get(HERE[0]) == [Code.NO_KEY]
    assert send(box, 6, 1, Put(HERE[0], b"w", 0), as_of=tick) == [Code.OK, 1, tick + 1]
    assert summary_of_nobody(1) == EMPTY_SUMMARY, "before the first change nobody can have written"
    assert unpack_summary(list(summary_of_nobody(MAX_NUM))).tick == MAX_NUM << 40


def test_wrong_group_is_never_remembered_by_a_session() -> None:
    box = group()
    box.do(Freeze(SHARD, 2, 7, ()))
    assert send(box, 5, 1, Put(HERE[0], b"v"))[0] == Code.WRONG_GROUP
    assert box.do(DeleteShard(SHARD, 2)) == [Code.OK]
    assert box.do(Install(SHARD, 3, EMPTY_SUMMARY)) == [Code.OK]
    assert send(box, 5, 1, Put(HERE[0], b"v")) == [Code.OK, 1, 1]


# --- the hand-over ---------------------------------------------------------------------------------------------------


def filled(rows: int = 40, clients: int = 5) -> Box:
    box = group()
    for number, key in enumerate(HERE[:rows]):
        send(box, 1 + number % clients, number, Put(key, b"v" * number), as_of=number)
    return box


@pytest.mark.parametrize("page", [0, 1, 100, 1000, 1 << 20])
def test_a_shard_moves_with_rows_versions_and_sessions(page: int) -> None:
    a, b = filled(), group(owns=False)
    send(a, 1, 90, Put(HERE[0], b"again"))
    before = a.read(Method.SCAN, SHARD, b"", None, 1000, 1 << 20)
    told = a.read(Method.STATUS)[1][SHARD]
    move(a, b, SHARD, 2, page=page)
    assert b.read(Method.SCAN, SHARD, b"", None, 1000, 1 << 20) == before
    assert b.get(HERE[0]) == [Code.OK, b"again", 2]
    assert b.read(Method.STATUS)[1][SHARD] == [SHARD, "serving", 2, *told[3:]]
    # Exactly once across the move: the old operation is remembered, a new one is not.
    again = send(b, 1, 90, Put(HERE[0], b"again"))
    assert again[:2] == [Code.OK, 2]
    assert send(b, 1, 91, Put(HERE[0], b"new"))[:2] == [Code.OK, 3]
    # A put at the old owner does nothing.
    assert send(a, 1, 92, Put(HERE[0], b"late"))[0] == Code.WRONG_GROUP


def test_the_state_hash_does_not_depend_on_the_chunks() -> None:
    hashes = set()
    for page in (0, 50, 333, 1 << 20):
        a, b = filled(), group(owns=False)
        move(a, b, SHARD, 2, page=page)
        hashes.add((a.hash, b.hash))
    assert len(hashes) == 1


def test_the_state_hash_sees_rows_sessions_and_owners() -> None:
    seen = {group(owns=False).hash, group().hash}
    box = group()
    for step in (Put(HERE[0], b"v"), Put(HERE[0], b"v"), Freeze(SHARD, 2, 7, ()), DeleteShard(SHARD, 2)):
        assert box.do(step)[0] == Code.OK
        seen.add(box.hash)
    box = group()
    send(box, 1, 1, Put(HERE[0], b"v"))
    seen.add(box.hash)
    send(box, 1, 2, Put(HERE[0], b"v", 9))
    seen.add(box.hash)
    seen.add(Box(GroupMachine(shards=11)).hash)
    assert len(seen) == 9


def test_an_empty_shard_needs_no_chunk() -> None:
    a, b = group(), group(owns=False)
    ok, summary = a.do(Freeze(SHARD, 2, 7, ()))
    assert (ok, unpack_summary(summary)) == (Code.OK, EMPTY_SUMMARY)
    assert b.do(Install(SHARD, 2, EMPTY_SUMMARY)) == [Code.OK]
    assert b.do(Put(HERE[0], b"v")) == [Code.OK, 1]


def test_a_shard_that_was_emptied_keeps_its_tick() -> None:
    a, b = group(), group(owns=False)
    send(a, 1, 1, Put(HERE[0], b"v"))
    send(a, 1, 2, Delete(HERE[0]))
    move(a, b, SHARD, 2)
    assert send(b, 1, 3, Put(HERE[0], b"v")) == [Code.OK, 1, 3]


def test_chunks_are_taken_in_order_only_and_the_answer_says_where_to_go_on() -> None:
    a, b = filled(), group(owns=False)
    _, summary = a.do(Freeze(SHARD, 2, 7, ()))
    wanted = unpack_summary(summary)
    pages = []
    after, more = b"", True
    while more:
        _, _, entries, last, more = a.read(Method.READ_SHARD, SHARD, 2, after, 200)
        pages.append((after, entries, last))
        after = last
    assert len(pages) > 5
    assert after == wanted.last
    first, second = pages[0], pages[1]
    # The second before the first: nothing is taken, though a staging begins.
    assert b.do(InstallChunk(SHARD, 2, second[0], second[1])) == [Code.RESUME, b""]
    assert b.do(Install(SHARD, 2, wanted)) == [Code.RESUME, b""]
    assert b.do(InstallChunk(SHARD, 2, first[0], first[1])) == [Code.OK, first[2]]
    # A repeated chunk, and one of another controller that cuts pages in another way.
    assert b.do(InstallChunk(SHARD, 2, first[0], first[1])) == [Code.RESUME, first[2]]
    big = a.read(Method.READ_SHARD, SHARD, 2, b"", 1000)
    assert b.do(InstallChunk(SHARD, 2, b"", big[2])) == [Code.RESUME, first[2]]
    for after, entries, last in pages[1:]:
        assert b.do(Install(SHARD, 2, wanted)) == [Code.RESUME, after]
        assert b.do(InstallChunk(SHARD, 2, after, entries)) == [Code.OK, last]
        assert b.get(HERE[0]) == [Code.WRONG_GROUP, 2, None, None]
    assert b.do(Install(SHARD, 2, wanted)) == [Code.OK]
    assert b.do(InstallChunk(SHARD, 2, first[0], first[1])) == [Code.INSTALLED]
    # An install again has no effect: puts may have happened.
    b.do(Put(HERE[0], b"new"))
    assert b.do(Install(SHARD, 2, wanted)) == [Code.OK]
    assert b.get(HERE[0])[1] == b"new"


def test_what_is_not_what_the_source_has_is_not_installed_and_staged_anew() -> None:
    a, b = filled(), group(owns=False)
    _, summary = a.do(Freeze(SHARD, 2, 7, ()))
    wanted = unpack_summary(summary)
    _, _, entries, last, _ = a.read(Method.READ_SHARD, SHARD, 2, b"", 1 << 20)
    wrong = [
        wanted._replace(rows=wanted.rows + 1),
        wanted._replace(size=wanted.size - 1),
        wanted._replace(hash=bytes(16)),
        wanted._replace(sessions=0),
        wanted._replace(session_hash=bytes(16)),
        wanted._replace(last=b"\0"),
    ]
    for restarts, summary in enumerate(wrong):
        assert b.do(InstallChunk(SHARD, 2, b"", entries)) == [Code.OK, last]
        reply = b.do(Install(SHARD, 2, summary))
        assert reply[0] == Code.REFUSED
        assert "begins again" in reply[1]
        with b.engine.read() as txn:
            record = b.machine.record(txn, SHARD)
        assert record[:6] == (State.STAGING, 2, 2 * 65536 + restarts + 1, 0, 0, 0)
        assert record.position == b""
    assert b.do(InstallChunk(SHARD, 2, b"", entries)) == [Code.OK, last]
    assert b.do(Install(SHARD, 2, wanted)) == [Code.OK]
    while b.background(7):
        pass
    assert b.rows() == wanted.rows + 2 * wanted.sessions + 1


def test_a_staging_does_not_begin_again_for_ever() -> None:
    b = group(owns=False)
    b.do(InstallChunk(SHARD, 2, b"", b""))
    with b.engine.write() as txn:
        record = b.machine.record(txn, SHARD)
        b.machine.put_record(txn, SHARD, record._replace(incarnation=record.incarnation + RESTARTS_MAX))
    before = b.hash
    assert b.do(Install(SHARD, 2, EMPTY_SUMMARY._replace(rows=1)))[0] == Code.REFUSED
    with b.engine.read() as txn:
        assert b.machine.record(txn, SHARD).incarnation == 2 * 65536 + RESTARTS_MAX
    assert b.hash == before


def row(key: bytes, value: bytes = b"v", version: int = 1) -> tuple[bytes, bytes]:
    return b"\0" + key, kv.encode_row(version, value)


SESSION = (b"\1" + bytes(8), encode_session(Session(1, 0, 0)))


@pytest.mark.parametrize(
    ("after", "entries"),
    [
        (b"", [row(b"k0")]),
        (b"", [(b"\0" + HERE[0], b"short")]),
        (b"", [row(HERE[0], version=0)]),
        (b"", [row(HERE[0], version=1 << 63)]),
        (b"", [(b"\1" + bytes(7), SESSION[1])]),
        (b"", [(b"\1" + bytes(8), b"no session")]),
        (b"", [(b"\2", b"")]),
        (b"\1", [row(HERE[0])]),
        (SESSION[0], [SESSION]),
    ],
)
def test_a_chunk_with_something_wrong_in_it_is_refused_whole(after: bytes, entries: list[tuple[bytes, bytes]]) -> None:
    b = group(owns=False)
    before = b.hash
    assert b.do(InstallChunk(SHARD, 2, after, encode_entries(entries)))[0] == Code.BAD_REQUEST
    assert b.hash == before
    assert b.rows() == 0


def test_entries_that_are_no_entries_are_refused() -> None:
    for data in (b"\xff", dumps([b"\0b", b"", b"\0a", b""]), dumps({})):
        assert group(owns=False).do(InstallChunk(SHARD, 2, b"", data))[0] == Code.BAD_REQUEST


def test_a_row_of_the_largest_size_moves() -> None:
    a, b = group(), group(owns=False)
    a.do(Put(HERE[0], b"v" * MAX_VALUE_BYTES))
    a.do(Put(HERE[1], b"w" * MAX_VALUE_BYTES))
    move(a, b, SHARD, 2)
    assert b.get(HERE[1])[1] == b"w" * MAX_VALUE_BYTES


def test_a_shard_that_does_not_exist_is_refused() -> None:
    box = group()
    for command in (Freeze(12, 2, 7, ()), InstallChunk(12, 2, b"", b""), Install(12, 2, EMPTY_SUMMARY)):
        assert box.do(command) == [Code.BAD_REQUEST, "there is no shard 12: they are 0..11"]
    assert box.read(Method.SCAN, 12, b"", None, 1, 1)[0] == Code.BAD_REQUEST
    assert box.read(Method.READ_SHARD, 12, 1, b"", 1)[0] == Code.BAD_REQUEST


# --- reading a frozen shard ------------------------------------------------------------------------------------------


def test_a_frozen_shard_is_read_until_it_is_deleted_and_only_at_its_num() -> None:
    a = filled()
    assert a.read(Method.READ_SHARD, SHARD, 2, b"", 100) == [Code.NOT_YET, 2]
    assert a.read(Method.READ_SHARD, SHARD, 1, b"", 100)[0] == Code.REFUSED
    summary = a.do(Freeze(SHARD, 2, 7, ()))[1]
    page = a.read(Method.READ_SHARD, SHARD, 2, b"", 100)
    assert page[:2] == [Code.OK, summary]
    assert a.do(Freeze(SHARD, 2, 9, ("other",))) == [Code.OK, summary]
    assert a.read(Method.READ_SHARD, SHARD, 2, b"", 100) == page
    assert a.read(Method.READ_SHARD, SHARD, 1, b"", 100) == [Code.STALE, 2]
    assert a.read(Method.READ_SHARD, SHARD, 2, summary[-1], 100) == [Code.OK, summary, b"", summary[-1], False]
    assert a.read(Method.READ_SHARD, SHARD, 2, b"\2", 100) == [Code.OK, summary, b"", b"\2", False]
    a.do(DeleteShard(SHARD, 2))
    assert a.read(Method.READ_SHARD, SHARD, 2, b"", 100) == [Code.GONE]
    assert a.do(Freeze(SHARD, 2, 7, ())) == [Code.GONE]


def test_a_summary_says_rows_and_last_position_with_and_without_sessions() -> None:
    a = group()
    a.do(Put(HERE[0], b"value"))
    found = unpack_summary(a.do(Freeze(SHARD, 2, 7, ()))[1])
    hashed = kv.row_hash(HERE[0], kv.encode_row(1, b"value")).to_bytes(16, "big")
    assert found == Summary(1, len(HERE[0]) + 5, hashed, 0, bytes(16), 0, 0, b"\0" + HERE[0])
    b = group()
    send(b, 9, 1, Put(HERE[0], b"value"))
    found = unpack_summary(b.do(Freeze(SHARD, 2, 7, ()))[1])
    assert (found.sessions, found.tick, found.last) == (1, 1, b"\1" + bytes(7) + b"\x09")


# --- what lies behind ------------------------------------------------------------------------------------------------


def test_retired_rows_are_removed_in_steps_and_are_no_part_of_the_state() -> None:
    a, b = filled(), group(owns=False)
    assert not a.background(100)
    move(a, b, SHARD, 2)
    before, rows = a.hash, a.rows()
    steps = 0
    while a.background(8):
        steps += 1
        assert rows - a.rows() <= 8
        rows = a.rows()
        assert a.hash == before
    assert steps >= 5
    assert a.rows() == 11  # the counters of the other shards
    assert not a.background(8)


def test_a_shard_comes_back_while_its_old_rows_are_still_there() -> None:
    a, b = filled(), group(owns=False)
    move(a, b, SHARD, 2)
    b.do(Put(HERE[0], b"b"))
    b.do(Delete(HERE[1]))
    move(b, a, SHARD, 3)
    while a.background(3) | b.background(3):
        assert a.get(HERE[0])[1] == b"b"
    assert a.get(HERE[1]) == [Code.NO_KEY]
    assert b.rows() == 0


def test_what_was_frozen_is_removed_too_when_the_shard_comes_back_before_its_delete() -> None:
    a = filled()
    a.do(Freeze(SHARD, 2, 7, ()))
    assert a.do(Install(SHARD, 3, EMPTY_SUMMARY)) == [Code.OK]
    assert a.do(DeleteShard(SHARD, 2)) == [Code.STALE, 3]
    while a.background(100):
        pass
    assert a.rows() == 12  # counters only
    assert a.get(HERE[0]) == [Code.NO_KEY]


def test_one_machine_object_reads_old_and_new_views_right() -> None:
    a = group()
    a.do(Put(HERE[0], b"v"))
    with a.engine.read() as old:
        a.do(Freeze(SHARD, 2, 7, ()))
        assert a.get(HERE[0])[0] == Code.WRONG_GROUP
        assert a.machine.read(old, Method.GET, [HERE[0]]) == [Code.OK, b"v", 1]
    assert a.get(HERE[0])[0] == Code.WRONG_GROUP


def test_an_abandoned_staging_is_removed() -> None:
    a, b = filled(), group(owns=False)
    a.do(Freeze(SHARD, 2, 7, ()))
    entries = a.read(Method.READ_SHARD, SHARD, 2, b"", 300)[2]
    assert b.do(InstallChunk(SHARD, 2, b"", entries))[0] == Code.OK
    assert b.do(Install(SHARD, 3, EMPTY_SUMMARY)) == [Code.OK]
    while b.background(100):
        pass
    assert b.rows() == 1  # the counters of the new one
    assert b.get(HERE[0]) == [Code.NO_KEY]


def test_the_number_of_shards_goes_to_disk_with_the_first_shard() -> None:
    box = Box(GroupMachine(shards=5))
    with box.engine.read() as txn:
        assert stored_shards(txn) is None
    install_empty(box, shards=5)
    with box.engine.read() as txn:
        assert stored_shards(txn) == 5
        with pytest.raises(FormatMismatch, match="5 shards; this peer is started with 12"):
            GroupMachine().shard_count(txn)
        assert GroupMachine(shards=5).read(txn, Method.GET, [b"k"]) == [Code.NO_KEY]
    for payload, wrong in [(dumps([2, 5]), FormatMismatch), (dumps([1, 0]), CorruptRecord), (b"x", CorruptRecord)]:
        with box.engine.write() as txn:
            txn.put("group", b"format", payload)
            with pytest.raises(wrong):
                stored_shards(txn)
    with pytest.raises(ValueError, match="0 shards"):
        GroupMachine(shards=0)
