"""Listening sockets, tuned, and what they accept as a `Wire`, with TLS over it or without."""

from __future__ import annotations

import socket
import ssl

import trio

from flowstream.server._hypercorn import Sockets, repr_socket_addr
from flowstream.server._settings import ServerConfig
from flowstream.server._wire import Wire

Transport = Wire | trio.SSLStream[Wire]


class Listener(trio.abc.Listener[Transport]):
    """Accepts connections as a `Wire`.

    Args:
        sock: a listening socket.
        context: for TLS, or None.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext | None) -> None:
        self._listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
        self._context = context

    async def accept(self) -> Transport:
        """Wait for a connection; with TLS, its handshake is yet to come."""
        wire = Wire(await self._listener.accept())
        if self._context is None:
            return wire
        # Not https_compatible, as Hypercorn has it, which saves the close_notify: without it
        # a body that ends with the connection can't be told from one that was cut off.
        return trio.SSLStream(wire, self._context, server_side=True)

    async def aclose(self) -> None:
        """Close the listening socket."""
        await self._listener.aclose()


def open_sockets(config: ServerConfig) -> Sockets:
    """Bind and listen where `config` says.

    Raises:
        OSError: an address cannot be listened on.
    """
    sockets = config.create_sockets()
    for sock in (*sockets.secure_sockets, *sockets.insecure_sockets):
        sock.listen(config.backlog)
    return sockets


def make_listeners(sockets: Sockets, config: ServerConfig) -> tuple[list[Listener], list[str]]:
    """Return a listener for each socket, and their addresses.

    Raises:
        OSError, ssl.SSLError: the certificate or its key cannot be used.
    """
    listeners: list[Listener] = []
    addresses = []
    context = config.create_ssl_context()
    for scheme, group, tls in (
        ("https", sockets.secure_sockets, context),
        ("http", sockets.insecure_sockets, None),
    ):
        for sock in group:
            listeners.append(Listener(_tuned(sock, config), tls))
            addresses.append(f"{scheme}://{repr_socket_addr(sock.family, sock.getsockname())}")
    return listeners, addresses


def _tuned(sock: socket.socket, config: ServerConfig) -> socket.socket:
    """Set what accepted sockets inherit: how TCP itself gives up a peer that is gone."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return sock
    idle, interval, count = config.keep_alive_probes
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {
        "TCP_KEEPIDLE": idle,
        "TCP_KEEPINTVL": interval,
        "TCP_KEEPCNT": count,
        # RFC 5482, in milliseconds: data that nobody acknowledges and nobody waits to write.
        # Linux lets it overrule the number of probes, too: were it shorter than they take,
        # the loss of one of them would end an idle connection (tcp(7)).
        "TCP_USER_TIMEOUT": 1000 * max(round(config.write_timeout), idle + interval * count),
    }
    for name, value in options.items():
        if hasattr(socket, name):  # Linux has all four
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return sock
