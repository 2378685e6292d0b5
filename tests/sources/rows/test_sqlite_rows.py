"""Rows of SQLite: all of them, in flat memory, and nothing is left of a query that is over.

On the real clock: a virtual one takes a thread that works for silence.
"""

from __future__ import annotations

import csv
import gc
import io
import json
import sqlite3
import sys
import threading
import time
from contextlib import closing

import msgspec
import pytest
import trio
import trio.lowlevel
from hypothesis import given, settings
from hypothesis import strategies as st

import flowstream
from flowstream import SourceError, ndjson, sse
from flowstream.sources._relay import Relay
from flowstream.sources.rows._rows import _as_dicts
from flowstream.sources.rows.sqlite import sqlite_rows
from flowstream.sources.threads._pools import cursor_limiter
from flowstream.testing import collect, open_stream

# Counts for hours before it has a row.
ENDLESS = """
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
    SELECT i FROM n WHERE i < 0
"""
NUMBERS = "SELECT value AS n, 'name ' || value AS name FROM generated ORDER BY n"


def make(path, count):
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE generated (value INTEGER)")
        rows = ((n,) for n in range(count))
        connection.executemany("INSERT INTO generated VALUES (?)", rows)
    return path


@pytest.fixture
def database(tmp_path):
    return make(tmp_path / "a b%20?#.sqlite", 1234)


@pytest.fixture
def connection(database):
    with closing(sqlite3.connect(database, check_same_thread=False)) as connection:
        yield connection


def unlocked(path):
    """Take the database for oneself, as the database only allows if nobody reads it."""
    with closing(sqlite3.connect(path, timeout=0)) as connection:
        try:
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            return False
        return True


@pytest.mark.parametrize("batch", [1, 7, 500, 617, 1234, 1235, 5000])
async def test_every_row_comes_once_and_in_order(database, outlet, batch):
    """Whatever the batch and how it divides the rows."""
    await sqlite_rows(database, NUMBERS, batch=batch).run(outlet)
    assert outlet.items == [{"n": n, "name": f"name {n}"} for n in range(1234)]
    assert unlocked(database)


async def test_a_query_without_rows_is_complete(database, outlet):
    """An empty result is a result."""
    await sqlite_rows(database, "SELECT 1 WHERE 0").run(outlet)
    assert outlet.items == []


@pytest.mark.parametrize(
    ("sql", "params"),
    [("SELECT ? AS a, ? AS b", (1, "x")), ("SELECT :one AS a, :two AS b", {"one": 1, "two": "x"})],
)
async def test_parameters_go_by_position_and_by_name(database, outlet, sql, params):
    """As `sqlite3` takes them."""
    await sqlite_rows(database, sql, params).run(outlet)
    assert outlet.items == [{"a": 1, "b": "x"}]


async def test_rows_as_tuples_know_their_columns(database, outlet):
    """They are tuples to Python and to JSON, and have names for a header."""
    await sqlite_rows(
        database, "SELECT 1 AS a, NULL AS 'b c', count(*) FROM generated", tuples=True
    ).run(outlet)
    (row,) = outlet.items
    assert row == (1, None, 1234)
    assert row._fields == ("a", "b c", "count(*)")
    assert msgspec.json.encode(row) == b"[1,null,1234]"


@pytest.mark.parametrize("tuples", [False, True])
async def test_csv_has_the_columns_of_the_query_for_a_header(database, tuples):
    """Rows as dicts and as tuples make the same table, byte for byte."""
    source = sqlite_rows(database, NUMBERS, tuples=tuples)
    answer = await collect(flowstream.csv(source))
    header, *rows = csv.reader(io.StringIO(answer.body.decode(), newline=""))
    assert header == ["n", "name"]
    assert rows == [[str(n), f"name {n}"] for n in range(1234)]
    assert answer.complete


