"""The command line without a cluster: help, errors in one line, exit codes, what is printed."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from shardkv.errors import Maybe, NoKey, Refused, Unavailable, VersionMismatch
from tools.cli.common import Failure, one_line_errors, printable, text_fields
from tools.cli.main import COMMANDS, cli
from tools.manifest import read_manifest
from tools.settings import SettingsError, read_settings

ROOT = Path(__file__).resolve().parents[2]


def call(*arguments: str | Path, **options: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], **options)  # type: ignore[arg-type]


def commands() -> Iterator[tuple[list[str], click.Command]]:
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        yield [name], command
        if isinstance(command, click.Group):
            for sub, inner in command.commands.items():
                yield [name, sub], inner


ALL = list(commands())


@pytest.mark.parametrize("words", [words for words, _ in ALL], ids=" ".join)
def test_every_command_has_help_with_an_example(words: list[str]) -> None:
    result = call(*words, "--help")
    assert result.exit_code == 0
    assert "Example" in result.output and "shardkv " + words[0] in result.output


@pytest.mark.parametrize(
    "words", [words for words, command in ALL if not isinstance(command, click.Group)], ids=" ".join
)
def test_every_command_has_json_with_its_keys_told(words: list[str]) -> None:
    result = call(*words, "--help")
    assert "--json" in result.output and ("JSON keys" in result.output or "--json:" in result.output)


def test_help_lists_every_command_without_loading_it() -> None:
    code = "import sys; from tools.cli.main import main; sys.argv[1:] = ['--help']; main()"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert all(name in done.stdout for name in COMMANDS)
    for heavy in ("trio", "rich", "lmdb", "cbor2"):
        assert f" {heavy}\n" not in done.stderr


def test_a_peer_loads_no_command_line_and_nothing_for_show() -> None:
    code = "import sys, tools.serve, shardkv.host, ctrler.host; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"click", "rich", "argparse", "httpx", "pytest", "hypothesis"}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NoKey("no such key"), 1),
        (VersionMismatch(3), 1),
        (Refused("too large"), 2),
        (SettingsError("a.toml: gid: missing"), 2),
        (Unavailable("no answer"), 3),
        (ConnectionRefusedError("refused"), 3),
        (Maybe("no answer"), 4),
    ],
)
@pytest.mark.parametrize("grouped", [False, True])
def test_every_error_has_its_exit_code(error: Exception, code: int, grouped: bool) -> None:
    with pytest.raises(Failure) as caught, one_line_errors():
        raise ExceptionGroup("tasks", [error]) if grouped else error
    assert caught.value.exit_code == code
    assert str(error) in caught.value.message


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    result = call("up", "--detach", "--dir", tmp_path / "file" / "data")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr == f"shardkv: {tmp_path / 'file' / 'data'}: Not a directory\n"


def test_a_defect_is_not_made_a_line() -> None:
    with pytest.raises(ZeroDivisionError), one_line_errors():
        raise ZeroDivisionError("a defect")


NO_CLUSTER = [
    ("get", "k"),
    ("put", "k", "v"),
    ("delete", "k"),
    ("scan",),
    ("down",),
    ("status",),
    ("ctrl", "query"),
    ("ctrl", "join", "2"),
    ("peer", "kill", "server-0-0"),
    ("group", "remove", "2"),
]


@pytest.mark.parametrize("words", NO_CLUSTER, ids=" ".join)
def test_no_cluster_is_one_clear_line(words: tuple[str, ...], tmp_path: Path) -> None:
    result = call(*words, "--dir", tmp_path / "none")
    assert result.exit_code == 2 and not result.stdout
    assert "no cluster there" in result.stderr and result.stderr.count("\n") == 1


def test_the_directory_comes_from_the_environment(tmp_path: Path) -> None:
    result = call("get", "k", env={"SHARDKV_DIR": str(tmp_path / "none")})
    assert str(tmp_path / "none") in result.stderr


def test_nobody_there_is_out_of_reach() -> None:
    result = call("get", "k", "--connect", "127.0.0.1:1", "--deadline", "0.05")
    assert result.exit_code == 3 and result.stderr.count("\n") == 1


WRONG = [
    (("demo", "--store", "kvsrv", "--peers", "3"), "--peers"),
    (("demo", "--peers", "4"), "--peers"),
    (("scan", "--prefix", "a", "--start", "b"), "--prefix"),
    (("get", "k", "--connect", "nowhere"), "--connect"),
    (("get", "k" * 401, "--connect", "127.0.0.1:1"), "401"),
    (("up", "--replicas", "0"), "--replicas 0: it must be 1..9"),
    (("up", "--ctrl-peers", "11"), "--ctrl-peers 11: it must be 1..9"),
    (("up", "--store", "kvsrv", "--ctrl-peers", "3"), "--ctrl-peers 3: a kvsrv is one server"),
    (("ctrl", "join", "0"), "GID"),
    (("wat",), "wat"),
]


@pytest.mark.parametrize(("words", "told"), WRONG, ids=[" ".join(words)[:40] for words, _ in WRONG])
def test_a_wrong_call_is_told(words: tuple[str, ...], told: str, tmp_path: Path) -> None:
    result = call(*words, env={"SHARDKV_DIR": str(tmp_path / "none")})
    assert result.exit_code == 2 and not result.stdout
    assert told in result.stderr
    assert not (tmp_path / "none").exists()


# --- several machines ------------------------------------------------------------------------------------------------

INIT = ("--ctrl", "127.0.0.1:7000", "--group", "127.0.0.1:7100,127.0.0.1:7101", "--group", "127.0.0.1:7200")


def test_init_writes_a_file_per_peer_with_one_cluster_id(tmp_path: Path) -> None:
    result = call("init", "--out", tmp_path, *INIT, "--json")
    assert result.exit_code == 0
    said = json.loads(result.stdout)
    found = [read_settings(Path(file)) for file in said["files"]]
    assert [peer.name for peer in found] == ["server-0-0", "server-1-0", "server-1-1", "server-2-0"]
    assert {peer.cluster.hex() for peer in found} == {said["cluster"]}
    manifest = read_manifest(tmp_path)
    assert manifest is not None and not manifest.local
    assert not any(path.is_dir() for path in tmp_path.iterdir())


def test_init_makes_a_cluster_once(tmp_path: Path) -> None:
    assert call("init", "--out", tmp_path, *INIT).exit_code == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    again = call("init", "--out", tmp_path, *INIT)
    assert again.exit_code == 2 and "exists already" in again.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_init_needs_insecure_for_addresses_that_others_reach(tmp_path: Path) -> None:
    words = [word.replace("127.0.0.1", "10.0.0.1") for word in INIT]
    refused = call("init", "--out", tmp_path / "a", *words)
    assert refused.exit_code == 2 and "--insecure" in refused.stderr and not (tmp_path / "a").exists()
    assert call("init", "--out", tmp_path / "a", "--insecure", *words).exit_code == 0


def test_init_refuses_one_address_for_two_peers(tmp_path: Path) -> None:
    result = call("init", "--out", tmp_path, "--ctrl", "127.0.0.1:7000", "--group", "127.0.0.1:7000")
    assert result.exit_code == 2 and "two peers" in result.stderr


def test_up_does_not_run_the_peers_of_other_machines(tmp_path: Path) -> None:
    call("init", "--out", tmp_path, *INIT)
    result = call("up", "--detach", "--dir", tmp_path)
    assert result.exit_code == 3 and "shardkv serve" in result.stderr


def test_up_does_not_change_a_cluster(tmp_path: Path) -> None:
    call("init", "--out", tmp_path, *INIT)
    result = call("up", "--detach", "--ctrl-peers", "5", "--dir", tmp_path)
    assert result.exit_code == 2 and "was made with 1" in result.stderr


# --- serve -----------------------------------------------------------------------------------------------------------


def serve(*arguments: str | Path, optimize: bool = False) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *(["-O"] if optimize else []), "-m", "tools.serve", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_serve_tells_a_typo_in_one_line(tmp_path: Path) -> None:
    call("init", "--out", tmp_path, *INIT)
    file = tmp_path / "server-1-0.toml"
    file.write_text(
        file.read_text(encoding="utf-8").replace("listne", "").replace("shards", "shrads"), encoding="utf-8"
    )
    done = serve(file)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "did you mean shards?" in done.stderr


def test_serve_does_not_make_a_directory_unasked(tmp_path: Path) -> None:
    call("init", "--out", tmp_path, *INIT)
    done = serve(tmp_path / "server-1-0.toml", "--json")
    assert done.returncode == 3 and done.stderr.count("\n") == 1
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["event"] for event in events] == ["imported", "error"]
    assert events[1]["exit"] == 3 and {"time", "monotonic", "name"} <= set(events[0])
    assert not (tmp_path / "server-1-0").exists()


def test_serve_refuses_to_run_without_assertions(tmp_path: Path) -> None:
    done = serve(tmp_path / "x.toml", optimize=True)
    assert done.returncode == 2 and "-O" in done.stderr


def test_serve_called_wrongly_says_how(tmp_path: Path) -> None:
    assert serve().returncode == 2
    done = serve(tmp_path / "x.toml", "--jsno")
    assert done.returncode == 2 and "usage" in done.stderr and "--jsno" in done.stderr


# --- words -----------------------------------------------------------------------------------------------------------


def test_bytes_in_json() -> None:
    assert text_fields("value", "ä".encode()) == {"value": "ä"}
    assert text_fields("value", b"\xff\0") == {"value_base64": "/wA="}


@pytest.mark.parametrize(
    ("data", "shown"),
    [(b"plain", "plain"), ("ä".encode(), "ä"), (b"a\tb\n", r"a\x09b\x0a"), (b"\xff", r"\xff"), (b"a\\b", r"a\x5cb")],
)
def test_bytes_in_a_line(data: bytes, shown: str) -> None:
    assert printable(data) == shown
