"""Objects of ours in a request's scope: how they are found, and what they are in its copies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self


class Live:
    """An object of ours in a request's scope: a copy of the scope, deep or not, has the same one.

    Middleware copies scopes, and a second connection makes no sense. One that is pickled is
    None on the other side, where streams do without, as under any other server.
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