async def test_ndjson_is_a_row_a_line(database):
    """With the cells as SQLite has them: numbers, text, None, and bytes as base64."""
    sql = "SELECT 1 AS i, 0.5 AS f, 'ü\n' AS t, NULL AS n, x'00ff' AS b"
    answer = await collect(ndjson(sqlite_rows(database, sql), controls=False))
    assert json.loads(answer.body) == {"i": 1, "f": 0.5, "t": "ü\n", "n": None, "b": "AP8="}
    assert answer.body.count(b"\n") == 1


@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.integers(-(2**63), 2**63 - 1) | st.none() | st.floats(allow_nan=False),
            st.text(st.characters(exclude_categories=["Cs"])) | st.binary(),
        ),
        max_size=80,
    ),
    batch=st.integers(1, 60),
)
async def test_cells_are_what_was_stored(new_outlet, rows, batch):
    """Any values of SQLite's, in any number, come out as `sqlite3` itself gives them."""
    with closing(sqlite3.connect(":memory:", check_same_thread=False)) as connection:
        connection.execute("CREATE TABLE stored (a, b)")
        connection.executemany("INSERT INTO stored VALUES (?, ?)", rows)
        outlet = new_outlet()
        await sqlite_rows(
            connection, "SELECT * FROM stored ORDER BY rowid", batch=batch, tuples=True
        ).run(outlet)
        assert outlet.items == connection.execute("SELECT * FROM stored ORDER BY rowid").fetchall()


async def test_a_row_that_is_there_does_not_wait_for_one_that_is_not(connection, outlet):
    """Each leaves though the query computes for hours; `sqlite3` itself keeps back the last."""
    permits = threading.Semaphore(2)
    connection.create_function("wait", 1, lambda n: n if permits.acquire(timeout=30) else None)
    source = sqlite_rows(connection, "SELECT wait(value) AS n FROM generated WHERE value < 8")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.run, outlet)
        with trio.fail_after(10):
            for found in range(1, 7):
                await outlet.wait_for(found)
                assert len(outlet.items) == found
                permits.release()
        permits.release(9)
    assert outlet.items == [{"n": n} for n in range(8)]


async def test_the_row_factory_of_the_app_is_not_ours(connection, outlet):
    """Whatever the app makes of its rows, the stream's are what they are said to be."""
    connection.row_factory = lambda cursor, row: None
    await sqlite_rows(connection, "SELECT 1 AS a").run(outlet)
    assert outlet.items == [{"a": 1}]
    assert connection.execute("SELECT 1").fetchall() == [None]


async def test_a_client_that_goes_ends_a_query_that_computes(database, aeventually):
    """Nobody reads the database any more, though the query would go on for ever."""
    async with open_stream(ndjson(sqlite_rows(database, ENDLESS))) as client:
        await aeventually(lambda: cursor_limiter().borrowed_tokens == 1, "the query runs")
        client.abort()
        await aeventually(lambda: cursor_limiter().borrowed_tokens == 0, "the query has ended")
    assert unlocked(database)


async def test_a_client_that_goes_in_the_middle_ends_the_query(database, aeventually):
    """The cursor of a stream that waits for its client is closed, too, and its lock gone."""
    async with open_stream(ndjson(sqlite_rows(database, NUMBERS, batch=10)), window=100) as client:
        await client.next_value()
        await client.wait_blocked()
        assert not unlocked(database)
        client.abort()
        await aeventually(lambda: unlocked(database), "the database is not read any more")


@pytest.mark.parametrize("sql", [ENDLESS, NUMBERS])
async def test_the_connection_of_the_app_is_usable_after_a_client_went(
    connection, sql, aeventually
):
    """The query is over, and the connection runs the next one; its row factory is the app's."""
    connection.row_factory = sqlite3.Row
    async with open_stream(ndjson(sqlite_rows(connection, sql, batch=5)), window=0) as client:
        await client.started()
        await aeventually(
            lambda: cursor_limiter().borrowed_tokens == 1 or sql == NUMBERS, "it runs"
        )
        client.abort()
    assert dict(connection.execute("SELECT max(value) AS m FROM generated").fetchone()) == {
        "m": 1233
    }
    connection.execute("DELETE FROM generated")
    connection.rollback()


