"""Open listening sockets, tune them, and accept each connection as a `Wire`, perhaps with TLS."""

from __future__ import annotations

import errno
import logging
import socket
import ssl
from collections.abc import Callable

import trio

from flowstream.server._hypercorn import Sockets, repr_socket_addr
from flowstream.server._pass_budget import PassBudget
from flowstream.server._settings import ServerConfig
from flowstream.server._trouble import QUIET, Trouble, times
from flowstream.server._wire import Wire

Transport = Wire | trio.SSLStream[Wire]


logger = logging.getLogger("flowstream.server")

# Connections that are accepted before other tasks run. To accept each one alone would cost a pass
# of the event loop for each.
_BATCH = 32

# The peer, or the network, gave the connection up before it was accepted (accept(2)).
_GIVEN_UP = frozenset(
    getattr(errno, name)
    for name in (
        *("ECONNABORTED", "ECONNRESET", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH"),
        *("ENONET", "ENOPROTOOPT", "EOPNOTSUPP", "EPERM", "EPROTO", "ETIMEDOUT"),
    )
    if hasattr(errno, name)
)
_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_SECONDS_WITHOUT_ROOM = 0.1


class Listener:
    """Accepts connections, each as a `Wire`.

    Args:
        sock: a listening socket.
        context: the one for TLS, or None.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext | None) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._context = context

    async def wait(self) -> None:
        """Wait until there is a connection to accept."""
        await trio.lowlevel.wait_readable(self._socket)

    def accept_nowait(self) -> Transport | None:
        """Return a connection, with TLS before its handshake; None if none waits.

        Raises:
            OSError: there is no room for more connections, or accepting failed otherwise.
        """
        try:
            sock, _ = self._socket.accept()
        except BlockingIOError:
            return None
        wire = Wire(trio.socket.from_stdlib_socket(sock))
        if self._context is None:
            return wire
        # Unlike Hypercorn, don't set https_compatible, which leaves out the close_notify: then a
        # body that ends with the connection would look like one that was cut off.
        return trio.SSLStream(wire, self._context, server_side=True)

    def close(self) -> None:
        """Close the listening socket."""
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()


async def accept(
    listener: Listener, serve: Callable[[Transport], None], trouble: Trouble, budget: PassBudget
) -> None:
    """Call `serve` with each connection until cancelled; then close the listening socket.

    Args:
        listener: the connections come from it.
        serve: called with each connection.
        trouble: counts, for all listeners, how often there was no room for a connection.
        budget: limits how many are accepted in one pass of the event loop, at least one.
    """
    try:
        while True:
            await _wait(listener, trouble)
            try:
                for _ in range(_BATCH):
                    connection = listener.accept_nowait()
                    if connection is None:
                        break
                    serve(connection)
                    if trouble.is_on:
                        trouble.work()
                    if budget.is_spent:
                        break
            except OSError as error:
                if error.errno in _NO_ROOM:
                    if count := trouble.fail(trio.current_time()):
                        logger.error("connections cannot be accepted: %s%s", error, times(count))
                    await trio.sleep(_SECONDS_WITHOUT_ROOM)  # noqa: ASYNC120  # it was logged
                elif error.errno not in _GIVEN_UP:
                    raise
    finally:
        listener.close()


async def _wait(listener: Listener, trouble: Trouble) -> None:
    """Wait for a connection; after trouble, log that connections are accepted again."""
    while trouble.is_on:
        with trio.move_on_after(QUIET) as scope:
            await listener.wait()
        if over := trouble.end(trio.current_time()):
            logger.info("connections are accepted again, after %d failures in %.0f s", *over)
        if not scope.cancelled_caught:
            return
    await listener.wait()


def open_sockets(config: ServerConfig) -> Sockets:
    """Bind and listen where `config` says.

    Raises:
        OSError: the server cannot listen on an address.
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
    """Set the options that accepted sockets inherit: when TCP itself gives up a silent peer."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return sock
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        # As Trio sets it: while the kernel holds more unsent bytes than that, a write waits.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 1 << 14)
    idle, interval, count = config.keep_alive_probes
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {
        "TCP_KEEPIDLE": idle,
        "TCP_KEEPINTVL": interval,
        "TCP_KEEPCNT": count,
        # RFC 5482, in milliseconds: how long data may stay unacknowledged while nobody writes.
        # On Linux it also replaces the number of probes: if it were shorter than they take, the
        # loss of one probe would end an idle connection (tcp(7)).
        "TCP_USER_TIMEOUT": 1000 * max(round(config.write_timeout), idle + interval * count),
    }
    for name, value in options.items():
        if hasattr(socket, name):  # Linux has all four
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return sock
