"""Middleware that copies the scope: what of it is live stays the same one."""

import copy
import pickle

import pytest
import trio
from hypercorn.middleware import ProxyFixMiddleware
from quart import request
from quart_trio import QuartTrio

from flowstream import ndjson
from flowstream.asgi._carrier import STATE_KEY, carrier_of
from flowstream.quart import Flowstream

GET = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 9.9.9.9\r\n"
    b"X-Forwarded-Proto: https\r\nX-Forwarded-Host: ex.org\r\nConnection: close\r\n\r\n"
)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, dict])
async def test_a_copy_has_the_same(copied, server, connect):
    """Copied in any way it is the same; pickled it is none, and carries nothing."""
    seen = []

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            raise NotImplementedError
        again = copied(scope)
        seen.append(again["state"][STATE_KEY] is scope["state"][STATE_KEY])
        state = pickle.loads(pickle.dumps(scope["state"]))
        seen.append(carrier_of({"state": state}) is None)
        await ndjson([1])(again, receive, send)

    stream = await connect(await server(app))
    await stream.send_all(GET)
    data = b""
    with trio.fail_after(10):
        while more := await stream.receive_some():
            data += more
    assert seen == [True, True]
    assert b'"end"' in data


async def test_behind_a_proxy(server, connect):
    """Hypercorn's ProxyFixMiddleware copies deeply; a view that copies the scope again, too."""
    app = QuartTrio("app")
    Flowstream(app)

    @app.get("/")
    async def view():
        assert set(copy.deepcopy(dict(request.scope))) == set(request.scope)
        return ndjson([request.scheme])

    app.asgi_app = ProxyFixMiddleware(app.asgi_app, mode="legacy", trusted_hops=1)
    stream = await connect(await server(app))
    await stream.send_all(GET)
    data = b""
    with trio.fail_after(10):
        while more := await stream.receive_some():
            data += more
    assert b'"https"' in data
    assert b'"end"' in data
