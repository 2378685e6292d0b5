"""Quart-Trio's connection class, which serves one request, extended for streams.

It differs from Quart-Trio's own in three ways:

* When the client leaves, it tells the stream, and does not cancel the request around it.
* It runs the request in the task that it is called in.
* It has a second task only if that is needed. Quart-Trio's second task waits on ``receive()`` for
  the body and for the disconnect. Under flowstream's own server a request without a body does not
  need it, because the connection reports a disconnect by a call.

There a stream without a producer is delivered after Quart has finished its request, and keeps
nothing of Quart's alive (`flowstream.quart._late_context`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, MutableMapping
from functools import partial
from typing import Any, cast

import trio
from quart.wrappers import Request

from flowstream.asgi._carrier import Carrier, carrier_of
from flowstream.asgi.receive import Receive, Send
from flowstream.quart._host import (
    HOST,
    AppTally,
    Departure,
    Host,
    LateStream,
    Listening,
    is_silent,
)
from flowstream.quart._internals import (
    ClientGone,
    TrioASGIHTTPConnection,
    current_context,
    handle_exception,
)
from flowstream.quart._late_context import LateContext, why_seen
from flowstream.quart._requests import Requests
from flowstream.tasks._supervised import SupervisedNursery, prefer

logger = logging.getLogger("flowstream")


def connection_class(
    base: type[Any],
    patched: Mapping[str, Any],
    tally: AppTally,
    nursery_of_app: Callable[[], SupervisedNursery | None],
    *,
    direct: bool | None,
) -> type[Any]:
    """Return a subclass of Quart-Trio's connection class that serves streams.

    Args:
        base: the connection class that the app chose.
        patched: the functions that flowstream has put on the app to deliver streams, by name.
        tally: counts the streams of the app.
        nursery_of_app: returns the nursery that is open while the app is served.
        direct: the app's setting for direct writes to all its streams.
    """

    def has_quarts(*names: str) -> bool:
        return all(getattr(base, name) is getattr(TrioASGIHTTPConnection, name) for name in names)

    is_plain = has_quarts("__call__", "handle_messages")
    may_leave = is_plain and has_quarts("handle_request", "_send_response")

    requests = Requests(copies=has_quarts("_create_request_from_scope", "_send_push_promise"))

    class FlowstreamHTTPConnection(base):  # type: ignore[misc]  # the app chose the base
        _listening: Listening | None = None

        async def handle_messages(
            self, nursery: trio.Nursery, request: Request, receive: Receive
        ) -> None:
            listening = self._listening
            assert listening is not None

            async def receive_and_tell() -> MutableMapping[str, Any]:
                listening.check()
                message = await receive()
                host = cast("Host | None", self.scope.get(HOST))
                if message["type"] == "http.disconnect" and host and host.disconnected():
                    # Quart would cancel the request at once. The stream ends it itself, once its
                    # producer has cleaned up.
                    await trio.sleep_forever()
                listening.note(message)
                return message

            with listening.scope:
                await super().handle_messages(nursery, request, receive_and_tell)

        async def handle_request(self, nursery: trio.Nursery, request: Request, send: Send) -> None:
            prefer(nursery_of_app())
            if not is_plain:
                send = _raising_oserror(send)
            silent = may_leave and self._listening is None
            leave = partial(self._leave, request, send) if silent else None
            self.scope[HOST] = Host(tally, nursery, send, self._listening, direct, leave)
            await super().handle_request(nursery, request, send)

        async def __call__(self, receive: Receive, send: Send) -> None:
            carrier = carrier_of(self.scope)
            if not is_plain:
                self._listening = Listening()
                await super().__call__(receive, send)
            elif carrier is None or not is_silent(receive, self.scope, carrier):
                await self._listen_and_serve(receive, send)
            else:
                late = await self._serve(carrier, send)
                if late is not None:
                    await self._deliver(late, send)

        async def _listen_and_serve(self, receive: Receive, send: Send) -> None:
            # Like Quart-Trio's method, which runs the request in a task of its own, though: that
            # would take 3 KB for as long as a stream lasts.
            self._listening = Listening()
            request = self._create_request_from_scope(send)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.handle_messages, nursery, request, receive)
                await self.handle_request(nursery, request, send)

        async def _serve(self, carrier: Carrier, send: Send) -> LateStream | None:
            """Serve the request without a second task; return a stream to deliver after it."""
            request = requests.make(self, send)
            try:
                async with trio.open_nursery() as nursery:
                    departure = Departure(self, nursery, request)
                    carrier.attach(departure)
                    try:
                        await self.handle_request(nursery, request, send)
                    finally:
                        carrier.detach(departure)
                return cast("LateStream | None", self.scope.pop(HOST).late)
            except BaseException:
                host = self.scope.pop(HOST, None)
                if host is not None and host.late is not None:
                    await host.late.finish()  # noqa: ASYNC102  # shields itself
                raise

        async def _deliver(self, late: LateStream, send: Send) -> None:
            try:
                late.enter()
                try:
                    await late.stream.deliver(late.transport)
                finally:
                    await late.finish()  # noqa: ASYNC102  # shields itself
            except Exception as error:  # noqa: BLE001  # the app answers it
                await self._answer(error, send)

        async def _answer(self, error: Exception, send: Send) -> None:
            """Let the app answer `error`: a stream failed before its head, after the context."""
            request = requests.make(self, send)
            timeout = self.app.config["RESPONSE_TIMEOUT"]
            async with trio.open_nursery() as nursery:
                self.scope[HOST] = Host(tally, nursery, send, None, direct)
                async with self.app.request_context(request):
                    response = await handle_exception(self.app, error)
                with trio.move_on_after(math.inf if timeout is None else timeout):
                    await self._send_response(send, response)
                nursery.cancel_scope.cancel()

        def _leave(self, request: Request, send: Send) -> LateContext | None:
            """Return a stand-in for the request's context; None if that must outlast the stream."""
            why_not = why_seen(self.app, request)
            if any(vars(self.app).get(name) is not ours for name, ours in patched.items()):
                why_not = "a function of the app's was replaced"
            if why_not is not None:
                logger.debug("stream %s: its request's context lasts: %s", request.path, why_not)
                return None
            return LateContext(current_context(), requests, self, send)

        async def _send_response(self, send: Send, response: Any) -> None:
            if getattr(self, "_disconnected", False):
                # The client has gone, and the request was cancelled. If nothing has waited since,
                # Quart would raise here, and nobody would catch that.
                await trio.lowlevel.checkpoint()
            if not self.scope[HOST].delivered:
                await super()._send_response(send, response)

    return FlowstreamHTTPConnection


def _raising_oserror(send: Send) -> Send:
    async def send_or_oserror(message: MutableMapping[str, Any]) -> None:
        try:
            await send(message)
        except ClientGone as error:
            raise BrokenPipeError("the client has gone") from error

    return send_or_oserror