async def test_nothing_is_left_of_a_connection_of_ours(database):
    """An unclosed connection would warn when it is collected, which is an error here."""
    async with open_stream(ndjson(sqlite_rows(database, NUMBERS)), window=100) as client:
        await client.next_value()
    gc.collect()


async def test_a_source_inside_another_cleans_up_without_a_stream(database):
    """Where nothing shields the cleanup, as in a nursery of the app's, it shields itself."""

    async def take(_):
        await trio.lowlevel.checkpoint()

    with trio.move_on_after(0.05) as scope:
        await sqlite_rows(database, ENDLESS).run(Relay(take, lambda: None))
    assert scope.cancelled_caught
    assert cursor_limiter().borrowed_tokens == 0
    assert unlocked(database)


async def test_a_thread_that_cannot_be_interrupted_is_left_and_closes(
    connection, monkeypatch, caplog, aeventually
):
    """After the patience is over the stream ends; the cursor is closed when its thread is back."""
    monkeypatch.setattr("flowstream.sources.threads._visits._PATIENCE", 0.05)
    stuck, release = threading.Event(), threading.Event()

    def wait():
        stuck.set()
        return release.wait(30)

    connection.create_function("stuck", 0, wait)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                sqlite_rows(connection, "SELECT stuck()").run, Relay(None, lambda: None)
            )
            await aeventually(stuck.is_set, "the thread is inside")
            scope.cancel()
    assert "did not let go of a thread" in caplog.text
    assert cursor_limiter().borrowed_tokens == 1
    release.set()
    await aeventually(lambda: cursor_limiter().borrowed_tokens == 0, "the thread is back")
    assert connection.execute("SELECT 1").fetchone() == (1,)


async def test_closing_does_not_wait_for_threads_that_compute(database, aeventually):
    """A stream that ends needs no token that the queries of others hold."""
    limiter = cursor_limiter()
    limiter.total_tokens = 1
    async with open_stream(ndjson(sqlite_rows(database, NUMBERS, batch=5)), window=50) as idle:
        await idle.next_value()
        await aeventually(lambda: limiter.borrowed_tokens == 0, "it waits for its client")
        async with open_stream(ndjson(sqlite_rows(database, ENDLESS))):
            await aeventually(lambda: limiter.borrowed_tokens == 1, "the other computes")
            idle.abort()
            with trio.fail_after(10):
                await idle.wait_finished()
            assert limiter.borrowed_tokens == 1


async def test_a_head_request_opens_nothing(tmp_path):
    """The database is not even looked for."""
    answer = await collect(ndjson(sqlite_rows(tmp_path / "no.sqlite", "SELECT 1")), method="HEAD")
    assert answer.status == 200


async def test_a_source_may_be_made_once_for_all_requests(database):
    """As a constant of the app's module, say: each stream has a query of its own."""
    source = sqlite_rows(database, NUMBERS)
    bodies = []

    async def stream():
        bodies.append((await collect(ndjson(source, controls=False))).body)

    await stream()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream)
        nursery.start_soon(stream)
    assert len(bodies[0].splitlines()) == 1234
    assert bodies == [bodies[0]] * 3


# -- what can be wrong -------------------------------------------------------------------------


async def test_a_missing_file_is_a_404_and_is_not_made(tmp_path):
    """Opened for reading only: SQLite would make an empty database otherwise."""
    path = tmp_path / "secret.sqlite"
    answer = await collect(ndjson(sqlite_rows(path, "SELECT 1"), prime=5))
    assert answer.status == 404
    assert json.loads(answer.body)["code"] == "not_found"
    assert b"secret" not in answer.body
    assert not path.exists()


@pytest.mark.parametrize("name", ["secret.sqlite", "."])
async def test_the_log_names_the_file_that_is_missing(tmp_path, caplog, name):
    """A wrong path is most often the app's own mistake; a directory is no database, either."""
    path = tmp_path / name
    answer = await collect(ndjson(sqlite_rows(path, "SELECT 1"), prime=5))
    assert answer.status == 404
    [record] = [one for one in caplog.records if str(path) in one.getMessage()]
    assert record.levelname == "WARNING"


