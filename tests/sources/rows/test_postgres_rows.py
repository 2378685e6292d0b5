"""Rows of a real Postgres: all of them, and nothing is left of a query that is over.

What is left is asked of the server itself, by another connection. On the real clock.
"""

from __future__ import annotations

import csv
import datetime
import decimal
import gc
import importlib.util
import io
import json
import sys
from contextlib import closing
from pathlib import Path

import psycopg
import psycopg.types.json
import pytest
import trio
import trio.lowlevel
from _postgres import Sessions, refused_dsn
from hypothesis import given, settings
from hypothesis import strategies as st

import flowstream
from flowstream import MissingExtraError, SourceError, UpstreamError, ndjson, sse
from flowstream.sources._relay import Relay
from flowstream.sources.rows.postgres import postgres_rows
from flowstream.sources.threads._pools import cursor_limiter
from flowstream.testing import collect, open_stream

pytestmark = pytest.mark.chaos

NUMBERS = "SELECT n, 'name ' || n AS name FROM generate_series(0, %s) AS n"
SLEEPING = "SELECT pg_sleep(3600)"
COMPUTING = "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b"


@pytest.fixture
def server(postgres):
    with closing(Sessions(postgres)) as server:
        yield server


@pytest.fixture(params=[False, True], ids=["transactions", "autocommit"])
def connection(server, request):
    with psycopg.connect(server.dsn, autocommit=request.param) as connection:
        yield connection


@pytest.mark.parametrize(("rows", "batch"), [(1000, 1), (1233, 7), (1233, 500), (584, 512)])
async def test_every_row_comes_once_and_in_order(server, outlet, rows, batch):
    """However the rows are divided; 585 is 1 + 8 + 64 + 512: four full batches, then none."""
    await postgres_rows(server.dsn, NUMBERS, [rows], batch=batch).run(outlet)
    assert outlet.items == [{"n": n, "name": f"name {n}"} for n in range(rows + 1)]
    await server.wait_until([])


async def test_a_query_without_rows_is_complete(server, outlet):
    """An empty result is a result."""
    await postgres_rows(server.dsn, "SELECT 1 WHERE false").run(outlet)
    assert outlet.items == []


async def test_parameters_and_percent_signs_are_those_of_psycopg(server, outlet):
    """By position, by name, and none: then a percent sign is one."""
    await postgres_rows(server.dsn, "SELECT %s::int AS a", [1]).run(outlet)
    await postgres_rows(server.dsn, "SELECT %(x)s AS a", {"x": "y"}).run(outlet)
    await postgres_rows(server.dsn, "SELECT 'ab' LIKE 'a%' AS a").run(outlet)
    assert outlet.items == [{"a": 1}, {"a": "y"}, {"a": True}]


@pytest.mark.parametrize("tuples", [False, True])
async def test_csv_has_the_columns_of_the_query_for_a_header(server, tuples):
    """Rows as dicts and as tuples make the same table."""
    source = postgres_rows(server.dsn, NUMBERS, [999], tuples=tuples)
    answer = await collect(flowstream.csv(source))
    header, *rows = csv.reader(io.StringIO(answer.body.decode(), newline=""))
    assert header == ["n", "name"]
    assert rows == [[str(n), f"name {n}"] for n in range(1000)]
    assert answer.complete


