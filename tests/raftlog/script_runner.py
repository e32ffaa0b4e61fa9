"""Golden scripts for the core: a tiny language that moves a group of cores by hand, and says what they say.

    cluster 3 [log 1 1 2]   peers 0..2, optionally all with entries of these terms beside the bootstrap entry
    timeout 0               let time pass until peer 0's election time-out, and fire it
    tick 0                  let a heartbeat's time pass at peer 0
    look 0                  peer 0 does what is due by now
    pass 0.7                let time pass (seconds), nobody does anything
    deliver 0->1            deliver what waits from 0 to 1; `deliver all` until nothing moves
    drop 0->1               lose what waits
    save 0                  peer 0's save in flight becomes durable and is announced
    auto on | off           announce every save at once
    propose 0 x             a client proposes at peer 0
    read 0 r                a client reads at peer 0
    transfer 0 1            peer 0 is asked to hand over to peer 1
    crash 0, restart 0      what was not saved is lost
    show                    the state of everybody

Each command is echoed with what it made the cores hand out.
"""

from __future__ import annotations

from random import Random

from raftlog.config import RaftConfig
from raftlog.core import RaftCore
from raftlog.durable import EMPTY, bootstrap_entry
from raftlog.invariants import GroupWitness, check
from raftlog.messages import Envelope, Message
from raftlog.saves import Save
from raftlog.types import ZERO, Entry, EntryKind, HardState, LogId, Member, Membership, Proposal, Restored


class Peer:
    """A core, and the disk beside it."""

    def __init__(self, me: int, membership: Membership, terms: list[int]) -> None:
        self.me = me
        entries = [bootstrap_entry(membership)]
        entries += [Entry(LogId(t, i + 2), EntryKind.COMMAND, b"e%d" % (i + 2)) for i, t in enumerate(terms)]
        self.entries = entries
        self.hard = HardState(term=max([1, *terms]), commit=1)
        self.boots = 0
        self.core: RaftCore | None = None
        self.save: Save | None = None

    def start(self, now: float) -> None:
        self.boots += 1
        restored = Restored(self.hard, ZERO, EMPTY, tuple(self.entries), ZERO, self.boots)
        self.core = RaftCore(self.me, RaftConfig(), restored, Random(self.me * 100 + self.boots), now)

    def write(self, save: Save) -> None:
        self.hard = save.hard
        if save.first is not None:
            self.entries = [e for e in self.entries if e.index < save.first] + list(save.entries)


