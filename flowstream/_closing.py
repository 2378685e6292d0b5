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
    """Why a stream ended. The first cause wins; what follows from it changes nothing."""

    COMPLETED = "completed"
    """The source ended and the last byte was handed to the server."""
    CLIENT_DISCONNECTED = "client_disconnected"
    """The client went away: it closed, reset or half-closed its connection."""
    SLOW_CONSUMER = "slow_consumer"
    """The policy disconnected the client: `Disconnect`, or `Block` past its timeout."""
    STALLED = "stalled"
    """One write made no progress for `Limits.stall_timeout` seconds, or the server's
    ``write_timeout``; `StreamReport.detail` says which."""
    MAX_DURATION = "max_duration"
    """The stream was open for `Limits.max_duration` seconds."""
    MAX_BYTES = "max_bytes"
    """The next event would have passed `Limits.max_bytes`."""
    RATE_LIMITED = "rate_limited"
    """The client exceeded its rate."""
    REFUSED = "refused"
    """The source was never opened: a HEAD, or a reconnect that gets a 204."""
    CANCELLED = "cancelled"
    """Something around the stream cancelled it, without saying why."""
    STOPPED = "stopped"
    """The app ended it, for good."""
    SHUTDOWN = "shutdown"
    """The server is going down; the client may come back."""
    ERROR = "error"
    """The producer failed, or made an item that cannot be encoded."""


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
