"""Read a model's answer through the SDK of the model's server.

The SDK makes the request, with its own address, key, proxies and tracing. This module reads the
response. The SDK's own iteration would cost some 50 to 100 µs for each token, and leave its
generators to the garbage collector, so that Trio warns. If the SDK has to read the response
(another format than SSE, a stream that tracing watches), it does. Closing the stream closes its
connection with HTTP/1.1, which is used unless the app made the HTTP client. Over HTTP/2 httpx2
forgets the stream and sends no RST_STREAM.

Two clocks run for the upstream: until the first event for the client, and from one such event to
the next. Neither runs while a slow client makes us wait, and keep-alives restart neither.

The SDK's own retries are switched off, and made here instead. The SDK would sleep for up to two
minutes if a server says so, and by then nobody knows what was wrong. If a retry would wait for more
than a few seconds, our client is told when to try again.
"""

from __future__ import annotations

import abc
import contextlib
import logging
import math
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from types import ModuleType
from typing import Any, Generic, TypeVar

import msgspec
import trio

from flowstream._clock import chance, clock
from flowstream._errors import DecodingError, PublicError
from flowstream.buffer._outlet import Outlet
from flowstream.decoders import ServerSentEvent
from flowstream.limits import check_positive
from flowstream.llm import Done, FinishReason, ModelEvent, Usage
from flowstream.sources._source import Source
from flowstream.sources.llm._halves import Halves
from flowstream.sources.llm._loose import (
    UpstreamDecoder,
    check_structure,
    fit,
    is_keep_alive,
    loose_json,
)
from flowstream.sources.llm._model_body import MAX_EVENT, Ration, unwinding
from flowstream.sources.llm._model_failures import (
    broken,
    error_in,
    failure_in_stream,
    failure_of,
    failure_of_reading,
    names_failure,
    said,
    timed_out,
)

logger = logging.getLogger("flowstream")

# The first and the longest wait before a retry, if the server names none: as in the SDKs.
_RETRY_DELAY, _LONGEST_RETRY_DELAY = 0.5, 8.0

# Seconds to wait for the usage after the reason why a model stopped. The server knows it by then.
_AFTERWORD = 5.0
# Seconds to wait for the end of a response after its last event, so that the connection can be used
# again. Otherwise it is closed, which costs no more than a new one.
_END = 0.1

# Bytes that are read before other tasks run.
_PIECE = 16 * 1024

ChunkT = TypeVar("ChunkT", bound=msgspec.Struct)


class AnswerReader(abc.ABC, Generic[ChunkT]):
    """Makes events out of what one API sends. Sans-I/O; one reader for each answer.

    Attributes:
        reason: why the model stopped, as soon as that is known.
        usage: what the answer cost, as far as that is known.
        over: whether the upstream has said that nothing follows.
        failure: the upstream's failure, to raise after the events of the same chunk.
        begun: whether something was sent to our client; set by the sender.
    """

    def __init__(self, chunk: type[ChunkT]) -> None:
        self._chunk = chunk
        self._decoder = msgspec.json.Decoder(chunk)
        self.reason: FinishReason | None = None
        self.usage: Usage | None = None
        self.over: bool = False
        self.failure: PublicError | None = None
        self.begun: bool = False
        self._halves = Halves()

    def read(self, event: ServerSentEvent) -> Sequence[ModelEvent]:
        """Return the events in one event of the upstream's stream.

        Raises:
            msgspec.MsgspecError: it is not an event of this API.
            PublicError: it says that the upstream failed.
        """
        check_structure(event.data)
        if event.type != "message" and names_failure(event.type):
            raise failure_in_stream(said(event.data), event.type)
        try:
            chunk = self._decoder.decode(event.data)
        except msgspec.MsgspecError:
            return self._read_unusual(event)
        if not self.is_usual(chunk):
            return self._read_value(loose_json(event.data))
        events = self.take(chunk)
        return self._halves.mend(events) if self._halves.waiting else events

    def _read_unusual(self, event: ServerSentEvent) -> Sequence[ModelEvent]:
        data = event.data.strip(" \t\n\0\ufeff")
        if data.strip('"').startswith("[DONE]"):
            self.done()
            return ()
        if is_keep_alive(event):
            return ()
        return self._read_value(loose_json(data))

    def _read_value(self, value: Any) -> Sequence[ModelEvent]:
        error = error_in(value)
        if error is not None:
            raise failure_in_stream(error)
        return self._halves.mend(self.take(fit(value, self._chunk)))

    def read_object(self, chunk: Any) -> Sequence[ModelEvent]:
        """Do the same for an object of the SDK."""
        as_value = getattr(chunk, "model_dump", None)
        value = chunk if as_value is None else as_value(warnings=False)
        if isinstance(value, (Mapping, list)):
            fitting = fit(value, self._chunk)
        else:  # an object of something between us and the SDK
            fitting = msgspec.convert(value, self._chunk, strict=False, from_attributes=True)
        if not self.is_usual(fitting):
            return self._read_value(value)
        return self._halves.mend(self.take(fitting))

    def done(self) -> None:
        """Note that the upstream said ``[DONE]``."""
        self.over = True

    def rest(self) -> Sequence[ModelEvent]:
        """Return the events that were held back, at the end of an answer."""
        return self._halves.rest()

    @abc.abstractmethod
    def is_usual(self, chunk: ChunkT) -> bool:
        """Return whether `chunk` is clearly one of this API, and not an unmarked error."""

    @abc.abstractmethod
    def take(self, chunk: ChunkT) -> Sequence[ModelEvent]:
        """Return the events in `chunk`, except `Usage` and `Done`, which come at the end."""


