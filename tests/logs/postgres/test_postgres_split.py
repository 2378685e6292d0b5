"""A log on Postgres while two servers take writes, or one is set back: one of them is used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trio
from logs.postgres._sql_log import make_schema
from real_servers.own_postgres import PASSWORD, USER, OwnPostgres

from flowstream import Replay
from flowstream.abc import Hint, LogEntry
from flowstream.logs import open_log
from flowstream.logs.postgres._postgres_log import PostgresLog

pytestmark = pytest.mark.chaos

KEEP = Replay()
LINKS = ("_write", "_read", "_listen")


class Address:
    """A socket that leads to one of several servers, as a virtual address does."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.url = f"postgres://{USER}:{quote(PASSWORD)}@/postgres?host={folder}"

    def lead_to(self, server: OwnPostgres) -> None:
        new = self._folder / "new"
        new.symlink_to(server.socket)
        new.rename(self._folder / ".s.PGSQL.5432")


@pytest.fixture
def split(
    own_postgres: Callable[..., OwnPostgres], tmp_path: Path
) -> tuple[Address, OwnPostgres, Callable[[], OwnPostgres]]:
    """Give an address, the server behind it, and what makes a second one that takes writes, too."""
    first = own_postgres()
    make_schema(first.dsn)
    address = Address(tmp_path)
    address.lead_to(first)

    def promote() -> OwnPostgres:
        second = own_postgres(standby_of=first)
        second.wait_in_step(first)
        second.promote()
        address.lead_to(second)
        return second

    return address, first, promote


def cut(log: PostgresLog, server: OwnPostgres, link: str) -> None:
    """Cut one of a log's connections, at the server."""
    process = getattr(log._open, link)._connection.process  # type: ignore[union-attr]
    server.sql("SELECT pg_terminate_backend(%s)", process)


async def until_at(log: PostgresLog, server: OwnPostgres) -> None:
    """**Wait** until all connections of a log are to this server, and fit for use."""
    with trio.fail_after(60):
        while True:
            found = [getattr(log._open, link)._connection for link in LINKS]
            sessions = await trio.to_thread.run_sync(_sessions, server)
            if all(one is not None and one.process in sessions for one in found):
                return
            await trio.sleep(0.02)


def _sessions(server: OwnPostgres) -> set[int]:
    return {pid for (pid,) in server.sql("SELECT pid FROM pg_stat_activity")}


async def until(condition: Callable[[], bool]) -> None:
    """**Wait** until something is so."""
    with trio.fail_after(60):
        while not condition():  # noqa: ASYNC110  # there is no event
            await trio.sleep(0.02)


async def append(log: PostgresLog, topic: str, *data: bytes) -> tuple[str, int]:
    """Append, each time with another token; return the last position."""
    entries = [LogEntry(one) for one in data]
    token = f"{topic} {data[0].decode()}"
    appended = await log.append(topic, entries, keep=KEEP, token=token)
    return appended[-1].epoch, appended[-1].number


@pytest.mark.parametrize("link", LINKS)
async def test_all_connections_are_to_one_server(split: Any, link: str) -> None:
    """One is cut, and finds the promoted server: what is then read is what is then written.

    The first server still takes writes, and has more. A reader that had that is told of an end.
    """
    address, first, promote = split
    log = PostgresLog(address.url)
    async with open_log(log):
        old, _ = await append(log, "a", b"1", b"2", b"3")
        second = await trio.to_thread.run_sync(promote)
        assert await append(log, "a", b"4", b"5") == (old, 5)
        await trio.to_thread.run_sync(cut, log, first, link)
        await until_at(log, second)
        head, known, records = await log.read("a", (old, 5), 10, mine=True)
        assert (known, records) == (True, [])
        (_, first_number), (new, second_number) = head.epochs
        assert (first_number, second_number) == (1, 4)
        assert await append(log, "a", b"6") == (new, 4)
        head, known, records = await log.read("a", (old, 5), 10, mine=True)
        assert [record[:3] for record in records] == [(new, 4, b"6")]


