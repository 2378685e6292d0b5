"""One connection to Postgres: calls, cancellation, deadlines, and what is lost with it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from _scripted_postgres import HangUpError, RefuseError, Session, scripted_postgres

from flowstream.logs.postgres import _pq_connection, _statements
from flowstream.logs.postgres._binary_values import (
    boolean,
    bytea_array,
    decoder,
    float8,
    float8_array,
    int4,
    int4_array,
    int8,
    int8_array,
    text,
    text_array,
)
from flowstream.logs.postgres._postgres_dsn import PostgresDSN
from flowstream.logs.postgres._pq_connection import (
    QUEUE_CALLS,
    PostgresCall,
    PostgresConnection,
    PostgresLostError,
    PostgresRefusedError,
    Statement,
    open_connection,
)

ECHO = Statement("echo", "select $1::bigint")
SLOW = Statement("slow", "select pg_sleep($1::float8)")


async def echo(session: Session, sql: str, params: list[bytes | None]) -> list[tuple[Any, ...]]:
    return [(int.from_bytes(params[0] or b"", "big", signed=True),)] if params else [(1,)]


@asynccontextmanager
async def connected(
    dsn: str, patience: float = 10.0, **options: Any
) -> AsyncIterator[PostgresConnection]:
    """Connect, and work, for the block."""
    (attempt, *_) = await PostgresDSN(dsn).attempts()
    connection = await open_connection(attempt, patience=patience, **options)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.work)
        yield connection
        nursery.cancel_scope.cancel()
    assert connection.lost.is_set()


@pytest.mark.parametrize("prepares", [False, True])
async def test_a_call_returns_its_own_rows(prepares: bool) -> None:
    """Calls of many tasks each get the answer to their own statement, in the order asked."""
    ended: list[int] = []

    async def call(connection: PostgresConnection, number: int) -> None:
        assert await connection.do(PostgresCall(ECHO, [int8(number)])) == [(number,)]
        ended.append(number)

    async with scripted_postgres(echo) as peer, connected(peer.dsn) as connection:
        connection.prepares = prepares
        async with trio.open_nursery() as nursery:
            for number in range(QUEUE_CALLS + 100):
                nursery.start_soon(call, connection, number)
        assert sorted(ended) == list(range(QUEUE_CALLS + 100))
        assert peer.asked.count(ECHO.sql) == QUEUE_CALLS + 100


async def test_a_refused_statement_leaves_the_connection_usable() -> None:
    """The caller gets the SQLSTATE and the server's words; the next one gets its rows."""

    async def script(session: Session, sql: str, params: Any) -> list[tuple[Any, ...]]:
        if "float8" in sql:
            raise RefuseError("53100", "could not extend file\n   no space")
        return [(7,)]

    async with scripted_postgres(script) as peer, connected(peer.dsn) as connection:
        for _ in range(3):
            with pytest.raises(PostgresRefusedError) as caught:
                await connection.do(PostgresCall(SLOW, [b"\0" * 8]))
            assert (caught.value.state, caught.value.text) == (
                "53100",
                "could not extend file no space",
            )
            assert await connection.do(PostgresCall(ECHO, [int8(7)])) == [(7,)]


async def test_a_thousand_cancelled_calls_leave_no_reply_owed() -> None:
    """Calls that are cancelled before they are sent, while they are under way, and between: the
    next call gets its own answer each time, on the same connection."""
    gate = trio.Event()

    async def script(session: Session, sql: str, params: Any) -> list[tuple[Any, ...]]:
        if sql == SLOW.sql:
            await gate.wait()
        return await echo(session, sql, params)

    async with scripted_postgres(script) as peer, connected(peer.dsn) as connection:
        for number in range(1000):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.do, PostgresCall(ECHO, [int8(-1)]))
                for _ in range(number % 12):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            if number % 10 == 0:
                assert await connection.do(PostgresCall(ECHO, [int8(number)])) == [(number,)]
        # One that the server takes its time for: it is left at once, and its reply thrown away.
        call = PostgresCall(SLOW, [int8(5)])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.do, call)
            while not call.sent:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        gate.set()
        assert await connection.do(PostgresCall(ECHO, [int8(9)])) == [(9,)]
        assert peer.connections == 1


