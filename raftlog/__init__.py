"""The replicated log: a pure Raft core, its durable log, its transports, and the replicated state machine.

Floor: stands on `store`. The modules types, messages, log, roles, core, invariants, codec and net.frames are *pure*:
they import each other and the standard library (codec and frames also cbor2), hold no clock, do no I/O.

Law: state in, effects out; nothing waits. The ordering rules are stated once, at `raftlog.core.RaftCore`. One module,
`node`, is where clock, disk, network and core meet.
"""
