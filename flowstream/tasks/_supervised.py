"""The supervised nursery: for tasks that outlive the request that started them.

The nursery of a request ends with the request, and a plain Trio nursery cancels all its tasks when
one fails. In this nursery each task fails alone: the failure is logged, and the others go on. The
app's lifespan opens it, so no task outlives the app. When it closes, it tells each job to stop, and
waits for it. Each job must bound how long that takes.

Jobs are told to stop, and not cancelled, because what they run is shielded: a producer is cancelled
once and may then clean up (see sources/_shielding.py).
"""

from __future__ import annotations

import contextvars
import logging
from types import TracebackType
from typing import Protocol

import trio

from flowstream._errors import asyncio_runs, other_event_loop
from flowstream.tasks._failure import explain_asyncio, passes

logger = logging.getLogger("flowstream")


class Job(Protocol):
    """One task of a supervised nursery."""

    name: str
    """The job's name in the log."""

    async def run(self) -> None:
        """Do the work; return soon after `shut_down` is called."""

    def shut_down(self) -> None:
        """Stop soon: the app is shutting down."""


class SupervisedNursery:
    """Runs jobs, each of which fails alone: an async context manager.

    When its block ends, also by an exception or a cancellation, it tells all jobs to stop, and
    **waits** for them. While it is open, `supervised_nursery` finds it, and inside its own block
    before any other.

    Args:
        owner: what else it is known by to those who find it; None if that is nothing.

    Attributes:
        owner: the same.
    """

    def __init__(self, owner: object = None) -> None:
        if not trio.lowlevel.in_trio_run():
            raise other_event_loop()
        self.owner: object = owner
        self._jobs: set[Job] = set()
        self._nursery: trio.Nursery | None = None
        self._manager = trio.open_nursery()
        self._closing = False
        self._around: SupervisedNursery | None = None

    async def __aenter__(self) -> SupervisedNursery:
        """Open it."""
        self._nursery = await self._manager.__aenter__()
        _open.set((*_open.get(), self))
        self._around = _own.get()
        _own.set(self)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Tell the jobs to stop, and **wait** for them."""
        self._closing = True
        _own.set(self._around)
        _open.set(tuple(nursery for nursery in _open.get() if nursery is not self))
        for job in list(self._jobs):
            job.shut_down()
        # Each job bounds how long it takes to stop.
        return await self._manager.__aexit__(kind, error, traceback)  # noqa: ASYNC102

    def start(self, job: Job) -> None:
        """Run `job` in a task of its own, with the context variables of the caller.

        Raises:
            RuntimeError: the nursery is not open.
        """
        if self._nursery is None or self._closing:
            raise RuntimeError("nothing can be started here any more: the app is shutting down")
        self._jobs.add(job)
        self._nursery.start_soon(self._run, job, name=f"flowstream {job.name}")

    async def _run(self, job: Job) -> None:
        try:
            await job.run()
        except BaseException as error:  # noqa: ASYNC103  # see `passes`
            if passes(error):
                raise
            explain_asyncio(error)
            logger.exception("%s failed", job.name)
        finally:
            self._jobs.discard(job)


def before_startup(what: str) -> RuntimeError:
    """Return the error for `what`, which needs a nursery but was called outside Trio."""
    if asyncio_runs():
        return other_event_loop()
    return RuntimeError(
        f"{what} was called where Trio does not run: call it when the app starts, in Quart's "
        "before_serving or in Starlette's lifespan, and not in a thread"
    )


def prefer(nursery: SupervisedNursery | None) -> SupervisedNursery | None:
    """Let this context use `nursery` from now on, and return the one before.

    None means the one opened last.

    One Trio run may serve several apps that end at different times. A task that a request starts
    belongs to the app that answers the request.
    """
    before = _own.get()
    _own.set(nursery)
    return before


def supervised_nursery() -> SupervisedNursery:
    """Return the nursery of this context; else the newest one that is open in this Trio run.

    Raises:
        RuntimeError: there is none.
    """
    if not trio.lowlevel.in_trio_run():
        raise other_event_loop()
    nursery = nursery_of_context()
    if nursery is None:
        raise RuntimeError(
            "there is no nursery to run this in: call Flowstream(app) when the app is made, and "
            "serve it with its lifespan; on Starlette and FastAPI, give the app "
            "lifespan=flowstream.starlette.lifespan; elsewhere, `async with Flowstream():` around "
            "what uses it"
        )
    return nursery


def nursery_of_context() -> SupervisedNursery | None:
    """Return what `supervised_nursery` does, or None if there is none.

    In a thread it is that of the task which started the thread.
    """
    own = _own.get()
    if own is not None:
        return own
    nurseries = _open.get() if trio.lowlevel.in_trio_run() else ()
    return nurseries[-1] if nurseries else None


_open: trio.lowlevel.RunVar[tuple[SupervisedNursery, ...]] = trio.lowlevel.RunVar(
    "flowstream supervised nurseries", ()
)
_own: contextvars.ContextVar[SupervisedNursery | None] = contextvars.ContextVar(
    "flowstream supervised nursery", default=None
)
