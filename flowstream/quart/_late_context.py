"""End a request's context in Quart before its stream, and stand in for it afterwards.

A stream is delivered inside its request's context, which takes 8 KB for as long as the stream
lasts: Quart's request with its headers and body, two contexts, and the calls that they are in. If a
topic or a run feeds the stream, no producer of the app runs there. Then the context ends before the
stream does, unless something in the app is told of that end.

Functions of the app that are still called for the stream (``on_close``, ``where``, a snapshot, a
filter of the log) find `request`, `session`, `g` and `current_app` as before. Objects that hold
something of the app's are kept. The others are made again from the request's scope, when they are
first used.
"""

from __future__ import annotations

from contextvars import Context
from typing import Any

from quart.sessions import NullSession, SecureCookieSession
from quart.signals import appcontext_popped, appcontext_tearing_down, request_tearing_down
from quart.wrappers import Request
from quart_trio import QuartTrio

from flowstream.quart._internals import CONTEXT_VARIABLES, SESSION
from flowstream.quart._requests import Requests

_ENDS = (request_tearing_down, appcontext_tearing_down, appcontext_popped)

# Methods around a context or at its end. An app's own class may have extended them.
_AROUND = (
    "app_context",
    "do_teardown_appcontext",
    "do_teardown_request",
    "handle_request",
    "request_context",
)

# An empty session of one of these classes can be replaced by a new one.
_PLAIN_SESSIONS = (NullSession, SecureCookieSession)


def why_seen(app: Any, request: Any) -> str | None:
    """Return what would notice when a request's context ends, in words for the log; or None."""
    if app.teardown_appcontext_funcs or any(app.teardown_request_funcs.values()):
        return "the app has teardown functions"
    if any(signal.has_receivers_for(app) for signal in _ENDS):
        return "a signal of its end has receivers"
    if type(request).close is not Request.close:
        return "the class of the app's requests has a close() of its own"
    for name in _AROUND:
        if name in vars(app) or getattr(type(app), name) is not getattr(QuartTrio, name):
            return f"the app has a {name}() of its own"
    if type(app).full_dispatch_request is not QuartTrio.full_dispatch_request:
        return "the app has a full_dispatch_request() of its own"
    if request.scope.get("_quart._preserve_context", False):
        return "a test client keeps it"
    return None


class LateContext:
    """Stands in for a request's context that has ended; makes it again when it is first used.

    Args:
        context: the request's context, which is about to end.
        requests: makes the request again.
        connection: Quart-Trio's; `requests` needs it.
        send: the server's; `requests` needs it.

    Attributes:
        app: the Quart app.
    """

    __slots__ = (
        "__dict__",  # empty, unless somebody sets an attribute
        "_connection",
        "_g",
        "_made",
        "_request",
        "_requests",
        "_send",
        "_session",
        "_url_rule",
        "_view_args",
        "app",
    )

    def __init__(self, context: Any, requests: Requests, connection: Any, send: Any) -> None:
        self.app = context.app
        self._requests = requests
        self._connection = connection
        self._send = send
        self._made: Any = None
        request = context.request
        self._url_rule, self._view_args = request.url_rule, request.view_args
        of_the_app = vars(request).keys() - requests.usual(type(request))
        keeps = any(not hasattr(type(request), name) for name in of_the_app)
        self._request = request if keeps else None
        session = getattr(context, SESSION)
        plain = type(session) in _PLAIN_SESSIONS and not session
        self._session = type(session) if plain else session
        g = CONTEXT_VARIABLES[0].get().g
        self._g = g if vars(g) else type(g)

    def __getattr__(self, name: str) -> Any:
        if self._made is None:
            self._made = self._make()
        return getattr(self._made, name)

    def _make(self) -> Any:
        request = self._request
        if request is None:
            request = self._requests.make(self._connection, self._send)
        context = self.app.request_context(request)
        request.url_rule, request.view_args = self._url_rule, self._view_args
        session, g = self._session, self._g
        setattr(context, SESSION, session() if isinstance(session, type) else session)
        context.g = g() if isinstance(g, type) else g  # in Quart 0.22 another context has it
        return context

    def enter(self) -> list[Any]:
        """Become the current task's context; return the tokens for `leave`."""
        return [variable.set(self) for variable in CONTEXT_VARIABLES]

    def leave(self, tokens: list[Any]) -> None:
        """Restore the task's former context."""
        for variable, token in zip(CONTEXT_VARIABLES, tokens, strict=True):
            variable.reset(token)

    def replace_in(self, context: Context) -> None:
        """Replace the ended context in this copy of the task's context variables."""
        for variable in CONTEXT_VARIABLES:
            context.run(variable.set, self)
