"""ShardConfig: the labs' vectors, balance, and everything that is no configuration."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardkv.config import MAX_GID, MAX_NUM, ShardConfig, shard_of


def servers(gid: int, count: int = 3) -> list[str]:
    return [f"server-{gid}-{i}" for i in range(count)]


def joined(*gids: int, shards: int = 12) -> ShardConfig:
    return ShardConfig.initial(shards).join({gid: servers(gid) for gid in gids})


# --- vectors of the labs ---------------------------------------------------------------------------------------------


def test_keys_fall_into_the_shards_of_the_labs() -> None:
    config = ShardConfig.initial(12)
    assert [config.shard_of(f"k{i}") for i in range(12)] == [10, 9, 0, 11, 6, 5, 8, 7, 6, 5, 7, 8]
    assert config.shard_of("k") == 6
    assert config.shard_of("") == 1
    shards = [config.shard_of(f"k{i}") for i in range(60)]
    assert [shards.count(shard) for shard in range(12)] == [7, 3, 3, 3, 3, 8, 8, 5, 5, 4, 4, 7]


def test_a_key_as_text_is_its_utf8_bytes() -> None:
    config = ShardConfig.initial(12)
    assert config.shard_of("schlüssel") == config.shard_of("schlüssel".encode()) == shard_of("schlüssel".encode(), 12)


def test_the_text_forms_of_the_labs() -> None:
    one = '"1":["server-1-0","server-1-1","server-1-2"]'
    two = '"2":["server-2-0","server-2-1","server-2-2"]'
    config = ShardConfig.initial(12)
    texts = [config.to_json()]
    for step in ("join 1", "join 2", "leave 1"):
        verb, gid = step.split()
        config = config.join({int(gid): servers(int(gid))}) if verb == "join" else config.leave([int(gid)])
        texts.append(config.to_json())
    assert texts == [
        '{"Num":0,"Shards":[0,0,0,0,0,0,0,0,0,0,0,0],"Groups":{}}',
        '{"Num":1,"Shards":[1,1,1,1,1,1,1,1,1,1,1,1],"Groups":{' + one + "}}",
        '{"Num":2,"Shards":[2,2,2,2,2,2,1,1,1,1,1,1],"Groups":{' + one + "," + two + "}}",
        '{"Num":3,"Shards":[2,2,2,2,2,2,2,2,2,2,2,2],"Groups":{' + two + "}}",
    ]
    assert [ShardConfig.from_json(text).to_json() for text in texts] == texts
    assert ShardConfig.from_json(texts[2].encode()) == ShardConfig.from_json(texts[2])


def test_groups_are_sorted_as_strings_in_the_text_form() -> None:
    groups = json.loads(joined(2, 10, 1).to_json())["Groups"]
    assert list(groups) == ["1", "10", "2"]


def test_the_text_form_escapes_what_go_escapes() -> None:
    config = ShardConfig.initial(1).join({1: ["<ä&b>"]})
    assert config.to_json() == '{"Num":1,"Shards":[1],"Groups":{"1":["\\u003cä\\u0026b\\u003e"]}}'
    assert ShardConfig.from_json(config.to_json()) == config


# --- changes ---------------------------------------------------------------------------------------------------------


def test_a_change_counts_once_however_many_groups() -> None:
    config = joined(3, 1, 2)
    assert config.num == 1
    assert config.leave([1, 3]).num == 2
    assert config.move(0, 2).num == 2


def test_a_new_group_gets_the_lowest_shards_of_the_fullest() -> None:
    assert joined(1, 2, 3).shards == (1, 2, 3) * 4
    assert joined(1).join({3: servers(3), 2: servers(2)}).shards == (2, 3, 2, 3, 2, 3, 2, 3, 1, 1, 1, 1)


def test_the_shards_of_a_group_that_leaves_go_to_the_emptiest_and_then_the_smallest_gid() -> None:
    assert joined(1, 2, 3).leave([2]).shards == (1, 1, 3, 1, 3, 3, 1, 1, 3, 1, 3, 3)


def test_the_last_group_leaves_every_shard_to_nobody() -> None:
    config = joined(1, 2).leave([2, 1])
    assert set(config.shards) == {0}
    assert dict(config.groups) == {}
    config.check([])


def test_move_gives_one_shard_and_nothing_else() -> None:
    before = joined(1, 2)
    after = before.move(11, 2)
    assert after.shards == (*before.shards[:11], 2)
    assert after.groups == before.groups
    assert after.servers_of(11) == (2, tuple(servers(2)))
    assert 11 in after.shards_of(2)


def test_a_group_without_shards_is_in_the_groups_and_no_member() -> None:
    config = joined(*range(1, 14))
    assert 13 in config.groups
    assert not config.is_member(13)
    assert config.is_member(12)
    assert not ShardConfig.initial(12).is_member(0)


def test_a_configuration_is_a_value() -> None:
    assert joined(1, 2) == joined(2, 1)
    assert len({joined(1, 2), joined(2, 1), joined(1)}) == 2
    with pytest.raises(TypeError):
        joined(1).groups[2] = ("x",)  # type: ignore[index]


def test_check_finds_other_groups_orphans_and_imbalance() -> None:
    joined(1, 2).check([2, 1])
    with pytest.raises(ValueError, match=r"\[1, 2\], not \[1\]"):
        joined(1, 2).check([1])
    with pytest.raises(ValueError, match="shard 1 has no owner"):
        ShardConfig(1, (1, 0), {1: ("a",)}).check()
    with pytest.raises(ValueError, match="unbalanced: one group has 5 shards, another 7"):
        joined(1, 2).move(0, 2).check()


# --- refusals --------------------------------------------------------------------------------------------------------


def test_what_cannot_change_is_refused() -> None:
    config = joined(1)
    for change, words in [
        (lambda: config.join({1: ["x"]}), "group 1 is a member already"),
        (lambda: config.join({2: ["server-1-2"]}), "server 'server-1-2' of group 2 is used by group 1"),
        (lambda: config.join({2: ["x"], 3: ["x"]}), "used by group 2"),
        (lambda: config.join({2: ["x", "x"]}), "used by group 2"),
        (lambda: config.join({2: []}), "group 2 has 0 servers"),
        (lambda: config.join({2: "server"}), "a list of names"),
        (lambda: config.join({0: ["x"]}), "a group is numbered"),
        (lambda: config.join({MAX_GID + 1: ["x"]}), "a group is numbered"),
        (lambda: config.join({True: ["x"]}), "a group is numbered"),
        (lambda: config.join({2: [""]}), "not the name of a server"),
        (lambda: config.join({2: ["a\nb"]}), "not the name of a server"),
        (lambda: config.leave([2]), "group 2 is not a member"),
        (lambda: config.leave([1, 1]), "group 1 is not a member"),
        (lambda: config.move(12, 1), "no shard 12"),
        (lambda: config.move(-1, 1), "no shard -1"),
        (lambda: config.move(0, 2), "group 2 is not a member"),
        (lambda: config.move(0, 0), "group 0 is not a member"),
        (lambda: ShardConfig.initial(0), "0 shards"),
        (lambda: ShardConfig.initial(65537), "65537 shards"),
    ]:
        with pytest.raises(ValueError, match=words):
            change()
    assert config.join({MAX_GID: ["x"]}).is_member(MAX_GID)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("[]", "has the keys"),
        ("[" * 100_000, "nested too deep"),
        (b"\xff", "not UTF-8"),
        ('{"Num":1}', "has the keys"),
        ('{"Num":1,"Shards":[0],"Groups":{},"More":1}', "has the keys"),
        ('{"Num":1,"Num":1,"Shards":[0],"Groups":{}}', "twice"),
        ('{"Num":1,"Shards":[1],"Groups":{"1":["a"],"1":["b"]}}', "twice"),
        ('{"Num":-1,"Shards":[0],"Groups":{}}', "number is an integer"),
        ('{"Num":true,"Shards":[0],"Groups":{}}', "number is an integer"),
        ('{"Num":1.0,"Shards":[0],"Groups":{}}', "number is an integer"),
        (f'{{"Num":{MAX_NUM + 1},"Shards":[0],"Groups":{{}}}}', "number is an integer"),
        ('{"Num":1,"Shards":[],"Groups":{}}', "0 shards"),
        ('{"Num":1,"Shards":0,"Groups":{}}', "Shards is an array"),
        ('{"Num":1,"Shards":[1],"Groups":{}}', "shard 0 belongs to 1"),
        ('{"Num":1,"Shards":[1.0],"Groups":{"1":["a"]}}', "shard 0 belongs to 1.0"),
        ('{"Num":1,"Shards":[true],"Groups":{"1":["a"]}}', "shard 0 belongs to True"),
        ('{"Num":1,"Shards":[[]],"Groups":{"1":["a"]}}', "shard 0 belongs to"),
        ('{"Num":1,"Shards":[0],"Groups":[]}', "Groups is an object"),
        ('{"Num":1,"Shards":[0],"Groups":{"01":["a"]}}', "not the number of a group"),
        ('{"Num":1,"Shards":[0],"Groups":{"x":["a"]}}', "not the number of a group"),
        ('{"Num":1,"Shards":[0],"Groups":{"0":["a"]}}', "a group is numbered"),
        ('{"Num":1,"Shards":[0],"Groups":{"1":"a"}}', "an array of names"),
        ('{"Num":1,"Shards":[0],"Groups":{"1":[1]}}', "not the name of a server"),
        ('{"Num":1,"Shards":[0],"Groups":{"1":["\\ud800"]}}', "not the name of a server"),
        ('{"Num":1,"Shards":[0],"Groups":{"1":["a"],"2":["a"]}}', "used by group 1"),
    ],
)
def test_a_text_that_is_no_configuration_is_refused_with_its_reason(text: str | bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ShardConfig.from_json(text)


@given(st.text() | st.binary())
def test_any_text_is_a_configuration_or_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        ShardConfig.from_json(text)


# --- properties ------------------------------------------------------------------------------------------------------

GIDS = st.integers(1, 9)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.lists(GIDS, min_size=1, max_size=4, unique=True)),
        st.tuples(st.just("leave"), st.lists(GIDS, min_size=1, max_size=4, unique=True)),
        st.tuples(st.just("move"), st.lists(GIDS, min_size=1, max_size=1)),
    ),
    max_size=12,
)


@given(st.integers(1, 24), STEPS)
def test_every_join_and_leave_balances_and_moves_as_little_as_it_can(
    shards: int, steps: list[tuple[str, list[int]]]
) -> None:
    config = ShardConfig.initial(shards)
    for verb, gids in steps:
        before = config
        if verb == "move":
            if gids[0] in config.groups:
                config = config.move(gids[0] % shards, gids[0])
            continue
        wanted = [gid for gid in gids if (gid in config.groups) == (verb == "leave")]
        config = config.join({g: servers(g) for g in wanted}) if verb == "join" else config.leave(wanted)
        config.check()
        assert config.num == before.num + 1
        assert ShardConfig.from_json(config.to_json()) == config
        assert least_moves(before, config) == sum(a != b for a, b in zip(before.shards, config.shards, strict=True))


def least_moves(before: ShardConfig, after: ShardConfig) -> int:
    """How few shards can move into any balanced assignment to the groups of `after`: each group keeps what it has, up
    to the larger share for as many groups as there are larger shares (the fullest first)."""
    if not after.groups:
        return sum(gid != 0 for gid in before.shards)
    share, larger = divmod(len(after.shards), len(after.groups))
    kept = 0
    for count in sorted((before.shards.count(gid) for gid in after.groups), reverse=True):
        kept += min(count, share + (1 if larger > 0 else 0))
        larger -= 1
    return len(after.shards) - kept
