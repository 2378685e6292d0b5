"""Trio receive channels as sources: drained, and closed with the stream."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from flowstream._errors import EncodingError
from flowstream.sources import as_source


class Slow(trio.abc.ReceiveChannel):
    """A receive channel that is no memory channel."""

    def __init__(self, count: int) -> None:
        self._left = count
        self.closed = False

    async def receive(self):
        await trio.lowlevel.checkpoint()
        if not self._left:
            raise trio.EndOfChannel
        self._left -= 1
        return self._left

    async def aclose(self):
        self.closed = True


@given(st.lists(st.integers(1, 5), max_size=10), st.integers(0, 6))
@settings(deadline=None)
def test_everything_that_was_sent_is_drained_in_order(new_outlet, bursts, size):
    """However the sends fall and however large the channel, until every sender closed it."""

    async def main() -> None:
        send, receive = trio.open_memory_channel(size)
        outlet = new_outlet()

        async def produce():
            number = 0
            async with send:
                for burst in bursts:
                    for _ in range(burst):
                        await send.send(number)
                        number += 1
                    await wait_all_tasks_blocked()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce)
            await as_source(receive).run(outlet)
        assert outlet.items == list(range(sum(bursts)))

    trio.run(main)


async def test_the_stream_is_complete_when_the_last_sender_has_closed(outlet):
    """One of two clones that closes does not end it."""
    send, receive = trio.open_memory_channel(1)
    over = False

    async def run():
        nonlocal over
        await as_source(receive).run(outlet)
        over = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        with send.clone() as clone:
            await clone.send(1)
        await wait_all_tasks_blocked()
        assert not over
        send.close()
    assert over
    assert outlet.items == [1]


async def test_what_is_there_is_taken_without_waiting_for_each(outlet):
    """Items that are queued cost one wait together, and not one each."""
    send, receive = trio.open_memory_channel(100)
    waits = 0
    real = receive.receive

    async def receive_one():
        nonlocal waits
        waits += 1
        return await real()

    receive.receive = receive_one
    for number in range(100):
        send.send_nowait(number)
    send.close()
    await as_source(receive).run(outlet)
    assert outlet.items == list(range(100))
    assert waits == 2  # the first item, and the end


async def test_a_sender_learns_that_the_client_has_gone(outlet):
    """The channel is closed with the stream, so the next send is broken."""
    send, receive = trio.open_memory_channel(1)
    outlet.block_at = 1
    async with trio.open_nursery() as nursery:
        nursery.start_soon(as_source(receive).run, outlet)
        await send.send(1)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    with pytest.raises(trio.BrokenResourceError):
        await send.send(2)


async def test_a_sender_that_waits_is_released_when_the_stream_fails(outlet):
    """A channel whose item cannot be sent is closed, too."""
    send, receive = trio.open_memory_channel(0)
    outlet.refuses = True

    async def produce():
        await send.send(1)
        with pytest.raises(trio.BrokenResourceError):
            await send.send(2)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce)
        with pytest.raises(EncodingError, match="refused"):
            await as_source(receive).run(outlet)


async def test_a_discarded_channel_is_closed():
    """Its senders do not fill a channel that nobody listens to."""
    send, receive = trio.open_memory_channel(5)
    await as_source(receive).discard()
    with pytest.raises(trio.BrokenResourceError):
        send.send_nowait(1)


async def test_any_receive_channel_will_do(outlet):
    """Not only Trio's own memory channels are received from and closed."""
    channel = Slow(3)
    await as_source(channel).run(outlet)
    assert outlet.items == [2, 1, 0]
    assert channel.closed
    channel = Slow(3)
    await as_source(channel).discard()
    assert channel.closed
