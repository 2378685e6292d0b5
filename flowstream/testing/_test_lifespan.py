"""Run an app's lifespan in a test: the server's side of the lifespan protocol."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import trio

from flowstream.tasks._failure import only
from flowstream.testing._scope import ASGIApp

_LIFESPAN_ANSWERS = {
    f"lifespan.{phase}.{outcome}": phase
    for phase in ("startup", "shutdown")
    for outcome in ("complete", "failed")
}


class _Lifespan:
    """The server's side of the lifespan protocol."""

    def __init__(self) -> None:
        self._answers: dict[str, Mapping[str, Any]] = {}  # by phase
        self._returned = False
        self._to_app, self._in_app = trio.open_memory_channel[dict[str, Any]](1)
        self._moved = trio.lowlevel.ParkingLot()

    async def run(self, app: ASGIApp, scope: dict[str, Any]) -> None:
        await app(scope, self._in_app.receive, self._send)
        self._returned = True
        self._moved.unpark_all()

    async def _send(self, message: Mapping[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        kind = message["type"]
        phase = _LIFESPAN_ANSWERS.get(kind)
        if phase is None:
            raise AssertionError(f"the app sent {kind!r} in its lifespan")
        if phase in self._answers:
            raise AssertionError(f"the app answered the {phase} a second time, by {kind!r}")
        self._answers[phase] = message
        self._moved.unpark_all()

    async def ask(self, phase: str, timeout: float) -> None:
        """Tell the app to start up or shut down, and **wait** for its answer."""
        with trio.move_on_after(timeout):
            await self._to_app.send({"type": f"lifespan.{phase}"})
            while phase not in self._answers and not self._returned:
                await self._moved.park()
        answer = self._answers.get(phase)
        if answer is None:
            why = "it returned" if self._returned else f"not in {timeout:g} s"
            raise AssertionError(f"the app gave no answer to the lifespan's {phase}: {why}")
        if answer["type"].endswith(".failed"):
            raise RuntimeError(f"the app's {phase} failed: {answer.get('message', '')}")

    async def wait_returned(self, timeout: float) -> None:
        with trio.move_on_after(timeout):
            while not self._returned:
                await self._moved.park()
        if not self._returned:
            raise AssertionError(f"the lifespan was still running {timeout:g} s after its end")


@asynccontextmanager
async def open_lifespan(
    app: ASGIApp, *, timeout: float = 60.0
) -> AsyncGenerator[dict[str, Any], None]:
    """Run the lifespan of `app`: startup before the block, shutdown after it.

    Yields the state that the app filled; pass it to `open_stream`. When the block fails, the app
    is cancelled and not shut down.

    Args:
        app: an ASGI application that runs on Trio.
        timeout: seconds on Trio's clock for each: the startup, the shutdown, the return.

    Raises:
        RuntimeError: the app answers that its startup or its shutdown failed.
        AssertionError: it gives no answer or two, or does not return after the last one.
    """
    lifespan = _Lifespan()
    state: dict[str, Any] = {}
    scope = {
        "type": "lifespan",
        "asgi": {"version": "3.0", "spec_version": "2.0"},
        "state": state,
    }
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lifespan.run, app, scope, name="ASGI lifespan")
            try:
                await lifespan.ask("startup", timeout)
                yield state
                await lifespan.ask("shutdown", timeout)
                await lifespan.wait_returned(timeout)
            except BaseException:
                nursery.cancel_scope.cancel()
                raise
    except BaseExceptionGroup as group:
        failure = only(group)
    if failure is not None:
        raise failure
