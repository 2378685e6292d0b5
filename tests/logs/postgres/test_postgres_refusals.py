"""What callers of `PostgresLog` see when its server refuses, hangs up or hangs: a scripted server.

The clock moves when the test says so. So how long a call takes is exact on any machine.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from _scripted_log import ScriptedLog, scripted_log
from _scripted_postgres import HangUpError, RefuseError

from flowstream import Replay, Topic, log_statistics
from flowstream.abc import LogEntry
from flowstream.logs import LogFullError, LogUnavailableError, open_log
from flowstream.logs.postgres._postgres_log import PostgresLog
from flowstream.quart import Flowstream
from flowstream.testing._log_contract import LogBench, LogUnderTest, numbers

SECRET = "hunter2"
PATIENCE = 2.0
# How far the clock jumps at once, and so the error of a time that is measured by it.
STEP = 0.05


@pytest.fixture
def clock(mock_clock: trio.testing.MockClock) -> trio.testing.MockClock:
    """Give a clock that stands still."""
    return mock_clock


@asynccontextmanager
async def passing(clock: trio.testing.MockClock) -> AsyncIterator[None]:
    """Have time pass whenever all tasks wait, for the block."""

    async def pass_on() -> None:
        while True:
            await trio.testing.wait_all_tasks_blocked()
            clock.jump(STEP)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pass_on)
        yield
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def opened(
    server: ScriptedLog, clock: trio.testing.MockClock, patience: float = PATIENCE
) -> AsyncIterator[LogUnderTest]:
    """Open the log; time passes meanwhile."""
    log = PostgresLog(server.peer.dsn, patience=patience)
    async with passing(clock), LogBench(partial(open_log, log)).open() as one:
        yield one


CALLS: dict[str, Callable[[LogUnderTest], Awaitable[object]]] = {
    "append": lambda one: one.append("news", b"x"),
    "read": lambda one: one.log.read("news", ("e", 0), 10),
    "heads": lambda one: one.log.heads(["news"]),
    "latest": lambda one: one.log.latest("news"),
    "topics": lambda one: one.log.topics(),
    "watch": lambda one: one.log.watch(["news"]),
    "trim": lambda one: one.log.trim("news", Replay(items=1)),
    "delete": lambda one: one.log.delete("news"),
    "claim": lambda one: one.log.claim("run", "me", seconds=60),
    "beat": lambda one: one.log.beat("me", {"run": 1}, seconds=60),
    "end": lambda one: one.log.end("run", 1, LogEntry(b"x"), keep=Replay(), token="t", seconds=60),
    "leases": lambda one: one.log.leases(["run"]),
    "new_epoch": lambda one: one.log.new_epoch(),  # type: ignore[attr-defined]
}
WRITES = {"append", "trim", "delete", "claim", "beat", "end", "new_epoch"}


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so at the server."""
    while not condition():  # noqa: ASYNC110  # no event tells it
        await trio.sleep(STEP)


async def took(call: Awaitable[object]) -> tuple[float, LogUnavailableError]:
    """Return how long a call took that fails, and its error."""
    began = trio.current_time()
    with pytest.raises(LogUnavailableError) as raised:
        await call
    assert SECRET not in str(raised.value)
    return trio.current_time() - began, raised.value


@pytest.mark.parametrize("call", CALLS)
async def test_a_stall_is_an_error_within_patience(
    call: str, clock: trio.testing.MockClock
) -> None:
    """The server takes the statement and says nothing: patience and 0.1 s later it is an error,
    which says of a write that it may have been done. When the server is there again, so is the log.
    """
    async with scripted_log() as server, opened(server, clock) as one:
        server.stalls_at = {"watch": "ids", "end": "finish"}.get(call, call)
        seconds, error = await took(CALLS[call](one))
        assert server.stalls
        assert PATIENCE <= seconds <= PATIENCE + 0.1
        assert error.maybe is (call in WRITES)
        await server.come_back()
        assert numbers(await one.append("other", b"x")) == [1]


@pytest.mark.parametrize("call", CALLS)
async def test_a_server_that_is_gone_is_an_error_within_patience(
    call: str, clock: trio.testing.MockClock
) -> None:
    """Nothing was sent, so no write may have been done. When the server is back, so is the log."""
    async with scripted_log() as server, opened(server, clock) as one:
        server.peer.admits = False
        await server.hang_up()
        await until(lambda: server.peer.connections > 3)
        seconds, error = await took(CALLS[call](one))
        assert seconds <= PATIENCE + 0.1
        assert not error.maybe
        server.peer.admits = True
        await server.hang_up()
        await trio.sleep(10)  # it is back before anybody calls
        assert numbers(await one.append("news", b"y")) == [1]


