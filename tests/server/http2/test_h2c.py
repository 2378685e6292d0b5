"""HTTP/2 without TLS: off unless asked for, and never by an upgrade."""

import pytest
import trio
from _reading import read_to_end

from flowstream.server import ServerConfig, streaming_config
from flowstream.server._settings import checked

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
ASKS = {
    "by itself": b"",
    "with the connection option": b"Connection: Upgrade\r\n",
    "whole": b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
    "settings that are none": b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: a\r\n",
}


async def hello(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["http_version"].encode()})


async def unasked(scope, receive, send):
    if scope["type"] != "lifespan":
        raise AssertionError("a client that is refused reaches no application")
    raise NotImplementedError


async def ask(stream, *fields):
    """Send two requests, the first of them with these fields; return what comes."""
    await stream.send_all(
        b"GET / HTTP/1.1\r\nHost: a\r\n%b\r\n" % b"".join(fields)
        + b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    )
    return await read_to_end(stream)


@pytest.mark.parametrize("fields", ASKS.values(), ids=ASKS)
@pytest.mark.parametrize("h2c", [False, True])
async def test_an_upgrade_is_ignored(server, connect, clean_log, fields, h2c):
    """A request with ``Upgrade: h2c`` is answered over HTTP/1.1, and so is the next one."""
    stream = await connect(await server(hello, h2c=h2c))
    found = await ask(stream, b"Upgrade: h2c\r\n", fields)
    assert found.count(b"HTTP/1.1 200") == 2
    assert b" 101 " not in found


async def test_an_upgrade_under_tls_is_ignored(server, connect, clean_log, certificate):
    """So it is under TLS."""
    stream = await connect(await server(hello, **certificate))
    found = await ask(stream, b"Upgrade: h2c\r\n", ASKS["whole"])
    assert found.count(b"HTTP/1.1 200") == 2


@pytest.mark.parametrize("cuts", [(), (10,), (16, 20)])
async def test_the_preface_is_refused(server, connect, clean_log, cuts):
    """By default a client that begins with HTTP/2 gets one answer over HTTP/1.1, and at once the
    end; the application hears nothing of it.
    """
    default = ServerConfig()
    stream = await connect(await server(unasked, h2c=default.h2c, keep_alive_timeout=1000))
    for start, end in zip((0, *cuts), (*cuts, len(PREFACE)), strict=True):
        await stream.send_all(PREFACE[start:end])
        await trio.testing.wait_all_tasks_blocked(0.01)
    found = await read_to_end(stream)
    assert found.startswith(b"HTTP/1.1 505 ")
    assert found.count(b"HTTP/1.1") == 1


async def test_the_log_says_how_to_take_it(server, connect, clean_log):
    """It names the setting, once for all clients."""
    url = await server(unasked, h2c=False)
    for _ in range(3):
        stream = await connect(url)
        await stream.send_all(PREFACE)
        await read_to_end(stream)
    said = [text for text in clean_log.messages if "--h2c" in text]
    assert said == [
        "a client began with HTTP/2 without TLS, and got a 505: h2c = True (--h2c) takes it"
    ]


async def test_an_http2_client_is_told(server, program, clean_log):
    """curl fails at once with what it was answered, and doesn't wait."""
    url = await server(unasked, h2c=False, keep_alive_timeout=1000)
    command = [program("curl"), "-sS", "--http2-prior-knowledge", "--max-time", "20", url]
    done = await trio.run_process(command, check=False, capture_stderr=True)
    assert done.returncode not in (0, 28), done.stderr  # 28: it waited for 20 s


async def test_under_tls_it_is_a_matter_of_alpn(server, connect, clean_log, certificate):
    """A client that has agreed on HTTP/1.1 can't begin with HTTP/2, whatever the setting."""
    stream = await connect(await server(hello, h2c=True, **certificate))
    await stream.send_all(PREFACE)
    assert (await read_to_end(stream)).startswith(b"HTTP/1.1 505 ")


@pytest.mark.parametrize("method", [b"GET", b"OPTIONS"])  # one of them is read without h11
async def test_it_is_for_the_beginning_of_a_connection(server, connect, clean_log, method):
    """Behind a request of HTTP/1.1 the preface is refused, whatever the setting."""
    stream = await connect(await server(hello, h2c=True))
    await stream.send_all(method + b" / HTTP/1.1\r\nHost: a\r\n\r\n")
    found = b""
    with trio.fail_after(10):
        while not found.endswith(b"0\r\n\r\n"):
            found += await stream.receive_some()
    await stream.send_all(PREFACE)
    assert (await read_to_end(stream)).startswith(b"HTTP/1.1 505 ")


async def test_it_can_be_asked_for(server, http2, clean_log):
    """With ``h2c`` a client that begins with HTTP/2 is answered over it."""
    peer = await http2(await server(hello, h2c=True))
    assert await peer.finished(await peer.get()) == b"2"


def test_the_setting():
    """It is off by default, and nothing but a bool."""
    assert ServerConfig().h2c is False
    assert checked(streaming_config(h2c=True)).h2c is True
    with pytest.raises(TypeError, match="h2c must be True or False, not 'yes'"):
        checked(streaming_config(h2c="yes"))
