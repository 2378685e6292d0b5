"""Logs: where a topic's events can be kept, so that they outlive the process.

==========================  =================================================================
log                         what it is for
==========================  =================================================================
`MemoryLog`                 one process; forgets everything when it ends
`SQLiteLog`                 one file, any number of processes on one machine
`ValkeyLog`                 a Valkey or Redis server, any number of machines
`PostgresLog`               a Postgres database, any number of machines
==========================  =================================================================

`Flowstream(app, log=...)` puts an app's topics into one, and `open_log` opens one by its URL.
`flowstream.abc.Log` is the interface, and `flowstream.testing.check_log` checks a log of your own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flowstream._errors import FencedError, LogFullError, LogUnavailableError
from flowstream._lazy import lazy_names, name_publicly
from flowstream.logs._open_log import open_log

if TYPE_CHECKING:
    from flowstream.logs._memory_log import MemoryLog
    from flowstream.logs._sqlite_log import SQLiteLog
    from flowstream.logs.postgres._postgres_log import PostgresLog
    from flowstream.logs.valkey._valkey_connection import ValkeyTimeouts
    from flowstream.logs.valkey._valkey_log import ValkeyLog

__getattr__: Callable[[str], Any]
__dir__: Callable[[], list[str]]
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "MemoryLog": "flowstream.logs._memory_log",
        "PostgresLog": "flowstream.logs.postgres._postgres_log",
        "SQLiteLog": "flowstream.logs._sqlite_log",
        "ValkeyLog": "flowstream.logs.valkey._valkey_log",
        "ValkeyTimeouts": "flowstream.logs.valkey._valkey_connection",
    },
)

__all__ = [
    "FencedError",
    "LogFullError",
    "LogUnavailableError",
    "MemoryLog",
    "PostgresLog",
    "SQLiteLog",
    "ValkeyLog",
    "ValkeyTimeouts",
    "open_log",
]

name_publicly(__name__, globals(), __all__)
