"""The simulated world: whole clusters in one process, in virtual time, from a seed.

The same nodes, machines, clerks and controllers as in production run over a simulated network (`raftlog.net.sim`), a
simulated disk and `trio.testing.MockClock`. Equal seeds give equal traces, also across processes.
"""
