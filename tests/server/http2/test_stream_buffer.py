"""The buffer of one HTTP/2 stream, as a value, with a virtual clock."""

import math

import pytest
import trio
import trio.lowlevel

from flowstream.server._context import FlagEvent
from flowstream.server._hypercorn import BufferCompleteError
from flowstream.server._stall_bound import StallBound
from flowstream.server.http2._stream_buffer import HIGH_WATER, LOW_WATER, BoundedStreamBuffer

TIMEOUT = 30


class Link:
    """The stream of the buffer, with a bound that can be changed."""

    write_timeout = TIMEOUT

    def __init__(self):
        self.bound = TIMEOUT

    def stall_bound(self):
        return StallBound(self.bound, "stall_timeout")


@pytest.fixture
def progress():
    return []


@pytest.fixture
async def buffer(progress):
    return BoundedStreamBuffer(FlagEvent, Link(), lambda: progress.append(trio.current_time()))


async def test_it_holds_back_at_high_water(autojump_clock, buffer, nursery):
    """A push returns at once below high water, and above it when half is gone."""
    await buffer.push(b"x" * (HIGH_WATER - 1))
    done = trio.Event()

    async def push():
        await buffer.push(b"y")
        done.set()

    nursery.start_soon(push)
    await trio.sleep(1)
    assert not done.is_set()
    await buffer.pop(0)  # a closed window releases nobody
    await buffer.pop(HIGH_WATER - LOW_WATER)
    await trio.sleep(1)
    assert not done.is_set()
    await buffer.pop(1)
    await trio.sleep(1)
    assert done.is_set()


async def test_all_of_it_comes_out_in_order(autojump_clock, buffer, nursery):
    """However much is popped at a time, every byte comes once."""
    data = bytes(range(256)) * 1024
    out = b""

    async def push():
        for start in range(0, len(data), 5000):
            await buffer.push(data[start : start + 5000])
        buffer.set_complete()

    nursery.start_soon(push)
    size = 0
    while not buffer.complete:
        out += await buffer.pop(size := (size * 7 + 1) % 40_000)
        assert len(buffer.buffer) < HIGH_WATER + 5000
        await trio.sleep(0.1)
    assert out == data


async def test_the_deadline(autojump_clock, buffer):
    """A push that waits gives up when nothing was popped for the timeout."""
    start = trio.current_time()
    with pytest.raises(trio.TooSlowError):
        await buffer.push(b"x" * HIGH_WATER)
    assert trio.current_time() - start == pytest.approx(TIMEOUT)


async def test_progress_restarts_the_deadline(autojump_clock, buffer, progress, nursery):
    """One byte just in time is enough, again and again; an empty pop is none."""

    async def pop():
        for _ in range(10):
            await trio.sleep(TIMEOUT - 1)
            await buffer.pop(1)
        await trio.sleep(TIMEOUT - 1)
        await buffer.pop(0)

    nursery.start_soon(pop)
    start = trio.current_time()
    with pytest.raises(trio.TooSlowError):
        await buffer.push(b"x" * HIGH_WATER * 2)
    assert trio.current_time() - start == pytest.approx(10 * (TIMEOUT - 1) + TIMEOUT)
    assert len(progress) == 10


async def test_a_wait_has_its_own_beginning(autojump_clock, buffer):
    """Somebody who begins to wait long after the last pop has the full time."""
    await trio.sleep(1000)
    start = trio.current_time()
    with pytest.raises(trio.TooSlowError):
        await buffer.push(b"x" * HIGH_WATER)
    assert trio.current_time() - start == pytest.approx(TIMEOUT)


@pytest.mark.parametrize("method", ["push", "drain"])
async def test_close_releases_whoever_waits(autojump_clock, buffer, nursery, method):
    """A waiting push and a waiting drain return at a close."""
    await buffer.push(b"x")
    released = trio.Event()

    async def wait():
        await (buffer.drain() if method == "drain" else buffer.push(b"x" * HIGH_WATER))
        released.set()

    nursery.start_soon(wait)
    await trio.sleep(1)
    assert not released.is_set()
    await buffer.close()
    await trio.lowlevel.checkpoint()
    await trio.lowlevel.checkpoint()
    assert released.is_set()
    with pytest.raises(BufferCompleteError):
        await buffer.push(b"more")


async def test_drain_has_the_deadline_too(autojump_clock, buffer):
    """drain() returns at once with nothing there, and gives up when nothing is taken."""
    await buffer.drain()
    await buffer.push(b"x")
    with pytest.raises(trio.TooSlowError):
        await buffer.drain()


@pytest.mark.parametrize(
    ("bound", "later", "ends"),
    [(TIMEOUT, None, 30), (5, None, 5), (120, None, 120), (math.inf, 30, 50), (120, 30, 50)],
)
async def test_the_bound_of_its_stream(autojump_clock, nursery, progress, bound, later, ends):
    """It holds be it shorter or longer than usual; the usual one holds again when it is taken
    back, at 50 s here, and that is seen within a sixteenth of it.
    """
    link = Link()
    link.bound = bound
    buffer = BoundedStreamBuffer(FlagEvent, link, lambda: None)

    async def change():
        await trio.sleep(50)
        link.bound = later or bound

    nursery.start_soon(change)
    start = trio.current_time()
    with pytest.raises(trio.TooSlowError):
        await buffer.push(b"x" * HIGH_WATER)
    assert ends <= trio.current_time() - start <= ends + TIMEOUT / 16
