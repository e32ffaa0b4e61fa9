"""The queue before a socket: written at once if it takes it, in order by its task if it does not."""

import socket

import trio

from raftlog.codec import dumps
from raftlog.net.frames import Deframer, decode_requests
from raftlog.net.tcp_link import ITEM_OVERHEAD_BYTES, Outbox


def pair(buffer_bytes: int) -> tuple[trio.SocketStream, trio.SocketStream]:
    here, there = socket.socketpair()
    here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
    return trio.SocketStream(trio.socket.from_stdlib_socket(here)), trio.SocketStream(
        trio.socket.from_stdlib_socket(there)
    )


async def read_numbers(stream: trio.SocketStream, count: int) -> list[int]:
    deframer, found = Deframer(), []
    while len(found) < count:
        for body in deframer.feed(bytes(await stream.receive_some(65536))):
            found += [number for number, _, _ in decode_requests(body)]
    return found


async def test_what_was_put_before_the_connection_leaves_first_and_all_in_order() -> None:
    here, there = pair(4096)
    outbox = Outbox(64 << 20)
    wrote = 0

    def count() -> None:
        nonlocal wrote
        wrote += 1

    for number in range(3):
        assert outbox.put(dumps([number, 0, []]))
    outbox.flush()  # nobody to write to yet
    async with here, there, trio.open_nursery() as nursery:
        nursery.start_soon(outbox.write_to, here, count)
        await trio.testing.wait_all_tasks_blocked()
        assert outbox.size_bytes == 0 and wrote == 1
        for number in range(3, 200):  # far more than the socket takes: from somewhere on the task writes
            assert outbox.put(dumps([number, 0, [bytes(2000)]]))
            outbox.flush()
        assert outbox.size_bytes > 0 and wrote > 1
        assert await read_numbers(there, 200) == list(range(200))
        await trio.testing.wait_all_tasks_blocked()
        assert outbox.size_bytes == 0
        assert outbox.put(dumps([200, 0, []]))
        outbox.flush()  # at once again
        assert outbox.size_bytes == 0
        assert await read_numbers(there, 1) == [200]
        nursery.cancel_scope.cancel()


async def test_a_broken_connection_ends_the_task_and_not_the_one_who_flushes() -> None:
    here, there = pair(4096)
    outbox = Outbox(1 << 20)
    broken = False
    async with here, trio.open_nursery() as nursery:

        async def write() -> None:
            nonlocal broken
            try:
                await outbox.write_to(here)
            except trio.BrokenResourceError:
                broken = True

        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        await there.aclose()
        outbox.put(dumps([1, 0, []]))
        outbox.flush()
    assert broken


def test_there_is_room_for_so_much_and_no_more() -> None:
    item = dumps([1, 0, []])
    outbox = Outbox(2 * (len(item) + ITEM_OVERHEAD_BYTES))
    assert outbox.put(item) and outbox.put(item) and not outbox.put(item)
    assert outbox.size_bytes == outbox.bytes_max
