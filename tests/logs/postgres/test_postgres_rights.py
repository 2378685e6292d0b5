"""Who may use the log on Postgres, and what others can do with its schema: nothing."""

from __future__ import annotations

import psycopg
import pytest
from logs.postgres._sql_log import make_schema

from flowstream.logs.postgres._schema import ENTRIES, quoted


@pytest.fixture
def roles(log, schema_dsn):
    """Give a session that may use the log, and one that may not."""
    with psycopg.connect(schema_dsn, autocommit=True) as owner:
        for role in ("fs user", "fs_stranger"):
            owner.execute(f"drop role if exists {quoted(role)}")
            owner.execute(f"create role {quoted(role)}")
        make_schema(schema_dsn, "fs user")
        sessions = []
        for role in ("fs user", "fs_stranger"):
            session = psycopg.connect(schema_dsn, autocommit=True)
            session.execute(f"set role {quoted(role)}")
            sessions.append(session)
        yield sessions
        for session in sessions:
            session.close()
        for role in ("fs user", "fs_stranger"):
            owner.execute(f"drop owned by {quoted(role)}")
            owner.execute(f"drop role {quoted(role)}")


def test_a_stranger_can_neither_publish_nor_read(log, roles):
    """Each function and each table is refused."""
    _, stranger = roles
    log.append("a", b"secret")
    calls = log.ask(
        "select format('select flowstream.%I(%s)', proname, (select string_agg('null::'"
        " || t::regtype, ', ') from unnest(proargtypes) t)) from pg_proc"
        " where pronamespace = 'flowstream'::regnamespace and prorettype <> 'trigger'::regtype"
    )
    tables = log.ask(
        "select format('select * from flowstream.%I', relname) from pg_class"
        " where relnamespace = 'flowstream'::regnamespace and relkind in ('r', 'p', 'S')"
    )
    assert len(calls) > len(ENTRIES)
    assert len(tables) > 15
    for (statement,) in calls + tables:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            stranger.execute(statement)


def test_a_role_with_the_right_has_functions_alone(log, roles):
    """It publishes and reads by functions; tables, and what functions use inside, are refused."""
    user, _ = roles
    with user.transaction():
        user.execute("select flowstream.put('a', '1')")
    user.execute("select flowstream.maintain()")
    assert len(user.execute("select * from flowstream.read('a', '', 0, 9, 999)").fetchall()) == 1
    assert log.events("a") == [(1, b"1")]
    tables = log.ask(
        "select format('select * from flowstream.%I', relname) from pg_class"
        " where relnamespace = 'flowstream'::regnamespace and relkind in ('r', 'p')"
    )
    for (statement,) in tables:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            user.execute(statement)
    inside = log.ask(
        "select oid::regprocedure::text from pg_proc"
        " where pronamespace = 'flowstream'::regnamespace and proname <> all(%s)"
        " and has_function_privilege('fs user', oid, 'execute')",
        list(ENTRIES),
    )
    assert inside == []


def test_a_forged_notification_is_a_read_too_many(log, roles):
    """Any role may notify. It carries no event: the log has what it had, and readers read that."""
    _, stranger = roles
    log.append("a", b"1")
    id = log.one("select id from flowstream.topic")
    stranger.execute("select pg_notify('flowstream', %s)", [f"{id} {log.epoch('a')} 99"])
    rows = log.ask("select * from flowstream.follow(array[%s::int8], array[1::int8], 9, 999)", id)
    assert [row[3] for row in rows] == [None]
    assert log.events("a") == [(1, b"1")]


def test_functions_can_t_be_hijacked(log, roles, schema_dsn):
    """Objects of a caller's, in its path or of its session, are not used by the owner's code."""
    user, _ = roles
    log.ask("select flowstream.put('a', '1')")
    with psycopg.connect(schema_dsn, autocommit=True) as owner:
        owner.execute('create schema evil authorization "fs user"')
    try:
        traps = """
            create function evil.trap(text, text) returns boolean language plpgsql as
                $$ begin raise exception 'hijacked'; end $$;
            create operator evil.= (leftarg = text, rightarg = text, function = evil.trap);
            create function evil.octet_length(bytea) returns int language plpgsql as
                $$ begin raise exception 'hijacked'; end $$;
            create function evil.pg_notify(text, text) returns void language plpgsql as
                $$ begin raise exception 'hijacked'; end $$;
            create temp table topic(id int8, name text, head int8);
            create temp table log(one boolean);
            create function pg_temp.clock_timestamp() returns timestamptz language plpgsql as
                $$ begin raise exception 'hijacked'; end $$;
            set search_path = pg_temp, evil, pg_catalog
        """
        for statement in traps.split(";\n"):
            user.execute(statement)
        user.execute("select flowstream.put('a', '2')")
        user.execute("select * from flowstream.claim('r', 'me', 10)")
        user.execute("select flowstream.publish('b', '1', key => 'k')")
        user.execute("select flowstream.maintain(), flowstream.trim('a', 1, null, null)")
        user.execute(
            "select * from flowstream.read('a', '', 0, 9, 999), flowstream.topics('', '', 9)"
        )
        user.execute("select flowstream.touch('a', 'zz', 5)")
    finally:
        user.execute("discard temp")
        with psycopg.connect(schema_dsn, autocommit=True) as owner:
            owner.execute("drop schema evil cascade")
    assert log.events("a") == [(2, b"2")]


def test_what_runs_as_the_owner_has_a_path_of_its_own(log):
    """Every function that a role may call runs as the owner, and sets its path; `version` too."""
    rows = log.ask(
        "select proname, prosecdef, proconfig from pg_proc"
        " where pronamespace = 'flowstream'::regnamespace"
        " and (proname = any(%s) or prorettype = 'trigger'::regtype)",
        list(ENTRIES),
    )
    assert len(rows) == len(ENTRIES) + 1
    for name, definer, config in rows:
        assert any(one.startswith("search_path=pg_catalog, ") for one in config), name
        assert definer or name == "version"


def test_somebody_else_s_schema_is_not_used(log, schema_dsn):
    """Its owner could have put functions in the place of ours, so making the log fails."""
    with psycopg.connect(schema_dsn, autocommit=True) as owner:
        owner.execute("create role fs_squatter")
        owner.execute("alter schema flowstream owner to fs_squatter")
        try:
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="fs_squatter"):
                make_schema(schema_dsn)
        finally:
            owner.execute("alter schema flowstream owner to current_user")
            owner.execute("drop role fs_squatter")


def test_the_schema_is_made_again_with_all_in_it(log, schema_dsn):
    """To upgrade is to run it again: events, epochs and rights of before stay."""
    log.append("a", b"1")
    epoch = log.epoch("a")
    make_schema(schema_dsn)
    assert log.events("a") == [(1, b"1")]
    assert log.epoch("a") == epoch


def test_a_role_s_name_is_quoted():
    """Whatever it has in it; an empty one is refused."""
    assert quoted('a"; drop table x') == '"a""; drop table x"'
    with pytest.raises(ValueError, match="role"):
        quoted("")
