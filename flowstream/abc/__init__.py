"""The interfaces that flowstream calls and that an app may implement.

`Encoder`, `Judge`, `Policy` and `Instrument` have a few methods without `await`. They take values
and return values. flowstream calls them in the event loop, so they must not block. A `Log` waits
for a disk or a server: write its methods with ``async def``.
"""

from __future__ import annotations

from flowstream._lazy import name_publicly
from flowstream.abc._abstract_log import Log
from flowstream.abc._encoder import Encoder
from flowstream.abc._instrument import Instrument
from flowstream.abc._log_values import (
    Appended,
    Head,
    Hint,
    LatestPage,
    Lease,
    LogEntry,
    OutboxStatement,
    ParameterStyle,
    Position,
    Record,
    Stale,
)
from flowstream.abc._policy import Judge, Policy, Verdict

__all__ = [
    "Appended",
    "Encoder",
    "Head",
    "Hint",
    "Instrument",
    "Judge",
    "LatestPage",
    "Lease",
    "Log",
    "LogEntry",
    "OutboxStatement",
    "ParameterStyle",
    "Policy",
    "Position",
    "Record",
    "Stale",
    "Verdict",
]

name_publicly(__name__, globals(), __all__)
