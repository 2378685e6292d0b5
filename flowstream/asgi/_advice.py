"""Warn about two ways to serve streams that lose something, each once in a process.

* **Plain Hypercorn.** Streams work there, but it does not keep the promises that only a server can
  keep. flowstream's server marks its Trio run, so it is recognised even if middleware replaces a
  request's scope and ``send``. In a run without the mark, look at the tasks: Hypercorn starts one
  for each request, and every task that an app starts for its response is below that one.
* **A topic in several processes.** A topic is in the memory of one process. Under ``--workers``
  each process has its own, and a client gets only what is published in the process that serves it.
  Nothing fails, but the client misses most events. A topic in a durable log is shared by all.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from typing import Any

import trio

from flowstream.asgi._carrier import WORKERS_KEY
from flowstream.asgi._request import in_state
from flowstream.sources._feed import Feed

logger = logging.getLogger("flowstream")

_ours: trio.lowlevel.RunVar[bool] = trio.lowlevel.RunVar("flowstream's own server", default=False)


def mark_run() -> None:
    """Note that flowstream's server serves in this Trio run."""
    _ours.set(True)


def warn_on_plain_hypercorn() -> None:
    """Warn, once in a process, if plain Hypercorn serves the current request."""
    if not _plain_hypercorn.cache_info().currsize and not _ours.get() and _is_below_hypercorn():
        _plain_hypercorn()


@cache  # once
def _plain_hypercorn() -> None:
    logger.warning(
        "served by Hypercorn itself: a stalled client's socket stays open and holds up the "
        "shutdown, HTTP/2 takes in data without bound, and streams are cut at a shutdown "
        "without a last event. `flowstream serve module:app` has none of these faults"
    )


def _is_below_hypercorn() -> bool:
    """Return whether this task, or one above it, is Hypercorn's."""
    task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
    while task is not None:
        if task.name.startswith("hypercorn."):
            return True
        nursery = task.parent_nursery
        task = None if nursery is None else nursery.parent_task
    return False


def warn_of_workers(scope: Mapping[str, Any], feed: Feed) -> None:
    """Warn, once in a process, if several processes serve the app, and each its own `feed`."""
    count = in_state(scope, WORKERS_KEY)
    if count is not None and count > 1 and not feed.is_shared:
        _several_workers(count)


@cache  # once
def _several_workers(count: int) -> None:
    logger.warning(
        "a topic or run is streamed by one of %d workers: what is published in one of them reaches "
        "only the clients of that one. Give the app a log, Flowstream(app, log=...), which topics "
        "share; serve runs with --workers 1",
        count,
    )
