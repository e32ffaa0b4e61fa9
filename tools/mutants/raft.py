"""Bugs in the Raft core, its log on disk and its images."""

from __future__ import annotations

from tools.mutants.planting import Edit, Mutant

MUTANTS = (
    Mutant(
        "vote-before-its-save",
        "lessons 2: cornerstone#65, barge#5",
        "a granted vote leaves before it is durable: after a crash the peer votes again in the term",
        (
            Edit(
                "raftlog.elections",
                "    state.promise(sender, VoteReply(state.term, True))",
                "    state.send(sender, VoteReply(state.term, True))",
            ),
        ),
    ),
    Mutant(
        "candidacy-before-its-save",
        "lessons 1, 2: PySyncObj#84",
        "a candidate asks for votes, and counts its own, before term and vote are durable",
        (
            Edit("raftlog.elections", "        state.promise(voter, request)", "        state.send(voter, request)"),
            Edit(
                "raftlog.elections",
                "    state.durability.hold(state.term, 0, None)  # our own vote counts once it is durable",
                "    candidate.votes[state.me] = True",
            ),
        ),
    ),
    Mutant(
        "vote-twice-in-a-term",
        "paper, 5.2",
        "whoever asks gets the vote, as often as somebody asks",
        (
            Edit("raftlog.elections", "    free = state.vote is None or state.vote == sender", "    free = True"),
            Edit(
                "raftlog.elections",
                "    if state.vote is None:\n        state.vote = sender",
                "    if True:\n        state.vote = sender",
            ),
        ),
    ),
    Mutant(
        "vote-for-a-shorter-log",
        "paper, 5.4.1",
        "the election restriction is ignored: a leader without committed entries",
        (Edit("raftlog.elections", "    up_to_date = message.last >= state.log.last", "    up_to_date = True"),),
    ),
    Mutant(
        "vote-by-length-alone",
        "paper, 5.4.1",
        "logs are compared by length and not first by term",
        (
            Edit(
                "raftlog.elections",
                "    up_to_date = message.last >= state.log.last",
                "    up_to_date = message.last.index >= state.log.last.index",
            ),
        ),
    ),
    Mutant(
        "acknowledged-before-its-save",
        "lessons 1; etcd#14370",
        "an append is acknowledged before it is durable",
        (
            Edit(
                "raftlog.following",
                "    state.promise(sender, reply, match)",
                "    state.send(sender, reply)",
            ),
        ),
    ),
    Mutant(
        "leader-counts-its-unsaved-entries",
        "lessons 7: etcd#14400",
        "a leader counts its own log before it is durable",
        (
            Edit(
                "raftlog.leading",
                "(state.me, float(state.durability.stable))])))",
                "(state.me, float(state.log.last.index))])))",
            ),
            Edit(
                "raftlog.core",
                "        upto = min(state.commit, state.durability.stable)",
                "        upto = state.commit",
            ),
        ),
    ),
    Mutant(
        "stable-over-a-truncation",
        "design.md, law 3",
        "a save proves a suffix durable that was overwritten while it was in flight",
        (Edit("raftlog.saves", "            if self._cut is not None:", "            if False:"),),
    ),
    Mutant(
        "commit-an-older-term",
        "paper, figure 8",
        "entries of an older term are committed by counting",
        (
            Edit(
                "raftlog.leading",
                "    if index > state.commit and state.log.term_at(index) == state.term:",
                "    if index > state.commit:",
            ),
        ),
    ),
    Mutant(
        "truncate-without-a-conflict",
        "lessons 14: PySyncObj 0.3.17",
        "a delayed append cuts off entries that came after it",
        (
            Edit(
                "raftlog.following",
                "def _take(state: CoreState, entries: tuple[Entry, ...]) -> None:\n",
                "def _take(state: CoreState, entries: tuple[Entry, ...]) -> None:\n"
                "    if entries and state.commit < entries[0].id.index <= state.log.last.index:\n"
                "        state.truncate(entries[0].id.index)\n",
            ),
        ),
    ),
    Mutant(
        "no-consistency-check",
        "paper, 5.3",
        "an append is taken though the entry before it is of another term",
        (Edit("raftlog.following", "    if term != prev.term:", "    if False:"),),
    ),
    Mutant(
        "heartbeat-commits-blindly",
        "etcd: heartbeat with a commit past the match",
        "a heartbeat names the leader's commit to a peer whose log was never compared",
        (
            Edit(
                "raftlog.leading",
                "Heartbeat(state.term, min(state.commit, progress.match), context)",
                "Heartbeat(state.term, state.commit, context)",
            ),
        ),
    ),
    Mutant(
        "half-is-a-quorum",
        "a classic: ceil(n/2)",
        "two of four, or one of two, decide",
        (
            Edit(
                "raftlog.types",
                "        return len(self.voters) // 2 + 1",
                "        return (len(self.voters) + 1) // 2",
            ),
        ),
    ),
    Mutant(
        "read-without-a-round",
        "lessons 16: tikv#9239",
        "a leader that may be deposed answers reads without asking a quorum",
        (
            Edit(
                "raftlog.leading",
                "    while leader.rounds and leader.rounds[0].context <= confirmed:",
                "    while leader.rounds:",
            ),
        ),
    ),
    Mutant(
        "read-before-the-noop",
        "lessons 16: etcd#20418",
        "a new leader answers reads before it knows what its predecessors committed",
        (
            Edit(
                "raftlog.leading",
                "    if not leader.queued or state.commit < leader.term_start:",
                "    if not leader.queued:",
            ),
        ),
    ),
    Mutant(
        "read-early-before-the-noop",
        "raftlog/reading.py; paper, section 8",
        "a new leader reads while its round is out before it knows what its predecessors committed, and tells it after it",
        (
            Edit(
                "raftlog.core",
                "isinstance(role, Leader) and role.term_start <= state.commit == state.applied",
                "isinstance(role, Leader)",
            ),
        ),
    ),
    Mutant(
        "read-before-it-is-applied",
        "thesis, 6.4",
        "a confirmed read is answered from a state that is behind its index",
        (
            Edit(
                "raftlog.leading",
                "    while leader.confirmed and leader.confirmed[0].index <= state.applied:",
                "    while leader.confirmed:",
            ),
        ),
    ),
    Mutant(
        "lease-from-the-answer",
        "lessons 18: yugabyte#16",
        "a lease is measured from when the answer was looked at: a paused leader gets a new one by old answers",
        (
            Edit(
                "raftlog.leading",
                "        progress.lease_from = leader.context_sent.get(context, progress.lease_from)",
                "        progress.lease_from = now",
            ),
        ),
    ),
    Mutant(
        "lease-of-a-minority",
        "lessons 18",
        "one follower's answer renews the lease",
        (
            Edit(
                "raftlog.leading",
                '    start = quorum_value(state.membership, [*sent, (state.me, float("inf"))])',
                '    start = max((at for _, at in sent), default=float("inf"))',
            ),
        ),
    ),
    Mutant(
        "lease-forgotten-by-voters",
        "lessons 15, 18: consul#54",
        "peers help to depose a leader whose lease they have just renewed",
        (
            Edit(
                "raftlog.elections",
                "    return isinstance(state.role, Leader) or now - state.leader_heard < state.config.election_min_s",
                "    return False",
            ),
        ),
    ),
    Mutant(
        "lease-kept-through-a-transfer",
        "lessons 18: tikv#1327",
        "a leader that has asked another one to take over goes on reading by its lease",
        (
            Edit(
                "raftlog.leading",
                "    if leader.transfer_sent or state.applied < leader.term_start:",
                "    if state.applied < leader.term_start:",
            ),
        ),
    ),
    Mutant(
        "lease-before-it-is-applied",
        "our own: simulation seed 36",
        "a leader reads by its lease once its no-op is committed, though it has not applied what came before",
        (
            Edit(
                "raftlog.leading",
                "    if leader.transfer_sent or state.applied < leader.term_start:",
                "    if leader.transfer_sent or state.commit < leader.term_start:",
            ),
        ),
    ),
    Mutant(
        "image-keeps-a-conflicting-log",
        "lessons 27: hashicorp/raft#212",
        "after an image the suffix stays although the entry at its index is of another term",
        (
            Edit(
                "raftlog.log",
                "        if self.term_at(to.index) == to.term and to.index >= self.base.index:\n            self.compact(to)",
                "        if to.index <= self.last.index:\n            self.compact(LogId(self.term_at(to.index) or 0, to.index))",
            ),
            Edit(
                "raftlog.durable",
                "    kept = payload is not None and unpack_entry(loads(payload)).id == at",
                "    kept = payload is not None",
            ),
        ),
    ),
    Mutant(
        "intent-dropped-at-start",
        "lessons 9; design.md, two environments",
        "a crash in the middle of installing an image: the start forgets the half that is missing",
        (Edit("raftlog.durable", "            if intent[0] == applied[0]:", "            if False:"),),
    ),
    Mutant(
        "purge-past-the-durable-applied",
        "lessons 10: openraft#2116",
        "the log is purged up to what is applied, as soon as it is, though its effects are not on the disk",
        (
            Edit(
                "raftlog.flushing",
                "        index = node.rsm.flushed.index\n",
                "        index = node.rsm.applied.index\n",
            ),
            Edit(
                "raftlog.flushing",
                "        if not (rsm.pending or rsm.background_due or rsm.overlay.size_bytes):",
                "        self.purge()\n        if not (rsm.pending or rsm.background_due or rsm.overlay.size_bytes):",
            ),
            Edit("raftlog.flushing", "now >= self.due or (over and rsm.pending):", "now >= self.due or over is None:"),
        ),
    ),
    Mutant(
        "purge-without-its-base",
        "lessons 10: openraft#1894",
        "the purge base is not stored in the transaction of the purge",
        (
            Edit(
                "raftlog.durable",
                '    write_base(txn, base, membership)\n    txn.delete_range("entries", b"", index_key(base.index + 1))',
                '    txn.delete_range("entries", b"", index_key(base.index + 1))',
            ),
        ),
    ),
    Mutant(
        "applied-apart-from-its-data",
        "lessons 6: etcd#13766",
        "`applied` is stored as of the commit, its effects as of the freeze: a crash loses what is between",
        (
            Edit(
                "raftlog.rsm",
                "            write_applied(txn, applied, membership, state_hash)",
                "            write_applied(txn, self.applied, self.membership, state_hash)",
            ),
        ),
    ),
    Mutant(
        "emptied-peer-votes",
        "lessons 1, 37; design.md, membership",
        "a peer whose disk is gone starts anew under its old name, and votes, though it has forgotten what it promised",
        (Edit("tools.sim.group", "        if fresh and name in self._made:\n", "        if False:\n"),),
    ),
    Mutant(
        "recovering-peer-votes",
        "design.md, membership; issue 5",
        "a peer that has lost entries which it acknowledged votes before it has them back",
        (
            Edit(
                "raftlog.state",
                "            self.mode is Mode.VOTER\n            and not self.stalled",
                "            not self.stalled",
            ),
        ),
    ),
    Mutant(
        "lost-entries-not-owed",
        "issue 5: the highest position is known",
        "a peer whose log was cut at a damaged entry goes on as if nothing had been behind it",
        (
            Edit(
                "raftlog.healing",
                "    return replace(hard, mode=Mode.RECOVERING, recover_to=to, highest=to)",
                "    return replace(hard, highest=to)",
            ),
        ),
    ),
    Mutant(
        "second-copy-ignored",
        "issue 5: a second copy of term, vote and highest position",
        "a damaged hard state is the end of the peer, though its copy is whole",
        (
            Edit(
                "raftlog.durable",
                '    for table, key in (("meta", b"hard"), ("journal", HARD_COPY)):',
                '    for table, key in (("meta", b"hard"),):',
            ),
        ),
    ),
    Mutant(
        "recovered-too-early",
        "issue 5: until it is refilled to there",
        "a recovering peer counts again as soon as it holds anything at all",
        (
            Edit(
                "raftlog.core",
                "        if min(state.stable_id(), state.log.id_at(state.commit)) >= state.recover_to:",
                "        if state.commit > 0:",
            ),
        ),
    ),
    Mutant(
        "hard-state-not-saved",
        "lessons 1: PySyncObj#98",
        "entries are durable, term and vote are not",
        (
            Edit(
                "raftlog.durable",
                "    write_hard(txn, save.hard)\n    if save.first is not None:",
                "    if save.first is not None:",
            ),
        ),
    ),
    Mutant(
        "suffix-not-removed",
        "lessons 13: raftify ff57812",
        "an overwritten suffix stays on the disk behind the new entries",
        (
            Edit(
                "raftlog.durable",
                '        txn.delete_range("entries", index_key(save.first), None)\n        append_entries(txn, save.entries)',
                "        for entry in save.entries:\n"
                '            txn.put("entries", index_key(entry.id.index), dumps(pack_entry(entry)))',
            ),
            Edit(
                "raftlog.durable",
                '            assert last is not None and last[0] == index_key(save.entries[-1].id.index), f"last key {last}"',
                "            assert last is not None",
            ),
        ),
    ),
)
