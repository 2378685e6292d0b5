"""The Quart-Trio extension: a view returns a stream as it returns any other response.

Quart sends a response after it has left the request's context, stops any response after
``RESPONSE_TIMEOUT`` (60 s), and cancels a request's tasks when the client disconnects. None
of that suits a stream. `Flowstream(app)` replaces some of Quart's functions. Each does something
only if the app answers with a `StreamResponse`:

* ``preprocess_request`` and ``dispatch_request``: a stream with ``prime=`` begins here, where an
  error of its producer goes through the app's error handlers.
* ``make_response``: the stream becomes a Quart response. ``after_request`` functions may change
  its status, headers and cookies.
* ``finalize_request``: the stream is delivered here, after these functions and still inside the
  request's context. So ``request``, ``session`` and ``g`` work in a producer, and teardown
  functions run after the last byte. Quart calls this for a view's answer, and for that of a handler
  of unhandled exceptions.
* ``full_dispatch_request``: a primed stream ends here if the app sends another response.

It also replaces:

* ``json.loads``: a body that is nested too deep is the client's fault.
* ``create_url_adapter``: requests with the same first line and host share an adapter.
* ``startup`` and ``shutdown``: the log and the nursery for runs are open from before the first of
  the app's own functions. The log is closed after the last one.
* the lifespan class: refuses to start under asyncio, with a clear sentence.
* the connection class: tells the stream of a disconnect and does not cancel around it. It lets a
  stream outlive its request's context if nobody can notice.

Quart 0.23 gives these functions other arguments than 0.22. They are passed on unchanged.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, cast

import trio
from quart import Response as QuartResponse
from quart import has_request_context, request, websocket
from quart_trio import QuartTrio
from werkzeug.exceptions import BadRequest, Forbidden, HTTPException, ServiceUnavailable

from flowstream._errors import PublicError, other_event_loop
from flowstream.abc import Log
from flowstream.asgi._early_answer import answer_to
from flowstream.asgi.receive import Receive, Send
from flowstream.asgi.response import StreamResponse, exchange_of
from flowstream.quart._connection_class import connection_class
from flowstream.quart._host import HOST, AppTally, Hosted, host_of_request
from flowstream.quart._internals import handle_http_exception
from flowstream.quart._requests import sharing_adapters
from flowstream.tasks._failure import passes
from flowstream.tasks._supervised import SupervisedNursery, prefer
from flowstream.topics._app_log import AppLog
from flowstream.topics.topics import NotAuthorizedError, TooManyTopicsError, TopicNameError

__all__ = ["Flowstream", "FlowstreamStatistics"]


@dataclass(frozen=True, slots=True)
class FlowstreamStatistics:
    """One app's streams at one moment."""

    open: int
    """Streams that run now."""
    closed: Mapping[str, int]
    """Streams that have ended since the app was made, by close reason."""
    left: int = 0
    """Open streams that have outlived their request's context. Each takes 8 KB less."""


