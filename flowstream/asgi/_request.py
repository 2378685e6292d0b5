"""What a stream reads from its request's scope: the client's last id, and objects of ours. No I/O.

flowstream's server puts objects into a request's scope for the streams that answer it. Middleware
copies scopes, so each of them is a `Live`: the same one in every copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self
from urllib.parse import parse_qsl

from flowstream._closing import FINAL_ID

# A client may send an id of any length; what no server of ours ever gave out is not kept.
_MAX_ID_LENGTH = 1024


def last_event_id(scope: Mapping[str, Any]) -> str | None:
    """Return the id that the client saw last, or None if it says nothing of one.

    The ``Last-Event-ID`` header (WHATWG HTML § 9.2.4) wins over ``?lastEventId=``, which
    stands in the page's URL and goes stale with the first reconnect. An id that is too
    long or not UTF-8 is returned cut or with replacement characters: it will match nothing,
    but it says that the client was here before.
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
        return None  # more fields than any page of ours sends
    return next((_bounded(value) for name, value in pairs if name == "lastEventId"), None)


def _bounded(id: str) -> str:
    # With a mark at its end: what is left of a number would be another number.
    return id if len(id) <= _MAX_ID_LENGTH else f"{id[: _MAX_ID_LENGTH - 1]}\ufffd"


def is_final(event_id: str) -> bool:
    """Return whether `event_id` is that of an ``end``, or of a ``failed`` to stay away from."""
    return FINAL_ID.match(event_id) is not None


class Live:
    """An object of ours in a request's scope: a copy of the scope, deep or not, has the same one.

    A second connection makes no sense. One that is pickled is None on the other side, where streams
    do without, as under any other server.
    """

    __slots__ = ()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        return type(None), ()


def in_state(scope: Mapping[str, Any], key: str) -> Any:
    """Return what the request's state has under `key`, or None.

    Under another server the state is whatever that server, or some middleware, made of it.
    """
    state = scope.get("state")
    if type(state) is dict or isinstance(state, Mapping):  # which to ask costs more than the rest
        return state.get(key)
    return None
