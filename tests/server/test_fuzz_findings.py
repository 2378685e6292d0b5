"""What the fuzzing has found, each by itself: on plain Hypercorn where it is there, and here."""

import logging

import hpack
import hypercorn.config
import hypercorn.trio
import pytest
import trio
import trio.testing
from _reading import read_to_end
from fuzzing.http2 import DATA, END_STREAM, HEADERS, PREFACE, RST_STREAM, SETTINGS, frame
from fuzzing.judge import frames_of

from flowstream.server import _serving

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
TEXT_FRAME = b"\x81\x81\0\0\0\0x"


async def ask(url, data, *, seconds=1.0):
    """Send it; return what is answered, and whether the server closed the connection."""
    host, port = url.removeprefix("http://").split(":")
    answer = b""
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        await stream.send_all(data)
        with trio.move_on_after(seconds):
            async for more in stream:
                answer += more
            return answer, True
    return answer, False


async def ask_plain(app, data, *, seconds):
    """Ask plain Hypercorn; return what `ask` does, and what has ended the worker, if it ended."""
    config = hypercorn.config.Config()
    config.bind = ["127.0.0.1:0"]
    config.errorlog = logging.getLogger("tests.plain")
    answer = ended = None
    try:
        async with trio.open_nursery() as nursery:
            (url,) = await nursery.start(hypercorn.trio.serve, app, config)
            answer = await ask(url, data, seconds=seconds)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    except* Exception as group:  # noqa: BLE001
        ended = group
    return answer, ended


def tracebacks(caplog):
    return [record for record in caplog.records if record.exc_info]


@pytest.fixture
def accepting():
    """An app that accepts a WebSocket as soon as it can, and notes how it ends."""
    ended = []

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            raise NotImplementedError
        try:
            await receive()
            await send({"type": "websocket.accept"})
            ended.append(await receive())
        except Exception as error:
            ended.append(error)
            raise

    app.ended = ended
    return app


@pytest.mark.upstream
async def test_plain_hypercorn_dies_of_an_early_websocket_message(accepting):
    """Plain Hypercorn: a message before the acceptance is answered twice, and ends the worker."""
    _, ended = await ask_plain(accepting, UPGRADE + TEXT_FRAME, seconds=10)
    assert ended
    assert "pending proposal" in str(accepting.ended[0])


@pytest.mark.parametrize(
    ("given", "sent"),
    [(b"GET", b"GET"), (b": Upgrade", b": Upgrade\x1d")],
)
async def test_an_early_websocket_message_is_refused_once(
    given, sent, server, accepting, caplog, aeventually
):
    """A message before the acceptance: 400, the connection's end, and the app is told."""
    request = UPGRADE.replace(given, sent)
    assert sent in request
    answer, closed = await ask(await server(accepting), request + TEXT_FRAME, seconds=10)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1") == 1
    assert closed
    await aeventually(lambda: accepting.ended, "the application has ended")
    assert not tracebacks(caplog)


async def rejecting(scope, receive, send):
    if scope["type"] != "lifespan":
        await receive()
        await send({"type": "websocket.close"})


async def test_a_message_behind_a_refused_handshake_is_dropped(server, caplog):
    """The application says 403 while the message comes: that is the only answer."""
    host, port = (await server(rejecting)).removeprefix("http://").split(":")
    answer = b""
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        await stream.send_all(UPGRADE)
        await trio.testing.wait_all_tasks_blocked()
        await stream.send_all(TEXT_FRAME)
        with trio.move_on_after(10):
            async for more in stream:
                answer += more
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert answer.count(b"HTTP/1.1") == 1
    assert not tracebacks(caplog)


BAD_VERSION = UPGRADE.replace(b"Version: 13", b"Version: 12")


@pytest.mark.upstream
async def test_plain_hypercorn_keeps_a_websocket_it_refused(accepting):
    """Plain Hypercorn: a bad handshake is answered, and its connection kept for ever."""
    (answer, closed), _ = await ask_plain(accepting, BAD_VERSION, seconds=0.3)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert not closed


async def test_a_refused_handshake_ends_the_connection(server, accepting):
    """A bad handshake is answered, and its connection closed."""
    answer, closed = await ask(await server(accepting), BAD_VERSION, seconds=10)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert closed


async def answering(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"answer"})