async def test_cells_of_the_usual_types_are_json(server):
    """Numbers, text, bytes, dates, UUIDs, decimals, arrays, JSON and NULL, as msgspec has them."""
    sql = """
        SELECT 1 AS i, 0.5::float8 AS f, 1.50::numeric AS d, 'ü' AS t, '\\x00ff'::bytea AS b,
               '2013-01-01T10:00:00'::timestamp AS at, '2013-01-01'::date AS day,
               '12345678-1234-5678-1234-567812345678'::uuid AS u, ARRAY[1, NULL] AS a,
               '{"k": [1]}'::jsonb AS j, NULL AS n, true AS y
    """
    answer = await collect(ndjson(postgres_rows(server.dsn, sql), controls=False))
    assert json.loads(answer.body) == {
        **{"i": 1, "f": 0.5, "d": "1.50", "t": "ü", "b": "AP8=", "at": "2013-01-01T10:00:00"},
        **{"day": "2013-01-01", "u": "12345678-1234-5678-1234-567812345678", "a": [1, None]},
        **{"j": {"k": [1]}, "n": None, "y": True},
    }


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@settings(max_examples=15, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1) | st.none(), texts), max_size=30),
    batch=st.integers(1, 20),
)
async def test_cells_are_what_was_given(postgres, new_outlet, rows, batch):
    """Any rows, in any number, come out as they went in."""
    sql = "SELECT * FROM unnest(%s::bigint[], %s::text[]) AS row(a, b)"
    columns = [[row[n] for row in rows] for n in (0, 1)]
    outlet = new_outlet()
    await postgres_rows(postgres, sql, columns, batch=batch, tuples=True).run(outlet)
    assert outlet.items == rows


async def test_a_row_that_is_there_does_not_wait_for_a_whole_batch(server, outlet):
    """The server answers a fetch when it has all of it, so the first is for one row."""
    sql = "SELECT n, CASE WHEN n > 1 THEN pg_sleep(3600) END FROM generate_series(1, 600) AS n"
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(postgres_rows(server.dsn, sql, tuples=True).run, outlet)
            await outlet.wait_for(1)
            nursery.cancel_scope.cancel()
    assert outlet.items == [(1, None)]


@pytest.mark.parametrize("made", ["repeat('x', %s)", "json_build_array(repeat('x', %s))"])
@pytest.mark.parametrize(("size", "sizes"), [(1, [1, 8, 64, 100, 100]), (1 << 20, [1] * 13)])
async def test_a_batch_grows_unless_its_rows_are_large(
    server, outlet, monkeypatch, size, sizes, made
):
    """It is bounded in rows and, by the look of the last row, in bytes."""
    fetched = []

    class Cursor(psycopg.ServerCursor):
        def fetchmany(self, size):
            fetched.append(size)
            return super().fetchmany(size)

    monkeypatch.setattr("flowstream.sources.rows._postgres_cursor._QUICK", 30)
    sql = f"SELECT n, {made} AS x FROM generate_series(1, %s) AS n"
    with psycopg.connect(server.dsn) as connection:
        connection.server_cursor_factory = Cursor
        total = sum(sizes) - 1
        await postgres_rows(connection, sql, [size, total], batch=100).run(outlet)
    assert [row["n"] for row in outlet.items] == list(range(1, total + 1))
    assert fetched == sizes


# -- when the client goes ----------------------------------------------------------------------


@pytest.mark.parametrize("sql", [SLEEPING, COMPUTING])
async def test_a_client_that_goes_ends_a_query_that_computes(server, sql, aeventually):
    """The server knows of no session of ours, though the query would go on."""
    async with open_stream(ndjson(postgres_rows(server.dsn, sql))) as client:
        await aeventually(server.computes, "the query runs")
        client.abort()
        await server.wait_until([])


async def test_a_client_that_goes_in_the_middle_ends_the_transaction(server, aeventually):
    """A stream that waits for its client has an open transaction, until the client goes."""
    async with open_stream(ndjson(postgres_rows(server.dsn, NUMBERS, [9999])), window=99) as client:
        await client.next_value()
        await client.wait_blocked()
        assert server.sessions() == [("idle in transaction", True)]
        client.abort()
        await server.wait_until([])


@pytest.mark.parametrize("sql", [SLEEPING, COMPUTING, NUMBERS % 9999])
async def test_the_connection_of_the_app_is_usable_after_a_client_went(
    server, connection, sql, aeventually
):
    """Outside any transaction, on the server's view, too; and it runs the next query."""
    async with open_stream(ndjson(postgres_rows(connection, sql)), window=0) as client:
        await client.started()
        if sql.startswith(NUMBERS[:9]):
            await server.wait_until([("idle in transaction", True)])
        else:
            await aeventually(server.computes, "the query runs")
        client.abort()
    assert server.sessions() == [("idle", False)]
    assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("ends", ["complete", "gone", "failed"])
