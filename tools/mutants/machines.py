"""Bugs in the replicated state machine, its sessions, the shards and the clerks."""

from __future__ import annotations

from tools.mutants.planting import Edit, Mutant

MUTANTS = (
    Mutant(
        "waiter-by-index-alone",
        "scenarios 5; the labs' classic",
        "whoever waits at an index is answered by whatever entry is committed there",
        (
            Edit(
                "raftlog.rsm",
                "            ours = waiter if waiter is not None and waiter.term == entry.id.term else None",
                "            ours = waiter",
            ),
            Edit(
                "raftlog.rsm",
                "        for index in sorted(i for i in self.waiters if i >= first):",
                "        for index in sorted(i for i in self.waiters if i >= first and i < 0):",
            ),
            Edit(
                "raftlog.rsm",
                "        if ours is not None:\n            operations = ours.operations",
                "        if ours is not None and ours.term == entry.id.term:\n            operations = ours.operations",
            ),
            Edit("raftlog.rsm", "zip(ours.done, replies, strict=True)", "zip(ours.done, replies)"),
        ),
    ),
    Mutant(
        "sessions-do-not-remember",
        "lessons 48; thesis, 6.3",
        "a repeated operation is applied again",
        (
            Edit(
                "raftlog.sessions",
                "            if seq == op.seq:\n                return Replay(reply)",
                "            pass",
            ),
        ),
    ),
    Mutant(
        "evicted-session-re-created",
        "lessons 48: rabbitmq/ra#145",
        "a client whose session was evicted begins a new one with an old duplicate",
        (Edit("raftlog.sessions", "    if op.as_of < horizon:", "    if False:"),),
    ),
    Mutant(
        "sessions-left-behind",
        "lessons 48: buildbuddy#12143",
        "a shard moves without its sessions",
        (
            Edit(
                "shardkv.group",
                "        sessions.finish_import(txn, scope, wanted.tick, wanted.horizon)\n",
                "        sessions.drop_sessions(txn, scope, 1 << 20)\n",
            ),
        ),
    ),
    Mutant(
        "frozen-shard-serves-gets",
        "scenarios 5",
        "a shard that is on its way out still answers gets, while its new owner takes puts",
        (
            Edit(
                "shardkv.kvmachine",
                "        shard = shard_of(checked_key(key), self.shard_count(txn))\n"
                "        _, record, scope = self._place(txn, shard)\n"
                "        if record.state is not State.SERVING:",
                "        shard = shard_of(checked_key(key), self.shard_count(txn))\n"
                "        _, record, scope = self._place(txn, shard)\n"
                "        if record.state not in (State.SERVING, State.FROZEN):",
            ),
        ),
    ),
    Mutant(
        "frozen-shard-takes-puts",
        "scenarios 2.4",
        "a put is applied to a shard that has been handed over",
        (
            Edit(
                "shardkv.kvmachine",
                "        if record.state is not State.SERVING:\n            return dumps(wrong_group(record))",
                "        if record.state not in (State.SERVING, State.FROZEN):\n            return dumps(wrong_group(record))",
            ),
        ),
    ),
    Mutant(
        "reads-at-any-leader",
        "thesis, 6.4; lessons 16",
        "a peer that believes to lead reads from its state, without a round and without a lease",
        (
            Edit("raftlog.node", "        if self.lease_reads:\n", "        if True:\n"),
            Edit("raftlog.node", "            if self.clock() < self.core.lease_until():", "            if True:"),
        ),
    ),
    Mutant(
        "deadline-means-no",
        "our own: simulation seeds 5 and 9",
        "a write whose deadline comes while it is on its way is told as surely without effect",
        (Edit("shardkv.writing", "        before, self.open = self.open, True", "        before = self.open"),),
    ),
    Mutant(
        "sent-twice-without-a-session",
        "our own: simulation seeds 3, 7 and 10341",
        "without a session a write is repeated after a lost reply, though it may take effect twice",
        (
            Edit(
                "shardkv.writing",
                "            if self.open and not self.repeatable:",
                "            if False:",
            ),
        ),
    ),
    Mutant(
        "no-space-means-no",
        "our own, found by reading",
        "a repeated try that is refused for space is told as surely without effect, though the first may have had some",
        (
            Edit(
                "shardkv.writing",
                "        if self.open and reply.code in (Code.NO_SPACE, Code.REFUSED):",
                "        if False:",
            ),
        ),
    ),
    Mutant(
        "version-mismatch-is-no-after-a-lost-try",
        "scenarios 2.1: ErrMaybe",
        "without sessions a repeated put that finds another version is told as a mismatch",
        (
            Edit(
                "shardkv.writing",
                "        return outcome(reply, open_before=self.open and self.session is None)",
                "        return outcome(reply, open_before=False)",
            ),
        ),
    ),
)