class Flowstream:
    """Lets the views of a Quart-Trio app return streams, and lets runs outlive their requests.

    Outside Quart use ``async with Flowstream():`` around the server, for runs and for topics that
    are in a log.

    The log is open from before the app's ``before_serving`` functions until after its
    ``after_serving`` functions. If it can't be opened, the app does not start.

    Args:
        app: the app; or None, to call `init_app` later.
        direct: the default of `stream(direct=...)` for all streams of the app.
        log: where the app's topics keep their events: a log such as ``SQLiteLog("events.db")``, or
            a URL such as ``"sqlite:///events.db"``. None for the URL in ``FLOWSTREAM_LOG_URL``,
            read when the app starts. Without that, or with `MemoryLog()`, they are in memory.
        namespace: goes before the names of topics in the log, so that several apps may share it:
            up to 64 letters, digits, ``-``, ``_`` and ``.``. None for the one in
            ``FLOWSTREAM_LOG_NAMESPACE``, if that is set.

    Raises:
        TypeError: `app` is not a Quart-Trio app, `direct` is not a bool, or `log` or `namespace`
            is of another type.
        ValueError: `log` is no URL of a log, or `namespace` has other characters.
    """

    def __init__(
        self,
        app: QuartTrio | None = None,
        *,
        direct: bool | None = None,
        log: Log | str | None = None,
        namespace: str | None = None,
    ) -> None:
        if direct is not None and not isinstance(direct, bool):
            raise TypeError(f"direct must be True, False or None, not {direct!r}")
        self._direct = direct
        self._tally = AppTally()
        self._log = AppLog(log, namespace)
        # Opened by `async with`.
        self._outside: AbstractAsyncContextManager[SupervisedNursery] | None = None
        self._inside: SupervisedNursery | None = None  # open while the app is served
        if app is not None:
            self.init_app(app)

    def init_app(self, app: QuartTrio) -> None:
        """Set up `app`. For an app factory.

        Raises:
            TypeError: `app` is not a Quart-Trio app.
            RuntimeError: `app` was set up before.
        """
        if not isinstance(app, QuartTrio):
            raise TypeError(f"expected a QuartTrio app, not a {type(app).__name__}")
        if "flowstream" in app.extensions:
            raise RuntimeError("this app has a Flowstream already")
        app.extensions["flowstream"] = self
        # Quart calls these by name on the app, so it is enough to set them on the instance. They
        # call those of the app's own class.
        patched = cast(Any, app)
        patched.preprocess_request = _priming(app.preprocess_request)
        patched.dispatch_request = _priming(app.dispatch_request)
        patched.make_response = _converting(app.make_response)
        patched.finalize_request = _delivering(app.finalize_request)
        patched.full_dispatch_request = _finishing(app.full_dispatch_request)
        patched.add_background_task = _contained(app)
        if type(app).create_url_adapter is QuartTrio.create_url_adapter:
            patched.create_url_adapter = sharing_adapters(app, app.create_url_adapter)
        ours = {name: vars(app)[name] for name in ("full_dispatch_request", "finalize_request")}
        patched.asgi_http_class = connection_class(
            app.asgi_http_class, ours, self._tally, lambda: self._inside, direct=self._direct
        )
        patched.asgi_lifespan_class = _lifespan_class(app.asgi_lifespan_class)

        patched.json.loads = _refusing_depth(app.json.loads)
        self._keep_open_while_serving(app)
        handlers = app.error_handler_spec[None][None]
        for error, status in _STATUS.items():
            handlers.setdefault(error, _answering(app, status))
        handlers.setdefault(PublicError, _answer_publicly)

    async def __aenter__(self) -> Flowstream:
        """Open the log, and the nursery that runs need, where there is no lifespan of a Quart app.

        Raises:
            LogUnavailableError: the log can't be opened.
        """
        if self._outside is not None:
            raise RuntimeError("this Flowstream is open already")
        outside = self._log.serving()
        await outside.__aenter__()
        self._outside = outside
        return self

    async def __aexit__(self, *raised: Any) -> bool | None:
        """Tell its tasks to stop, **wait** for them, and close the log."""
        outside, self._outside = self._outside, None
        assert outside is not None
        return await outside.__aexit__(*raised)  # noqa: ASYNC102  # it is bounded

    def statistics(self) -> FlowstreamStatistics:
        """Return how many streams run, and how the earlier ones ended."""
        tally = self._tally
        return FlowstreamStatistics(tally.open, dict(tally.closed), tally.left)

    def _keep_open_while_serving(self, app: QuartTrio) -> None:
        """Keep the log and a supervised nursery open from the startup of `app` to its shutdown."""
        stages: list[_Stage] = []
        around: SupervisedNursery | None = None
        start_up, shut_down = app.startup, app.shutdown

        # ASYNC114 wants functions with a task_status to be listed; this one is used only below.
        async def keep_open(  # noqa: ASYNC114
            jobs: _Stage, log: _Stage, task_status: trio.TaskStatus[SupervisedNursery]
        ) -> None:
            try:
                async with self._log.open() as opened:
                    try:
                        async with SupervisedNursery(opened) as self._inside:
                            task_status.started(self._inside)
                            await jobs.told.wait()
                    finally:
                        self._inside = None
                        jobs.over.set()
                    await log.told.wait()
            finally:
                jobs.over.set()  # also if there never were any
                log.over.set()

        # In a task of its own, and not around a `yield` of `while_serving`: Quart does not end such
        # generators in the order that nurseries need. Around Quart's `startup`, which would log
        # the traceback of a log that can't be opened.
        async def startup() -> None:
            nonlocal around
            jobs, log = stages[:] = _Stage(), _Stage()
            around = prefer(await app.nursery.start(keep_open, jobs, log))
            await start_up()

        async def shutdown() -> None:
            try:
                await shut_down()
            finally:
                prefer(around)
                for stage in stages:
                    await stage.end()  # noqa: ASYNC102  # if this is cancelled, so is the task

        @app.after_serving
        async def end_jobs() -> None:
            await stages[0].end()

        patched = cast(Any, app)
        patched.startup, patched.shutdown = startup, shutdown


