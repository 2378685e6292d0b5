"""Whether a log is open: one task holds it, and all others use it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio


class LogRun:
    """What `Log.run` and `Log.aclose` have in common."""

    __slots__ = ("_closed", "_scope")

    def __init__(self) -> None:
        self._scope: trio.CancelScope | None = None
        self._closed = trio.Event()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Run the block until it ends, or `close` is called.

        An error that a task of the block raised comes out as it is, without a group around it.

        Raises:
            RuntimeError: another task holds the log.
        """
        if self._scope is not None:
            raise RuntimeError("the log is open already: one task runs it, and all others use it")
        self._closed = trio.Event()
        try:
            with trio.CancelScope() as self._scope:
                yield
        except BaseExceptionGroup as group:
            raise alone(group) from None
        finally:
            self._scope = None
            self._closed.set()

    async def close(self) -> None:
        """Cancel the block, and **wait** until it has ended."""
        closed = self._closed
        if self._scope is not None:
            self._scope.cancel()
            await closed.wait()
        await trio.lowlevel.checkpoint()


def alone(error: BaseException) -> BaseException:
    """Return the one error of a group that has no other; else the group."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def not_open() -> RuntimeError:
    """Return the error for a log that is used before it is open, or after."""
    return RuntimeError(
        "the log is not open: use it inside `async with open_log(...) as log`, or after "
        "`await nursery.start(log.run, hint, stale)`"
    )
