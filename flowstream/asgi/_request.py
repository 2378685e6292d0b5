"""Read a request's scope: the id that the client saw last, and objects of ours. No I/O.

flowstream's server puts objects into a request's scope for the stream that answers it. Middleware
copies scopes, so each of these objects is a `Live`: every copy of the scope has the same object.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self
from urllib.parse import parse_qsl

from flowstream.ids._event_id import MAX_ID_LENGTH


def last_event_id(scope: Mapping[str, Any]) -> str | None:
    """Return the id of the event that the client saw last, or None if it sent none.

    The ``Last-Event-ID`` header (WHATWG HTML § 9.2.4) wins over ``?lastEventId=``, which is part of
    the page's URL and goes stale with the first reconnect. An id that is too long is cut, and bytes
    that are not UTF-8 become replacement characters: it matches nothing, but shows that the client
    was here before.
    """
    for name, value in scope.get("headers", ()):
        if bytes(name).lower() == b"last-event-id":
            return _bounded(bytes(value).decode("utf-8", "replace")) or None
    query = bytes(scope.get("query_string", b"")).decode("latin-1")
    if "lastEventId=" not in query:
        return None
    try:
        pairs = parse_qsl(query, errors="replace", max_num_fields=100)
    except ValueError:
        return None  # too many fields
    return next((_bounded(value) for name, value in pairs if name == "lastEventId"), None)


def _bounded(id: str) -> str:
    # Mark the cut: without a mark, a shortened number would be another valid number.
    return id if len(id) <= MAX_ID_LENGTH else f"{id[: MAX_ID_LENGTH - 1]}\ufffd"


class Live:
    """An object of ours in a request's scope. Copies of the scope, also deep ones, share it.

    A copy would make no sense, for there is one connection. If it is pickled, it is None after
    unpickling; streams then do without it, as under any other server.
    """

    __slots__ = ()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        return type(None), ()


def in_state(scope: Mapping[str, Any], key: str) -> Any:
    """Return the value of `key` in the request's state, or None.

    Under another server, the state may be anything that the server or some middleware made.
    """
    state = scope.get("state")
    if type(state) is dict or isinstance(state, Mapping):  # isinstance is slow: ask it last
        return state.get(key)
    return None