class ModelAnswer(Source):
    """The answer of one request, streamed.

    Args:
        sdk: the package that the request is made with.
        request: makes the request, without retries; returns the SDK's stream.
        retries: how many times the request may be made again.
        reader: makes an `AnswerReader`.
        first_timeout: seconds to the first event for the client, retries included.
        token_timeout: seconds from one event to the next.
    """

    def __init__(
        self,
        sdk: ModuleType,
        request: Callable[[], Awaitable[Any]],
        retries: int,
        reader: Callable[[], AnswerReader[Any]],
        first_timeout: float | None,
        token_timeout: float | None,
    ) -> None:
        self._sdk = sdk
        self._request = request
        self._retries = retries
        self._reader = reader
        self._first_timeout = _seconds("first_timeout", first_timeout)
        self._token_timeout = _seconds("token_timeout", token_timeout)

    async def run(self, out: Outlet) -> None:
        """Make the request, and send the answer."""
        reader = self._reader()
        ration = Ration()
        stream: Any = None
        with trio.CancelScope(deadline=clock.current_time() + self._first_timeout) as patience:
            with ration.for_requests():
                stream = await self._ask(patience.deadline)
            body = _Body(stream, self._sdk, reader, ration)
            async with unwinding(body.parts), stream:
                await self._read(body, reader, out, patience)
        if reader.reason is None and patience.cancelled_caught:
            raise timed_out() from TimeoutError(self._silence(reader))
        if reader.reason is None:
            raise broken() from EOFError(f"{_kind_of(stream)}, has ended without a finish reason")
        for event in reader.rest():
            await out.send(event)
        if reader.usage is not None:
            await out.send(reader.usage)
        await out.send(Done(reader.reason))

    def _silence(self, reader: AnswerReader[Any]) -> str:
        name = "token_timeout" if reader.begun else "first_timeout"
        seconds = self._token_timeout if reader.begun else self._first_timeout
        return f"{name}: nothing for {seconds:g} s"

    async def _ask(self, deadline: float) -> Any:
        """Make the request until there is an answer, or until no retry is left."""
        delays = _retry_delays(self._retries)
        while True:
            try:
                return await self._request()
            except PublicError:
                raise  # what it sent is beyond our bounds
            except Exception as error:
                failure = failure_of(error, self._sdk)
                if failure is None:
                    raise
                delay = next(delays, math.inf) if failure.retryable else math.inf
                if delay < math.inf and failure.retry_after is not None:
                    delay = failure.retry_after
                if delay > _LONGEST_RETRY_DELAY or clock.current_time() + delay >= deadline:
                    raise failure from error
                logger.info("a model's server failed, is asked again in %.1f s: %s", delay, error)
            await trio.sleep(delay)

    async def _read(
        self, body: _Body, reader: AnswerReader[Any], out: Outlet, patience: trio.CancelScope
    ) -> None:
        """Send the events of the answer, until the answer or the time of `patience` ends."""
        while not reader.over:
            try:
                received = await body.receive()
            except PublicError:
                if reader.reason is None:
                    raise
                return  # the answer is complete
            if received is None:
                return
            sent = False
            for part in received:
                for event in body.read(part):
                    sent = True
                    wait = out._put(event)
                    if wait is not None:
                        patience.deadline = math.inf  # from here on our client sets the pace
                        await wait
                if reader.failure is not None:
                    raise reader.failure
            if sent:
                reader.begun = True
                patience.deadline = clock.current_time() + self._token_timeout
            if reader.reason is not None:
                patience.deadline = min(patience.deadline, clock.current_time() + _AFTERWORD)
        patience.deadline = clock.current_time() + _END
        with contextlib.suppress(PublicError):
            while await body.receive() is not None:
                pass


