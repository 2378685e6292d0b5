"""HTTP/3: off, unless it is asked for; then it is Hypercorn's, and says what it does not keep."""

import logging
import sys

import aioquic.h3.connection
import aioquic.h3.events
import aioquic.quic.configuration
import aioquic.quic.connection
import httpx2
import pytest
import trio
from hypercorn.trio.udp_server import UDPServer

import flowstream
from flowstream import sse
from flowstream.server import ServerConfig

WARNING = "HTTP/3 has no backpressure"


@pytest.fixture
async def serve(certificate, caplog):
    """Serve an app with HTTP/3: ``await serve(app)`` is its port; `serve.stop()` ends it."""
    async with trio.open_nursery() as nursery:

        class Serve:
            def __init__(self):
                self._stop = trio.Event()
                self.ended = trio.Event()

            async def __call__(self, app, **settings):
                common = {"errorlog": logging.getLogger("tests.server"), "graceful_timeout": 60}
                config = ServerConfig.from_mapping(
                    bind="127.0.0.1:0",
                    quic_bind="127.0.0.1:0",
                    **{**common, **certificate, **settings},
                )

                async def run(task_status):
                    await flowstream.serve(
                        app, config, shutdown_trigger=self._stop.wait, task_status=task_status
                    )
                    self.ended.set()

                (self.url,) = await nursery.start(run)
                ((_, port),) = config._quic_addresses
                return port

            async def end(self):
                self._stop.set()
                with trio.fail_after(10):
                    await self.ended.wait()

        yield Serve()
        nursery.cancel_scope.cancel()


class Client:
    """HTTP/3 over a UDP socket, with aioquic's state machines."""

    def __init__(self, port, authority):
        configuration = aioquic.quic.configuration.QuicConfiguration(
            alpn_protocols=["h3"], server_name="127.0.0.1"
        )
        configuration.load_verify_locations(cadata=authority.cert_pem.bytes())
        self._address = ("127.0.0.1", port)
        self._quic = aioquic.quic.connection.QuicConnection(configuration=configuration)
        self._socket = trio.socket.socket(type=trio.socket.SOCK_DGRAM)
        self.body, self.status, self.ended = b"", None, False

    async def get(self, path):
        """Ask for `path`, and read the answer to its end."""
        with trio.fail_after(10):
            await self._socket.bind(("127.0.0.1", 0))
            self._quic.connect(self._address, now=trio.current_time())
            http = aioquic.h3.connection.H3Connection(self._quic)
            stream = self._quic.get_next_available_stream_id()
            head = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"127.0.0.1")]
            http.send_headers(stream, [*head, (b":path", path.encode())], end_stream=True)
            while not self.ended:
                await self._flush()
                with trio.move_on_at(self._quic.get_timer() or trio.current_time() + 1):
                    data, address = await self._socket.recvfrom(65536)
                    self._quic.receive_datagram(data, address, now=trio.current_time())
                self._quic.handle_timer(now=trio.current_time())
                while (event := self._quic.next_event()) is not None:
                    for answer in http.handle_event(event):
                        self._take(answer)

    def _take(self, answer):
        if isinstance(answer, aioquic.h3.events.HeadersReceived):
            self.status = int(dict(answer.headers)[b":status"])
        elif isinstance(answer, aioquic.h3.events.DataReceived):
            self.body += answer.data
        self.ended = self.ended or answer.stream_ended

    async def _flush(self):
        for data, address in self._quic.datagrams_to_send(now=trio.current_time()):
            await self._socket.sendto(data, address)

    async def close(self):
        """Say goodbye and close the socket."""
        self._quic.close()
        await self._flush()
        self._socket.close()


async def letters(scope, receive, send):
    assert scope["type"] == "http"
    await sse(["a", "b"])(scope, receive, send)


async def test_a_stream_over_http3(serve, authority, caplog):
    """A stream comes whole, a warning says what is not promised, and it ends at a shutdown."""
    port = await serve(letters)
    client = Client(port, authority)
    await client.get("/")
    assert client.status == 200
    assert b"data: b\n" in client.body
    assert len([text for text in caplog.messages if text.startswith(WARNING)]) == 1
    assert not [text for text in caplog.messages if "ypercorn itself" in text]
    await client.close()
    await serve.end()


async def test_a_client_that_never_leaves(serve, authority):
    """A QUIC connection that stays open does not hold up a shutdown beyond graceful_timeout."""
    port = await serve(letters, graceful_timeout=0.2)
    client = Client(port, authority)
    await client.get("/")
    await serve.end()
    await client.close()


async def test_what_ends_it_does_not_end_the_server(serve, authority, monkeypatch, caplog):
    """An exception in Hypercorn's datagram server costs its connections, and it starts anew."""
    real, calls = UDPServer.run, []

    async def run(self, task_status=trio.TASK_STATUS_IGNORED):
        calls.append(self)
        if len(calls) == 1:
            raise ValueError("what a datagram did")
        await real(self, task_status)

    monkeypatch.setattr(UDPServer, "run", run)
    port = await serve(letters)
    client = Client(port, authority)
    await client.get("/")
    assert client.status == 200
    await client.close()
    await serve.end()
    assert not [one for one in caplog.records if one.exc_info and one.levelno >= logging.INFO]


async def test_it_is_advertised(serve, authority):
    """A client that comes over TLS learns from Alt-Svc that there is HTTP/3."""
    port = await serve(letters)
    context = httpx2.create_ssl_context()
    authority.configure_trust(context)
    async with httpx2.AsyncClient(verify=context) as client:
        answer = await client.get(serve.url)
    assert f'h3=":{port}"' in answer.headers["alt-svc"]


async def test_without_its_library(serve, monkeypatch):
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
