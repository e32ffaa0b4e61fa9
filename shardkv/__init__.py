"""The data plane: versioned key/value, shard groups that hand shards over to each other, the routing clerk.

Floor: stands on `raftlog` and `store`; knows nothing of the controller (`ctrler`), which moves shards through it.

Law: who owns a shard is decided in `apply` and nowhere else; whoever reads checks it in the same view.
"""
