"""The hand-over table: total, and each of its laws; the record."""

from itertools import product

import pytest

from raftlog.codec import loads
from shardkv.commands import EMPTY_SUMMARY, Command, DeleteShard, Freeze, Install, InstallChunk, Keep, encode_command
from shardkv.config import NOBODY
from shardkv.group import GroupMachine
from shardkv.replies import Code
from shardkv.shards import (
    NO_SHARD,
    TABLE,
    Action,
    Event,
    Relation,
    ShardRecord,
    State,
    decode_record,
    draw,
    encode_record,
    incarnation_of,
    relation,
    restarts_of,
)
from store.engine import CorruptRecord, FormatMismatch
from tests.shardkv.boxes import Box

POSSIBLE = [
    (state, event, how)
    for state, event, how in product(State, Event, Relation)
    # An absent shard has num 0, and events count from 1.
    if state is not State.ABSENT or how is Relation.HIGHER
]


def test_the_table_is_total_over_what_can_be_and_nothing_else() -> None:
    assert set(TABLE) == set(POSSIBLE)


def test_a_lower_num_is_always_stale() -> None:
    assert {TABLE[key] for key in POSSIBLE if key[2] is Relation.LOWER} == {Action.STALE}
    assert all(TABLE[key] is not Action.STALE for key in POSSIBLE if key[2] is not Relation.LOWER)


def test_only_what_is_served_is_frozen_and_only_at_a_higher_num() -> None:
    found = [key for key in POSSIBLE if TABLE[key] is Action.FREEZE]
    assert found == [(State.SERVING, Event.FREEZE, Relation.HIGHER)]


def test_only_what_was_frozen_is_deleted() -> None:
    found = {key for key in POSSIBLE if TABLE[key] is Action.DELETE}
    assert found == {(State.FROZEN, Event.DELETE, Relation.SAME), (State.FROZEN, Event.DELETE, Relation.HIGHER)}


def test_nothing_overwrites_what_is_served() -> None:
    for key in POSSIBLE:
        if key[0] is State.SERVING:
            assert TABLE[key] in (
                Action.STALE,
                Action.REFUSE,
                Action.AGAIN,
                Action.INSTALLED,
                Action.FREEZE,
                Action.KEEP,
            )


def test_an_install_replaces_every_dead_incarnation() -> None:
    for state in (State.ABSENT, State.STAGING, State.FROZEN, State.DELETED):
        assert TABLE[state, Event.INSTALL, Relation.HIGHER] is Action.INSTALL_ANEW
        assert TABLE[state, Event.CHUNK, Relation.HIGHER] is Action.STAGE


def test_the_answers_at_the_same_num() -> None:
    same = Relation.SAME
    assert TABLE[State.FROZEN, Event.FREEZE, same] is Action.AGAIN
    assert TABLE[State.DELETED, Event.FREEZE, same] is Action.GONE
    assert TABLE[State.DELETED, Event.DELETE, same] is Action.AGAIN
    assert TABLE[State.SERVING, Event.INSTALL, same] is Action.AGAIN
    assert TABLE[State.SERVING, Event.DELETE, same] is Action.REFUSE
    assert TABLE[State.STAGING, Event.DELETE, same] is Action.REFUSE
    assert TABLE[State.SERVING, Event.FREEZE, same] is Action.REFUSE  # what is kept stays kept


def test_only_an_owner_keeps_and_only_under_the_change_that_took_it_away() -> None:
    keeps = {(s, how) for (s, event, how), action in TABLE.items() if event is Event.KEEP and action is Action.KEEP}
    assert keeps == {(State.SERVING, Relation.HIGHER), (State.FROZEN, Relation.SAME)}


STEPS: dict[State, list[Command]] = {
    State.ABSENT: [],
    State.STAGING: [InstallChunk(0, 5, b"", b"")],
    State.SERVING: [Install(0, 5, EMPTY_SUMMARY)],
    State.FROZEN: [Install(0, 4, EMPTY_SUMMARY), Freeze(0, 5, NOBODY, ())],
    State.DELETED: [Install(0, 4, EMPTY_SUMMARY), Freeze(0, 5, 2, ("b",)), DeleteShard(0, 5)],
}
EVENTS: dict[Event, type] = {
    Event.FREEZE: Freeze,
    Event.CHUNK: InstallChunk,
    Event.INSTALL: Install,
    Event.DELETE: DeleteShard,
    Event.KEEP: Keep,
}
OUTCOMES: dict[Action, tuple[Code, State | None]] = {
    Action.STALE: (Code.STALE, None),
    Action.GONE: (Code.GONE, None),
    Action.REFUSE: (Code.REFUSED, None),
    Action.AGAIN: (Code.OK, None),
    Action.INSTALLED: (Code.INSTALLED, None),
    Action.FREEZE: (Code.OK, State.FROZEN),
    Action.STAGE: (Code.OK, State.STAGING),
    Action.STAGE_ON: (Code.OK, State.STAGING),
    Action.INSTALL_ANEW: (Code.OK, State.SERVING),
    Action.INSTALL: (Code.OK, State.SERVING),
    Action.DELETE: (Code.OK, State.DELETED),
    Action.KEEP: (Code.OK, State.SERVING),
}


