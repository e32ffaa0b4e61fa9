"""`ShardConfig`: which group owns which shard, as a value with pure functions (MIT 6.5840 lab 5, "shardcfg").

Text form, the same bytes as Go's `json.Marshal` gives: `{"Num":1,"Shards":[1,1],"Groups":{"1":["server-1-0"]}}` — no
spaces, the groups' numbers sorted *as strings* ("10" before "2"). It is what the config store holds, so its key names
and its order are a durable format.

Invariants: every shard belongs to a group of the configuration, or to nobody (gid 0); a server's name is in one group
only; `num` grows by one per change. Shards move as little as they can: see `_rebalance`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any

NSHARDS = 12
"""The number of shards of a cluster unless it was made with another."""

MAX_SHARDS = 1 << 16
"""A shard's number is two bytes in the keys of the tables."""

MAX_GID = 1 << 31
"""Groups are numbered 1..MAX_GID; 0 is "nobody" in a configuration (and the controllers' group elsewhere)."""

MAX_SERVERS = 9
"""The most servers of a group."""

MAX_NAME_BYTES = 255
"""The longest name of a server, in bytes of UTF-8."""

MAX_NUM = (1 << 23) - 1
"""The greatest number of a configuration: 8 million changes. Times 2^40 it is a tick (`commands.summary_of_nobody`)."""

NOBODY = 0
"""The "group" of a shard that has no owner."""

KNOWN_KEYS = 1 << 14
"""Of so many keys the shard is remembered: to work it out takes longer than to look it up."""

_KEYS = ("Num", "Shards", "Groups")


@lru_cache(KNOWN_KEYS)
def shard_of(key: bytes, shards: int) -> int:
    """The shard of `key` among `shards`: FNV-1a, 32 bits, modulo their number."""
    found = 0x811C9DC5
    for byte in key:
        found = (found ^ byte) * 0x01000193 & 0xFFFFFFFF
    return found % shards


