"""The numbers of the calls that a server of a group answers; `commands`, `admin` and `ctrler.api` say what goes with them."""

from __future__ import annotations

from enum import IntEnum


class Method(IntEnum):
    """The calls that servers of groups answer. 7..31 are kept for the data plane."""

    GET = 1
    WRITE = 2
    SCAN = 3
    READ_SHARD = 4
    STATUS = 5
    GET_MANY = 6
    PEER_INFO = 64
    PEER_STATUS = 65
    PEER_TRANSFER = 66
    PEER_SHUTDOWN = 67
    PEER_FAILPOINTS = 72
    PEER_REPLACE = 73
    PEER_VIEW = 74


CONTROL_METHODS = range(32, 64)
"""The calls of the control plane; `ctrler` names them."""
