"""Contracts of what a log forgets, and of what it must not forget."""

from __future__ import annotations

import trio

from flowstream.abc import LogEntry, Record
from flowstream.limits import Replay
from flowstream.testing._log_contract import CLOCK_SECONDS, LogBench, ageless, contract, numbers


@contract("a topic keeps Replay.items events, and at most a fifth more")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        keep = Replay(items=100)
        for _ in range(20):
            await one.append("news", *[b"x"] * 25, keep=keep)
        kept = numbers(await one.everything("news"))
        assert 100 <= len(kept) <= 120
        assert kept == list(range(501 - len(kept), 501))
        assert (await one.head("news")).first == kept[0]


@contract("a topic with Replay(items=0) keeps nothing, and counts on")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        keep = Replay(items=0)
        for number in range(1, 151):
            assert numbers(await one.append("news", b"x", keep=keep)) == [number]
            head = await one.head("news")
            assert (head.number, head.first) == (number, number + 1)
        assert await one.everything("news") == []


@contract("a topic keeps Replay.bytes of data, and at most a fifth more")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        keep = Replay(bytes=10_000)
        for _ in range(300):
            await one.append("news", bytes(100), keep=keep)
        kept = numbers(await one.everything("news"))
        assert 100 <= len(kept) <= 120
        assert kept[-1] == 300
        await one.append("news", bytes(20_000), keep=keep)
        assert await one.everything("news") == []


@contract("an event older than Replay.seconds is not read again")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        keep = Replay(seconds=0.05)
        await one.append("news", b"a", b"b", keep=keep)
        before = await one.position("news")
        await trio.sleep(0.1)
        head = await one.head("news")
        assert (head.number, head.first) == (2, 3)
        assert await one.log.read("news", (before[0], 0), 10) == (head, True, [])


@contract("no record that is read is as old as Replay.seconds")
async def _(bench: LogBench) -> None:
    keep = Replay(seconds=0.03)
    async with bench.open() as one:
        after = await one.position("news")
        for _ in range(20):
            await one.append("news", b"x", keep=keep)
            await trio.sleep(0.004)
            _, _, records = await one.log.read("news", after, 100)
            assert all(record.age < keep.seconds + CLOCK_SECONDS for record in records)
            ages = [record.age for record in records]
            assert ages == sorted(ages, reverse=True)


@contract("events within Replay.seconds are kept")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        await one.append("news", b"a", b"b", keep=Replay(seconds=3600))
        assert numbers(await one.everything("news")) == [1, 2]


@contract("a topic whose events are all gone still knows that a reader missed none")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        await one.append("news", b"a", b"b", keep=Replay(items=0))
        after = await one.position("news")
        assert (await one.log.read("news", after, 10))[1:] == (True, [])
        assert numbers(await one.append("news", b"c")) == [3]
        assert numbers((await one.log.read("news", after, 10))[2]) == [3]


@contract("a reader whose next event is gone is known, and sees the number that it goes on with")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        epoch, _ = await one.position("news")
        keep = Replay(items=10)
        for _ in range(200):
            await one.append("news", b"x", keep=keep)
        head, known, records = await one.log.read("news", (epoch, 5), 100)
        assert known
        assert records[0].number == head.first > 6
        assert records[-1].number == head.number == 200


@contract("what a later append says of keeping holds from then on")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        await one.append("news", *[b"x"] * 50, keep=Replay(items=1000))
        await one.append("news", b"x", keep=Replay(items=5))
        assert 5 <= len(await one.everything("news")) <= 6
        await one.append("news", b"x", keep=Replay(items=1000))
        assert numbers(await one.everything("news"))[-1] == 52


@contract("trim() forgets exactly what is not kept, and says how many events that were")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        await one.append("news", *[b"x"] * 50)
        assert await one.log.trim("news") == 0
        assert await one.log.trim("news", Replay(items=20)) == 30
        assert numbers(await one.everything("news")) == list(range(31, 51))
        assert await one.log.trim("news", Replay(bytes=7)) == 13
        assert await one.log.trim("news", Replay(items=0)) == 7
        assert await one.log.trim("news", Replay(items=0)) == 0
        head = await one.head("news")
        assert (head.number, head.first) == (50, 51)


@contract("a deleted topic has no events, is not listed, and knows no position of before")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        await one.append("news", LogEntry(b"a", key="k"), b"b")
        old = await one.position("news")
        await one.log.delete("news")
        assert await one.log.topics() == ([], None)
        assert (await one.log.latest("news")).records == {}
        for number in (0, 1, 2):
            assert (await one.log.read("news", (old[0], number), 10))[1:] == (False, [])
        position = await one.position("news")
        assert (await one.log.read("news", position, 10))[1:] == (True, [])


@contract("a topic that is appended to after it was deleted has an epoch that sorts behind")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        epochs: list[str] = []
        for _ in range(5):
            (result,) = await one.append("news", b"x")
            epochs.append(result.epoch)
            await one.log.delete("news")
            await one.log.delete("news")
        assert epochs == sorted(set(epochs))
        await one.append("news", b"y")
        assert [record.data for record in await one.everything("news")] == [b"y"]


@contract("delete() forgets tokens and idempotency keys")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        entry = LogEntry(b"a", idempotency_key="k")
        (first,) = await one.append("news", entry, token="t")
        await one.log.delete("news")
        (second,) = await one.append("news", entry, token="t")
        assert second.duplicate is False
        assert second.epoch != first.epoch


@contract("a reader that has what the log has lost makes it begin a new epoch")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        await one.append("news", b"a", b"b")
        epoch, _ = await one.position("news")
        head, known, records = await one.log.read("news", (epoch, 5), 10, mine=True)
        assert (known, records) == (True, [])
        assert [first for _, first in head.epochs] == [1, 3]
        (result,) = await one.append("news", b"c")
        assert (result.epoch, result.number) == (head.epochs[-1][0], 3)
        assert result.epoch > epoch
        # It goes on with an event of the new epoch, whose number it has had in the old one.
        _, known, records = await one.log.read("news", (epoch, 5), 10)
        assert (known, ageless(records)) == (True, [Record(result.epoch, 3, b"c")])
        again, _, _ = await one.log.read("news", (epoch, 5), 10, mine=True)
        assert again.epochs == head.epochs


@contract("what a client claims to have is no evidence")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        await one.append("news", b"a")
        before = await one.head("news")
        for after in ((before.epochs[-1][0], 99), ("zzzz", 1)):
            await one.log.read("news", after, 10)
        assert await one.head("news") == before


@contract("a topic remembers its last 8 epochs")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        await one.append("news", b"x")
        for _ in range(12):
            epoch, number = await one.position("news")
            await one.log.read("news", (epoch, number + 1), 10, mine=True)
            await one.append("news", b"x")
        head = await one.head("news")
        assert len(head.epochs) == 8
        assert list(head.epochs) == sorted(head.epochs)
        for epoch, first in head.epochs:
            assert (await one.log.read("news", (epoch, first), 10))[1]
