"""Contracts of hints, of opening and closing, and of several logs on one store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import trio

from flowstream._clock import clock
from flowstream.abc import LogEntry, Record
from flowstream.limits import Replay
from flowstream.testing._log_contract import (
    CLOCK_SECONDS,
    LogBench,
    LogUnderTest,
    ageless,
    contract,
    numbers,
)


def _has(one: LogUnderTest, number: int, topic: str = "news") -> bool:
    return number in one.heard.get(topic, {})


@contract("an append to a watched topic is a hint, with its records and what they follow on")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        await one.log.watch(["news"])
        (first, second) = await one.append("news", b"a", b"b")
        await one.until(lambda: 2 in one.heard.get("news", {}))
        assert ageless(one.heard["news"].values()) == [
            Record(first.epoch, 1, b"a"),
            Record(second.epoch, 2, b"b"),
        ]
        assert all(before == number - 1 for _, before, number in one.befores)


@contract("a topic may be watched before there is one")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        names = [f"topic {number}" for number in range(20)]
        await one.log.watch(names)
        for name in names:
            await one.append(name, b"x")
        await one.until(lambda: len(one.heard) == 20)


@contract("a topic that was in the log before it was opened has hints")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        await one.append("news", b"a")
    async with bench.open() as one:
        await one.log.watch(["news"])
        (last,) = await one.append("news", b"b")
        await one.until(partial(_has, one, last.number))


@contract("a topic that is not watched has no hints")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        await one.append("quiet", b"x")
        await one.log.watch(["news", "given up"])
        await one.log.unwatch(["given up", "never watched"])
        for topic in ("quiet", "given up", "news"):
            await one.append(topic, b"x")
        await one.until(lambda: one.heard.get("news"))
        assert one.heard.keys() == {"news"}


@contract("what a hint tells of can be read")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        await one.log.watch(["news"])
        for number in range(1, 21):
            await one.append("news", b"x")
            await one.until(partial(_has, one, number))
            assert (await one.head("news")).number >= max(one.heard["news"])


@contract("who follows hints, and reads where one does not follow on, has every event")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        await one.log.watch(["news"])

        async def publish() -> None:
            for _ in range(25):
                await one.append("news", b"x", b"y")

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(publish)
        await one.until(lambda: max(one.heard.get("news", {0: None})) == 200 or one.stale)
        read = ageless(await one.everything("news"))
        assert numbers(read) == list(range(1, 201))
        assert set(ageless(one.heard.get("news", {}).values())) <= set(read)


@contract("a record of a hint says that it is of now, or how long ago it was appended")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        await one.log.watch(["news"])
        began = clock.current_time()
        for number in range(1, 6):
            await one.append("news", b"x")
            await trio.sleep(0.01)
            await one.until(partial(_has, one, number))
        most = clock.current_time() - began + CLOCK_SECONDS
        assert all(0 <= record.age <= most for record in one.heard["news"].values())


@contract("hints of a topic come in the order of its numbers")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        await one.log.watch(["news", "other"])

        async def publish(topic: str) -> None:
            for _ in range(25):
                await one.append(topic, b"x", b"y")

        async with trio.open_nursery() as nursery:
            for topic in ("news", "other", "news", "other"):
                nursery.start_soon(publish, topic)
        for topic in ("news", "other"):
            await one.until(partial(_has, one, 100, topic))
            firsts = [first for of, _, first in one.befores if of == topic]
            assert firsts == sorted(firsts)
        assert all(before == first - 1 for _, before, first in one.befores)


@contract("what is appended behind a watch and a read is heard, or the topic is stale")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        stopped = False

        async def publish() -> None:
            while not stopped:
                await one.append("news", b"x")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish)
            for _ in range(20):
                await one.log.unwatch(["news"])
                await one.append("news", b"x")
                await one.log.watch(["news"])
                one.heard.clear()
                one.stale.clear()
                number = (await one.head("news")).number
                (last,) = await one.append("news", b"x")
                await one.until(partial(_has, one, last.number))
                missing = {*range(number + 1, last.number + 1)} - one.heard["news"].keys()
                assert not missing or one.stale
            stopped = True


@contract("topics whose events alternate each have hints that follow on")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        topics = ["a", "b", "c"]
        await one.log.watch(topics)
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                for topic in topics * 7:
                    nursery.start_soon(partial(one.append, topic, b"x"))
        for topic in topics:
            await one.until(partial(_has, one, 21, topic))
            assert numbers([*one.heard[topic].values()]) == list(range(1, 22)) or one.stale
        assert all(before == first - 1 for _, before, first in one.befores)


@contract("a flood is heard to its end, with all that was appended before and after it")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        await one.log.watch(["news"])
        for count in (1, 1500, 1):
            await one.append("news", *[b"x"] * count, keep=Replay(items=10_000))
        await one.until(partial(_has, one, 1502))
        assert len(one.heard["news"]) == 1502 or one.stale
        assert not [topic for topic in one.stale if topic not in ("news", None)]


@contract("to give up one topic leaves the others watched, and it can be taken up again")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        await one.append("old", b"x")
        await one.log.watch(["old", "news"])
        for topic in ("old", "news"):
            await one.append(topic, b"x")
        await one.until(lambda: len(one.heard) == 2)
        await one.log.unwatch(["old"])
        await one.append("old", b"unheard")
        (last,) = await one.append("news", b"x")
        await one.until(partial(_has, one, last.number))
        assert not any(record.data == b"unheard" for record in one.heard["old"].values())
        await one.log.watch(["old"])
        (last,) = await one.append("old", b"x")
        await one.until(partial(_has, one, last.number, "old"))


@contract("a hint has a record of any size")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        await one.log.watch(["news"])
        sizes = [10, 3_000_000, 700_000, 700_000, 0]
        for size in sizes:
            await one.append("news", bytes(size), keep=Replay(bytes=1 << 30))
        await one.until(partial(_has, one, 5))
        assert [len(one.heard["news"][number].data) for number in range(1, 6)] == sizes


@contract("a topic that keeps nothing has hints all the same")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        await one.log.watch(["news"])
        for number in range(1, 31):
            await one.append("news", b"x", keep=Replay(items=0))
            await one.until(partial(_has, one, number))


@contract("to delete a watched topic makes it stale")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        await one.log.watch(["news"])
        await one.append("news", b"a")
        await one.log.delete("news")
        await one.until(lambda: {"news", None} & {*one.stale})
        (result,) = await one.append("news", b"b")
        await one.until(lambda: result.number in one.heard["news"])
        await one.until(lambda: one.heard["news"][result.number].epoch == result.epoch)


@contract("a retried append has no second hint of other content")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        await one.log.watch(["news"])
        await one.append("news", b"a", token="t")
        await one.append("news", b"a", token="t")
        await one.append("news", LogEntry(b"b", idempotency_key="k"))
        await one.append("news", LogEntry(b"b", idempotency_key="k"))
        await one.append("news", b"c")
        await one.until(lambda: 3 in one.heard.get("news", {}))
        assert [one.heard["news"][number].data for number in (1, 2, 3)] == [b"a", b"b", b"c"]


@contract("an opened log has what was in it when it was closed")
async def _(bench: LogBench) -> None:
    entry = LogEntry(b"a", key="key", idempotency_key="k")
    async with bench.open() as one:
        first = await one.append("news", entry, token="t")
        head = await one.head("news")
    async with bench.open() as one:
        assert await one.head("news") == head
        assert [record.data for record in await one.everything("news")] == [b"a"]
        assert await one.append("news", entry, token="t") == first
        assert (await one.append("news", entry))[0].duplicate
        assert numbers(await one.append("news", b"b")) == [2]
        assert (await one.log.latest("news")).records.keys() == {"key"}
        assert await one.log.topics() == (["news"], None)


@contract("aclose() ends it, and a log that is not open says what to do")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        await one.append("news", b"a")
        log = one.log
        await log.aclose()
        await log.aclose()
        calls: list[Callable[[], Awaitable[object]]] = [
            partial(one.append, "news", b"x"),
            partial(log.read, "news", ("e", 0), 1),
            partial(log.heads, ["news"]),
            partial(log.watch, ["news"]),
            partial(log.unwatch, ["news"]),
            partial(log.latest, "news"),
            partial(log.topics),
            partial(log.trim, "news"),
            partial(log.delete, "news"),
        ]
        for call in calls:
            try:
                await call()
            except RuntimeError:
                continue
            raise AssertionError(f"{call} did not raise")


@contract("a log that is open can't be opened once more")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        try:
            await one.log.run(one.hint, one.see_stale)
        except RuntimeError:
            return
        raise AssertionError("it ran twice")


@contract("two logs on one store have the same events, and one line of numbers", several=True)
async def _(bench: LogBench) -> None:
    async with bench.open() as one, bench.open() as two:
        found: list[int] = []

        async def publish(log: LogUnderTest) -> None:
            for _ in range(40):
                found.extend(numbers(await log.append("news", b"x")))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish, one)
            nursery.start_soon(publish, two)
        assert sorted(found) == list(range(1, 81))
        assert ageless(await one.everything("news")) == ageless(await two.everything("news"))


@contract("a record is as old for another log on the store", several=True)
async def _(bench: LogBench) -> None:
    async with bench.open() as one, bench.open() as two:
        after = await one.position("news")
        began = clock.current_time()
        await one.append("news", b"x")
        ended = clock.current_time()
        await trio.sleep(0.02)
        asked = clock.current_time()
        _, _, (record,) = await two.log.read("news", after, 10)
        least, most = asked - ended, clock.current_time() - began
        assert least - CLOCK_SECONDS <= record.age <= most + CLOCK_SECONDS


@contract("a log hears of what another one on its store appends", several=True)
async def _(bench: LogBench) -> None:
    async with bench.open() as one, bench.open() as two:
        await two.log.watch(["news", "late"])
        await one.append("news", b"a")
        await two.until(lambda: 1 in two.heard.get("news", {}))
        await one.append("late", b"a")
        await two.until(lambda: 1 in two.heard.get("late", {}))
        assert two.heard["news"][1].data == b"a"


@contract("hints of what several logs append come in the order of the numbers", several=True)
async def _(bench: LogBench) -> None:
    async with bench.open() as one, bench.open() as two:
        await one.log.watch(["news"])

        async def publish(log: LogUnderTest) -> None:
            for _ in range(40):
                await log.append("news", b"x")

        async with trio.open_nursery() as nursery:
            for log in (one, two, two):
                nursery.start_soon(publish, log)
        await one.until(partial(_has, one, 120))
        firsts = [first for _, _, first in one.befores]
        assert firsts == sorted(firsts)
        assert numbers([*one.heard["news"].values()]) == list(range(1, 121)) or one.stale


@contract("an append with one token in two logs at the same time is one append", several=True)
async def _(bench: LogBench) -> None:
    async with bench.open() as one, bench.open() as two:
        for turn in range(20):
            found: list[int] = []

            async def publish(log: LogUnderTest, token: str, found: list[int]) -> None:
                found += numbers(await log.append("news", b"x", token=token))

            async with trio.open_nursery() as nursery:
                for log in (one, two):
                    nursery.start_soon(publish, log, f"turn {turn}", found)
            assert found == [turn + 1] * 2


@contract("tokens and idempotency keys count for all logs on the store", several=True)
async def _(bench: LogBench) -> None:
    entry = LogEntry(b"a", idempotency_key="k")
    async with bench.open() as one, bench.open() as two:
        first = await one.append("news", entry, token="t")
        assert await two.append("news", entry, token="t") == first
        assert (await two.append("news", entry))[0].duplicate


@contract("a deleted topic is stale for another log on the store, too", several=True)
async def _(bench: LogBench) -> None:
    async with bench.open() as one, bench.open() as two:
        await two.log.watch(["news"])
        await one.append("news", b"a")
        await two.until(lambda: 1 in two.heard.get("news", {}))
        await one.log.delete("news")
        await two.until(lambda: {"news", None} & {*two.stale})
        (result,) = await one.append("news", b"b")
        await two.until(
            lambda: two.heard["news"].get(result.number, Record("", 0, b"")).epoch == result.epoch
        )


@contract("a log goes on when another one on its store is closed", several=True)
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        await one.log.watch(["news"])
        async with bench.open() as two:
            await two.append("news", b"a")
        await one.append("news", b"b")
        await one.until(lambda: {1, 2} <= one.heard.get("news", {}).keys() or one.stale)
        assert numbers(await one.everything("news")) == [1, 2]
