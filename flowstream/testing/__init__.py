"""An in-process ASGI client with byte credits, for tests without sockets and without sleep.

What a client sends rarely breaks a streaming server. What breaks it is how fast, and for how long,
the client *reads*. Sockets are poor tools to test that: kernels buffer some hundred kilobytes on
both sides, so a client that reads nothing looks for a long time like one that keeps up, and a test
has to sleep and hope. Here the client has a window of an exact number of bytes. The app's ``send``
takes from it, and blocks when it is used up, as on a TCP connection without any buffer::

    async def test_a_stalled_client_gets_a_gap(autojump_clock):
        async with open_stream(app, "/prices", window=0) as client:
            await trio.sleep(60)                # an instant: nothing can run, time jumps
            event = await client.next_event()   # takes this event's bytes, not one more
            client.abort()
        assert client.finished                  # the app has ended, nothing is left of it

Nothing here looks at a real clock, and no task outlives its context manager. So under Trio's
`MockClock` a test takes no time, however long its stream, and its bytes and times are exact. Only
chance remains: the ids of events, jitter, and the order of tasks that are ready at the same
instant, which Trio shuffles on purpose. `wait_blocked` and `trio.testing.wait_all_tasks_blocked`
settle that order. Inside `simulated` all chance follows from a seed.

The client also plays the server, and a strict one. It follows the rules that Hypercorn follows:
``send`` returns without an error after a disconnect; the disconnect comes once, after the request's
body; a disconnect also comes after the final chunk. It raises `AssertionError` where the app breaks
the ASGI specification. That error leaves the context manager even if the app swallowed it.

For a log of your own, `check_log` checks each contract of `flowstream.abc.Log`.
"""

from flowstream.testing._check_log import check_log, log_contracts
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
    "check_log",
    "collect",
    "log_contracts",
    "open_lifespan",
    "open_stream",
    "simulated",
]
