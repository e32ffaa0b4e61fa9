"""`shardkv bench`: what the system costs and how fast it is, on this machine, beside what this machine can do at all.

Floor: tools. A report always says what the machine is and what its disk does at the moment (`machine`), and its figures
are medians of rounds that were played in turn (`rounds`), for a disk's speed varies by the hour. Loads come from processes
of their own (`load`), whose CPU time is reported like a peer's: a load generator that is the bottleneck shows.

    kv           gets and puts, alone or side by side with etcd
    controllers  the configuration on one kvsrv, or on a kvraft of 1, 3, 5 or 7 peers, with peers down
    recovery     restart, catching up, moving a shard, fail-over
    scale        many groups, many keys, long logs

Left out: any judgement. A benchmark measures; what it should have measured stands in `docs/performance.md`.
"""
