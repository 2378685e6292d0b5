"""The schema of the log on Postgres: what makes it, and who may use it.

The SQL lies in files beside this module, one noun each. All of it can be run again: tables are made
if they are not there, functions are replaced, those of an earlier version dropped before. So making
and upgrading are one thing. It runs in one transaction; who looks meanwhile sees the schema as it
was.

`flowstream log init` runs it. Workers never do: they have no right to. They compare `VERSION` when
they connect. It is raised by each change that a worker of the release before can't live with, or
that this release needs. `hello(text, int8)` stays, and its first column: each release asks by it.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files

VERSION = 2
"""The version that `flowstream.version()` returns of a schema that this release works with."""

# In this order: what is used by a table or the body of an SQL function comes first.
_FILES = (
    "upgrade",
    "tables",
    "epochs",
    "leases",
    "retention",
    "append",
    "batch",
    "read",
    "outbox",
    "publish",
    "inspect",
    "version",
)

# What roles of an app may call. All else is called by these, as the schema's owner.
ENTRIES = (
    "version",
    "hello",
    "append",
    "read",
    "follow",
    "ids",
    "names",
    "heads",
    "latest",
    "topics",
    "trim",
    "delete",
    "touch",
    "new_epoch",
    "maintain",
    "claim",
    "beat",
    "leases",
    "finish",
    "put",
    "relay",
    "publish",
    "empty_relay",
    "inspect",
)

# Two who run it at once would make the same table: the second waits. And nobody else's schema is
# used: its owner could have put functions of theirs in the place of ours.
_BEGIN = """
select pg_catalog.pg_advisory_xact_lock(7305808868124291449);
do $$
declare v_encoding text; v_owner text;
begin
  select pg_catalog.pg_encoding_to_char(encoding) into v_encoding from pg_catalog.pg_database
    where datname = pg_catalog.current_database();
  if v_encoding <> 'UTF8' then
    raise exception 'the encoding of the database is %, and flowstream needs UTF8', v_encoding
      using errcode = 'feature_not_supported';
  end if;
  if pg_catalog.current_setting('server_version_num')::int < 130000 then
    raise exception 'flowstream needs Postgres 13 or later, not %',
      pg_catalog.current_setting('server_version') using errcode = 'feature_not_supported';
  end if;
  select pg_catalog.pg_get_userbyid(nspowner) into v_owner from pg_catalog.pg_namespace
    where nspname = 'flowstream';
  if v_owner <> current_user then
    raise exception 'the schema flowstream belongs to %, so only that role can make the log in it',
      v_owner using errcode = 'insufficient_privilege';
  end if;
end $$;
set local client_min_messages = warning;
set local search_path = pg_catalog, flowstream, pg_temp;
create schema if not exists flowstream;
"""

# What the files `upgrade` and `grants` have to know.
_SETTINGS = f"""
set local flowstream.makes = '{VERSION}';
set local flowstream.entries = '{" ".join(ENTRIES)}';
"""

_DATA = """
insert into flowstream.log(epoch) values ('') on conflict do nothing;
select flowstream.current_log();
do $$
declare v_timeout text := current_setting('lock_timeout');
begin
  perform set_config('lock_timeout', '200ms', true);  -- a worker makes them, too
  perform flowstream.keep_partitions();
  perform set_config('lock_timeout', v_timeout, true);
end $$;
"""

_REVOKE = """
revoke all on schema flowstream from public;
revoke all on all tables in schema flowstream from public;
revoke all on all sequences in schema flowstream from public;
revoke all on all functions in schema flowstream from public;
"""


def schema_sql(roles: Iterable[str] = ()) -> str:
    """Return the SQL that makes the schema, or upgrades it, in a transaction that is open.

    Args:
        roles: who may use the log besides its owner.

    Raises:
        ValueError: a role's name can't be one.
    """
    folder = files("flowstream.logs.postgres") / "sql"
    parts = [_BEGIN, _SETTINGS]
    parts += [(folder / f"{name}.sql").read_text("utf-8") for name in _FILES]
    parts += [_DATA, _REVOKE, (folder / "grants.sql").read_text("utf-8")]
    for role in roles:
        name = quoted(role)
        parts.append(f"grant usage on schema flowstream to {name};\n")
        parts += [f"grant execute on function flowstream.{one} to {name};\n" for one in ENTRIES]
    return "".join(parts)


def version_advice(version: int) -> str | None:
    """Return what is wrong with a schema of this version, and what to do; None if nothing is.

    It follows on "Postgres at …".
    """
    if version < VERSION:
        return (
            f"has a log that an earlier release of flowstream made (version {version} of the "
            f"schema, and this release works with {VERSION}): run `flowstream log init` of this "
            "release, as the role that owns the schema"
        )
    if version > VERSION:
        return (
            f"has a log that a later release of flowstream made (version {version} of the schema, "
            f"and this release works with {VERSION}): install that release"
        )
    return None


def quoted(name: str) -> str:
    """Return the name of a role as SQL has it.

    Raises:
        ValueError: it is empty, or has a NUL in it.
    """
    if not name or "\0" in name:
        raise ValueError(f"the name of a role is expected, not {name!r}")
    return '"' + name.replace('"', '""') + '"'
