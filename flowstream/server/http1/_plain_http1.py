"""Answer plain requests of HTTP/1.1 without a parser, a nursery or a task of their own.

The task that has read a plain request runs the application. Nobody reads the connection meanwhile:
the hang-up watch notices when the client leaves, and bytes that it sends before wait in the kernel.
When the response is complete, another task waits for the next request, since the application may
have more to do.

From the first request that is not plain, a protocol has the connection: see `Protocols`.
"""

from __future__ import annotations

from typing import Any, cast

from flowstream.asgi._head import HEAD_KEY, HeldHead
from flowstream.server._hypercorn import (
    Body,
    ConnectionState,
    EndBody,
    HTTPStream,
    Request,
    Response,
    StreamClosed,
    StreamEvent,
    TaskGroup,
)
from flowstream.server._inbox import Inbox
from flowstream.server._protocol_carrier import PlainCarrier
from flowstream.server.http1._plain_request import PlainRequest
from flowstream.server.http1._plain_response import Chunked, FramedByH11, ServerFields, Sized, begin
from flowstream.server.log._access_entry import Logged

_STREAM_ID = 1


class PlainExchange:
    """One plain request on a connection, and its response.

    Args:
        connection: the connection.
        fields: the header fields that the server adds to each response.
        kind: the class of Hypercorn's stream that serves the request.
        last: whether the connection ends after this response.
    """

    __slots__ = (
        "_begun",
        "_connection",
        "_fields",
        "_framing",
        "_head",
        "_held",
        "_inbox",
        "_kind",
        "_last",
        "_send",
        "_stream",
    )

    def __init__(
        self,
        connection: PlainCarrier,
        fields: ServerFields,
        kind: type[HTTPStream],
        *,
        last: bool,
    ) -> None:
        self._connection = connection
        self._fields = fields
        self._kind = kind
        self._last = last
        self._begun = False  # something has been written
        self._framing: Chunked | Sized | FramedByH11 | None = None
        self._head = HeldHead(self._write_head)
        self._held = b""
        self._inbox: Inbox | None = None  # of the application, once there is one
        self._send: Any = None

    async def run(self, request: PlainRequest) -> None:
        """Answer the request; return when the application has returned."""
        connection = self._connection
        config = connection.config
        origin = connection.origin(request.headers)
        self._stream = stream = self._kind(
            connection.app,
            config,
            connection.context,
            cast(TaskGroup, self),
            origin.tls,
            origin.client,
            connection.server,
            self.take,
            _STREAM_ID,
        )
        await stream.handle(
            Request(
                stream_id=_STREAM_ID,
                headers=request.headers,
                http_version="1.1",
                method="GET",
                raw_path=request.target,
                state=ConnectionState({**connection.state, HEAD_KEY: self._head}),
            )
        )
        await connection.context.mark_request()
        inbox = self._inbox
        if inbox is not None:
            inbox.complete()
            await connection.applications.serve(stream.app, config, stream.scope, inbox, self._send)

    def leave(self) -> None:
        """Tell the application that the client has left."""
        stream = self._stream
        if not stream.closed:
            if isinstance(stream, Logged):
                stream.entry.left()
            stream.closed = True
        if self._inbox is not None:
            self._inbox.disconnect()

    # -- for Hypercorn's stream ------------------------------------------------------------

    async def spawn_app(self, app: Any, config: Any, scope: Any, send: Any) -> Any:
        """Prepare the application's inbox. `run` then calls the application: no task is started."""
        self._inbox = inbox = self._connection.applications.open_inbox(config, scope)
        self._send = send
        return inbox.put

    async def take(self, event: StreamEvent) -> None:
        """Carry out an event of the application's stream."""
        if isinstance(event, Body):
            assert self._framing is not None
            await self._write(self._framing.body(event.data))
        elif isinstance(event, Response):
            self._held += self._begin(event)
            if not self._head.is_wanted:
                await self._write(b"")
            else:
                self._head.is_held = True
        elif isinstance(event, EndBody):
            assert self._framing is not None
            end = self._framing.end()
            if end or self._held:
                await self._write(end)
        elif isinstance(event, StreamClosed):
            await self._stream.handle(event)
            await self._connection.answered(self._framing is not None and self._framing.keeps)

    def _begin(self, event: Response) -> bytes:
        """Choose the framing, and return the head."""
        if self._framing is None and not self._last:
            plain = begin(event.status_code, event.headers, self._fields)
            if plain is not None:
                self._framing, head = plain
                return head
        if not isinstance(self._framing, FramedByH11):
            self._framing = FramedByH11()
        fields = [*event.headers, *self._fields.fields()]
        if self._last and event.status_code >= 200:
            fields.append((b"connection", b"close"))
        return self._framing.head(event.status_code, fields)

    async def _write(self, data: bytes) -> None:
        if self._held:
            data, self._held, self._head.is_held = self._held + data, b"", False
        begun, self._begun = self._begun, True
        if not await self._connection.write(data):
            self.leave()
        elif begun:
            await self._connection.pause()  # so that a loop which only sends lets others run

    async def _write_head(self) -> None:
        await self._write(b"")