async def test_a_missing_file_is_told_in_band_without_prime(tmp_path):
    """The stream has begun: the client gets `failed` with the code."""
    answer = await collect(ndjson(sqlite_rows(tmp_path / "no.sqlite", "SELECT 1")))
    assert answer.status == 200
    failed = json.loads(answer.body)
    assert [failed["type"], failed["data"]["code"]] == ["failed", "not_found"]


@pytest.mark.parametrize(
    ("content", "sql", "error"),
    [
        (None, "SELEKT 1", sqlite3.OperationalError),
        (None, "SELECT * FROM missing", sqlite3.OperationalError),
        (None, "SELECT ?", sqlite3.ProgrammingError),
        (None, "SELECT 1; SELECT 2", sqlite3.ProgrammingError),
        (None, "DELETE FROM generated", sqlite3.OperationalError),
        (None, "PRAGMA foreign_keys = 1", SourceError),
        (b"this is no database" * 100, "SELECT * FROM sqlite_master", sqlite3.DatabaseError),
    ],
)
async def test_what_the_app_did_wrong_is_no_news_for_the_client(
    database, content, sql, error, outlet
):
    """The error is the driver's, for the app's log; the client is told of an internal one."""
    if content is not None:
        database.write_bytes(content)
    with pytest.raises(error):
        await sqlite_rows(database, sql).run(outlet)
    answer = await collect(sse(sqlite_rows(database, sql)))
    assert b'"code":"internal"' in answer.body
    assert b"SELEKT" not in answer.body


