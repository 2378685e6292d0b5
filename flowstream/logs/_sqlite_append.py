"""What is done to a topic of the log on SQLite: append, trim, delete, and looks that may write.

Each function is a job of the writer thread: it gets a transaction that has the write lock, and may
share it with other jobs.
"""

from __future__ import annotations

from collections.abc import Sequence

from flowstream.abc import Appended, LogEntry, Position
from flowstream.ids._event_id import new_epoch
from flowstream.limits import Replay
from flowstream.logs._append_arguments import FORGET_SECONDS
from flowstream.logs._append_results import results_from_text, results_to_text
from flowstream.logs._epochs import is_evidence
from flowstream.logs._sqlite_retention import (
    first_young,
    keep_within,
    pass_by,
    raise_floor,
)
from flowstream.logs._sqlite_transaction import TopicRow, Transaction


def append(
    tx: Transaction, name: str, entries: Sequence[LogEntry], keep: Replay, token: str
) -> list[Appended]:
    """Append the entries; return each one's place."""
    topic = tx.topic(name)
    if topic is None:
        topic = tx.make_topic(name, keep)
    elif (known := tx.result_of(topic, token)) is not None:
        return results_from_text(known)
    if keep != topic.keep:
        topic.keep = keep
        topic.look_at(tx.moment)
    before = topic.head
    results = [_append_one(tx, topic, entry) for entry in entries]
    topic.touched = tx.moment
    topic.deleted = False
    added = topic.head - before
    tx.add_token(
        topic,
        token,
        f"{topic.epochs[-1][0]}:{before + 1}:0:{added}"
        if added == len(results)
        else results_to_text(results),
    )
    keep_within(tx, topic, added)
    tx.save(topic)
    return results


def trim(tx: Transaction, name: str, keep: Replay | None) -> int:
    """Forget what `keep` does not keep; return how many events that were."""
    topic = tx.topic(name)
    if topic is None:
        return 0
    keep = keep or topic.keep
    before, _ = first_young(tx, topic, topic.keep.seconds)
    first, _ = first_young(tx, topic, keep.seconds)
    raise_floor(tx, topic, max(first, topic.head - keep.items + 1), keep)
    pass_by(tx, topic)
    topic.look_at(tx.moment)
    tx.save(topic)
    return max(0, topic.floor - before)


def delete(tx: Transaction, name: str) -> None:
    """Forget the topic. Its row stays, with its number, in a new epoch."""
    tx.forget_lease(name)
    topic = tx.topic(name)
    if topic is None or topic.deleted:
        return
    tx.clear(topic)
    topic.epochs = ((new_epoch(topic.epochs[-1][0]), topic.head + 1),)
    topic.floor, topic.size = topic.head + 1, 0
    topic.touched, topic.deleted = tx.moment, True
    topic.look_at(tx.moment + FORGET_SECONDS)
    tx.save(topic)
    tx.notice(topic.id)


def touch(tx: Transaction, name: str, after: Position) -> None:
    """Begin a new epoch if the log has lost what a reader of it has."""
    topic = tx.topic(name)
    epochs, head = (topic.epochs, topic.head) if topic else (((tx.epoch, 1),), 0)
    if is_evidence(epochs, head, after):
        tx.begin_life()
        tx.topic(name)


def _append_one(tx: Transaction, topic: TopicRow, entry: LogEntry) -> Appended:
    key = entry.idempotency_key
    if key is not None:
        found = tx.db.execute(
            "select epoch, number from key where topic = ? and key = ? and until > ?",
            (topic.id, key, tx.moment),
        ).fetchone()
        if found:
            return Appended(found[0], found[1], True)
    epoch = topic.epochs[-1][0]
    number = tx.add_event(topic, entry.data)
    if key is not None:
        tx.db.execute(
            "insert or replace into key values(?, ?, ?, ?, ?)",
            (topic.id, key, tx.moment + entry.idempotency_seconds, epoch, number),
        )
    if entry.key is not None:
        tx.db.execute(
            "insert or replace into latest values(?, ?, ?, ?, ?, ?)",
            (topic.id, entry.key, epoch, number, tx.moment, entry.data),
        )
    return Appended(epoch, number, False)
