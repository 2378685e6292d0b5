"""Every piece of Hypercorn that flowstream is built on, in one place.

flowstream serves with Hypercorn's parts and replaces a few of them. Some of what it needs is
not documented as public, so a release of Hypercorn may change it. All of it is imported
here and nowhere else, and `check` compares it with what is expected before a server
starts: a changed piece is a clear error then, and not a strange one later.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config, Sockets
from hypercorn.events import Closed, RawData, Updated
from hypercorn.events import Event as TransportEvent
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.events import Body, Data, EndBody, EndData, Request, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h2 import BufferCompleteError, H2Protocol, StreamBuffer
from hypercorn.protocol.h11 import (
    H2CProtocolRequiredError,
    H2ProtocolAssumedError,
    H11Protocol,
    H11WSConnection,
)
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.protocol.ws_stream import ASGIWebsocketState, WSStream
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.statsd import StatsdLogger
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.udp_server import UDPServer
from hypercorn.trio.worker_context import EventWrapper, WorkerContext
from hypercorn.typing import ConnectionState, LifespanState
from hypercorn.utils import (
    LifespanFailureError,
    LifespanTimeoutError,
    check_for_updates,
    files_to_watch,
    filter_pseudo_headers,
    parse_socket_addr,
    repr_socket_addr,
)

__all__ = [
    "TRIED",
    "ASGIHTTPState",
    "ASGIWebsocketState",
    "ASGIWrapper",
    "Body",
    "BufferCompleteError",
    "Closed",
    "Config",
    "ConnectionState",
    "Data",
    "EndBody",
    "EndData",
    "EventWrapper",
    "H2CProtocolRequiredError",
    "H2Protocol",
    "H2ProtocolAssumedError",
    "H11Protocol",
    "H11WSConnection",
    "HTTPStream",
    "Lifespan",
    "LifespanFailureError",
    "LifespanState",
    "LifespanTimeoutError",
    "ProtocolWrapper",
    "RawData",
    "Request",
    "Sockets",
    "StatsdLogger",
    "StreamBuffer",
    "StreamClosed",
    "StreamEvent",
    "TCPServer",
    "TaskGroup",
    "TransportEvent",
    "UDPServer",
    "Updated",
    "WSStream",
    "WorkerContext",
    "check",
    "check_for_updates",
    "files_to_watch",
    "filter_pseudo_headers",
    "parse_socket_addr",
    "repr_socket_addr",
]

TRIED = ("0.18.0",)
"""The versions of Hypercorn that the tests have passed with."""

# What is called or overridden, and the parameters it is expected to have.
_EXPECTED: tuple[tuple[Callable[..., Any], tuple[str, ...]], ...] = (
    (TCPServer.__init__, ("self", "app", "config", "context", "state", "stream")),
    (TCPServer.run, ("self",)),
    (TCPServer.protocol_send, ("self", "event")),
    (TCPServer._read_data, ("self",)),
    (TCPServer._close, ("self",)),
    (TCPServer._idle_timeout, ("self",)),
    (TaskGroup.spawn_app, ("self", "app", "config", "scope", "send")),
    (
        ProtocolWrapper.__init__,
        (
            "self",
            "app",
            "config",
            "context",
            "task_group",
            "state",
            "ssl",
            "client",
            "server",
            "send",
            "alpn_protocol",
        ),
    ),
    (ProtocolWrapper.handle, ("self", "event")),
    (
        H2Protocol.__init__,
        (
            "self",
            "app",
            "config",
            "context",
            "task_group",
            "connection_state",
            "ssl",
            "client",
            "server",
            "send",
        ),
    ),
    (H11Protocol._create_stream, ("self", "request")),
    (H11Protocol._send_error_response, ("self", "status_code")),
    (WSStream.handle, ("self", "event")),
    (WSStream._send_error_response, ("self", "status_code")),
    (H2Protocol.initiate, ("self", "headers", "settings")),
    (H2Protocol.handle, ("self", "event")),
    (H2Protocol.stream_send, ("self", "event")),
    (H2Protocol._send_data, ("self", "stream_id")),
    (H2Protocol._handle_events, ("self", "events")),
    (H2Protocol._create_stream, ("self", "request")),
    (H2Protocol._close_stream, ("self", "stream_id")),
    (H2Protocol._flush, ("self",)),
    (StreamBuffer.__init__, ("self", "event_class")),
    (StreamBuffer.push, ("self", "data")),
    (StreamBuffer.pop, ("self", "max_length")),
    (StreamBuffer.close, ("self",)),
    (UDPServer.__init__, ("self", "app", "config", "context", "state", "socket")),
    (UDPServer.run, ("self", "task_status")),
    (Lifespan.__init__, ("self", "app", "config", "state")),
    (Lifespan.wait_for_startup, ("self",)),
    (Lifespan.wait_for_shutdown, ("self",)),
    (WorkerContext.__init__, ("self", "max_requests")),
)


def check() -> None:
    """Compare the installed Hypercorn with what flowstream expects of it.

    Raises:
        RuntimeError: a piece is not as expected; the message names it and the versions
            that were tried.
    """
    for function, expected in _EXPECTED:
        found = tuple(inspect.signature(function).parameters)
        if found != expected:
            raise RuntimeError(
                f"Hypercorn {version('hypercorn')}: {function.__qualname__} takes "
                f"({', '.join(found)}), and flowstream expects ({', '.join(expected)}). It was "
                f"tried with Hypercorn {', '.join(TRIED)}: install one of these"
            )
