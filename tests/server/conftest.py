"""Servers of both kinds, ours and Hypercorn's own, and clients that are Trio streams."""

import logging
import socket
import ssl
from urllib.parse import urlsplit

import hypercorn.trio
import pytest
import trio
import trustme
from _http2_client import Peer
from hypercorn.config import Config
from trio.testing import MockClock

import flowstream
from flowstream.server import ServerConfig


@pytest.fixture(scope="session")
def authority():
    """Return a certificate authority that the clients of `connect` trust."""
    return trustme.CA()


@pytest.fixture(scope="session")
def certificate(authority, tmp_path_factory):
    """Return the settings with which a server speaks TLS as 127.0.0.1 and localhost."""
    folder = tmp_path_factory.mktemp("certificate")
    issued = authority.issue_cert("127.0.0.1", "localhost")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    for piece in issued.cert_chain_pems:
        piece.write_to_path(folder / "cert.pem", append=True)
    return {"certfile": str(folder / "cert.pem"), "keyfile": str(folder / "key.pem")}


@pytest.fixture
def patient_clock():
    """Jump as `autojump_clock` does, but only when the kernel has had time to hand on what was
    written: how busy the machine is changes no figure.
    """
    return MockClock(autojump_threshold=0.01)


class Connector:
    """Connects to servers, and closes at the test's end what it has opened."""

    def __init__(self, authority):
        self._context = ssl.create_default_context()
        authority.configure_trust(self._context)
        self._opened = []

    async def __call__(self, url, *, receive_buffer=None, alpn="http/1.1"):
        """Return a Trio stream; to an https URL with TLS."""
        address = urlsplit(url)
        sock = trio.socket.socket()
        self._opened.append(sock)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await sock.connect((address.hostname, address.port))
        stream = trio.SocketStream(sock)
        if address.scheme == "https":
            self._context.set_alpn_protocols([alpn])
            stream = trio.SSLStream(stream, self._context, server_hostname=address.hostname)
            await stream.do_handshake()
        return stream

    def close(self):
        for sock in self._opened:
            sock.close()


@pytest.fixture
async def connect(authority):
    """Connect: ``stream = await connect(url, receive_buffer=...)``."""
    connector = Connector(authority)
    yield connector
    connector.close()


class PlainHypercorn:
    """Hypercorn's own server, in which the faults are.

    Attributes:
        error: what has ended it, or None.
    """

    def __init__(self, nursery):
        self._nursery = nursery
        self.error = None

    async def __call__(self, app, **settings):
        """Serve `app` on a free port; return the URL."""
        config = Config()
        config.bind = ["127.0.0.1:0"]
        # Not None, which would be stderr.
        config.errorlog = logging.getLogger("tests.plain_hypercorn")
        for name, value in settings.items():
            setattr(config, name, value)
        (url,) = await self._nursery.start(self._serve, app, config)
        return url

    async def _serve(self, app, config, task_status):
        try:
            await hypercorn.trio.serve(app, config, task_status=task_status)
        except Exception as error:  # noqa: BLE001  # for the test to look at
            self.error = error


@pytest.fixture
async def plain_hypercorn(connect):
    """Serve an app with `PlainHypercorn`; cancelled at the end."""
    async with trio.open_nursery() as nursery:
        yield PlainHypercorn(nursery)
        connect.close()  # clients hold it up
        nursery.cancel_scope.cancel()


@pytest.fixture
async def http2(connect):
    """Connect with HTTP/2: ``peer = await http2(url, grants=False)`` is a `Peer`."""

    async def open_one(url, *, receive_buffer=None, **options):
        peer = Peer(await connect(url, receive_buffer=receive_buffer, alpn="h2"), **options)
        await peer.flush()
        return peer

    return open_one


@pytest.fixture
def clean_log(clean_log):
    """Fail the test if a traceback was logged at INFO, too: a server's log begins there."""
    clean_log.set_level(logging.INFO)
    return clean_log


@pytest.fixture
async def serve_http3(certificate):
    """Serve an app with HTTP/3: ``await serve_http3(app)`` is its port; its `end()` ends it."""
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
