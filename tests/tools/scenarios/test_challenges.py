"""What the challenges measure with: the fewest moves to a balance, against every way to balance."""

from __future__ import annotations

import itertools

import pytest

from shardkv.config import ShardConfig
from tools.scenarios.challenges import fewest_moves


def config(*shards: int) -> ShardConfig:
    """Six shards or so, and the groups that own any."""
    return ShardConfig(1, shards, {gid: (f"server-{gid}-0",) for gid in {*shards} - {0}})


def by_trying(old: ShardConfig, gids: list[int]) -> int:
    """The least of all balanced assignments."""
    balanced = (
        owners
        for owners in itertools.product(gids, repeat=len(old.shards))
        if max(owners.count(g) for g in gids) - min(owners.count(g) for g in gids) <= 1
    )
    return min(sum(a != b for a, b in zip(old.shards, owners, strict=True)) for owners in balanced)


@pytest.mark.parametrize(
    ("shards", "gids"),
    [
        ((0, 0, 0, 0, 0), [1, 2]),
        ((1, 1, 1, 1, 1), [1]),
        ((1, 1, 1, 1, 1), [1, 2]),
        ((1, 1, 1, 1, 1), [2, 3]),
        ((1, 1, 1, 2, 2), [1, 2, 3]),
        ((1, 1, 2, 2, 3), [1, 3]),
        ((1, 1, 2, 2, 3), [3, 4]),
        ((1, 1, 1, 1, 2), [1, 2, 3, 4]),
        ((1, 1, 1, 2, 2, 3), [1, 2, 3, 4]),
        ((1, 2, 3, 4, 4, 4), [1, 4]),
    ],
)
def test_fewest_moves(shards: tuple[int, ...], gids: list[int]) -> None:
    old = config(*shards)
    new = ShardConfig(2, (gids[0],) * len(shards), {gid: (f"server-{gid}-0",) for gid in gids})
    assert fewest_moves(old, new) == by_trying(old, gids)
