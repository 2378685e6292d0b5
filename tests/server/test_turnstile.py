"""Requests that come all at once over HTTP/2 begin a few in each pass of the event loop."""

import pytest
import trio
import trio.lowlevel
from trio.testing import wait_all_tasks_blocked

from flowstream.server._pass_budget import Turnstile

CONNECTIONS, EACH = 10, 100


@pytest.mark.parametrize("spread", [CONNECTIONS, 1])
async def test_many_requests_at_once(server, http2, clean_log, spread):
    """Others have a turn after a request of each connection; the rest queue up for one a turn."""
    begun = 0

    async def app(scope, receive, send):
        nonlocal begun
        if scope["type"] != "http":
            raise NotImplementedError
        begun += 1
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    url = await server(app)
    peers = [await http2(url) for _ in range(spread)]
    for peer in peers:
        await peer.fence()
        for _ in range(EACH):
            peer.open()
        await peer.flush()
    most, before = 0, begun
    with trio.fail_after(30):
        while begun < spread * EACH:
            await trio.lowlevel.checkpoint()
            most, before = max(most, begun - before), begun
    assert most <= spread + 2
    for peer in peers:
        await peer.until(lambda: len(peer.ended) == EACH)  # noqa: B023


async def test_who_comes_first_goes_first():
    """One goes through at a turn, in order, and one that is cancelled holds up nobody."""
    turnstile, passed = Turnstile(), []

    async def go(name):
        await turnstile.go_through()
        passed.append(name)

    async with trio.open_nursery() as nursery:
        for name in range(3):
            nursery.start_soon(go, name)
            await wait_all_tasks_blocked()
        assert passed == [0, 1, 2]
        async with turnstile._lock:
            scope = trio.CancelScope()

            async def give_up():
                with scope:
                    await go("cancelled")

            nursery.start_soon(give_up)
            await wait_all_tasks_blocked()
            nursery.start_soon(go, 3)
            await wait_all_tasks_blocked()
            scope.cancel()
    assert passed == [0, 1, 2, 3]
