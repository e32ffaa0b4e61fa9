"""A peer that retains bases: any index since the first of them is shown, however often the log was purged."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner, Result

from shardkv.bases import base_files
from tests.tools.test_crash import clients, running
from tools.inspect.commands import inspect
from tools.layout import Layout

pytestmark = [pytest.mark.process, pytest.mark.system]

VALUE_BYTES = 900_000
LOG_BYTES = 16 << 20
PUTS_MAX = 400
"""Puts of one key, each an entry of its own, until the log, which is purged above 16 MiB, was so twice."""


async def run(*words: str) -> Result:
    return await trio.to_thread.run_sync(partial(CliRunner().invoke, inspect, words))


async def test_every_index_since_the_first_base_is_replayed(tmp_path: Path) -> None:
    layout = Layout(ctrl_peers=1, groups=1, replicas=1, retain_bases=20)
    peer = tmp_path / "c" / "server-1-0"
    async with running(tmp_path / "c", layout) as cluster:
        async with clients(cluster) as (kv, _, _):
            for number in range(PUTS_MAX):
                await kv.put("key", b"%d " % number + b"x" * VALUE_BYTES)
                if len(base_files(peer)) == 2:
                    break
        with trio.fail_after(60):
            while (await cluster.status())[1]["log_bytes"] > LOG_BYTES:
                await trio.lowlevel.checkpoint()
        bases = base_files(peer)
        address = next(iter(cluster.addresses(1).values()))
        first = min(bases)
        shown = []
        for index in (first, first + 3, max(bases)):
            result = await run("replay", str(peer), "--to-index", str(index), "--key", "key", "--json")
            assert result.exit_code == 0, result.stderr
            summary, key = map(json.loads, result.stdout.splitlines())
            assert summary["at"][1] == index
            shown.append((index, key["version"]))
        offsets = {index - version for index, version in shown}
        assert len(offsets) == 1, shown  # each put is an entry: the version grows with the index
        far = await run("replay", address, "--to-index", str(first), "--json")
        assert far.exit_code == 0 and json.loads(far.stdout)["at"][1] == first
        early = await run(
            "replay", str(peer), "--to-index", "3", "--json"
        )  # the first base has the log from its beginning
        assert early.exit_code == 0 and json.loads(early.stdout)["base"] == "an empty state"
        bases[first].unlink()
        gone = await run("replay", str(peer), "--to-index", "3")
        assert gone.exit_code == 3 and len(gone.stderr.splitlines()) == 1, gone.output
