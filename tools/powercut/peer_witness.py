"""What a peer owes to others, read off its connections: what it has sent is what they may build on.

Nothing of the program takes part in this: the bytes that went over its sockets are put together to frames and decoded.

* Who asks for votes in a term, grants one, or leads, has stored the term and that vote.
* Who acknowledges entries up to an index (or says in a heartbeat's answer that it holds them, or that an image is in place)
  has stored them: the entry at that index is the one that the leader of the term has there. It may be cut off later, but only
  when the leader of a later term sends another entry for that index or one below.
* Who answers OK to a client's write has stored an entry with it, for good.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from raftlog.codec import CodecError
from raftlog.messages import (
    AppendEntries,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    ImageChunk,
    ImageReply,
    Message,
    RequestVote,
    TransferNow,
    VoteReply,
)
from raftlog.net.frames import (
    Deframer,
    Hello,
    Kind,
    decode_hello,
    decode_messages,
    decode_replies,
    decode_requests,
)
from shardkv.commands import Put, decode_command
from shardkv.group_clerk import decoded
from shardkv.methods import Method
from shardkv.replies import Code
from tools.powercut.events import BEGIN, Mark, Step, Talk


@dataclass(slots=True)
class _Connection:
    """`called`: the recorded peer dialled. `hello` comes from who dialled; the other side's first frame is its welcome."""

    called: bool | None = None
    hello: Hello | None = None
    welcomed: bool = False
    outgoing: Deframer = field(default_factory=Deframer)
    incoming: Deframer = field(default_factory=Deframer)
    writes: dict[int, Put] = field(default_factory=dict)


class PeerWitness:
    """See the module. `owed` is for `peer_check`."""

    def __init__(self, me: int) -> None:
        self._me = me
        self._connections: dict[int, _Connection] = {}
        self._created = False
        self._boot = 0
        self._term = 0
        self._vote: int | None = None
        self._seen = 0  # the latest term of any leader, ours included
        self._known: dict[int, int] = {}  # index -> term of the entry that the latest leader has there
        self._promised: tuple[int, int] | None = None  # (index, term of the entry there)
        self._acknowledged: dict[str, int] = {}
        self._covered: dict[str, int] = {}

    def owed(self) -> dict[str, Any]:
        """{created, boot, term, vote, promised: [index, term] or None, acknowledged: {key: number}}."""
        return {
            "created": self._created,
            "boot": self._boot,
            "term": self._term,
            "vote": self._vote,
            "promised": None if self._promised is None else list(self._promised),
            "acknowledged": dict(self._acknowledged),
        }

    def covered(self) -> dict[str, int]:
        """How often each durable step was done and each kind of promise made."""
        return dict(sorted(self._covered.items()))

    # --- the stream --------------------------------------------------------------------------------------------------

    def take(self, step: Step) -> None:
        """See one step. What is sent counts from when the kernel was asked to send it."""
        if step.moment is not BEGIN:
            return
        match step.action:
            case Mark(text):
                self._mark(*text.partition(" ")[::2])
            case Talk(socket, _, b""):
                self._connections[socket] = _Connection()
            case Talk(socket, out, data):
                self._talk(self._connections[socket], out, data)
            case _:
                pass

    def _mark(self, verb: str, what: str) -> None:
        match verb:
            case "created":
                self._created = True
            case "recovered":
                self._boot = int(what)
                self._count("starts")
            case "cuts":
                self._count("log cuts", int(what))
            case _:
                self._count(what)

    def _talk(self, connection: _Connection, out: bool, data: bytes) -> None:
        if connection.called is None:
            connection.called = out
        for body in (connection.outgoing if out else connection.incoming).feed(data):
            if connection.hello is None:
                connection.hello = decode_hello(body)
            elif not connection.welcomed and out != connection.called:
                connection.welcomed = True
            elif connection.hello.kind is Kind.PEER:
                to = connection.hello.to
                for message in decode_messages(body):
                    self._sent(to, message) if out else self._received(message)
            elif not connection.called:
                self._client(connection, out, body)

    def _count(self, what: str, count: int = 1) -> None:
        self._covered[what] = self._covered.get(what, 0) + count

    # --- clients -----------------------------------------------------------------------------------------------------

    def _client(self, connection: _Connection, out: bool, body: bytes) -> None:
        if out:
            for call, reply in decode_replies(body):
                put = connection.writes.pop(call, None)
                if put is not None and decoded(reply)[:1] == [Code.OK]:
                    self._acknowledged[put.key.decode()] = number_of(put.value)
                    self._count("writes answered")
            return
        for call, method, args in decode_requests(body):
            for put in _puts(method, args):
                connection.writes[call] = put

    # --- peers -------------------------------------------------------------------------------------------------------

    def _sent(self, to: int, message: Message) -> None:
        match message:
            case RequestVote(term=term, pre=False):
                self._stored(term, self._me)
                self._count("candidacies sent")
            case VoteReply(term=term, granted=True, pre=False):
                self._stored(term, to)
                self._count("votes sent")
            case AppendEntries(term=term):
                self._stored(term, self._me)
                self._learn(term, message)
            case Heartbeat(term=term) | TransferNow(term=term) | ImageChunk(term=term):
                self._stored(term, self._me)
            case AppendReply(term=term, match=int(match)) | HeartbeatReply(term=term, match=match) if match:
                self._stored(term, None)
                self._promise(term, match)
                self._count("acknowledgements sent")
            case ImageReply(term=term, image=(_, at), installed=True):
                self._stored(term, None)
                self._known[at.index] = at.term
                self._promise(term, at.index)
                self._count("images acknowledged")
            case _:
                pass

    def _received(self, message: Message) -> None:
        match message:
            case AppendEntries(term=term):
                self._learn(term, message)
            case ImageChunk(term=term, image=(_, at)):
                self._leads(term, {at.index: at.term})
            case _:
                pass

    def _stored(self, term: int, vote: int | None) -> None:
        """The term is durable, and in it the vote if one is named."""
        if term > self._term:
            self._term, self._vote = term, vote
        elif term == self._term and vote is not None:
            self._vote = vote

    def _learn(self, term: int, message: AppendEntries) -> None:
        found = {entry.id.index: entry.id.term for entry in message.entries}
        if message.prev.index:
            found[message.prev.index] = message.prev.term
        self._leads(term, found)

    def _leads(self, term: int, found: dict[int, int]) -> None:
        """The leader of a term has these entries. One that differs from what was known cuts off all from there on."""
        if term < self._seen:
            return
        self._seen = term
        for index in sorted(found):
            if self._known.get(index, found[index]) != found[index]:
                self._known = {at: its for at, its in self._known.items() if at < index}
                if self._promised is not None and self._promised[0] >= index:
                    kept = max(self._known, default=0)
                    self._promised = (kept, self._known[kept]) if kept else None
                    self._count("cuts of what was acknowledged")
            self._known[index] = found[index]

    def _promise(self, term: int, index: int) -> None:
        known = self._known.get(index)
        if known is not None and (self._promised is None or index >= self._promised[0]):
            self._promised = (index, known)


def _puts(method: int, args: list[Any]) -> Iterator[Put]:
    """The write that a request is."""
    if method == Method.WRITE:
        try:
            command = decode_command(args[4])
        except (CodecError, IndexError):
            return
        if isinstance(command, Put):
            yield command


def number_of(value: bytes) -> int:
    """The number that a value of the load begins with."""
    return int(value.partition(b" ")[0])
