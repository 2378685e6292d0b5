"""Contracts of reading: positions, pages, heads, names, the newest by key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from flowstream._clock import clock
from flowstream.abc import LogEntry, Record
from flowstream.limits import Replay
from flowstream.testing._log_contract import CLOCK_SECONDS, LogBench, ageless, contract, numbers


@contract("who has appended can read it at once")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        after = await one.position("news")
        for number in range(1, 21):
            await one.append("news", b"x")
            head, known, records = await one.log.read("news", after, 100)
            assert (head.number, known, numbers(records)) == (number, True, [number])
            after = records[-1].epoch, records[-1].number


@contract("a read returns what follows its position, the oldest first")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        epoch, _ = await one.position("news")
        await one.append("news", *[b"%d" % number for number in range(1, 11)])
        for after in range(11):
            _, known, records = await one.log.read("news", (epoch, after), 100)
            assert known
            assert ageless(records) == [Record(epoch, n, b"%d" % n) for n in range(after + 1, 11)]


@contract("a read returns no more records than its limit, and the next one goes on")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        epoch, _ = await one.position("news")
        await one.append("news", *[b"x"] * 25)
        found: list[int] = []
        for expected in (10, 10, 5, 0):
            after = epoch, found[-1] if found else 0
            _, _, records = await one.log.read("news", after, 10)
            assert len(records) == expected
            found += numbers(records)
        assert found == list(range(1, 26))


@contract("a page has about 1 MiB at the most, or one larger record")
async def _(bench: LogBench) -> None:
    keep = Replay(bytes=1 << 30)
    async with bench.open() as one:
        for size in (500_000, 500_000, 500_000, 3_000_000, 10):
            await one.append("news", bytes(size), keep=keep)
        after = (await one.head("news")).epochs[-1][0], 0
        while after[1] < 5:
            _, _, records = await one.log.read("news", after, 100)
            assert records
            assert sum(len(record.data) for record in records) < 1_100_000 or len(records) == 1
            after = records[-1].epoch, records[-1].number
        assert [len(record.data) for record in await one.everything("news")][3] == 3_000_000


@contract("a page and its head are of one moment, while others append and trim")
async def _(bench: LogBench) -> None:
    keep = Replay(items=50)
    async with bench.open() as one:
        stopped = False

        async def publish() -> None:
            while not stopped:
                await one.append("news", b"x", b"y", b"z", keep=keep)

        async def trim() -> None:
            while not stopped:
                await one.log.trim("news", Replay(items=5))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish)
            nursery.start_soon(trim)
            after = await one.position("news")
            while after[1] < 300:
                head, known, records = await one.log.read("news", after, 20)
                assert known
                if not records:
                    assert head.number == after[1]
                    continue
                first = max(head.first, after[1] + 1)
                assert numbers(records) == [*range(first, first + len(records))]
                assert len(records) == min(20, head.number + 1 - first)
                after = records[-1].epoch, records[-1].number
            stopped = True


@contract("a limit that is no number above 0 raises")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        for limit, kind in ((0, ValueError), (-1, ValueError), (True, TypeError)):
            try:
                await one.log.read("news", ("e", 0), limit)
            except kind:
                continue
            raise AssertionError(f"no {kind.__name__} for {limit!r}")


@contract("a text that can't be a topic's name raises in each method")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        log = one.log
        calls: list[Callable[[str], Awaitable[object]]] = [
            lambda name: log.read(name, ("e", 0), 1),
            lambda name: log.heads([name]),
            lambda name: log.watch([name]),
            lambda name: log.unwatch([name]),
            log.latest,
            log.trim,
            log.delete,
        ]
        for place, call in enumerate(calls):
            for name in ("", "a\0b", "n" * 1025):
                try:
                    await call(name)
                except ValueError:
                    continue
                raise AssertionError(f"no ValueError: call {place} of {name[:9]!r}")


@contract("a position of an unknown epoch is said to be unknown, whatever text it has")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        await one.append("news", b"a")
        epoch, _ = await one.position("news")
        for text in (
            "",
            "0",
            epoch[:-1],
            f"{epoch}0",
            "zzzzzzzzzzz",
            "'",
            "%",
            ",",
            ":",
            "e" * 5000,
        ):
            _, known, records = await one.log.read("news", (text, 0), 10)
            assert (known, records) == (False, []), text


@contract("a position that the topic has not come to is said to be unknown")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        await one.append("news", b"a")
        epoch, _ = await one.position("news")
        for number in (2, 1_000_000, 1 << 62, -1):
            head, known, records = await one.log.read("news", (epoch, number), 10)
            assert (head.number, known, records) == (1, False, []), number


@contract("a topic that was never appended to reads as empty, at the log's epoch and number 0")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        head = await one.head("news")
        ((epoch, first),) = head.epochs
        assert (first, head.number, head.first) == (1, 0, 1)
        assert await one.log.read("news", (epoch, 0), 10) == (head, True, [])
        assert (await one.log.read("news", (epoch, 1), 10))[1] is False
        assert (await one.head("other")).epochs == head.epochs


@contract("reading, watching, trimming or deleting a topic that is not there makes none")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        await one.log.heads(["a"])
        await one.log.read("b", ("e", 0), 10)
        await one.log.read("b", ("e", 0), 10, mine=True)
        await one.log.watch(["c"])
        await one.log.latest("d")
        assert await one.log.trim("e") == 0
        await one.log.delete("f")
        assert await one.log.topics() == ([], None)


@contract("who waited for a topic's first event misses nothing")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        before = await one.position("news")
        await one.append("news", b"a", b"b")
        _, known, records = await one.log.read("news", before, 10)
        assert (known, numbers(records)) == (True, [1, 2])


@contract("a head says how far the topic is, and what can be read")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        await one.append("news", *[b"x"] * 7)
        head = await one.head("news")
        assert (head.number, head.first, len(head.epochs)) == (7, 1, 1)


@contract("heads of any number of topics come at once, those of unknown ones too")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        for number in range(30):
            await one.append(f"topic {number}", *[b"x"] * (number % 3 + 1))
        names = [f"topic {number}" for number in range(1300)]
        heads = await one.log.heads(names)
        assert list(heads) == names
        for number, name in enumerate(names):
            assert heads[name].number == (number % 3 + 1 if number < 30 else 0)
        assert await one.log.heads([]) == {}


@contract("topics() lists each topic once, sorted, those with a prefix, in pages")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        names = [f"a/{number:04}" for number in range(1050)] + ["b/1", "b_1", "bz"]
        for name in names:
            await one.append(name, b"x")
        page, cursor = await one.log.topics()
        assert len(page) == 1000
        assert cursor is not None
        assert page + (await one.log.topics("", cursor))[0] == sorted(names)
        assert await one.log.topics("b/") == (["b/1"], None)
        assert await one.log.topics("b_") == (["b_1"], None)
        assert await one.log.topics("c") == ([], None)


@contract("latest() has the newest event of each key, and the head")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        await one.append("news", LogEntry(b"1", key="EUR"), LogEntry(b"2", key="USD"), b"3")
        await one.append("news", LogEntry(b"4", key="EUR"), keep=Replay(items=0))
        page = await one.log.latest("news")
        epoch = page.head.epochs[-1][0]
        assert page.head.number == 4
        assert list(page.records) == ["EUR", "USD"]
        assert ageless(page.records.values()) == [Record(epoch, 4, b"4"), Record(epoch, 2, b"2")]
        assert page.cursor is None
        assert (await one.log.latest("other")).records == {}


@contract("a record that is read says how long ago it was appended")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        after = await one.position("news")
        began: list[float] = []
        ended: list[float] = []
        for _ in range(3):
            began.append(clock.current_time())
            await one.append("news", LogEntry(b"x", key=f"{len(began)}"))
            ended.append(clock.current_time())
            await trio.sleep(0.02)
        for _ in range(2):
            asked = clock.current_time()
            _, _, records = await one.log.read("news", after, 10)
            latest = (await one.log.latest("news")).records
            now = clock.current_time()
            for place, record in enumerate([*records, *latest.values()]):
                least, most = asked - ended[place % 3], now - began[place % 3]
                assert least - CLOCK_SECONDS <= record.age <= most + CLOCK_SECONDS
            assert len(records) == len(latest) == 3
            await trio.sleep(0.02)


@contract("latest() comes in pages of about 1 MiB, in the order of the keys")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        for key in ("d", "b", "a", "c"):
            await one.append("news", LogEntry(bytes(700_000), key=key))
        found: list[str] = []
        cursor: str | None = None
        for _ in range(4):
            page = await one.log.latest("news", cursor)
            assert len(page.records) == 1
            found += page.records
            cursor = page.cursor
        assert (found, cursor) == (["a", "b", "c", "d"], None)


@contract("pages of latest(), and what follows the head of the first, miss nothing")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        for key in ("a", "b", "c"):
            await one.append("news", LogEntry(bytes(700_000), key=key))
        first = await one.log.latest("news")
        for key in ("c", "a", "d"):
            await one.append("news", LogEntry(key.encode(), key=key))
        known = {key: len(record.data) for key, record in first.records.items()}
        cursor = first.cursor
        while cursor is not None:
            page = await one.log.latest("news", cursor)
            known |= {key: len(record.data) for key, record in page.records.items()}
            cursor = page.cursor
        after = first.head.epochs[-1][0], first.head.number
        _, _, records = await one.log.read("news", after, 100)
        known |= {record.data.decode(): 1 for record in records}
        assert known == {"a": 1, "b": 700_000, "c": 1, "d": 1}


@contract("latest() keeps about 10,000 keys, and those written last")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        for start in range(0, 10_800, 400):
            entries = [LogEntry(b"x", key=f"{number:06}") for number in range(start, start + 400)]
            await one.append("news", *entries)
        keys: set[str] = set()
        cursor: str | None = None
        while True:
            page = await one.log.latest("news", cursor)
            keys.update(page.records)
            cursor = page.cursor
            if cursor is None:
                break
        assert 10_000 <= len(keys) <= 10_400
        assert {f"{number:06}" for number in range(800, 10_800)} <= keys
