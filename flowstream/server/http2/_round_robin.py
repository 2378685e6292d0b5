"""Choose the HTTP/2 stream that sends next: those with something to send take turns.

This replaces RFC 7540's tree of priorities, which RFC 9113 § 5.3.2 deprecates, and which a client
can misuse. A PRIORITY frame for a stream that never comes stays in the tree, a thousand of them
fill it, and a chain of them makes every choice a deep recursion. Streams that people watch have the
same priority, and a choice here costs the same with one stream and with a hundred.
"""

from __future__ import annotations

from priority.priority import DeadlockError, MissingStreamError


class RoundRobin:
    """Knows the streams that have something to send. Has the interface of the tree."""

    def __init__(self) -> None:
        self._streams: set[int] = set()
        self._ready: dict[int, None] = {}  # as an ordered set

    def insert_stream(self, stream_id: int) -> None:
        """Add a stream. It begins blocked."""
        self._streams.add(stream_id)

    def remove_stream(self, stream_id: int) -> None:
        """Forget a stream."""
        self._streams.discard(stream_id)
        self._ready.pop(stream_id, None)

    def block(self, stream_id: int) -> None:
        """Skip a stream until it is unblocked."""
        self._ready.pop(stream_id, None)

    def unblock(self, stream_id: int) -> None:
        """Let a stream take turns.

        Raises:
            MissingStreamError: there is no such stream.
        """
        if stream_id not in self._streams:
            raise MissingStreamError(stream_id)
        self._ready[stream_id] = None

    def __next__(self) -> int:
        """Return the stream that has waited longest, and put it last.

        Raises:
            DeadlockError: all streams are blocked.
        """
        if not self._ready:
            raise DeadlockError
        stream_id = next(iter(self._ready))
        del self._ready[stream_id]
        self._ready[stream_id] = None
        return stream_id
