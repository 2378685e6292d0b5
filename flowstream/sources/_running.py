"""Run a source to its end, whatever it does: the task of a stream's producer, and of a run's."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from flowstream.buffer._outlet import Outlet
from flowstream.sources._shielding import run_cancelled_once
from flowstream.sources._source import Source
from flowstream.tasks._failure import explain_asyncio, split

logger = logging.getLogger("flowstream")


async def run_to_end(
    source: Source,
    out: Outlet,
    scope: trio.CancelScope,
    cleanup_timeout: float,
    *,
    name: str,
    failed: Callable[[BaseException], None],
) -> None:
    """Run `source` into `out`; once `scope` is cancelled, cancel it once and shield its cleanup.

    Args:
        source: what is run.
        out: where its items go.
        scope: a shielded scope, which this opens.
        cleanup_timeout: seconds that it may go on for after it was cancelled.
        name: for the log.
        failed: told what it failed with; that is not raised.

    Raises:
        BaseException: what is neither a failure nor a cancellation.
    """
    with scope:
        overrun = await run_cancelled_once(_run(source, out, failed), scope, cleanup_timeout)
        if overrun:
            logger.warning(
                "%s was cancelled again: its cleanup took longer than cleanup_timeout=%s seconds",
                name,
                cleanup_timeout,
            )


async def _run(source: Source, out: Outlet, failed: Callable[[BaseException], None]) -> None:
    try:
        await source.run(out)
    except BaseException as error:  # noqa: ASYNC103  # but for failures, which are told
        cancelled, failure = split(error)
        if failure is not None:
            explain_asyncio(failure)
            failed(failure)
        if cancelled is not None:
            raise cancelled from None  # noqa: ASYNC104  # the Cancelled in it
        if failure is None:
            raise
