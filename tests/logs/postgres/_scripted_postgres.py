"""A peer that speaks Postgres' protocol, and says what a test has it say.

Only what a log's client sends is understood: unnamed and named statements, each behind a Sync.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio


class RefuseError(Exception):
    """Raised by a script: answer with this SQLSTATE."""

    def __init__(self, state: str, text: str = "no", severity: str = "ERROR") -> None:
        super().__init__(state)
        self.state, self.text, self.severity = state, text, severity


class HangUpError(Exception):
    """Raised by a script: close the connection without an answer."""


Script = Callable[["Session", str, list[bytes | None]], Awaitable[list[tuple[Any, ...]]]]


@dataclass
class Peer:
    """What the test holds: where it listens, and what came.

    Attributes:
        asked: the statements, of all sessions.
        sessions: those that were let in.
        admits: whether it lets anybody in; if not it is silent from the start.
        turns_away: the error that everybody gets who connects, if given.
        commit: waited for between the answer to a statement and the end of its transaction, if
            given; the answer has been sent by then.
    """

    script: Script
    process: int = 4711
    port: int = 0
    asked: list[str] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)
    connections: int = 0
    admits: bool = True
    turns_away: RefuseError | None = None
    commit: Callable[[], Awaitable[None]] | None = None

    @property
    def dsn(self) -> str:
        """Return a DSN with a secret in it."""
        return (
            f"host=127.0.0.1 port={self.port} user=app password=hunter2 dbname=shop sslmode=disable"
        )


class Session:
    """One connection to the peer."""

    def __init__(self, peer: Peer, stream: trio.SocketStream) -> None:
        self.peer = peer
        self.stream = stream
        self._unread = b""
        self._sending = trio.Lock()  # a notification comes in between answers
        self._prepared: dict[str, str] = {}

    async def _send(self, data: bytes) -> None:
        async with self._sending:
            await self.stream.send_all(data)

    async def notify(self, payload: str) -> None:
        """Send a notification."""
        await self._send(_message(b"A", struct.pack("!i", 1) + _text("c") + _text(payload)))

    async def end(self, refusal: RefuseError) -> None:
        """Say why the session is over, without having been asked, and hang up."""
        await self._send(_error(refusal))
        await self.stream.aclose()

    async def serve(self) -> None:
        """Greet the client, and answer what it asks."""
        await self._take_startup()
        if self.peer.turns_away is not None:
            await self._send(_error(self.peer.turns_away))
            return
        hello = _message(b"R", struct.pack("!i", 0))
        for name, value in (("server_version", "17.0"), ("client_encoding", "UTF8")):
            hello += _message(b"S", _text(name) + _text(value))
        hello += _message(b"K", struct.pack("!ii", self.peer.process, 1))
        await self._send(hello + _READY)
        self.peer.sessions.append(self)
        sql, params, out = "", [], b""
        while True:
            kind, body = await self._take_message()
            if kind == b"P":
                name, sql, _ = body.split(b"\0", 2)[0].decode(), body.split(b"\0", 2)[1].decode(), 0
                self._prepared[name] = sql
                out += _message(b"1", b"")
            elif kind == b"B":
                sql, params = self._bound(body)
                out += _message(b"2", b"")
            elif kind == b"E":
                self.peer.asked.append(sql)
                try:
                    out += _rows(await self.peer.script(self, sql, params))
                except RefuseError as refusal:
                    out += _error(refusal)
                    if refusal.severity == "FATAL":
                        await self._send(out)
                        return
            elif kind == b"S":
                if self.peer.commit is not None:
                    await self._send(out)
                    out = b""
                    await self.peer.commit()
                await self._send(out + _READY)
                out = b""
            elif kind == b"X":
                return

    def _bound(self, body: bytes) -> tuple[str, list[bytes | None]]:
        _, statement, rest = body.split(b"\0", 2)
        (formats,) = struct.unpack_from("!h", rest)
        at = 2 + 2 * formats
        (count,) = struct.unpack_from("!h", rest, at)
        at += 2
        params: list[bytes | None] = []
        for _ in range(count):
            (size,) = struct.unpack_from("!i", rest, at)
            at += 4
            params.append(None if size < 0 else rest[at : at + size])
            at += max(0, size)
        return self._prepared[statement.decode()], params

    async def _take(self, count: int) -> bytes:
        while len(self._unread) < count:
            more = await self.stream.receive_some(65536)
            if not more:
                raise HangUpError
            self._unread += more
        taken, self._unread = self._unread[:count], self._unread[count:]
        return taken

    async def _take_startup(self) -> None:
        while True:
            (size,) = struct.unpack("!i", await self._take(4))
            body = await self._take(size - 4)
            if not self.peer.admits:
                await trio.sleep_forever()
            if struct.unpack_from("!i", body)[0] == 80877103:  # may we speak TLS?
                await self._send(b"N")
                continue
            return

    async def _take_message(self) -> tuple[bytes, bytes]:
        kind = await self._take(1)
        (size,) = struct.unpack("!i", await self._take(4))
        return kind, await self._take(size - 4)


@asynccontextmanager
async def scripted_postgres(script: Script, **settings: Any) -> AsyncIterator[Peer]:
    """Listen on loopback for the block."""
    peer = Peer(script, **settings)

    async def handle(stream: trio.SocketStream) -> None:
        peer.connections += 1
        try:
            await Session(peer, stream).serve()
        except (HangUpError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            with trio.CancelScope(shield=True):
                await stream.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, handle, 0, host="127.0.0.1"))
        peer.port = listeners[0].socket.getsockname()[1]
        yield peer
        nursery.cancel_scope.cancel()


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def _text(value: str) -> bytes:
    return value.encode() + b"\0"


def _error(refusal: RefuseError) -> bytes:
    fields = [("S", refusal.severity), ("V", refusal.severity)]
    fields += [("C", refusal.state), ("M", refusal.text)]
    return _message(b"E", b"".join(kind.encode() + _text(value) for kind, value in fields) + b"\0")


_READY = _message(b"Z", b"I")
_TYPES = {int: (20, "!q"), bool: (16, "!?"), float: (701, "!d")}


def _value(value: Any) -> bytes:
    if value is None:
        return struct.pack("!i", -1)
    if isinstance(value, (str, bytes)):
        data = value.encode() if isinstance(value, str) else value
    else:
        data = struct.pack(_TYPES[type(value)][1], value)
    return struct.pack("!i", len(data)) + data


def _rows(rows: list[tuple[Any, ...]]) -> bytes:
    if not rows:
        return _message(b"T", struct.pack("!h", 0)) + _message(b"C", _text("SELECT 0"))
    columns = b""
    for value in rows[0]:
        type = 17 if isinstance(value, bytes) else _TYPES.get(value.__class__, (25, ""))[0]
        columns += _text("c") + struct.pack("!ihihih", 0, 0, type, -1, -1, 1)
    out = _message(b"T", struct.pack("!h", len(rows[0])) + columns)
    for row in rows:
        out += _message(b"D", struct.pack("!h", len(row)) + b"".join(map(_value, row)))
    return out + _message(b"C", _text(f"SELECT {len(rows)}"))
