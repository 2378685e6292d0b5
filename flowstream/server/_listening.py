"""Listening sockets, tuned, and as Trio takes them."""

from __future__ import annotations

import socket

import trio

from flowstream.server._hypercorn import Sockets, repr_socket_addr
from flowstream.server._settings import ServerConfig

Listener = trio.SSLListener[trio.SocketStream] | trio.SocketListener


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
    for sock in sockets.secure_sockets:
        assert context is not None  # or Hypercorn would have made it an insecure one
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(_tuned(sock, config)))
        listeners.append(trio.SSLListener(listener, context, https_compatible=True))
        addresses.append(f"https://{repr_socket_addr(sock.family, sock.getsockname())}")
    for sock in sockets.insecure_sockets:
        listeners.append(trio.SocketListener(trio.socket.from_stdlib_socket(_tuned(sock, config))))
        addresses.append(f"http://{repr_socket_addr(sock.family, sock.getsockname())}")
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
        "TCP_USER_TIMEOUT": round(config.write_timeout * 1000),
    }
    for name, value in options.items():
        if hasattr(socket, name):  # Linux has all four
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return sock
