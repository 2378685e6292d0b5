"""Serve an ASGI app with Hypercorn's Trio worker, set up for streams."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import hypercorn.trio
import trio
from hypercorn.config import Config


def streaming_config(**settings: Any) -> Config:
    """Return a Hypercorn configuration that suits streams.

    Hypercorn's own defaults, but for the backlog: 100 connections that wait to be accepted
    are few when a thousand browsers reconnect after a restart, so it is 2048 (the kernel
    caps it at ``net.core.somaxconn``). ``read_timeout`` and ``max_requests`` stay None:
    either would cut long streams.

    Args:
        settings: attributes of `hypercorn.config.Config` to set, by name.

    Raises:
        TypeError: Hypercorn has no such setting.
    """
    config = Config()
    config.backlog = 2048
    for name, value in settings.items():
        if not hasattr(config, name):
            raise TypeError(f"Hypercorn's configuration has no {name!r}")
        setattr(config, name, value)
    return config


async def serve(  # noqa: ASYNC128  # Hypercorn calls task_status.started()
    app: Any,
    config: Config | None = None,
    *,
    shutdown_trigger: Callable[[], Awaitable[None]] | None = None,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `app` inside a Trio program, until it is told to stop or cancelled.

    ``await nursery.start(flowstream.serve, app)`` returns the addresses once it listens.

    Args:
        app: an ASGI application: a Quart-Trio app, a Starlette app, or a function.
        config: Hypercorn's configuration; `streaming_config()` by default, which listens on
            127.0.0.1:8000.
        shutdown_trigger: an async function; the server shuts down when it returns.
        task_status: for ``nursery.start``.

    Raises:
        OSError: an address cannot be listened on.
    """
    await hypercorn.trio.serve(
        _with_lifespan(_with_closing_sends(app)),
        streaming_config() if config is None else config,
        shutdown_trigger=shutdown_trigger,
        task_status=task_status,
        mode="asgi",
    )


_Receive = Callable[[], Awaitable[Mapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def _with_closing_sends(app: Any) -> Any:
    """Return `app` with a ``send`` that can be called while its connection is being closed.

    Hypercorn 0.18 drops what is sent after a disconnect. But a client that goes away in the
    middle of its request's body has its connection closed before the app is told, and a
    ``send`` that meets this raises ``trio.BusyResourceError``. It is dropped, too.
    """

    async def serve_with_closing_sends(
        scope: Mapping[str, Any], receive: _Receive, send: _Send
    ) -> None:
        async def send_unless_closing(message: MutableMapping[str, Any]) -> None:
            with contextlib.suppress(trio.BusyResourceError):
                await send(message)

        await app(scope, receive, send_unless_closing)

    return serve_with_closing_sends


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
