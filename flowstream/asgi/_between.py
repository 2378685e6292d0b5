"""Check what stands between a stream and the server: the functions that wrap ``send``.

A direct write skips these functions. That is safe if a function passes every body on unchanged. It
is also safe if it changes every body, because the connection notices that
(`flowstream.asgi._direct_write`). But a function that changes only some bodies, for example to
remove secrets, looks harmless there. So this module checks each function, from the stream to the
server. If one is not in the table below, there are no direct writes, unless the app says
``direct=True``.

A function is recognised by its code and by the module that defines it. Its ``__name__`` and
``__module__`` prove nothing: `functools.wraps` copies them from the wrapped function.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from functools import lru_cache, partial
from types import CellType, FunctionType, MethodType
from typing import Any

from flowstream.asgi._direct_write import DirectWrite

logger = logging.getLogger("flowstream")

# Known functions and methods. A method also needs an owner of exactly one of the classes in
# `_KNOWN_OWNERS`, because a subclass may do anything.
# {(module, qualified name): name of the variable, attribute or keyword that holds the inner `send`}
_KNOWN = {
    ("flowstream.quart._connection_class", "_raising_oserror.<locals>.send_or_oserror"): "send",
    ("flowstream.starlette", "_Wrapped.__call__.<locals>.send_ours"): "send",
    # Notes that the response has begun.
    ("starlette.middleware.errors", "ServerErrorMiddleware.__call__.<locals>._send"): "send",
    (
        "starlette._exception_handler",
        "wrap_app_handling_exceptions.<locals>.wrapped_app.<locals>.sender",
    ): "send",
    # Add headers.
    ("starlette.middleware.sessions", "SessionMiddleware.__call__.<locals>.send_wrapper"): "send",
    ("starlette.middleware.cors", "CORSMiddleware.send"): "send",
    # Compress the whole body, or nothing.
    ("starlette.middleware.gzip", "GZipResponder.send_with_gzip"): "send",
    ("starlette.middleware.gzip", "IdentityResponder.send_with_compression"): "send",
}
_KNOWN_OWNERS = {
    ("starlette.middleware.cors", "CORSMiddleware"),
    ("starlette.middleware.gzip", "GZipResponder"),
    ("starlette.middleware.gzip", "IdentityResponder"),
}
_SERVER = ("flowstream.server._applications", "_Send")

# Layers to look at. Frameworks wrap `send` two or three times.
_AT_MOST = 32


def is_known(send: Any, direct_write: DirectWrite) -> bool:
    """Return whether every function between `send` and the server's own ``send`` is known.

    Args:
        send: the ``send`` that the stream was given.
        direct_write: the request's; the server's own ``send`` must belong to it.
    """
    for _ in range(_AT_MOST):
        if _class_of(send) == _SERVER:
            return send.direct_write is direct_write
        send = _inside(send)
        if send is None:
            return False
    return False


def _inside(send: Any) -> Any:
    """Return the `send` that a known function wraps; None if the function is not known."""
    keywords: dict[str, Any] = {}
    if type(send) is partial:
        if send.args:
            return None
        keywords, send = send.keywords, send.func
    if type(send) is MethodType:
        owner = send.__self__
        name = _KNOWN.get(_code_of(send.__func__))
        if name is None or _class_of(owner) not in _KNOWN_OWNERS:
            return None
        return keywords[name] if name in keywords else getattr(owner, name, None)
    if type(send) is FunctionType and not keywords:
        name = _KNOWN.get(_code_of(send))
        return None if name is None else _variables(send).get(name)
    return None


def _code_of(function: Any) -> tuple[str, str]:
    if type(function) is not FunctionType:
        return "", ""
    return function.__globals__.get("__name__", ""), function.__code__.co_qualname


def _class_of(value: Any) -> tuple[str, str]:
    return type(value).__module__, type(value).__qualname__


def _variables(function: FunctionType) -> dict[str, Any]:
    """Return the variables that a function uses from the functions around it."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return {name: cell.cell_contents for name, cell in cells if _is_filled(cell)}


def _is_filled(cell: CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018  # it raises
    except ValueError:
        return False
    return True


# -- names for the log -----------------------------------------------------------------------


def layers(send: Any) -> Iterator[Any]:
    """Yield `send` and what it seems to wrap, known or not, the outermost first."""
    found = [send]
    for outer in found:
        yield outer
        for name, inner in _parts(outer):
            is_function = isinstance(inner, (FunctionType, MethodType, partial))
            if (is_function or ("send" in name and callable(inner))) and len(found) < _AT_MOST:
                found.append(inner)


def _parts(outer: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(outer, FunctionType):
        return _variables(outer).items()
    if isinstance(outer, partial):
        return [("", outer.func), *(("send", one) for one in outer.args), *outer.keywords.items()]
    owner = outer.__self__ if isinstance(outer, MethodType) else outer
    return getattr(owner, "__dict__", {}).items()


def name_unknown(send: Any, app: Any) -> str:
    """Return the names of the unknown functions around the server's ``send``.

    Args:
        send: the ``send`` that the stream was given.
        app: the framework's app, if the scope has it.
    """
    names: dict[str, None] = {}
    for layer in layers(send):
        if _class_of(layer) == _SERVER:
            break
        if _inside(layer) is None:
            names.update(dict.fromkeys(_names_of(layer, app)))
    return ", ".join(names) or "something unknown"


def _names_of(layer: Any, app: Any) -> list[str]:
    if isinstance(layer, MethodType):
        return [".".join(_class_of(layer.__self__))]
    if isinstance(layer, partial):
        return _names_of(layer.func, app)
    if not isinstance(layer, FunctionType):
        return [".".join(_class_of(layer))]
    module, name = _code_of(layer)
    if module == "starlette.middleware.base":
        # This middleware passes messages through a queue, which hides what wraps what.
        return _dispatching(app) or [f"{module}.BaseHTTPMiddleware"]
    return [f"{module}.{name.partition('.<locals>')[0].removesuffix('.__call__')}"]


def _dispatching(app: Any) -> list[str]:
    """Return the names of a Starlette app's middleware that is built on `BaseHTTPMiddleware`."""
    names = []
    for middleware in getattr(app, "user_middleware", ()):
        options = getattr(middleware, "kwargs", None) or getattr(middleware, "options", {})
        what = options.get("dispatch") or middleware.cls
        if any(base.__module__ == "starlette.middleware.base" for base in middleware.cls.__mro__):
            names.append(f"{what.__module__}.{what.__qualname__}")
    return names


@lru_cache(maxsize=256)  # once for each
def tell(names: str) -> None:
    """Log what keeps publishers from writing directly, and what to do about it."""
    logger.info(
        "publishers do not write to clients directly, and each event costs ten times the CPU: %s "
        "stands between the stream and the server, and may change what is sent. If it passes the "
        "bodies of streams on as they are, say so: sse(topic, direct=True), or in Quart "
        "Flowstream(app, direct=True)",
        names,
    )