@pytest.mark.parametrize(("state", "event", "how"), POSSIBLE)
def test_the_machine_does_what_the_table_says(state: State, event: Event, how: Relation) -> None:
    box = Box(GroupMachine())
    for step in STEPS[state]:
        assert box.do(step)[0] == Code.OK
    num = {Relation.LOWER: 4, Relation.SAME: 5, Relation.HIGHER: 6}[how]
    command: Command = {
        Event.FREEZE: Freeze(0, num, 3, ("c",)),
        Event.CHUNK: InstallChunk(0, num, b"", b""),
        Event.INSTALL: Install(0, num, EMPTY_SUMMARY),
        Event.DELETE: DeleteShard(0, num),
        Event.KEEP: Keep(0, num),
    }[event]
    before, was = box.hash, record_of(box)
    code, after = OUTCOMES[TABLE[state, event, how]]
    reply = box.do(command)
    assert reply[0] == code
    if after is None:
        assert box.hash == before
        assert record_of(box) == was
    else:
        assert record_of(box).state is after
        assert record_of(box).num == num
    # The same command again, at once, never does more.
    again = box.do(command)
    assert again[0] in (code, Code.GONE, Code.INSTALLED)
    assert record_of(box).num == (num if after is not None else was.num)
    assert loads(encode_command(command))[0] >= 16


def record_of(box: Box) -> ShardRecord:
    with box.engine.read() as txn:
        return box.machine.record(txn, 0)


def test_the_drawing_has_every_cell() -> None:
    lines = draw().splitlines()
    assert lines[0].split() == ["state", "num", "freeze", "chunk", "install", "delete", "keep"]
    assert len(lines) == 1 + len(POSSIBLE) // len(Event)
    assert "serving  >    freeze       refused     refused              refused      keep" in lines
    assert "frozen   =    same answer  refused     refused              delete       keep" in lines


def test_relation() -> None:
    assert [relation(num, 5) for num in (4, 5, 6)] == [Relation.LOWER, Relation.SAME, Relation.HIGHER]


RECORDS = [
    ShardRecord(State.SERVING, 3, incarnation_of(3), 7, 100, (1 << 128) - 1),
    ShardRecord(State.SERVING),
    ShardRecord(State.STAGING, 3, incarnation_of(3, 2), 7, 100, 5, position=b"\0key"),
    ShardRecord(State.FROZEN, (1 << 48) - 1, incarnation_of(2), 7, 100, 5, gid=9, addresses=("a:1", "b:2")),
    ShardRecord(State.DELETED, 3, incarnation_of(2), gid=0, addresses=()),
]


@pytest.mark.parametrize("record", RECORDS)
def test_a_record_comes_back_as_it_was(record: ShardRecord) -> None:
    assert decode_record(4, encode_record(record)) == record


def test_the_record_of_format_1() -> None:
    data = encode_record(ShardRecord(State.FROZEN, 3, incarnation_of(2), 7, 100, 5, gid=9, addresses=("a",)))
    assert data.hex() == (
        "0103000000000003"
        + "0000000000020000"
        + "0000000000000007"
        + "0000000000000064"
        + "00" * 15
        + "05"
        + "8209816161"
    )


def test_a_damaged_record_is_named_and_a_later_one_refused() -> None:
    good = encode_record(RECORDS[3])
    for damaged in (b"", good[:20], good[:-1], good + b"x", good[:1] + b"\x09" + good[2:]):
        with pytest.raises(CorruptRecord, match="shards"):
            decode_record(4, damaged)
    with pytest.raises(FormatMismatch, match="version 2; this is version 1"):
        decode_record(4, b"\x02" + good[1:])


def test_incarnations_are_used_once() -> None:
    assert incarnation_of(3) > incarnation_of(2, 65535)
    assert restarts_of(NO_SHARD._replace(incarnation=incarnation_of(3, 7))) == 7
    with pytest.raises(AssertionError, match="was begun again 65536 times"):
        incarnation_of(3, 65536)
