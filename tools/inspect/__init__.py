"""Reading what is on the disk: `shardkv inspect info | log | verify`, strictly read-only, on stopped and running peers.

A damaged file must never crash or fool the reader: its structure is checked before LMDB opens it (a truncated file would
kill the process), and LMDB opens it in a child process (`child`), whose death is a finding.
"""
