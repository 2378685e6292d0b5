"""What objects of ours in a request's scope are when middleware copies it."""

from __future__ import annotations

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
