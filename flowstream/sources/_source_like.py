"""SourceLike: the type of everything that an app may pass as a source.

`as_source` decides at run time; this type is for type checkers. ``Iterable[Any]`` would accept
text, whose items are its characters, and a dict, whose items are its keys. So a collection is
recognised by its ``in``, which in text takes only text; and any other iterable is accepted if its
items are rows.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, ClassVar, Protocol, TypeAlias

import trio

from flowstream._event import Event
from flowstream.buffer._outlet import Outlet
from flowstream.sources._feed import Feed, HasFeed
from flowstream.sources._source import Source


class Collection(Protocol):
    """A list, tuple, range or deque of anything; not text or bytes."""

    def __contains__(self, value: object, /) -> bool: ...
    def __iter__(self) -> Iterator[Any]: ...
    def index(self, value: Any, /) -> int:
        """Return the index of an item."""
        ...


class Dataclass(Protocol):
    """An object of a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


class Model(Protocol):
    """An object of a pydantic model."""

    def model_dump(self) -> Any:
        """Return it as plain values."""


Row: TypeAlias = Mapping[Any, Any] | tuple[Any, ...] | list[Any] | Dataclass | Model | Event

SourceLike: TypeAlias = (
    Source
    | Feed
    | HasFeed
    | AsyncIterable[Any]
    | trio.abc.ReceiveChannel[Any]
    | Callable[[], AsyncIterable[Any]]
    | Callable[[], Iterator[Any]]
    | Callable[[Outlet], Awaitable[object]]
    | Iterator[Any]
    | Collection
    | AbstractSet[Any]
    | Iterable[Row]
)
"""What an app may pass as a source.

A source, topic or run of flowstream, or a list of topics and runs; an async iterable, or an
async generator function without arguments; a producer function, ``async def produce(out)``; a Trio
receive channel; a sync iterator, generator function, list, tuple or set, or an iterable of rows.
Pass any other iterable as ``iter(it)``, to satisfy a type checker.
"""
