"""A connection to Valkey or Redis for tests: one command, one reply, nothing else."""

from __future__ import annotations

import socket
import ssl
from typing import Any

import hiredis


class WireError(Exception):
    """The server has replied with an error."""


def call(
    port: int,
    *command: bytes | str | float,
    user: tuple[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
    timeout: float = 10.0,
) -> Any:
    """Connect, send one command, and return its reply; text where it is text.

    Raises:
        WireError: the server has refused it.
        OSError: it is not there, or does not answer in time.
    """
    plain = socket.create_connection(("127.0.0.1", port), timeout)
    with plain if tls is None else tls.wrap_socket(plain, server_hostname="localhost") as peer:
        reader = hiredis.Reader(encoding="utf-8", errors="surrogateescape")
        if user is not None:
            _ask(peer, reader, ("AUTH", *user))
        return _ask(peer, reader, command)


def _ask(peer: socket.socket, reader: hiredis.Reader, command: tuple[Any, ...]) -> Any:
    peer.sendall(hiredis.pack_command(command))
    while (reply := reader.gets()) is False:
        data = peer.recv(65536)
        if not data:
            raise ConnectionResetError("the server has hung up")
        reader.feed(data)
    if isinstance(reply, hiredis.ReplyError):
        raise WireError(str(reply))
    return reply
