"""The contract of an engine, sentence by sentence; the same for LMDB and for the fake."""

from itertools import pairwise

import pytest

from store.engine import MAX_KEY_BYTES, CorruptRecord, Engine, Fenced, StoreError
from store.keys import prefix_stop, u16, u32, u64
from tests.store.boxes import Box, content, put


def test_what_is_put_is_got_and_what_is_not_is_none(engine: Engine) -> None:
    put(engine, "a", (b"k", b"v"), (b"empty", b""))
    with engine.read() as txn:
        assert txn.get("a", b"k") == b"v"
        assert txn.get("a", b"empty") == b""
        assert txn.get("a", b"other") is None
        assert txn.get("b", b"k") is None


def test_a_put_replaces(engine: Engine) -> None:
    put(engine, "a", (b"k", b"long ago" * 1000), (b"k", b"v"))
    put(engine, "a", (b"k", b"w"))
    assert content(engine, "a") == {b"k": b"w"}


def test_a_write_sees_its_own_writes(engine: Engine) -> None:
    put(engine, "a", (b"1", b"x"), (b"2", b"x"))
    with engine.write() as txn:
        txn.put("a", b"3", b"y")
        assert txn.delete("a", b"1")
        assert txn.get("a", b"1") is None
        assert list(txn.scan("a")) == [(b"2", b"x"), (b"3", b"y")]
        assert txn.last("a") == (b"3", b"y")


def test_delete_says_whether_it_was_there(engine: Engine) -> None:
    put(engine, "a", (b"k", b"v"))
    with engine.write() as txn:
        assert txn.delete("a", b"k")
        assert not txn.delete("a", b"k")
        assert not txn.delete("a", b"")
        assert not txn.delete("a", b"x" * 600)
    assert content(engine, "a") == {}


@pytest.mark.parametrize(("pack", "edges"), [(u64, (0, 255, 65535, 2**32 - 1)), (u32, (255, 65535)), (u16, (255,))])
def test_big_endian_keys_are_in_the_order_of_their_numbers(engine: Engine, pack, edges) -> None:
    numbers = sorted(number for edge in edges for number in (edge, edge + 1))
    put(engine, "a", *((pack(number), b"%d" % number) for number in reversed(numbers)))
    with engine.read() as txn:
        assert [int(payload) for _, payload in txn.scan("a")] == numbers
        assert [int(payload) for _, payload in txn.scan("a", reverse=True)] == numbers[::-1]
        for low, high in pairwise(numbers):
            assert [int(payload) for _, payload in txn.scan("a", pack(low), pack(high))] == [low]


def test_appends_pass_the_edges_of_a_byte(engine: Engine) -> None:
    for start in (1, 250, 65530):
        with engine.write() as txn:
            for number in range(start, start + 10):
                txn.put("a", u64(number), b"%d" % number, append=True)
    with engine.read() as txn:
        assert [int(payload) for _, payload in txn.scan("a", u64(254), u64(65537))] == [
            *range(254, 260),
            *range(65530, 65537),
        ]


@pytest.mark.parametrize("key", [u64(255), u64(256), u64(1)])
def test_an_append_that_is_not_above_the_last_key_is_refused_and_all_of_it_undone(engine: Engine, key: bytes) -> None:
    put(engine, "a", (u64(255), b""), (u64(256), b"last"))
    with pytest.raises(StoreError, match="append"), engine.write() as txn:
        txn.put("a", u64(300), b"first")
        txn.delete("a", u64(300))
        txn.put("a", u64(257), b"fine", append=True)
        txn.put("a", key, b"not", append=True)
    assert content(engine, "a") == {u64(255): b"", u64(256): b"last"}


def test_an_append_may_follow_a_deletion_of_the_tail(engine: Engine) -> None:
    put(engine, "a", *((u64(number), b"old") for number in range(1, 10)))
    with engine.write() as txn:
        assert txn.delete_range("a", u64(5), None) == 5
        txn.put("a", u64(5), b"new", append=True)
    with engine.read() as txn:
        assert txn.last("a") == (u64(5), b"new")


KEYS = [b"\x00", b"a", b"a\x00", b"ab", b"b", b"b\xff", b"c", b"\xff", b"\xff\xff"]
BOUNDS = [b"", b"\x00", b"a", b"a\x00", b"aa", b"b", b"b\xff\xff", b"\xff", b"\xff" * 600, b"z"]


@pytest.mark.parametrize("start", BOUNDS)
@pytest.mark.parametrize("stop", [*BOUNDS, None])
def test_scan_and_last_take_their_start_and_leave_their_stop_out(
    engine: Engine, start: bytes, stop: bytes | None
) -> None:
    put(engine, "a", *((key, key * 2) for key in KEYS))
    wanted = [(key, key * 2) for key in sorted(KEYS) if start <= key and (stop is None or key < stop)]
    with engine.read() as txn:
        assert list(txn.scan("a", start, stop)) == wanted
        assert list(txn.scan("a", start, stop, reverse=True)) == wanted[::-1]
        assert txn.last("a", start, stop) == (wanted[-1] if wanted else None)


