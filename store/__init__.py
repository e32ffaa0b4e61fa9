"""Ordered, atomic, durable tables; the ground floor, which knows no word of Raft.

Floor: imports `lmdb` (in `lmdb_engine` alone), `trio` (in `writer` alone) and nothing of the floors above.

Law: a write transaction is durable when its block exits cleanly, and nothing of it exists otherwise. Any exception
from a commit is fatal to the peer. Synced commits only; no option exposes anything less.
"""
