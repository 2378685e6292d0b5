"""The statements of the log on Postgres: each calls one function of the schema.

The casts say the types, since parameters and results are binary.
"""

from __future__ import annotations

from flowstream.logs.postgres._pq_connection import Statement


def _calls(name: str, *types: str) -> Statement:
    """Return the statement that calls a function of the schema."""
    given = ", ".join(f"${place}::{kind}" for place, kind in enumerate(types, start=1))
    return Statement(name, f"select * from flowstream.{name}({given})")


APPEND = _calls(
    "append",
    "text",
    "int8",
    "text[]",
    "int4[]",
    "text[]",
    "int8[]",
    "float8[]",
    "int8[]",
    "int8[]",
    "bytea[]",
    "text[]",
    "text[]",
    "float8[]",
)
BEAT = _calls("beat", "text", "text[]", "int8[]", "float8")
CLAIM = _calls("claim", "text", "text", "float8", "int8")
DELETE = _calls("delete", "text")
EMPTY_RELAY = _calls("empty_relay")
FINISH = _calls(
    "finish",
    "text",
    "int8",
    "text",
    "int8",
    "float8",
    "int8",
    "bytea",
    "text",
    "float8",
    "bool",
    "text",
    "float8",
)
FOLLOW = _calls("follow", "int8[]", "int8[]", "int4", "int8")
HEADS = _calls("heads", "text[]")
HELLO = _calls("hello", "text", "int8")
IDS = _calls("ids", "text[]")
LATEST = _calls("latest", "text", "text", "int8")
LEASES = _calls("leases", "text[]")
MAINTAIN = _calls("maintain")
NAMES = _calls("names", "int8[]")
NEW_EPOCH = _calls("new_epoch")
READ = _calls("read", "text", "text", "int8", "int4", "int8")
TOPICS = _calls("topics", "text", "text", "int4")
TOUCH = _calls("touch", "text", "text", "int8")
TRIM = _calls("trim", "text", "int8", "float8", "int8")

LISTEN = Statement("listen", "listen flowstream")
NOTIFY = Statement(
    "notify", "select pg_catalog.pg_notify('flowstream', one) from unnest($1::text[]) one"
)
# Which process of which server it is. Servers that are copies of each other were started at
# different times.
PROCESS = Statement(
    "process",
    "select pg_catalog.pg_backend_pid(), (pg_catalog.pg_control_system()).system_identifier::text"
    " || ' ' || extract(epoch from pg_catalog.pg_postmaster_start_time())::text",
)
