"""What kind of exception the app raised, and what the client may know of it.

Under Trio one exception is often several: a nursery raises a group, and a producer that is
cancelled while it fails raises both in one.

Three exceptions go through whatever is around them: `trio.Cancelled`, which its cancel scope
takes, and KeyboardInterrupt and SystemExit, which end the program. Any other is a failure of
the code that raised it, also one that does not derive from Exception:
`asyncio.CancelledError` from a library that uses asyncio in a thread, a GeneratorExit, the
PanicException of an extension written in Rust. If these went on, they would end
the server, and with it all other streams.
"""

from __future__ import annotations

from collections.abc import Iterator

import trio

from flowstream._closing import CloseReason
from flowstream._errors import EncodingError, PublicError

_ENDS_THE_PROGRAM = (KeyboardInterrupt, SystemExit)


def split(error: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """Split what a producer raised into its cancellation and its failure.

    If KeyboardInterrupt or SystemExit is in it, both parts are None: it is to be raised again
    as it is.
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
    """Return whether `error` is to be raised again: there is more in it than a failure.

    For ``except BaseException`` around a call of the app's code.
    """
    cancelled, failure = split(error)
    return cancelled is not None or failure is None


def is_refusal(error: BaseException) -> bool:
    """Return whether `error` is only what the outlet of an ended stream raises."""
    return all(isinstance(leaf, trio.BrokenResourceError) for leaf in _leaves(error))


def public(reason: CloseReason, error: BaseException | None) -> tuple[str, str, bool]:
    """Return the code and message that the client may see, and whether it may try again.

    A `PublicError` that comes in a group, because it was raised in a nursery, is as public
    as one that comes alone.
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
    """Return what is for the client in `error`, which may be a group."""
    return next((leaf for leaf in _leaves(error) if isinstance(leaf, PublicError)), None)


def kind_of(error: BaseException) -> str:
    """Return what kind of failure it is, in words for a log: its type, never its text.

    Of a `PublicError`, which an app makes for many things, with its code.
    """
    told = public_of(error)
    if told is not None:
        return f"{type(told).__name__} {told.code}"
    return type(first_of(error)).__name__


def first_of(error: BaseException) -> BaseException:
    """Return the first error of a group, or the one that is in none."""
    return next(_leaves(error))


def only(error: BaseException) -> BaseException:
    """Return the one error inside groups of one, or the group where there are more."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


# How asyncio says that its event loop does not run, and anyio or sniffio that none does.
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
    """Add a note to what a library for asyncio raises under Trio, which says what to use."""
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
