"""Views of a peer's disk for callers without access to its files: made by another process, handed out in bounded pages.

PEER_VIEW  ["open", [word ...]]  [OK, number]: a process begins to look at the peer's directory
           ["more", number]      [OK, bytes, exit code | null, its last complaint]: what it has said since, at most
                                 `PAGE_BYTES`, maybe nothing; with an exit code nothing follows
           ["close", number]     [OK, true]

The process is the one that the peer's settings name (`PeerSpec.viewer`); this house knows only that it takes words and
ends with the directory. It may die of what it reads, and the peer does not wait for it: a page is a copy of what lies in
its pipe. Nobody who asks no more keeps it: after `IDLE_S` without a question it is ended.
"""

from __future__ import annotations

import fcntl
import math
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import trio

from raftlog.codec import CodecError, array
from raftlog.net.base import Request
from shardkv.replies import Code, bad_request, error

PAGE_BYTES = 64 << 10
"""The most bytes of a page."""
PIPE_BYTES = 256 << 10
"""A process may be ahead of its reader by so much."""
WAIT_S = 0.5
"""How long a question for more waits for something to be said."""
IDLE_S = 15.0
"""A view that nobody asks about for this long is over."""
VIEWS_MAX = 16
"""The most views at a time; more are refused."""
WORDS_MAX_BYTES = 16 << 10
PATIENCE_S = 5.0
"""How long a process that was told to end may take before it is killed."""


class _View:
    """One process. `asked` are the questions for more, one at a time."""

    def __init__(self) -> None:
        self.ask, self.asked = trio.open_memory_channel[Request](1)
        self.scope = trio.CancelScope()


class Views:
    """The views of one peer. `command` is what is run, with the words and the directory behind it; empty: none are given."""

    def __init__(self, command: Sequence[str], directory: Path) -> None:
        self._command = tuple(command)
        self._directory = directory
        self._views: dict[int, _View] = {}
        self._next = 1
        self._nursery: trio.Nursery | None = None

    @property
    def open(self) -> int:
        """How many views are open."""
        return len(self._views)

    async def run(self) -> None:
        """For as long as the peer lives. Cancelled, it ends every process first."""
        async with trio.open_nursery() as self._nursery:
            await trio.sleep(math.inf)

    def on_request(self, request: Request) -> None:
        """Answer a PEER_VIEW, now or when something is there to tell."""
        if not self._command or self._nursery is None:
            request.reply(error(Code.REFUSED, "this peer gives no views of its disk"))
            return
        try:
            what, argument = array(request.args, 2)
            match what:
                case "open":
                    self._open(request, self._nursery, _words(argument))
                case "more":
                    self._found(argument).ask.send_nowait(request)
                case "close":
                    self._found(argument).scope.cancel()
                    request.reply([int(Code.OK), True])
                case _:
                    raise CodecError(f"open, more or close, not {what!r:.40}")
        except CodecError as problem:
            request.reply(bad_request(problem))
        except (trio.WouldBlock, trio.BrokenResourceError):
            request.reply(error(Code.REFUSED, "this view is asked already, or has just ended"))

    def _open(self, request: Request, nursery: trio.Nursery, words: list[str]) -> None:
        if len(self._views) >= VIEWS_MAX:
            request.reply(error(Code.REFUSED, f"{VIEWS_MAX} views are open already"))
            return
        number, self._next = self._next, self._next + 1
        view = self._views[number] = _View()
        nursery.start_soon(self._show, number, view, words)
        request.reply([int(Code.OK), number])

    def _found(self, number: Any) -> _View:
        if type(number) is not int or number not in self._views:
            raise CodecError(f"there is no view {number!r:.40}, or not any more")
        return self._views[number]

    # --- one view ------------------------------------------------------------------------------------------------

    async def _show(self, number: int, view: _View, words: list[str]) -> None:
        try:
            with view.scope:
                await self._answer(view, words)
        finally:
            del self._views[number]
            with suppress(trio.WouldBlock):  # one that came while the view ended
                view.asked.receive_nowait().reply(error(Code.REFUSED, f"view {number} has ended"))
            view.asked.close()

    async def _answer(self, view: _View, words: list[str]) -> None:
        command = [*self._command, *words, str(self._directory)]
        try:
            process = await trio.lowlevel.open_process(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        except OSError as problem:
            with trio.move_on_after(IDLE_S):
                (await view.asked.receive()).reply(error(Code.REFUSED, f"no view can be made: {problem.strerror}"))
            return
        assert process.stdout is not None and process.stderr is not None
        try:
            async with trio.open_nursery() as nursery:
                said = bytearray()
                nursery.start_soon(_listen, process.stderr, said)
                await _pages(process, view.asked, said)
                nursery.cancel_scope.cancel()
        finally:
            await _end(process)


def _words(value: Any) -> list[str]:
    words = array(value)
    if not all(type(word) is str and "\0" not in word for word in words):
        raise CodecError("the words of a view are texts")
    if not words or sum(len(word.encode("utf-8", "replace")) for word in words) > WORDS_MAX_BYTES:
        raise CodecError(f"a view needs words, of at most {WORDS_MAX_BYTES} bytes together")
    return words


async def _listen(stream: trio.abc.ReceiveStream, said: bytearray) -> None:
    """Keep the end of what a process complains of, and its pipe empty."""
    async for piece in stream:
        said += piece
        del said[:-4096]


async def _pages(process: trio.Process, asked: trio.MemoryReceiveChannel[Request], said: bytearray) -> None:
    """Answer question after question, until everything is told or nobody asks."""
    stdout = process.stdout
    assert isinstance(stdout, trio.lowlevel.FdStream)
    fcntl.fcntl(stdout.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    while True:
        with trio.move_on_after(IDLE_S) as idle:
            request = await asked.receive()
        if idle.cancelled_caught:
            return
        page: bytes | bytearray | None = None
        with trio.move_on_after(WAIT_S):
            page = await stdout.receive_some(PAGE_BYTES)
        if page is None or page:
            request.reply([int(Code.OK), bytes(page or b""), None, ""])
            continue
        code = await process.wait()
        lines = said.decode("utf-8", "replace").strip().splitlines()
        request.reply([int(Code.OK), b"", code, lines[-1] if lines else ""])
        return


async def _end(process: trio.Process) -> None:
    """End a process and wait for it, whoever is cancelled."""
    with trio.CancelScope(shield=True):
        if process.poll() is None:
            with suppress(ProcessLookupError):
                process.terminate()
            with trio.move_on_after(PATIENCE_S):
                await process.wait()
            if process.poll() is None:
                process.kill()
        await process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                await pipe.aclose()
