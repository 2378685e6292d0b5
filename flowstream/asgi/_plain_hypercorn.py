"""A word, once, to whoever serves streams with Hypercorn itself.

They work there, but for promises that only the server can keep. flowstream's server marks its Trio
run, so it is known whatever middleware makes of a request's scope and ``send``. In a run without
that mark the tasks are looked at: Hypercorn starts one for each request, and whatever an app starts
for its response is below that one.
"""

from __future__ import annotations

import logging
from functools import cache

import trio

logger = logging.getLogger("flowstream")

_ours: trio.lowlevel.RunVar[bool] = trio.lowlevel.RunVar("flowstream's own server", default=False)


def mark_run() -> None:
    """Note that flowstream's server serves in this Trio run."""
    _ours.set(True)


def warn_on_plain_hypercorn() -> None:
    """Warn, once in a process, if the request at hand came by Hypercorn itself."""
    if not _warn.cache_info().currsize and not _ours.get() and _is_below_hypercorn():
        _warn()


@cache  # once
def _warn() -> None:
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
