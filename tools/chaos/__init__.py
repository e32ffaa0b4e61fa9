"""Chaos: a cluster of real processes under load is tormented, and what its clients saw and its disks hold is judged.

`run` plays a plan from an empty folder to a judgement; `shardkv chaos` is its command. The parts:

    arena     the cluster, behind the proxy, with its processes, places and clocks; whom a fault may have killed
    places    what the data lies on: plain directories, small disks, disks that forget (`forgetful`, `forgetful_mount`)
    load      clients, what they count, and the protocol of a workload; `kv_load` is the built-in one
    faults    what a fault is, and all of them: of `processes`, `network`, `disks`, and `changes` of the configuration
    nemesis   the schedule, drawn from the seed, and who plays it
    judge     what the peers left on their disks, looked at by the inspector
    page      the report

A fault does its harm when it is entered and takes it away when it is left, however it is left. Times are in seconds since the
run began.
"""