CONNECT = b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.upstream
async def test_plain_hypercorn_tunnels(caplog):
    """Plain Hypercorn: the app answers CONNECT with 200, and its body is a traceback."""
    await ask_plain(answering, CONNECT, seconds=0.3)
    assert any("SWITCHED_PROTOCOL" in str(record.exc_info[1]) for record in tracebacks(caplog))


async def test_connect_is_refused(server, caplog):
    """There are no tunnels here: 501, and the application is not asked."""
    answer, closed = await ask(await server(answering), CONNECT, seconds=10)
    assert answer.startswith(b"HTTP/1.1 501 ")
    assert closed
    assert not tracebacks(caplog)


async def leaving(scope, receive, send):
    """Return in the middle of the response."""
    if scope["type"] == "lifespan":
        raise NotImplementedError
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"x", "more_body": True})


async def test_bytes_behind_an_unfinished_response_hold_nothing(server, monkeypatch, aeventually):
    """The app leaves a response unfinished, more bytes came behind it: the connection ends."""
    made = []
    original = _serving.Connections
    monkeypatch.setattr(_serving, "Connections", lambda *a: made.append(original(*a)) or made[-1])
    url = await server(leaving)
    request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    answer, closed = await ask(url, request + request, seconds=10)
    assert closed
    assert answer.endswith(b"x\r\n")
    await aeventually(lambda: not len(made[0]), "no connection is left")


HTTP2 = PREFACE + frame(SETTINGS, 0, 0)
# What is sent at once, and when the application waits for the rest.
RESETS = {
    "a reset by the client": (b"", frame(RST_STREAM, 0, 1, bytes(4))),
    "data behind its end": (b"", frame(DATA, END_STREAM, 1) + frame(DATA, 0, 1, b"x")),
    "trailers without an end": (b"", frame(HEADERS, 4, 1, b"\x00\x01x\x01y")),
    "a window that overflows": (b"", frame(8, 0, 1, b"\x7f\xff\xff\xff")),
    "a reset right behind the request": (frame(RST_STREAM, 0, 1, bytes(4)), b""),
}


@pytest.mark.parametrize("name", RESETS)
async def test_a_reset_stream_does_not_keep_its_connection(name, server, autojump_clock):
    """When its last stream was reset a connection has `keep_alive_timeout`, as behind an answer."""
    at_once, later = RESETS[name]

    async def waiting(scope, receive, send):
        if scope["type"] == "lifespan":
            raise NotImplementedError
        while (await receive())["type"] != "http.disconnect":
            pass

    url = await server(waiting, keep_alive_timeout=5)
    host, port = url.removeprefix("http://").split(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        await stream.send_all(HTTP2 + frame(HEADERS, 4, 1, b"\x83\x84\x86\x41\x01x") + at_once)
        await trio.testing.wait_all_tasks_blocked()
        await stream.send_all(later)
        await read_to_end(stream, seconds=8)


PRI = b"PRI * HTTP/2.0\r\nHost: localhost\r\n\r\nSM\r\n\r\n"


async def test_a_preface_with_fields_is_none(server):
    """A request line like that of HTTP/2's preface, with a header: no HTTP/2 follows."""
    asked = frame(HEADERS, 5, 1, b"\x82\x84\x86\x41\x01x")
    answer, closed = await ask(await server(answering), PRI + HTTP2[24:] + asked, seconds=10)
    assert answer.startswith(b"HTTP/1.1 505 ")
    assert closed


async def test_a_websocket_that_its_client_ends_before_the_answer_is_reset(
    server, autojump_clock, clean_log
):
    """Over HTTP/2 no end of a response comes without its head: the stream is reset."""
    told = []

    async def slow(scope, receive, send):
        if scope["type"] == "lifespan":
            return
        await receive()
        told.append(await receive())
        await send({"type": "websocket.accept"})

    fields = [(":method", "CONNECT"), (":protocol", "websocket"), (":path", "/")]
    fields += [(":scheme", "http"), (":authority", "x"), ("sec-websocket-version", "13")]
    url = await server(slow, keep_alive_timeout=5)
    host, port = url.removeprefix("http://").split(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        await stream.send_all(HTTP2 + frame(HEADERS, 5, 1, hpack.Encoder().encode(fields)))
        answer = await read_to_end(stream, seconds=8)
    assert [kind for kind, _, stream, _ in frames_of(answer) if stream] == [RST_STREAM]
    assert told[0]["type"] == "websocket.disconnect"
