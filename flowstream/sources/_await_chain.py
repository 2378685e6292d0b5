"""Find where a suspended coroutine is: what it awaits, what that awaits, and so on down to Trio.

Only this file reads the interpreter's internals, and relies on how Trio is written inside. Both may
change, so the file tests itself once, when it is imported. If the test fails, `is_in_checkpoint`
says that it can't tell, and a warning is logged when the first producer runs. Cleanup still has its
bound (see _shielding.py).
"""

from __future__ import annotations

import gc
import itertools
import logging
import platform
import sys
from collections.abc import AsyncGenerator, Awaitable, Coroutine, Generator
from typing import Any

import trio

logger = logging.getLogger("flowstream")

_ATTRIBUTES = ("cr_await", "ag_await", "gi_yieldfrom")


def is_in_checkpoint(coroutine: Coroutine[Any, Any, Any]) -> bool | None:
    """Return whether it waits in the first half of `trio.lowlevel.checkpoint`.

    That half lets other tasks run. The second, which raises Cancelled, is still to come.

    Args:
        coroutine: one that is suspended.

    Returns:
        None if it can't tell: this interpreter can't be read, or something awaits in an unusual
        way.
    """
    if not readable:
        return None
    chain = _chain(coroutine)
    return None if chain is None else _ends_in_checkpoint(chain)


def _ends_in_checkpoint(chain: list[Any]) -> bool:
    codes = (getattr(awaited, "cr_code", None) for awaited in chain)
    halves = (
        trio.lowlevel.checkpoint.__code__,
        trio.lowlevel.cancel_shielded_checkpoint.__code__,
    )
    return halves in itertools.pairwise(codes)


def _chain(awaited: Any) -> list[Any] | None:
    """Return a suspended coroutine and all that it awaits; None if that can't be followed."""
    chain = []
    while awaited is not None:
        chain.append(awaited)
        for name in _ATTRIBUTES:
            if hasattr(awaited, name):
                awaited = getattr(awaited, name)
                break
        else:
            awaited = _wrapped(awaited)
            if awaited is None:
                return None
    return chain


def _wrapped(step: Any) -> Any:
    """Return what is inside a step of an async generator, or a coroutine's `__await__`.

    These are built in and have no attribute for it, but the garbage collector knows. None is
    returned for all that is not built in.
    """
    if type(step).__module__ != "builtins":
        return None
    inner = gc.get_referents(step)
    for one in inner:
        if any(hasattr(one, name) for name in _ATTRIBUTES):
            return one
    return next((one for one in inner if isinstance(one, Awaitable)), None)


class _Wrapper:
    def __await__(self) -> Generator[Any, Any, None]:
        return trio.lowlevel.checkpoint().__await__()  # noqa: ASYNC105  # it is delegated to


async def _generate() -> AsyncGenerator[None, None]:
    await _Wrapper()
    yield


async def _iterate() -> None:
    async for _ in _generate():
        pass


async def _step() -> None:
    await anext(_generate(), None)


async def _shielded() -> None:
    await trio.lowlevel.cancel_shielded_checkpoint()


def _try() -> bool:
    """Return whether the file correctly reads coroutines that are suspended in each known way."""
    tried: list[tuple[Coroutine[Any, Any, Any], bool]] = [
        (_iterate(), True),
        (_step(), True),
        (_shielded(), False),
    ]
    right = True
    # If this is imported inside Trio, its hooks would take these generators for the program's.
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    for coroutine, expected in tried:
        try:
            coroutine.send(None)  # up to the first request to Trio, which need not run for that
            chain = _chain(coroutine)
            right = right and chain is not None and _ends_in_checkpoint(chain) is expected
        except Exception:  # noqa: BLE001  # whatever has changed, it can't be read
            right = False
        finally:
            coroutine.close()
    sys.set_asyncgen_hooks(*hooks)
    return right


readable = _try()
"""Whether this interpreter and this Trio are known to this file."""

_warned = False


def warn_if_unreadable() -> None:
    """Log one warning, once, if cleanup has to do without this file."""
    global _warned  # noqa: PLW0603
    if readable or _warned:
        return
    _warned = True
    logger.warning(
        "the coroutines of Python %s with Trio %s can't be read by this flowstream: a producer"
        " that is cancelled inside a shield of its own may learn of it only after its"
        " cleanup_timeout",
        platform.python_version(),
        trio.__version__,
    )
