"""How a log on Postgres makes hints of notifications: over a link that a test writes."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
import trio.testing

from flowstream._errors import LogUnavailableError
from flowstream.abc import LogEntry, Record
from flowstream.logs.postgres._postgres_news import PostgresNews


@dataclass
class Topic:
    """A topic of the server: its epochs, and the data of its events by number."""

    name: str
    epochs: str = "e:1"
    head: int = 0
    events: dict[int, bytes] = field(default_factory=dict)

    def put(self, *data: bytes) -> None:
        for one in data:
            self.head += 1
            self.events[self.head] = one


@dataclass
class Link:
    """What `PostgresNews` asks over: it answers from `topics`, and notes what it was asked.

    Attributes:
        topics: by number.
        most: records in one answer.
        away: whether it raises instead.
        asked: the name of each function that was called, with the numbers or names of topics.
        during: called while `follow` is under way.
    """

    topics: dict[int, Topic] = field(default_factory=dict)
    most: int = 1000
    away: bool = False
    asked: list[tuple[str, list[Any]]] = field(default_factory=list)
    during: Any = None

    async def call(
        self, statement: Any, params: Sequence[bytes], *, patience: float
    ) -> list[tuple[Any, ...]]:
        await trio.lowlevel.checkpoint()
        if self.away:
            raise LogUnavailableError("it is away")
        given = _array(params[0])
        if statement.name == "ids":
            names = [one.decode() for one in given]
            self.asked.append(("ids", names))
            return [self._row(number) for number, one in self.topics.items() if one.name in names]
        numbers = [int.from_bytes(one, "big", signed=True) for one in given]
        self.asked.append((statement.name, numbers))
        if statement.name == "names":
            return [self._row(number) for number in numbers if number in self.topics]
        after = [int.from_bytes(one, "big", signed=True) for one in _array(params[1])]
        rows: list[tuple[Any, ...]] = []
        left = self.most
        for number, told in zip(numbers, after, strict=True):
            topic = self.topics.get(number)
            if topic is None:
                rows.append((number, None, None, None, None, None))
                continue
            rows.append((number, topic.epochs, topic.head, None, None, None))
            found = [one for one in sorted(topic.events) if one > told][:left]
            left -= len(found)
            rows += [(number, None, None, one, 0.5, topic.events[one]) for one in found]
        if self.during is not None:
            during, self.during = self.during, None
            during()
        return rows

    def _row(self, number: int) -> tuple[Any, ...]:
        topic = self.topics[number]
        return number, topic.name, topic.epochs, topic.head

    def follows(self) -> list[list[int]]:
        return [numbers for name, numbers in self.asked if name == "follow"]


def _array(data: bytes) -> list[bytes]:
    """Return the values of an array, as Postgres has it in binary."""
    dimensions, _, _ = struct.unpack_from("!iii", data)
    if not dimensions:
        return []
    at, values = 20, []
    while at < len(data):
        (size,) = struct.unpack_from("!i", data, at)
        values.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return values


@dataclass
class Heard:
    """What was told: hints as `(topic, after, [data])`, and what is stale."""

    news: PostgresNews
    link: Link
    hints: list[tuple[str, int, list[bytes]]] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    stale: list[str | None] = field(default_factory=list)

    async def settle(self, *payloads: str) -> None:
        """Hear notifications, and wait until all that comes of them has come."""
        for payload in payloads:
            self.news.hear(payload)
        await trio.testing.wait_all_tasks_blocked()


@asynccontextmanager
async def hearing(*watched: str, **topics: Topic) -> AsyncIterator[Heard]:
    """Watch topics, whose numbers are `_5=Topic(...)`, for the block."""
    link = Link({int(name[1:]): topic for name, topic in topics.items()})

    def hint(topic: str, after: int, records: Sequence[Record]) -> None:
        heard.hints.append((topic, after, [one.data for one in records]))
        heard.records += records

    def stale(topic: str | None) -> None:
        heard.stale.append(topic)

    news = PostgresNews(link, 1.0, hint, stale)  # type: ignore[arg-type]
    heard = Heard(news, link)
    await news.watch(watched)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(news.work)
        yield heard
        nursery.cancel_scope.cancel()


async def test_what_is_new_is_read_once() -> None:
    """A notification of what was not told is one read and one hint; another one of it is none."""
    async with hearing("a", _5=Topic("a")) as heard:
        heard.link.topics[5].put(b"1", b"2")
        await heard.settle("5 e 2")
        assert heard.hints == [("a", 0, [b"1", b"2"])]
        assert heard.records == [Record("e", 1, b"1", 0.5), Record("e", 2, b"2", 0.5)]
        await heard.settle("5 e 2", "5 e 1")
        assert heard.link.follows() == [[5]]
        heard.link.topics[5].put(b"3")
        await heard.settle("5 e 3")
        assert heard.hints[1:] == [("a", 2, [b"3"])]
        assert heard.stale == []


@pytest.mark.parametrize(
    "payload",
    ["", "x", "5 e x", "x e 5", "5 e", "5 e 3 4", "5 e -3", "-5", "٥", "²", "5 e 3 e 3"],
)
async def test_what_no_log_says_is_ignored(payload: str) -> None:
    """Any role of the database may notify: nonsense is no read, no error and stales nothing."""
    async with hearing("a", _5=Topic("a")) as heard:
        heard.link.topics[5].put(b"1")
        await heard.settle(payload)
        assert (heard.link.asked[1:], heard.hints, heard.stale) == ([], [], [])
        await heard.settle("5 e 1")
        assert heard.hints == [("a", 0, [b"1"])]


async def test_a_topic_that_changed_is_stale_and_found_anew() -> None:
    """A number alone says that the topic is another one: it is stale, and its name is asked for."""
    async with hearing("a", _5=Topic("a")) as heard:
        heard.link.topics[5].put(b"1")
        await heard.settle("5 e 1")
        heard.link.topics[5] = Topic("a", "e:1,f:2", 1)
        heard.link.topics[5].put(b"2")
        await heard.settle("5")
        assert heard.stale == ["a"]
        assert heard.link.asked[-2:] == [("names", [5]), ("follow", [5])]
        assert heard.records[-1] == Record("f", 2, b"2", 0.5)
        # Here the topic went, and has another number.
        del heard.link.topics[5]
        heard.link.topics[6] = Topic("a")
        heard.link.topics[6].put(b"new")
        await heard.settle("5", "6 e 1")
        assert heard.stale == ["a", "a"]
        assert heard.hints[-1] == ("a", 0, [b"new"])


async def test_all_is_stale_if_the_log_says_so() -> None:
    """Nothing is read for it: readers compare heads."""
    async with hearing("a", _5=Topic("a")) as heard:
        await heard.settle("0")
        assert heard.stale == [None]
        assert heard.link.asked == [("ids", ["a"])]


async def test_a_topic_that_is_made_later_is_told_from_its_beginning() -> None:
    """It is watched by its name; its number is asked for when something has news."""
    async with hearing("a") as heard:
        heard.link.topics[7] = Topic("a", "e:4", 3)
        heard.link.topics[7].put(b"4", b"5")
        await heard.settle("7 e 5")
        assert heard.hints == [("a", 3, [b"4", b"5"])]


async def test_a_stranger_is_asked_for_once() -> None:
    """The name of a topic that nobody watches is asked for once; if all are known, never."""
    async with hearing("a", "b", _5=Topic("a"), _8=Topic("other")) as heard:
        await heard.settle("8 e 1")
        await heard.settle("8 e 2", "9 e 1")
        await heard.settle("9 e 2", "8")
        assert heard.link.asked[1:] == [("names", [8]), ("names", [9])]
        heard.link.topics[6] = Topic("b")
        heard.link.topics[6].put(b"1")
        await heard.settle("6 e 1")
        assert heard.hints == [("b", 0, [b"1"])]
        await heard.settle("10 e 1")  # all that are watched have their numbers
        assert heard.link.asked[3:] == [("names", [6]), ("follow", [6])]


async def test_what_is_appended_here_is_not_read() -> None:
    """Own appends that follow on are hints at once; others are read."""
    async with hearing("a", _5=Topic("a")) as heard:
        entries = [LogEntry(b"1"), LogEntry(b"2")]
        heard.link.topics[5].put(b"1", b"2")
        heard.news.add("a", 5, 1, "e", entries)
        assert heard.hints == [("a", 0, [b"1", b"2"])]
        assert heard.records == [Record("e", 1, b"1"), Record("e", 2, b"2")]
        await heard.settle("5 e 2")
        heard.link.topics[5].put(b"of others", b"4")
        heard.news.add("a", 5, 4, "e", [LogEntry(b"4")])
        assert len(heard.hints) == 1
        await heard.settle()
        assert heard.hints[1:] == [("a", 2, [b"of others", b"4"])]
        heard.news.add("b", 9, 1, "e", entries)
        await heard.settle()
        assert len(heard.hints) == 2
        assert heard.link.follows() == [[5]]


async def test_an_own_append_tells_the_number_of_a_topic() -> None:
    """The first event of a watched topic needs no question; nor does one of another number."""
    async with hearing("a") as heard:
        heard.news.add("a", 5, 1, "e", [LogEntry(b"1")])
        assert heard.hints == [("a", 0, [b"1"])]
        heard.news.add("a", 6, 2, "e", [LogEntry(b"2")])
        await heard.settle()
        assert heard.hints == [("a", 0, [b"1"])]
        assert heard.link.follows() == []


async def test_what_is_no_longer_watched_is_not_heard() -> None:
    """Nothing of it is read or told, also if it had news already."""
    async with hearing("a", "b", _5=Topic("a"), _6=Topic("b")) as heard:
        heard.link.topics[5].put(b"1")
        heard.news.hear("5 e 1")
        heard.news.unwatch(["a", "unknown"])
        await heard.settle("5 e 1", "5")
        heard.news.add("a", 5, 1, "e", [LogEntry(b"1")])
        assert (heard.hints, heard.stale, heard.link.follows()) == ([], [], [])
        await heard.news.watch(["a", "b"])
        heard.link.topics[5].put(b"2")
        await heard.settle("5 e 2")
        assert heard.hints == [("a", 1, [b"2"])]


async def test_a_topic_that_is_left_while_it_is_read_is_not_told() -> None:
    """The answer comes after its watcher has gone."""
    async with hearing("a", _5=Topic("a")) as heard:
        heard.link.topics[5].put(b"1")
        heard.link.during = lambda: heard.news.unwatch(["a"])
        await heard.settle("5 e 1")
        assert (heard.hints, heard.stale, len(heard.link.follows())) == ([], [], 1)


async def test_what_is_told_while_it_is_read_is_not_told_again() -> None:
    """An own append comes in between: of the answer only the rest is news."""
    async with hearing("a", _5=Topic("a")) as heard:
        heard.link.topics[5].put(b"1", b"2")
        heard.link.during = lambda: heard.news.add("a", 5, 1, "e", [LogEntry(b"1")])
        await heard.settle("5 e 1")
        assert heard.hints == [("a", 0, [b"1"]), ("a", 1, [b"2"])]


async def test_what_does_not_fit_is_read_next() -> None:
    """An answer that ends early is followed by another; one that has nothing makes it stale."""
    async with hearing("a", "b", _5=Topic("a"), _6=Topic("b")) as heard:
        heard.link.most = 2
        heard.link.topics[5].put(b"1", b"2", b"3")
        heard.link.topics[6].put(b"x")
        await heard.settle("5 e 3", "6 e 1")
        assert heard.hints == [("a", 0, [b"1", b"2"]), ("a", 2, [b"3"])]
        assert heard.stale == ["b"]  # it had no room at all, and is read by its watchers
        await heard.settle("6 e 1")
        assert len(heard.link.follows()) == 2


async def test_events_that_are_gone_make_it_stale() -> None:
    """They were appended and are not kept; or the log was set back. It is told from there on."""
    async with hearing("a", _5=Topic("a")) as heard:
        heard.link.topics[5].head = 7
        await heard.settle("5 e 7")
        assert (heard.hints, heard.stale) == ([], ["a"])
        heard.link.topics[5].put(b"8")
        await heard.settle("5 e 8")
        assert heard.hints == [("a", 7, [b"8"])]
        heard.link.topics[5] = Topic("a", "e:1,f:3", 2)
        await heard.settle("5 e 9")
        assert heard.stale == ["a", "a"]
        heard.link.topics[5].put(b"3")
        await heard.settle("5 f 3")
        assert heard.hints[1:] == [("a", 2, [b"3"])]
        await heard.settle("5 f 4")  # nothing is new, and nothing is missing
        assert len(heard.stale) == 2


async def test_a_topic_that_is_gone_is_stale() -> None:
    """It is asked for by its name when it is made again."""
    async with hearing("a", _5=Topic("a")) as heard:
        topic = heard.link.topics.pop(5)
        topic.put(b"1")
        await heard.settle("5 e 1")
        assert heard.stale == ["a"]
        heard.link.topics[9] = topic
        await heard.settle("9 e 1")
        assert heard.hints == [("a", 0, [b"1"])]


async def test_what_can_t_be_read_is_stale() -> None:
    """The server is away: watchers of these topics compare heads, and no others; it goes on."""
    async with hearing("a", "b", _5=Topic("a"), _6=Topic("b")) as heard:
        heard.link.away = True
        heard.link.topics[5].put(b"1")
        await heard.settle("5 e 1", "7 e 1")
        assert (heard.hints, heard.stale) == ([], ["a"])
        heard.link.away = False
        await heard.settle("5 e 1")
        assert heard.hints == [("a", 0, [b"1"])]


async def test_many_topics_are_one_read() -> None:
    """What comes while a read is under way is read by the next one, together."""
    topics = {f"_{number}": Topic(f"t{number}") for number in range(1, 101)}
    async with hearing(*(one.name for one in topics.values()), **topics) as heard:
        for topic in topics.values():
            topic.put(b"1")
        await heard.settle(*(f"{number} e 1" for number in range(1, 101)))
        assert heard.link.follows() == [list(range(1, 101))]
        assert len(heard.hints) == 100