class Script:
    """Runs the commands of one script."""

    def __init__(self) -> None:
        self.now = 0.0
        self.peers: list[Peer] = []
        self.wires: dict[tuple[int, int], list[Envelope]] = {}
        self.auto = True
        self.out: list[str] = []
        self.witness = GroupWitness()

    def run(self, text: str) -> str:
        """The script with its output in place of the old one (lines that begin with a space)."""
        for line in text.splitlines():
            if line.startswith("  "):
                continue
            self.out.append(line)
            if line and not line.startswith("#"):
                name, *words = line.split()
                getattr(self, {"auto": "auto_", "pass": "pass_"}.get(name, name))(*words)
        return "\n".join(self.out) + "\n"

    def say(self, text: str) -> None:
        self.out.append(f"  {text}")

    def core(self, peer: str | int) -> RaftCore:
        found = self.peers[int(peer)].core
        assert found is not None, f"peer {peer} is down"
        return found

    # --- commands ------------------------------------------------------------------------------------------------

    def cluster(self, count: str, *rest: str) -> None:
        membership = Membership(tuple(Member(i, 1) for i in range(int(count))))
        self.peers = [Peer(i, membership, [int(t) for t in rest[1:]]) for i in range(int(count))]
        for peer in self.peers:
            peer.start(self.now)

    def timeout(self, peer: str) -> None:
        self.now = max(self.now, self.core(peer).state.election_deadline)
        self.core(peer).on_time(self.now)
        self.settle(int(peer))

    def tick(self, peer: str) -> None:
        self.now += RaftConfig().heartbeat_s
        self.core(peer).on_time(self.now)
        self.settle(int(peer))

    def look(self, peer: str) -> None:
        self.core(peer).on_time(self.now)
        self.settle(int(peer))

    def auto_(self, word: str) -> None:
        self.auto = word == "on"

    def pass_(self, seconds: str) -> None:
        self.now += float(seconds)

    def deliver(self, which: str) -> None:
        if which == "all":
            for _ in range(200):
                wires = [w for w, envelopes in sorted(self.wires.items()) if envelopes]
                if not wires:
                    return
                for a, b in wires:
                    self._deliver(a, b)
            raise AssertionError("it never ends")
        a, b = which.split("->")
        self._deliver(int(a), int(b))

    def _deliver(self, a: int, b: int) -> None:
        envelopes, self.wires[a, b] = self.wires.get((a, b), []), []
        if self.peers[b].core is None:
            return
        for envelope in envelopes:
            self.core(b).step(envelope, self.now)
        self.settle(b)

    def drop(self, which: str) -> None:
        a, b = which.split("->")
        self.wires[int(a), int(b)] = []

    def save(self, peer: str) -> None:
        self._saved(self.peers[int(peer)])
        self.settle(int(peer))

    def _saved(self, peer: Peer) -> None:
        save, peer.save = peer.save, None
        assert save is not None and peer.core is not None, f"peer {peer.me} has no save in flight"
        peer.write(save)
        peer.core.saved(save.ticket, self.now)

    def propose(self, peer: str, data: str) -> None:
        (outcome,) = self.core(peer).propose_many([Proposal(data.encode())], self.now)
        self.say(f"{peer}: {outcome.name if not isinstance(outcome, LogId) else position(outcome)}")
        self.settle(int(peer))

    def read(self, peer: str, token: str) -> None:
        self.core(peer).read(token, self.now)
        self.settle(int(peer))

    def transfer(self, peer: str, to: str) -> None:
        self.core(peer).transfer(int(to), self.now)
        self.settle(int(peer))

    def crash(self, peer: str) -> None:
        self.peers[int(peer)].core = self.peers[int(peer)].save = None
        for a, b in list(self.wires):
            if int(peer) in (a, b):
                self.wires[a, b] = []

    def restart(self, peer: str) -> None:
        self.peers[int(peer)].start(self.now)
        self.settle(int(peer))

    def show(self) -> None:
        for peer in self.peers:
            if peer.core is None:
                self.say(f"{peer.me}: down")
                continue
            s = peer.core.state
            log = " ".join(str(s.log.term_at(i)) for i in range(1, s.log.last.index + 1))
            self.say(
                f"{peer.me}: {s.role_name.name.lower()} term {s.term} vote {s.vote} log [{log}] stable "
                f"{s.durability.stable} commit {s.commit} applied {s.applied}"
            )

    # --- what comes out ------------------------------------------------------------------------------------------

    def settle(self, me: int) -> None:
        peer = self.peers[me]
        core = self.core(me)
        while True:
            while effects := core.take():
                for envelope in effects.send:
                    self.say(f"{me}->{envelope.to} {shown(envelope.message)}")
                    self.wires.setdefault((me, envelope.to), []).append(envelope)
                if effects.save is not None:
                    peer.save = effects.save
                for entry in effects.committed:
                    core.applied(entry.index)
                if effects.committed:
                    self.say(f"{me} applies to {effects.committed[-1].index}")
                for read in effects.reads:
                    self.say(f"{me} answers {read.token}: {'read' if read.ready else 'not leader'}")
                check(core)
                self.witness.observe(core)
            if peer.save is None or not self.auto:
                return
            self._saved(peer)


def position(at: LogId) -> str:
    return f"{at.term}:{at.index}"


def shown(message: Message) -> str:
    """A message in a few words."""
    words = []
    for field in message.__slots__:  # type: ignore[union-attr]
        value = getattr(message, field)
        if field == "entries":
            words.append("entries [" + " ".join(position(e.id) for e in value) + "]")
        elif isinstance(value, LogId):
            words.append(f"{field} {position(value)}")
        elif value not in (False, None, 0) and (field, value) != ("counts", True):
            words.append(field if value is True else f"{field} {value}")
    return " ".join([type(message).__name__, *words])
