"""What an attack is, and what each attacking connection has to hand.

An attack is an async function that makes one connection, and goes on until it is cancelled or the
server ends the connection; then it is called again. The decorator `attack` makes it an `Attack`.
The first line of its docstring is what the table calls it. `_attack_run.py` runs them.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

MIB = 1 << 20


@dataclass
class Toll:
    """What the attackers did while they were let."""

    begun: int = 0
    """Connections."""
    cut: int = 0
    """Those that the server has ended."""
    sent: int = 0
    """Bytes."""


class Aim:
    """The server under attack, as one attacking connection sees it."""

    def __init__(self, http: int, https: int, toll: Toll) -> None:
        self.http = http
        self.https = https
        self.toll = toll
        self._open: list[trio.abc.Stream] = []

    async def connect(self, port: int | None = None) -> Wire:
        """Return a connection without TLS, to the port for such ones unless told otherwise."""
        return Wire(await self._connect(port or self.http), self.toll)

    async def connect_tls(self) -> Wire:
        """Return a connection with TLS."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        secure = trio.SSLStream(await self._connect(self.https), context)
        await secure.do_handshake()
        return Wire(secure, self.toll)

    async def close(self) -> None:
        """Close what was opened, and wait for nothing: what is unsent is dropped."""
        while self._open:
            await trio.aclose_forcefully(self._open.pop())

    async def _connect(self, port: int) -> trio.SocketStream:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        self._open.append(stream)
        self.toll.begun += 1
        return stream


class Wire:
    """One connection."""

    def __init__(self, stream: trio.abc.Stream, toll: Toll) -> None:
        self.stream = stream
        self.toll = toll

    async def send(self, data: bytes) -> None:
        """Send all of it; **waits** for as long as the server takes nothing."""
        await self.stream.send_all(data)
        self.toll.sent += len(data)

    async def receive(self) -> bytes:
        """Return what has come; EOFError at the end."""
        if data := await self.stream.receive_some(65536):
            return bytes(data)
        raise EOFError

    async def until(self, mark: bytes) -> None:
        """Read until `mark` has come."""
        tail = b""
        while mark not in tail:
            tail = tail[-len(mark) :] + await self.receive()

    async def hold(self) -> None:
        """Read and do nothing else, until the server ends the connection."""
        while True:
            await self.receive()

    async def flood(self, data: bytes, *, reads: bool = True) -> None:
        """Send the same again and again; read what is answered meanwhile, or nothing."""
        async with trio.open_nursery() as nursery:
            if reads:
                nursery.start_soon(self.hold)
            while True:
                await self.send(data)


@dataclass(frozen=True)
class Attack:
    """One attack, by name."""

    run: Callable[[Aim], Awaitable[None]]
    connections: int
    """Attackers at once."""
    bound: int
    """Bytes of memory that the server may need for each of them."""
    asks: str
    """What other clients ask for meanwhile."""
    prepares: str | None
    """What is asked for once before, so that it is not counted."""
    hypercorn: bool
    """Whether there is something to compare: else the attack is on a part of flowstream."""

    @property
    def name(self) -> str:
        """The function's."""
        return self.run.__name__

    @property
    def about(self) -> str:
        """What it does, in a few words."""
        return (self.run.__doc__ or "").splitlines()[0].removesuffix(".")


def attack(
    connections: int,
    *,
    bound: int = MIB,
    asks: str = "/",
    prepares: str | None = None,
    hypercorn: bool = True,
) -> Callable[[Callable[[Aim], Awaitable[None]]], Attack]:
    """Make a function an attack; see `Attack` for the arguments."""
    return lambda run: Attack(run, connections, bound, asks, prepares, hypercorn)