class _Stage:
    """Something that stays open until it is told to close."""

    def __init__(self) -> None:
        self.told = trio.Event()
        self.over = trio.Event()

    async def end(self) -> None:
        """Tell it to close, and **wait** until it has."""
        self.told.set()
        await self.over.wait()


def _refusing_depth(loads: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `loads`, so that it raises `ValueError` for JSON nested deeper than Python can read.

    Python's parser raises `RecursionError` for that; a few kilobytes of ``[`` are enough. Quart
    answers a `ValueError` with 400, and any other exception with 500 and a traceback in the log.
    """

    def loads_or_refuses(text: str | bytes, **options: Any) -> Any:
        try:
            return loads(text, **options)
        except RecursionError:
            raise ValueError("the JSON is nested too deep") from None

    return loads_or_refuses


def _lifespan_class(base: type[Any]) -> type[Any]:
    """Return a subclass of the app's lifespan class that refuses to start under asyncio."""

    class FlowstreamLifespan(base):  # type: ignore[misc]  # the app chose the base
        async def __call__(self, receive: Receive, send: Send) -> None:
            if not trio.lowlevel.in_trio_run():
                await receive()
                message = str(other_event_loop())
                await send({"type": "lifespan.startup.failed", "message": message})
                return
            await super().__call__(receive, send)

    return FlowstreamLifespan


def _contained(app: QuartTrio) -> Callable[..., None]:
    """Wrap `app.add_background_task`, so that every failure of a task is an `Exception`.

    Quart gives an `Exception` to `handle_background_exception`. Any other would end the app's
    nursery, and with it the app.
    """
    add = app.add_background_task

    def add_background_task(func: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        async def run() -> None:
            try:
                await app.ensure_async(func)(*args, **kwargs)
            except BaseException as error:
                if isinstance(error, Exception) or passes(error):
                    raise
                raise RuntimeError(f"a background task raised {error!r}") from error  # noqa: ASYNC104  # see `passes`

        add(run)

    return add_background_task


_STATUS: dict[type[Exception], type[HTTPException]] = {
    NotAuthorizedError: Forbidden,
    TooManyTopicsError: ServiceUnavailable,
    TopicNameError: BadRequest,
}


def _answering(app: QuartTrio, status: type[HTTPException]) -> Callable[[Any], Awaitable[Any]]:
    """Return an error handler that gives the app's own answer for an HTTP status."""

    async def answer(error: Exception) -> Any:
        return await handle_http_exception(app, status())

    return answer


async def _answer_publicly(error: Exception) -> QuartResponse:
    assert isinstance(error, PublicError)
    # A WebSocket that is not accepted yet gets this answer, too, if the server can send one.
    path = request.path if has_request_context() else websocket.path
    status, headers, body = answer_to(error, path)
    return QuartResponse(body, status, dict(headers))


_Step = Callable[..., Awaitable[Any]]


def _priming(step: _Step) -> _Step:
    async def prime_what_is_returned(*args: Any, **kwargs: Any) -> Any:
        result = await step(*args, **kwargs)
        response = result[0] if isinstance(result, tuple) and result else result
        if isinstance(response, Hosted):  # the view has called make_response itself
            response = response.stream_response
        if isinstance(response, StreamResponse) and exchange_of(response).response_plan.prime:
            await host_of_request().begin(response, request.scope)
        return result

    return prime_what_is_returned


def _converting(make: _Step) -> _Step:
    async def make_response(result: Any) -> Any:
        given = result[0] if isinstance(result, tuple) and result else result
        if isinstance(given, StreamResponse):
            if not has_request_context():
                raise TypeError("a WebSocket view cannot return a stream: it is an HTTP response")
            hosted = Hosted(given)
            result = (hosted, *result[1:]) if isinstance(result, tuple) else hosted
        return await make(result)

    return make_response


def _delivering(finalize: _Step) -> _Step:
    async def finalize_request(*args: Any, **kwargs: Any) -> Any:
        response = await finalize(*args, **kwargs)
        if isinstance(response, Hosted):
            host = host_of_request()
            try:
                await host.deliver(response, request.scope)
            finally:
                await host.finish()  # noqa: ASYNC102  # shields itself
        return response

    return finalize_request


def _finishing(dispatch: _Step) -> _Step:
    async def full_dispatch_request(*args: Any, **kwargs: Any) -> Any:
        try:
            return await dispatch(*args, **kwargs)
        finally:
            if HOST in request.scope:
                await host_of_request().finish()  # noqa: ASYNC102  # shields itself

    return full_dispatch_request
