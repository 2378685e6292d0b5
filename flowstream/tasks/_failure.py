"""Sort the exceptions that the app raises, and decide what the client may know of them.

Under Trio one exception is often several. A nursery raises a group, and a producer that is
cancelled while it fails raises both in one group.

Three exceptions must always go on: `trio.Cancelled`, which its cancel scope catches, and
KeyboardInterrupt and SystemExit, which end the program. Any other exception is a failure of the
code that raised it, also if it does not derive from Exception: `asyncio.CancelledError` from a
library that uses asyncio in a thread, a GeneratorExit, the PanicException of an extension written
in Rust. If these went on, they would end the server, and with it all other streams.
"""

from __future__ import annotations

from collections.abc import Iterator

import trio

from flowstream._closing import CloseReason
from flowstream._errors import EncodingError, PublicError

_ENDS_THE_PROGRAM = (KeyboardInterrupt, SystemExit)


def split(error: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """Split what a producer raised into its cancellation and its failure.

    If it contains KeyboardInterrupt or SystemExit, both parts are None: raise it again as it is.
    """
    if isinstance(error, Exception):
        return None, error
    if any(isinstance(leaf, _ENDS_THE_PROGRAM) for leaf in _leaves(error)):
        return None, None
    if isinstance(error, trio.Cancelled):
        return error, None
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)
    return None, error


def passes(error: BaseException) -> bool:
    """Return whether `error` must be raised again, because it is more than a failure.

    Use it in an ``except BaseException`` around a call of the app's code.
    """
    cancelled, failure = split(error)
    return cancelled is not None or failure is None


def is_refusal(error: BaseException) -> bool:
    """Return whether `error` is only the refusal that the outlet of an ended stream raises."""
    return all(isinstance(leaf, trio.BrokenResourceError) for leaf in _leaves(error))


def public(reason: CloseReason, error: BaseException | None) -> tuple[str, str, bool]:
    """Return the code and message that the client may see, and whether it may try again.

    A `PublicError` counts also inside a group, which a nursery makes.
    """
    if error is not None:
        told = public_of(error)
        if told is not None:
            return told.code, told.message, told.retryable
        if any(isinstance(leaf, EncodingError) for leaf in _leaves(error)):
            return "encoding", "an item could not be written in this format", False
    if reason is CloseReason.MAX_BYTES:
        return reason.value, "the stream reached its limit in bytes", False
    return "internal", "the stream failed", False


def public_of(error: BaseException) -> PublicError | None:
    """Return the first `PublicError` in `error`, which may be a group; None if it has none."""
    return next((leaf for leaf in _leaves(error) if isinstance(leaf, PublicError)), None)


def kind_of(error: BaseException) -> str:
    """Return the kind of a failure, in words for a log: its type, never its text.

    A `PublicError` stands for many things, so its code is added.
    """
    told = public_of(error)
    if told is not None:
        return f"{type(told).__name__} {told.code}"
    return type(first_of(error)).__name__


def first_of(error: BaseException) -> BaseException:
    """Return the first error of a group, or `error` itself if it is no group."""
    return next(_leaves(error))


def only(error: BaseException) -> BaseException:
    """Return `error` without groups that hold a single error."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


# What the errors of asyncio, anyio and sniffio say if asyncio's event loop does not run.
_WANTS_ASYNCIO = ("no running event loop", "no current event loop")

ASYNCIO_HINT = (
    "This library needs asyncio, and flowstream runs on Trio. Use one that runs on Trio (httpx, "
    "anyio and the openai and anthropic clients do), call it in a thread with "
    "`await trio.to_thread.run_sync(asyncio.run, ...)`, or wrap it with trio-asyncio: "
    "`async with trio_asyncio.open_loop(): await trio_asyncio.aio_as_trio(function)(...)`"
)


def wants_asyncio(text: str) -> bool:
    """Return whether the text of an error says that asyncio's event loop is missing."""
    return any(words in text for words in _WANTS_ASYNCIO)


def explain_asyncio(error: BaseException) -> None:
    """If a library for asyncio raised `error` under Trio, add a note that says what to use."""
    for leaf in _leaves(error):
        noted = ASYNCIO_HINT in getattr(leaf, "__notes__", ())
        if isinstance(leaf, RuntimeError) and wants_asyncio(str(leaf)) and not noted:
            leaf.add_note(ASYNCIO_HINT)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
