"""An in-process ASGI client with byte credits, for tests without sockets and without sleep.

What breaks a streaming server is hardly ever what a client sends; it is how fast, and for
how long, the client *reads*. Sockets make a poor instrument for that: kernels buffer some
hundred kilobytes on both sides, so a client that reads nothing looks for a long time like
one that keeps up, and a test has to sleep and hope. Here the client has a window of an
exact number of bytes. The app's ``send`` takes from it, and blocks when it is used up, as
on a TCP connection without any buffer::

    async def test_a_stalled_client_gets_a_gap(autojump_clock):
        async with open_stream(app, "/prices", window=0) as client:
            await trio.sleep(60)                # an instant: nothing can run, time jumps
            event = await client.next_event()   # takes this event's bytes, not one more
            client.abort()
        assert client.finished                  # the app has ended, nothing is left of it

Nothing here looks at a real clock and no task outlives its context manager, so under
trio's `MockClock` a test costs no time, however long its stream, and its bytes and times
are exact. What remains open is chance: the ids of events, jitter, and the order of tasks that are
ready in the same instant, which Trio shuffles on purpose. `wait_blocked` and
`trio.testing.wait_all_tasks_blocked` settle that order, and `simulated` has all of it follow from
a seed.

The client is also the sterner half of a server. It keeps the rules that Hypercorn keeps
(``send`` after a disconnect returns in silence; the disconnect queues behind the request's
body and is given once; after the final chunk there is a disconnect too), and it raises
`AssertionError` where the app breaks the ASGI specification. Such an error comes out of
the context manager even if the app swallowed it.
"""

from flowstream.testing._client import ClientStatistics, EndOfBody, StreamClient
from flowstream.testing._contract import Headers
from flowstream.testing._opening import CollectedResponse, collect, open_stream
from flowstream.testing._simulation import simulated
from flowstream.testing._test_lifespan import open_lifespan

__all__ = [
    "ClientStatistics",
    "CollectedResponse",
    "EndOfBody",
    "Headers",
    "StreamClient",
    "collect",
    "open_lifespan",
    "open_stream",
    "simulated",
]
