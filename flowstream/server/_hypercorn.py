"""Every piece of Hypercorn that flowstream uses, in one place.

flowstream serves with Hypercorn's parts and replaces a few of them. Some of these parts are not
documented as public, so a release of Hypercorn may change them. They are imported here and nowhere
else. Before a server starts, `check` compares them with what is expected: a changed piece gives a
clear error at once, and not a strange one later. `check` also covers what flowstream uses of h11
and h2 beyond their documented interfaces.
"""

from __future__ import annotations

import dis
import inspect
from importlib.metadata import version
from typing import Any

TRIED = ("0.18.0",)
"""The versions of Hypercorn that the tests have passed with."""


def _unexpected(what: str, library: str = "Hypercorn") -> RuntimeError:
    return RuntimeError(
        f"{library} {version(library)}: {what}. flowstream was tried with Hypercorn "
        f"{', '.join(TRIED)}, h11 0.14 to 0.16 and h2 4.3 to 4.4: install one of these"
    )


try:
    from h2.connection import H2Connection
    from h2.frame_buffer import FrameBuffer
    from h2.stream import H2Stream
    from h11 import Connection as H11Connection
    from h11._receivebuffer import ReceiveBuffer
    from hypercorn.app_wrappers import ASGIWrapper
    from hypercorn.config import Config, Sockets
    from hypercorn.events import Closed, RawData, Updated
    from hypercorn.events import Event as TransportEvent
    from hypercorn.logging import AccessLogAtoms, Logger
    from hypercorn.protocol import ProtocolWrapper
    from hypercorn.protocol.events import (
        Body,
        Data,
        EndBody,
        EndData,
        Request,
        Response,
        StreamClosed,
    )
    from hypercorn.protocol.events import Event as StreamEvent
    from hypercorn.protocol.h2 import BufferCompleteError, H2Protocol, StreamBuffer
    from hypercorn.protocol.h11 import (
        H2ProtocolAssumedError,
        H11Protocol,
        H11WSConnection,
    )
    from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
    from hypercorn.protocol.ws_stream import ASGIWebsocketState, Handshake, WSStream
    from hypercorn.trio.lifespan import Lifespan
    from hypercorn.trio.statsd import StatsdLogger
    from hypercorn.trio.task_group import TaskGroup
    from hypercorn.trio.tcp_server import TCPServer
    from hypercorn.trio.udp_server import UDPServer
    from hypercorn.trio.worker_context import WorkerContext
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
except ImportError as error:
    raise _unexpected(str(error)) from error