async def test_a_server_that_was_left_is_taken_for_rolled_back(split: Any) -> None:
    """A reader of the second server comes back to the first: its epochs sort behind all it had."""
    address, first, promote = split
    log = PostgresLog(address.url)
    async with open_log(log):
        old, _ = await append(log, "a", b"1")
        second = await trio.to_thread.run_sync(promote)
        await trio.to_thread.run_sync(cut, log, first, "_write")
        await until_at(log, second)
        new, number = await append(log, "a", b"2", b"3")
        assert (new > old, number) == (True, 3)
        address.lead_to(first)
        await trio.to_thread.run_sync(cut, log, second, "_read")
        await until_at(log, first)
        head, known, records = await log.read("a", (new, 3), 10, mine=True)
        assert (known, records) == (False, [])
        assert [epoch for epoch, _ in head.epochs[:-1]] == [old]
        assert head.epochs[-1] > (new, 2)
        # It has said so once: nothing more is begun.
        at = head.epochs[-1][0], head.number
        assert (await log.read("a", at, 10, mine=True))[0].epochs == head.epochs


class Heard:
    """What hints and reads of a topic brought."""

    def __init__(self) -> None:
        self.bodies: dict[str, list[bytes]] = {"x": [], "y": []}
        self.stale = trio.Event()

    @property
    def hint(self) -> Hint:
        def hear(topic: str, before: int, records: Any) -> None:
            self.bodies[topic] += [record.data for record in records]

        return hear

    def hear_stale(self, topic: str | None) -> None:
        self.stale.set()


async def test_topics_that_have_another_number_on_the_other_server(split: Any) -> None:
    """Two servers give the next number to two topics. Hints of one never have events of another."""
    address, first, promote = split
    heard = Heard()
    log, other = PostgresLog(address.url), PostgresLog(address.url)
    async with open_log(log, hint=heard.hint, stale=heard.hear_stale):
        await append(log, "of both", b"0")
        second = await trio.to_thread.run_sync(promote)
        async with open_log(other):  # the second server has x first, the first server has y
            await append(other, "x", b"x1")
            await append(other, "y", b"y1")
            await append(log, "y", b"y of the first server")
            await append(log, "x", b"x of the first server")
            await log.watch(["x", "y"])
            heard.stale = trio.Event()
            await trio.to_thread.run_sync(cut, log, first, "_read")
            await until_at(log, second)
            await until_at(other, second)
            with trio.fail_after(30):
                await heard.stale.wait()
            heard.bodies = {"x": [], "y": []}
            for number in range(2, 40):  # some may be before the numbers are learned
                await append(other, "x", b"x%d" % number)
                await append(other, "y", b"y%d" % number)
            await until(lambda: {b"x39", b"y39"} <= {*heard.bodies["x"], *heard.bodies["y"]})
    for name, bodies in heard.bodies.items():
        assert all(body.startswith(name.encode()) for body in bodies), (name, bodies)


async def test_a_copy_of_an_earlier_life_is_a_new_one(own_postgres: Any) -> None:
    """The log began a life behind the copy, in which this process was: no number is given twice."""
    server = own_postgres()
    make_schema(server.dsn)
    log = PostgresLog(server.url)
    async with open_log(log):
        await append(log, "a", b"1")
        copy = await trio.to_thread.run_sync(server.copy)
        had: dict[tuple[str, int], bytes] = {}
        had[await append(log, "a", b"2")] = b"2"
        await log.new_epoch()
        await trio.to_thread.run_sync(cut, log, server, "_read")  # it greets the new life
        await until_at(log, server)
        had[await append(log, "a", b"3")] = b"3"
        await trio.to_thread.run_sync(server.restore, copy)
        for data in (b"4", b"5"):
            at = await append(log, "a", data)
            assert at not in had
            had[at] = data