async def test_a_transaction_of_the_app_goes_on_after_the_stream(server, outlet, ends, aeventually):
    """The query runs behind a savepoint: what was done before is neither lost nor committed."""
    with psycopg.connect(server.dsn) as connection:
        connection.execute("CREATE TEMP TABLE done ON COMMIT DROP AS SELECT 1 AS n")
        if ends == "complete":
            await postgres_rows(connection, "SELECT n FROM done").run(outlet)
            assert outlet.items == [{"n": 1}]
        elif ends == "failed":
            with pytest.raises(psycopg.errors.DivisionByZero):
                await postgres_rows(connection, "SELECT 1 / 0").run(outlet)
        else:
            async with open_stream(ndjson(postgres_rows(connection, SLEEPING))) as client:
                await aeventually(server.computes, "the query runs")
                client.abort()
        assert server.sessions() == [("idle in transaction", True)]
        assert connection.execute("SELECT n FROM done").fetchone() == (1,)


async def test_a_hundred_clients_that_go_leave_nothing(server, aeventually):
    """At any moment of a query's life, from before the connection to after the last row."""

    async def visit(number):
        sql = SLEEPING if number % 2 else NUMBERS % 300
        async with open_stream(ndjson(postgres_rows(server.dsn, sql))) as client:
            with trio.move_on_after(number * 0.0005):
                await client.read_all()
            client.abort()

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(visit, number)
    await aeventually(lambda: cursor_limiter().borrowed_tokens == 0, "all threads are back")
    await server.wait_until([])
    gc.collect()  # psycopg warns of a connection that was not closed, which is an error here


async def test_a_source_inside_another_cleans_up_without_a_stream(server):
    """Where nothing shields the cleanup, as in a nursery of the app's, it shields itself."""
    with trio.move_on_after(0.3) as scope:
        await postgres_rows(server.dsn, SLEEPING).run(Relay(trio.sleep, lambda: None))
    assert scope.cancelled_caught
    assert cursor_limiter().borrowed_tokens == 0
    await server.wait_until([])


@pytest.mark.parametrize("reason", ["it does not answer", "it does not listen"])
async def test_a_server_that_cannot_be_made_to_cancel_is_left(
    server, monkeypatch, reason, aeventually
):
    """The connection is cut then: no thread is held, and no client waits for it."""

    def cancel(self, *, timeout):
        if reason == "it does not answer":
            raise psycopg.OperationalError("no route")

    monkeypatch.setattr(psycopg.Connection, "cancel_safe", cancel)
    monkeypatch.setattr("flowstream.sources.rows._postgres_connection._CANCEL_ATTEMPTS", 2)
    async with open_stream(ndjson(postgres_rows(server.dsn, SLEEPING))) as client:
        await aeventually(server.computes, "the query runs")
        client.abort()
    assert cursor_limiter().borrowed_tokens == 0
    server.end_sessions()  # the server looks at a connection when it has something to say


async def test_a_thread_that_is_left_closes_what_it_has(server, monkeypatch, caplog, aeventually):
    """It comes back when the query has its row, long after the stream has ended."""
    monkeypatch.setattr("flowstream.sources.threads._visits._PATIENCE", 0.05)
    monkeypatch.setattr("flowstream.sources.rows._postgres_cursor.interrupt", lambda *_: None)
    async with open_stream(ndjson(postgres_rows(server.dsn, "SELECT pg_sleep(0.3)"))) as client:
        await aeventually(server.computes, "the query runs")
        client.abort()
    assert "did not let go of a thread" in caplog.text
    assert cursor_limiter().borrowed_tokens == 1
    await aeventually(lambda: cursor_limiter().borrowed_tokens == 0, "the thread is back")
    await server.wait_until([])