def test_an_empty_table_has_no_first_and_no_last(engine: Engine) -> None:
    with engine.read() as txn:
        assert list(txn.scan("a")) == list(txn.scan("a", b"x", reverse=True)) == []
        assert txn.last("a") is None


def test_a_prefix_is_a_range(engine: Engine) -> None:
    keys = [u16(1) + b"z", u16(255), u16(255) + b"a", u16(256), b"\xff\xff", b"\xff\xffz"]
    put(engine, "a", *((key, b"") for key in keys))
    with engine.read() as txn:
        assert [key for key, _ in txn.scan("a", u16(255), prefix_stop(u16(255)))] == keys[1:3]
        assert [key for key, _ in txn.scan("a", b"\xff\xff", prefix_stop(b"\xff\xff"))] == keys[4:]


def test_a_scan_goes_on_after_the_longest_key(engine: Engine) -> None:
    longest = [b"k" * MAX_KEY_BYTES, b"k" * (MAX_KEY_BYTES - 1) + b"l"]
    put(engine, "a", *((key, b"") for key in longest))
    with engine.read() as txn:
        assert [key for key, _ in txn.scan("a", longest[0] + b"\0")] == longest[1:]
        assert txn.last("a", b"", longest[0] + b"\0") == (longest[0], b"")
        assert txn.last("a", b"", longest[1] + b"\0") == (longest[1], b"")


def test_long_scans_give_every_key_once(engine: Engine) -> None:
    keys = [u32(number) for number in range(0, 3000, 3)]
    put(engine, "a", *((key, key) for key in keys))
    with engine.read() as txn:
        assert [key for key, _ in txn.scan("a", u32(1))] == keys[1:]
        assert [key for key, _ in txn.scan("a", u32(1), u32(2999), reverse=True)] == keys[:0:-1]


@pytest.mark.parametrize("key", [b"", b"x" * (MAX_KEY_BYTES + 1)])
def test_a_key_that_no_table_can_hold_is_refused(engine: Engine, key: bytes) -> None:
    with pytest.raises(StoreError, match=f"{len(key)} bytes"), engine.write() as txn:
        txn.put("a", key, b"")
    with engine.read() as txn:
        assert txn.get("a", key) is None


@pytest.mark.parametrize(("limit", "left"), [(None, 2), (0, 6), (1, 5), (3, 3), (4, 2), (9, 2)])
def test_delete_range_removes_the_first_so_many(engine: Engine, limit: int | None, left: int) -> None:
    put(engine, "a", *((u16(number), b"") for number in range(6)))
    with engine.write() as txn:
        assert txn.delete_range("a", u16(1), u16(5), limit=limit) == 6 - left
    assert sorted(content(engine, "a")) == [u16(0), *(u16(number) for number in range(7 - left, 6))]


def test_delete_range_without_a_stop_takes_the_rest(engine: Engine) -> None:
    put(engine, "a", *((u16(number), b"") for number in range(600)))
    with engine.write() as txn:
        assert txn.delete_range("a", u16(599), b"") == 0
        assert txn.delete_range("a", u16(100), None) == 500
        assert txn.delete_range("a", b"", u16(99)) == 99
        assert txn.delete_range("b", b"", None) == 0
    assert sorted(content(engine, "a")) == [u16(99)]


def test_a_reader_sees_one_commit_however_many_follow(engine: Engine) -> None:
    put(engine, "a", *((u16(number), b"old") for number in range(600)))
    with engine.read() as before:
        scan = before.scan("a")
        assert next(scan) == (u16(0), b"old")
        with engine.write() as txn:
            txn.put("a", u16(1), b"new")
            txn.put("a", u16(1000), b"new")
            txn.delete_range("a", u16(300), u16(400))
            assert before.get("a", u16(1)) == b"old"
        with engine.write() as txn:
            txn.put("a", u16(1), b"newer")
            txn.put("a", u16(350), b"newer")
            txn.put("b", b"x", b"newer")
        assert [*scan] == [(u16(number), b"old") for number in range(1, 600)]
        assert before.get("a", u16(350)) == b"old"
        assert before.last("a") == (u16(599), b"old")
        assert before.get("b", b"x") is None
        with engine.read() as after:
            assert after.get("a", u16(350)) == b"newer"
            assert len(list(after.scan("a"))) == 502
            assert after.last("a") == (u16(1000), b"new")


def test_nothing_is_seen_before_the_commit(engine: Engine) -> None:
    with engine.write() as txn:
        txn.put("a", b"k", b"v")
        assert content(engine, "a") == {}
    assert content(engine, "a") == {b"k": b"v"}


