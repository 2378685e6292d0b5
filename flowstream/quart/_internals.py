"""All undocumented parts of Quart and Quart-Trio that flowstream uses, in one place.

Quart-Trio 0.12 runs on Quart 0.22; Quart-Trio 0.13, which needs Python 3.13, on Quart 0.23. The
two differ in some of these parts. All parts are named here, and checked when this module is
imported. So a release that changes one gives a clear error then, and not a failed request later.
The wrappers around an app's functions pass their arguments on unchanged, so arguments are checked
only for functions that flowstream itself calls.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from importlib.metadata import version
from typing import Any, cast

import quart.globals
import quart.wrappers.base
from quart import Quart
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection
from werkzeug.datastructures import Headers

__all__ = [
    "CONTEXT_VARIABLES",
    "SESSION",
    "ClientGone",
    "TrioASGIHTTPConnection",
    "check_parameters",
    "choose_shape",
    "current_context",
    "handle_exception",
    "handle_http_exception",
    "note_departure",
]

TRIED = ("Quart 0.22.0 with Quart-Trio 0.12.0", "Quart 0.23.1 with Quart-Trio 0.13.0")
"""The versions with which the tests have passed."""

WRAPPED = (
    "preprocess_request",
    "dispatch_request",
    "make_response",
    "finalize_request",
    "full_dispatch_request",
    "asgi_http_class",
    "asgi_lifespan_class",
)
"""The attributes of an app that flowstream replaces."""

ClientGone: type[Exception] = getattr(quart.wrappers.base, "ClientDisconnectedError", OSError)
"""What Quart raises when a server's `send` raises OSError after a disconnect."""

_CALLED = {
    "handle_messages": ("self", "nursery", "request", "receive"),
    "handle_request": ("self", "nursery", "request", "send"),
    "_create_request_from_scope": ("self", "send"),
    "_send_response": ("self", "send", "response"),
}


def _unexpected(what: str) -> RuntimeError:
    return RuntimeError(
        f"Quart {version('quart')} with Quart-Trio {version('quart-trio')}: {what}. "
        f"flowstream was tried with {' and '.join(TRIED)}: install one of these"
    )


def check_parameters(owner: type[Any], name: str, *expected: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the parameters of the method `name`.

    Raises:
        RuntimeError: there is no such method, or its parameters are none of `expected`.
    """
    method = getattr(owner, name, None)
    if method is None:
        raise _unexpected(f"{owner.__name__} has no {name!r}")
    parameters = tuple(inspect.signature(method).parameters)
    if parameters not in expected:
        raise _unexpected(f"{owner.__name__}.{name} takes {', '.join(parameters)}")
    return parameters


def choose_shape(
    owner: type[Any], name: str = "handle_http_exception"
) -> Callable[[Any, Any], Awaitable[Any]]:
    """Return a function that answers an error with the method `name` of an app.

    Raises:
        RuntimeError: the method of class `owner` has neither of the two known lists of parameters.
    """
    with_context = ("self", "ctx", "error")
    parameters = check_parameters(owner, name, ("self", "error"), with_context)

    async def handle(app: Any, error: Exception) -> Any:
        return await getattr(app, name)(error)

    async def handle_in_context(app: Any, error: Exception) -> Any:
        context: Any = quart.globals.app_ctx
        return await getattr(app, name)(context._get_current_object(), error)

    return handle_in_context if parameters == with_context else handle


def note_departure(connection: Any, request: Any) -> None:
    """Do what `handle_messages` does at a disconnect before it cancels the request.

    Quart 0.22 does nothing. In 0.23, sending and reading the body raise from then on.
    """
    connection._disconnected = True
    if hasattr(request.body, "disconnect"):
        request.body.disconnect()


for _name in WRAPPED:
    if not hasattr(QuartTrio, _name):
        raise _unexpected(f"QuartTrio has no {_name!r}")
for _name, _parameters in _CALLED.items():
    check_parameters(TrioASGIHTTPConnection, _name, _parameters)

handle_http_exception = choose_shape(Quart)
"""``await handle_http_exception(app, error)`` returns the answer of `app` for an HTTP error."""

handle_exception = choose_shape(QuartTrio, "handle_exception")
"""``await handle_exception(app, error)`` returns the answer of `app` for an unhandled error."""

CONTEXT_VARIABLES: tuple[ContextVar[Any], ...] = tuple(
    getattr(quart.globals, name)
    for name in ("_cv_app", "_cv_request")
    if hasattr(quart.globals, name)
)
"""The context variables behind `current_app`, `g`, `request` and `session`.

There is one; in Quart 0.22 one is for the app's context, and another for the request's.
"""


def current_context() -> Any:
    """Return the context of the request that is being answered."""
    return CONTEXT_VARIABLES[-1].get()


SESSION = "session" if len(CONTEXT_VARIABLES) == 2 else "_session"
"""The attribute of a request's context that has the session, and does not count as an access."""


def _check_contexts() -> None:
    """Check the parts of a request's context that `flowstream.quart._late_context` uses."""
    app = QuartTrio(__name__, static_folder=None)
    scope = {
        **{"type": "http", "method": "GET", "scheme": "http", "path": "/", "root_path": ""},
        **{"query_string": b"", "headers": [(b"host", b"here")], "http_version": "1.1"},
    }
    request = TrioASGIHTTPConnection(app, cast(Any, scope))._create_request_from_scope(
        cast(Any, None)
    )
    context = app.request_context(request)
    variables = [variable.name for variable in CONTEXT_VARIABLES]
    if variables not in (["quart.app_ctx"], ["quart.app_ctx", "quart.request_ctx"]):
        raise _unexpected(f"the variables of its contexts are {variables}")
    if SESSION not in vars(context) or not hasattr(request.body, "set_complete"):
        raise _unexpected(f"a request's context has no {SESSION!r}, or its body no end")
    for name in ("url_rule", "view_args", "routing_exception"):
        if not hasattr(request, name):
            raise _unexpected(f"a request has no {name!r}")


_check_contexts()
if Headers([("Name", "value")])._list != [("Name", "value")]:
    raise _unexpected("Werkzeug's headers are no list of fields")