async def test_a_transaction_ends_with_the_last_row_and_not_with_the_client(server):
    """Once all rows are fetched a client may be as slow as it likes."""
    async with open_stream(ndjson(postgres_rows(server.dsn, NUMBERS, [299])), window=0) as client:
        await client.wait_blocked()
        await server.wait_until([])
        client.resume()
        assert len((await client.read_all()).splitlines()) == 301


async def test_what_a_query_of_the_app_does_is_committed_if_it_is_complete(
    server, connection, outlet
):
    """And rolled back if it is not: as a block of psycopg's own would have it."""
    made = "SELECT lo_create(0) AS id FROM generate_series(1, 100)"
    await postgres_rows(connection, made).run(outlet)
    stored = server.view.execute("SELECT oid FROM pg_largeobject_metadata").fetchall()
    assert {(row["id"],) for row in outlet.items} <= set(stored)
    with pytest.raises(psycopg.errors.DivisionByZero):
        await postgres_rows(connection, f"{made} UNION ALL SELECT (1 / (1 - 1))::oid").run(outlet)
    assert server.view.execute("SELECT oid FROM pg_largeobject_metadata").fetchall() == stored
    server.view.execute(
        "SELECT lo_unlink(id) FROM unnest(%s::oid[]) AS id", [[r["id"] for r in outlet.items]]
    )


# -- what can be wrong -------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["no server", "no database", "wrong password"])
async def test_a_database_that_is_not_to_be_had_is_a_503(server, how, outlet):
    """With nothing of the DSN for the client; the cause is there for the log."""
    dsn = refused_dsn(server.dsn, how)
    answer = await collect(ndjson(postgres_rows(dsn, "SELECT 1"), prime=5))
    assert answer.status == 503
    assert json.loads(answer.body) == {
        "code": "database_unavailable",
        "message": "The database is not available.",
    }
    with pytest.raises(UpstreamError) as caught:
        await postgres_rows(dsn, "SELECT 1").run(outlet)
    assert isinstance(caught.value.__cause__, psycopg.OperationalError)


async def test_a_session_that_is_ended_before_the_first_row_is_a_503(server, aeventually):
    """The server goes while the query computes."""
    async with trio.open_nursery() as nursery:
        got = []

        async def ask():
            got.append(await collect(ndjson(postgres_rows(server.dsn, SLEEPING), prime=30)))

        nursery.start_soon(ask)
        await aeventually(server.computes, "the query runs")
        server.end_sessions()
    assert got[0].status == 503


async def test_a_session_that_is_ended_in_the_middle_is_told_in_band(server, caplog):
    """The client gets the rows that came before and `failed`; the log gets the cause."""
    source = postgres_rows(server.dsn, NUMBERS, [9999])
    async with open_stream(ndjson(source), window=99) as client:
        await client.next_value()
        await client.wait_blocked()
        server.end_sessions()
        client.resume()
        *_, last = [value async for value in values(client)]
    assert last["type"] == "failed"
    assert last["data"]["code"] == "database_unavailable"
    assert "terminating connection" in caplog.text


async def values(client):
    body = await client.read_all()
    for line in body.splitlines():
        yield json.loads(line)


async def test_a_query_that_the_server_cancels_is_a_503(server, outlet):
    """A timeout of the server's own, which a DSN can set, is not the query's fault."""
    dsn = psycopg.conninfo.make_conninfo(server.dsn, options="-c statement_timeout=20")
    with pytest.raises(UpstreamError) as caught:
        await postgres_rows(dsn, SLEEPING).run(outlet)
    assert caught.value.status == 503