async def test_an_app_is_told_of_a_stall_within_patience(clock: trio.testing.MockClock) -> None:
    """A publisher has its error after the app's five seconds; what was sent may appear, and does
    once. The statistics have it."""
    async with (
        scripted_log() as server,
        passing(clock),
        Flowstream(log=PostgresLog(server.peer.dsn)),
    ):
        news = Topic("news")
        async with news.subscribe() as events:
            await news.publish("before")
            server.stalls_at = "append"
            seconds, error = await took(news.publish("during"))
            assert seconds <= 5.1
            assert error.maybe
            await server.come_back()
            await news.publish("after")
            got = [(await anext(events)).data]
            while got[-1] != "after":
                got.append((await anext(events)).data)
        assert got in (["before", "after"], ["before", "during", "after"])
        whole = log_statistics()
        assert whole is not None
        assert (whole.unsure, whole.lost_seams, whole.trimmed_seams) == (1, 0, 0)


@pytest.mark.parametrize("state", ["25006", "53100", "42501", "40001"])
async def test_a_refusal_proves_nothing_of_an_earlier_try(
    state: str, clock: trio.testing.MockClock
) -> None:
    """The server did it, and its answer was lost; then it refuses the same call. So it is a maybe,
    and whoever calls again with the token finds what was done."""
    async with scripted_log() as server, opened(server, clock) as one:
        server.after = {"append": [HangUpError()]}
        server.faults = {"append": [None, *[RefuseError(state)] * 1000]}
        _, error = await took(one.append("news", b"x", token="t"))
        assert error.maybe
        assert state in str(error)
        server.faults.clear()
        assert numbers(await one.append("news", b"x", token="t")) == [1]
        assert (await one.head("news")).number == 1


async def test_the_time_of_an_append_is_its_own(clock: trio.testing.MockClock) -> None:
    """Two appends in one transaction, of which one has waited longer: it fails first, and may
    still be done; the other one is told what the server did."""
    async with scripted_log() as server, opened(server, clock, patience=10.0) as one:
        server.peer.turns_away = RefuseError("57P03", "starting up", "FATAL")
        await server.hang_up()
        errors: dict[str, tuple[float, LogUnavailableError]] = {}

        async def append(topic: str) -> None:
            errors[topic] = await took(one.append(topic, b"x"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(append, "old")
            await trio.sleep(5)
            nursery.start_soon(append, "new")
            await trio.sleep(2)
            server.faults = {"append": [RefuseError("40001")] * 1000}
            server.peer.turns_away = None
        for seconds, error in errors.values():
            assert seconds <= 10.1
            assert "40001" in str(error)
        assert errors["old"][1].maybe
        assert not errors["new"][1].maybe


async def test_a_full_disk(clock: trio.testing.MockClock) -> None:
    """An error of its own, at once; nothing was stored, the connection stays, and reads go on."""
    async with scripted_log() as server, opened(server, clock) as one:
        full = RefuseError("53100", "could not extend file: No space left on device")
        server.faults = {"append": [full], "claim": [full]}
        with pytest.raises(LogFullError, match="no room on its disk") as raised:
            await one.append("news", b"x")
        assert not raised.value.maybe
        with pytest.raises(LogFullError):
            await one.log.claim("run", "me", seconds=60)
        assert (await one.head("news")).number == 0
        assert numbers(await one.append("news", b"x")) == [1]
        assert server.peer.connections == 3


@pytest.mark.parametrize("state", ["40001", "40P01", "55P03", "57014"])
async def test_another_transaction_in_the_way(state: str, clock: trio.testing.MockClock) -> None:
    """The same call does it again, on the same connection, and once."""
    async with scripted_log() as server, opened(server, clock) as one:
        server.faults = {"append": [RefuseError(state), RefuseError(state)]}
        assert numbers(await one.append("news", b"x")) == [1]
        assert server.asked.count("append") == 3
        server.faults = {"append": [RefuseError(state) for _ in range(1000)]}
        seconds, error = await took(one.append("news", b"y"))
        assert PATIENCE <= seconds <= PATIENCE + 0.1
        assert state in str(error)
        assert not error.maybe
        assert server.peer.connections == 3


@pytest.mark.parametrize("state", ["57P01", "57P02", "57P03", "57P05", "25006"])
@pytest.mark.parametrize("severity", ["ERROR", "FATAL"])
async def test_a_server_that_goes(state: str, severity: str, clock: trio.testing.MockClock) -> None:
    """At a statement: another connection is made, and the same call does it there."""
    async with scripted_log() as server, opened(server, clock) as one:
        server.faults = {"append": [RefuseError(state, severity=severity)]}
        assert numbers(await one.append("news", b"x")) == [1]
        assert server.peer.connections == 4


@pytest.mark.parametrize("how", ["refused", "hung up"])
async def test_an_answer_that_is_lost(how: str, clock: trio.testing.MockClock) -> None:
    """The server has done it, and its answer does not come: the same call finds what it did."""
    async with scripted_log() as server, opened(server, clock) as one:
        lost = HangUpError() if how == "hung up" else RefuseError("57P01", severity="FATAL")
        server.after = {"append": [lost]}
        assert numbers(await one.append("news", b"x")) == [1]
        assert server.asked.count("append") == 2
        assert (await one.head("news")).number == 1


@pytest.mark.parametrize("state", ["57P01", "57P05"])
async def test_an_idle_connection_that_is_killed(state: str, clock: trio.testing.MockClock) -> None:
    """All three: they are made again, all may be stale, and the next call does not notice."""
    async with scripted_log() as server, opened(server, clock) as one:
        await one.append("news", b"x")
        for session in server.peer.sessions[:3]:
            await session.end(RefuseError(state, "terminating connection", "FATAL"))
        assert numbers(await one.append("news", b"y")) == [2]
        await one.until(lambda: None in one.stale)
        assert server.peer.connections == 6


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("53300", "sorry, too many clients already"),
        ("28P01", 'password authentication failed for user "app"'),
        ("28000", "no pg_hba.conf entry"),
        ("3D000", 'database "shop" does not exist'),
        ("57P03", "the database system is starting up"),
    ],
)
async def test_a_server_that_lets_nobody_in(
    state: str, words: str, clock: trio.testing.MockClock
) -> None:
    """At the start its words are the error, without a secret. Later calls wait for it, and the
    same call succeeds when it lets us in."""
    refusal = RefuseError(state, words, "FATAL")
    async with scripted_log() as server:
        server.peer.turns_away = refusal
        with pytest.raises(BaseExceptionGroup) as raised:
            async with opened(server, clock):
                raise AssertionError("it was opened")
        error = _only(raised.value)
        assert isinstance(error, LogUnavailableError)
        assert words in str(error)
        assert SECRET not in str(error)
        server.peer.turns_away = None
        async with opened(server, clock) as one:
            server.peer.turns_away = refusal
            await server.hang_up()
            seconds, error = await took(one.append("news", b"x"))
            assert seconds <= PATIENCE + 0.1
            assert words in str(error)
            assert not error.maybe
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.append, "news", b"y")
                tried = server.peer.connections
                await until(lambda: server.peer.connections >= tried + 2)
                server.peer.turns_away = None
            assert (await one.head("news")).number == 1


