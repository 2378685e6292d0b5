"""A front for a server: it can be cut, held, pointed at another server, and can speak TLS."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self

Target = int | Path
"""A port of 127.0.0.1, or a Unix socket."""


class Proxy:
    """Passes bytes on, in threads of its own. It is started at once.

    Args:
        target: where it passes them on to.
        tls: with it, it takes TLS, and passes on what was inside.

    Attributes:
        port: of 127.0.0.1.
        accepted: how many connections it has taken.
    """

    def __init__(self, target: Target, *, tls: ssl.SSLContext | None = None) -> None:
        self._target = target
        self._tls = tls
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._passes = threading.Event()
        self._passes.set()
        self._refuses = False
        self.accepted = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End it, with all connections."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._passes.set()
        self.cut()

    def cut(self) -> None:
        """Cut all connections that there are."""
        with self._lock:
            for one in self._open:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def refuse(self) -> None:
        """Cut all connections, and new ones, until `allow`."""
        self._refuses = True
        self.cut()

    def allow(self) -> None:
        """Take connections again."""
        self._refuses = False

    def hold(self) -> None:
        """Pass nothing on, either way, as a network that has lost the way, until `release`."""
        self._passes.clear()

    def release(self) -> None:
        """Pass on what was held."""
        self._passes.set()

    def point_at(self, target: Target) -> None:
        """Have new connections lead to another server; those that there are stay."""
        self._target = target

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        server: socket.socket | None = None
        try:
            if self._refuses:
                return
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                peer.settimeout(10)
                peer = self._tls.wrap_socket(peer, server_side=True)
                peer.settimeout(None)
            self._passes.wait()
            server = _connect(self._target)
            with self._lock:
                self._open |= {peer, server}
            back = threading.Thread(target=self._pass_on, args=(server, peer), daemon=True)
            back.start()
            self._pass_on(peer, server)
            back.join()
        except OSError:
            pass
        finally:
            with self._lock:
                self._open -= {peer, server} - {None}
            for one in (peer, server):
                if one is not None:
                    one.close()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._passes.wait()
                target.sendall(data)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


def _connect(target: Target) -> socket.socket:
    if isinstance(target, int):
        peer = socket.create_connection(("127.0.0.1", target), 10)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    else:
        peer = socket.socket(socket.AF_UNIX)
        try:
            peer.connect(str(target))
        except OSError:
            peer.close()
            raise
    peer.settimeout(None)
    return peer
