"""WebSockets in the frameworks: whatever a client sends, their log has no failure."""

import contextlib

import pytest
import trio
from fastapi import FastAPI, WebSocket
from quart import websocket
from quart_trio import QuartTrio
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from test_websocket_carriers import BEFORE, CASES, CLOSE, DEFLATE, MOST, frame, frames_of
from test_websocket_carriers import client as client  # a fixture

from flowstream.quart._internals import ClientGone

pytestmark = pytest.mark.chaos

# What differs from home to home is how a WebSocket ends, so a fifth of the table will do.
SOME = dict(list(CASES.items())[::5])


async def echo(ws: WebSocket):
    """Send back what comes, and leave the end to the framework, as its users do."""
    await ws.accept()
    while True:
        message = await ws.receive()
        if message["type"] == "websocket.disconnect":
            return
        await ws.send({**message, "type": "websocket.send"})


async def echo_text(ws: WebSocket):
    """The first example in FastAPI's documentation."""
    await ws.accept()
    while True:
        await ws.send_text(str(await ws.receive_text()))


def quart():
    app = QuartTrio("home")

    @app.websocket("/")
    async def view():
        # From 0.23 on, Quart tells a view that its client has left, and logs it where the view
        # does not catch it. Before, it cancelled the view.
        with contextlib.suppress(ClientGone):
            while True:
                await websocket.send(await websocket.receive())

    return app


def fastapi(endpoint):
    app = FastAPI()
    app.add_api_websocket_route("/", endpoint)
    return app


HOMES = {
    "quart": quart,
    "starlette": lambda: Starlette(routes=[WebSocketRoute("/", echo)]),
    "fastapi": lambda: fastapi(echo),
    "fastapi, its first example": lambda: fastapi(echo_text),
}


@pytest.mark.parametrize("home", HOMES)
async def test_the_verdicts(server, client, clean_log, home):
    """A client gets the same close as from a bare app, and a good one is served behind it."""
    ask = client(await server(HOMES[home](), websocket_max_message_size=MOST))
    found, expected = {}, {}
    with trio.fail_after(60):
        for name, case in SOME.items():
            if home == "quart" and b"" in case.received:
                continue  # Quart hands its view None for a message of no bytes
            await ask.open(*([DEFLATE] if case.compressed else []))
            await ask.send(case.sent)
            *_, (opcode, _, payload) = frames_of(await ask.read_to_end())
            found[name] = (opcode, payload)
            code = b"" if case.code is None else case.code.to_bytes(2, "big") + case.reason
            expected[name] = (CLOSE, code)
        await ask.open()
        await ask.send(frame(1, b"hello") + frame(CLOSE))
        await ask.read_to_end()
    assert found == expected


@pytest.mark.parametrize("end", ["send_eof", "reset"])
@pytest.mark.parametrize("home", HOMES)
async def test_a_client_that_leaves(server, client, clean_log, home, end):
    """In whichever state, nothing of it is in the log."""
    url = await server(HOMES[home]())
    with trio.fail_after(30):
        for before in BEFORE.values():
            ask = client(url)
            await ask.open()
            await ask.send(frame(1, b"hello") + before)
            await getattr(ask, end)()
            if end == "send_eof":
                await ask.read_to_end()
