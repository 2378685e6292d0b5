"""Leases in the log on SQLite: jobs of the writer thread, and what is read.

A file of an earlier release has no table of leases. It is added when the file is opened; a release
that does not know it leaves it alone, so both may use the file at once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from flowstream.abc import Appended, Lease, LogEntry
from flowstream.limits import Replay
from flowstream.logs import _sqlite_append as jobs
from flowstream.logs._lease_rules import (
    Claim,
    HeldLease,
    check_fence,
    decide_claim,
    may_beat,
    may_end,
    new_lease,
)
from flowstream.logs._log_clock import LogClock
from flowstream.logs._sqlite_read import HEADS, read_time, snapshot
from flowstream.logs._sqlite_transaction import Transaction

_COLUMNS = "owner, token, until, ended, gone"


def append(
    tx: Transaction,
    name: str,
    entries: Sequence[LogEntry],
    keep: Replay,
    token: str,
    fence: int,
) -> list[Appended]:
    """Append as the lease's owner.

    Raises:
        FencedError: the lease is another one, or has ended. The transaction goes on without this.
    """
    check_fence(name, _held(tx, name), fence)
    return jobs.append(tx, name, entries, keep, token) if entries else []


def claim(tx: Transaction, name: str, owner: str, seconds: float, instead: int | None) -> Lease:
    """Take the topic's lease, if it has none; return the one that it has now."""
    held = _held(tx, name)
    result = decide_claim(held, owner, instead, tx.moment)
    if result is Claim.ANEW:
        jobs.delete(tx, name)
    if held is None or result in (Claim.ANEW, Claim.TAKEN_OVER):
        (last,) = tx.db.execute("select token from fence").fetchone()
        # The log's time is a date that never goes back.
        held = new_lease(owner, last, tx.moment, tx.moment, seconds)
        tx.db.execute("update fence set token = ?", (held.token,))
    elif result is Claim.RENEWED:
        held = held.renewed(tx.moment, seconds)
    if result is not Claim.REFUSED:
        _store(tx, name, held)
    return held.seen(tx.moment)


def beat(
    tx: Transaction, owner: str, tokens: Mapping[str, int], seconds: float
) -> dict[str, Lease | None]:
    """Renew the leases that are still the owner's; return each as it is now."""
    found: dict[str, Lease | None] = {}
    for name, token in tokens.items():
        held = _held(tx, name)
        if held is not None and may_beat(held, owner, token):
            held = held.renewed(tx.moment, seconds)
            _store(tx, name, held)
        found[name] = None if held is None else held.seen(tx.moment)
    return found


def end(
    tx: Transaction,
    name: str,
    fence: int,
    entry: LogEntry,
    keep: Replay,
    token: str,
    seconds: float,
    lapsed: bool,
) -> Lease | None:
    """Append the last event and end the lease; return it as it is now."""
    held = _held(tx, name)
    if held is None:
        return None
    if may_end(name, held, fence, tx.moment, lapsed):
        jobs.append(tx, name, [entry], keep, token)
        held = held.over(tx.moment, seconds)
        _store(tx, name, held)
    return held.seen(tx.moment)


def read_leases(
    db: sqlite3.Connection, clock: LogClock, names: Sequence[str]
) -> dict[str, Lease | None]:
    """Return the lease of each topic."""
    found: dict[str, Lease | None] = dict.fromkeys(names)
    with snapshot(db):
        _, _, now = read_time(db, clock)
        for start in range(0, len(names), HEADS):
            some = names[start : start + HEADS]
            rows = db.execute(
                f"select topic, {_COLUMNS} from lease where gone > ?"
                f" and topic in ({','.join('?' * len(some))})",
                (now, *some),
            )
            for name, *row in rows:
                found[name] = _lease_of(row).seen(now)
    return found


def _held(tx: Transaction, name: str) -> HeldLease | None:
    tx.topic(name)  # which is forgotten if its lease is
    row = tx.db.execute(
        f"select {_COLUMNS} from lease where topic = ? and gone > ?", (name, tx.moment)
    ).fetchone()
    return None if row is None else _lease_of(row)


def _lease_of(row: Sequence[object]) -> HeldLease:
    owner, token, until, ended, gone = row
    return HeldLease(owner, token, until, bool(ended), gone)  # type: ignore[arg-type]


def _store(tx: Transaction, name: str, held: HeldLease) -> None:
    tx.db.execute("insert or replace into lease values(?, ?, ?, ?, ?, ?)", (name, *held))
