"""What `inspect` shows of a directory it shows of a running peer over the network, without its files."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner, Result

from tests.tools.test_crash import clients, running
from tools.cluster import LocalCluster
from tools.inspect.commands import inspect
from tools.inspect.reader import Unreadable, ask
from tools.inspect.remote import is_address
from tools.layout import Layout

pytestmark = pytest.mark.process

OF_ONE = [["info", "--json"], ["log", "--json"], ["replay", "--to-index", "applied", "--key", "key-2"]]
OF_ALL = [["verify"], ["timeline", "--json"]]
"""The others (get, scan, sessions, history, diff, config-history, shiviz) ask the same reader in the same way."""


@asynccontextmanager
async def at_rest(folder: Path) -> AsyncIterator[LocalCluster]:
    """A cluster whose peers have something on their disks and nothing more to write."""
    async with running(folder, Layout(ctrl_peers=1, groups=1, replicas=2)) as cluster:
        async with clients(cluster) as (kv, _, _):
            await kv.put_many({f"key-{n}": b"value-%d" % n * 400 for n in range(60)})
        with trio.fail_after(30):
            while not all(peer["flushed"] == peer["last"] for peer in await cluster.status()):
                await trio.lowlevel.checkpoint()
        yield cluster


async def run(*words: str) -> Result:
    return await trio.to_thread.run_sync(partial(CliRunner().invoke, inspect, words))


def plain(text: str, places: dict[str, str]) -> str:
    """What two looks may differ in: the place's name, and what counts looks and LMDB's own commits."""
    for address, directory in places.items():
        text = text.replace(address, directory)
    return re.sub(r'"(log|state)_(readers|txnid)": \d+', "", text)


async def test_every_view_of_a_directory_is_given_by_its_running_peer(tmp_path: Path) -> None:
    async with at_rest(tmp_path / "c") as cluster:
        places = {
            address: str(tmp_path / "c" / f"server-{gid}-{peer}")
            for gid in (0, 1)
            for peer, address in enumerate(cluster.addresses(gid).values())
        }
        address, directory = list(places.items())[1]
        for verb, *words in OF_ONE:
            here, there = await run(verb, directory, *words), await run(verb, address, *words)
            assert (there.exit_code, there.stderr) == (here.exit_code, here.stderr) == (0, ""), (verb, there.output)
            assert plain(there.output, places) == plain(here.output, places), verb
        controllers = ",".join(cluster.addresses(0).values())
        for verb, *words in OF_ALL:
            here, there = (
                await run(verb, str(tmp_path / "c"), *words),
                await run(verb, "--connect", controllers, *words),
            )
            assert (there.exit_code, there.stderr) == (here.exit_code, here.stderr) == (0, ""), (verb, there.output)
            assert plain(there.output, places) == plain(here.output, places), verb
        await refusals(address, directory, tmp_path)


async def refusals(address: str, directory: str, tmp_path: Path) -> None:
    """What a peer does not do for callers, and what has no peer behind it."""
    base = await run("replay", address, "--to-index", "applied", "--base", str(tmp_path / "file"))
    assert base.exit_code == 2 and "--base is a file" in base.stderr
    with pytest.raises(Unreadable, match="no view that is given over the network"):
        await trio.to_thread.run_sync(lambda: list(ask("repair", directory, address)))
    nobody = await run("info", "127.0.0.1:1")
    assert nobody.exit_code == 3 and "127.0.0.1:1 does not answer" in nobody.stderr
    mixed = await run("verify", directory, "127.0.0.1:1", "--json")
    assert mixed.exit_code == 3 and json.loads(mixed.output)[directory] == []


def test_a_directory_with_the_name_of_an_address_is_a_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        is_address("host:7000") and not is_address("a/host:7000") and not is_address("host") and not is_address("c:x")
    )
    (tmp_path / "host:7000").mkdir()
    assert not is_address("host:7000")
