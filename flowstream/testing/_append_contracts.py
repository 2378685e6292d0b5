"""Contracts of appending: numbers, tokens, idempotency keys, cancellation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio

from flowstream.abc import LogEntry
from flowstream.limits import Replay
from flowstream.testing._log_contract import LogBench, cancelled_after, contract, numbers

# Steps of the event loop after which a call is cancelled: from before it began to behind its end.
_CANCELLATIONS = 60


@contract("the first event of a topic has the number 1, in the epoch that its head had before")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        epoch, number = await one.position("news")
        assert number == 0
        assert await one.append("news", b"a") == [(epoch, 1, False)]


@contract("an append returns each entry's number, in the order of the entries")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        assert numbers(await one.append("news", b"a", b"b", b"c")) == [1, 2, 3]
        assert [record.data for record in await one.everything("news")] == [b"a", b"b", b"c"]


@contract("numbers grow by one from append to append, in one epoch")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        results = [(await one.append("news", b"x"))[0] for _ in range(30)]
        assert numbers(results) == list(range(1, 31))
        assert len({result.epoch for result in results}) == 1


@contract("each topic has numbers of its own")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        for number in (1, 2):
            for topic in ("a", "b", "a b", "ä", "%", "'\"; --"):
                assert numbers(await one.append(topic, topic.encode())) == [number]
        for topic in ("ä", "%", "'\"; --"):
            assert [record.data for record in await one.everything(topic)] == [topic.encode()] * 2


@contract("appends at the same time get a number each, and no number is left out")
async def _(bench: LogBench) -> None:
    found: list[int] = []
    async with bench.open() as one:

        async def publish() -> None:
            for _ in range(10):
                found.extend(numbers(await one.append("news", b"x")))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(publish)
        assert sorted(found) == list(range(1, 201))
        assert numbers(await one.everything("news")) == list(range(1, 201))


@contract("the entries of one append are adjacent, while others append to the topic")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:

        async def publish(name: bytes) -> None:
            for _ in range(10):
                await one.append("news", *[name] * 5)

        async with trio.open_nursery() as nursery:
            for name in (b"a", b"b", b"c", b"d"):
                nursery.start_soon(publish, name)
        data = [record.data for record in await one.everything("news")]
        assert all(len({*data[at : at + 5]}) == 1 for at in range(0, 200, 5))


@contract("an append of nothing does nothing")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        assert await one.append("news") == []
        assert await one.log.topics() == ([], None)


@contract("what was appended comes back byte by byte")
async def _(bench: LogBench) -> None:
    data = [b"", bytes(range(256)), b"\0", "ü".encode(), bytes(300_000)]
    async with bench.open() as one:
        await one.append("news", *data)
        assert [record.data for record in await one.everything("news")] == data


@contract("an append with the token of an earlier one appends nothing, and returns its result")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        first = await one.append("news", b"a", b"b", token="again")
        await one.append("news", b"c")
        assert await one.append("news", b"a", b"b", token="again") == first
        assert [record.data for record in await one.everything("news")] == [b"a", b"b", b"c"]


@contract("appends with one token at the same time are one append")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        found: list[list[int]] = []

        async def publish(token: str) -> None:
            found.append(numbers(await one.append("news", b"a", b"b", token=token)))

        async with trio.open_nursery() as nursery:
            for token in ("one", "two", "one", "two", "one"):
                nursery.start_soon(publish, token)
        assert sorted(found) in ([[1, 2]] * 3 + [[3, 4]] * 2, [[1, 2]] * 2 + [[3, 4]] * 3)
        assert (await one.head("news")).number == 4


@contract("a token is known in an append that others are beside, and they are appended")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        first = await one.append("news", b"a", token="again")
        found: list[tuple[str, list[int]]] = []

        async def publish(topic: str, token: str) -> None:
            found.append((token, numbers(await one.append(topic, b"x", token=token))))

        async with trio.open_nursery() as nursery:
            for topic, token in (("news", "new"), ("news", "again"), ("other", "again")):
                nursery.start_soon(publish, topic, token)
        assert sorted(found) == [("again", [1]), ("again", numbers(first)), ("new", [2])]
        assert numbers(await one.everything("news")) == [1, 2]
        assert numbers(await one.everything("other")) == [1]


@contract("a token is known while the topic has had no more than 1,000 events since")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        first = await one.append("news", b"first", token="again")
        for _ in range(10):
            await one.append("news", *[b"x"] * 100)
        assert await one.append("news", b"first", token="again") == first
        assert (await one.head("news")).number == 1001


@contract("a token is known though the topic keeps no events")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        keep = Replay(items=0)
        first = await one.append("news", b"a", keep=keep, token="again")
        assert await one.append("news", b"a", keep=keep, token="again") == first
        assert (await one.head("news")).number == 1


@contract("a token of one topic says nothing about another topic")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        await one.append("a", b"x", token="same")
        assert numbers(await one.append("b", b"x", token="same")) == [1]
        assert len(await one.everything("b")) == 1


@contract("an entry with a known idempotency key is not appended, and gets the first one's place")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        (first,) = await one.append("news", LogEntry(b"a", idempotency_key="order 7"))
        await one.append("news", b"b")
        (second,) = await one.append("news", LogEntry(b"other", idempotency_key="order 7"))
        assert (first.duplicate, second) == (False, first._replace(duplicate=True))
        assert [record.data for record in await one.everything("news")] == [b"a", b"b"]


@contract("two entries of one append with the same idempotency key are one event")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        results = await one.append(
            "news",
            LogEntry(b"a", idempotency_key="k"),
            b"b",
            LogEntry(b"a", idempotency_key="k"),
            b"c",
            token="t",
        )
        assert [(one.number, one.duplicate) for one in results] == [
            (1, False),
            (2, False),
            (1, True),
            (3, False),
        ]
        assert await one.append("news", b"a", token="t") == results


@contract("an idempotency key counts in its own topic alone")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        entry = LogEntry(b"a", idempotency_key="k")
        await one.append("a", entry)
        assert (await one.append("b", entry))[0].duplicate is False


@contract("an idempotency key is known though its event is no longer kept")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        entry = LogEntry(b"a", idempotency_key="k")
        keep = Replay(items=1)
        (first,) = await one.append("news", entry, keep=keep)
        for _ in range(200):
            await one.append("news", b"x", keep=keep)
        assert (await one.append("news", entry, keep=keep))[0].number == first.number


@contract("an idempotency key is forgotten after its seconds")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        entry = LogEntry(b"a", idempotency_key="k", idempotency_seconds=0.05)
        await one.append("news", entry)
        await trio.sleep(0.1)
        (second,) = await one.append("news", entry)
        assert (second.number, second.duplicate) == (2, False)


@contract("a wrong argument raises before anything is appended")
async def _(bench: LogBench) -> None:
    good = LogEntry(b"x")
    wrong: list[tuple[type[Exception], Any, Any, Any, Any]] = [
        (TypeError, 7, [good], Replay(), "t"),
        (ValueError, "", [good], Replay(), "t"),
        (ValueError, "a\0b", [good], Replay(), "t"),
        (ValueError, "\ud800", [good], Replay(), "t"),
        (ValueError, "n" * 1025, [good], Replay(), "t"),
        (TypeError, "news", [b"bytes"], Replay(), "t"),
        (TypeError, "news", [good, LogEntry("text")], Replay(), "t"),  # type: ignore[arg-type]
        (TypeError, "news", [good, LogEntry(b"x", key=7)], Replay(), "t"),  # type: ignore[arg-type]
        (ValueError, "news", [good, LogEntry(b"x", None, "")], Replay(), "t"),
        (ValueError, "news", [good, LogEntry(b"x", None, "k", 0)], Replay(), "t"),
        (ValueError, "news", [good, LogEntry(b"x", None, "k", float("inf"))], Replay(), "t"),
        (TypeError, "news", [good], None, "t"),
        (TypeError, "news", [good], Replay(), None),
        (ValueError, "news", [good], Replay(), ""),
        (ValueError, "news", [LogEntry(bytes(33 << 20))] * 2, Replay(), "t"),
    ]
    async with bench.open() as one:
        for kind, topic, entries, keep, token in wrong:
            try:
                await one.log.append(topic, entries, keep=keep, token=token)
            except kind:
                continue
            raise AssertionError(f"no {kind.__name__}: {str((topic, entries, keep, token))[:99]}")
        assert await one.log.topics() == ([], None)


@contract("a cancelled append happens whole or not at all, and its token makes it happen once")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        done = 0
        for steps in range(_CANCELLATIONS):
            append = partial(one.append, "news", b"a", b"b", token=f"cancelled {steps}")
            ended = await cancelled_after(steps, append)
            number = (await one.head("news")).number
            assert number - done in ((2,) if ended else (0, 2))
            assert numbers(await append()) == [done + 1, done + 2]
            done += 2
            assert (await one.head("news")).number == done


@contract("a cancelled call of any method leaves the log usable")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        position = await one.position("news")
        log = one.log
        calls: list[Callable[[], Awaitable[object]]] = [
            partial(one.append, "other", b"x"),
            partial(log.read, "news", position, 10),
            partial(log.read, "news", (position[0], 9), 10, mine=False),
            partial(log.heads, ["news", "other"]),
            partial(log.watch, ["news"]),
            partial(log.latest, "news"),
            partial(log.topics),
            partial(log.trim, "other"),
            partial(log.delete, "other"),
        ]
        for steps in range(_CANCELLATIONS):
            for call in calls:
                await cancelled_after(steps, call)
            assert numbers(await one.append("news", b"x")) == [steps + 1]
        assert len(await one.everything("news")) == _CANCELLATIONS
