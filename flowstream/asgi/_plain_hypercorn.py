"""A word, once, to whoever serves streams with Hypercorn itself.

They work there, but for promises that only the server can keep. Hypercorn is known by the
``send`` that it hands to an application, below whatever middleware has put around it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cache, partial
from types import CellType, FunctionType, MethodType
from typing import Any

logger = logging.getLogger("flowstream")

# Frameworks wrap `send` two or three times; what is deeper is not worth the looking.
_AT_MOST = 32


def warn_on_plain_hypercorn(send: Any) -> None:
    """Warn, once in a process, if `send` is Hypercorn's and not that of flowstream's server."""
    if not _warn.cache_info().currsize and _is_plain_hypercorn(send):
        _warn()


@cache  # once
def _warn() -> None:
    logger.warning(
        "served by Hypercorn itself: a stalled client's socket stays open and holds up the "
        "shutdown, HTTP/2 takes in data without bound, and streams are cut at a shutdown "
        "without a farewell. `flowstream serve module:app` does without these faults"
    )


def _is_plain_hypercorn(send: Any) -> bool:
    for function in _layers(send):
        module = getattr(function, "__module__", None) or ""
        if module.startswith("flowstream.server."):
            return False
        if isinstance(function, MethodType):
            owner = type(function.__self__)
            if owner.__module__.startswith("hypercorn."):
                return True
    return False


def _layers(function: Any) -> Iterator[Any]:
    """Yield `function` and the functions that it is wrapped around, the outermost first."""
    found = [function]
    for outer in found:
        yield outer
        inner: list[Any] = []
        if isinstance(outer, FunctionType):
            inner = [cell.cell_contents for cell in outer.__closure__ or () if _is_filled(cell)]
        elif isinstance(outer, partial):
            inner = [outer.func, *outer.args]
        for one in inner:
            if isinstance(one, (FunctionType, MethodType, partial)) and len(found) < _AT_MOST:
                found.append(one)


def _is_filled(cell: CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018  # it raises
    except ValueError:
        return False
    return True
