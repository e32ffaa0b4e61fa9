"""What a client call raises, and what the caller should do then."""

from __future__ import annotations


class KvError(Exception):
    """Every outcome of a client call that is no success."""


class NoKey(KvError):
    """The key does not exist (a get or delete; a put that named a version above 0). Definitely without effect."""


class VersionMismatch(KvError):
    """The key has another version than the one named. Definitely without effect; `current` is the key's version."""

    def __init__(self, current: int) -> None:
        super().__init__(f"the key has version {current}")
        self.current = current


class Maybe(KvError):
    """The outcome is unknown: the call may have taken effect or not. Read before you decide; it is never "no"."""


class Unavailable(KvError):
    """The deadline passed, or the call was refused for now, surely without effect. Try again."""


class Refused(KvError):
    """The request itself is wrong: too large, no such shard, a stale configuration. Repeating it does not help."""
