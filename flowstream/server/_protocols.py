"""Choose the protocol of a connection as Hypercorn does, but with flowstream's own classes."""

from __future__ import annotations

from typing import Any

from flowstream.server._hypercorn import (
    H2ProtocolAssumedError,
    ProtocolWrapper,
    RawData,
    TransportEvent,
    Updated,
)
from flowstream.server._protocol_carrier import ProtocolCarrier
from flowstream.server.http1._http1 import HTTP1
from flowstream.server.http2._http2 import HTTP2


class Protocols(ProtocolWrapper):
    """HTTP/1.1, or HTTP/2 by ALPN or, if the setting ``h2c`` allows it, by prior knowledge."""

    protocol: HTTP1 | HTTP2

    def __init__(self, connection: ProtocolCarrier, *given: Any) -> None:
        # No super().__init__: it would make Hypercorn's own HTTP/2.
        *arguments, alpn = given
        self._connection = connection
        if alpn == "h2":
            self.protocol = HTTP2(connection, *arguments)
        else:
            self.protocol = HTTP1(connection, *arguments)

    async def handle(self, event: TransportEvent) -> None:
        """Pass an event of the transport to the protocol; change over to HTTP/2 if it says so."""
        try:
            await self.protocol.handle(event)
        except H2ProtocolAssumedError as error:
            await self._change_over(error.data)

    @property
    def may_half_close(self) -> bool:
        """Whether a client that has sent FIN may still want an answer. With HTTP/2 it may not."""
        return not isinstance(self.protocol, HTTP2)

    def count_requests(self, number: int) -> None:
        """Add the requests that were answered on this connection before it had a protocol."""
        self.protocol.keep_alive_requests += number
        if number and isinstance(self.protocol, HTTP1):
            self.protocol.is_fresh = False

    async def say_goodbye(self) -> None:
        """Tell the client, as its protocol does, to open another connection for new requests."""
        if isinstance(self.protocol, HTTP2):
            await self.protocol.say_goodbye()
        else:
            # The next response will have ``Connection: close`` (RFC 9112 § 9.6).
            self.protocol.keep_alive_requests = self.protocol.config.keep_alive_max_requests

    async def _change_over(self, data: bytes) -> None:
        old = self.protocol
        self.protocol = HTTP2(  # pyright: ignore[reportIncompatibleVariableOverride]
            self._connection,
            old.app,
            old.config,
            old.context,
            old.task_group,
            old.connection_state,
            old.ssl,
            old.client,
            old.server,
            old.send,
        )
        await self.protocol.initiate()
        # Hypercorn takes the preface for a request, and stops the deadline for one.
        await self.protocol.send(Updated(idle=True))
        if data:
            await self.protocol.handle(RawData(data))