@pytest.mark.parametrize(
    ("sql", "params", "error"),
    [
        ("SELEKT 1", (), psycopg.errors.SyntaxError),
        ("SELECT * FROM missing", (), psycopg.errors.UndefinedTable),
        ("SELECT 1 / 0", (), psycopg.errors.DivisionByZero),
        ("SELECT %s", (), psycopg.errors.SyntaxError),
        ("SELECT %s", (1, 2), psycopg.ProgrammingError),
        ("DELETE FROM pg_class", (), psycopg.errors.SyntaxError),
        ("SELECT set_config('a.b', nextval('s')::text, false)", (), psycopg.errors.UndefinedTable),
        ("SELECT 1 AS a, 2 AS a", (), SourceError),
    ],
)
async def test_what_the_app_did_wrong_is_no_news_for_the_client(server, sql, params, error, outlet):
    """The error is psycopg's, for the app's log; the client is told of an internal one."""
    with pytest.raises(error):
        await postgres_rows(server.dsn, sql, params).run(outlet)
    answer = await collect(sse(postgres_rows(server.dsn, sql, params)))
    assert b'"code":"internal"' in answer.body
    assert b"SELEKT" not in answer.body
    await server.wait_until([])


async def test_a_dsn_is_opened_for_reading_only(server, outlet):
    """The server refuses a query that changes something."""
    sql = "SELECT current_setting('transaction_read_only') AS value"
    await postgres_rows(server.dsn, sql).run(outlet)
    assert outlet.items == [{"value": "on"}]


@pytest.mark.parametrize(
    ("arguments", "options", "error", "match"),
    [
        ((3, "SELECT 1"), {}, TypeError, "DSN"),
        (("nonsense secret", "SELECT 1"), {}, ValueError, "DSN"),
        (("dbname=x", 1), {}, TypeError, "sql"),
        (("dbname=x", "SELECT %s", "abc"), {}, TypeError, "params"),
        (("dbname=x", "SELECT 1"), {"batch": 0}, ValueError, "batch"),
    ],
)
def test_wrong_arguments_are_refused_at_the_call(arguments, options, error, match):
    """In the view, before there is a stream, and without the DSN's text in the message."""
    with pytest.raises(error, match=match) as caught:
        postgres_rows(*arguments, **options)
    assert "secret" not in str(caught.value)


