"""What the commands share: exit codes, errors in one line, where the cluster is, what is printed where.

Exit codes of every command: 0 done; 1 done, and the outcome is a no (no such key, another version, findings, a failed
run); 2 the call or a file is wrong; 3 it cannot be opened, reached or done in time; 4 a write that may have happened.

Results go to standard output, everything else to standard error, and progress only if that is a terminal.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

DONE, OUTCOME_IS_NO, WRONG_CALL, OUT_OF_REACH, MAY_HAVE_HAPPENED = range(5)
INTERRUPTED = 130

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Failure(click.ClickException):
    """Ends a command with one line on standard error and an exit code."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(" ".join(text.split()))
        self.exit_code = code

    def show(self, file: Any = None) -> None:
        """Write the line."""
        click.echo(f"shardkv: {self.message}", file=file, err=file is None)


@contextmanager
def failures() -> Iterator[None]:
    """Turn every error that is told in a line into a `Failure` with its exit code."""
    from raftlog.codec import CodecError
    from raftlog.net.base import NetworkError
    from shardkv.errors import Maybe, NoKey, Refused, Unavailable, VersionMismatch
    from store.engine import StoreError
    from tools.cluster import ClusterError
    from tools.processes import ProcessError
    from tools.settings import SettingsError

    try:
        yield
    except (NoKey, VersionMismatch) as error:
        raise Failure(str(error), OUTCOME_IS_NO) from error
    except (Refused, CodecError, SettingsError) as error:
        raise Failure(str(error), WRONG_CALL) from error
    except Maybe as error:
        raise Failure(f"it may have happened or not: {error}", MAY_HAVE_HAPPENED) from error
    except (Unavailable, NetworkError, StoreError, ClusterError, ProcessError) as error:
        raise Failure(str(error), OUT_OF_REACH) from error


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Run `work` in an event loop; its errors end the command."""
    import trio

    with failures():
        return trio.run(work)


# --- options ---------------------------------------------------------------------------------------------------------


def directory_option(command: F) -> F:
    """`--dir`, the cluster's directory."""
    return click.option(
        "--dir",
        "folder",
        envvar="SHARDKV_DIR",
        default="shardkv-data",
        type=click.Path(file_okay=False, path_type=Path),
        help="The cluster's directory (or SHARDKV_DIR).  [default: ./shardkv-data]",
    )(command)


def json_option(command: F) -> F:
    """`--json`, results for programs."""
    return click.option("--json", "as_json", is_flag=True, help="Results as JSON, an object per line.")(command)


def client_options(command: F) -> F:
    """`--dir`, `--connect`, `--deadline` and `--json`: of commands that talk to a cluster."""
    command = json_option(command)
    command = click.option(
        "--deadline",
        type=click.FloatRange(min=0, min_open=True),
        default=None,
        metavar="SECONDS",
        help="How long to try.  [default: 10, of changes 60]",
    )(command)
    command = click.option(
        "--connect",
        "connect",
        envvar="SHARDKV_CONNECT",
        metavar="HOST:PORT,...",
        help="The controllers, instead of --dir (or SHARDKV_CONNECT).",
    )(command)
    return directory_option(command)


def controllers_of(folder: Path, connect: str | None) -> tuple[str, ...]:
    """The controllers' addresses, as told or as the cluster's directory has them."""
    from tools.manifest import need_manifest
    from tools.settings import address_text, parse_address

    with failures():
        if connect is None:
            return need_manifest(folder).controllers
        try:
            return tuple(address_text(parse_address(text.strip())) for text in connect.split(","))
        except ValueError as error:
            raise Failure(f"--connect: {error}", WRONG_CALL) from error


# --- output ----------------------------------------------------------------------------------------------------------


def say_json(value: Any) -> None:
    """One object on one line."""
    click.echo(json.dumps(value, separators=(", ", ": ")))


def progress(line: str) -> None:
    """A step that a person waits for; nothing if nobody looks."""
    if sys.stderr.isatty():
        click.echo(f"  {line}", err=True)


def warn(line: str) -> None:
    """One line on standard error."""
    click.echo(f"shardkv: {line}", err=True)


def text_fields(name: str, data: bytes) -> dict[str, str]:
    """Bytes for JSON: `{name: text}`, or `{name_base64: ...}` if they are not UTF-8."""
    import base64

    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(data).decode()}


def printable(data: bytes) -> str:
    """Bytes in one line without tabs: as they are if they are printable text, with escapes otherwise."""
    text = data.decode(errors="surrogateescape")
    if text.isprintable() and "\\" not in text:
        return text
    shown = [
        c if c.isprintable() and c != "\\" else "".join(f"\\x{b:02x}" for b in c.encode(errors="surrogateescape"))
        for c in text
    ]
    return "".join(shown)


def raw(text: str) -> bytes:
    """The bytes of an argument, as the shell gave them."""
    return os.fsencode(text)
