"""Power cuts of a whole peer: what it let others know is always there, and a planted bug is found."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from raftlog.durable import LOG_TABLES, index_key, read_hard, write_hard
from raftlog.messages import (
    AppendEntries,
    AppendReply,
    HeartbeatReply,
    ImageChunk,
    ImageReply,
    Message,
    RequestVote,
    VoteReply,
)
from raftlog.net.frames import (
    Hello,
    Kind,
    encode_batch,
    encode_message_bytes,
    encode_reply,
    encode_request,
    encode_welcome,
)
from raftlog.types import Entry, EntryKind, HardState, LogId, Membership
from shardkv.commands import Put, encode_command
from shardkv.host import create_peer
from shardkv.methods import Method
from shardkv.replies import Code
from store.lmdb_engine import LmdbEngine
from tests.tools.powercut.tape import Tape
from tests.tools.powercut.test_store import powercut
from tools.powercut.events import END
from tools.powercut.peer_check import check
from tools.powercut.peer_load import CLUSTER, GID, spec_of, value_of
from tools.powercut.peer_witness import PeerWitness, number_of

ME, OTHER, CLIENT = 0, 1, 9


class Talks:
    """What a peer says and hears, with a connection each way to one other peer and one to a client."""

    def __init__(self) -> None:
        self.tape = Tape()
        self.witness = PeerWitness(ME)
        for socket, caller, hello in (
            (1, True, Hello(Kind.PEER, CLUSTER, GID, ME, 1000, OTHER)),
            (2, False, Hello(Kind.PEER, CLUSTER, GID, OTHER, 1001, ME)),
            (CLIENT, False, Hello(Kind.CLIENT, CLUSTER)),
        ):
            self.tape.say(socket, b"")
            self.tape.say(socket, hello.encode(), out=caller)
            self.tape.say(socket, encode_welcome(), out=not caller)
        self._taken = 0

    def owed(self) -> dict[str, Any]:
        for step in self.tape.steps[self._taken :]:
            self.witness.take(step)
        self._taken = len(self.tape.steps)
        return self.witness.owed()

    def says(self, *messages: Message) -> dict[str, Any]:
        self.tape.say(1, b"".join(encode_batch([encode_message_bytes(message) for message in messages])))
        return self.owed()

    def hears(self, *messages: Message) -> dict[str, Any]:
        self.tape.say(2, b"".join(encode_batch([encode_message_bytes(message) for message in messages])), out=False)
        return self.owed()


def append(term: int, prev: LogId, *ids: LogId) -> AppendEntries:
    return AppendEntries(term, prev, tuple(Entry(at, EntryKind.NOOP, b"", 1) for at in ids), 0)


def test_a_vote_is_owed_when_it_is_granted_asked_for_or_used() -> None:
    talks = Talks()
    assert (
        talks.says(RequestVote(4, LogId(1, 1), pre=True), VoteReply(5, True, pre=True), VoteReply(3, False))["term"]
        == 0
    )
    assert (talks.says(VoteReply(3, True))["term"], talks.owed()["vote"]) == (3, OTHER)
    assert (talks.says(RequestVote(4, LogId(1, 1)))["term"], talks.owed()["vote"]) == (4, ME)
    assert talks.says(AppendReply(5, None, 3, 1))["term"] == 4  # a refusal promises nothing
    assert (talks.says(append(6, LogId(1, 1)))["term"], talks.owed()["vote"]) == (6, ME)


def test_an_acknowledged_entry_is_owed_until_a_later_leader_has_another_one_there() -> None:
    talks = Talks()
    talks.hears(append(2, LogId(1, 1), LogId(2, 2), LogId(2, 3)))
    assert talks.says(AppendReply(2, 2))["promised"] == [2, 2]
    assert talks.says(HeartbeatReply(2, 3))["promised"] == [3, 2]
    assert talks.hears(append(2, LogId(1, 1), LogId(2, 2)))["promised"] == [3, 2]
    assert talks.hears(append(1, LogId(1, 1), LogId(1, 2)))["promised"] == [3, 2]  # of an older leader: not obeyed
    assert talks.hears(append(3, LogId(2, 2), LogId(3, 3)))["promised"] == [2, 2]
    assert (talks.says(AppendReply(3, 3))["promised"], talks.owed()["term"]) == ([3, 3], 3)


def test_an_image_that_is_acknowledged_is_owed() -> None:
    talks = Talks()
    at = LogId(4, 40)
    talks.hears(ImageChunk(4, (1001, at), Membership(()), 0, True, b"", 0))
    assert talks.says(ImageReply(4, (1001, at), 1))["promised"] is None
    assert talks.says(ImageReply(4, (1001, at), 1, True))["promised"] == [40, 4]


def test_a_write_is_owed_once_it_was_answered_with_ok_from_when_the_reply_leaves() -> None:
    talks = Talks()
    for call, key in enumerate(("a", "b"), 1):
        command = encode_command(Put(key.encode(), value_of(key, 7)))
        request = encode_request(call, int(Method.WRITE), [0, 0, 0, 0, command])
        talks.tape.say(CLIENT, b"".join(encode_batch([request])), out=False)
    assert talks.owed()["acknowledged"] == {}
    replies = [encode_reply(1, [int(Code.OK), 1]), encode_reply(2, [int(Code.MAYBE), "?"])]
    data = b"".join(encode_batch(replies))
    talks.tape.say(CLIENT, data[:5])
    assert talks.owed()["acknowledged"] == {}  # half a frame tells nobody anything
    talks.tape.say(CLIENT, data[5:])
    assert talks.tape.steps.pop().moment is END  # it is known before the call returns
    assert talks.owed()["acknowledged"] == {"a": 7}


def nothing_owed() -> dict[str, Any]:
    return {"created": True, "boot": 0, "term": 0, "vote": None, "promised": None, "acknowledged": {}}


SETUP: dict[str, Any] = {"name": "server-1-0", "peer": ME, "ports": [20101, 20102, 20103], "numbers": {"key-0-0": 3}}


@pytest.fixture
def new_peer(tmp_path: Path) -> Path:
    """A peer that was just made."""
    create_peer(spec_of(tmp_path / SETUP["name"], ME, SETUP["ports"]))
    return tmp_path


@pytest.mark.parametrize(
    ("owed", "words"),
    [
        ({}, ""),
        ({"boot": 1}, "start 1 was reported, this is called start 1"),
        ({"term": 2, "vote": 1}, "term 2 was made known to others, term 1 is found"),
        ({"term": 1, "vote": 2}, "peer 2 was given the vote of term 1; the vote that is found is 1"),
        ({"term": 1, "vote": 1, "promised": [1, 1]}, ""),
        ({"promised": [2, 1]}, "entry 1:2 was acknowledged; the log ends at 1"),
        ({"promised": [1, 2]}, "entry 2:1 was acknowledged; the log has 1:1 there"),
        ({"acknowledged": {"key-0-0": 3}}, "write 3 of key-0-0 was acknowledged, nothing is found"),
    ],
)
def test_what_is_owed_and_missing_is_told(new_peer: Path, owed: dict[str, Any], words: str) -> None:
    engine = LmdbEngine.open(new_peer / SETUP["name"] / "log", LOG_TABLES, None)
    with engine.write() as txn:
        assert read_hard(txn).term == 1
        write_hard(txn, HardState(1, 1, 1))
    engine.close()
    assert check(new_peer, nothing_owed() | owed, SETUP) == ([words] if words else [])


def test_a_peer_may_be_missing_until_its_creation_is_reported_and_is_made_again(new_peer: Path) -> None:
    shutil.rmtree(new_peer / SETUP["name"] / "log")
    assert check(new_peer, nothing_owed(), SETUP) == ["the peer's log is gone: its creation was acknowledged"]
    assert check(new_peer, nothing_owed() | {"created": False}, SETUP) == []


def test_a_start_that_has_to_mend_something_is_a_finding(new_peer: Path) -> None:
    engine = LmdbEngine.open(new_peer / SETUP["name"] / "log", LOG_TABLES, None)
    with engine.write() as txn:
        txn.delete("entries", index_key(1))
    engine.close()
    assert any("mended what a power cut must not damage" in text for text in check(new_peer, nothing_owed(), SETUP))


def test_a_peer_that_cannot_start_is_a_finding_and_the_next_state_is_looked_at_all_the_same(new_peer: Path) -> None:
    data = new_peer / SETUP["name"] / "log" / "data.mdb"
    data.write_bytes(bytes(data.stat().st_size))
    for _ in range(2):
        (told,) = check(new_peer, nothing_owed(), SETUP)
        assert told.startswith("recovery failed: ") and "data.mdb is damaged" in told


def test_values_tell_their_number() -> None:
    assert number_of(value_of("key-1-1", 12)) == 12 and value_of("key-1-1", 12) == value_of("key-1-1", 12)
    assert len(value_of("large-1-1", 1)) > 14_000


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.system
@pytest.mark.process
class TestWithStrace:
    def test_nothing_that_others_know_is_lost(self) -> None:
        code, (report,) = powercut("peer", "--states", "150")
        assert code == 0, report["failures"][:3]
        assert report["distinct"] >= 150
        done = set(report["covered"])
        assert {
            "save",
            "flush",
            "purge",
            "start",
            "last",
            "log cuts",
            "acknowledgements sent",
            "writes answered",
        } <= done
        assert {f"image.{step}" for step in ("clear", "stage", "intent", "flip", "reset")} <= done

    def test_a_planted_bug_is_found(self) -> None:
        code, (report,) = powercut("--plant", "acknowledged-before-its-save", "--states", "100")
        assert code == 1
        assert any("was acknowledged" in text for failure in report["failures"] for text in failure["wrong"])
        shutil.rmtree(report["recording"])
