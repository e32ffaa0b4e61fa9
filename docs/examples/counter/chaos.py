"""The counter under chaos: three real processes, clients, and faults for as many seconds as the first argument says.

    python chaos.py 60

Ends with exit code 0 if no increment was lost and none was counted twice; `chaos-report` has what happened.
"""

from __future__ import annotations

import sys
from pathlib import Path

import trio
from counter import INC, Counter

from raftlog.codec import loads
from tools.chaos.load import Client
from tools.chaos.machine import MachineClient, connect_machine
from tools.chaos.page import page
from tools.chaos.run import Plan, run


class CounterLoad:
    """Clients that count up. Each increment gives a number that no other one gives, if each counts exactly once."""

    def __init__(self) -> None:
        self.sent = 0
        self.replies: list[int] = []

    async def work(self, client: Client) -> None:
        """One increment after another."""
        async with connect_machine(client) as counter:
            while True:
                await self.increment(client, counter)
                await trio.sleep(0.02)

    async def increment(self, client: Client, counter: MachineClient) -> int:
        """The number that the counter has then."""
        self.sent += 1
        client.meter.begin(client.name)
        value = int(loads(await counter.call(INC))[0])
        client.meter.end(client.name, write=True, answered=True)
        self.replies.append(value)
        return value

    async def judge(self, client: Client) -> list[str]:
        """What is wrong: an increment that counted twice, or that was acknowledged and did not count."""
        async with connect_machine(client) as counter:
            last = await self.increment(client, counter)
        wrong = []
        if len(set(self.replies)) != len(self.replies):
            wrong.append("two increments gave the same number")
        if not len(self.replies) <= last <= self.sent:
            wrong.append(
                f"the counter is at {last} after {self.sent} increments, {len(self.replies)} of them acknowledged"
            )
        return wrong

    def history(self) -> list[object]:
        """There is none for the checker: a counter is no key."""
        return []


def main(seconds: float) -> int:
    """Run it, and tell."""
    report = Path("chaos-report")
    report.mkdir()
    load = CounterLoad()
    outcome = trio.run(run, Plan(minutes=seconds / 60, machine=Counter, clients=4), report, load, print)
    (report / "report.html").write_text(page(outcome), encoding="utf-8")
    print(f"{outcome.verdict}: {len(load.replies)} increments; {outcome.judged}", *outcome.findings, sep="\n")
    return 0 if outcome.verdict == "passed" else 1


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
