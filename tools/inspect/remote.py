"""A running peer's own view of its disk, over the network: `python -m tools.inspect.remote VERB ARGUMENTS HOST:PORT`.

Says on standard output what `tools.inspect.child` says of a directory; `reader.ask` takes one or the other.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import trio

from raftlog.net.base import NetworkError, RpcClient
from raftlog.net.tcp import TcpRpcClient
from shardkv.methods import Method
from shardkv.replies import Code
from tools.inspect.child import CANNOT_OPEN, FINDINGS, say

_ADDRESS = re.compile(r"[^/\s]+:\d{1,5}")
TIMEOUT_S = 10.0
"""How long a peer may take for a page."""


class Refused(Exception):
    """The peer gives no such view."""


def is_address(place: str | Path) -> bool:
    """Whether a place is a running peer's HOST:PORT, not a directory."""
    return _ADDRESS.fullmatch(str(place)) is not None and not Path(place).exists()


async def _call(rpc: RpcClient, address: str, what: str, argument: Any) -> list[Any]:
    body = await rpc.call(address, int(Method.PEER_VIEW), [what, argument], timeout_s=TIMEOUT_S)
    if not isinstance(body, list) or not body or body[0] != int(Code.OK):
        raise Refused(str(body[1]) if isinstance(body, list) and len(body) > 1 else f"it answered {body!r:.60}")
    return body[1:]


async def show(words: list[str], address: str) -> int:
    """Write the view to standard output; the exit code. Raises `NetworkError`, `Refused`."""
    async with TcpRpcClient(b"") as rpc:
        (number,) = await _call(rpc, address, "open", words)
        code: int | None = None
        while code is None:
            page, code, complaint = await _call(rpc, address, "more", number)
            sys.stdout.buffer.write(page)
            sys.stdout.buffer.flush()
    if code < 0:
        return _fail(f"reading it killed the reader with {signal.Signals(-code).name}: the file is damaged", FINDINGS)
    if complaint:
        sys.stderr.write(complaint + "\n")
    return int(code)


def _fail(text: str, code: int) -> int:
    say({"error": text, "exit": code})
    return code


def main(arguments: list[str]) -> int:
    """Show what the arguments say; the exit code."""
    *words, address = arguments
    try:
        return trio.run(show, words, address)
    except* BrokenPipeError:  # whoever reads went away; the peer ends the view, as nobody asks for more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except* (NetworkError, OSError) as group:
        code = _fail(f"{address} does not answer: {_first(group)}", CANNOT_OPEN)
    except* Refused as group:
        code = _fail(f"{address}: {_first(group)}", CANNOT_OPEN)
    return code


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
