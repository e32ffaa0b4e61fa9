"""The write-behind view: what is pending, what is frozen, and that no reader sees a gap."""

import pytest

from store.engine import Engine, Fenced, StoreError
from store.keys import u32
from store.layers import Layer
from store.overlay import ENTRY_OVERHEAD_BYTES, SEEN_BYTES_MAX, Overlay
from tests.store.boxes import Box, content, put


def flush(overlay: Overlay, engine: Engine) -> None:
    job = overlay.freeze()
    with engine.write() as txn:
        job(txn)
    overlay.flushed()


def test_a_pending_write_is_seen_here_and_nowhere_else(engine: Engine) -> None:
    overlay = Overlay(engine)
    overlay.put("a", b"k", b"v")
    assert overlay.get("a", b"k") == b"v"
    assert content(engine, "a") == {}
    flush(overlay, engine)
    assert overlay.get("a", b"k") == b"v"
    assert content(engine, "a") == {b"k": b"v"}
    overlay.close()


def test_each_layer_hides_the_ones_below(engine: Engine) -> None:
    put(engine, "a", *((key, b"disk") for key in (b"1", b"2", b"3", b"4")))
    overlay = Overlay(engine)
    overlay.put("a", b"2", b"flushing")
    overlay.put("a", b"3", b"flushing")
    overlay.delete("a", b"4")
    job = overlay.freeze()
    overlay.put("a", b"3", b"active")
    overlay.put("a", b"5", b"active")
    shown = [(b"1", b"disk"), (b"2", b"flushing"), (b"3", b"active"), (b"5", b"active")]
    assert list(overlay.scan("a")) == shown
    with engine.write() as txn:
        job(txn)
    assert list(overlay.scan("a", reverse=True)) == shown[::-1]
    overlay.flushed()
    assert list(overlay.scan("a")) == shown
    assert content(engine, "a") == {b"1": b"disk", b"2": b"flushing", b"3": b"flushing"}
    overlay.close()


def test_a_key_deleted_while_it_is_being_flushed_stays_deleted(engine: Engine) -> None:
    overlay = Overlay(engine)
    overlay.put("a", b"k", b"v")
    job = overlay.freeze()
    assert overlay.delete("a", b"k")
    assert not overlay.delete("a", b"k")
    with engine.write() as txn:
        job(txn)
    overlay.flushed()
    assert overlay.get("a", b"k") is None
    flush(overlay, engine)
    assert content(engine, "a") == {}
    overlay.close()


def test_delete_range_goes_through_all_layers(engine: Engine) -> None:
    put(engine, "a", *((u32(number), b"disk") for number in range(0, 9, 3)))
    overlay = Overlay(engine)
    for number in range(1, 9, 3):
        overlay.put("a", u32(number), b"flushing")
    job = overlay.freeze()
    for number in range(2, 9, 3):
        overlay.put("a", u32(number), b"active")
    assert overlay.delete_range("a", u32(1), u32(8), limit=4) == 4
    assert [key for key, _ in overlay.scan("a")] == [u32(0), u32(5), u32(6), u32(7), u32(8)]
    with engine.write() as txn:
        job(txn)
    overlay.flushed()
    assert overlay.delete_range("a", b"", None) == 5
    flush(overlay, engine)
    assert content(engine, "a") == {}
    overlay.close()


def test_after_a_flush_the_newest_commit_is_seen_whoever_made_it(engine: Engine) -> None:
    overlay = Overlay(engine)
    put(engine, "b", (b"k", b"another's"))
    assert overlay.get("b", b"k") is None
    flush(overlay, engine)
    assert overlay.get("b", b"k") == b"another's"
    overlay.close()


def test_what_was_read_before_is_read_anew_after_a_flush(engine: Engine) -> None:
    put(engine, "a", (b"k", b"old"), (b"long", bytes(SEEN_BYTES_MAX + 1)))
    overlay = Overlay(engine)
    for _ in range(2):
        assert overlay.get("a", b"k") == b"old" and overlay.get("a", b"long") == bytes(SEEN_BYTES_MAX + 1)
        assert overlay.get("b", b"k") is None
    put(engine, "a", (b"k", b"new"))
    assert overlay.get("a", b"k") == b"old", "a view of one moment"
    flush(overlay, engine)
    assert overlay.get("a", b"k") == b"new"
    overlay.put("a", b"k", b"newer")
    assert overlay.get("a", b"k") == b"newer"
    overlay.delete("a", b"k")
    assert overlay.get("a", b"k") is None
    overlay.close()


