"""Run a source to its end, whatever it does, as the producer of a stream or of a run."""

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
        source: the source.
        out: where its items go.
        scope: a shielded scope, which this enters.
        cleanup_timeout: seconds that the source may go on after it was cancelled.
        name: its name in the log.
        failed: called with its failure, which is not raised.

    Raises:
        BaseException: anything that is neither a failure nor a cancellation.
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
    except BaseException as error:  # noqa: ASYNC103  # failures are reported, all else is raised
        cancelled, failure = split(error)
        if failure is not None:
            explain_asyncio(failure)
            failed(failure)
        if cancelled is not None:
            raise cancelled from None  # noqa: ASYNC104  # the Cancelled in it
        if failure is None:
            raise
