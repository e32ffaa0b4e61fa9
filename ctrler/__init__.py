"""The control plane: the shard controller, on its own replicated configuration group (MIT 6.5840 lab 5, "shardctrler").

Floor: stands on `shardkv`, whose group clerk it moves shards with, and on the floors below.

Law: the versioned put of *next* decides which change happens; after it the change only goes forward, and anybody may
finish it. Leadership is no more than a hint when to run the controller's loop.
"""
