"""The command `shardkv`, a module per topic.

Nothing is loaded before it is needed: `main` knows the names of the commands and the modules they are in. What the
commands share (where the cluster is, how errors end them, what is printed where) is in `common`.
"""
