"""A server of Valkey that a test writes: it speaks RESP3, and is as odd as the test wants."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import hiredis
import trio

from flowstream.logs import LogUnavailableError
from flowstream.logs.valkey._valkey_client import ValkeyClient
from flowstream.logs.valkey._valkey_connection import ValkeyConnection, ValkeyTimeouts
from flowstream.logs.valkey._valkey_settings import ValkeySettings

INFO = b"# Server\r\nrun_id:1\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\naof_enabled:1\r\n"


def bulk(data: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(data), data)


def hello(**fields: str) -> bytes:
    """Return what a server says to HELLO."""
    fields = {"version": "7.2.4", "mode": "standalone", "role": "master", **fields}
    return b"%%%d\r\n" % len(fields) + b"".join(
        bulk(name.encode()) + bulk(value.encode()) for name, value in fields.items()
    )


def polite(command: list[bytes]) -> bytes:
    """Return the reply of a good server to what each connection begins with, and to PING."""
    answers = {
        b"HELLO": hello(),
        b"SELECT": b"+OK\r\n",
        b"INFO": bulk(INFO),
        b"PING": b"+PONG\r\n",
    }
    return answers.get(command[0], b"-ERR what?\r\n")


Answer = Callable[[list[bytes], trio.SocketStream], Awaitable[bytes | None]]


class OddServer:
    """Answers each command by `answer`; None closes the connection, and b"" says nothing."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.accepted = 0
        self.port = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        self.accepted += 1
        reader = hiredis.Reader(notEnoughData=...)
        try:
            async for data in stream:
                reader.feed(data)
                while (command := reader.gets()) is not ...:
                    said = await self.answer(command, stream)
                    if said is None:
                        return
                    await stream.send_all(said)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            await trio.aclose_forcefully(stream)


@asynccontextmanager
async def odd_server(answer: Answer) -> AsyncIterator[OddServer]:
    """Serve at a free port of 127.0.0.1, until the end of the block."""
    server = OddServer(answer)
    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, server.serve, 0, host="127.0.0.1"))
        server.port = listener.socket.getsockname()[1]
        yield server
        nursery.cancel_scope.cancel()


class Opened(ValkeyClient):
    """A client that notes what it is told."""

    pushes: list[Any]
    losses: int


@asynccontextmanager
async def opened(url: str, **arguments: Any) -> AsyncIterator[Opened]:
    """Run a client until the end of the block; the block begins when it is connected."""
    timeouts = arguments.pop("timeouts", None)
    pushes: list[Any] = []

    async def ready(connection: ValkeyConnection) -> None:
        pass

    def lost() -> None:
        client.losses += 1

    client = Opened(
        ValkeySettings.from_url(url, **arguments.pop("settings", {})),
        ready=arguments.pop("ready", ready),
        pushed=pushes.append,
        lost=lost,
        timeouts=timeouts or ValkeyTimeouts(),
    )
    client.pushes, client.losses = pushes, 0
    async with trio.open_nursery() as nursery:
        await nursery.start(client.run)
        yield client
        nursery.cancel_scope.cancel()


def only(group: BaseExceptionGroup) -> BaseException:
    """Return the one error in a group."""
    while isinstance(group, BaseExceptionGroup):
        [group] = group.exceptions
    return group


async def fails_to_open(url: str, **arguments: Any) -> str:
    """Return the sentence with which a client can't be opened."""
    try:
        async with opened(url, **arguments):
            raise AssertionError("it was opened")
    except BaseExceptionGroup as group:
        error = only(group)
        assert isinstance(error, LogUnavailableError), error
        return str(error)