__all__ = [
    "TRIED",
    "ASGIHTTPState",
    "ASGIWebsocketState",
    "ASGIWrapper",
    "AccessLogAtoms",
    "Body",
    "BufferCompleteError",
    "Closed",
    "Config",
    "ConnectionState",
    "Data",
    "EndBody",
    "EndData",
    "H2Protocol",
    "H2ProtocolAssumedError",
    "H11Protocol",
    "H11WSConnection",
    "HTTPStream",
    "Handshake",
    "Lifespan",
    "LifespanFailureError",
    "LifespanState",
    "LifespanTimeoutError",
    "Logger",
    "ProtocolWrapper",
    "RawData",
    "ReceiveBuffer",
    "Request",
    "Response",
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

_PROTOCOL = "app config context task_group {} ssl client server send"
_STREAM = "app config context task_group ssl client server send stream_id"

# Methods that are called or overridden, and the parameters that each should have.
_METHODS: dict[type, dict[str, str]] = {
    ASGIWrapper: {"__init__": "app"},
    Config: {
        "create_sockets": "",
        "create_ssl_context": "",
        "response_headers": "protocol",
        "set_statsd_logger_class": "statsd_logger",
    },
    Logger: {
        "__init__": "config",
        "access": "request response request_time",
        "atoms": "request response request_time",
    },
    AccessLogAtoms: {"__init__": "request response request_time"},
    Lifespan: {
        "__init__": "app config state",
        "handle_lifespan": "task_status",
        "wait_for_startup": "",
        "wait_for_shutdown": "",
        "asgi_send": "message",
    },
    WorkerContext: {"__init__": "max_requests", "mark_request": ""},
    TaskGroup: {
        "__init__": "",
        "__aenter__": "",
        "spawn": "func args",
        "spawn_app": "app config scope send",
    },
    TCPServer: {
        "__init__": "app config context state stream",
        "run": "",
        "protocol_send": "event",
        "_read_data": "",
        "_close": "",
        "_initiate_server_close": "",
    },
    UDPServer: {"__init__": "app config context state socket", "run": "task_status"},
    ProtocolWrapper: {
        "__init__": _PROTOCOL.format("state") + " alpn_protocol",
        "initiate": "",
        "handle": "event",
    },
    H11Protocol: {
        "__init__": _PROTOCOL.format("connection_state"),
        "initiate": "",
        "handle": "event",
        "stream_send": "event",
        "_check_protocol": "event",
        "_create_stream": "request",
        "_send_error_response": "status_code",
        "_send_h11_event": "event",
    },
    H11WSConnection: {"__init__": "h11_connection"},
    H2Protocol: {
        "__init__": _PROTOCOL.format("connection_state"),
        "initiate": "headers settings",
        "handle": "event",
        "stream_send": "event",
        "send_task": "",
        "_send_data": "stream_id",
        "_handle_events": "events",
        "_create_stream": "request",
        "_close_stream": "stream_id",
        "_window_updated": "stream_id",
        "_flush": "",
    },
    StreamBuffer: {
        "__init__": "event_class",
        "push": "data",
        "pop": "max_length",
        "drain": "",
        "set_complete": "",
        "close": "",
    },
    HTTPStream: {"__init__": _STREAM, "handle": "event", "app_send": "message"},
    WSStream: {
        "__init__": _STREAM,
        "handle": "event",
        "app_send": "message",
        "_accept": "message",
        "_handle_events": "",
        "_send_pings": "",
        "_send_wsproto_event": "event",
        "_send_error_response": "status_code",
    },
    RawData: {"__init__": "data address"},
    ReceiveBuffer: {"maybe_extract_next_line": "", "maybe_extract_lines": ""},
    Updated: {"__init__": "idle"},
    Request: {"__init__": "stream_id headers http_version method raw_path state"},
    Response: {"__init__": "stream_id headers status_code"},
    Body: {"__init__": "stream_id data"},
    Data: {"__init__": "stream_id data"},
    EndBody: {"__init__": "stream_id"},
    StreamClosed: {"__init__": "stream_id"},
    LifespanFailureError: {"__init__": "stage message"},
    LifespanTimeoutError: {"__init__": "stage"},
    Sockets: {"__init__": "secure_sockets insecure_sockets quic_sockets"},
}

_FUNCTIONS: dict[Any, str] = {
    check_for_updates: "files",
    files_to_watch: "",
    filter_pseudo_headers: "headers",
    parse_socket_addr: "family address",
    repr_socket_addr: "family address",
}

# Attributes that are read or set, on the class or on its instances.
_ATTRIBUTES: dict[type, str] = {
    ASGIHTTPState: "CLOSED",
    ASGIWebsocketState: "HANDSHAKE CONNECTED CLOSED HTTPCLOSED",
    Config: "backlog bind certfile errorlog graceful_timeout h11_pass_raw_headers "
    "h2_max_concurrent_streams keep_alive_max_requests keep_alive_timeout keyfile log "
    "max_app_queue_size max_requests max_requests_jitter quic_bind read_timeout "
    "shutdown_timeout ssl_handshake_timeout startup_timeout workers",
    Lifespan: "shutdown supported",
    WorkerContext: "event_class terminate terminated",
    TCPServer: "app config context state stream",
    Logger: "access_log_format access_logger error_logger",
    H11Protocol: "app client config connection connection_state context keep_alive_requests send "
    "server ssl stream task_group",
    H2Protocol: "app client closed config connection connection_state context has_data "
    "keep_alive_requests priority send server ssl stream_buffers streams task_group",
    H2ProtocolAssumedError: "data",
    StreamBuffer: "buffer _complete _is_empty _paused",
    H11Connection: "_receive_buffer",
    H2Connection: "_closed_streams _frame_dispatch_table decoder encoder highest_inbound_stream_id "
    "remote_settings streams",
    H2Stream: "_actual_content_length _expected_content_length _inbound_window_manager",
    FrameBuffer: "_headers_buffer",
    HTTPStream: "closed response scope send state stream_id",
    Handshake: "accepted extensions http_version key subprotocols",
    WSStream: "app_put closed config send state stream_id task_group",
}


def check() -> None:
    """Compare the installed Hypercorn with what flowstream expects.

    Raises:
        RuntimeError: a piece is different; the message names it, and the versions that were
            tried.
    """
    for owner, methods in _METHODS.items():
        for name, parameters in methods.items():
            method = getattr(owner, name, None)
            if method is None:
                raise _unexpected(f"{owner.__name__} has no {name}")
            _check_parameters(method, f"{owner.__name__}.{name}", f"self {parameters}")
    for function, parameters in _FUNCTIONS.items():
        _check_parameters(function, function.__name__, parameters)
    for owner, attributes in _ATTRIBUTES.items():
        missing = {*attributes.split()}.difference(dir(owner))
        # Disassembling costs a millisecond or more, and __init__ sets nearly all of them.
        for method in (vars(owner).get("__init__"), *vars(owner).values()):
            if missing:
                missing -= _set_by(method)
        for name in missing:
            library = owner.__module__.partition(".")[0]
            about = {"library": library} if library in ("h11", "h2") else {}
            raise _unexpected(f"{owner.__name__} has no {name}", **about)


def _set_by(method: Any) -> set[str]:
    """Return the attributes that a method sets on its instance."""
    if not inspect.isfunction(method):
        return set()
    return {step.argval for step in dis.get_instructions(method) if step.opname == "STORE_ATTR"}


def _check_parameters(function: Any, name: str, expected: str) -> None:
    found = tuple(inspect.signature(function).parameters)
    if found != tuple(expected.split()):
        raise _unexpected(
            f"{name} takes ({', '.join(found)}), where ({', '.join(expected.split())}) is expected"
        )
