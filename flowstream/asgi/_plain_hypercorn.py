"""A word, once, to whoever serves streams with Hypercorn itself.

They work there, but for promises that only the server can keep. Hypercorn is known by the
``send`` that it hands to an application, below whatever middleware has put around it.
"""

from __future__ import annotations

import logging
from functools import cache
from types import MethodType
from typing import Any

from flowstream.asgi._between import layers

logger = logging.getLogger("flowstream")


def warn_on_plain_hypercorn(send: Any) -> None:
    """Warn, once in a process, if `send` is Hypercorn's and not that of flowstream's server."""
    if not _warn.cache_info().currsize and _is_plain_hypercorn(send):
        _warn()


@cache  # once
def _warn() -> None:
    logger.warning(
        "served by Hypercorn itself: a stalled client's socket stays open and holds up the "
        "shutdown, HTTP/2 takes in data without bound, and streams are cut at a shutdown "
        "without a farewell. `flowstream serve module:app` does without these faults"
    )


def _is_plain_hypercorn(send: Any) -> bool:
    for function in layers(send):
        module = getattr(function, "__module__", None) or ""
        if module.startswith("flowstream.server."):
            return False
        if isinstance(function, MethodType):
            owner = type(function.__self__)
            if owner.__module__.startswith("hypercorn."):
                return True
    return False
