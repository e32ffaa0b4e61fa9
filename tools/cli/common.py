"""What all commands share: the data directory, one-line errors with exit codes, output for people and for programs.

Exit codes: 0 done; 1 the answer is negative (no such key, another version, findings); 2 wrong usage or settings; 3 cannot
reach, open or do it in time; 4 the outcome is unknown ("maybe").
"""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

NEGATIVE, USAGE, UNREACHABLE, MAYBE = 1, 2, 3, 4

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def dir_option(command: F) -> F:
    """--dir: the cluster's directory."""
    return click.option(
        "--dir",
        "folder",
        type=click.Path(path_type=Path),
        default=Path("shardkv-data"),
        envvar="SHARDKV_DIR",
        show_envvar=True,
        help="The cluster's directory (default ./shardkv-data).",
    )(command)


def json_option(command: F) -> F:
    """--json."""
    return click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")(command)


def fail(text: str, code: int) -> NoReturn:
    """One line on standard error, and the end."""
    click.echo(f"shardkv: {' '.join(text.split())}", err=True)
    sys.exit(code)


def tell(line: str) -> None:
    """Progress, for a person at a terminal only."""
    if sys.stderr.isatty():
        click.echo(line, err=True)


def put_out(value: Any) -> None:
    """One JSON object on one line."""
    click.echo(json.dumps(value, default=_plain))


def _plain(value: Any) -> Any:
    return text_of(value) if isinstance(value, bytes) else str(value)


def text_of(data: bytes) -> str:
    """Bytes as text; what is no UTF-8 as hex with 0x in front."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "0x" + data.hex()


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn what a command may raise into a line and an exit code."""
    from raftlog.codec import CodecError
    from shardkv.errors import Maybe, NoKey, Refused, Unavailable, VersionMismatch
    from store.engine import StoreError
    from tools.cluster import ClusterError
    from tools.processes import ProcessError
    from tools.settings import SettingsError

    try:
        yield
    except* (NoKey, VersionMismatch, Refused) as group:
        fail(str(_leaf(group)), NEGATIVE)
    except* (CodecError, SettingsError) as group:
        fail(str(_leaf(group)), USAGE)
    except* Maybe as group:
        fail(f"the outcome is unknown: {_leaf(group)}", MAYBE)
    except* (Unavailable, ClusterError, ProcessError, StoreError, OSError) as group:
        fail(str(_leaf(group)), UNREACHABLE)
    except* KeyboardInterrupt:
        sys.exit(130)


def _leaf(error: BaseException) -> BaseException:
    return _leaf(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Run an async command body, with errors as lines."""
    import trio

    with one_line_errors():
        return trio.run(work)
    raise AssertionError("unreachable")


def controllers_of(folder: Path) -> tuple[str, ...]:
    """The controllers' addresses, from the cluster's directory."""
    from tools.manifest import need_manifest

    return need_manifest(folder).controllers
