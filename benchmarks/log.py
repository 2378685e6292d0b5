"""The logs, beside what they are kept in: how long an append takes, and how many fit a second.

``--log sqlite``, ``valkey`` or ``postgres``. All in turns, in every round:

* **the floor** (`_log_stores.py`): SQLite's own commit; a PING, and a bare client; an INSERT;
* **publish**: `append` of one event, the next when it has returned;
* **end to end**: the same, from before the append to the hint in another process;
* **64 waiting**: 64 tasks that append one event each to one topic, or to 1,000 topics;
* **calls of 64**: 64 tasks whose appends have 64 events each, to one topic, as the engine above
  the log makes them;
* **catch-up**: one reader reads 100,000 events in pages of 512;
* **outbox** (Postgres): transactions of an app with an event in each, and without.

And once, behind the rounds, since they take long:

* **followed topics**: the memory that a process takes for each of 20,000 that it watches;
* **killed**: from the kill of the server, which is started again at once, to an event that was
  appended after it and is heard;
* **stall**: how much later than the log's patience an append to a frozen server fails.

Events have 100 bytes. Each figure is the median of the rounds, with the least and the most; a ratio
is between two measurements of one round. CPU is that of this process, all threads, for an event.

The bars are in `_log_stores.py`, and hold for a log's first setting.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import trio
from _log_stores import DATA, STORES, Store, percentile

from flowstream import Replay
from flowstream.abc import Log, LogEntry, Record
from flowstream.logs import LogUnavailableError, open_log

HERE = Path(__file__).parent
KEEP = Replay(items=10**6, bytes=1 << 30)
WAITING = 64
PAGE = 512


@dataclass(frozen=True)
class Sizes:
    """How much of everything is measured."""

    one_in_flight: int = 1000
    waiting: int = 12_800
    calls: int = 64 * 64 * 8
    caught_up: int = 100_000
    transactions: int = 3000
    followed: int = 20_000


QUICK = Sizes(20, 640, 64 * 64, 2000, 64, 200)

tokens = count()


async def append(log: Log, topic: str, data: list[bytes]) -> None:
    """Append with a token of its own, as the engine does."""
    entries = [LogEntry(one) for one in data]
    await log.append(topic, entries, keep=KEEP, token=f"{next(tokens):x}-0123456789abcdef")


async def publish(log: Log, events: int) -> dict[str, float]:
    """One in flight."""
    times: list[float] = []
    cpu = time.process_time()
    for _ in range(events):
        began = time.perf_counter()
        await append(log, "one", [DATA])
        times.append(time.perf_counter() - began)
    cpu = time.process_time() - cpu
    return {
        "publish p50, µs": percentile(times, 0.5),
        "publish p99, µs": percentile(times, 0.99),
        "publish, µs of CPU": cpu / events * 1e6,
    }


@contextmanager
def follower(url: str, events: int) -> Iterator[subprocess.Popen[str]]:
    """Start a process that hears of the topic `far`, and says how late, at the end."""
    command = [sys.executable, str(HERE / "_log_follower.py"), url, str(events)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.stdin.close()
        process.wait(60)


async def end_to_end(log: Log, url: str, events: int) -> dict[str, float]:
    """One in flight, heard by another process."""
    await append(log, "far", [DATA])  # hints are of topics that are there
    with follower(url, events) as process:
        for _ in range(events):
            stamp = b"%020d" % time.monotonic_ns()
            await append(log, "far", [stamp + DATA[20:]])
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("end\n")
        process.stdin.flush()
        # In a thread: a log may tell others of the last append behind its return.
        found = json.loads(await trio.to_thread.run_sync(process.stdout.readline))
    times = found["seconds"]
    assert len(times) == events, len(times)
    return {
        "end to end p50, µs": percentile(times, 0.5),
        "end to end p99, µs": percentile(times, 0.99),
        "end to end p99 / p50": percentile(times, 0.99) / percentile(times, 0.5),
        "reads beside hints": float(found["reads"]),
        "hint, µs of CPU": found["cpu"] / events * 1e6,
    }


async def waiting(log: Log, name: str, topics: int, entries: int, events: int) -> dict[str, float]:
    """64 tasks append, each one append at a time, to so many topics."""
    data = [DATA] * entries
    left = iter(range(events // entries))

    async def task() -> None:
        for number in left:
            await append(log, f"{name} {number % topics}", data)

    cpu, began = time.process_time(), time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(WAITING):
            nursery.start_soon(task)
    seconds = time.perf_counter() - began
    cpu = time.process_time() - cpu
    return {f"{name}, events/s": events / seconds, f"{name}, µs of CPU": cpu / events * 1e6}


async def catch_up(log: Log, events: int) -> dict[str, float]:
    """Read all of a topic, page by page."""
    head = (await log.heads(["past"]))["past"]
    after, found = (head.epochs[0][0], head.number - events), 0
    cpu, began = time.process_time(), time.perf_counter()
    while found < events:
        _, _, records = await log.read("past", after, PAGE)
        found += len(records)
        after = records[-1].epoch, records[-1].number
    seconds = time.perf_counter() - began
    cpu = time.process_time() - cpu
    return {"catch-up, events/s": found / seconds, "catch-up, µs of CPU": cpu / found * 1e6}


async def one_round(log: Log, store: Store, sizes: Sizes) -> dict[str, float]:
    """Measure everything once."""
    found = await trio.to_thread.run_sync(store.floor, sizes.one_in_flight)
    found |= await publish(log, sizes.one_in_flight)
    found |= await end_to_end(log, store.url, sizes.one_in_flight)
    found |= await waiting(log, "64 waiting, 1 topic", 1, 1, sizes.waiting)
    found |= await waiting(log, "64 waiting, 1,000 topics", 1000, 1, sizes.waiting)
    found |= await waiting(log, "calls of 64", 1, 64, sizes.calls)
    found |= await catch_up(log, sizes.caught_up)
    found |= await trio.to_thread.run_sync(store.more, sizes.transactions)
    for ratio, (over, under) in store.ratios.items():
        found[ratio] = found[over] / found[under]
    return found


async def followed(log: Log, url: str, topics: int) -> dict[str, float]:
    """Have another process watch so many topics that are there."""
    left = iter(range(topics))

    async def task() -> None:
        for number in left:
            await append(log, f"followed {number}", [DATA])

    async with trio.open_nursery() as nursery:
        for _ in range(WAITING):
            nursery.start_soon(task)
    command = [sys.executable, str(HERE / "_log_watcher.py"), url, str(topics)]
    done = await trio.run_process(command, capture_stdout=True)
    found = json.loads(done.stdout)
    return {
        "memory of a followed topic, bytes": found["bytes"],
        f"to watch {topics:,} topics, s": found["seconds"],
        "sockets of a log": found["sockets"],
    }


class Ear:
    """Follows one topic of a log, as the engine does: by hints, and by reads where all is stale."""

    def __init__(self) -> None:
        self.newest = 0
        self.stale = False
        self._news = trio.Event()

    def hint(self, topic: str, before: int, records: Sequence[Record]) -> None:
        """Hear a hint."""
        self.newest = max([self.newest, *[record.number for record in records]])
        self._news.set()

    def see_stale(self, topic: str | None) -> None:
        """Hear that hints may be missing."""
        self.stale = True
        self._news.set()

    async def until(self, log: Log, number: int) -> None:
        """**Wait** until event `number` has come."""
        while self.newest < number:
            self._news = trio.Event()
            if self.stale:
                self.stale = False
                try:
                    self.newest = max(self.newest, (await log.heads(["live"]))["live"].number)
                except LogUnavailableError:
                    self.stale = True
                    await trio.sleep(0.01)
                continue
            await self._news.wait()


async def appended(log: Log) -> int:
    """Append to the topic `live`, again and again until that succeeds; return the number."""
    token = f"{next(tokens):x}-live"
    while True:
        try:
            (done,) = await log.append("live", [LogEntry(DATA)], keep=KEEP, token=token)
        except LogUnavailableError:
            await trio.sleep(0.005)
        else:
            return done.number


async def broken(store: Store) -> dict[str, float]:
    """Kill the server, and have it stand still."""
    ear = Ear()
    async with open_log(store.url, hint=ear.hint, stale=ear.see_stale) as log:
        await log.watch(["live"])
        await ear.until(log, await appended(log))
        began = time.perf_counter()
        await trio.to_thread.run_sync(store.kill)
        await trio.to_thread.run_sync(store.start)
        up = time.perf_counter() - began
        await ear.until(log, await appended(log))
        live = time.perf_counter() - began
        await trio.sleep(1)
        await ear.until(log, await appended(log))
        await trio.to_thread.run_sync(store.freeze)
        began, late = time.perf_counter(), math.nan
        try:
            await append(log, "live", [DATA])
        except LogUnavailableError:
            late = time.perf_counter() - began - float(getattr(log, "_patience", 5.0))
        finally:
            await trio.to_thread.run_sync(store.thaw)
    return {
        "killed to server up, s": up,
        "killed to first event live, s": live,
        "stall to error, s over patience": late,
    }


async def measure(store: Store, rounds: int, sizes: Sizes) -> list[dict[str, float]]:
    """Return what each round found; the first has what is measured once, too."""
    async with open_log(store.url) as log:
        for _ in range(0, sizes.caught_up, 1000):
            await append(log, "past", [DATA] * 1000)
        await one_round(log, store, sizes)  # to warm up
        found = [await one_round(log, store, sizes) for _ in range(rounds)]
        found[0] |= await followed(log, store.url, sizes.followed)
        return found


def table(store: Store, rounds: list[dict[str, float]], title: str) -> list[str]:
    """Print a table; return the names of bars that are missed."""
    missed = []
    print(f"\n| {title} | median (range) | bar |\n| --- | ---: | --- |")
    for name in rounds[0]:
        values = [one[name] for one in rounds if name in one]
        median, bar = statistics.median(values), ""
        if name in store.bars and store.setting == store.settings[0]:
            word, bound = store.bars[name]
            met = median <= bound if word == "at most" else median >= bound
            bar = f"{word} {bound:,g}: {'met' if met else 'missed'}"
            if not met:
                missed.append(name)
        digits = 2 if median < 10 else 0
        low, high = min(values), max(values)
        print(f"| {name} | {median:,.{digits}f} ({low:,.{digits}f}-{high:,.{digits}f}) | {bar} |")
    return missed


def main() -> None:
    """Print tables; with ``--check`` exit 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--log", choices=STORES, default="sqlite")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="a little of everything, once")
    parser.add_argument("--folder", help="where files are made (default: the temporary folder)")
    parser.add_argument("--settings", nargs="+", help="how it reaches the disk (default: all)")
    parser.add_argument("--json", type=Path, help="write every sample into this file")
    parser.add_argument("--check", action="store_true", help="exit 1 if a bar is missed")
    options = parser.parse_args()
    kind = STORES[options.log]
    settings = options.settings or kind.settings
    if unknown := set(settings) - {*kind.settings}:
        parser.error(f"--settings of {options.log}: {', '.join(kind.settings)}, not {unknown}")
    sizes, rounds = (QUICK, 1) if options.quick else (Sizes(), options.rounds)
    missed: list[str] = []
    samples: dict[str, list[dict[str, float]]] = {}
    for setting in settings:
        with (
            tempfile.TemporaryDirectory(dir=options.folder) as folder,
            kind(Path(folder), setting) as store,
        ):
            found = trio.run(measure, store, rounds, sizes)
            if store.breakable:  # one that has next to nothing to read when it starts
                with kind(Path(folder), setting) as other:
                    found[0] |= trio.run(broken, other)
            samples[setting] = found
            missed += table(store, found, f"{options.log}, {setting}")
    if options.json:
        options.json.write_text(json.dumps(samples, indent=1))
    if options.check and missed:
        sys.exit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
