"""Make Quart's request and URL adapter at a third of Quart's cost.

After a restart thousands of browsers come back at once, each with the same path and almost the same
headers. To make Quart's objects for a request costs more than to open its stream, and most of them
are the same as for the request before.

* A request is a copy of one that Quart made. Only what differs is new: the scope and the values
  from it, the headers, the body, the lock. Once for each class of requests, a copy is compared with
  the request that Quart makes of the same scope. If they differ, or if the class has a constructor
  of its own, Quart makes all requests of that class.
* Requests with the same first line and host share a URL adapter, because it depends on nothing
  else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

from quart.wrappers import Request
from werkzeug.datastructures import Headers

logger = logging.getLogger("flowstream")

# Requests may share values of these types.
_IMMUTABLE = (type(None), bool, int, float, str, bytes, tuple)

# A client may send paths of any length, and a new one each time: bound how many are kept, and how
# long they may be.
_ADAPTERS = 128
_LONGEST = 1024


class Requests:
    """Makes the requests of one app that have no body.

    Args:
        copies: whether requests may be copies.

    Attributes:
        copied: how many requests were copies.
        made: how many requests Quart has made.
    """

    def __init__(self, *, copies: bool = True) -> None:
        self._copies = copies
        self._patterns: dict[type[Any], dict[str, Any] | None] = {}
        self._usual: dict[type[Any], frozenset[str]] = {}
        self.copied = 0
        self.made = 0

    def make(self, connection: Any, send: Any) -> Any:
        """Return the request on Quart-Trio's `connection`, its body complete."""
        scope, kind = connection.scope, connection.app.request_class
        pattern = self._patterns.get(kind)
        if pattern is not None and _is_plain(scope):
            self.copied += 1
            return _copy(kind, pattern, connection, send)
        request = connection._create_request_from_scope(send)
        request.body.set_complete()
        self.made += 1
        if kind not in self._usual:
            self._usual[kind] = frozenset(vars(request))
        if self._copies and kind not in self._patterns and _is_plain(scope):
            self._patterns[kind] = self._try(kind, request, connection, send)
        return request

    def usual(self, kind: type[Any]) -> frozenset[str]:
        """Return the names of the attributes of a new request of class `kind`."""
        return self._usual[kind]

    def _try(
        self, kind: type[Any], request: Any, connection: Any, send: Any
    ) -> dict[str, Any] | None:
        why_not = "it has a constructor of its own"
        if _is_made_as_quarts(kind):
            pattern = dict(vars(request))
            try:
                difference = _difference(request, _copy(kind, pattern, connection, send))
            except Exception as error:  # noqa: BLE001  # a new version may raise anything
                difference = repr(error)
            if difference is None:
                return pattern
            why_not = f"a copy differs in {difference}"
        logger.debug("Quart makes each request of class %s: %s", kind.__name__, why_not)
        return None


def _is_made_as_quarts(kind: Any) -> bool:
    return kind.__init__ is Request.__init__ and kind.__new__ is object.__new__


def _is_plain(scope: Mapping[str, Any]) -> bool:
    """Return whether a request can use the values of the scope unchanged."""
    return (
        not scope.get("root_path", "")
        and scope["path"][:1] == "/"
        and scope["path"][:2] != "//"
        and scope["http_version"] == "1.1"
    )


def _copy(kind: type[Any], pattern: Mapping[str, Any], connection: Any, send: Any) -> Any:
    scope, config = connection.scope, connection.app.config
    request: Any = object.__new__(kind)
    own = vars(request)
    own.update(pattern)
    address = (scope.get("client") or ("<local>",))[0]
    fields = [("Remote-Addr", address)]
    for name, value in scope["headers"]:
        text = value.decode("latin1")
        if "\n" in text or "\r" in text:
            raise ValueError("a header has a line break in it")
        fields.append((_title(name), text))
    body = kind.body_class(None, config["MAX_CONTENT_LENGTH"])
    body.set_complete()
    own["method"] = scope["method"].upper()
    own["scheme"] = scope["scheme"]
    own["server"] = scope.get("server")
    own["path"] = scope["path"]
    own["query_string"] = scope["query_string"]
    own["headers"] = headers_of(fields)
    own["remote_addr"] = address
    own["http_version"] = scope["http_version"]
    own["scope"] = scope
    own["body_timeout"] = config["BODY_TIMEOUT"]
    own["body"] = body
    own["_cached_json"] = {False: ..., True: ...}
    own["_parsing_lock"] = kind.lock_class()
    own["_send_push_promise"] = partial(connection._send_push_promise, send)
    return request


def headers_of(fields: list[tuple[str, str]]) -> Headers:
    """Return headers of these fields, which have been checked for line breaks already."""
    headers = Headers()
    headers._list = fields
    return headers


def _difference(request: Any, copy: Any) -> str | None:
    """Return the name of an attribute in which two requests of one scope differ, or None."""
    ours: dict[str, Any] = vars(copy)
    quarts: dict[str, Any] = vars(request)
    for name in sorted(ours.keys() | quarts.keys()):
        if name not in ours or name not in quarts:
            return name
        if not _is_like(name, ours[name], quarts[name]):
            return name
    return None


def _is_like(name: str, one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if name == "scope":
        return one is other
    if name == "headers":
        return one is not other and list(one) == list(other)
    if name == "_cached_json":
        return one is not other and bool(one == other)
    if name in ("body", "_parsing_lock", "_send_push_promise"):
        return one is not other and _parts(one) == _parts(other)
    return isinstance(one, _IMMUTABLE) and bool(one == other)


def _parts(value: Any) -> list[str]:
    return sorted(getattr(value, "__dict__", ()))


@lru_cache(maxsize=512)
def _title(name: bytes) -> str:
    return name.decode("latin1").title()


_Create = Callable[[Any], Any]


def sharing_adapters(app: Any, create: _Create) -> _Create:
    """Wrap the app's `create_url_adapter` (`create`), so that it keeps and shares its adapters."""
    adapters: dict[tuple[Any, ...], Any] = {}

    def create_url_adapter(request: Any) -> Any:
        if (
            request is None
            or request.trusted_hosts is not None
            or app.config["SERVER_NAME"] is not None
        ):
            return create(request)
        host = request.headers.get("host")
        size = len(host or "") + len(request.path) + len(request.query_string)
        if size > _LONGEST:
            return create(request)
        key = (
            *(host, request.server, request.scheme, request.method),
            *(request.root_path, request.path, request.query_string),
            *(app.subdomain_matching, app.url_map.default_subdomain, app.url_map.host_matching),
        )
        adapter = adapters.get(key)
        if adapter is None:
            adapter = create(request)
            if len(adapters) >= _ADAPTERS:
                adapters.clear()
            adapters[key] = adapter
        return adapter

    return create_url_adapter
