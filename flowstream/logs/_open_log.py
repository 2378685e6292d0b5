"""Open a log by its URL, and keep it open for a block of code."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import trio

from flowstream.abc import Hint, Log, Record, Stale
from flowstream.logs._log_run import alone
from flowstream.logs._namespaced_log import NamespacedLog

_KNOWN = (
    "write sqlite:///events.db, sqlite:////var/lib/app/events.db, valkey://host:6379/0, "
    "postgresql://host/database or memory:"
)

# {scheme: (the module of its log, its class)}; such a URL may have a password in it.
_SERVERS = {
    scheme: ("flowstream.logs.valkey._valkey_log", "ValkeyLog")
    for name in ("valkey", "valkeys", "redis", "rediss")
    for scheme in (name, f"{name}+sentinel")
} | dict.fromkeys(
    ("postgres", "postgresql"), ("flowstream.logs.postgres._postgres_log", "PostgresLog")
)


def _unheard(topic: str, before: int, records: Sequence[Record]) -> None:
    """Hear a hint, and do nothing about it."""


def _unseen(topic: str | None) -> None:
    """Hear that something is stale, and do nothing about it."""


@asynccontextmanager
async def open_log(
    log: str | Log,
    *,
    namespace: str | None = None,
    hint: Hint = _unheard,
    stale: Stale = _unseen,
) -> AsyncIterator[Log]:
    """Open a log for a block of code.

    ::

        async with open_log("sqlite:///events.db") as log:
            ...

    It **waits** until the log is open. At the end of the block it is closed: what was appended
    and not committed by then fails with `LogUnavailableError`.

    Args:
        log: a log, or a URL: ``sqlite:///events.db`` (three slashes for a path from here, four for
            one from the root; ``?synchronous=NORMAL`` for `SQLiteLog`'s argument),
            ``valkey://host:6379/0`` (see `ValkeyLog`), ``postgresql://host/database`` (see
            `PostgresLog`) or ``memory:``.
        namespace: names of topics in the log begin with it, and those here have it left out: up
            to 64 letters, digits, ``-``, ``_`` and ``.``. None for all topics of the log.
        hint: see `flowstream.abc.Log.run`.
        stale: see `flowstream.abc.Log.run`.

    Raises:
        TypeError, ValueError: no log has such a URL, or `namespace` has other characters.
        LogUnavailableError: it can't be opened.
    """
    opened = log if isinstance(log, Log) else from_url(log)
    if namespace is not None:
        opened = NamespacedLog(opened, namespace)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(opened.run, hint, stale)
            try:
                yield opened
            finally:
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # A block that fails is to fail as it would without a nursery around it.
        error = alone(group)
        raise error from error.__cause__


def from_url(url: str) -> Log:
    """Return the log that `url` names. It is not open yet.

    Raises:
        TypeError, ValueError: no log has such a URL; the message says what to write, and has no
            secret in it.
        ImportError: a package that it needs is not installed; the message says which.
    """
    if not isinstance(url, str):
        raise TypeError(f"a log is given as an object or a URL, not {type(url).__name__}: {_KNOWN}")
    scheme = url.partition(":")[0].lower()
    if scheme in _SERVERS:
        module, name = _SERVERS[scheme]
        server: Log = getattr(import_module(module), name)(url)
        return server
    parts = urlsplit(url)
    if parts.scheme == "memory":
        if url.rstrip("/") != "memory:":
            raise ValueError("a log in memory has no name: write memory:, and nothing behind it")
        from flowstream.logs._memory_log import MemoryLog

        return MemoryLog()
    if parts.scheme == "sqlite":
        if parts.netloc or not parts.path.strip("/"):
            raise ValueError(f"a file's URL has three slashes, or four, and a path: {_KNOWN}")
        options: dict[str, Any] = dict(parse_qsl(parts.query))
        unknown = options.keys() - {"synchronous"}
        if unknown or parts.fragment:
            raise ValueError("a SQLite log takes ?synchronous=FULL or NORMAL, and nothing else")
        from flowstream.logs._sqlite_log import SQLiteLog

        return SQLiteLog(unquote(parts.path[1:]), **options)
    # Of a URL of another kind no more than the scheme is repeated: it may have a password.
    is_name = url.isprintable() and not any(one in url for one in "@:=? ")
    said = parts.scheme or (url if is_name else "of this kind")
    raise ValueError(f"there is no log {said!r}: {_KNOWN}")
