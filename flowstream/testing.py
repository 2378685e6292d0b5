"""An in-process ASGI client with byte credits, for tests without sockets and without sleep.

What breaks a streaming server is hardly ever what a client sends; it is how fast, and for
how long, the client *reads*. Sockets make a poor instrument for that: kernels buffer some
hundred kilobytes on both sides, so a client that reads nothing looks for a long time like
one that keeps up, and a test has to sleep and hope. Here the client has a window of an
exact number of bytes. The app's ``send`` takes from it, and blocks when it is used up, as
on a TCP connection without any buffer::

    async def test_a_stalled_client_gets_a_gap(autojump_clock):
        async with open_stream(app, "/prices", window=0) as client:
            await trio.sleep(60)                # an instant: nothing can run, time jumps
            event = await client.next_event()   # takes this event's bytes, not one more
            client.abort()
        assert client.finished                  # the app has ended, nothing is left of it

Nothing here looks at a real clock and no task outlives its context manager, so under
trio's `MockClock` a test costs no time, however long its stream, and its bytes and times
are exact. What remains open is the order of tasks that are ready in the same instant, which
Trio shuffles on purpose: `wait_blocked` and `trio.testing.wait_all_tasks_blocked` settle it.

The client is also the sterner half of a server. It keeps the rules that Hypercorn keeps
(``send`` after a disconnect returns in silence; the disconnect queues behind the request's
body and is given once; after the final chunk there is a disconnect too), and it raises
`AssertionError` where the app breaks the ASGI specification. Such an error comes out of
the context manager even if the app swallowed it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
)
from contextlib import aclosing, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote, unquote

import trio

from flowstream.decoders import NDJSONDecoder, ServerSentEvent, SSEDecoder

__all__ = [
    "ClientStatistics",
    "CollectedResponse",
    "EndOfBody",
    "Headers",
    "StreamClient",
    "collect",
    "open_lifespan",
    "open_stream",
]

ASGIApp = Callable[[Any, Any, Any], Awaitable[Any]]
HeaderPairs = Iterable[tuple[str | bytes, str | bytes]]

# Hypercorn's `max_app_queue_size`: so many messages of a request's body wait for the app.
_INBOX_SIZE = 10
_NO_BODY = frozenset({204, 304})
_LIFESPAN_ANSWERS = {
    f"lifespan.{phase}.{outcome}": phase
    for phase in ("startup", "shutdown")
    for outcome in ("complete", "failed")
}


class EndOfBody(EOFError):  # noqa: N818 - an ending, not a fault: like trio.EndOfChannel
    """The body ended before what was asked for had arrived.

    `StreamClient.complete` tells whether it ended as the app wished or was cut.
    """

    def __init__(self, message: str, partial: bytes = b"") -> None:
        super().__init__(message)
        self.partial = partial
        """The bytes that did arrive; they count as read."""


class Headers(Mapping[str, str]):
    """The headers of a response: names in any case, values as text.

    A header that was sent more than once reads as its values joined with ``", "`` (RFC
    9110 § 5.3); `raw` has them apart, in the order in which the app gave them.
    """

    def __init__(self, raw: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self.raw = tuple(raw)
        self._values: dict[str, str] = {}
        for name, value in self.raw:
            key, text = name.decode("latin-1"), value.decode("latin-1")
            self._values[key] = f"{self._values[key]}, {text}" if key in self._values else text

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Headers({self._values!r})"


@dataclass(frozen=True, slots=True)
class ClientStatistics:
    """What has passed between an app and a `StreamClient` so far."""

    received: int
    """Body bytes that reached the client."""
    unread: int
    """Of these, the bytes that no `read` or `next_event` has returned yet."""
    window: int | None
    """Bytes that the app may still send before it blocks; None for any number."""
    sends: int
    """Body messages that reached the client to their last byte, empty ones included."""
    largest_send: int
    """Bytes of the largest body message that the app has sent."""
    sends_pending: int
    """Calls of ``send`` that are blocked now."""
    bytes_pending: int
    """Bytes of these calls that wait for window."""
    swallowed: int
    """Body bytes that were sent to a client that had gone, or was gone before they fit."""


@dataclass(frozen=True, slots=True)
class CollectedResponse:
    """A whole response."""

    status: int
    """The status code."""
    headers: Headers
    """The headers; names in any case."""
    body: bytes
    """The body, as far as it came."""
    complete: bool
    """Whether its final chunk came. A body without one was cut, on purpose or not."""


@dataclass(frozen=True, slots=True)
class _Head:
    """A checked ``http.response.start``."""

    status: int
    headers: Headers


class _Chunk:
    """A checked ``http.response.body`` on its way to the client."""

    __slots__ = ("delivered", "final", "rest")

    def __init__(self, data: bytes, *, final: bool) -> None:
        self.rest = memoryview(data)
        self.final = final
        self.delivered = False


class _Contract:
    """The ASGI rules of one response: messages in, checked values out, no `await`.

    Three states, in this order: nothing sent, head sent, final chunk sent.
    """

    def __init__(self, method: str) -> None:
        self._method = method
        self._state = "before the response's start"
        self._bodiless = False
        self._promised: int | None = None
        self._sent = 0

    def accept(self, message: Any) -> _Head | _Chunk:
        """Return what the message says, or raise `AssertionError` if it must not be sent."""
        if not isinstance(message, MutableMapping):
            raise AssertionError(f"an ASGI message is a dict, not {type(message).__name__}")
        kind = message.get("type")
        if kind == "http.response.start" and self._state == "before the response's start":
            return self._start(message)
        if kind == "http.response.body" and self._state == "within the body":
            return self._body(message)
        raise AssertionError(f"the app sent {kind!r} {self._state}")

    def _start(self, message: Mapping[str, Any]) -> _Head:
        status = message.get("status")
        if type(status) is not int or not 200 <= status <= 999:
            raise AssertionError(f"status must be an int from 200 to 999, not {status!r}")
        headers = Headers(_checked_header(pair) for pair in message.get("headers", ()))
        self._bodiless = self._method == "HEAD" or status in _NO_BODY
        length = headers.get("content-length")
        if length is not None and not self._bodiless:
            if not (length.isascii() and length.isdigit()):
                raise AssertionError(f"content-length must be one whole number, not {length!r}")
            self._promised = int(length)
        self._state = "within the body"
        return _Head(status, headers)

    def _body(self, message: Mapping[str, Any]) -> _Chunk:
        data, more = message.get("body", b""), message.get("more_body", False)
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise AssertionError(f"body must be bytes, not {type(data).__name__}")
        if not isinstance(more, bool):
            raise AssertionError(f"more_body must be a bool, not {type(more).__name__}")
        # As servers do: to a HEAD an app may send a body, nobody gets it. And a copy, since
        # the app may use its bytearray again.
        data = b"" if self._bodiless else bytes(data)
        self._sent += len(data)
        if self._promised is not None and (
            self._sent > self._promised or (self._sent < self._promised and not more)
        ):
            raise AssertionError(
                f"the app sent {self._sent} bytes, its content-length says {self._promised}"
            )
        if not more:
            self._state = "after the final chunk"
        return _Chunk(data, final=not more)


def _checked_header(pair: Any) -> tuple[bytes, bytes]:
    try:
        name, value = pair
    except (TypeError, ValueError):
        raise AssertionError(f"a header is a pair of name and value, not {pair!r}") from None
    if not isinstance(name, bytes) or not isinstance(value, bytes):
        raise AssertionError(f"header names and values must be bytes: {pair!r}")
    if not name or name != name.lower() or name.startswith(b":"):
        raise AssertionError(f"header names must be lower-case and not pseudo: {name!r}")
    if any(char in name + value for char in b"\r\n\0"):
        raise AssertionError(f"a header must not contain CR, LF or NUL: {pair!r}")
    return name, value


class StreamClient:
    """The client at the other end of one response; made by `open_stream`.

    A client reads as much as its window says, and more while one of its reading methods
    waits: these grant what they need and not a byte beyond it. Only one task may read at
    a time.

    The methods that are not async take effect at once: when `abort()` returns, the app's
    blocked ``send`` and its ``receive`` are already scheduled to run.
    """

    def __init__(
        self, *, method: str, window: int | None, stuck_sends: bool, raise_app_exceptions: bool
    ) -> None:
        self.status: int | None = None
        """The status code; None until the response has started."""
        self.headers = Headers()
        """The response's headers; empty until it has started."""
        self.error: Exception | None = None
        """What the app raised, if it has."""
        self._contract = _Contract(method)
        self._window: float = math.inf if window is None else window
        self._stuck_sends = stuck_sends
        self._raises = raise_app_exceptions
        self._fault: AssertionError | None = None
        self._received = bytearray()
        self._read_to = 0
        self._demand: float = 0  # what a reader waits for now; its own credit
        self._reading = False
        self._events = SSEDecoder()
        self._values = NDJSONDecoder()
        self._pending: deque[_Chunk] = deque()
        self._sends = self._largest = self._swallowed = 0
        self._complete = False
        self._over = False  # no more bytes will come
        self._closed = False  # both directions: bytes that are sent go nowhere
        self._left = False  # the disconnect was put into the inbox
        self._finished = False
        self._moved = trio.lowlevel.ParkingLot()
        self._inbox: deque[dict[str, Any]] = deque()
        self._inbox_changed = trio.lowlevel.ParkingLot()
        self._feeding = trio.CancelScope()

    # What the client does

    def grant(self, n: int) -> None:
        """Open the window by `n` more bytes; 1 at least.

        Of no effect while the client reads everything.
        """
        _check_count("n", n, least=1)
        self._window += n
        self._pump()

    def stall(self) -> None:
        """Read nothing from now on: the window is 0, whatever it was."""
        self._window = 0

    def resume(self) -> None:
        """Read everything from now on, as fast as it comes."""
        self._window = math.inf
        self._pump()

    def abort(self) -> None:
        """Go away: the app is told by ``http.disconnect``, its sends return in silence.

        What is left of the request's body is never delivered. A second call has no effect.
        """
        self._close()

    def half_close(self) -> None:
        """Send nothing more, but go on reading.

        The app gets ``http.disconnect``, which on HTTP/1.1 is also what Hypercorn makes of
        a half-closed connection, while what it sends still arrives.
        """
        self._leave()

    async def started(self) -> None:
        """Wait until the head of the response is there; it needs no window.

        Raises:
            EndOfBody: if the client has gone or the app has ended without a response.
        """
        await self._until(lambda: self.status is not None or self._over)
        if self.status is None:
            raise EndOfBody("the response never started")

    async def read(self, n: int) -> bytes:
        """Return exactly the next `n` bytes of the body; 1 at least.

        Raises:
            EndOfBody: if the body ends before them; `EndOfBody.partial` has what came.
        """
        _check_count("n", n, least=1)
        with self._as_reader():
            await self._need(n)
            data = self._take(n)
        if len(data) < n:
            raise EndOfBody(f"the body ended {n - len(data)} bytes too early", data)
        return data

    async def read_all(self) -> bytes:
        """Return all that is left of the body, when it is over; cut or not, see `complete`."""
        with self._as_reader():
            await self._need(math.inf)
            return self._take(self._unread)

    async def next_event(self) -> ServerSentEvent:
        """Return the next event of a Server-Sent Events body.

        Takes the bytes to the end of the event's last line; comments and blank lines in
        front of it are skipped.

        Raises:
            EndOfBody: if there is none. An event that was cut is none (WHATWG HTML § 9.2.6).
            DecodingError: if the event is larger than 1 Mi characters.
        """
        with self._as_reader():
            while True:
                # One line ends one event at the most, so that none can be left over.
                for event in self._events.feed(await self._next_line("an event")):
                    return event

    async def next_value(self) -> Any:
        """Return the next value of an NDJSON body; empty lines (heartbeats) are skipped.

        Raises:
            EndOfBody: if there is none. A last line without its line break is none.
            DecodingError: if a line is not JSON, or longer than 1 MiB.
        """
        with self._as_reader():
            while True:
                for value in self._values.feed(await self._next_line("a value")):
                    return value

    def __aiter__(self) -> StreamClient:
        return self

    async def __anext__(self) -> ServerSentEvent:
        """Give the next event; ``async for`` ends with the body, cut or not."""
        try:
            return await self.next_event()
        except EndOfBody:
            raise StopAsyncIteration from None

    async def wait_blocked(self) -> None:
        """Wait until a ``send`` of the app is blocked for want of window.

        Raises:
            EndOfBody: if the body is over, so that this cannot happen any more.
        """
        await self._until(lambda: bool(self._pending) or self._over)
        if not self._pending:
            raise EndOfBody("the body ended without a blocked send")

    async def wait_finished(self) -> None:
        """Wait until the app has returned, or has raised."""
        await self._until(lambda: self._finished)

    # What is known of it

    @property
    def received(self) -> bytes:
        """All bytes of the body that have arrived, read or not."""
        return bytes(self._received)

    @property
    def complete(self) -> bool:
        """Whether the body came to its last byte and its final chunk arrived."""
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
            # A reader that is cancelled takes its credit with it: the app cannot use it later.
            self._reading, self._demand = False, 0

    async def _need(self, n: float) -> None:
        """Wait until `n` unread bytes are there or the body is over."""
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
        """Take what has arrived, to the end of its first line at the most."""
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
        """Move bytes from blocked sends to the client, as far as the credit goes."""
        moved = False
        while self._pending:
            chunk = self._pending[0]
            # A reader's demand is a floor under the window, not added to it: what is
            # granted already is used first.
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
                    self._leave()
        if moved:
            self._moved.unpark_all()

    def _leave(self) -> None:
        """Give the app its one ``http.disconnect``, behind what it has not yet taken."""
        if not self._left:
            self._left = True
            self._feeding.cancel()
            self._inbox.append({"type": "http.disconnect"})
            self._inbox_changed.unpark_all()

    def _close(self) -> None:
        self._leave()
        self._swallowed += sum(len(chunk.rest) for chunk in self._pending)
        self._pending.clear()
        self._closed = self._over = True
        self._moved.unpark_all()

    # The server's side

    async def _serve(self, app: ASGIApp, scope: dict[str, Any]) -> None:
        try:
            await app(scope, self._receive, self._send)
        except Exception as error:
            self.error = error
            if self._raises:
                # Nobody is woken: readers are cancelled by the nursery instead, so that
                # the app's error is not hidden by theirs about a body that ended early.
                raise
        finally:
            self._finished = True
        if self.status is None and self.error is None and not self._left:
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

    async def _feed(self, body: AsyncIterable[bytes]) -> None:
        """Hand the request's body to the app, a few messages ahead of it at the most."""
        closing = aclosing(body) if isinstance(body, AsyncGenerator) else nullcontext()
        with self._feeding:
            async with closing:
                async for data in body:
                    await self._put({"type": "http.request", "body": data, "more_body": True})
                await self._put({"type": "http.request", "body": b"", "more_body": False})

    async def _put(self, message: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        while len(self._inbox) >= _INBOX_SIZE:
            await self._inbox_changed.park()
        self._inbox.append(message)
        self._inbox_changed.unpark_all()

    async def _receive(self) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        while not self._inbox:
            await self._inbox_changed.park()
        message = self._inbox.popleft()
        self._inbox_changed.unpark_all()
        return message

    async def _send(self, message: Any) -> None:
        await trio.lowlevel.checkpoint()
        try:
            part = self._contract.accept(message)
        except AssertionError as fault:
            self._fault = self._fault or fault  # kept, for an app that swallows it
            raise
        if isinstance(part, _Head):
            if not self._closed:
                self.status, self.headers = part.status, part.headers
                self._moved.unpark_all()
        else:
            await self._deliver(part)

    async def _deliver(self, chunk: _Chunk) -> None:
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
            # The bytes that were not delivered leave a hole that nothing can fill. A server
            # has to close such a connection, or the client would take a mangled body for whole.
            if not chunk.delivered:
                self._close()
            raise


@asynccontextmanager
async def open_stream(
    app: ASGIApp,
    path: str = "/",
    *,
    method: str = "GET",
    headers: Mapping[str, str] | HeaderPairs = (),
    query_string: bytes = b"",
    body: bytes | AsyncIterable[bytes] = b"",
    window: int | None = None,
    http_version: str = "1.1",
    stuck_sends: bool = False,
    state: Mapping[str, Any] | None = None,
    raise_app_exceptions: bool = True,
    exit_timeout: float = 60.0,
) -> AsyncGenerator[StreamClient, None]:
    """Call `app` with one HTTP request and give the `StreamClient` that made it.

    When the block ends, a client that is still there aborts, and the app has `exit_timeout`
    seconds to end. When the block fails, the app is cancelled. Exceptions come out as they
    are; only where there are several, in an `ExceptionGroup`.

    Args:
        app: an ASGI application that runs on Trio.
        path: the target as on the wire, ``?`` and a query included if need be.
        method: in upper case.
        headers: a mapping, or pairs; text or bytes. ``host`` is added if it is missing.
        query_string: without the ``?``.
        body: the request's, whole or in pieces; of the latter ten wait for the app at most.
        window: body bytes that the client reads before it is told to read more; None
            reads everything at once.
        http_version: what the scope says; the client behaves alike for all.
        stuck_sends: a blocked ``send`` cannot be cancelled, as on plain Hypercorn, whose
            socket writes are shielded. Otherwise cancelling one cuts the connection.
        state: what the lifespan put into ``scope["state"]``; each request has a shallow copy.
        raise_app_exceptions: false keeps what the app raises in `StreamClient.error`; the
            body then ends without its final chunk.
        exit_timeout: seconds on Trio's clock.

    Raises:
        AssertionError: if the app broke the ASGI specification, or has not ended
            `exit_timeout` seconds after its client had gone.
        ValueError, TypeError: if `window` is not a whole number of 0 or more, or there is
            a query both in `path` and in `query_string`.
    """
    if window is not None:
        _check_count("window", window, least=0)
    scope = _http_scope(
        path,
        method=method,
        headers=headers,
        query_string=query_string,
        http_version=http_version,
        state=state,
    )
    client = StreamClient(
        method=method,
        window=window,
        stuck_sends=stuck_sends,
        raise_app_exceptions=raise_app_exceptions,
    )
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            if isinstance(body, AsyncIterable):
                nursery.start_soon(client._feed, body, name="request body")
            else:
                if body:
                    client._inbox.append({"type": "http.request", "body": body, "more_body": True})
                client._inbox.append({"type": "http.request", "body": b"", "more_body": False})
            nursery.start_soon(client._serve, app, scope, name="ASGI app")
            try:
                yield client
                await client._see_off(exit_timeout)
            except BaseException:
                client.abort()  # also frees a send that cannot be cancelled
                nursery.cancel_scope.cancel()
                raise
    except BaseExceptionGroup as group:
        failure = _only(group)
    if failure is not None:
        raise failure


async def collect(
    app: ASGIApp,
    path: str = "/",
    *,
    method: str = "GET",
    headers: Mapping[str, str] | HeaderPairs = (),
    query_string: bytes = b"",
    body: bytes | AsyncIterable[bytes] = b"",
    http_version: str = "1.1",
    state: Mapping[str, Any] | None = None,
    raise_app_exceptions: bool = True,
    timeout: float = 60.0,
) -> CollectedResponse:
    """Return the whole response of `app` to one request; the arguments of `open_stream`.

    Raises:
        trio.TooSlowError: if the body is not over after `timeout` seconds.
        EndOfBody: if the app raised before it started a response and `raise_app_exceptions`
            is false.
        Exception: whatever `open_stream` raises.
    """
    async with open_stream(
        app,
        path,
        method=method,
        headers=headers,
        query_string=query_string,
        body=body,
        http_version=http_version,
        state=state,
        raise_app_exceptions=raise_app_exceptions,
        exit_timeout=timeout,
    ) as client:
        with trio.fail_after(timeout):
            await client.started()
            data = await client.read_all()
    assert client.status is not None  # else `started` had raised
    return CollectedResponse(client.status, client.headers, data, client.complete)


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
        """Tell the app to start up or shut down, and wait for its answer."""
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

    Gives the state that the app filled; hand it to `open_stream`. When the block fails the
    app is cancelled instead of being shut down.

    Args:
        app: an ASGI application that runs on Trio.
        timeout: seconds on Trio's clock for each: the startup, the shutdown, the return.

    Raises:
        RuntimeError: if the app answers that its startup or its shutdown failed.
        AssertionError: if it gives no answer or two, or does not return after the last one.
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
        failure = _only(group)
    if failure is not None:
        raise failure


def _http_scope(
    path: str,
    *,
    method: str,
    headers: Mapping[str, str] | HeaderPairs,
    query_string: bytes,
    http_version: str,
    state: Mapping[str, Any] | None,
) -> dict[str, Any]:
    path, _, query = path.partition("?")
    if query and query_string:
        raise ValueError("give the query in path or as query_string, not in both")
    raw_path = quote(path, safe="/%:@!$&'()*+,;=~-._")
    pairs = cast(HeaderPairs, headers.items() if isinstance(headers, Mapping) else headers)
    raw_headers = [(_latin(name).lower(), _latin(value)) for name, value in pairs]
    if not any(name == b"host" for name, _ in raw_headers):
        raw_headers.insert(0, (b"host", b"localhost"))
    return {
        "type": "http",
        # What Hypercorn says. From 2.4 on a server would raise OSError from `send` after a
        # disconnect, and frameworks look at this number to know.
        "asgi": {"version": "3.0", "spec_version": "2.1"},
        "http_version": http_version,
        "method": method,
        "scheme": "http",
        "path": unquote(raw_path),
        "raw_path": raw_path.encode("ascii"),
        "query_string": query_string or query.encode("ascii"),
        "root_path": "",
        "headers": raw_headers,
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
        "state": dict(state or {}),
        "extensions": {},
    }


def _latin(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")


def _check_count(name: str, value: int, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int (bytes), not {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least} (bytes), not {value}")


def _only(error: BaseException) -> BaseException:
    """Return the one exception inside groups of one, or the group where there are more."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
