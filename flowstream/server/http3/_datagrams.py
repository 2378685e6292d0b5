"""Serve HTTP/3's datagrams with Hypercorn's server, and our connections and applications."""

from __future__ import annotations

from functools import partial
from typing import Any

import trio
from aioquic.quic.events import (
    ConnectionIdIssued,
    ConnectionIdRetired,
    ConnectionTerminated,
    ProtocolNegotiated,
)

from flowstream.server._applications import Applications
from flowstream.server._hypercorn import ConnectionState, RawData, UDPServer, parse_socket_addr
from flowstream.server.http3._http3 import HTTP3
from flowstream.server.http3._hypercorn_quic import QuicProtocol

_LARGEST = 1 << 16  # bytes of a datagram


class Datagrams(UDPServer):
    """Serves HTTP/3 on one socket."""

    async def run(  # noqa: ASYNC114  # as Hypercorn's, which is not started
        self, task_status: Any = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until the worker shuts down and the last connection has ended."""
        task_status.started()
        server = parse_socket_addr(self.socket.family, self.socket.getsockname())
        async with Applications(lambda: False) as applications:
            self.protocol = QuicConnections(
                self.app,
                self.config,
                self.context,
                applications,
                ConnectionState(dict(self.state)),
                server,
                self.protocol_send,
            )
            while not self.context.terminated.is_set() or not self.protocol.idle:
                data, address = await self.socket.recvfrom(_LARGEST)
                await self.protocol.handle(RawData(data=data, address=address))


class QuicConnections(QuicProtocol):
    """All QUIC connections of a socket."""

    async def _handle_events(self, connection: Any, client: Any = None) -> None:
        # Hypercorn's, except for the class, and for the end: applications are told before the timer
        # is stopped, since this may run in the timer's task.
        while (event := connection.quic.next_event()) is not None:
            if isinstance(event, ProtocolNegotiated):
                connection.h3 = HTTP3(
                    self.app,
                    self.config,
                    self.context,
                    self.task_group,
                    self.state,
                    client,
                    self.server,
                    connection.quic,
                    partial(self.send_all, connection),
                )
            elif isinstance(event, ConnectionIdIssued):
                connection.cids.add(event.connection_id)
                self.connections[event.connection_id] = connection
            elif isinstance(event, ConnectionIdRetired):
                connection.cids.discard(event.connection_id)
                self.connections.pop(event.connection_id, None)
            if connection.h3 is not None:
                await connection.h3.handle(event)
            if isinstance(event, ConnectionTerminated):
                for cid in connection.cids:
                    self.connections.pop(cid, None)
                connection.cids = set()
                await connection.task.stop()
        if connection.h3 is not None:
            connection.h3.check_kept()
        await self.send_all(connection)
