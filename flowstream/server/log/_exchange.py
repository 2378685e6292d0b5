"""One request and its response, as Hypercorn serves it, with one line in the access log."""

from __future__ import annotations

from flowstream.server._hypercorn import HTTPStream
from flowstream.server.log._access_entry import Logged


class LoggedExchange(Logged, HTTPStream):
    """One that the access log tells of."""
