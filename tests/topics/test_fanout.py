"""Fan-out and the members that are written to directly: each event once, or an end that is told."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from flowstream import Block, Buffer, DropOldest, Raw, Topic, sse
from flowstream.buffer._event_buffer import EventBuffer
from flowstream.buffer._queue import Slice
from flowstream.framing import Framing
from flowstream.sources._feed import Terms
from flowstream.testing import open_stream


class Plain(Framing):
    """Bytes as they are."""

    def frame(self, pieces):
        return b"".join(pieces)


PLAIN = Plain()


class Stream:
    """A stream whose connection takes all that is written directly; its writer waits.

    Attributes:
        written: what was written directly.
        failures: why it could not be given an event.
    """

    framing = PLAIN

    def __init__(self, nursery, policy):
        self.buffer = EventBuffer(Buffer(), policy)
        self.written, self.failures, self.counted = [], [], []
        nursery.start_soon(self.buffer.filled.wait)

    def direct(self, data):
        self.written.append(data)
        return True

    def wrote(self, size, items, at):
        self.counted.append((size, items))

    def fail(self, error):
        self.failures.append(error)


@pytest.fixture
async def join(nursery):
    """Join a topic with a `Stream`: ``stream, cursor = await join(topic)``."""

    async def join(topic):
        policy = DropOldest()
        stream = Stream(nursery, policy)
        terms = Terms(policy, after=None, where=None, controls=True)
        cursor = topic._feed.join(stream, Raw(), terms)
        await wait_all_tasks_blocked()
        return stream, cursor

    yield join
    nursery.cancel_scope.cancel()


async def test_a_batch_that_cannot_be_encoded_is_not_written_as_nothing(autojump_clock, join):
    """A member in step is told that it cannot have an event; it does not just miss the batch."""
    topic = Topic("t")
    async with open_stream(sse(topic)):  # in a format that can carry anything
        await wait_all_tasks_blocked()
        stream, _ = await join(topic)
        await topic.publish(b"one")
        await topic.publish(b"two")
        await topic.publish({"no": "bytes"})
    assert stream.written == [b"one", b"two"]
    assert len(stream.failures) == 1


async def test_what_a_member_has_read_by_itself_is_not_written_again(autojump_clock, join):
    """Put behind, it reads an event that is published and not yet delivered; it has that once."""
    topic = Topic("t")
    stream, cursor = await join(topic)
    async with (
        topic.subscribe(policy=Block(timeout=60), buffer=1) as waited_for,
        trio.open_nursery() as nursery,
    ):
        await topic.publish(b"one,")
        nursery.start_soon(topic.publish, b"two,")  # delivered to all but who is waited for
        await wait_all_tasks_blocked()
        nursery.start_soon(topic.publish, b"three,")
        await wait_all_tasks_blocked()
        assert b"".join(stream.written) == b"one,two,"
        cursor.fall_behind()
        assert await cursor.pull(1000) == [Slice(1, b"three,")]
        assert not cursor.behind
        for _ in range(3):
            await waited_for.__anext__()
    await topic.publish(b"four")
    assert b"".join(stream.written) == b"one,two,four"
    cursor.tally()
    assert sum(items for _, items in stream.counted) == 3
