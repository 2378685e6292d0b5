"""Serve an ASGI app: start it, accept connections, and shut down in stages with a hard bound.

::

    told to stop ─► readyz 503 ─► (lame_duck) ─► stop accepting ─► streams say goodbye
                 ─► (graceful_timeout) ─► cancel and reset what is left ─► lifespan shutdown

Under Hypercorn's ``worker_serve`` streams are told nothing until they are cancelled, and a client
that reads nothing delays the end for as long as it likes.
"""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from flowstream._closing import CloseReason
from flowstream.asgi._advice import mark_run
from flowstream.asgi._carrier import WORKERS_KEY
from flowstream.server._connections import Connections
from flowstream.server._context import Context
from flowstream.server._http_connection import HTTPConnection
from flowstream.server._hypercorn import (
    Config,
    ConnectionState,
    LifespanFailureError,
    LifespanState,
    Sockets,
    StatsdLogger,
    check,
)
from flowstream.server._lifespan import AppLifespan
from flowstream.server._listening import (
    Listener,
    Transport,
    accept,
    make_listeners,
    open_sockets,
)
from flowstream.server._settings import ServerConfig, checked
from flowstream.server._trouble import Trouble
from flowstream.server.http3._quic import check_quic, serve_quic
from flowstream.server.log._access_log import AccessLog, StatsdAccessLog

logger = logging.getLogger("flowstream.server")

Trigger = Callable[[], Awaitable[object]]