async def test_a_failure_in_the_middle_is_told_after_the_rows_before_it(connection, caplog):
    """The client gets what there was and `failed`; the log gets the traceback."""
    connection.create_function("fails_at_3", 1, lambda n: n if n < 3 else 1 // 0)
    source = sqlite_rows(connection, "SELECT fails_at_3(value) AS n FROM generated")
    answer = await collect(ndjson(source))
    *rows, failed = map(json.loads, answer.body.splitlines())
    assert rows == [{"n": 0}, {"n": 1}]  # `sqlite3` does not give out the one before it
    assert failed["data"]["code"] == "internal"
    assert "user-defined function raised exception" in caplog.text


@pytest.fixture
def writer(database):
    """Another program that is writing: nobody can read."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield connection


async def test_a_database_that_is_written_to_is_waited_for(database, writer, outlet, aeventually):
    """A writer that is done in time costs the client nothing but time."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sqlite_rows(database, NUMBERS).run, outlet)
        await aeventually(lambda: cursor_limiter().borrowed_tokens, "it wants to read")
        writer.rollback()
    assert len(outlet.items) == 1234


async def test_a_database_that_stays_locked_is_a_503(database, writer, monkeypatch):
    """That is nobody's fault, and worth another try: an upstream's error."""
    monkeypatch.setattr("flowstream.sources.rows._sqlite_cursor._BUSY_SECONDS", 0.01)
    answer = await collect(ndjson(sqlite_rows(database, NUMBERS), prime=5))
    assert answer.status == 503
    assert json.loads(answer.body)["code"] == "database_busy"


async def test_a_client_that_goes_ends_the_wait_for_a_lock(
    database, writer, aeventually, monkeypatch
):
    """SQLite's own wait can't be interrupted; ours can."""
    monkeypatch.setattr("flowstream.sources.rows._sqlite_cursor._BUSY_SECONDS", 600)
    async with open_stream(ndjson(sqlite_rows(database, NUMBERS))) as client:
        await aeventually(lambda: cursor_limiter().borrowed_tokens, "it wants to read")
        client.abort()
        await aeventually(lambda: not cursor_limiter().borrowed_tokens, "it waits no more")


async def test_a_connection_that_is_bound_to_its_thread_is_refused(database, outlet):
    """With what to write instead."""
    with closing(sqlite3.connect(database)) as bound:
        source = sqlite_rows(bound, NUMBERS)
        with pytest.raises(SourceError, match="check_same_thread=False"):
            await source.run(outlet)


async def test_a_column_may_have_any_name(database, outlet):
    """Quotes, braces, line ends and code are names like others."""
    names = ["'", '"', "{x}", "\\", "a\nb", "", "é", "}; import os; {", "__proto__"]
    columns = ", ".join(
        f"{number} AS " + '"' + name.replace('"', '""') + '"' for number, name in enumerate(names)
    )
    await sqlite_rows(database, f"SELECT {columns}").run(outlet)
    assert outlet.items == [dict(zip(names, range(len(names)), strict=True))]


@given(st.lists(st.text(), unique=True), st.data())
def test_a_row_as_a_dict_is_what_zip_makes_of_it(names, data):
    """However many columns there are, and whatever they are called; none, too."""
    row = tuple(data.draw(st.lists(st.none(), min_size=len(names), max_size=len(names))))
    shape = _as_dicts(names)
    assert shape(row) == dict(zip(names, row, strict=True))
    with pytest.raises(ValueError, match="unpack"):
        shape((*row, 1))


async def test_two_columns_of_one_name_do_not_become_one(database, outlet):
    """A dict would lose one of them silently; tuples have both."""
    sql = "SELECT 1 AS a, 2 AS a"
    with pytest.raises(SourceError, match="'a'"):
        await sqlite_rows(database, sql).run(outlet)
    await sqlite_rows(database, sql, tuples=True).run(outlet)
    assert outlet.items == [(1, 2)]


@pytest.mark.parametrize(
    ("arguments", "options", "error", "match"),
    [
        ((3, "SELECT 1"), {}, TypeError, "a path or a sqlite3.Connection"),
        ((b"rows.sqlite", "SELECT 1"), {}, TypeError, "path"),
        ((":memory:", "SELECT 1"), {}, ValueError, "connection"),
        (("rows.sqlite", b"SELECT 1"), {}, TypeError, "sql"),
        (("rows.sqlite", " "), {}, ValueError, "empty"),
        (("rows.sqlite", "SELECT ?", "abc"), {}, TypeError, "params"),
        (("rows.sqlite", "SELECT ?", {1}), {}, TypeError, "params"),
        (("rows.sqlite", "SELECT 1"), {"batch": 0}, ValueError, "batch"),
        (("rows.sqlite", "SELECT 1"), {"batch": 5001}, ValueError, "batch"),
        (("rows.sqlite", "SELECT 1"), {"batch": 1.5}, TypeError, "batch"),
        (("rows.sqlite", "SELECT 1"), {"batch": True}, TypeError, "batch"),
    ],
)
def test_wrong_arguments_are_refused_at_the_call(arguments, options, error, match):
    """In the view, before there is a stream."""
    with pytest.raises(error, match=match):
        sqlite_rows(*arguments, **options)


# -- the bar, in small; benchmarks/rows.py has the whole ---------------------------------------


async def test_a_stalled_client_holds_one_batch(database, outlet, aeventually):
    """What is fetched and not sent is bounded, however many rows there are."""
    alive = 0
    peak = 0

    class Counted(str):
        def __new__(cls, text):
            nonlocal alive, peak
            alive += 1
            peak = max(peak, alive)
            return super().__new__(cls, text)

        def __del__(self):
            nonlocal alive
            alive -= 1

    with closing(sqlite3.connect(database, check_same_thread=False)) as connection:
        connection.text_factory = lambda raw: Counted(raw.decode())
        source = sqlite_rows(connection, NUMBERS, batch=100)
        async with open_stream(flowstream.csv(source, buffer=10), window=100) as client:
            await client.wait_blocked()
            client.resume()
            table = await client.read_all()
    assert table.endswith(b"1233,name 1233\r\n")
    assert 100 <= peak <= 102


async def test_a_batch_of_large_rows_is_bounded_in_bytes(outlet):
    """Five hundred rows of a megabyte each would be held at once; two are."""
    held = []

    class Counted(sqlite3.Cursor):
        def __next__(self):
            held.append(len(outlet.items))
            return super().__next__()

    class Counting(sqlite3.Connection):
        def cursor(self):
            return super().cursor(Counted)

    sql = """WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20)
             SELECT i, zeroblob(1000000) AS x FROM n"""
    with closing(Counting(":memory:", check_same_thread=False)) as connection:
        await sqlite_rows(connection, sql).run(outlet)
    assert [row["i"] for row in outlet.items] == list(range(1, 21))
    assert max(fetched - sent for fetched, sent in enumerate(held)) <= 3


async def test_the_event_loop_goes_on_while_rows_are_fetched(database, outlet):
    """A query that computes takes the processor, but not the event loop's turn."""
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            await trio.sleep(0.001)
            ticks += 1

    sql = """WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000)
             SELECT count(*) AS n FROM n"""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tick)
        await sqlite_rows(database, sql).run(outlet)
        nursery.cancel_scope.cancel()
    assert ticks > 10  # it takes a tenth of a second and more; without a turn there is one