class _Body:
    """Receives an answer.

    Attributes:
        parts: the iterator over its parts.
    """

    def __init__(
        self, stream: Any, sdk: ModuleType, reader: AnswerReader[Any], ration: Ration
    ) -> None:
        self._sdk = sdk
        self._reader = reader
        self._ration = ration
        self._ended = False
        self._left = memoryview(b"")  # the rest of the last part
        self.parts: AsyncIterator[Any]
        self._next: Callable[[], Awaitable[Any]]
        self._unpack: Callable[[Any], Sequence[Any]]
        self._end: Callable[[], Sequence[Any]]
        self._read: Callable[[Any], Sequence[ModelEvent]]
        if type(stream) is sdk.AsyncStream and _is_plain(stream.response):
            self.parts = stream.response.aiter_bytes()
            self._next = self._next_piece
            decoder = UpstreamDecoder(max_event=MAX_EVENT)
            self._unpack = decoder.feed
            self._end = decoder.end
            self._read = reader.read
        else:
            self.parts = aiter(stream)
            self._next = self.parts.__anext__
            self._unpack = _alone
            self._end = tuple
            self._read = reader.read_object

    async def receive(self) -> Sequence[Any] | None:
        """Return what has come, to be read piece by piece; None at the end.

        Raises:
            PublicError: the upstream failed, or says so.
        """
        if self._ended:
            return None
        self._ration.renew()
        try:
            received = await self._next()
        except StopAsyncIteration:
            self._ended = True
            received = None
        except PublicError:
            raise  # what it sent is beyond our bounds
        except Exception as error:
            raise failure_of(error, self._sdk) or failure_of_reading(error) from error
        try:
            return (self._end() or None) if self._ended else self._unpack(received)
        except DecodingError as error:
            raise broken() from error

    async def _next_piece(self) -> bytes:
        if self._left:
            await trio.lowlevel.checkpoint()
        else:
            data: bytes = await anext(self.parts)
            if len(data) <= _PIECE:
                return data
            self._left = memoryview(data)
        piece, self._left = self._left[:_PIECE], self._left[_PIECE:]
        return bytes(piece)

    def read(self, part: Any) -> Sequence[ModelEvent]:
        """Return the events in one piece of what was received.

        Raises:
            PublicError: the upstream says that it failed, or sends nonsense.
        """
        if self._reader.over:
            return ()
        try:
            return self._read(part)
        except PublicError as error:
            if self._reader.reason is None:
                raise
            logger.debug("a failure after a model's answer is ignored: %r", error.__cause__)
        # RecursionError: nothing but opening brackets.
        except (msgspec.MsgspecError, RecursionError) as error:
            if self._reader.reason is None:
                raise broken() from error
            logger.debug("what follows a model's answer is ignored: %s", error)
        return ()


def _is_plain(response: Any) -> bool:
    """Return whether we may read the response: it is SSE, and no tracing watches it."""
    media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    # The tracing of Anthropic's SDK watches the stream from there.
    watched = hasattr(response.stream, "stream_observer")
    return media_type == "text/event-stream" and not watched


def _kind_of(stream: Any) -> str:
    """Return the response's media type. A page of HTML means a wrong `base_url`."""
    headers = getattr(getattr(stream, "response", None), "headers", {})
    return f"the answer, of type {headers.get('content-type', 'unknown')}"


def _alone(chunk: object) -> Sequence[object]:
    return (chunk,)


def _retry_delays(retries: int) -> Iterator[float]:
    """Yield the seconds to wait before each retry, which are partly random."""
    delay = _RETRY_DELAY
    for _ in range(retries):
        yield delay * chance.uniform(0.75, 1)
        delay = min(delay * 2, _LONGEST_RETRY_DELAY)


def _seconds(name: str, value: float | None) -> float:
    if value is None:
        return math.inf
    check_positive(name, value, unit="seconds")
    return value
