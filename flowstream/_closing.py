"""How a stream ends: one closed set of reasons, one report.

The wire, the log and a metric's label use the same word for a reason, so that a reason seen in one
can be found in the others.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class CloseReason(enum.StrEnum):
    """Why a stream ended. The first cause wins; its consequences change nothing.

    Each reason says who may set it, and what still goes out to the client. A stream that ends
    gracefully writes what is queued, and then a last event. A format without such events ends its
    body only for `COMPLETED`, and is cut for every other reason. An app may also end its topic for
    any of these reasons, with ``Topic.aclose(reason)``: gracefully, and with the event ``failed``
    if the reason has no event of its own.
    """

    COMPLETED = "completed"
    """The source ended and the last byte was handed to the server.

    Set by the stream itself, after the last byte. What is queued goes out, then ``end``, then the
    end of the body.
    """
    CLIENT_DISCONNECTED = "client_disconnected"
    """The client went away: it closed, reset or half-closed its connection.

    Set by the server that serves the stream, or when its ``send`` says so. Only the end of a body
    that was on its way still goes out. Not set for a client that leaves with the last byte of a
    response whose length it knows: it has everything.
    """
    SLOW_CONSUMER = "slow_consumer"
    """The policy disconnected the client: `Disconnect`, or `Block` past its timeout.

    Set by the client's buffer, for its policy. Only the status line goes out, if it is not out yet.
    flowstream's server resets the connection.
    """
    STALLED = "stalled"
    """One write made no progress for `Limits.stall_timeout` seconds, or the server's
    ``write_timeout``; `StreamReport.detail` says which.

    Set by the stream's watch or by flowstream's server. Nothing goes out. flowstream's server
    resets the connection.
    """
    MAX_DURATION = "max_duration"
    """The stream was open for `Limits.max_duration` seconds.

    Set by the stream's watch. What is queued goes out, then ``reconnect``.
    """
    MAX_BYTES = "max_bytes"
    """The next event would have passed `Limits.max_bytes`.

    Set by the stream, for its writer. What is queued does not go out: a gap says how many events
    that are, and ``failed`` follows.
    """
    RATE_LIMITED = "rate_limited"
    """The client exceeded its rate.

    Reserved: flowstream does not set it yet.
    """
    REFUSED = "refused"
    """The source was never opened: a HEAD, or a reconnect that gets a 204.

    Set by the response, before the stream begins. A response without a body goes out.
    """
    CANCELLED = "cancelled"
    """Something around the stream cancelled it, without saying why.

    Set by the code that runs the stream: its host at the end of the request, its watch, or
    flowstream's server when ``serve()`` is cancelled. Nothing goes out.
    """
    STOPPED = "stopped"
    """The app ended it, for good.

    Set by `StreamResponse.stop`, `Run.stop` or `Topics.revoke`. What is queued goes out, then
    ``end``.
    """
    SHUTDOWN = "shutdown"
    """The server is going down; the client may come back.

    Set by flowstream's server, and for a run by the end of its app. What is queued goes out, then
    ``reconnect``. What has not gone out after the server's ``graceful_timeout`` is cut.
    """
    ERROR = "error"
    """The producer failed, or made an item that cannot be encoded.

    Set by the producer, the topic or the run, or when the writer fails. What is queued goes out,
    then ``failed``. If the writer itself failed, nothing goes out.
    """


@dataclass(frozen=True, slots=True)
class StreamReport:
    """What one stream did, given once to `on_close` when it is over."""

    reason: CloseReason
    """Why it ended."""
    items: int
    """Events handed to the server, without flowstream's own (gap, end, ...)."""
    bytes: int
    """Body bytes handed to the server, flowstream's own included."""
    dropped: int
    """Events that the policy dropped, plus those left in the buffer at the end."""
    gaps: int
    """Runs of dropped events that the writer met. The client is told, if the format can say it."""
    duration: float
    """Seconds from the call of the response to its end."""
    first_byte: float | None
    """Seconds from the call to the first *item* handed over; None if there was none."""
    longest_wait: float
    """Seconds of the longest single wait of the writer in the server's `send`."""
    error: BaseException | None = None
    """The producer's exception when the reason is `error`; never sent to the client."""
    detail: str = ""
    """The bound or cause behind the reason, such as ``stall_timeout 10 s``; empty if the reason
    says everything. It names bounds, policies and types of errors, and never has anything that a
    client sent. Clients never get it."""
