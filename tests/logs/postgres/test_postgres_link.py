"""A link to Postgres: it connects again, and does what is asked again, until its time is up."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from _scripted_postgres import HangUpError, Peer, RefuseError, Session, scripted_postgres

from flowstream._errors import LogFullError, LogUnavailableError
from flowstream.logs.postgres._lineage import Lineage
from flowstream.logs.postgres._postgres_dsn import PostgresDSN
from flowstream.logs.postgres._postgres_link import PostgresLink
from flowstream.logs.postgres._pq_connection import (
    PostgresConnection,
    PostgresRefusedError,
    Statement,
)

ASK = Statement("ask", "select 1")


async def one(session: Session, sql: str, params: Any) -> list[tuple[Any, ...]]:
    return [(1,)]


async def fit(connection: PostgresConnection) -> None:
    pass


@asynccontextmanager
async def linked(
    dsn: str, ready: Any = fit, **options: Any
) -> AsyncIterator[tuple[PostgresLink, trio.Nursery]]:
    """Run a link for the block, which begins when it is connected."""
    link = PostgresLink(PostgresDSN(dsn), "a test", 10.0, ready, **options)
    async with trio.open_nursery() as nursery:
        await nursery.start(link.run)
        yield link, nursery
        nursery.cancel_scope.cancel()


async def until(what: Any) -> None:
    """Wait for what a socket brings; the clock of the test may stand still."""
    for _ in range(10_000):
        if what():
            return
        await trio.testing.wait_all_tasks_blocked(0.001)
    raise AssertionError("it does not come")


def kick(peer: Peer) -> None:
    """Break all sessions off."""
    for session in peer.sessions:
        session.stream.socket.shutdown(trio.socket.SHUT_RDWR)
    peer.sessions.clear()


async def test_what_a_later_try_can_t_mend_ends_the_start() -> None:
    """A log of another release, or a role without rights: one connection, and the reason."""

    async def unfit(connection: PostgresConnection) -> None:
        raise LogUnavailableError("another release")

    async def forbidden(connection: PostgresConnection) -> None:
        raise PostgresRefusedError("42501", "no rights")

    for ready, why in ((unfit, "another release"), (forbidden, "does not let the role")):
        async with scripted_postgres(one) as peer:
            with (
                trio.fail_after(30),
                pytest.RaisesGroup(pytest.RaisesExc(LogUnavailableError, match=why)),
            ):
                async with linked(peer.dsn, ready):
                    raise AssertionError("it is open")
            assert peer.connections == 1


async def test_what_may_pass_is_tried_again_at_the_start() -> None:
    """A server that is starting up: the link begins when it is there."""
    tries = 0

    async def ready(connection: PostgresConnection) -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise PostgresRefusedError("57P03", "the database system is starting up")

    async with scripted_postgres(one) as peer, linked(peer.dsn, ready) as (link, _):
        assert (tries, peer.connections, link.failure) == (3, 3, None)
        assert await link.call(ASK, patience=10) == [(1,)]


async def test_a_lost_connection_is_made_again_after_a_pause(
    mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The pauses grow to half a second and more; each of lost and back is one line."""
    caplog.set_level(logging.INFO, "flowstream")
    there = True

    async def ready(connection: PostgresConnection) -> None:
        if not there:
            raise PostgresRefusedError("57P03", "starting up")

    async with scripted_postgres(one) as peer, linked(peer.dsn, ready) as (link, _):
        await until(lambda: peer.sessions)
        there = False
        kick(peer)
        await until(lambda: link.failure is not None)
        waits: list[float] = []
        for number in range(2, 12):
            await trio.testing.wait_all_tasks_blocked(0.005)
            assert peer.connections == number - 1  # it waits for the clock
            start = trio.current_time()
            while peer.connections < number:
                mock_clock.jump(0.01)
                await trio.testing.wait_all_tasks_blocked(0.001)
            waits.append(trio.current_time() - start)
            await until(lambda n=number: len(peer.sessions) >= n - 1)  # type: ignore[misc]
            await trio.testing.wait_all_tasks_blocked(0.005)
        assert waits[-1] >= 0.4
        [lost] = [one for one in caplog.records if one.levelno == logging.WARNING]
        assert "the connection for a test is lost" in lost.getMessage()
        there = True
        mock_clock.rate = 1
        with trio.fail_after(60):
            assert await link.call(ASK, patience=60) == [(1,)]
        assert link.failure is None
        assert caplog.text.count("is back, for a test") == 1
        assert "hunter2" not in caplog.text


@pytest.mark.parametrize("state", ["40001", "40P01", "55P03", "57014"])
async def test_another_transaction_in_the_way_is_waited_out(state: str) -> None:
    """The same statement is done again over the same connection."""
    tries = 0

    async def script(session: Session, sql: str, params: Any) -> list[tuple[Any, ...]]:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise RefuseError(state)
        return [(tries,)]

    async with scripted_postgres(script) as peer, linked(peer.dsn) as (link, _):
        assert await link.call(ASK, patience=30) == [(4,)]
        assert peer.connections == 1


@pytest.mark.parametrize("how", ["25006", "57P01", "hang up"])
async def test_a_server_that_is_not_the_one_is_left(how: str) -> None:
    """What a standby refuses, or a server that stops, is done over the next connection."""
    tries = 0

    async def script(session: Session, sql: str, params: Any) -> list[tuple[Any, ...]]:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise HangUpError if how == "hang up" else RefuseError(how)
        return [(tries,)]

    async with scripted_postgres(script) as peer, linked(peer.dsn) as (link, _):
        assert await link.call(ASK, patience=30, writes=True) == [(2,)]
        assert peer.connections == 2


