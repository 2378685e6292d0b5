"""Run the app's lifespan with Hypercorn's class, and mend apps that return from it early."""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import trio

from flowstream._errors import LogUnavailableError
from flowstream.server._hypercorn import (
    ASGIWrapper,
    Lifespan,
    LifespanFailureError,
    LifespanTimeoutError,
)
from flowstream.server._settings import ServerConfig
from flowstream.tasks._failure import ASYNCIO_HINT, first_of, passes, wants_asyncio

logger = logging.getLogger("flowstream.server")

_Receive = Callable[[], Awaitable[Mapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class AppLifespan(Lifespan):
    """The lifespan of `app`.

    Attributes:
        shutdown: set when the lifespan has ended, whether it was told to or not.
        supported: False if the lifespan raised.
    """

    def __init__(self, app: Any, config: ServerConfig, state: Any) -> None:
        super().__init__(ASGIWrapper(_with_lifespan(app)), config, state)
        self._failed = False

    async def wait_for_startup(self) -> None:
        """Tell the app to start, and **wait** until it has. Never returns if it says it failed.

        Raises:
            LifespanTimeoutError: the startup took longer than ``startup_timeout``.
        """
        await super().wait_for_startup()
        if self._failed:
            # `handle_lifespan` raises next, and cancels this. Hypercorn ends the wait before
            # that, so a server that went on here would first say that it is ready.
            await trio.sleep_forever()

    async def asgi_send(self, message: Any) -> None:
        """Take a message of the app."""
        if message["type"].endswith(".failed"):
            self._failed = True
            said = str(message.get("message", ""))
            if wants_asyncio(said):
                message = {**message, "message": f"{said}\n{ASYNCIO_HINT}"}
        await super().asgi_send(message)

    async def wait_for_shutdown(self) -> None:
        """Tell the app to shut down, and **wait** until it has.

        Raises:
            LifespanTimeoutError: the shutdown took longer than ``shutdown_timeout``.
        """
        try:
            await super().wait_for_shutdown()
        except LifespanTimeoutError:
            raise LifespanTimeoutError("shutdown") from None  # Hypercorn's says "startup"


def _with_lifespan(app: Any) -> Any:
    """Wrap `app`: if it returns early from the lifespan, complete the protocol for it.

    An app that has nothing to start often begins with ``if scope["type"] != "http": return``.
    Hypercorn 0.18 crashes on that, as it starts or as it stops.
    """

    async def serve_with_lifespan(scope: Mapping[str, Any], receive: _Receive, send: _Send) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        asked: set[str] = set()
        answered: set[str] = set()

        async def receive_and_note() -> Mapping[str, Any]:
            message = await receive()
            asked.add(message["type"])
            return message

        async def send_and_note(message: MutableMapping[str, Any]) -> None:
            answered.add(message["type"].rpartition(".")[0])
            error = sys.exc_info()[1]  # that which the app reports, perhaps with its traceback
            if message["type"].endswith(".failed") and isinstance(error, LogUnavailableError):
                message = {**message, "message": str(error)}
            await send(message)

        try:
            await app(scope, receive_and_note, send_and_note)
        except LifespanFailureError:  # from `send`: the app has said itself what is wrong
            raise
        except Exception as error:
            # Hypercorn takes this for an app without a lifespan, which is fine.
            if wants_asyncio(str(first_of(error))):
                logger.warning("the app's lifespan failed: %s. %s", first_of(error), ASYNCIO_HINT)
            raise
        except BaseException as error:  # noqa: ASYNC103  # see `passes`
            if passes(error):
                raise
            # Unlike an Exception, this can't mean that the app has no lifespan.
            logger.error("the app's lifespan failed", exc_info=error)
            first = first_of(error)
            message = f"{type(first).__name__}: {first}"
            phase = "shutdown" if "lifespan.startup" in answered else "startup"
            if f"lifespan.{phase}" in answered:
                told = RuntimeError(f"the app's lifespan failed: {message}")
                raise told from error  # noqa: ASYNC104  # see `passes`
            if f"lifespan.{phase}" not in asked:
                await receive()  # noqa: ASYNC102  # nothing is cancelled: see `passes`
            await send({"type": f"lifespan.{phase}.failed", "message": message})  # noqa: ASYNC102
            return  # noqa: ASYNC104  # see `passes`
        for phase in ("lifespan.startup", "lifespan.shutdown"):
            if phase not in asked:
                await receive()
            if phase not in answered:
                await send({"type": f"{phase}.complete"})

    return serve_with_lifespan
