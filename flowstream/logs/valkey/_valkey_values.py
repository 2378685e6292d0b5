"""What the scripts are given, and what they return, as the values of a log.

Times are the server's, in microseconds since 1970. Numbers come as integers or as text, since a
script's own numbers have 53 bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from flowstream.abc import Head, LatestPage, Lease, LogEntry, Record
from flowstream.limits import Replay
from flowstream.logs._epochs import epoch_at, epochs_from_text
from flowstream.logs.valkey._conversation import Word

MICROSECONDS = 1_000_000
# Whole numbers up to here are exact in a script.
MOST = (1 << 53) - 1


def keep_to_text(keep: Replay) -> str:
    """Return how much a topic keeps, as scripts read it: items, bytes, microseconds or 0."""
    age = 0 if math.isinf(keep.seconds) else microseconds(keep.seconds)
    return f"{min(keep.items, MOST)} {min(keep.bytes, MOST)} {age}"


def microseconds(seconds: float) -> int:
    """Return a duration as scripts read it: 1 or more."""
    return max(1, min(math.ceil(seconds * MICROSECONDS), MOST))


def entry_words(entries: Sequence[LogEntry]) -> list[Word]:
    """Return the entries as words of a script's call: see ``lua/entries.lua``."""
    words: list[Word] = [len(entries), 0, *[entry.data for entry in entries]]
    for place, entry in enumerate(entries, start=1):
        if entry.key is not None or entry.idempotency_key is not None:
            milliseconds = max(1, math.ceil(entry.idempotency_seconds * 1000))
            words += place, entry.key or "", entry.idempotency_key or "", milliseconds
    words[1] = (len(words) - 2 - len(entries)) // 4
    return words


def read_head(epochs: bytes, number: int, first: int) -> Head:
    """Return a topic's head."""
    return Head(epochs_from_text(epochs.decode()), int(number), int(first))


def read_page(reply: Sequence[Any]) -> tuple[Head, bool, list[Record]]:
    """Return what `read` returned."""
    now, epochs, number, first, known, rows = reply
    head = read_head(epochs, number, first)
    newest, begins = head.epochs[-1]
    at, seen, age = int(now), b"", 0.0
    records: list[Record] = []
    for place, (_, stamp, _, data) in rows:
        one = int(place.partition(b"-")[0])
        if stamp != seen:  # events of one call have one time
            seen, age = stamp, _age(at, stamp)
        epoch = newest if one >= begins else epoch_at(head.epochs, one)
        records.append(Record(epoch, one, data, age))
    return head, bool(known), records


def read_latest(reply: Sequence[Any]) -> LatestPage:
    """Return what `latest` returned."""
    now, epochs, number, first, found, cursor = reply
    records: dict[str, Record] = {}
    for key, value in found:
        epoch, one, stamp, data = value.split(b" ", 3)
        records[key.decode()] = Record(epoch.decode(), int(one), data, _age(int(now), stamp))
    return LatestPage(
        read_head(epochs, number, first), records, cursor.decode() if cursor else None
    )


def read_lease(reply: Sequence[Any] | None) -> Lease | None:
    """Return a lease; None if there is none."""
    if not reply:
        return None
    owner, token, left, ended = reply
    return Lease(owner.decode(), int(token), int(left) / MICROSECONDS, bool(ended))


def read_hint(payload: bytes) -> tuple[int, list[Record]] | None:
    """Return the number that news follow on, and the news; None if they must be read.

    The payload is ``A epoch first stamp size …``, a line feed and the bodies, or ``E``.
    """
    if not payload.startswith(b"A "):
        return None
    line, _, bodies = payload.partition(b"\n")
    _, epoch, first, _, *sizes = line.split(b" ")
    name, number, place = epoch.decode(), int(first), 0
    records: list[Record] = []
    for size in sizes:
        end = place + int(size)
        records.append(Record(name, number + len(records), bodies[place:end]))
        place = end
    return number - 1, records


def _age(now: int, stamp: bytes) -> float:
    return max(0.0, (now - int(stamp)) / MICROSECONDS)