def test_pending_bytes_are_counted_per_layer_and_return_to_nothing(engine: Engine) -> None:
    overlay = Overlay(engine)
    assert overlay.size_bytes == 0
    overlay.put("a", b"key", b"12345")
    one = 3 + 5 + ENTRY_OVERHEAD_BYTES
    assert overlay.size_bytes == one
    overlay.put("a", b"key", b"1")
    assert overlay.size_bytes == one - 4
    overlay.delete("a", b"key")
    assert overlay.size_bytes == one - 5
    overlay.put("a", b"key", b"12345")
    job = overlay.freeze()
    assert (overlay.size_bytes, overlay.flushing) == (one, True)
    overlay.put("a", b"key", b"12345")
    assert overlay.size_bytes == 2 * one
    with engine.write() as txn:
        job(txn)
    overlay.flushed()
    assert (overlay.size_bytes, overlay.flushing) == (one, False)
    flush(overlay, engine)
    assert overlay.size_bytes == 0
    overlay.close()


def test_one_flush_at_a_time(engine: Engine) -> None:
    overlay = Overlay(engine)
    with pytest.raises(StoreError, match="no flush"):
        overlay.flushed()
    overlay.freeze()
    with pytest.raises(StoreError, match="under way"):
        overlay.freeze()
    overlay.close()


@pytest.mark.parametrize("key", [b"", b"x" * 512])
def test_a_key_that_no_table_can_hold_is_refused_at_once(engine: Engine, key: bytes) -> None:
    overlay = Overlay(engine)
    with pytest.raises(StoreError, match=f"{len(key)} bytes"):
        overlay.put("a", key, b"")
    assert overlay.size_bytes == 0
    overlay.close()


def test_an_append_must_be_above_every_layer(engine: Engine) -> None:
    put(engine, "a", (u32(5), b""))
    overlay = Overlay(engine)
    with pytest.raises(StoreError, match="append"):
        overlay.put("a", u32(5), b"", append=True)
    overlay.put("a", u32(255), b"", append=True)
    overlay.freeze()
    with pytest.raises(StoreError, match="append"):
        overlay.put("a", u32(200), b"", append=True)
    overlay.put("a", u32(256), b"", append=True)
    assert overlay.last("a") == (u32(256), b"")
    overlay.close()


def test_an_unknown_table_is_named(engine: Engine) -> None:
    overlay = Overlay(engine)
    for call in (
        lambda: overlay.get("c", b"k"),
        lambda: list(overlay.scan("c")),
        lambda: overlay.last("c"),
        lambda: overlay.put("c", b"k", b""),
        lambda: overlay.delete("c", b"k"),
    ):
        with pytest.raises(StoreError, match="no table 'c'"):
            call()
    overlay.close()


def test_a_view_ends_with_its_engine(box: Box) -> None:
    overlay = Overlay(box.engine)
    overlay.put("a", b"k", b"lost")
    box.engine.fence()
    with pytest.raises(Fenced):
        overlay.get("a", b"other")
    overlay.close()
    overlay.close()
    box.crash()
    assert content(box.engine, "a") == {}


def test_a_layer_is_in_order_however_it_was_written() -> None:
    layer = Layer()
    for burst in (1, 5, 40, 3, 200):
        for number in range(burst):
            layer.put(u32(number * 7919 % 211), b"%d" % burst)
        keys = [key for key, _ in layer.items(b"", None, reverse=False)]
        assert keys == sorted(layer.writes)
        assert [key for key, _ in layer.items(u32(3), u32(100), reverse=True)] == [
            key for key in reversed(keys) if u32(3) <= key < u32(100)
        ]
        assert layer.touches(keys[-1], None)
        assert not layer.touches(keys[-1] + b"\0", None)
        assert not layer.touches(keys[0] + b"\0", keys[0] + b"\0\0")