async def serve(  # noqa: ASYNC128  # started() is called in `_Service.run`
    app: Any,
    config: Config | None = None,
    *,
    sockets: Sockets | None = None,
    shutdown_trigger: Trigger | None = None,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `app` inside a Trio program, until it is told to stop or cancelled.

    ``await nursery.start(flowstream.serve, app)`` returns the addresses once the server listens. If
    the server is told to stop before that, the app's startup is cancelled, and there are none.
    When `shutdown_trigger` returns, the server shuts down in stages: in at most ``lame_duck`` +
    ``graceful_timeout`` seconds and the time that the app's lifespan takes. When `serve` is
    cancelled, it ends at once. Cleanup that the app shields from cancellation is added to both.

    Args:
        app: an ASGI application: a Quart-Trio app, a Starlette app, or a function.
        config: a `ServerConfig`, or a configuration of Hypercorn's. The default is a
            `ServerConfig`, which listens on 127.0.0.1:8000.
        sockets: listening sockets to use instead of those that `config` describes. The log does not
            say where they listen.
        shutdown_trigger: an async function; the server shuts down when it returns.
        task_status: for ``nursery.start``.

    Raises:
        OSError: the server cannot listen on an address.
        RuntimeError: the installed Hypercorn is not as flowstream expects.
        LifespanFailureError, LifespanTimeoutError: Hypercorn's: the app's lifespan failed to
            start or to stop, or ended while the app was served, which shuts the server down.
        MissingExtraError: HTTP/3 is asked for, and its library is not installed.
        TypeError, ValueError: a setting has the wrong type or value.
    """
    check()
    mark_run()
    _warn_of_bare_quart(app)
    settings = ServerConfig() if config is None else checked(config)
    if settings.logger_class is AccessLog and settings.statsd_host is not None:
        settings.logger_class, settings._log = StatsdAccessLog, None
    settings.set_statsd_logger_class(StatsdLogger)
    if settings.quic_bind:
        check_quic()
    state: LifespanState = {WORKERS_KEY: settings.workers}
    lifespan = AppLifespan(app, settings, state)
    told = trio.Event()
    async with trio.open_nursery() as lifespan_nursery:
        if shutdown_trigger is not None:
            lifespan_nursery.start_soon(_tell, told, shutdown_trigger)
        if await _started(lifespan, lifespan_nursery, told):
            announce = sockets is None
            service = _Service(app, settings, state, lifespan)
            await service.run(sockets or open_sockets(settings), announce, told.wait, task_status)
            if service.lifespan_failed:
                raise LifespanFailureError("serving", "it ended; the log says why")
            await lifespan.wait_for_shutdown()
        else:
            logger.info("told to stop before the app had started: its startup is cancelled")
            task_status.started([])
        lifespan_nursery.cancel_scope.cancel()


async def _started(lifespan: AppLifespan, nursery: trio.Nursery, told: trio.Event) -> bool:
    """Start the app in `nursery`; return False if the server was told to stop before."""
    starting = trio.CancelScope()
    nursery.start_soon(_cancel, starting, told)
    with starting:
        await nursery.start(lifespan.handle_lifespan)
        await lifespan.wait_for_startup()
    return not starting.cancelled_caught


async def _tell(told: trio.Event, trigger: Trigger) -> None:
    await trigger()
    told.set()


async def _cancel(scope: trio.CancelScope, told: trio.Event) -> None:
    await told.wait()
    scope.cancel()


def _warn_of_bare_quart(app: Any) -> None:
    """Warn that a Quart app can't send streams, before its first view tries to."""
    quart_trio = sys.modules.get("quart_trio")
    if quart_trio is None or not isinstance(app, quart_trio.QuartTrio):
        return
    if "flowstream" not in app.extensions:
        logger.warning(
            "this Quart app has no Flowstream, so its views can't return streams: write "
            "`Flowstream(app)` where it is made (from flowstream.quart import Flowstream)"
        )


def _in_hypercorns_way(app: Any) -> Callable[..., Any]:
    """Wrap `app`: Hypercorn passes it two more arguments, for WSGI applications."""

    def call(scope: Any, receive: Any, send: Any, *_: Any) -> Any:
        return app(scope, receive, send)  # not awaited here: saves each request a frame

    return call


class Readiness:
    """ASGI middleware that answers one path: 200 until `stop`, 503 from then on.

    Args:
        app: the application inside.
        path: the path, or None for none.
    """

    def __init__(self, app: Any, path: str | None) -> None:
        self._app = app
        self._path = path
        self._ready = True

    def stop(self) -> None:
        """Answer from now on that the server is not ready."""
        self._ready = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer the path, or call the application."""
        if self._path is None or scope["type"] != "http" or scope["path"] != self._path:
            await self._app(scope, receive, send)
            return
        body = b"ready\n" if self._ready else b"shutting down\n"
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
        ]
        status = 200 if self._ready else 503
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})


class _Service:
    """One server at work: its listeners and its connections."""

    def __init__(
        self, app: Any, config: ServerConfig, state: LifespanState, lifespan: AppLifespan
    ) -> None:
        self._ready = Readiness(app, config.readyz)
        self._app = app if config.readyz is None else self._ready
        self._config = config
        self._state = state
        self._lifespan = lifespan
        self.lifespan_failed = False
        requests = config.max_requests
        if requests is not None:
            requests += random.randint(0, config.max_requests_jitter)
        self._context = Context(requests)
        self._connections = Connections(config)

    async def run(  # noqa: ASYNC114  # awaited, not started
        self,
        sockets: Sockets,
        announce: bool,
        shutdown_trigger: Trigger | None,
        task_status: trio.TaskStatus[list[str]],
    ) -> None:
        """Accept and serve until told to stop; return when the last connection has ended."""
        listeners, addresses = make_listeners(sockets, self._config)
        async with trio.open_nursery() as watches:
            watches.start_soon(self._connections.hangups.run)
            watches.start_soon(self._connections.idle.run)
            watches.start_soon(self._connections.budget.run)
            async with trio.open_nursery() as connections:
                self._connections.run_in(connections)
                try:
                    for address in addresses if announce else ():
                        await self._config.log.info(f"Running on {address} (CTRL + C to quit)")
                    for sock in sockets.quic_sockets:
                        connections.start_soon(
                            serve_quic, sock, self._app, self._config, self._context, self._state
                        )
                    task_status.started(addresses)
                    await self._accept(listeners, shutdown_trigger)
                    await self._context.terminated.set()
                    self._connections.say_goodbye()
                    watches.start_soon(  # it ends with `connections` at the latest
                        self._end_the_late,
                        connections,  # noqa: ASYNC111
                    )
                except BaseException:
                    # Otherwise shielded writes would delay the end.
                    self._connections.abort(CloseReason.CANCELLED, "")
                    raise
            watches.cancel_scope.cancel()

    async def _accept(self, listeners: list[Listener], trigger: Trigger | None) -> None:
        """Accept connections until told to stop."""
        app = _in_hypercorns_way(self._app)
        state = ConnectionState(self._state.copy())

        def serve(stream: Transport) -> None:
            made = HTTPConnection(
                self._connections, app, self._config, self._context, state, stream
            )
            self._connections.start(made.run)

        trouble = Trouble()
        async with trio.open_nursery() as nursery:
            for listener in listeners:
                nursery.start_soon(accept, listener, serve, trouble, self._connections.budget)
            await self._wait_to_be_told(trigger)
            self._ready.stop()
            await trio.sleep(self._config.lame_duck)
            nursery.cancel_scope.cancel()

    async def _wait_to_be_told(self, trigger: Trigger | None) -> None:
        async with trio.open_nursery() as nursery:

            async def wait(told: Trigger) -> None:
                await told()
                nursery.cancel_scope.cancel()

            nursery.start_soon(wait, self._context.terminate.wait)  # max_requests
            if self._lifespan.supported:
                nursery.start_soon(wait, self._lifespan_ends)
            if trigger is not None:
                nursery.start_soon(wait, trigger)

    async def _lifespan_ends(self) -> None:
        # The lifespan's resources are closed now, and in Quart every new task of the app fails.
        # Whatever is served from here on would fail, too.
        await self._lifespan.shutdown.wait()
        self.lifespan_failed = True
        logger.error("the app's lifespan ended while it was served: the server shuts down")

    async def _end_the_late(self, connections: trio.Nursery) -> None:
        """Reset the connections that have not ended in time, or are left when cancelled."""
        try:
            await trio.sleep(self._config.graceful_timeout)
            if count := len(self._connections):
                logger.warning("shutdown: %d connections are reset", count)
        finally:
            self._connections.abort()
            connections.cancel_scope.cancel()
