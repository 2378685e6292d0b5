"""What may be appended: the arguments of a log are checked before anything is queued.

So a wrong argument fails in the task that passed it, and not a batch that others are in, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from flowstream.abc import LogEntry
from flowstream.limits import Replay
from flowstream.logs._idempotency_keys import check_seconds

# Bytes of one append; it is held in memory, and goes into one transaction.
APPEND_BYTES = 64 << 20
# Characters of a topic's name, a key or a token.
NAME_CHARACTERS = 1024

# Newest events by key that a topic keeps: as many as a snapshot may have.
LATEST_KEYS = 10_000
# Bytes of them.
LATEST_BYTES = 8 << 20
# Of how many events the tokens of their appends are known.
TOKEN_EVENTS = 1024
# Seconds after its last event for which a topic without events is remembered.
FORGET_SECONDS = 7 * 86400.0
# Bytes of a page of records: one more is read only into an empty page.
PAGE_BYTES = 1 << 20
# Names in a page of topics.
PAGE_NAMES = 1000
# Topics in one call of a server: others wait for it meanwhile.
BATCH_TOPICS = 512


def check_append(topic: str, entries: Sequence[LogEntry], keep: Replay, token: str) -> int:
    """Return how many bytes the entries have.

    Raises:
        TypeError, ValueError: an argument can't be stored; the message says what to write.
    """
    check_topic(topic)
    check_text("token", token)
    if not isinstance(keep, Replay):
        raise TypeError(f"keep must be a Replay, not {type(keep).__name__}")
    size = 0
    for entry in entries:
        if not isinstance(entry, LogEntry):
            raise TypeError(f"entries must be LogEntry(data), not {type(entry).__name__}")
        if not isinstance(entry.data, bytes):
            raise TypeError(f"data must be bytes, not {type(entry.data).__name__}: encode it first")
        if entry.key is not None:
            check_text("key", entry.key)
        if entry.idempotency_key is not None:
            check_idempotency(entry.idempotency_key, entry.idempotency_seconds)
        size += len(entry.data)
    if size > APPEND_BYTES:
        raise ValueError(
            f"one append takes at most {APPEND_BYTES >> 20} MiB, not {size:,} bytes: append less "
            "at once, or publish where the data is instead of the data"
        )
    return size


def check_idempotency(key: str, seconds: float) -> None:
    """Raise unless an event can have this idempotency key, remembered for so long."""
    check_text("idempotency_key", key)
    check_seconds(seconds)


def check_topic(topic: str) -> None:
    """Raise unless `topic` can be a topic's name."""
    check_text("the name of a topic", topic)


def check_topics(topics: Iterable[str]) -> list[str]:
    """Return the names; raise unless each can be a topic's."""
    if isinstance(topics, str):
        raise TypeError("topics must be several names: write [name]")
    names = list(topics)
    for name in names:
        check_topic(name)
    return names


def batches(topics: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield the topics in parts, of so many as one call of a server takes."""
    for start in range(0, len(topics), BATCH_TOPICS):
        yield topics[start : start + BATCH_TOPICS]


def check_limit(limit: int) -> None:
    """Raise unless `limit` is a number of records."""
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise TypeError(f"limit must be an int, not {type(limit).__name__}")
    if limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")


def check_text(what: str, text: str) -> None:
    """Raise unless `text` can be stored, and found again."""
    if not isinstance(text, str):
        raise TypeError(f"{what} must be a str, not {type(text).__name__}")
    if not text:
        raise ValueError(f"{what} must not be empty")
    if len(text) > NAME_CHARACTERS:
        raise ValueError(
            f"{what} has {len(text):,} characters, and may have {NAME_CHARACTERS:,}: hash it"
        )
    if "\0" in text:
        raise ValueError(f"{what} must not have a NUL in it: {text!r}")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"{what} is not Unicode, since it has half a surrogate: {text!r}"
            ) from None
