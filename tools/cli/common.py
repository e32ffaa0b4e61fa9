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
from typing import Any, NoReturn, TypeVar

import click

NEGATIVE, USAGE, UNREACHABLE, MAYBE = 1, 2, 3, 4
INTERRUPTED = 130

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Failure(click.ClickException):
    """Ends a command with one line on standard error and an exit code."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(" ".join(text.split()))
        self.exit_code = code  # type: ignore[misc]  # of each failure its own

    def show(self, file: Any = None) -> None:
        """Write the line."""
        click.echo(f"shardkv: {self.message}", file=file, err=file is None)


def fail(text: str, code: int) -> NoReturn:
    """End the command with a line and an exit code."""
    raise Failure(text, code)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn every error that can be told in a line into a `Failure` with its exit code; also out of a group of tasks."""
    from raftlog.codec import CodecError
    from raftlog.net.base import NetworkError
    from shardkv.errors import Maybe, NoKey, Refused, Unavailable, VersionMismatch
    from store.engine import StoreError
    from tools.layout import ClusterError, WrongCall
    from tools.processes import ProcessError
    from tools.settings import SettingsError

    try:
        yield
    except (Exception, BaseExceptionGroup) as error:  # tidy: to look into groups; the unknown goes on
        match leaf := _leaf(error):
            case NoKey() | VersionMismatch():
                code = NEGATIVE
            case Refused() | CodecError() | SettingsError() | WrongCall():
                code = USAGE
            case Maybe():
                code = MAYBE
            case Unavailable() | NetworkError() | StoreError() | ClusterError() | ProcessError() | OSError():
                code = UNREACHABLE
            case KeyboardInterrupt():
                raise leaf from error
            case _:
                raise
        if isinstance(leaf, BrokenPipeError):
            raise leaf from error
        raise Failure(f"{'it may have happened or not: ' if code == MAYBE else ''}{_words(leaf)}", code) from error


def _leaf(error: BaseException) -> BaseException:
    return _leaf(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def _words(error: BaseException) -> str:
    """What went wrong, for people."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error)


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Run `work` in an event loop; its errors end the command."""
    import trio

    with one_line_errors():
        return trio.run(work)
    raise AssertionError("one_line_errors lets nothing end the block early")


# --- options ---------------------------------------------------------------------------------------------------------


def dir_option(command: F) -> F:
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
    return dir_option(command)


def seeds_of(folder: Path, connect: str | None) -> tuple[bytes, tuple[str, ...]]:
    """The cluster's id (b"" if it is not known) and its controllers' addresses, as told or as its directory has them."""
    from tools.manifest import need_manifest
    from tools.settings import address_text, parse_address

    if connect is not None:
        try:
            return b"", tuple(address_text(parse_address(text.strip())) for text in connect.split(","))
        except ValueError as error:
            fail(f"--connect: {error}", USAGE)
    with one_line_errors():
        manifest = need_manifest(folder)
        return manifest.cluster, manifest.controllers
    raise AssertionError("one_line_errors lets nothing end the block early")


# --- output ----------------------------------------------------------------------------------------------------------


def put_out(value: Any) -> None:
    """One object on one line."""
    click.echo(json.dumps(value, default=lambda other: other.hex() if isinstance(other, bytes) else str(other)))


def tell(line: str) -> None:
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


def key_of(text: str) -> str | bytes:
    """A key from an argument: as text if it is one, so that messages show it so."""
    return text if text.isprintable() else raw(text)


def put_table(table: Any) -> None:
    """A `rich` table; as wide as it likes where nobody looks at a terminal."""
    from rich.console import Console

    Console(highlight=False, width=None if sys.stdout.isatty() else 200).print(table)