@dataclass(frozen=True, slots=True)
class ShardConfig:
    """One configuration. Immutable and hashable; a change gives a new one with `num + 1`.

    `shards[s]` is the gid that owns shard s, 0 for nobody; `groups` maps a gid to the names of its servers. Raises
    `ValueError` for anything that is no configuration.
    """

    num: int
    shards: tuple[int, ...]
    groups: Mapping[int, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if type(self.num) is not int or not 0 <= self.num <= MAX_NUM:
            raise ValueError(f"a configuration's number is an integer of 0..{MAX_NUM}, not {self.num!r:.60}")
        if not 1 <= len(self.shards) <= MAX_SHARDS:
            raise ValueError(f"{len(self.shards)} shards; there must be 1..{MAX_SHARDS}")
        groups = {gid: _checked_servers(gid, servers) for gid, servers in sorted(_checked_gids(self.groups))}
        _check_names(groups)
        for shard, gid in enumerate(self.shards):
            if type(gid) is not int or (gid != NOBODY and gid not in groups):
                raise ValueError(f"shard {shard} belongs to {gid!r:.60}, which is no group of the configuration")
        object.__setattr__(self, "shards", tuple(self.shards))
        object.__setattr__(self, "groups", MappingProxyType(groups))

    def __hash__(self) -> int:
        return hash((self.num, self.shards, tuple(self.groups.items())))

    @classmethod
    def initial(cls, shards: int = NSHARDS) -> ShardConfig:
        """Number 0: no groups, every shard without an owner."""
        if type(shards) is not int or not 1 <= shards <= MAX_SHARDS:
            raise ValueError(f"{shards!r:.60} shards; there must be 1..{MAX_SHARDS}")
        return cls(0, (NOBODY,) * shards)

    # --- changes -----------------------------------------------------------------------------------------------------

    def join(self, groups: Mapping[int, Iterable[str]]) -> ShardConfig:
        """The configuration with these groups too, rebalanced. `ValueError` for a gid that is a member already and
        for a server's name that another group uses."""
        added: dict[int, tuple[str, ...]] = {gid: _listed(gid, names) for gid, names in _checked_gids(groups)}
        for gid in sorted(added):
            if gid in self.groups:
                raise ValueError(f"group {gid} is a member already")
        return _rebalanced(self.num + 1, self.shards, {**self.groups, **added})

    def leave(self, gids: Iterable[int]) -> ShardConfig:
        """The configuration without these groups, rebalanced. `ValueError` for a gid that is no member."""
        left = dict(self.groups)
        for gid in gids:
            if left.pop(gid, None) is None:
                raise ValueError(f"group {gid!r:.60} is not a member")
        return _rebalanced(self.num + 1, self.shards, left)

    def move(self, shard: int, gid: int) -> ShardConfig:
        """The configuration with `shard` given to the member `gid`, and nothing else changed."""
        self._check_shard(shard)
        if gid not in self.groups:
            raise ValueError(f"group {gid!r:.60} is not a member")
        return ShardConfig(self.num + 1, (*self.shards[:shard], gid, *self.shards[shard + 1 :]), self.groups)

    def keeping(self, old: ShardConfig) -> ShardConfig:
        """This configuration, but what it gives to nobody stays with its owner in `old`, whose group stays a member."""
        shards = tuple(had if gid == NOBODY else gid for gid, had in zip(self.shards, old.shards, strict=True))
        kept = {gid: servers for gid, servers in old.groups.items() if gid in shards}
        return ShardConfig(self.num, shards, {**kept, **self.groups})

    # --- questions ---------------------------------------------------------------------------------------------------

    def shard_of(self, key: str | bytes) -> int:
        """The shard of a key; a str counts as its UTF-8 bytes."""
        return shard_of(key.encode() if isinstance(key, str) else key, len(self.shards))

    def servers_of(self, shard: int) -> tuple[int, tuple[str, ...]]:
        """The owner of a shard and its servers; (0, ()) for a shard without an owner."""
        self._check_shard(shard)
        gid = self.shards[shard]
        return gid, self.groups.get(gid, ())

    def shards_of(self, gid: int) -> tuple[int, ...]:
        """The shards that `gid` owns, in order."""
        return tuple(shard for shard, owner in enumerate(self.shards) if owner == gid)

    def is_member(self, gid: int) -> bool:
        """Whether the group owns at least one shard (the labs' `IsMember`); `gid in config.groups` asks the other."""
        return gid != NOBODY and gid in self.shards

    def check(self, groups: Iterable[int] | None = None) -> None:
        """The labs' `CheckConfig`: exactly these `groups` (if given) are members, every shard has an owner when there
        is any group, and no group has two shards more than another. `ValueError` says what is not so. A configuration
        after `move` need not pass."""
        if groups is not None and sorted(groups) != list(self.groups):
            raise ValueError(f"the groups are {list(self.groups)}, not {sorted(groups)}")
        if not self.groups:
            return
        if NOBODY in self.shards:
            raise ValueError(f"shard {self.shards.index(NOBODY)} has no owner")
        counts = sorted(self.shards.count(gid) for gid in self.groups)
        if counts[-1] > counts[0] + 1:
            raise ValueError(f"unbalanced: one group has {counts[0]} shards, another {counts[-1]}")

    def _check_shard(self, shard: int) -> None:
        if type(shard) is not int or not 0 <= shard < len(self.shards):
            raise ValueError(f"there is no shard {shard!r:.60}: they are 0..{len(self.shards) - 1}")

    # --- text form ---------------------------------------------------------------------------------------------------

    def to_json(self) -> str:
        """The text form; equal configurations give equal texts."""
        groups = {str(gid): list(self.groups[gid]) for gid in sorted(self.groups, key=str)}
        text = json.dumps(
            {"Num": self.num, "Shards": self.shards, "Groups": groups}, ensure_ascii=False, separators=(",", ":")
        )
        # Go escapes these three, so that a text is safe inside HTML. They occur in names of servers only.
        return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")

    @classmethod
    def from_json(cls, text: str | bytes) -> ShardConfig:
        """The configuration that a text form says. `ValueError` with what is wrong for anything else."""
        try:
            value = json.loads(text if isinstance(text, str) else text.decode(), object_pairs_hook=_unique)
        except json.JSONDecodeError as error:
            raise ValueError(f"not JSON: {error}") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"not UTF-8: {error}") from error
        except RecursionError as error:
            raise ValueError("not a configuration: nested too deep") from error
        if type(value) is not dict or sorted(value) != sorted(_KEYS):
            raise ValueError(f"a configuration has the keys {', '.join(_KEYS)}, not {value!r:.80}")
        num, shards, groups = (value[key] for key in _KEYS)
        if type(shards) is not list:
            raise ValueError(f"Shards is an array of group numbers, not {shards!r:.60}")
        if type(groups) is not dict:
            raise ValueError(f"Groups is an object of lists of servers, not {groups!r:.60}")
        return cls(num, tuple(shards), {_gid_of(name): _array(name, names) for name, names in groups.items()})


