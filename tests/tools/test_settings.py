"""The file of one peer: what was written is read again, and every mistake is told in one line."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardkv.config import MAX_SERVERS, MAX_SHARDS
from tools import settings as module
from tools.settings import (
    PeerSettings,
    SettingsError,
    address_text,
    parse_address,
    read_settings,
    settings_text,
    toml_text,
)

PEERS = {0: ("127.0.0.1", 20101), 1: ("127.0.0.1", 20102)}


@pytest.fixture
def settings(tmp_path: Path) -> PeerSettings:
    return PeerSettings(
        cluster=bytes(range(16)),
        gid=1,
        peer=0,
        directory=(tmp_path / "server-1-0").resolve(),
        listen=PEERS[0],
        peers=PEERS,
        incarnations={0: 11, 1: 12},
        controllers=("127.0.0.1:20001",),
    )


@pytest.fixture
def file(tmp_path: Path, settings: PeerSettings) -> Path:
    path = tmp_path / "server-1-0.toml"
    path.write_text(settings_text(settings, tmp_path.resolve()), encoding="utf-8")
    return path


def test_what_was_written_is_read(file: Path, settings: PeerSettings) -> None:
    assert read_settings(file) == settings


def test_data_is_relative_to_the_file(file: Path, settings: PeerSettings, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    file.rename(moved / file.name)
    assert read_settings(moved / file.name).directory == (moved / "server-1-0").resolve()


def test_another_place_to_listen_is_kept(settings: PeerSettings, tmp_path: Path) -> None:
    other = replace(settings, listen=("127.0.0.2", 9))
    path = tmp_path / "peer.toml"
    path.write_text(settings_text(other, tmp_path.resolve()), encoding="utf-8")
    assert read_settings(path) == other


def test_routes_are_kept_and_only_change_what_is_dialled(settings: PeerSettings, tmp_path: Path) -> None:
    routed = replace(settings, routes={"127.0.0.1:20102": "127.0.0.1:40001", "127.0.0.1:20001": "127.0.0.1:40002"})
    path = tmp_path / "peer.toml"
    path.write_text(settings_text(routed, tmp_path.resolve()), encoding="utf-8")
    assert read_settings(path) == routed
    spec = read_settings(path).spec()
    assert spec.dialled() == {0: PEERS[0], 1: ("127.0.0.1", 40001)}
    assert (spec.peers, spec.address_of(1)) == (PEERS, "127.0.0.1:20102")


@pytest.mark.parametrize(
    "text", ["7", '{"127.0.0.1:1" = 5}', '{"127.0.0.1:1" = "nowhere"}', '{"127.0.0.1:1" = "1.2.3.4:5"}']
)
def test_a_route_that_leads_nowhere_is_refused(file: Path, text: str) -> None:
    file.write_text(
        file.read_text(encoding="utf-8").replace("shards = ", f"routes = {text}\nshards = "), encoding="utf-8"
    )
    with pytest.raises(SettingsError, match="routes: "):
        read_settings(file)


def test_lease_reads_are_only_for_who_asks(settings: PeerSettings, file: Path, tmp_path: Path) -> None:
    assert "lease_reads" not in file.read_text(encoding="utf-8") and not read_settings(file).spec().lease_reads
    path = tmp_path / "peer.toml"
    path.write_text(settings_text(replace(settings, lease_reads=True), tmp_path.resolve()), encoding="utf-8")
    assert read_settings(path).spec().lease_reads


def test_the_spec_says_the_same(settings: PeerSettings) -> None:
    spec = settings.spec()
    assert (spec.incarnation, spec.name, spec.listen) == (11, "server-1-0", PEERS[0])
    assert (spec.peers, spec.controllers) == (PEERS, ("127.0.0.1:20001",))


MISTAKES = {
    "unknown key": ("store = ", "stor = ", ("stor:", "did you mean store?")),
    "missing key": ("gid = 1\n", "", ("gid: missing",)),
    "misspelt key": ("listen", "listen", ()),
    "misspelt needed key": ("cluster = ", "clutser = ", ("cluster: missing", "clutser", "did you mean cluster?")),
    "wrong type": ("gid = 1", 'gid = "1"', ("gid: must be an integer", '"1"')),
    "truth is no number": ("gid = 1", "gid = true", ("gid: must be an integer",)),
    "newer format": ("format = 1", "format = 2", ("format: must be 1, not 2",)),
    "short cluster id": ("00010203", "0001", ("cluster: must be 16 bytes",)),
    "strange store": ('"kvraft"', '"redis"', ("store: must be one of kvraft, kvsrv",)),
    "bad address": ('"127.0.0.1:20001"', '"127.0.0.1"', ("controllers:", "not host:port")),
    "bad port": ("20102", "72000", ("peers.1.address:", "1..65535")),
    "reachable from outside": ("127.0.0.1:20102", "10.1.2.3:20102", ("peers.1.address:", "needs insecure = true")),
    "a name may be anywhere": ("127.0.0.1:20102", "db.example:1", ("peers.1.address:", "needs insecure = true")),
    "the same address": ("20102", "20101", ("peers: two peers have the same address",)),
    "unknown key of a peer": ("incarnation = 12", "incarnation = 12\nport = 1", ("peers.1.port: unknown key",)),
    "stranger": ("peer = 0", "peer = 7", ("peer: peer 7 is not in [peers], which has 0, 1",)),
    "not TOML": ("gid = 1", "gid 1", ("not TOML:",)),
    "peers in a row": ("[peers.0]", "[peers.zero]", ("peers.zero: must be a number",)),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_line_that_names_file_and_key(file: Path, mistake: str) -> None:
    before, after, told = MISTAKES[mistake]
    text = file.read_text(encoding="utf-8")
    if not told:
        assert before not in text
        return
    assert before in text
    file.write_text(text.replace(before, after, 1), encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        read_settings(file)
    line = str(caught.value)
    assert line.startswith(f"{file}: ") and "\n" not in line
    for words in told:
        assert words in line


def test_insecure_allows_other_addresses(file: Path) -> None:
    text = file.read_text(encoding="utf-8").replace("127.0.0.1", "10.1.2.3").replace("= false", "= true")
    file.write_text(text, encoding="utf-8")
    assert read_settings(file).listen == ("10.1.2.3", 20101)


def test_a_missing_file_and_one_that_is_no_text_are_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is no such file"):
        read_settings(tmp_path / "no.toml")
    (tmp_path / "binary.toml").write_bytes(b"a = \xff")
    with pytest.raises(SettingsError, match="not a text in UTF-8"):
        read_settings(tmp_path / "binary.toml")


@pytest.mark.parametrize("text", ["127.0.0.1:1", "[::1]:7000", "localhost:65535", "db.example:80"])
def test_addresses_are_read_and_written(text: str) -> None:
    assert address_text(parse_address(text)) == text


@pytest.mark.parametrize(
    "text", ["", ":1", "host", "host:", "host:0", "host:65536", "::1:7000", "a b:1", "h:-1", "h:1e3"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_address(text)


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(-(1 << 63), (1 << 63) - 1), st.booleans())
def test_toml_is_read_as_it_was_written(text: str, number: int, truth: bool) -> None:
    import tomllib

    values = {"text": text, "list": [text, text], "table": {"0": {"number": number}, "truth": truth}}
    assert tomllib.loads(toml_text(values)) == values


def test_limits_are_those_of_the_houses_below() -> None:
    assert (module.MAX_SHARDS, module.MAX_GROUP_PEERS) == (MAX_SHARDS, MAX_SERVERS)
