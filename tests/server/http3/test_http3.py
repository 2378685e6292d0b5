"""HTTP/3: off, unless it is asked for; then it is Hypercorn's, and says what it does not keep."""

import logging
import sys

import httpx2
import pytest
import trio
from _http3_client import Client

import flowstream
from flowstream import sse
from flowstream.server import ServerConfig
from flowstream.server.http3._datagrams import Datagrams

WARNING = "HTTP/3 has no backpressure"


async def letters(scope, receive, send):
    assert scope["type"] == "http"
    await sse(["a", "b"])(scope, receive, send)


async def test_a_stream_over_http3(serve_http3, authority, caplog):
    """A stream comes whole, a warning says what is not promised, and it ends at a shutdown."""
    port = await serve_http3(letters)
    client = Client(port, authority)
    await client.get("/")
    assert client.statuses == {0: 200}
    assert b"data: b\n" in client.bodies[0]
    assert len([text for text in caplog.messages if text.startswith(WARNING)]) == 1
    assert not [text for text in caplog.messages if "ypercorn itself" in text]
    await client.close()
    await serve_http3.end()


async def test_a_client_that_never_leaves(serve_http3, authority):
    """A QUIC connection that stays open does not hold up a shutdown beyond graceful_timeout."""
    port = await serve_http3(letters, graceful_timeout=0.2)
    client = Client(port, authority)
    await client.get("/")
    await serve_http3.end()
    await client.close()


async def test_what_ends_it_does_not_end_the_server(serve_http3, authority, monkeypatch, caplog):
    """An exception in the server of datagrams costs its connections, and it starts anew."""
    real, calls = Datagrams.run, []

    async def run(self, task_status=trio.TASK_STATUS_IGNORED):
        calls.append(self)
        if len(calls) == 1:
            raise ValueError("what a datagram did")
        await real(self, task_status)

    monkeypatch.setattr(Datagrams, "run", run)
    port = await serve_http3(letters)
    client = Client(port, authority)
    await client.get("/")
    assert client.statuses == {0: 200}
    await client.close()
    await serve_http3.end()
    assert not [one for one in caplog.records if one.exc_info and one.levelno >= logging.INFO]


async def test_it_is_advertised(serve_http3, authority):
    """A client that comes over TLS learns from Alt-Svc that there is HTTP/3."""
    port = await serve_http3(letters)
    context = httpx2.create_ssl_context()
    authority.configure_trust(context)
    async with httpx2.AsyncClient(verify=context) as client:
        answer = await client.get(serve_http3.url)
    assert f'h3=":{port}"' in answer.headers["alt-svc"]


async def test_without_its_library(serve_http3, monkeypatch):
    """Where aioquic is not installed the error names the extra to install."""
    monkeypatch.setitem(sys.modules, "aioquic", None)
    config = ServerConfig.from_mapping(quic_bind="127.0.0.1:0", certfile="c", keyfile="k")
    with pytest.raises(flowstream.MissingExtraError, match=r"flowstream-trio\[http3\]"):
        await flowstream.serve(letters, config)


async def test_it_is_off_by_default(server, certificate, caplog):
    """TLS alone opens no datagram socket, and nothing is warned of."""
    url = await server(letters, **certificate)
    assert url.startswith("https://")
    assert not [text for text in caplog.messages if text.startswith(WARNING)]
    assert ServerConfig().quic_bind == []