def test_without_psycopg_the_message_names_the_extra(monkeypatch):
    """What to type is in it."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"flowstream-trio\[postgres\]"):
        postgres_rows("dbname=x", "SELECT 1")


# -- the example -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def example():
    path = Path(__file__).parents[3] / "examples" / "12_database_rows.py"
    spec = importlib.util.spec_from_file_location("example_12", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module.app
    module.directory.cleanup()


async def test_the_example_has_the_same_rows_in_both_formats(example):
    """NDJSON and CSV; and a parameter is one."""
    lines = (await collect(example, "/characters")).body.splitlines()
    greek = await collect(example, "/characters.csv?like=%25GREEK%25")
    wanted = [row for row in map(json.loads, lines) if "GREEK" in row["name"]]
    rows = list(csv.DictReader(io.StringIO(greek.body.decode(), newline="")))
    assert rows == [{"code": str(row["code"]), "name": row["name"]} for row in wanted]
    assert len(lines) > 9000
    assert len(rows) > 300


async def test_the_example_says_what_is_not_there(example, server, monkeypatch):
    """A 404 for the file, a 503 for the server; and with a server its tables."""
    assert (await collect(example, "/missing")).status == 404
    given = psycopg.conninfo.conninfo_to_dict(server.dsn)
    for name in ("host", "port", "user", "password"):
        monkeypatch.setenv(f"PG{name.upper()}", str(given.get(name, "")))
    monkeypatch.setenv("PGDATABASE", "missing")
    assert (await collect(example, "/tables")).status == 503
    monkeypatch.setenv("PGDATABASE", str(given["dbname"]))
    assert b'"tablename":"pg_class"' in (await collect(example, "/tables")).body


async def test_the_example_computes_until_its_client_goes(example, aeventually):
    """A thread computes without a row, and is free again."""
    async with open_stream(example, "/forever") as client:
        await aeventually(lambda: cursor_limiter().borrowed_tokens == 1, "it computes")
        client.abort()
        await aeventually(lambda: cursor_limiter().borrowed_tokens == 0, "it does not")


# -- values that Python has no type for ----------------------------------------------------------

BEYOND = [
    ("'infinity'::date", "infinity"),
    ("'-infinity'::date", "-infinity"),
    ("'infinity'::timestamp", "infinity"),
    ("'-infinity'::timestamptz", "-infinity"),
    ("'0044-03-15 BC'::date", "0044-03-15 BC"),
    ("'0044-03-15 12:00 BC'::timestamp", "0044-03-15 12:00:00 BC"),
    ("'10000-01-01'::date", "10000-01-01"),
    ("'24:00:00'::time", "24:00:00"),
    ("'24:00:00+02'::timetz", "24:00:00+02"),
    ("'4000000 years'::interval", "4000000 years"),
    ("'NaN'::numeric", "NaN"),
    ("'Infinity'::numeric", "Infinity"),
    (
        """'{"x": 1e400, "y": [-0.1e999, 1e300, 2]}'::json""",
        {"x": "1E+400", "y": ["-1E+998", 1e300, 2]},
    ),
    ("""'{"x": 1e400}'::jsonb""", {"x": 10**400}),
    ("""ARRAY['{"x": 1e400}'::json]""", [{"x": "1E+400"}]),
    ("'10.0.0.1'::inet", "10.0.0.1"),
    ("'::ffff:1.2.3.4/100'::inet", "::ffff:1.2.3.4/100"),
    ("'10.0.0.0/8'::cidr", "10.0.0.0/8"),
    ("'08:00:2b:01:02:03'::macaddr", "08:00:2b:01:02:03"),
    ("'[1,5)'::int4range", "[1,5)"),
    ("'[2024-01-01,infinity]'::daterange", "[2024-01-01,infinity]"),
    ("'empty'::numrange", "empty"),
    ("'{[1,3),[5,7)}'::int4multirange", "{[1,3),[5,7)}"),
    ("B'1010'", "1010"),
    ("1234.5::money", "$1,234.50"),
    ("'(1,2)'::point", "(1,2)"),
    ("'<a>1</a>'::xml", "<a>1</a>"),
    ("'a fat cat'::tsvector", "'a' 'cat' 'fat'"),
    ("'ok'::mood", "ok"),
    ("ROW(1, 'x y')::pair", '(1,"x y")'),
    ("ARRAY[ROW(1, 'x')::pair]", '{"(1,x)"}'),
    ("ARRAY['ok']::mood[]", "{ok}"),
    ("7::positive", 7),
    ("ARRAY['2024-01-01', 'infinity']::date[]", ["2024-01-01", "infinity"]),
    ("ARRAY[['infinity'::date], ['2024-01-01'::date]]", [["infinity"], ["2024-01-01"]]),
    ("ARRAY['24:00:00'::time]", ["24:00:00"]),
    ("ARRAY['10.0.0.1'::inet]", ["10.0.0.1"]),
    ("ARRAY['[1,5)'::int4range]", ["[1,5)"]),
    ("'{\"k\": [1, null]}'::jsonb", {"k": [1, None]}),
    ("'1e99999999999999999999'::json", "1e99999999999999999999"),
    ("(repeat('[', 3000) || repeat(']', 3000))::json", "[" * 3000 + "]" * 3000),
    ("(repeat('[', 300) || repeat(']', 300))::jsonb", "[" * 300 + "]" * 300),
    ("'\\x00ff'::bytea", "AP8="),
    ("'NaN'::float8", None),
    ("tstzrange('infinity', NULL)", "[infinity,)"),
]


@pytest.fixture(scope="module")
def with_types(postgres):
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("SET lc_messages TO 'C'")
        connection.execute("CREATE TYPE mood AS ENUM ('sad', 'ok')")
        connection.execute("CREATE TYPE pair AS (a int, b text)")
        connection.execute("CREATE DOMAIN positive AS int CHECK (VALUE > 0)")
        yield postgres
        connection.execute("DROP TYPE mood, pair CASCADE")
        connection.execute("DROP DOMAIN positive")


@pytest.mark.parametrize(("value", "expected"), BEYOND, ids=[value for value, _ in BEYOND])
async def test_a_value_that_python_lacks_is_what_postgres_writes(with_types, value, expected):
    """And the rows around it, which came in the same fetch, are there; in each format."""
    sql = f"SELECT n, CASE WHEN n = 3 THEN {value} END AS v FROM generate_series(1, 6) AS n"
    answer = await collect(ndjson(postgres_rows(with_types, sql), controls=False))
    rows = [json.loads(line) for line in answer.body.splitlines()]
    assert [row["n"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["v"] for row in rows] == [None, None, expected, None, None, None]
    assert answer.complete
    events = (await collect(sse(postgres_rows(with_types, sql)))).body.decode()
    assert events.count("\ndata: ") == 7
    assert "failed" not in events
    table = (await collect(flowstream.csv(postgres_rows(with_types, sql)))).body.decode()
    cells = list(csv.reader(io.StringIO(table, newline="")))
    assert len(cells) == 7
    if isinstance(expected, str):
        assert cells[3] == ["3", expected]


async def test_usual_values_beside_one_of_those_are_what_they_were(server, outlet):
    """Only what can't be loaded is text; the next batch is as usual."""
    sql = """
        SELECT n, CASE WHEN n = 3 THEN 'infinity' ELSE '2024-01-01' END::date AS day,
               '2024-01-01T10:00'::timestamp AS at, 1.5::numeric AS price
        FROM generate_series(1, 40) AS n
    """
    await postgres_rows(server.dsn, sql).run(outlet)
    days = [row["day"] for row in outlet.items]
    assert days.pop(2) == "infinity"
    assert set(days) == {datetime.date(2024, 1, 1)}
    assert {row["at"] for row in outlet.items} == {datetime.datetime(2024, 1, 1, 10)}
    assert {type(row["price"]) for row in outlet.items} == {decimal.Decimal}