# --- checks --------------------------------------------------------------------------------------------------------


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"a key is there twice: {[key for key, _ in pairs]!r:.80}")
    return found


def _gid_of(name: str) -> int:
    if not (name.isascii() and name.isdecimal() and len(name) <= 10 and str(int(name)) == name):
        raise ValueError(f"not the number of a group: {name!r:.60}")
    return int(name)


def _array(name: str, names: Any) -> tuple[str, ...]:
    if type(names) is not list:
        raise ValueError(f"the servers of group {name} are an array of names, not {names!r:.60}")
    return tuple(names)


def _listed(gid: int, names: Iterable[str]) -> tuple[str, ...]:
    if isinstance(names, str | bytes):
        raise ValueError(f"the servers of group {gid} are a list of names, not {names!r:.60}")
    return tuple(names)


def _checked_gids(groups: Mapping[int, Any]) -> list[tuple[int, Any]]:
    for gid in groups:
        if type(gid) is not int or not 1 <= gid <= MAX_GID:
            raise ValueError(f"a group is numbered 1..{MAX_GID}, not {gid!r:.60}")
    return list(groups.items())


def _checked_servers(gid: int, servers: Iterable[str]) -> tuple[str, ...]:
    names = _listed(gid, servers)
    if not 1 <= len(names) <= MAX_SERVERS:
        raise ValueError(f"group {gid} has {len(names)} servers; there must be 1..{MAX_SERVERS}")
    for name in names:
        if type(name) is not str or not name.isprintable() or not 1 <= len(name.encode()) <= MAX_NAME_BYTES:
            raise ValueError(f"not the name of a server of group {gid}: {name!r:.60}")
    return names


def _check_names(groups: Mapping[int, tuple[str, ...]]) -> None:
    users: dict[str, int] = {}
    for gid, names in groups.items():
        for name in names:
            if name in users:
                raise ValueError(f"server {name!r} of group {gid} is used by group {users[name]} already")
            users[name] = gid


# --- balance -------------------------------------------------------------------------------------------------------


def _rebalanced(num: int, shards: tuple[int, ...], groups: Mapping[int, tuple[str, ...]]) -> ShardConfig:
    """The labs' Rebalance, in their order, so that the owner of every shard is the same as theirs: (1) shards without
    an owner, in order of index, each to the group with the fewest; (2) while two groups differ by two or more, the
    lowest-numbered shard of the fullest to the emptiest. A tie is the smallest gid's."""
    owners = list(shards) if groups else [NOBODY] * len(shards)
    counts = {gid: owners.count(gid) for gid in sorted(groups)}

    def give(shard: int, gid: int) -> None:
        if owners[shard] in counts:
            counts[owners[shard]] -= 1
        owners[shard] = gid
        counts[gid] += 1

    # min and max take the first of equals, and the dict is in order of gid.
    if counts:
        for shard, gid in enumerate(owners):
            if gid not in counts:
                give(shard, min(counts, key=counts.__getitem__))
        while True:
            fullest = max(counts, key=counts.__getitem__)
            emptiest = min(counts, key=counts.__getitem__)
            if counts[fullest] < counts[emptiest] + 2:
                break
            give(owners.index(fullest), emptiest)
    return ShardConfig(num, tuple(owners), groups)
