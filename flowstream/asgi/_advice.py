"""A word, once in a process, to whoever serves streams in a way that loses something.

* With Hypercorn itself: streams work there, but for promises that only the server can keep.
  flowstream's server marks its Trio run, so it is known whatever middleware makes of a request's
  scope and ``send``. In a run without that mark the tasks are looked at: Hypercorn starts one for
  each request, and whatever an app starts for its response is below that one.
* A topic from several processes: it is in the memory of one. Under ``--workers`` each process has
  its own, and a client gets what is published in the one that happens to serve it. Nothing fails,
  and most of it is missing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from typing import Any

import trio

from flowstream.asgi._carrier import WORKERS_KEY
from flowstream.asgi._request import in_state

logger = logging.getLogger("flowstream")

_ours: trio.lowlevel.RunVar[bool] = trio.lowlevel.RunVar("flowstream's own server", default=False)


def mark_run() -> None:
    """Note that flowstream's server serves in this Trio run."""
    _ours.set(True)


def warn_on_plain_hypercorn() -> None:
    """Warn, once in a process, if the request at hand came by Hypercorn itself."""
    if not _plain_hypercorn.cache_info().currsize and not _ours.get() and _is_below_hypercorn():
        _plain_hypercorn()


@cache  # once
def _plain_hypercorn() -> None:
    logger.warning(
        "served by Hypercorn itself: a stalled client's socket stays open and holds up the "
        "shutdown, HTTP/2 takes in data without bound, and streams are cut at a shutdown "
        "without a farewell. `flowstream serve module:app` does without these faults"
    )


def _is_below_hypercorn() -> bool:
    """Return whether this task, or one that it descends from, is Hypercorn's."""
    task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
    while task is not None:
        if task.name.startswith("hypercorn."):
            return True
        nursery = task.parent_nursery
        task = None if nursery is None else nursery.parent_task
    return False


def warn_of_workers(scope: Mapping[str, Any]) -> None:
    """Warn, once in a process, if it is one of several that serve the app."""
    count = in_state(scope, WORKERS_KEY)
    if count is not None and count > 1:
        _several_workers(count)


@cache  # once
def _several_workers(count: int) -> None:
    logger.warning(
        "a topic or run is streamed by one of %d workers: what is published in one of them reaches "
        "only the clients of that one. Serve topics and runs with --workers 1",
        count,
    )
