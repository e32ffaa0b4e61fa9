"""Retained bases: one before each purge, the newest of them, and a purge that waits for its base but not for its success."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import trio

from shardkv.bases import Bases, base_files

MAKES = "import json, sys; open(sys.argv[2], 'x').write('base'); print(json.dumps({'applied': len(sys.argv[1])}))"
"""A keeper whose base is as of an index that is the length of the directory's name."""


async def purge(bases: Bases, applied: int) -> None:
    done = trio.Event()
    bases.before_purge(applied, done.set)
    with trio.fail_after(30):
        await done.wait()


async def test_the_newest_bases_stay_each_named_by_the_index_that_it_is_as_of(tmp_path: Path) -> None:
    script = (
        "import json, pathlib, sys; p = pathlib.Path(sys.argv[1], 'index'); p.write_text(str(int(p.read_text()) + 10));"
    )
    script += "open(sys.argv[2], 'x').close(); print(json.dumps({'applied': int(p.read_text())}))"
    (tmp_path / "index").write_text("0")
    troubles: list[str] = []
    bases = Bases(tmp_path, (sys.executable, "-c", script), 2, troubles.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bases.run)
        for applied in (3, 13, 23):
            await purge(bases, applied)
        assert list(base_files(tmp_path)) == [20, 30] and not troubles
        await purge(bases, 30)  # nothing came since
        assert json.loads((tmp_path / "index").read_text()) == 30
        nursery.cancel_scope.cancel()


async def test_a_base_that_cannot_be_made_is_told_and_the_log_is_purged(tmp_path: Path) -> None:
    troubles: list[str] = []
    for script in ("import sys; print('no room'); sys.exit(3)", "print('{}')", "print('x')"):
        bases = Bases(tmp_path, (sys.executable, "-c", script), 2, troubles.append)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bases.run)
            await purge(bases, 3)
            nursery.cancel_scope.cancel()
    assert len(troubles) == 3 and "no room" in troubles[0]
    assert not base_files(tmp_path)


async def test_what_a_crash_left_of_a_base_is_removed(tmp_path: Path) -> None:
    (tmp_path / "bases").mkdir()
    for name in ("making.skv", "making.skv.77.new"):
        (tmp_path / "bases" / name).write_text("half")
    bases = Bases(tmp_path, (sys.executable, "-c", MAKES), 2, lambda text: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bases.run)
        await purge(bases, 1)
        nursery.cancel_scope.cancel()
    assert [path.read_text() for path in (tmp_path / "bases").iterdir()] == ["base"]