@pytest.mark.parametrize(
    ("state", "kind", "words"),
    [
        ("53100", LogFullError, "has no room on its disk"),
        ("42501", LogUnavailableError, "does not let the role of the DSN use the log"),
        ("22012", LogUnavailableError, "refused a statement of the log"),
    ],
)
async def test_a_refusal_is_said_at_once(state: str, kind: type[Exception], words: str) -> None:
    """It is not tried again, nothing was done, and the connection stays."""

    async def script(session: Session, sql: str, params: Any) -> list[tuple[Any, ...]]:
        raise RefuseError(state, "its words")

    async with scripted_postgres(script) as peer, linked(peer.dsn) as (link, _):
        with pytest.raises(LogUnavailableError, match=words) as caught:
            await link.call(ASK, patience=30, writes=True)
        assert type(caught.value) is kind
        assert f"(its words, SQLSTATE {state})" in str(caught.value)
        assert caught.value.maybe is False
        assert (len(peer.asked), peer.connections, link.failure) == (1, 1, None)


@pytest.mark.parametrize("writes", [False, True])
async def test_who_waits_in_vain_knows_whether_it_may_have_been_done(
    writes: bool, mock_clock: trio.testing.MockClock
) -> None:
    """A statement that was sent and not answered may have been done, if it writes."""

    async def script(session: Session, sql: str, params: Any) -> list[tuple[Any, ...]]:
        await trio.sleep_forever()
        raise AssertionError

    async with scripted_postgres(script) as peer, linked(peer.dsn) as (link, nursery):
        caught: list[LogUnavailableError] = []

        async def call() -> None:
            with pytest.raises(LogUnavailableError, match="no answer within 3 s") as raised:
                await link.call(ASK, patience=3, writes=writes)
            caught.append(raised.value)

        nursery.start_soon(call)
        await until(lambda: peer.asked)
        mock_clock.jump(2.9)
        await trio.testing.wait_all_tasks_blocked()
        assert caught == []
        mock_clock.jump(0.2)
        await trio.testing.wait_all_tasks_blocked()
        assert [error.maybe for error in caught] == [writes]


async def test_without_a_connection_the_reason_is_said(mock_clock: trio.testing.MockClock) -> None:
    """A call that is never sent says why there is no connection, and that it was not done."""

    async def ready(connection: PostgresConnection) -> None:
        if peer.connections > 1:
            raise PostgresRefusedError("57P03", "the database system is starting up")

    async with scripted_postgres(one) as peer, linked(peer.dsn, ready) as (link, nursery):
        await until(lambda: peer.sessions)
        kick(peer)
        await until(lambda: link.failure is not None)
        assert "can't be reached" in str(link.failure)
        caught: list[LogUnavailableError] = []

        async def call() -> None:
            with pytest.raises(LogUnavailableError) as raised:
                await link.call(ASK, patience=3, writes=True)
            caught.append(raised.value)

        nursery.start_soon(call)
        for _ in range(400):
            await trio.testing.wait_all_tasks_blocked(0.001)
            if caught:
                break
            mock_clock.jump(0.1)
        [error] = caught
        assert "is starting up or shutting down" in str(error)
        assert error.maybe is False
        assert "hunter2" not in str(error)


async def test_the_first_server_that_is_fit_is_taken() -> None:
    """A standby is passed over; who is behind it in the DSN is the one."""
    ready_at: list[int] = []

    async def ready(connection: PostgresConnection) -> None:
        ready_at.append(connection.process)
        if connection.process == 1:
            raise PostgresRefusedError("25006", "the server is read-only")

    async with (
        scripted_postgres(one, process=1) as first,
        scripted_postgres(one, process=2) as second,
    ):
        dsn = (
            f"host=127.0.0.1,127.0.0.1 port={first.port},{second.port} user=app dbname=shop"
            " sslmode=disable target_session_attrs=any"
        )
        async with linked(dsn, ready) as (link, _):
            assert ready_at == [1, 2]
            assert (await link.connection()).process == 2
            assert first.connections == second.connections == 1


async def test_a_server_that_is_away_at_the_start_is_waited_for() -> None:
    """It lets nobody in, and does so later: the link begins then."""
    async with scripted_postgres(one, admits=False) as peer:
        link = PostgresLink(PostgresDSN(peer.dsn), "a test", 0.2, fit)
        async with trio.open_nursery() as nursery:

            async def admit() -> None:
                await until(lambda: peer.connections >= 2)
                peer.admits = True

            nursery.start_soon(admit)
            with trio.fail_after(60):
                await nursery.start(link.run)
                assert await link.call(ASK, patience=60) == [(1,)]
            assert peer.connections > 2
            nursery.cancel_scope.cancel()


def test_what_is_known_of_a_server_is_of_its_lineage() -> None:
    """The highest position that was seen counts, until the server is of another lineage."""
    known = Lineage()
    assert (known.name, known.wal) == ("", 0)
    known.hear("a", 5)
    known.see(9)
    known.see(7)
    known.hear("a", 3)
    assert (known.name, known.wal) == ("a", 9)
    known.hear("b", 1)
    assert (known.name, known.wal) == ("b", 1)
