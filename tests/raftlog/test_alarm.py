"""The node's sleep: rung by others or by its time, never missed."""

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from raftlog.alarm import Alarm


async def test_it_wakes_at_its_time_and_at_each_earlier_one(autojump_clock: MockClock) -> None:
    alarm = Alarm()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(alarm.run)
        began = trio.current_time()
        for after in (5.0, 1.0, 0.25):
            until = trio.current_time() + after
            while trio.current_time() < until:  # it may ring for a time that was put off
                await alarm.sleep(until)
        assert trio.current_time() - began == 6.25
        nursery.cancel_scope.cancel()


async def test_a_ring_ends_the_sleep_or_the_next_one(autojump_clock: MockClock) -> None:
    alarm = Alarm()
    woken: list[float] = []

    async def sleeper() -> None:
        while True:
            await alarm.sleep(trio.current_time() + 100)
            woken.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(alarm.run)
        alarm.ring()  # before anybody sleeps
        nursery.start_soon(sleeper)
        await wait_all_tasks_blocked()
        assert woken == [0.0]
        await trio.sleep(3)
        alarm.ring()
        alarm.ring()  # twice before it is awake: once
        await wait_all_tasks_blocked()
        assert woken == [0.0, 3.0]
        nursery.cancel_scope.cancel()
