"""Rows of a Postgres database, and what is notified in it. The extra is ``postgres``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from flowstream._errors import missing_extra
from flowstream.sources._source import Source
from flowstream.sources.rows._rows import Params, Rows, check_query

if TYPE_CHECKING:
    import psycopg

__all__ = ["postgres_notifications", "postgres_rows"]

_NAME_BYTES = 63  # NAMEDATALEN - 1: LISTEN would cut a longer one short, and hear nothing


def postgres_rows(
    database: str | psycopg.Connection[Any],
    sql: str,
    params: Params = (),
    *,
    batch: int = 500,
    tuples: bool = False,
) -> Source:
    """Return a source of the rows of a query, read through a cursor on the server.

    It is read in worker threads (see `cursor_limiter`). When the client goes, the query is
    cancelled, even if it computes and has no row yet.

    **Emits** each row as the server delivers it: the first by itself, then more at a time for
    as long as they come quickly. **Backpressures**: the next rows are fetched when the
    stream has taken these; the transaction stays open meanwhile, so see that
    `Limits.stall_timeout` is what your database can bear. **Completes** with the last row; its
    transaction is over by then.

    Args:
        database: a DSN or URL, to be connected to when the stream begins, for reading only;
            or a connection of the app's. A connection is for one stream at a time, and for
            nothing else meanwhile. It is usable afterwards, however the stream ended: the
            query runs in a transaction of its own, or, if one is open, behind a savepoint
            of it.
        sql: one ``SELECT`` or ``VALUES``, which is what a cursor on the server takes.
        params: its parameters, by position (``%s``) or by name (``%(name)s``). Where there
            are some, any other percent sign in `sql` is doubled.
        batch: rows that are fetched at once, at most: 1 to 5000. So many are held.
        tuples: whether rows are tuples; else they are dicts by the names of the columns. The
            tuples have their names, too, in ``_fields``, for the header of a CSV.

    Raises:
        MissingExtraError: psycopg is not installed.
        TypeError, ValueError: an argument is not what is said above.

    A stream fails with `UpstreamError` (503, ``database_unavailable``) if the server is not
    there, refuses the login, goes away, or cancels the query, and with what psycopg raises
    otherwise, for a query that can't be read.
    """
    psycopg = _psycopg("postgres_rows()")
    from flowstream.sources.rows._postgres_connection import check_dsn
    from flowstream.sources.rows._postgres_cursor import PostgresCursor

    check_query(sql, params)
    if isinstance(database, str):
        database = check_dsn(database)
    elif not isinstance(database, psycopg.Connection):
        raise TypeError(
            "database must be a DSN or a psycopg.Connection (not an AsyncConnection, which "
            f"runs on asyncio only), not a {type(database).__name__}"
        )
    return Rows(partial(PostgresCursor, database, sql, params), batch=batch, tuples=tuples)


def postgres_notifications(
    dsn: str, channel: str, *, load: Callable[[str], Any] | None = None
) -> Source:
    """Return a source of the payloads that are notified on a channel (``LISTEN``).

    **Emits** what is notified after the stream began. **Backpressures**: what a slow client
    has not taken waits in the server's queue, which all of its databases share; so give the
    stream a policy that drops, or feed a `Topic` from one such source. **Completes**
    never: it fails with `UpstreamError` (503, ``database_unavailable``, retryable) when the
    connection is lost. It does not connect again by itself, because nobody knows what was
    notified meanwhile; the client comes back and looks.

    To feed a topic, write ``topic.publish_from(postgres_notifications(...))``: it connects
    again when the connection is lost, and leaves out a payload that `load` refuses.

    Args:
        dsn: a DSN or URL, to be connected to when the stream begins.
        channel: its name, as it is: it is quoted.
        load: makes an item of a payload, such as `json.loads`; left out, items are the text. A
            payload that it refuses fails a stream; `Topic.publish_from` counts it, logs it
            and goes on.

    Raises:
        MissingExtraError: psycopg is not installed.
        TypeError, ValueError: an argument is not what is said above; a channel's name has 1
            to 63 bytes.
    """
    _psycopg("postgres_notifications()")
    from flowstream.sources.rows._postgres_connection import check_dsn
    from flowstream.sources.rows._postgres_notifications import Notifications

    if not isinstance(dsn, str):
        raise TypeError(f"dsn must be a str, not a {type(dsn).__name__}")
    if not isinstance(channel, str):
        raise TypeError(f"channel must be a str, not a {type(channel).__name__}")
    if "\0" in channel or not 1 <= len(channel.encode()) <= _NAME_BYTES:
        raise ValueError(f"a channel's name has 1 to {_NAME_BYTES} bytes and no NUL: {channel!r}")
    if load is not None and not callable(load):
        raise TypeError(f"load must be a function of a text, not a {type(load).__name__}")
    return Notifications(check_dsn(dsn), channel, str if load is None else load)


def _psycopg(what: str) -> Any:
    try:
        import psycopg
    except ImportError as error:
        raise missing_extra(what, "postgres") from error
    return psycopg
