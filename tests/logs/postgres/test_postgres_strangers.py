"""News of a log on Postgres: no watched topic is taken for one that nobody watches."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from logs.postgres._sql_log import SQLLog

from flowstream.logs import open_log
from flowstream.logs.postgres._postgres_log import PostgresLog
from flowstream.logs.postgres._postgres_news import PostgresNews
from flowstream.logs.postgres._pq_connection import Statement
from flowstream.testing._log_contract import LogBench, LogUnderTest


@pytest.fixture
def open_two(log: SQLLog, schema_dsn: str) -> tuple[LogBench, LogBench]:
    """Give two processes' logs in an empty database."""
    one, two = (LogBench(partial(open_log, PostgresLog(schema_dsn))) for _ in range(2))
    two.token()  # each token is one append's
    two._tokens = 1000
    return one, two


async def looked(one: LogUnderTest) -> None:
    """Wait until it has read what it heard of by now: reads are done in turn."""
    for _ in range(3):
        await one.head("news")


async def test_a_topic_that_was_deleted_is_heard_of_again(
    open_two: tuple[LogBench, LogBench],
) -> None:
    """It has the number that it had, and those who watched it before hear what follows."""
    async with open_two[0].open() as one, open_two[1].open() as two:
        await one.log.watch(["news"])
        for life in range(3):
            (done,) = await two.append("news", b"%d" % life)
            await one.until(lambda number=done.number: number in one.heard.get("news", {}))
            one.stale.clear()
            await two.log.delete("news")
            await one.until(lambda: "news" in one.stale)
            await looked(one)
        assert sorted(one.heard["news"]) == [1, 2, 3]


class Link:
    """Answers what news ask for, when the test says so.

    Attributes:
        asked: the names of the statements that were not answered yet.
        rows: what they are answered with.
        done: the names of those that were answered.
    """

    def __init__(self) -> None:
        self.asked: dict[str, trio.Event] = {}
        self.rows: dict[str, list[Any]] = {}
        self.done: list[str] = []

    async def call(self, statement: Statement, params: Any, *, patience: float) -> list[Any]:
        self.asked[statement.name] = trio.Event()
        await self.asked[statement.name].wait()
        return self.rows[statement.name]

    async def answer(self, name: str, *rows: Any) -> None:
        """Answer the statement that was asked, or is about to be, and have the rest go on."""
        await trio.testing.wait_all_tasks_blocked()
        self.rows[name] = list(rows)
        self.asked.pop(name).set()
        self.done.append(name)
        await trio.testing.wait_all_tasks_blocked()


@asynccontextmanager
async def news_over(link: Link) -> AsyncIterator[PostgresNews]:
    """Have news work over a link for the block."""
    news = PostgresNews(link, 5.0, lambda *hint: None, lambda topic: None)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(news.work)
        yield news
        nursery.cancel_scope.cancel()


async def test_a_topic_whose_number_is_learned_twice_is_no_stranger() -> None:
    """A notification comes while a topic begins to be watched. After the topic was deleted, its
    notifications are followed as before."""
    link = Link()
    async with news_over(link) as news, trio.open_nursery() as nursery:
        nursery.start_soon(news.watch, ["news"])
        await trio.testing.wait_all_tasks_blocked()
        news.hear("7 e 1")
        await link.answer("ids", (7, "news", "e:1", 1))
        await link.answer("names", (7, "news", "e:1", 1))
        await link.answer("follow", (7, "e:1", 1, None, None, None))
        news.hear("7")
        await link.answer("names", (7, "news", "f:2", 1))
        await link.answer("follow", (7, "f:2", 1, None, None, None))
        news.hear("7 f 2")
        await link.answer("follow", (7, "f:2", 2, None, None, None), (7, "f:2", 2, 2, 0.0, b"x"))
        assert not link.asked


async def test_a_topic_that_was_a_stranger_and_gone_is_heard_of() -> None:
    """It was known as one that nobody here watches. It is watched while it is gone, and comes
    again with its number."""
    link = Link()
    async with news_over(link) as news, trio.open_nursery() as nursery:
        nursery.start_soon(news.watch, ["never"])
        await link.answer("ids")
        news.hear("7 e 1")
        await link.answer("names", (7, "other", "e:1", 1))
        news.hear("7 e 2")
        await trio.testing.wait_all_tasks_blocked()
        assert not link.asked
        nursery.start_soon(news.watch, ["other"])
        await link.answer("ids")
        news.hear("7 e 3")
        await link.answer("names", (7, "other", "e:1", 3))
        await link.answer("follow", (7, "e:1", 3, None, None, None), (7, "e:1", 3, 3, 0.0, b"x"))


async def test_a_number_of_nobody_may_be_somebodys_later() -> None:
    """A topic was gone when its number was asked about. It is watched, and comes again."""
    link = Link()
    async with news_over(link) as news, trio.open_nursery() as nursery:
        nursery.start_soon(news.watch, ["never"])
        await link.answer("ids")
        news.hear("7 e 1")
        await link.answer("names")
        news.hear("7 e 1")
        nursery.start_soon(news.watch, ["news"])
        await link.answer("ids")
        news.hear("7 e 2")
        await link.answer("names", (7, "news", "e:1", 2))
        await link.answer("follow", (7, "e:1", 2, None, None, None), (7, "e:1", 2, 2, 0.0, b"x"))
