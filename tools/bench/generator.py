"""Load generator processes, as the one who measures sees them: all begin at once, and end with the measuring."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import trio

from tools.bench.figures import Histogram
from tools.bench.workload import Job
from tools.processes import ProcessError, child_environment

GRACE_S = 60.0
"""How much longer than it should a generator may take, in seconds."""


class BenchError(ProcessError):
    """A measurement could not be made. One line for the user."""


class Generator:
    """One process of `tools.bench.load`."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._buffer = b""

    async def give(self, line: str) -> None:
        """Write a line to it."""
        assert self._process.stdin is not None
        await self._process.stdin.send_all(line.encode() + b"\n")

    async def wait(self, event: str) -> dict[str, Any]:
        """Its next line, which must be this event. Raises `BenchError` with what it says instead."""
        assert self._process.stdout is not None
        while b"\n" not in self._buffer:
            data = await self._process.stdout.receive_some()
            if not data:
                raise BenchError("a load generator ended without a word")
            self._buffer += bytes(data)
        line, _, self._buffer = self._buffer.partition(b"\n")
        said: dict[str, Any] = json.loads(line)
        if said["event"] != event:
            raise BenchError(f"the load generator: {said.get('text', said)}")
        return said


class Play:
    """What generators measured together."""

    def __init__(self) -> None:
        self.gets = Histogram()
        self.puts = Histogram()
        self.seconds = 0.0
        self.cpu_s = 0.0
        self.repeated = 0

    def add(self, said: dict[str, Any]) -> None:
        """Take in what one of them said at its end."""
        self.gets.add(Histogram.read(said["gets"]))
        self.puts.add(Histogram.read(said["puts"]))
        self.seconds = max(self.seconds, said["seconds"])
        self.cpu_s += said["cpu_s"]
        self.repeated += said["repeated"]


async def play(jobs: Sequence[Job], on_measuring: Callable[[], Awaitable[None]]) -> Play:
    """Run a generator per job at the same time. `on_measuring` is awaited when all have warmed up. Their processes are
    ended in every case. Raises `BenchError`."""
    played = Play()
    failed: BenchError | None = None
    async with trio.open_nursery() as nursery:
        generators: list[Generator] = []
        for _ in jobs:
            process: trio.Process = await nursery.start(_run)
            generators.append(Generator(process))
        try:
            await _conduct(list(zip(generators, jobs, strict=True)), on_measuring, played)
        except BenchError as error:  # raised behind the nursery, which would make a group of it
            failed = error
        nursery.cancel_scope.cancel()
    if failed is not None:
        raise failed
    return played


async def _conduct(
    pairs: Sequence[tuple[Generator, Job]], on_measuring: Callable[[], Awaitable[None]], played: Play
) -> None:
    """Tell the generators their jobs, have them begin together, and take in what they say."""
    longest = max(job.warm_up_s + job.measure_s for _, job in pairs)
    measures = pairs[0][1].fill is None
    for generator, job in pairs:
        await generator.give(json.dumps(job.to_json()))
    with trio.move_on_after(longest + GRACE_S) as scope:
        for generator, _ in pairs:
            await generator.wait("ready")
        for generator, _ in pairs:
            await generator.give("go")
        if measures:
            for generator, _ in pairs:
                await generator.wait("measuring")
            await on_measuring()
        for generator, _ in pairs:
            said = await generator.wait("done")
            if measures:
                played.add(said)
    if scope.cancelled_caught:
        raise BenchError(f"the load generator has not ended after {longest + GRACE_S:.0f} s")


async def _run(task_status: trio.TaskStatus[trio.Process]) -> None:
    await trio.run_process(
        [sys.executable, "-P", "-m", "tools.bench.load"],
        stdin=subprocess.PIPE,
        capture_stdout=False,
        stdout=subprocess.PIPE,
        env=child_environment(),
        check=False,
        task_status=task_status,
    )
