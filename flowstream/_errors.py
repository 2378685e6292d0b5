"""The errors of flowstream, sorted by whose fault they are.

::

    FlowstreamError
    ├── SourceError (TypeError)        yours: what you passed is not a source
    ├── EncodingError (ValueError)     yours: an item that the chosen format cannot carry
    ├── StreamUsedError (RuntimeError) yours: a response that was already served once
    ├── MissingExtraError (ImportError) the environment's: an optional dependency is absent
    ├── PublicError                    yours to raise: its code and message reach the client
    │   ├── NotFoundError              the client's: what it asked for is not there
    │   └── UpstreamError              that of a service you use: a model's server, a database
    ├── NotAuthorizedError             the client's: it may not have this topic (see `Topics`)
    ├── TopicNameError (ValueError)    the client's: it is too long (see `Topics`)
    ├── TooManyTopicsError             nobody's: no room for another topic (see `Topics`)
    ├── LogUnavailableError            the environment's: a topic's log can't be reached or used
    │   └── LogFullError               its disk is full
    ├── FencedError                    nobody's: somebody else owns the topic of a log by now
    ├── SlowConsumerError              a subscription's: it did not take its events in time
    └── DecodingError (ValueError)     the peer's: bytes that are not the format they claim to be

A wrong argument raises the built-in ``ValueError`` or ``TypeError``, at the call. Nothing that a
*client* does raises an error in your code. When a client leaves, its producer is cancelled.
"""

from __future__ import annotations

import math
import sys
import threading
from functools import partial
from typing import Any


class FlowstreamError(Exception):
    """The base of every error that flowstream defines."""


class SourceError(FlowstreamError, TypeError):
    """Something that cannot be streamed was given as a source.

    Raised by `stream()` and its kin when they are called, never later.
    """


class EncodingError(FlowstreamError, ValueError):
    """An item cannot be written in the stream's format.

    Raised inside the producer's `send`. If the producer does not catch it, the stream ends with
    a ``failed`` event and the close reason ``error``; the log names the item's type.
    """


def unencodable(data: object, error: BaseException) -> EncodingError:
    """Return the error for an item that a format refused with `error`."""
    if isinstance(error, RecursionError):
        why = "it is nested too deep, or contains itself"
        return EncodingError(f"an item of type {type(data).__qualname__} cannot be encoded: {why}")
    return EncodingError(f"an item of type {type(data).__qualname__} cannot be encoded: {error}")


def event_in_event() -> TypeError:
    """Return the error for an `Event` that is given as data."""
    return TypeError(
        "an Event is not data: write publish(event.data, type=event.type, key=event.key)"
    )


class StreamUsedError(FlowstreamError, RuntimeError):
    """A `StreamResponse` was called a second time; its source can be read only once."""


class MissingExtraError(FlowstreamError, ImportError):
    """An optional dependency is not installed; the message names the extra to install."""


class LogUnavailableError(FlowstreamError):
    """A log can't be reached, read or written. The message says why, and what to do.

    Attributes:
        maybe: whether what was to be appended may be in the log all the same. If so, call `append`
            again with the same token: it appends nothing twice.
    """

    def __init__(self, message: str, *, maybe: bool = False) -> None:
        super().__init__(message)
        self.maybe = maybe

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), maybe=self.maybe), self.args


class LogFullError(LogUnavailableError):
    """A log has no room for what was to be appended, and did not append it."""


class FencedError(FlowstreamError):
    """A topic's lease is another one than the caller's, or has ended. Nothing was appended.

    The caller was silent for longer than its lease, so somebody ended the lease or took it over.
    """


def copied_error(error: Exception) -> Exception:
    """Return a log's error as one of its own, for each task that gets it and adds a traceback."""
    if isinstance(error, FencedError):
        one: Exception = type(error)(*error.args)
    elif isinstance(error, LogUnavailableError):
        one = type(error)(*error.args, maybe=error.maybe)
    else:
        return error
    one.__cause__ = error.__cause__
    return one


class DecodingError(FlowstreamError, ValueError):
    """Bytes handed to a decoder break the format or a bound of the decoder."""


def missing_extra(what: str, extra: str) -> MissingExtraError:
    """Return the error for `what` that needs the optional dependencies of `extra`."""
    return MissingExtraError(
        f"{what} needs the extra {extra!r}: pip install 'flowstream-trio[{extra}]'"
    )


def other_event_loop() -> RuntimeError:
    """Return the error for a call that needs Trio, made where Trio does not run."""
    return RuntimeError(
        "flowstream runs on Trio, and here runs another event loop, or none: serve the app with "
        "`flowstream serve module:app` or `hypercorn --worker-class trio module:app`, and call "
        "this in an async function"
    )


def asyncio_runs() -> bool:
    """Return whether asyncio's event loop runs in this thread."""
    try:
        sys.modules["asyncio"].get_running_loop()
    except (KeyError, RuntimeError):  # not even imported; or no loop
        return False
    return True


def outside_event_loop(topic: str, *, used: bool) -> RuntimeError:
    """Return the error for publishing to a topic where Trio does not run.

    Args:
        topic: its name.
        used: whether an event loop has used it already; then this is most likely a thread.
    """
    if asyncio_runs():
        return other_event_loop()
    if used or threading.current_thread() is not threading.main_thread():
        return RuntimeError(
            f"{topic} was published to in a thread: write topic.publish_from_thread(...) there"
        )
    return RuntimeError(
        f"{topic} was published to before Trio runs: publish when the app is served, in a "
        "view or at its startup (Quart's before_serving, Starlette's lifespan)"
    )


class PublicError(FlowstreamError):
    """Raise this in a producer to tell the client why the stream failed.

    For any other exception the client gets ``{"code": "internal", ...}`` without the exception's
    text, which may hold secrets.

    Once the stream has begun, the client gets a ``failed`` event. Before that (``prime=``, or a
    source that fails when it is made), it gets a response with `status`, and with the code and the
    message as JSON.

    Args:
        code: a short machine-readable word, e.g. ``"quota_exceeded"``.
        message: one sentence for the person at the other end.
        retryable: whether the client may connect and try again. If false, the default, the
            ``failed`` event carries an id that gets a reconnecting EventSource a 204, which stops
            it.
        status: the HTTP status if nothing was sent yet, 400 to 599.
        retry_after: seconds after which to try again (``Retry-After``, RFC 9110 § 10.2.3).

    Raises:
        TypeError, ValueError: `status` is no error's, or `retry_after` is negative or not finite.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        retryable: bool = False,
        status: int = 500,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        if not isinstance(status, int):
            raise TypeError(f"status must be an int, not {status!r}")
        if not 400 <= status <= 599:
            raise ValueError(f"status must be that of an error, 400 to 599, not {status!r}")
        if retry_after is not None and not 0 <= retry_after < math.inf:
            raise ValueError(f"retry_after must be 0 or more seconds, finite, not {retry_after!r}")
        self.code = code
        self.message = message
        self.retryable = retryable
        self.status = status
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        """Further headers of the response, if nothing was sent yet."""
        if self.retry_after is None:
            return {}
        return {"Retry-After": str(math.ceil(self.retry_after))}


class NotFoundError(PublicError):
    """What the client asked for is not there: a file, a run. Status 404."""

    def __init__(self, message: str, *, code: str = "not_found") -> None:
        super().__init__(code, message, status=404)


class UpstreamError(PublicError):
    """A service that the producer uses failed: a model's server, a database. Status 502 to 504."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        retryable: bool = True,
        status: int = 502,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(code, message, retryable=retryable, status=status, retry_after=retry_after)
