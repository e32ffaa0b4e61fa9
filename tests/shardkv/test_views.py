"""Views of a peer's disk over the network: bounded pages of what another process says, and nothing of it stays behind."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from shardkv import views
from shardkv.methods import Method
from shardkv.replies import Code
from shardkv.views import PAGE_BYTES, VIEWS_MAX, Views


@dataclass
class Asked:
    """A request whose reply can be waited for."""

    args: list[Any]
    method: int = int(Method.PEER_VIEW)
    body: Any = None
    answered: trio.Event = field(default_factory=trio.Event)

    def reply(self, body: Any) -> None:
        self.body = body
        self.answered.set()


@asynccontextmanager
async def viewing(script: str, directory: Path) -> AsyncIterator[Views]:
    """Views made by a Python script, which finds words and directory in sys.argv."""
    found = Views((sys.executable, "-c", script), directory)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(found.run)
        await trio.testing.wait_all_tasks_blocked()
        yield found
        nursery.cancel_scope.cancel()


async def ask(found: Views, *args: Any) -> Any:
    request = Asked(list(args))
    found.on_request(request)
    with trio.fail_after(30):
        await request.answered.wait()
    return request.body


async def told(found: Views, number: int) -> tuple[list[bytes], int, str]:
    """Every page, the exit code and the complaint."""
    pages = []
    while True:
        _, page, code, complaint = await ask(found, "more", number)
        if page:
            pages.append(page)
        if code is not None:
            return pages, code, complaint


async def test_what_the_process_says_comes_in_bounded_pages_and_its_end_is_told(tmp_path: Path) -> None:
    said = "print(sys.argv[1:]); sys.stdout.write('x' * 500000); print('a', 'why', file=sys.stderr)"
    script = f"import sys; {said}; sys.exit(3)"
    async with viewing(script, tmp_path) as found:
        code, number = await ask(found, "open", ["log", "{}"])
        assert code == Code.OK
        pages, exit_code, complaint = await told(found, number)
        assert b"".join(pages) == f"{['log', '{}', str(tmp_path)]}\n".encode() + b"x" * 500000
        assert max(map(len, pages)) <= PAGE_BYTES
        assert (exit_code, complaint) == (3, "a why")
        assert (await ask(found, "more", number))[0] in (Code.BAD_REQUEST, Code.REFUSED)


async def test_a_process_that_dies_is_told_as_its_signal(tmp_path: Path) -> None:
    async with viewing("import os; os.kill(os.getpid(), 9)", tmp_path) as found:
        _, number = await ask(found, "open", ["info"])
        assert (await told(found, number))[1] == -9


async def test_a_silent_process_does_not_hold_up_the_answer(tmp_path: Path) -> None:
    async with viewing("import time; time.sleep(1000)", tmp_path) as found:
        _, number = await ask(found, "open", ["follow"])
        assert await ask(found, "more", number) == [Code.OK, b"", None, ""]


@pytest.mark.parametrize("how", ["closed", "forgotten", "stopped"])
async def test_no_process_stays(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    script, others = "import time; time.sleep(1000)", children()  # a test before this one may have left a helper
    monkeypatch.setattr(views, "IDLE_S", 0.2 if how == "forgotten" else 1000)
    async with viewing(script, tmp_path) as found:
        _, number = await ask(found, "open", ["info"])
        assert (await ask(found, "more", number))[0] == Code.OK
        with trio.fail_after(30):
            if how == "closed":
                assert await ask(found, "close", number) == [Code.OK, True]
            while how != "stopped" and found.open:
                await trio.lowlevel.checkpoint()
    assert not found.open
    assert children() <= others


def children() -> set[str]:
    """The processes that this one has started and that are not gone."""
    me = os.getpid()
    return set(Path(f"/proc/{me}/task/{me}/children").read_text().split())


async def test_too_many_views_and_strange_requests_are_refused(tmp_path: Path) -> None:
    async with viewing("import time; time.sleep(1000)", tmp_path) as found:
        for _ in range(VIEWS_MAX):
            assert (await ask(found, "open", ["info"]))[0] == Code.OK
        assert (await ask(found, "open", ["info"]))[0] == Code.REFUSED
        for args in (
            ["open"],
            ["open", "info"],
            ["open", []],
            ["open", [b"x"]],
            ["open", ["x" * 20000]],
            ["more", 99],
            ["x", 1],
        ):
            assert (await ask(found, *args))[0] == Code.BAD_REQUEST, args


async def test_a_peer_without_a_viewer_gives_none(tmp_path: Path) -> None:
    found = Views((), tmp_path)
    assert (await ask(found, "open", ["info"]))[0] == Code.REFUSED


async def test_a_viewer_that_is_not_there_is_told(tmp_path: Path) -> None:
    found = Views((str(tmp_path / "no such program"),), tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(found.run)
        await trio.testing.wait_all_tasks_blocked()
        _, number = await ask(found, "open", ["info"])
        assert (await ask(found, "more", number))[0] == Code.REFUSED
        nursery.cancel_scope.cancel()
