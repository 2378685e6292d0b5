"""Bound how much of a model server's answer is held before anybody reads it.

The SDK owns the HTTP client, which reads the responses. It reads the body of an error whole,
however long it is, and inflates compressed bodies. An answer that is not an event stream is
collected until an event is complete. So a hook of the SDK's HTTP client bounds each response to a
request of ours as it comes in. Other requests of that client are not changed.

=================================  =========================================================
of                                 at most this is read
=================================  =========================================================
an error, or a redirect            `MAX_ERROR` bytes; the rest is left, its connection closed
what comes between two events      `MAX_EVENT` bytes; more is a failure
a body in gzip or deflate          as much, inflated; in steps of `_STEP`, between which others run
a body in any other coding         nothing: that is a failure
=================================  =========================================================
"""

from __future__ import annotations

import contextlib
import sys
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextvars import ContextVar
from functools import cache
from typing import Any

import trio

from flowstream._errors import DecodingError
from flowstream.sources.llm._model_failures import broken

MAX_EVENT: int = 16 << 20
"""Bytes of one event: a picture, or a tool's whole arguments, may come in one piece."""

MAX_ERROR: int = 64 * 1024
"""Bytes of an error's body: enough for what an API says, and for a proxy's page."""

_STEP = 64 * 1024
_AS_IT_IS = ("", "identity")
_DEFLATED = ("gzip", "x-gzip", "deflate")

_current: ContextVar[Ration | None] = ContextVar("flowstream_ration", default=None)


class Ration:
    """Counts what may still be read of an answer.

    Attributes:
        left: bytes that may come before the next event.
        truncates: whether a longer answer ends there; otherwise it fails.
    """

    __slots__ = ("left", "truncates")

    def __init__(self) -> None:
        self.left = MAX_EVENT
        self.truncates = False

    def renew(self) -> None:
        """Allow as many bytes again, since those before have been read."""
        self.left = MAX_EVENT

    @contextlib.contextmanager
    def for_requests(self) -> Iterator[None]:
        """Bound the responses to requests that this task makes inside the block."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)


def bound_responses(http: Any) -> None:
    """Make the HTTP client `http` bound the responses to our requests.

    A client without hooks stays unchanged; the SDKs' own clients have them.
    """
    hooks = getattr(http, "event_hooks", None)
    if isinstance(hooks, dict) and _bound not in hooks.setdefault("response", []):
        hooks["response"].insert(0, _bound)  # before one that reads the body


async def _bound(response: Any) -> None:
    ration = _current.get()
    if ration is None:
        return
    coding = response.headers.get("content-encoding", "").strip().lower()
    inflate = _Inflate() if coding in _DEFLATED else None
    if inflate is not None:
        del response.headers["content-encoding"]
    elif coding not in _AS_IT_IS:
        raise broken() from DecodingError(
            f"the model's server answers in the coding {coding[:100]!r}, of which nobody knows "
            "how large it becomes: ask for identity or gzip"
        )
    ration.truncates = not 200 <= response.status_code < 300
    ration.left = MAX_ERROR if ration.truncates else MAX_EVENT
    response.stream = _body_of(response)(response.stream, ration, inflate)


def _body_of(response: Any) -> Any:
    """Return a class of bodies that the HTTP client of `response` takes for one of its own."""
    library = sys.modules[type(response).__module__.partition(".")[0]]
    return _body_in(library.AsyncByteStream)


@cache
def _body_in(base: type) -> type:
    return type("BoundedBody", (_BoundedBody, base), {})


class _BoundedBody:
    """The body of one response."""

    def __init__(self, stream: Any, ration: Ration, inflate: _Inflate | None) -> None:
        self._stream = stream
        self._ration = ration
        self._inflate = inflate

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        ration = self._ration
        parts: AsyncIterator[bytes] = aiter(self._stream)
        try:
            async for part in parts:
                pieces = (part,) if self._inflate is None else self._inflate.pieces(part)
                for number, piece in enumerate(pieces):
                    if number:
                        await trio.lowlevel.checkpoint()
                    if len(piece) > ration.left:
                        if not ration.truncates:
                            raise broken() from DecodingError(f"no event in {MAX_EVENT} bytes")
                        yield piece[: ration.left]
                        return
                    ration.left -= len(piece)
                    yield piece
        finally:
            await unwind(parts)  # noqa: ASYNC102  # it is cancelled at once

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Inflate:
    """Inflates gzip and deflate, one step at a time."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(32 + zlib.MAX_WBITS)  # either, by its head
        self._begun = False

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Inflate `data`, and yield pieces of at most `_STEP` bytes.

        Raises:
            PublicError: ``upstream_broken``: it is not compressed as the server says.
        """
        while data:
            piece, data = self._step(data)
            if piece:
                yield piece

    def _step(self, data: bytes) -> tuple[bytes, bytes]:
        """Return the next piece, and the rest of `data`."""
        if self._inflate.eof:  # RFC 1952 § 2.2: another member may follow
            self._inflate = zlib.decompressobj(32 + zlib.MAX_WBITS)
        try:
            piece = self._inflate.decompress(data, _STEP)
        except zlib.error as error:
            if self._begun:
                raise broken() from error
            # Some servers take "deflate" literally: RFC 1951 without the head of RFC 1950.
            self._begun, self._inflate = True, zlib.decompressobj(-zlib.MAX_WBITS)
            return b"", data
        self._begun = True
        return piece, self._inflate.unconsumed_tail or self._inflate.unused_data


async def unwind(parts: AsyncIterator[Any]) -> None:
    """Run an iterator to its end, so that all generators inside it end, too.

    When an outer generator is closed, HTTP clients leave the inner ones to the garbage collector,
    of which Trio warns. In a cancelled scope this reads only bytes that have come already.
    """
    with trio.CancelScope() as scope, contextlib.suppress(Exception):
        scope.cancel()
        async for _ in parts:
            pass


@contextlib.asynccontextmanager
async def unwinding(parts: AsyncIterator[Any]) -> AsyncGenerator[None, None]:
    """Run an iterator to its end when the block ends: see `unwind`."""
    try:
        yield
    finally:
        await unwind(parts)  # noqa: ASYNC102  # it is cancelled at once
