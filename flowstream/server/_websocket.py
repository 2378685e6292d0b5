"""One WebSocket: Hypercorn's, with one answer to a handshake and an end to it.

What is different from ``hypercorn.protocol.ws_stream.WSStream``, and why:

* A client may send before it is accepted, though RFC 6455 § 4.1 has it wait. Hypercorn answers
  400 to that, also when the application is answering or has answered: h11 refuses the second
  answer, and the traceback of it is the application's. Here the first answer counts.
* The application is told that the handshake is over. Hypercorn leaves it waiting.
* A refusal ends the connection, with HTTP/2 the stream. Hypercorn keeps it for as long as the
  client likes.
"""

from __future__ import annotations

from flowstream.server._access_entry import Logged
from flowstream.server._hypercorn import (
    ASGIWebsocketState,
    Body,
    Data,
    Request,
    StreamClosed,
    StreamEvent,
    WSStream,
)


class WebSocket(WSStream):
    """One WebSocket."""

    async def handle(self, event: StreamEvent) -> None:
        """Take what the client says."""
        if isinstance(event, Request):
            await super().handle(event)
            if self.closed:  # refused: no application was asked
                await self._leave()
        elif isinstance(event, (Body, Data)) and not self.closed and not self.handshake.accepted:
            if self.state is ASGIWebsocketState.HANDSHAKE:
                await super().handle(StreamClosed(stream_id=self.stream_id))
                await super()._send_error_response(400)
                await self._leave()
        else:
            await super().handle(event)

    async def _send_error_response(self, status_code: int) -> None:
        self.state = ASGIWebsocketState.HTTPCLOSED  # before the wait, so that it is the only one
        await super()._send_error_response(status_code)

    async def _leave(self) -> None:
        await self.send(StreamClosed(stream_id=self.stream_id))


class LoggedWebSocket(Logged, WebSocket):  # type: ignore[misc]  # it fits either of Hypercorn's
    """One that the access log tells of."""