async def test_a_call_that_was_not_sent_is_withdrawn() -> None:
    """A cancelled call that waits behind another one is never sent."""
    gate = trio.Event()

    async def script(session: Session, sql: str, params: Any) -> list[tuple[Any, ...]]:
        if sql == SLOW.sql:
            await gate.wait()
        return [(1,)]

    async with scripted_postgres(script) as peer, connected(peer.dsn) as connection:
        async with trio.open_nursery() as nursery:
            first = PostgresCall(SLOW, [int8(1)])
            nursery.start_soon(connection.do, first)
            while not first.sent:
                await trio.lowlevel.checkpoint()
            async with trio.open_nursery() as inner:
                second = PostgresCall(ECHO, [int8(2)])
                inner.start_soon(connection.do, second)
                await trio.testing.wait_all_tasks_blocked(0.01)
                inner.cancel_scope.cancel()
            gate.set()
        assert not second.sent
        assert ECHO.sql not in peer.asked


@pytest.mark.parametrize("how", ["hang up", "refuse"])
async def test_who_waits_when_it_is_lost_is_told(how: str) -> None:
    """The call under way learns that it was sent, those behind it that they were not."""

    async def script(session: Session, sql: str, params: Any) -> list[tuple[Any, ...]]:
        await trio.sleep(0.05)
        if how == "hang up":
            raise HangUpError
        raise RefuseError("57P01", "terminating connection", severity="FATAL")

    calls = [PostgresCall(ECHO, [int8(number)]) for number in range(3)]
    errors: list[Exception] = []

    async def ask(connection: PostgresConnection, call: PostgresCall) -> None:
        try:
            await connection.do(call)
        except (PostgresLostError, PostgresRefusedError) as error:
            errors.append(error)

    async with scripted_postgres(script) as peer, connected(peer.dsn) as connection:
        async with trio.open_nursery() as nursery:
            for call in calls:
                nursery.start_soon(ask, connection, call)
                await trio.testing.wait_all_tasks_blocked()
        assert len(errors) == 3
        assert calls[0].sent
        assert not calls[2].sent
        await connection.lost.wait()
        with pytest.raises(PostgresLostError):
            await connection.do(PostgresCall(ECHO, [int8(1)]))


async def test_the_first_reason_for_a_loss_is_kept() -> None:
    """Who gives a connection up says why; it is what all hear who call it then or waited."""
    gate = trio.Event()

    async def script(session: Session, sql: str, params: Any) -> list[tuple[Any, ...]]:
        await gate.wait()
        return [(1,)]

    async with scripted_postgres(script) as peer, connected(peer.dsn) as connection:
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(PostgresLostError, match=r"^a standby$"):
                    await connection.do(PostgresCall(ECHO, [int8(1)]))

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked(0.001)
            connection.lose("a standby")
            connection.lose("something else")
        await wait()
        assert connection.why == "a standby"
    async with scripted_postgres(script) as peer:
        async with connected(peer.dsn) as connection:
            pass
        assert connection.why == "the log was closed"


async def test_a_server_that_does_not_answer_is_lost() -> None:
    """The deadline counts from the last word: also a connection that nobody uses is asked."""

    async def script(session: Session, sql: str, params: Any) -> list[tuple[Any, ...]]:
        if sql == ECHO.sql:
            return [(1,)]
        await trio.sleep_forever()
        raise AssertionError

    async with scripted_postgres(script) as peer, connected(peer.dsn, 0.3) as connection:
        await connection.do(PostgresCall(ECHO, [int8(1)]))
        with trio.fail_after(30):
            await connection.lost.wait()
        assert connection.why == "it did not answer within 0.3 s"
        assert peer.asked[-1] == "select 1"


