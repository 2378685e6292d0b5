"""How a stream ends: one closed set of reasons, one report.

The wire, the log and a metric's label use the same word for a reason, so that you can find in one
what you saw in another.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

# The ids that flowstream's own last events carry: the stream they end is over for good.
FINAL_ID = re.compile(r"[0-9a-z]{1,32}\.(?:end|failed)\Z")


class CloseReason(enum.StrEnum):
    """Why a stream ended. The first cause wins; what follows from it changes nothing.

    Each reason says here who may set it, and what still goes out to the client. A gracefully ended
    stream writes what is queued and then a last event; a format without such events ends its body
    for `COMPLETED` alone, and is cut for every other reason. An app may also end its topic for any
    of these reasons, with ``Topic.aclose(reason)``: gracefully, with the event ``failed`` for those
    that have no event of their own.
    """

    COMPLETED = "completed"
    """The source ended and the last byte was handed to the server.

    Set by the stream itself, behind the last byte. What is queued goes out, ``end``, and the end of
    the body.
    """
    CLIENT_DISCONNECTED = "client_disconnected"
    """The client went away: it closed, reset or half-closed its connection.

    Set by the server that serves the stream, or when its ``send`` says so. Nothing goes out but the
    end of a body that was on its way. Not set for a client that leaves with the last byte of a
    response whose length it knows: it has everything.
    """
    SLOW_CONSUMER = "slow_consumer"
    """The policy disconnected the client: `Disconnect`, or `Block` past its timeout.

    Set by the client's buffer, for its policy. Nothing goes out but the status line, if that is not
    out yet; under flowstream's server the connection is reset.
    """
    STALLED = "stalled"
    """One write made no progress for `Limits.stall_timeout` seconds, or the server's
    ``write_timeout``; `StreamReport.detail` says which.

    Set by the stream's watch or by flowstream's server. Nothing goes out; under that server the
    connection is reset.
    """
    MAX_DURATION = "max_duration"
    """The stream was open for `Limits.max_duration` seconds.

    Set by the stream's watch. What is queued goes out, and ``reconnect``.
    """
    MAX_BYTES = "max_bytes"
    """The next event would have passed `Limits.max_bytes`.

    Set by the stream, for its writer. What is queued does not go out: a gap says how much that is,
    and ``failed`` follows.
    """
    RATE_LIMITED = "rate_limited"
    """The client exceeded its rate.

    Reserved: nothing of flowstream's sets it yet.
    """
    REFUSED = "refused"
    """The source was never opened: a HEAD, or a reconnect that gets a 204.

    Set by the response, before the stream begins. A response without a body goes out.
    """
    CANCELLED = "cancelled"
    """Something around the stream cancelled it, without saying why.

    Set by what runs the stream: its host at the end of the request, its watch, flowstream's server
    when ``serve()`` is cancelled. Nothing goes out.
    """
    STOPPED = "stopped"
    """The app ended it, for good.

    Set by `StreamResponse.stop`, `Run.stop`, `Topics.revoke`. What is queued goes out, and ``end``.
    """
    SHUTDOWN = "shutdown"
    """The server is going down; the client may come back.

    Set by flowstream's server, and for a run by the end of its app. What is queued goes out, and
    ``reconnect``. What has not gone out after the server's ``graceful_timeout`` is cut.
    """
    ERROR = "error"
    """The producer failed, or made an item that cannot be encoded.

    Set by the producer, the topic or the run, or when the writer fails. What is queued goes out,
    and ``failed``; nothing does if the writer itself has failed.
    """


@dataclass(frozen=True, slots=True)
class StreamReport:
    """What one stream did, given once to `on_close` when it is over."""

    reason: CloseReason
    """Why it ended."""
    items: int
    """Events handed to the server; flowstream's own (gap, end, ...) not counted."""
    bytes: int
    """Body bytes handed to the server, flowstream's own included."""
    dropped: int
    """Events that the policy dropped, plus those left in the buffer at the end."""
    gaps: int
    """Runs of dropped events that the writer met; announced to the client if the format can."""
    duration: float
    """Seconds from the call of the response to its end."""
    first_byte: float | None
    """Seconds from the call to the first *item* handed over; None if there was none."""
    longest_wait: float
    """Seconds of the longest single wait of the writer in the server's `send`."""
    error: BaseException | None = None
    """The producer's exception when the reason is `error`; never sent to the client."""
    detail: str = ""
    """Which bound or cause led to the reason, such as ``stall_timeout 10 s``; empty if the
    reason says everything. It names bounds, policies and types of errors, and never anything
    that a client sent. Clients never get it."""
