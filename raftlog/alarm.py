"""A task that sleeps until it is rung or its time comes, cheaply: the node does so thousands of times a second."""

from __future__ import annotations

import trio


class Alarm:
    """One sleeper and one timer, on Trio's clock. A cancel scope for each sleep would cost more than the sleep: here the
    timer is a task of its own, moved only when it has to ring earlier. So it may ring for a time that was put off
    meanwhile; whoever sleeps looks again.
    """

    def __init__(self) -> None:
        self._wake = trio.Event()
        self._timer = trio.CancelScope()

    def ring(self) -> None:
        """End the sleep, or the next one."""
        self._wake.set()

    def by(self, until: float) -> None:
        """Ring at this time at the latest."""
        if until < self._timer.deadline:
            self._timer.deadline = until

    async def sleep(self, until: float) -> None:
        """Until it was rung since the last sleep ended, or until this time at the latest."""
        self.by(until)
        await self._wake.wait()
        self._wake = trio.Event()

    async def run(self) -> None:
        """The timer, for ever."""
        while True:
            with self._timer:
                await trio.sleep_forever()
            self._timer = trio.CancelScope()
            self.ring()
