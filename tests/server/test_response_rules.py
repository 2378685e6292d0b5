"""A response that can't be sent is one line in the log and a 500, over every protocol."""

import logging

import pytest
import trio
from _reading import read_to_end

from flowstream import sse
from flowstream.server._response_rules import (
    CHECKS,
    InvalidResponseError,
    check_fields,
    check_links,
    check_start,
)

SECRET = b"secret"

# A response that can't be sent, and what the log says of it.
BAD = {
    "a line feed": ((200, [(b"x-bad", SECRET + b"\nset-cookie: a=b")]), "'x-bad' has a line feed"),
    "a carriage return": ((200, [(b"x-bad", SECRET + b"\r")]), "'x-bad' has a carriage return"),
    "a NUL": ((200, [(b"x-bad", b"\0" + SECRET)]), "'x-bad' has a NUL"),
    "a space in a name": ((200, [(b"x bad", SECRET)]), "'x bad' is not a header name"),
    "a colon in a name": ((200, [(b"x:bad", SECRET)]), "'x:bad' is not a header name"),
    "a line feed in a name": ((200, [(b"x\nbad", SECRET)]), r"'x\nbad' is not a header name"),
    "a name beyond ASCII": ((200, [(b"x-\xe9", SECRET)]), "is not a header name"),
    "no name": ((200, [(b"", SECRET)]), "'' is not a header name"),
    "a pseudo-header": ((200, [(b":status", SECRET)]), "':status' is not a header name"),
    "a name as text": ((200, [("x-bad", SECRET)]), "must be bytes, not str: write b'x-bad'"),
    "a value as text": ((200, [(b"x-bad", "secret")]), "'x-bad' must be bytes, not str"),
    "a value as number": ((200, [(b"x-bad", 5)]), "'x-bad' must be bytes, not int"),
    "three parts": ((200, [(b"x-bad", SECRET, b"")]), "must be pairs"),
    "a mapping": ((200, {b"x-bad": SECRET}), "must be pairs"),
    "a length that is none": ((200, [(b"content-length", SECRET)]), "content-length must be one"),
    "two lengths": (
        (200, [(b"content-length", b"5"), (b"Content-Length", b"6")]),
        "content-length must be one",
    ),
    "a status of 42": ((42, []), "from 200 to 999, not 42"),
    "a status of 1000": ((1000, []), "from 200 to 999, not 1000"),
    "an interim status": ((103, []), "from 200 to 999, not 103"),
    "no status": ((None, []), "must be a number, not NoneType"),
}
FINE = {
    "nothing": (200, []),
    "capitals": (200, [(b"X-Fine", b"v")]),
    "white space around": (200, [(b"x-fine", b" v ")]),
    "what belongs to a connection": (200, [(b"connection", b"keep-alive"), (b"te", b"gzip")]),
    "a status as text": ("200", []),
    "a length": (200, [(b"content-length", b"5")]),
}


class App:
    """Answers with the head at hand, and hello.

    Attributes:
        head: the status and the headers.
        raised: what `send` has raised.
    """

    def __init__(self):
        self.head, self.raised = (200, []), []

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            raise NotImplementedError
        status, headers = self.head
        kind = "http.response.start"
        if scope["type"] == "websocket":
            await receive()
            kind = "websocket.accept"
        elif scope["path"] == "/fine":
            status, headers = 200, []
        try:
            await send({"type": kind, "status": status, "headers": headers})
        except ValueError as error:
            self.raised.append(error)
            raise
        await send({"type": "http.response.body", "body": b"hello"})


@pytest.fixture
def app():
    return App()


@pytest.fixture
def errors(caplog):
    """Return the lines at ERROR, and fail at a traceback."""
    caplog.set_level(logging.INFO)

    def lines():
        records = caplog.get_records("call")
        assert not [record for record in records if record.exc_info]
        return [record.getMessage() for record in records if record.levelno >= logging.ERROR]

    return lines


async def ask_http1(server, connect, app, *fields):
    stream = await connect(await server(app))
    head = [b"GET /a?token=secret HTTP/1.1", b"Host: localhost", *fields, b"", b""]
    await stream.send_all(b"\r\n".join(head))
    if fields:
        answer = await read_to_end(stream)
    else:
        answer = b""
        with trio.fail_after(5):
            while b"hello" not in answer and b"500" not in answer:
                answer += await stream.receive_some()
    return int(answer.split()[1]), b"hello" in answer


async def ask_plainly(server, connect, http2, app):
    return await ask_http1(server, connect, app)


async def ask_a_protocol(server, connect, http2, app):
    return await ask_http1(server, connect, app, b"Connection: close")