@pytest.mark.parametrize("refused", [False, True])
async def test_others_run_while_a_transaction_ends(refused: bool) -> None:
    """A server that takes its time between an answer and the end of its transaction holds up
    nobody else in the process."""
    gate = trio.Event()

    async def script(session: Session, sql: str, params: Any) -> list[tuple[Any, ...]]:
        if refused:
            raise RefuseError("40001")
        return [(1,)]

    async with (
        scripted_postgres(script, commit=gate.wait) as peer,
        connected(peer.dsn) as one,
        trio.open_nursery() as nursery,
    ):

        async def ask() -> None:
            if refused:
                with pytest.raises(PostgresRefusedError):
                    await one.do(PostgresCall(ECHO, [int8(1)]))
            else:
                assert await one.do(PostgresCall(ECHO, [int8(1)])) == [(1,)]
            assert gate.is_set()

        nursery.start_soon(ask)
        while not peer.asked:
            await trio.testing.wait_all_tasks_blocked()
        for _ in range(10):  # the answer is read by now
            await trio.testing.wait_all_tasks_blocked(0.001)
        gate.set()


async def test_a_transaction_that_does_not_end_is_lost() -> None:
    """The deadline holds for what comes behind the rows, too."""
    async with (
        scripted_postgres(echo, commit=trio.sleep_forever) as peer,
        connected(peer.dsn, 0.2) as connection,
    ):
        with (
            trio.fail_after(30),
            pytest.raises(PostgresLostError, match=r"did not answer within 0\.2 s"),
        ):
            await connection.do(PostgresCall(ECHO, [int8(1)]))


async def test_a_call_may_bring_more_patience() -> None:
    """What takes the server long is not taken for its death."""

    async def script(session: Session, sql: str, params: Any) -> list[tuple[Any, ...]]:
        await trio.sleep(0.6)
        return [(1,)]

    async with scripted_postgres(script) as peer, connected(peer.dsn, 0.2) as connection:
        call = PostgresCall(ECHO, [int8(1)], patience=30.0)
        assert await connection.do(call) == [(1,)]


async def test_notifications_are_heard() -> None:
    """Those of a silent connection, and those that come with an answer."""
    heard: list[str] = []
    came = trio.Event()

    def hear(payload: str) -> None:
        heard.append(payload)
        if payload == "later":
            came.set()

    async def script(session: Session, sql: str, params: Any) -> list[tuple[Any, ...]]:
        await session.notify("with the answer")
        return [(1,)]

    async with scripted_postgres(script) as peer, connected(peer.dsn, notified=hear) as connection:
        await connection.do(PostgresCall(ECHO, [int8(1)]))
        await peer.sessions[0].notify("ä")
        await peer.sessions[0].notify("later")
        with trio.fail_after(30):
            await came.wait()
        assert heard == ["with the answer", "ä", "later"]


async def test_a_server_that_writes_while_it_is_written_to() -> None:
    """A server that reads on only when all that it has to say is read: notifications, say. Then a
    large statement goes through, since we read while we write."""
    begins, said = trio.Event(), trio.Event()
    heard = 0

    def hear(payload: str) -> None:
        nonlocal heard
        heard += 1

    async def script(session: Session, sql: str, params: Any) -> list[tuple[Any, ...]]:
        if not begins.is_set():
            take = session._take

            async def take_later(count: int) -> bytes:
                if begins.is_set():
                    await said.wait()
                return await take(count)

            session._take = take_later  # type: ignore[method-assign]
        return [(len(params[0] or b""),)]

    async def say(session: Session) -> None:
        await trio.testing.wait_all_tasks_blocked()  # it has written as much as it can
        for _ in range(100):
            await session.notify("x" * 60_000)
        said.set()

    size = Statement("size", "select octet_length($1::bytea)::bigint")
    async with (
        scripted_postgres(script) as peer,
        connected(peer.dsn, notified=hear) as connection,
        trio.open_nursery() as nursery,
    ):
        await connection.do(PostgresCall(size, [b""]))
        begins.set()
        nursery.start_soon(say, peer.sessions[0])
        assert await connection.do(PostgresCall(size, [bytes(6 << 20)])) == [(6 << 20,)]
        assert heard == 100


async def test_a_server_that_lets_nobody_in_is_left() -> None:
    """A server that accepts and says nothing costs the deadline, not the loop."""
    async with scripted_postgres(echo, admits=False) as peer:
        (attempt,) = await PostgresDSN(peer.dsn).attempts()
        with (
            trio.fail_after(30),
            pytest.raises(PostgresLostError, match=r"let us in within 0\.2 s"),
        ):
            await open_connection(attempt, patience=0.2)


