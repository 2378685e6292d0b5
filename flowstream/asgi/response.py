"""StreamResponse: an ASGI application that streams one source to one client.

`stream()`, `sse()` and the others check their arguments and start nothing. The stream starts when
the response is called, and then makes exactly one report.
"""

from __future__ import annotations

from typing import NoReturn

import trio

from flowstream._closing import CloseReason
from flowstream._errors import PublicError
from flowstream._live_stream import StreamStatistics
from flowstream.asgi._carrier import carrier_of
from flowstream.asgi._early_answer import answer_to, is_handled, send_whole
from flowstream.asgi._exchange import Scope, StreamExchange
from flowstream.asgi._response_plan import ResponsePlan
from flowstream.asgi._statistics import new_statistics
from flowstream.asgi._stream import Stream
from flowstream.asgi.plan import Plan
from flowstream.asgi.receive import Receive, Send, wait_disconnected
from flowstream.tasks._failure import passes


class StreamResponse:
    """A response that streams. `stream`, `sse`, `ndjson`, `csv` and `raw` make it.

    It is an ASGI application: ``await response(scope, receive, send)``. A Quart-Trio view
    and a Starlette route on Trio return it as it is. It can be called once.

    A call **waits** until the last byte is written, or until the stream ends in another way: the
    client left, a deadline passed, or it was cancelled from outside. It returns after the producer
    has cleaned up. It raises nothing once the status line is out.

    Raises:
        StreamUsedError: it is called a second time.
        RuntimeError: it is called outside Trio, or for something that is not HTTP.
        Exception: with ``prime=``, what the producer raised before its first item. A
            `PublicError` is answered with its status, unless the app has a handler for it.
    """

    __slots__ = ("_exchange",)

    def __init__(self, plan: Plan, response_plan: ResponsePlan) -> None:
        self._exchange = StreamExchange(plan, response_plan)

    @property
    def status(self) -> int:
        """The HTTP status that it will send."""
        return self._exchange.response_plan.status

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers that it will send, names in lower case; a new list each time."""
        return list(self._exchange.response_plan.headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the stream to one client."""
        stream = await self._exchange.open(scope)
        if stream is None:
            await send_whole(send, *self._exchange.empty_answer(scope))
            return
        carrier = carrier_of(scope)
        listens = carrier is None or carrier.may_bring_more(scope)
        if not listens and not stream.needs_nursery:
            failure = await self._deliver(stream, scope, send, None)
        else:
            async with trio.open_nursery() as nursery:
                if listens:
                    nursery.start_soon(_listen, stream, receive)
                try:
                    failure = await self._deliver(stream, scope, send, nursery)
                finally:
                    nursery.cancel_scope.cancel()
        if failure is not None:
            # Raise it outside the nursery, which would put it into a group: the framework's error
            # handlers look for the exception itself.
            if not isinstance(failure, PublicError) or is_handled(failure, scope):
                raise failure
            await self._answer(failure, scope, send)

    async def _deliver(
        self, stream: Stream, scope: Scope, send: Send, nursery: trio.Nursery | None
    ) -> BaseException | None:
        """Serve `stream`; return the exception that the framework must get, or None."""
        plan = self._exchange.response_plan
        try:
            stream.begin(nursery)
            try:
                if plan.prime is not None:
                    await stream.prime(plan.prime)
                transport = self._exchange.transport(scope, send, plan.status, self.headers)
                await stream.deliver(transport)
            finally:
                await stream.finish()  # noqa: ASYNC102  # shields itself
        except BaseException as error:  # noqa: ASYNC103  # see `passes`
            if passes(error):
                raise
            return error  # noqa: ASYNC104  # see `passes`
        return None

    async def _answer(self, error: PublicError, scope: Scope, send: Send) -> None:
        """Send `error` as an ordinary response: the stream failed before it began."""
        status, fields, body = answer_to(error, scope["path"])
        head = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in fields.items()
        ]
        # Without the CORS headers a page of another origin could not read the answer.
        head += [pair for pair in self.headers if pair[0].startswith(b"access-control-")]
        await send_whole(send, status, head, body)

    def stop(self) -> None:
        """End the stream for good: write what is queued, then ``end`` with `stopped`.

        After that a browser does not reconnect, as it would after a disconnect. Does nothing before
        the response is called, or after the stream has ended.
        """
        if self._exchange.stream is not None:
            self._exchange.stream.close(CloseReason.STOPPED, "StreamResponse.stop()")

    def statistics(self) -> StreamStatistics:
        """Return what the stream has done so far, and how full its buffer is."""
        stream = self._exchange.stream
        return new_statistics(self._exchange.plan.buffer) if stream is None else stream.statistics()

    # These two methods let a Quart view that returns a stream pass the type checker: among the
    # types that Quart lets a view return, an iterator of text is the only one that a class of ours
    # can be. They also make FastAPI raise, which turns a value of an unknown type into `{}`.

    def __iter__(self) -> StreamResponse:
        raise self._is_no_data()

    def __next__(self) -> NoReturn:
        raise self._is_no_data()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> NoReturn:
        """Refuse to be a model's field, which FastAPI makes of a view's return annotation."""
        raise TypeError(
            "FastAPI cannot describe a StreamResponse, which is not data: annotate the view with "
            "`-> Response` (from fastapi import Response) and return "
            "flowstream.starlette.response(...) of the stream"
        )

    def _is_no_data(self) -> TypeError:
        return TypeError(
            "a StreamResponse is an ASGI application, not data; in FastAPI return "
            "flowstream.starlette.response(...) of it"
        )


def exchange_of(response: StreamResponse) -> StreamExchange:
    """Return the exchange of `response`, which hosts of streams use step by step."""
    return response._exchange


async def _listen(stream: Stream, receive: Receive) -> None:
    await wait_disconnected(receive)
    stream.abort(CloseReason.CLIENT_DISCONNECTED, "http.disconnect")
