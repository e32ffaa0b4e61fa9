"""What a crash may leave of the recorded peer, and what it may not.

* Its directory is there once its creation was reported; before, it can be made (again).
* It opens and recovers as a start does ("recovered"), as a voter and with nothing to be mended: healing is for damage, and a
  power cut does none. What its directory then holds passes `inspect verify`.
* Its term, vote and number of starts are not older than what it let others know, and so is its log: the entry that it
  acknowledged last is there, or below the purge base.
* Every write that was answered with OK is in its state or in its log.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trio

from raftlog.durable import read_applied, read_base, read_boot, read_entries, read_hard
from raftlog.types import HardState, LogId
from shardkv.group import GroupMachine
from shardkv.host import PeerHost, PeerSpec, create_peer
from shardkv.methods import Method
from shardkv.replies import OK_FIELDS, Code, decode_reply
from store.engine import StoreError
from tools.inspect.peer import open_peer
from tools.inspect.playing import overlaid
from tools.inspect.verify import verify_peer
from tools.powercut.peer_load import SHARDS, spec_of, value_of
from tools.powercut.peer_witness import number_of


def check(root: Path, owed: dict[str, Any], setup: dict[str, Any]) -> list[str]:
    """Recover a state; what is wrong with it. A damaged file may kill this process."""
    spec = spec_of(root / setup["name"], setup["peer"], setup["ports"])
    try:
        if not (spec.directory / "log").is_dir():
            if owed["created"]:
                return ["the peer's log is gone: its creation was acknowledged"]
            create_peer(spec)
        found = trio.run(_start, spec)
    except StoreError as error:
        return [f"recovery failed: {error}"]
    found += [f"inspect verify: {finding}" for finding in verify_peer(spec.directory).findings]
    return found or list(_missing(spec.directory, owed, setup["numbers"]))


async def _start(spec: PeerSpec) -> list[str]:
    """A start, up to "recovered"; what it had to mend."""
    events: list[dict[str, Any]] = []
    host = PeerHost(spec, GroupMachine(SHARDS), events.append)
    host.open()
    host.close()
    told = [f"the start mended what a power cut must not damage: {e['text']}" for e in events if e["event"] == "mended"]
    modes = [event["mode"] for event in events if event["event"] == "recovered"]
    return told if modes == ["voter"] else [*told, f"after the start the peer is {modes}, not a voter"]


def _missing(directory: Path, owed: dict[str, Any], numbers: dict[str, int]) -> list[str]:
    with open_peer(directory) as peer, peer.view() as view:
        assert view.log is not None
        machine = GroupMachine(SHARDS)  # the state may not say the number yet
        base, _ = read_base(view.log)
        entries = list(read_entries(view.log))
        applied = read_applied(view.meta)[0]
        wrong = _hard(read_hard(view.log), owed)
        if read_boot(view.log) <= owed["boot"]:
            wrong.append(f"start {owed['boot']} was reported, this is called start {read_boot(view.log)}")
        wrong += _promise(base, [entry.id for entry in entries], owed["promised"])
        with overlaid(view, machine, applied) as player:
            for entry in entries[applied.index - base.index :]:
                player.play(entry)
            for key in sorted(numbers):
                reply = decode_reply(machine.read(player.view, Method.GET, [key.encode()]), OK_FIELDS[Method.GET])
                value = reply.fields[0] if reply.code is Code.OK else b"0 "
                wrong += _write(key, value, owed["acknowledged"].get(key, 0), numbers[key])
        return wrong


def _write(key: str, value: bytes, acknowledged: int, most: int) -> list[str]:
    """The newest write of a key that was answered with OK is there, or a later one, as it was written."""
    number = number_of(value)
    if number < acknowledged:
        return [f"write {acknowledged} of {key} was acknowledged, {number or 'nothing'} is found"]
    if number and (number > most or value != value_of(key, number)):
        return [f"the value of {key} was never written: {value[:40]!r}"]
    return []


def _hard(hard: HardState, owed: dict[str, Any]) -> list[str]:
    """Term and vote."""
    if hard.term < owed["term"]:
        return [f"term {owed['term']} was made known to others, term {hard.term} is found"]
    if hard.term == owed["term"] and owed["vote"] not in (None, hard.vote):
        return [f"peer {owed['vote']} was given the vote of term {hard.term}; the vote that is found is {hard.vote}"]
    return []


def _promise(base: LogId, ids: list[LogId], promised: list[int] | None) -> list[str]:
    """The entry that was acknowledged last."""
    if promised is None or promised[0] <= base.index:
        return []
    index, term = promised
    at = index - base.index - 1
    if at >= len(ids):
        return [f"entry {term}:{index} was acknowledged; the log ends at {len(ids) + base.index}"]
    if ids[at].term != term:
        return [f"entry {term}:{index} was acknowledged; the log has {ids[at].term}:{index} there"]
    return []