async def test_a_row_costs_little_more_than_in_a_plain_loop(tmp_path, new_outlet):
    """In processor time, whole: fetched in threads, encoded, through the buffer and written."""
    path = make(tmp_path / "rows.sqlite", 20_000)
    encode = msgspec.json.Encoder().encode

    def loop():
        with closing(sqlite3.connect(path)) as connection, (tmp_path / "rows").open("wb") as file:
            cursor = connection.execute(NUMBERS)
            names = [column[0] for column in cursor.description]
            for row in cursor:
                file.write(encode(dict(zip(names, row, strict=True))) + b"\n")

    ratios = []
    for _ in range(3):
        started = time.process_time()
        loop()
        plain = time.process_time() - started
        answer = await collect(ndjson(sqlite_rows(path, NUMBERS), controls=False))
        ratios.append((time.process_time() - started - plain) / plain)
        assert answer.body == (tmp_path / "rows").read_bytes()
    # Rows of two cells: the row itself costs next to nothing. A tracer that counts lines, as
    # coverage does, sees more of ours than of the loop.
    assert min(ratios) < (6 if sys.gettrace() is None else 15)


BROKEN = """SELECT 1 AS n, 'Köln' AS t UNION ALL SELECT 2, CAST(x'fc41' AS TEXT)
            UNION ALL SELECT 3, 'a' || char(0) || 'b'
            UNION ALL SELECT 4, CAST(x'f0' AS TEXT)"""


@pytest.mark.parametrize("batch", [1, 2, 500])
async def test_text_that_is_not_utf_8_is_sent_with_its_place_marked(
    database, outlet, caplog, batch
):
    """SQLite does not check text: all rows come, and the log says it once."""
    await sqlite_rows(database, BROKEN, tuples=True, batch=batch).run(outlet)
    assert outlet.items == [(1, "Köln"), (2, "\ufffdA"), (3, "a\0b"), (4, "\ufffd")]
    assert caplog.text.count("text that is not UTF-8") == 1


async def test_a_connection_of_the_apps_has_its_own_text_factory_back(connection, outlet):
    """What was set for the stream is unset with it."""
    await sqlite_rows(connection, BROKEN, tuples=True).run(outlet)
    assert len(outlet.items) == 4
    assert connection.text_factory is str


async def test_a_converter_that_fails_loses_no_row_before_it(database, caplog):
    """The rows before it are delivered, then the failure is told."""
    with closing(sqlite3.connect(database, check_same_thread=False, detect_types=2)) as connection:
        sqlite3.register_converter("flowstream_number", int)
        sql = """SELECT 1 AS 'n [flowstream_number]' UNION ALL SELECT 2 UNION ALL SELECT 'x'"""
        answer = await collect(ndjson(sqlite_rows(connection, sql)))
    one, two, failed = map(json.loads, answer.body.splitlines())
    assert [list(one.values()), list(two.values())] == [[1], [2]]
    assert failed["data"]["code"] == "internal"
    assert "invalid literal" in caplog.text
