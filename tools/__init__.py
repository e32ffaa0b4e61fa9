"""What people run: the command line, the local cluster of real processes, the demo, inspection.

The top floor: it may import everything below it, and nothing below imports it. Nothing here decides anything about the
data: `cluster` starts and stops processes, `serve` is such a process, and the commands in `cli` are clients like any
other.

    settings   the TOML file of one peer, and its errors
    manifest   the file that says what a cluster consists of
    processes  pid files, start and end of peers' processes
    cluster    `LocalCluster`: up, down, status, one peer, one group
    serve      one peer in this process
    demo       TestRaftPeerDown5D on real processes
    cli        the command `shardkv`
    inspect    what is in a peer's directory, read-only
"""
