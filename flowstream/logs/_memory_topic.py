"""One topic of a log in memory: its events, its epochs, and what it remembers besides."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence

from flowstream.abc import Appended, Head, LogEntry, Position, Record
from flowstream.ids._event_id import new_epoch
from flowstream.limits import Replay
from flowstream.logs._append_arguments import (
    FORGET_SECONDS,
    LATEST_BYTES,
    LATEST_KEYS,
    PAGE_BYTES,
    TOKEN_EVENTS,
)
from flowstream.logs._epochs import Epochs, locate
from flowstream.logs._idempotency_keys import IdempotencyKeys


class MemoryTopic:
    """A topic. Its methods take the time, in seconds on any clock that never goes back.

    Args:
        epochs: its first epoch.
        number: the number before its first event.
        touched: when it was last appended to, or deleted.
        deleted: whether it was deleted, and not appended to since.

    Attributes:
        epochs: its epochs.
        number: the number of its newest event.
        touched: as above.
        deleted: as above.
        keys: its idempotency keys.
    """

    __slots__ = (
        "_events",
        "_keep",
        "_latest",
        "_latest_size",
        "_size",
        "_tokens",
        "deleted",
        "epochs",
        "keys",
        "number",
        "touched",
    )

    def __init__(
        self, epochs: Epochs, number: int = 0, touched: float = 0.0, deleted: bool = False
    ) -> None:
        self.epochs = epochs
        self.number = number
        self.touched = touched
        self.deleted = deleted
        self._keep = Replay()
        self._events: deque[tuple[float, Record]] = deque()
        self._size = 0
        self._tokens: OrderedDict[str, tuple[int, list[Appended]]] = OrderedDict()
        self.keys: IdempotencyKeys[Appended] = IdempotencyKeys()
        self._latest: OrderedDict[str, tuple[float, Record]] = OrderedDict()
        self._latest_size = 0

    def append(
        self, entries: Sequence[LogEntry], keep: Replay, token: str, now: float
    ) -> tuple[list[Appended], list[Record]]:
        """Append the entries; return each one's place, and the new records."""
        if token in self._tokens:
            return list(self._tokens[token][1]), []
        self._keep = keep
        self.touched = now
        self.deleted = False
        epoch = self.epochs[-1][0]
        results: list[Appended] = []
        records: list[Record] = []
        for entry in entries:
            key = entry.idempotency_key
            known = None if key is None else self.keys.find(key, now)
            if known is not None:
                results.append(known)
                continue
            self.number += 1
            record = Record(epoch, self.number, entry.data)
            results.append(Appended(epoch, self.number, False))
            records.append(record)
            self._events.append((now, record))
            self._size += len(entry.data)
            if key is not None:
                again = Appended(epoch, self.number, True)
                self.keys.remember(key, again, now + entry.idempotency_seconds)
            if entry.key is not None:
                self._put_latest(entry.key, now, record)
        self._tokens[token] = self.number, results
        while next(iter(self._tokens.values()))[0] <= self.number - TOKEN_EVENTS:
            self._tokens.popitem(last=False)
        self.trim(keep, now)
        return list(results), records

    def trim(self, keep: Replay | None, now: float) -> int:
        """Forget what `keep` does not keep; return how many events that were."""
        keep = keep or self._keep
        before = len(self._events)
        while self._events and (
            len(self._events) > keep.items
            or self._size > keep.bytes
            or self._events[0][0] <= now - keep.seconds
        ):
            self._size -= len(self._events.popleft()[1].data)
        return before - len(self._events)

    def head(self, now: float) -> Head:
        """Return how far it has come."""
        self.trim(None, now)
        return Head(self.epochs, self.number, self.number + 1 - len(self._events))

    def read(self, after: Position, limit: int, now: float) -> tuple[Head, bool, list[Record]]:
        """Return the head, whether `after` is known, and what follows it."""
        head = self.head(now)
        number = locate(self.epochs, self.number, after)
        if number is None:
            return head, False, []
        records: list[Record] = []
        room = PAGE_BYTES
        for place in range(max(0, number + 1 - head.first), len(self._events)):
            at, record = self._events[place]
            room -= len(record.data)
            if len(records) == limit or (records and room < 0):
                break
            records.append(record._replace(age=now - at))
        return head, True, records

    def latest(self, after: str, now: float) -> tuple[dict[str, Record], str | None]:
        """Return the newest events by key, of keys behind `after`, and the cursor."""
        found: dict[str, Record] = {}
        room = PAGE_BYTES
        for key in sorted(key for key in self._latest if key > after):
            at, record = self._latest[key]
            room -= len(record.data)
            if found and room < 0:
                return found, next(reversed(found))
            found[key] = record._replace(age=now - at)
        return found, None

    def reborn(self, now: float) -> MemoryTopic:
        """Return what is left of it when it is deleted: its number, in a new epoch."""
        epochs: Epochs = ((new_epoch(self.epochs[-1][0]), self.number + 1),)
        return MemoryTopic(epochs, self.number, now, deleted=True)

    def is_forgotten(self, now: float) -> bool:
        """Return whether it has no events, and its last one was long ago."""
        self.trim(None, now)
        return not self._events and self.touched <= now - FORGET_SECONDS

    def _put_latest(self, key: str, now: float, record: Record) -> None:
        old = self._latest.pop(key, None)
        self._latest[key] = now, record
        self._latest_size += len(record.data) - (len(old[1].data) if old else 0)
        while len(self._latest) > LATEST_KEYS or self._latest_size > LATEST_BYTES:
            _, (_, gone) = self._latest.popitem(last=False)
            self._latest_size -= len(gone.data)