async def ask_http2(server, connect, http2, app):
    peer = await http2(await server(app))
    number = await peer.get("/a?token=secret")
    body = await peer.finished(number)
    assert await peer.finished(await peer.get("/fine")) == b"hello", "the connection goes on"
    return peer.statuses[number], body == b"hello"


WAYS = {"plain": ask_plainly, "HTTP/1.1": ask_a_protocol, "HTTP/2": ask_http2}


@pytest.mark.parametrize("way", WAYS)
async def test_a_bad_head(server, connect, http2, app, errors, way):
    """It raises in the application, is answered with 500, and logged by name without its value."""
    app.head, said = BAD["a line feed"]
    assert await WAYS[way](server, connect, http2, app) == (500, False)
    assert len(app.raised) == 1
    (line,) = errors()
    assert line.startswith("the response to GET /a can't be sent: ")
    assert said in line
    assert "secret" not in line


@pytest.mark.parametrize("kind", [kind for kind in BAD if kind != "a line feed"])
async def test_bad_heads_over_http2(server, connect, http2, app, errors, kind):
    """So it is with whatever can't be sent, and the connection goes on."""
    app.head, said = BAD[kind]
    assert await ask_http2(server, connect, http2, app) == (500, False)
    (line,) = errors()
    assert said in line
    assert "secret" not in line
    assert line.isprintable()


@pytest.mark.parametrize("kind", FINE)
async def test_fine_heads_over_http2(server, connect, http2, app, errors, kind):
    """What HTTP/1.1 sends is sent, without what HTTP/2 has no room for."""
    app.head = FINE[kind]
    assert await ask_http2(server, connect, http2, app) == (200, True)
    assert errors() == []


@pytest.mark.parametrize("kind", BAD)
def test_the_rule(kind):
    """Each is refused by the same rule, which names the field and keeps its value to itself."""
    (status, headers), said = BAD[kind]
    with pytest.raises(InvalidResponseError) as raised:
        check_start({"status": status, "headers": headers})
    assert said in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("kind", FINE)
def test_what_is_sent(kind):
    """These pass."""
    status, headers = FINE[kind]
    check_start({"status": status, "headers": headers})


def test_headers_that_can_be_read_once():
    """They are there for whoever comes next."""
    message = {"headers": iter([(b"a", b"b")])}
    check_fields(message)
    assert message["headers"] == [(b"a", b"b")]


def test_every_message_with_fields_is_checked():
    """Interim responses and trailers are, too."""
    with pytest.raises(InvalidResponseError, match="'link' has a line feed"):
        CHECKS["http.response.early_hint"]({"links": [b"</a>", b"\n"]})
    check_links({"links": [b"</a>; rel=preload"]})
    for kind in ("http.response.trailers", "http.response.push", "websocket.accept"):
        with pytest.raises(InvalidResponseError):
            CHECKS[kind]({"headers": [(b"a", b"\n")]})


async def test_bad_trailers(server, http2, errors):
    """They come behind the head: the response is cut, and the log says why."""

    async def app(scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError
        head = {"type": "http.response.start", "status": 200, "headers": [], "trailers": True}
        await send(head)
        await send({"type": "http.response.body", "body": b"hello"})
        fields = [(b"x-bad", SECRET + b"\n")]
        await send({"type": "http.response.trailers", "headers": fields})

    peer = await http2(await server(app))
    number = await peer.get("/a", ("te", "trailers"))
    assert await peer.finished(number) == b"hello"
    assert number in peer.resets
    (line,) = errors()
    assert "GET /a" in line
    assert "'x-bad' has a line feed" in line
    assert "secret" not in line


async def test_a_websocket_that_can_not_be_accepted(server, http2, app, errors):
    """It is answered with 500 over HTTP/2."""
    app.head = (None, [(b"x-bad", SECRET + b"\n")])
    peer = await http2(await server(app))
    version = ("sec-websocket-version", "13")
    number = peer.open("/a", version, method="CONNECT", ended=False, protocol="websocket")
    await peer.flush()
    await peer.finished(number)
    assert peer.statuses[number] == 500
    (line,) = errors()
    assert line.startswith("the response to WEBSOCKET /a can't be sent: its header 'x-bad'")


async def test_an_answer_in_its_place(server, http2, errors):
    """An application that catches the error may send another head."""

    async def app(scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError
        with pytest.raises(ValueError, match="'x-bad'"):
            await sse(iter(()), headers={"x-bad": "a\nb"})(scope, receive, send)
        await send({"type": "http.response.start", "status": 503, "headers": []})
        await send({"type": "http.response.body", "body": b"sorry"})

    peer = await http2(await server(app))
    number = await peer.get("/")
    assert await peer.finished(number) == b"sorry"
    assert peer.statuses[number] == 503
