"""The command `shardkv`: one module a topic; `main` loads the one that is asked for."""
