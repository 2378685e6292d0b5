"""One `receive` for the stream, which waits for the disconnect, and the reader of the body."""

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from flowstream import SharedReceive
from flowstream.asgi.receive import wait_disconnected

GONE = {"type": "http.disconnect"}


def part(data, *, more=True):
    return {"type": "http.request", "body": data, "more_body": more}


class Server:
    """A `receive` fed by the test, which counts what was taken."""

    def __init__(self, *messages):
        self._send, self._receive = trio.open_memory_channel(100_000)
        self.taken = 0
        self.put(*messages)

    def put(self, *messages):
        for message in messages:
            self._send.send_nowait(message)

    async def __call__(self):
        message = await self._receive.receive()
        self.taken += 1
        return message


async def test_the_reader_gets_the_body_without_a_stream():
    """Before and after there is a stream the reader receives for itself."""
    server = Server(part(b"a"))
    receive = SharedReceive(server)
    assert await receive() == part(b"a")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive.disconnected)
        await wait_all_tasks_blocked()
        server.put(part(b"b"))
        assert await receive() == part(b"b")
        nursery.cancel_scope.cancel()
    server.put(part(b"c"), GONE)
    assert await receive() == part(b"c")
    assert await receive() == GONE
    assert await receive() == GONE
    await receive.disconnected()


async def test_a_reader_that_waits_takes_no_disconnect_from_the_stream():
    """The one disconnect that a server gives reaches both, whoever was waiting for it."""
    server = Server()
    receive = SharedReceive(server)
    got = []

    async def read():
        got.append(await receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        nursery.start_soon(receive.disconnected)
        await wait_all_tasks_blocked()
        server.put(GONE)
    assert got == [GONE]


async def test_a_reader_that_outlives_the_stream_receives_for_itself():
    """A reader that waited for the stream to receive goes on when the stream has ended."""
    server = Server()
    receive = SharedReceive(server)
    got = []

    async def read():
        got.append(await receive())

    async with trio.open_nursery() as nursery:
        stream = trio.CancelScope()

        async def listen():
            with stream:
                await receive.disconnected()

        nursery.start_soon(listen)
        await wait_all_tasks_blocked()
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        stream.cancel()
        await wait_all_tasks_blocked()
        server.put(part(b"late"))
    assert got == [part(b"late")]


@pytest.mark.parametrize("size", [0, 1, 1000, 16 * 1024])
async def test_the_backlog_is_bounded(size):
    """A reader that stops holds the upload back at 64 KiB, what a message itself costs counted."""
    count = 2000
    server = Server(*[part(b"x" * size)] * count)
    receive = SharedReceive(server)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive.disconnected)
        assert await receive() == part(b"x" * size)
        await wait_all_tasks_blocked()
        held = server.taken - 1
        assert (held - 1) * (size + 256) < 64 * 1024
        for _ in range(count - 1):
            assert await receive() == part(b"x" * size)
        server.put(GONE)
        assert await receive() == GONE


async def test_a_body_that_nobody_reads_is_thrown_away():
    """At 64 KiB without a reader all of it goes, later readers are told, and so is the stream."""
    server = Server(*[part(b"x" * 1000)] * 500)
    receive = SharedReceive(server)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive.disconnected)
        await wait_all_tasks_blocked()
        assert server.taken == 500
        with pytest.raises(RuntimeError, match="was not read in time"):
            await receive()
        server.put(part(b"more"), GONE)


async def test_a_plain_receive_is_drained():
    """The server's own receive is emptied until the disconnect."""
    server = Server(part(b"x"), part(b"", more=False), GONE)
    await wait_disconnected(server)
    assert server.taken == 3


@given(
    sizes=st.lists(st.integers(0, 20_000), max_size=40),
    steps=st.lists(st.sampled_from(["put", "read", "settle"]), max_size=120),
)
@settings(deadline=None, max_examples=60)
def test_a_reader_loses_nothing(sizes, steps):
    """Whatever the order of uploads and reads, the reader has each message once, in order."""

    async def main():
        server = Server()
        receive = SharedReceive(server)
        waiting = [part(bytes([n % 256]) * size) for n, size in enumerate(sizes)]
        sent, got = [], []
        server.put(part(b"first"))
        assert await receive() == part(b"first")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive.disconnected)
            for step in steps:
                if step == "put" and waiting:
                    sent.append(waiting.pop(0))
                    server.put(sent[-1])
                elif step == "read" and len(got) < len(sent):
                    got.append(await receive())
                else:
                    await wait_all_tasks_blocked()
            server.put(GONE)
            while (message := await receive()) != GONE:
                got.append(message)
        assert got == sent

    trio.run(main, clock=MockClock(autojump_threshold=0))
