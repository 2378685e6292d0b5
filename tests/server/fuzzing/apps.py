"""The application under fire: what it does follows from the first letter of the path.

It looks at what it is given, too: whatever a client sends, a scope is well-formed, a message is
within its bound, and what had to be refused is not here.
"""

import re

import quart
import quart_trio
import trio
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import flowstream
from flowstream import Limits
from flowstream.quart import Flowstream
from fuzzing.websockets import MOST

SECONDS = 5
"""For so long an application waits for its client, at most."""

_TARGET = re.compile(rb"/[!-~]*")
_METHOD = re.compile(r"[A-Z_-]+")
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_VALUE = re.compile(rb"[^\0\r\n]*")


class BrokenAppError(Exception):
    """What the applications fail with: the one thing that may be logged."""


async def app(scope, receive, send):
    """Serve a request or a WebSocket."""
    if scope["type"] == "lifespan":
        return
    check(scope)
    await (http if scope["type"] == "http" else websocket)(scope, receive, send)


def check(scope):
    """Raise AssertionError if the request is not as an application may expect it to be."""
    assert scope["path"] != "/hidden", "this request had to be refused"
    assert scope["path"].startswith("/"), scope["path"]
    assert "\0" not in scope["path"], scope["path"]
    assert _TARGET.fullmatch(scope["raw_path"]), scope["raw_path"]
    assert scope["http_version"] in {"1.0", "1.1", "2"}, scope["http_version"]
    assert scope["type"] == "websocket" or _METHOD.fullmatch(scope["method"]), scope["method"]
    hosts = 0
    for name, value in scope["headers"]:
        assert _NAME.fullmatch(name), name
        assert _VALUE.fullmatch(value), value
        hosts += name == b"host"
    assert hosts <= 1, "more than one host"


async def http(scope, receive, send):
    """Answer a request."""
    letter = scope["path"][1:2]
    # For who reads the answer: one to HEAD has no body.
    headers = [(b"content-type", b"text/plain"), (b"x-method", scope["method"].encode())]

    async def start():
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def body(data, *, more=False):
        await send({"type": "http.response.body", "body": data, "more_body": more})

    async def read():
        while (message := await receive())["type"] == "http.request":
            if not message["more_body"]:
                return

    async def send_marked(message):
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], headers[1]]}
        await send(message)

    match letter:
        case "a":  # answers, without a look at the request
            await start()
            await body(b"answer")
        case "b":  # fails before it has answered
            raise BrokenAppError
        case "d":  # waits for the client to leave
            with trio.move_on_after(SECONDS):
                while (await receive())["type"] != "http.disconnect":
                    pass
            await start()
            await body(b"")
        case "e":  # sends back what comes
            # Behind the beginning of a response the body has no bound but the application's.
            await start()
            with trio.move_on_after(SECONDS):
                while (message := await receive())["type"] == "http.request":
                    await body(message["body"], more=True)
                    if not message["more_body"]:
                        break
            await body(b"")
        case "f":  # fails in the middle
            await start()
            await body(b"x" * 100, more=True)
            raise BrokenAppError
        case "g":  # floods the client, and has no ear for its leaving
            await start()
            for _ in range(40):
                await body(b"x" * 16384, more=True)
            await body(b"")
        case "i":  # has its own reasons to be slow, and reads nothing
            await trio.sleep(2)
            await start()
            await body(b"ignored")
        case "k":
            await in_quart(scope, receive, send_marked)
        case "n":  # returns without a word
            pass
        case "q":  # returns in the middle
            await start()
            await body(b"x", more=True)
        case "s":  # streams
            await flowstream.ndjson(numbers(30))(scope, receive, send_marked)
        case "t":
            await in_starlette(scope, receive, send_marked)
        case "w":  # streams, slowly
            stream = flowstream.sse(numbers(None), limits=Limits(max_duration=SECONDS))
            await stream(scope, receive, send_marked)
        case _:  # reads, and answers
            await read()
            await start()
            await body(b"read")


async def numbers(count):
    """Yield so many items, or one each second without an end."""
    number = 0
    while count is None or number < count:
        yield {"number": number, "text": "x" * 200}
        number += 1
        if count is None:
            await trio.sleep(1)


METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_quart = quart_trio.QuartTrio("fuzzing")
Flowstream(_quart)


@_quart.route("/<path:rest>", methods=METHODS)
async def _view(rest):
    await quart.request.get_data()
    return flowstream.ndjson(numbers(3))


async def in_quart(scope, receive, send):
    """Answer in a view of Quart's, which reads the body first."""
    await _quart(scope, receive, send)


async def _read_and_answer(request):
    return PlainTextResponse(str(len(await request.body())))


in_starlette = Starlette(routes=[Route("/{rest:path}", _read_and_answer, methods=METHODS)])


async def websocket(scope, receive, send):
    """Speak over a WebSocket; for no longer than `SECONDS`, and then close it."""
    letter = scope["path"][1:2]
    assert (await receive())["type"] == "websocket.connect"
    if letter == "r":
        await send({"type": "websocket.close"})
        return
    if letter == "n":
        return
    if letter == "w":
        with trio.move_on_after(SECONDS):
            while (await receive())["type"] != "websocket.disconnect":
                pass
        return
    await send({"type": "websocket.accept"})
    if letter == "c":
        await send({"type": "websocket.close"})
        return
    if letter == "f":
        raise BrokenAppError
    if letter == "s":
        for _ in range(100):
            await send({"type": "websocket.send", "bytes": b"x" * 4000})
    with trio.move_on_after(SECONDS):
        while (message := await receive())["type"] != "websocket.disconnect":
            text, data = message.get("text"), message.get("bytes")
            size = len(data) if text is None else len(text.encode())
            assert size <= MOST, f"a message of {size} bytes"
            await send({**message, "type": "websocket.send"})
        return
    await send({"type": "websocket.close"})
