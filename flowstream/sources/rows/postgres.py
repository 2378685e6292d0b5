"""Rows of a Postgres database, and its notifications. The extra is ``postgres``."""

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

    Worker threads read it (see `cursor_limiter`). When the client leaves, the query is cancelled,
    even if it still computes and has no row yet.

    **Emits** each row as the server delivers it: first one row, then more at a time while they
    come quickly. **Backpressures**: it fetches more rows when the stream has taken these. The
    transaction stays open meanwhile, so choose a `Limits.stall_timeout` that suits your
    database. **Completes** with the last row; the transaction is over by then.

    Args:
        database: a DSN or URL, which is connected to when the stream begins, for reading only;
            or a connection of the app. Use a connection for one stream at a time, and for
            nothing else meanwhile. You can use it afterwards, however the stream ended: the
            query runs in its own transaction, or behind a savepoint if one is open.
        sql: one ``SELECT`` or ``VALUES``: a cursor on the server takes nothing else.
        params: its parameters, by position (``%s``) or by name (``%(name)s``). If there are any,
            write any other percent sign in `sql` twice.
        batch: most rows that are fetched at once, and that are held: 1 to 5000.
        tuples: whether rows are tuples; otherwise they are dicts by column name. The tuples
            have the names in ``_fields``, for the header of a CSV.

    Raises:
        MissingExtraError: psycopg is not installed.
        TypeError, ValueError: an argument is not what is said above.

    A stream fails with `UpstreamError` (503, ``database_unavailable``) if the server is down,
    refuses the login, goes away, or cancels the query. Otherwise it fails with what psycopg
    raises, for example for a query that can't be read.
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
    """Return a source of the payloads of the notifications on a channel (``LISTEN``).

    **Emits** notifications from the beginning of the stream on. **Backpressures**: what a slow
    client has not taken waits in the server's queue, which all of its databases share. So give
    the stream a policy that drops, or feed a `Topic` from one such source. **Completes** never:
    when the connection is lost, it fails with `UpstreamError` (503, ``database_unavailable``,
    retryable). It does not connect again by itself, because notifications were lost meanwhile;
    the client has to come back and look.

    To feed a topic, write ``topic.publish_from(postgres_notifications(...))``. It connects
    again when the connection is lost, and leaves out a payload for which `load` raises.

    Args:
        dsn: a DSN or URL, which is connected to when the stream begins.
        channel: its name; it is quoted for you.
        load: turns a payload into an item, such as `json.loads`; by default items are the text.
            If it raises, a stream fails; `Topic.publish_from` counts it, logs it and goes on.

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
