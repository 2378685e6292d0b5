"""The client of one response: reads as much as the test says, and plays the app's server."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import trio

from flowstream.asgi._cut import Cut
from flowstream.decoders import NDJSONDecoder, ServerSentEvent, SSEDecoder
from flowstream.testing._contract import BodyChunk, Contract, Headers, ResponseHead
from flowstream.testing._request_messages import RequestMessages
from flowstream.testing._scope import ASGIApp


class EndOfBody(EOFError):  # noqa: N818 - an ending, not a fault: like trio.EndOfChannel
    """The body ended before the wanted part had arrived.

    `StreamClient.complete` says whether the app ended it, or it was cut.
    """

    def __init__(self, message: str, partial: bytes = b"") -> None:
        super().__init__(message)
        self.partial = partial
        """The bytes that arrived. They count as read."""


@dataclass(frozen=True, slots=True)
class ClientStatistics:
    """What has passed between an app and a `StreamClient` so far."""

    received: int
    """Body bytes that reached the client."""
    unread: int
    """Body bytes that reached the client and that no reading method has returned yet."""
    window: int | None
    """Bytes that the app may still send before it blocks; None for any number."""
    sends: int
    """Body messages that reached the client completely, empty ones included."""
    largest_send: int
    """Bytes of the largest body message that the app has sent."""
    sends_pending: int
    """Calls of ``send`` that are blocked now."""
    bytes_pending: int
    """Bytes of these calls that wait for room in the window."""
    swallowed: int
    """Body bytes that were lost because the client had gone, or left before they fitted."""


class StreamClient:
    """The client at the other end of one response. `open_stream` makes it.

    A client reads as many bytes as its window allows. Its reading methods open the window as far
    as they need, and not a byte more. Only one task may read at a time.

    The methods that are not async take effect at once: when `abort()` returns, the app's
    blocked ``send`` and its ``receive`` are already scheduled to run.
    """

    def __init__(
        self, *, method: str, window: int | None, stuck_sends: bool, raise_app_exceptions: bool
    ) -> None:
        self.status: int | None = None
        """The status code; None until the response has started."""
        self.headers: Headers = Headers()
        """The response's headers; empty until it has started."""
        self.error: Exception | None = None
        """The exception that the app raised, or None."""
        self._contract = Contract(method)
        self._cut = Cut()
        self._window: float = math.inf if window is None else window
        self._stuck_sends = stuck_sends
        self._raises = raise_app_exceptions
        self._fault: AssertionError | None = None
        self._received = bytearray()
        self._read_to = 0
        self._demand: float = 0  # bytes that a reader waits for now: its own credit
        self._reading = False
        self._events = SSEDecoder()
        self._values = NDJSONDecoder()
        self._pending: deque[BodyChunk] = deque()
        self._sends = self._largest = self._swallowed = 0
        self._complete = False
        self._over = False  # no more bytes will come
        self._closed = False  # both directions: bytes that are sent go nowhere
        self._finished = False
        self._moved = trio.lowlevel.ParkingLot()
        self._request = RequestMessages()

    # What the client does

    def grant(self, n: int) -> None:
        """Open the window by `n` more bytes; `n` is 1 or more.

        Has no effect while the client reads everything.
        """
        check_count("n", n, least=1)
        self._window += n
        self._pump()

    def stall(self) -> None:
        """Read nothing from now on: set the window to 0."""
        self._window = 0

    def resume(self) -> None:
        """Read everything from now on, as fast as it comes."""
        self._window = math.inf
        self._pump()

    def abort(self) -> None:
        """Leave: the app gets ``http.disconnect``, and its sends return without an error.

        The rest of the request's body is never delivered. A second call has no effect.
        """
        self._close()

    def half_close(self) -> None:
        """Send nothing more, but go on reading.

        The app gets ``http.disconnect``, as under Hypercorn with HTTP/1.1, but what it sends
        still arrives.
        """
        self._request.leave()

    async def started(self) -> None:
        """**Wait** until the head of the response has arrived. It needs no window.

        Raises:
            EndOfBody: the client has gone, or the app has ended without a response.
        """
        await self._until(lambda: self.status is not None or self._over)
        if self.status is None:
            raise EndOfBody("the response never started")

    async def read(self, n: int) -> bytes:
        """**Wait** for the next `n` bytes of the body, 1 or more, and return them.

        Raises:
            EndOfBody: the body ends before; `EndOfBody.partial` has the bytes that came.
        """
        check_count("n", n, least=1)
        with self._as_reader():
            await self._need(n)
            data = self._take(n)
        if len(data) < n:
            raise EndOfBody(f"the body ended {n - len(data)} bytes too early", data)
        return data

    async def read_all(self) -> bytes:
        """**Wait** for the end of the body, and return the rest. `complete` says if it was cut."""
        with self._as_reader():
            await self._need(math.inf)
            return self._take(self._unread)

    async def next_event(self) -> ServerSentEvent:
        """**Wait** for the next event of a Server-Sent Events body, and return it.

        Takes the bytes to the end of the event's last line. Skips comments and blank lines before
        it.

        Raises:
            EndOfBody: there is none. An event that was cut does not count (WHATWG HTML § 9.2.6).
            DecodingError: the event is larger than 1 Mi characters.
        """
        with self._as_reader():
            while True:
                # One line ends at most one event, so none can be left over.
                for event in self._events.feed(await self._next_line("an event")):
                    return event

    async def next_value(self) -> Any:
        """**Wait** for the next value of an NDJSON body, and return it.

        Skips empty lines, which are heartbeats.

        Raises:
            EndOfBody: there is none. A last line without a line break does not count.
            DecodingError: a line is not JSON, or longer than 1 MiB.
        """
        with self._as_reader():
            while True:
                for value in self._values.feed(await self._next_line("a value")):
                    return value

    def __aiter__(self) -> StreamClient:
        return self

    async def __anext__(self) -> ServerSentEvent:
        """Return the next event. ``async for`` ends with the body, also if that was cut."""
        try:
            return await self.next_event()
        except EndOfBody:
            raise StopAsyncIteration from None

    async def wait_blocked(self) -> None:
        """**Wait** until a ``send`` of the app is blocked because the window is used up.

        Raises:
            EndOfBody: the body is over, so that this cannot happen any more.
        """
        await self._until(lambda: bool(self._pending) or self._over)
        if not self._pending:
            raise EndOfBody("the body ended without a blocked send")

    async def wait_finished(self) -> None:
        """**Wait** until the app has returned or raised."""
        await self._until(lambda: self._finished)

    # What the client has got

    @property
    def received(self) -> bytes:
        """All bytes of the body that have arrived, read or not."""
        return bytes(self._received)

    @property
    def complete(self) -> bool:
        """Whether the whole body and its final chunk have arrived."""
        return self._complete

    @property
    def finished(self) -> bool:
        """Whether the app has returned or raised."""
        return self._finished

    def statistics(self) -> ClientStatistics:
        """Return what has passed so far."""
        return ClientStatistics(
            received=len(self._received),
            unread=self._unread,
            window=None if self._window == math.inf else int(self._window),
            sends=self._sends,
            largest_send=self._largest,
            sends_pending=len(self._pending),
            bytes_pending=sum(len(chunk.rest) for chunk in self._pending),
            swallowed=self._swallowed,
        )

    # Reading

    @property
    def _unread(self) -> int:
        return len(self._received) - self._read_to

    @contextmanager
    def _as_reader(self) -> Iterator[None]:
        if self._reading:
            raise trio.BusyResourceError("another task is already reading from this client")
        self._reading = True
        try:
            yield
        finally:
            # A cancelled reader takes its credit back: the app must not use it later.
            self._reading, self._demand = False, 0

    async def _need(self, n: float) -> None:
        """**Wait** until there are `n` unread bytes, or the body is over."""
        await trio.lowlevel.checkpoint()
        while True:
            self._demand = max(0, n - self._unread)
            self._pump()
            if self._unread >= n or self._over:
                return
            await self._moved.park()

    async def _until(self, condition: Callable[[], bool]) -> None:
        await trio.lowlevel.checkpoint()
        while not condition():
            await self._moved.park()

    def _take(self, n: int) -> bytes:
        start = self._read_to
        self._read_to = min(start + n, len(self._received))
        return bytes(self._received[start : self._read_to])

    async def _next_line(self, wanted: str) -> bytes:
        """Take what has arrived, but at most to the end of its first line."""
        await self._need(1)
        start = self._read_to
        end = self._received.find(b"\n", start) + 1 or len(self._received)
        # CR alone ends a line of SSE, too. In JSON it is white space between two pieces.
        end = self._received.find(b"\r", start, end) + 1 or end
        if end == start:
            raise EndOfBody(f"the body ended before {wanted} was there")
        return self._take(end - start)

    # The connection

    def _pump(self) -> None:
        """Move bytes from blocked sends to the client, as far as the credit allows."""
        moved = False
        while self._pending:
            chunk = self._pending[0]
            # A reader's demand is not added to the window. The larger of the two counts, so
            # bytes that were granted already are used first.
            n = int(min(len(chunk.rest), max(self._window, self._demand)))
            if chunk.rest and not n:
                break
            self._received += chunk.rest[:n]
            chunk.rest = chunk.rest[n:]
            self._window = max(0, self._window - n)
            self._demand = max(0, self._demand - n)
            moved = True
            if not chunk.rest:
                self._pending.popleft()
                chunk.delivered = True
                self._sends += 1
                if chunk.final:
                    self._complete = self._over = True
                    self._request.leave()
        if moved:
            self._moved.unpark_all()

    def _close(self) -> None:
        self._request.leave()
        self._swallowed += sum(len(chunk.rest) for chunk in self._pending)
        self._pending.clear()
        self._closed = self._over = True
        self._moved.unpark_all()

    # The server's side

    async def _serve(self, app: ASGIApp, scope: dict[str, Any]) -> None:
        try:
            await app(scope, self._request.receive, self._send)
        except Exception as error:
            self.error = error
            if self._raises:
                # Wake nobody. The nursery cancels the readers, so that the app's error is not
                # hidden by theirs about a body that ended early.
                raise
        finally:
            self._finished = True
        if self.status is None and self.error is None and not self._request.left:
            self._fault = AssertionError("the app returned without starting a response")
        if self._fault is not None:
            raise self._fault
        self._over = True
        self._moved.unpark_all()

    async def _see_off(self, timeout: float) -> None:
        self.abort()
        with trio.move_on_after(timeout):
            await self.wait_finished()
        if not self._finished:
            raise AssertionError(
                f"the app was still running {timeout:g} s after its client had gone"
            )

    async def _send(self, message: Any) -> None:
        await trio.lowlevel.checkpoint()
        if self._cut.status is not None and not self._contract.ended:
            await self._send_cut(message)
        else:
            await self._accept(message)

    async def _send_cut(self, message: Any) -> None:
        """Deliver a message of a response that was cut: all but its end."""
        rest = self._cut.pass_on(message, self._contract.status)
        if rest is not None:
            await self._accept(rest)
        if self._cut.is_over:
            self._over = True
            self._request.leave()
            self._moved.unpark_all()

    async def _accept(self, message: Any) -> None:
        try:
            part = self._contract.accept(message)
        except AssertionError as fault:
            self._fault = self._fault or fault  # kept, because the app may swallow it
            raise
        if isinstance(part, ResponseHead):
            if not self._closed:
                self.status = part.status
                self.headers = part.headers
                self._moved.unpark_all()
        else:
            await self._deliver(part)

    async def _deliver(self, chunk: BodyChunk) -> None:
        self._largest = max(self._largest, len(chunk.rest))
        if self._closed:
            self._swallowed += len(chunk.rest)
            return
        self._pending.append(chunk)
        self._pump()
        if chunk.delivered:
            return
        self._moved.unpark_all()  # for `wait_blocked`
        try:
            with trio.CancelScope(shield=self._stuck_sends):
                while not (chunk.delivered or self._closed):
                    await self._moved.park()
        except trio.Cancelled:
            # The bytes that were not delivered leave a hole. A server must close such a
            # connection, or the client would take a broken body for a complete one.
            if not chunk.delivered:
                self._close()
            raise


def check_count(name: str, value: int, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int (bytes), not {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least} (bytes), not {value}")