def test_an_exception_inside_leaves_nothing_and_the_engine_goes_on(engine: Engine) -> None:
    put(engine, "a", (b"1", b"x"))
    with pytest.raises(ZeroDivisionError), engine.write() as txn:
        txn.put("a", b"2", b"y")
        txn.delete("a", b"1")
        txn.put("b", b"2", b"y")
        raise ZeroDivisionError
    assert content(engine, "a") == {b"1": b"x"}
    assert content(engine, "b") == {}
    put(engine, "a", (b"2", b"z"))
    assert content(engine, "a") == {b"1": b"x", b"2": b"z"}


def test_there_is_one_write_transaction_at_a_time(engine: Engine) -> None:
    with engine.write() as txn:
        txn.put("a", b"k", b"v")
        with pytest.raises(StoreError, match="one at a time"), engine.write():
            pass
    assert content(engine, "a") == {b"k": b"v"}


def test_a_transaction_that_has_ended_takes_no_more_calls(engine: Engine) -> None:
    with engine.read() as read:
        pass
    with engine.write() as write:
        pass
    for call in (
        lambda: read.get("a", b"k"),
        lambda: list(read.scan("a")),
        lambda: write.put("a", b"k", b"v"),
        lambda: write.delete("a", b"k"),
        lambda: write.delete_range("a", b"", None),
    ):
        with pytest.raises(StoreError, match="has ended"):
            call()


def test_an_unknown_table_is_named(engine: Engine) -> None:
    with engine.write() as txn:
        for call in (
            lambda: txn.get("c", b"k"),
            lambda: list(txn.scan("c")),
            lambda: txn.last("c"),
            lambda: txn.put("c", b"k", b"v"),
            lambda: txn.delete("c", b"k"),
            lambda: txn.delete_range("c", b"", None),
        ):
            with pytest.raises(StoreError, match="no table 'c'; there are a, b, meta"):
                call()


def test_a_damaged_record_is_named_and_never_skipped(box: Box) -> None:
    put(box.engine, "a", (b"1", b"x"), (b"2", b"y"), (b"3", b""))
    box.corrupt("a", b"2")
    with box.engine.read() as txn:
        assert txn.get("a", b"1") == b"x"
        assert list(txn.scan("a", b"3")) == [(b"3", b"")]
        for call in (
            lambda: txn.get("a", b"2"),
            lambda: list(txn.scan("a")),
            lambda: list(txn.scan("a", reverse=True)),
            lambda: txn.last("a", b"", b"3"),
        ):
            with pytest.raises(CorruptRecord, match="table 'a', key 32: checksum") as found:
                call()
            assert (found.value.table, found.value.key) == ("a", b"2")


def test_an_empty_payload_is_checked_too(box: Box) -> None:
    put(box.engine, "a", (b"k", b""))
    box.corrupt("a", b"k")
    with pytest.raises(CorruptRecord), box.engine.read() as txn:
        txn.get("a", b"k")


def test_a_crash_keeps_every_commit_and_nothing_else(box: Box) -> None:
    put(box.engine, "a", (b"1", b"x"))
    put(box.engine, "a", (b"2", b"y"))
    with pytest.raises(Fenced), box.engine.write() as txn:
        txn.put("a", b"3", b"z")
        box.engine.fence()
    box.crash()
    assert content(box.engine, "a") == {b"1": b"x", b"2": b"y"}


def test_a_fenced_engine_takes_no_call(box: Box) -> None:
    put(box.engine, "a", (b"k", b"v"))
    engine = box.engine
    with engine.read() as txn:
        engine.fence()
        engine.fence()
        with pytest.raises(Fenced):
            txn.get("a", b"k")
        with pytest.raises(Fenced):
            list(txn.scan("a"))
    for call in (lambda: content(engine, "a"), lambda: put(engine, "a", (b"k", b"w")), engine.info):
        with pytest.raises(Fenced, match="fenced"):
            call()
    engine.close()
    box.crash()
    assert content(box.engine, "a") == {b"k": b"v"}


def test_a_closed_engine_takes_no_call_and_may_be_closed_again(engine: Engine) -> None:
    engine.close()
    engine.close()
    with pytest.raises(Fenced, match="closed"), engine.read():
        pass


def test_an_engine_may_be_closed_below_an_open_reader(engine: Engine) -> None:
    with engine.read() as txn:
        engine.close()
        with pytest.raises(Fenced):
            txn.get("a", b"k")


def test_info_counts(engine: Engine) -> None:
    before = engine.info()
    put(engine, "a", (b"k", b"v" * 100_000))
    after = engine.info()
    assert after.last_txnid == before.last_txnid + 1
    assert after.used_bytes >= before.used_bytes + 100_000
    assert after.map_size_bytes > after.used_bytes
    assert after.page_size_bytes >= 4096


def test_a_snapshot_tells_the_number_of_the_commit_that_it_sees(engine: Engine) -> None:
    with engine.read() as before:
        put(engine, "a", (b"k", b"v"))
        with engine.read() as after, engine.read() as again:
            assert before.number < after.number == again.number == engine.info().last_txnid
        assert before.get("a", b"k") is None


def test_an_engine_tells_its_tables(engine: Engine) -> None:
    assert engine.tables == ("meta", "a", "b")