async def test_a_read_only_server(clock: trio.testing.MockClock) -> None:
    """At the start and later: the sentence says so, no call succeeds, and it is asked again."""
    async with scripted_log() as server:
        server.read_only = True
        with pytest.raises(BaseExceptionGroup) as raised:
            async with opened(server, clock):
                raise AssertionError("it was opened")
        assert "read-only" in str(_only(raised.value))
        server.read_only = False
        async with opened(server, clock) as one:
            server.read_only = True
            server.faults = {"append": [RefuseError("25006", "cannot execute in a standby")]}
            seconds, error = await took(one.append("news", b"x"))
            assert seconds <= PATIENCE + 0.1
            assert "read-only" in str(error)
            assert not error.maybe
            server.read_only = False
            assert numbers(await one.append("news", b"x")) == [1]


@pytest.mark.parametrize("version", [0, 99])
async def test_a_schema_of_another_version(version: int, clock: trio.testing.MockClock) -> None:
    """At the start at once, with what to do; later, too, and when it is right again it goes on."""
    async with scripted_log() as server:
        server.version = version
        began = trio.current_time()
        with pytest.raises(BaseExceptionGroup) as raised:
            async with opened(server, clock):
                raise AssertionError("it was opened")
        assert trio.current_time() - began <= 0.1
        assert f"version {version}" in str(_only(raised.value))
        advice = "install that release" if version == 99 else "run `flowstream log init`"
        assert advice in str(_only(raised.value))
        good, bad = ScriptedLog().version, version
        server.version = good
        async with opened(server, clock) as one:
            server.version = bad
            await server.hang_up()
            await trio.sleep(0.1)
            _, error = await took(one.append("news", b"x"))
            assert advice in str(error)
            server.version = good
            assert numbers(await one.append("news", b"x")) == [1]


@pytest.mark.parametrize(
    ("state", "advice"),
    [
        ("3F000", "log init"),
        ("42P01", "log init"),
        ("42883", "log init"),
        ("42501", "--grant"),
        ("XX001", "see its log"),
        ("12345", "refused a statement"),
    ],
)
async def test_what_somebody_has_to_mend(
    state: str, advice: str, clock: trio.testing.MockClock
) -> None:
    """At once, with what to do: at the start it is not opened; later each call fails until then."""
    async with scripted_log() as server:
        server.faults = {"hello": [RefuseError(state)]}
        began = trio.current_time()
        with pytest.raises(BaseExceptionGroup) as raised:
            async with opened(server, clock):
                raise AssertionError("it was opened")
        assert trio.current_time() - began <= 0.1
        assert advice in str(_only(raised.value))
        async with opened(server, clock) as one:
            server.faults = {"append": [RefuseError(state)], "heads": [RefuseError(state)]}
            for call in ("append", "heads"):
                seconds, error = await took(CALLS[call](one))
                assert seconds <= 0.1
                assert advice in str(error)
                assert not error.maybe
            assert numbers(await one.append("news", b"x")) == [1]


def _only(group: BaseExceptionGroup[Any]) -> BaseException:
    """Return the one error in a group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        [error] = error.exceptions
    return error