async def test_a_cancelled_connect_closes_its_socket() -> None:
    """A task that is cancelled while it connects leaves nothing behind: warnings are errors."""
    async with scripted_postgres(echo) as peer:
        (attempt,) = await PostgresDSN(peer.dsn).attempts()
        for steps in range(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(open_connection, attempt, patience=5))
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
        async with connected(peer.dsn) as connection:
            assert await connection.do(PostgresCall(ECHO, [int8(1)])) == [(1,)]


async def test_rubbish_loses_the_connection() -> None:
    """A peer that does not speak the protocol is an error of the connection, not of the task."""

    async def script(session: Session, sql: str, params: Any) -> list[tuple[Any, ...]]:
        await session.stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        raise HangUpError

    async with scripted_postgres(script) as peer, connected(peer.dsn) as connection:
        with pytest.raises(PostgresLostError):
            await connection.do(PostgresCall(ECHO, [int8(1)]))


@pytest.mark.parametrize(
    ("type", "data", "value"),
    [
        (16, b"\1", True),
        (16, b"\0", False),
        (17, b"\0\xff", b"\0\xff"),
        (20, b"\xff" * 7 + b"\xfe", -2),
        (23, b"\0\0\1\0", 256),
        (25, "ä".encode(), "ä"),
        (701, b"\x3f\xf8" + b"\0" * 6, 1.5),
        (2278, b"", None),
    ],
)
def test_a_value_of_each_type_is_read(type: int, data: bytes, value: Any) -> None:
    """The types by their numbers, as Postgres sends them in binary."""
    found = decoder(type)(data)
    assert found == value
    assert found.__class__ is value.__class__


def test_a_value_of_an_unknown_type_stays_as_it_is() -> None:
    """What the schema of a later release may have is no reason to stop."""
    assert decoder(600)(b"\0\1") == b"\0\1"


async def test_a_value_that_is_none_loses_the_connection() -> None:
    """An integer of three bytes is a peer that is not Postgres."""

    async def script(session: Session, sql: str, params: Any) -> list[tuple[Any, ...]]:
        return [(7,), (b"abc",)]  # the second one in a column of integers

    async with scripted_postgres(script) as peer, connected(peer.dsn) as connection:
        with pytest.raises(PostgresLostError, match="no value"):
            await connection.do(PostgresCall(ECHO, [int8(1)]))


async def test_a_real_server(postgres_server: str) -> None:
    """Values of each kind there and back, large ones too, prepared and not."""
    values = Statement(
        "values",
        "select $1::bigint, $2::int, $3::float8, $4::bool, $5::text, $6::bytea, null::text,"
        " ($7::bigint[])[2] is null, ($8::int[])[1], ($9::float8[])[1], ($10::text[])[2],"
        " ($11::bytea[])[1], cardinality($12::text[])",
    )
    params = [
        int8(1 << 70),
        int4(-3),
        float8(float("inf")),
        boolean(True),
        text("ä"),
        b"\0" * 3_000_000,
        int8_array([1, None]),
        int4_array([4]),
        float8_array([0.5]),
        text_array(["a", "ö"]),
        bytea_array([b"\0"]),
        text_array([]),
    ]
    async with connected(postgres_server) as connection:
        for prepares in (False, True, True):
            connection.prepares = prepares
            (row,) = await connection.do(PostgresCall(values, params))
            assert row == (
                (1 << 63) - 1,
                -3,
                float("inf"),
                True,
                "ä",
                b"\0" * 3_000_000,
                None,
                True,
                4,
                0.5,
                "ö",
                b"\0",
                0,
            )
        process = await connection.do(PostgresCall(Statement("pid", "select pg_backend_pid()")))
        assert process == [(connection.process,)]
        for number in range(200):
            with trio.move_on_after(0.0002 * (number % 15)):
                await connection.do(
                    PostgresCall(Statement("many", "select i from generate_series(1, 5000) i"))
                )
        assert await connection.do(PostgresCall(ECHO, [int8(3)])) == [(3,)]


def test_each_statement_is_prepared_under_a_name_of_its_own() -> None:
    """A session knows one statement of a name; the other one's parameters would not fit."""
    modules = (_pq_connection, _statements)
    found = {one for module in modules for one in vars(module).values() if type(one) is Statement}
    assert len(found) > 15
    assert len({one.name for one in found}) == len(found)
