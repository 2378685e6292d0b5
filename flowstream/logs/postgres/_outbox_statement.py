"""The statement that publishes an event inside a transaction of the app, for any driver.

A user's program, with psycopg::

    with connection.transaction():
        connection.execute("insert into orders ...")
        event = orders.outbox({"id": 7})
        connection.execute(event.sql, event.parameters)

Drivers have three ways to write parameters. Each is a `style`:

=========== ===================== ========== ==================================================
style       in the SQL            parameters drivers
=========== ===================== ========== ==================================================
``format``  ``%s``                a tuple    psycopg, psycopg2, pg8000, Django's cursors
``dollar``  ``$1``                a tuple    asyncpg: ``execute(event.sql, *event.parameters)``
``named``   ``:topic``            a dict     SQLAlchemy: ``execute(text(event.sql), …)``
=========== ===================== ========== ==================================================

Types are written with ``cast``, because SQLAlchemy would read a name in ``:topic::text``.
"""

from __future__ import annotations

from typing import Literal, get_args

from flowstream.abc import LogEntry, OutboxStatement, ParameterStyle
from flowstream.limits import Replay
from flowstream.logs._append_arguments import check_append

OutboxTable = Literal["trigger", "relay"]

# In the order of the parameters of `flowstream.put` and `flowstream.relay`.
_TYPES = {
    "topic": "text",
    "data": "bytea",
    "key": "text",
    "idempotency_key": "text",
    "idempotency_seconds": "float8",
    "items": "bigint",
    "seconds": "float8",
    "bytes": "bigint",
    "notify": "boolean",
}
_FUNCTIONS: dict[OutboxTable, str] = {"trigger": "put", "relay": "relay"}
# What a bigint holds; `Replay` has no such bound.
MOST = (1 << 63) - 1


def outbox_statement(
    topic: str,
    entry: LogEntry,
    keep: Replay,
    *,
    outbox: OutboxTable = "trigger",
    notify: bool = True,
    style: ParameterStyle = "format",
) -> OutboxStatement:
    """Return the statement that publishes `entry` when its transaction commits.

    Args:
        topic: its name in the log.
        entry: what to append.
        keep: how much of its past the topic keeps from then on.
        outbox: what appends it: the commit itself, or a worker soon after it.
        notify: whether followers are told. Commits that tell them wait for each other.
        style: how the driver writes parameters.

    Raises:
        TypeError, ValueError: an argument can't be stored, or there is no such style.
    """
    if style not in get_args(ParameterStyle):
        raise ValueError(f"style must be 'format', 'dollar' or 'named', not {style!r}")
    check_append(topic, [entry], keep, "outbox")
    values = (
        topic,
        entry.data,
        entry.key,
        entry.idempotency_key,
        float(entry.idempotency_seconds),
        min(keep.items, MOST),
        float(keep.seconds),
        min(keep.bytes, MOST),
        notify,
    )
    placeholders = {
        "format": ["%s"] * len(_TYPES),
        "dollar": [f"${place}" for place in range(1, len(_TYPES) + 1)],
        "named": [f":{name}" for name in _TYPES],
    }[style]
    casts = ", ".join(
        f"cast({placeholder} as {type})"
        for placeholder, type in zip(placeholders, _TYPES.values(), strict=True)
    )
    sql = f"select flowstream.{_FUNCTIONS[outbox]}({casts})"
    named = dict(zip(_TYPES, values, strict=True))
    return OutboxStatement(sql, named if style == "named" else values)