async def test_an_app_that_reads_json_in_its_own_way_still_does(server, outlet):
    """Large numbers are looked after only where psycopg's own reading would lose them."""
    with psycopg.connect(server.dsn) as given:
        psycopg.types.json.set_json_loads(lambda text: f"own {bytes(text).decode()}", given)
        await postgres_rows(given, "SELECT '[1e400]'::json AS j").run(outlet)
    assert outlet.items[0]["j"] == "own [1e400]"


@pytest.mark.parametrize("style", ["German", "SQL, DMY"])
async def test_a_session_that_writes_dates_in_its_own_way_is_read(server, outlet, style):
    """psycopg reads ISO only, where there is a zone; the app's connection may write another."""
    with psycopg.connect(server.dsn, options=f"-c datestyle={style.replace(' ', '')}") as given:
        await postgres_rows(given, "SELECT '2024-01-02 10:00+00'::timestamptz AS at").run(outlet)
    assert "2024" in str(outlet.items[0]["at"])


class Upper(psycopg.adapt.Loader):
    """A loader of an app's own, for ranges of whole numbers."""

    def load(self, data):
        text = bytes(data).decode()
        if text == "empty":
            raise ValueError("no range")
        return {"range": text}


async def test_what_the_app_has_registered_is_left_alone(server, outlet):
    """Its own types stay its own; what it raises is a failure, behind the rows before that."""
    with psycopg.connect(server.dsn) as connection:
        connection.adapters.register_loader("int4range", Upper)
        sql = """
            SELECT n, CASE WHEN n = 5 THEN 'empty' ELSE '[1,2)' END::int4range AS r
            FROM generate_series(1, 9) AS n
        """
        with pytest.raises(ValueError, match="no range"):
            await postgres_rows(connection, sql).run(outlet)
    assert outlet.items == [{"n": n, "r": {"range": "[1,2)"}} for n in range(1, 5)]


async def test_rows_before_a_failure_of_the_server_are_delivered(server, outlet):
    """Those of the fetches before it: the server sends a fetch when it has all of it."""
    sql = "SELECT n, 10 / (5 - n) AS q FROM generate_series(1, 9) AS n"
    with pytest.raises(psycopg.errors.DivisionByZero):
        await postgres_rows(server.dsn, sql, batch=1).run(outlet)
    assert [row["n"] for row in outlet.items] == [1, 2, 3, 4]
