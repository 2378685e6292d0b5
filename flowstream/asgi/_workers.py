"""A word, once, to whoever serves a topic from several processes.

A topic is in the memory of one process. Under ``--workers`` each has its own, and a client gets
what is published in the one that happens to serve it: nothing fails, and most of it is missing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from typing import Any

from flowstream.asgi._carrier import WORKERS_KEY
from flowstream.asgi._live import in_state

logger = logging.getLogger("flowstream")


def warn_of_workers(scope: Mapping[str, Any]) -> None:
    """Warn, once in a process, if it is one of several that serve the app."""
    count = in_state(scope, WORKERS_KEY)
    if count is not None and count > 1:
        _warn(count)


@cache  # once
def _warn(count: int) -> None:
    logger.warning(
        "a topic or run is streamed by one of %d workers: what is published in one of them reaches "
        "only the clients of that one. Serve topics and runs with --workers 1",
        count,
    )
