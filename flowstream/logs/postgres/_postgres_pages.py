"""What the functions of the schema return, as the values of a log."""

from __future__ import annotations

from collections.abc import Sequence

from flowstream.abc import Head, LatestPage, Lease, Position, Record
from flowstream.logs._epochs import epoch_at, epochs_from_text, is_evidence, locate
from flowstream.logs.postgres._pq_connection import Row


def read_head(epochs: str, number: int, first: int) -> Head:
    """Return a topic's head."""
    return Head(epochs_from_text(epochs), number, first)


class PageOfTopic:
    """What `read` returned.

    Attributes:
        head: the topic's head.
        known: whether the topic knows the position that was asked for.
        records: what follows it.
        current: whether the topic is of the server's lineage; if not, it must begin a new epoch
            before the page may be used.
        evidence: whether the log must begin a new life before the page may be used, if the
            position was the process's own.
        wal: how much the server had written to its WAL.
    """

    __slots__ = ("current", "evidence", "head", "known", "records", "wal")

    def __init__(self, rows: Sequence[Row], after: Position) -> None:
        _, epochs, number, first, self.current, self.wal, *_ = rows[0]
        self.head = head = read_head(epochs, number, first)
        self.known = locate(head.epochs, number, after) is not None
        self.evidence = is_evidence(head.epochs, number, after)
        self.records = [
            Record(epoch_at(head.epochs, one), one, data, age) for *_, one, age, data in rows[1:]
        ]


def read_latest(rows: Sequence[Row]) -> LatestPage:
    """Return what `latest` returned."""
    _, epochs, head, first, *_ = rows[0]
    records = {
        key: Record(epoch, one, data, age)
        for _, _, _, _, key, epoch, one, age, data, *_ in rows[1:]
    }
    more = bool(records) and rows[-1][-2]
    return LatestPage(
        read_head(epochs, head, first), records, next(reversed(records)) if more else None
    )


def read_leases(rows: Sequence[Row], topics: Sequence[str]) -> dict[str, Lease | None]:
    """Return the leases of these topics; None for those that have none."""
    leases: dict[str, Lease | None] = dict.fromkeys(topics)
    for topic, owner, token, seconds, ended, *_ in rows:
        leases[topic] = Lease(owner, token, seconds, ended)
    return leases
