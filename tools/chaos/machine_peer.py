"""One peer of a state machine that is not ours: `python -m tools.chaos.machine_peer MODULE:CLASS FILE ...`.

Everything but the machine is as in `shardkv serve`, of which this takes the options: the same host, log, network, failpoints
and admin calls. A client's command is a WRITE [client, seq, acked below, as of, command]; the reply is the machine's bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from raftlog.machine import Refusal, StateMachine
from raftlog.types import LogId
from shardkv.host import Event, PeerHost, PeerSpec, create_peer
from shardkv.kvmachine import ShardStatus, VersionedMachine
from shardkv.replies import Code, error
from store.engine import ReadTxn, WriteTxn
from tools.serve import main as serve_main
from tools.settings import PeerSettings

if TYPE_CHECKING:
    import trio

Machine = Callable[[], StateMachine]


class HostedMachine(VersionedMachine):
    """A state machine in the place of ours: it has commands, and no reads, versions and shards."""

    def __init__(self, machine: StateMachine) -> None:
        self.machine = machine
        self.tables = machine.tables

    def scope(self, txn: ReadTxn, command: bytes) -> bytes | None:
        """See `StateMachine`."""
        return self.machine.scope(txn, command)

    def apply(self, txn: WriteTxn, command: bytes, at: LogId) -> bytes:
        """See `StateMachine`."""
        return self.machine.apply(txn, command, at)

    def grows(self, command: bytes) -> bool:
        """See `StateMachine`."""
        return self.machine.grows(command)

    def stamp(self, reply: bytes, tick: int) -> bytes:
        """See `StateMachine`."""
        return self.machine.stamp(reply, tick)

    def refuse(self, why: Refusal, tick: int) -> bytes:
        """See `StateMachine`."""
        return self.machine.refuse(why, tick)

    def background(self, txn: WriteTxn, budget: int) -> bool:
        """See `StateMachine`."""
        return self.machine.background(txn, budget)

    def state_hash(self, txn: ReadTxn) -> bytes:
        """See `StateMachine`."""
        return self.machine.state_hash(txn)

    def read(self, txn: ReadTxn, method: int, args: Any) -> list[Any]:
        """There are none: a read is a command."""
        return error(Code.BAD_REQUEST, "a machine of one's own has commands only")

    def shard_table(self, txn: ReadTxn) -> list[ShardStatus]:
        """There are none."""
        return []


def machine_of(name: str) -> Machine:
    """What makes the machine that "module:Class" names. Raises `ImportError`, `AttributeError`."""
    module, _, attribute = name.partition(":")
    found: Machine = getattr(import_module(module), attribute)
    return found


def create_machine_peer(spec: PeerSpec, machine: Machine) -> None:
    """The explicit bootstrap of a peer's directory; see `create_peer`."""
    create_peer(spec, HostedMachine(machine()))


def main(arguments: list[str]) -> int:
    """The program. Returns the exit code."""
    name, *words = arguments
    machine = machine_of(name)

    async def run(spec: PeerSpec, *, on_event: Callable[[Event], None], stop: trio.Event) -> None:
        await PeerHost(spec, HostedMachine(machine()), on_event).run(stop)

    def host(settings: PeerSettings) -> Any:
        return run, lambda spec: create_machine_peer(spec, machine)

    return serve_main(words, host)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
