"""Which HTTP/2 stream sends next: the ones that can take turns.

In place of the priority tree of RFC 7540, which RFC 9113 § 5.3.2 has deprecated and which
a client can misuse: a PRIORITY frame for a stream that never comes stays in the tree, a
thousand of them fill it, and a chain of them makes every turn a deep recursion. Streams that
people look at are of one priority, and a turn here costs the same with one and a hundred.
"""

from __future__ import annotations

from priority.priority import DeadlockError, MissingStreamError


class RoundRobin:
    """Streams, and which of them have something to send. The interface is the tree's."""

    def __init__(self) -> None:
        self._streams: set[int] = set()
        self._ready: dict[int, None] = {}  # as an ordered set

    def insert_stream(self, stream_id: int) -> None:
        """Add a stream, blocked."""
        self._streams.add(stream_id)

    def remove_stream(self, stream_id: int) -> None:
        """Forget a stream."""
        self._streams.discard(stream_id)
        self._ready.pop(stream_id, None)

    def block(self, stream_id: int) -> None:
        """Give no turn to a stream, until it is unblocked."""
        self._ready.pop(stream_id, None)

    def unblock(self, stream_id: int) -> None:
        """Give turns to a stream.

        Raises:
            MissingStreamError: there is no such stream.
        """
        if stream_id not in self._streams:
            raise MissingStreamError(stream_id)
        self._ready[stream_id] = None

    def __next__(self) -> int:
        """Return the stream that has waited longest, and put it behind the others.

        Raises:
            DeadlockError: all are blocked.
        """
        if not self._ready:
            raise DeadlockError
        stream_id = next(iter(self._ready))
        del self._ready[stream_id]
        self._ready[stream_id] = None
        return stream_id
