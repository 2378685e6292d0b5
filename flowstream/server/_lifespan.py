"""The app's lifespan: Hypercorn's, also for apps that return from it early."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from flowstream.server._hypercorn import ASGIWrapper, Lifespan, LifespanTimeoutError
from flowstream.server._settings import ServerConfig

_Receive = Callable[[], Awaitable[Mapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class AppLifespan(Lifespan):
    """The lifespan of `app`.

    Attributes:
        shutdown: set when it has ended, told to or not.
        supported: False if it raised.
    """

    def __init__(self, app: Any, config: ServerConfig, state: Any) -> None:
        super().__init__(ASGIWrapper(_with_lifespan(app)), config, state)

    async def wait_for_shutdown(self) -> None:
        """Tell the app of the shutdown, and wait until it is ready for it.

        Raises:
            LifespanTimeoutError: it took longer than ``shutdown_timeout``.
        """
        try:
            await super().wait_for_shutdown()
        except LifespanTimeoutError:
            raise LifespanTimeoutError("shutdown") from None  # Hypercorn speaks of the startup


def _with_lifespan(app: Any) -> Any:
    """Return `app` with the rest of the lifespan protocol, should it return from it early.

    An app that has nothing to start is often written as ``if scope["type"] != "http": return``.
    Hypercorn 0.18 crashes on it, while it starts or while it stops.
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
            await send(message)

        await app(scope, receive_and_note, send_and_note)
        for phase in ("lifespan.startup", "lifespan.shutdown"):
            if phase not in asked:
                await receive()
            if phase not in answered:
                await send({"type": f"{phase}.complete"})

    return serve_with_lifespan
