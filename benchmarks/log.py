"""The log on SQLite, beside SQLite itself: how long an append takes, and how many fit a second.

All in one file system, in turns, in every round:

* **commit**: what SQLite's own commit of one row takes, by the standard library's `sqlite3`, in a
  file with the log's settings (WAL, ``synchronous``, the same checkpoints);
* **publish**: `append` of one event, the next when it has returned;
* **end to end**: the same, from before the append to the hint in another process;
* **64 waiting**: 64 tasks that append one event each to one topic, or to 1,000 topics;
* **calls of 64**: 64 tasks whose appends have 64 events each, to one topic, as the engine above
  the log makes them;
* **catch-up**: one reader reads 100,000 events in pages of 512.

Events have 100 bytes. Each figure is the median of the rounds, with the least and the most; a ratio
is between two measurements of one round. CPU is that of this process, all threads, for an event.

The bars, with ``synchronous=FULL``: publish p50 at most 5 times the commit's p50; end to end p99 at
most 3 times its p50; 64 waiting on one topic 19,000 events a second; catch-up 110,000.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import trio

from flowstream import Replay
from flowstream.abc import Log, LogEntry
from flowstream.logs import SQLiteLog, open_log

HERE = Path(__file__).parent
DATA = b"x" * 100
KEEP = Replay(items=10**6, bytes=1 << 30)
ONE_IN_FLIGHT = 1000
WAITING = 64
WAITING_EVENTS = 12_800
CALLS_EVENTS = 64 * 64 * 8
CAUGHT_UP = 100_000
PAGE = 512
BARS = {
    "publish / commit": ("at most", 5.0),
    "end to end p99 / p50": ("at most", 3.0),
    "64 waiting, 1 topic, events/s": ("at least", 19_000.0),
    "catch-up, events/s": ("at least", 110_000.0),
}

tokens = count()


def percentile(times: list[float], part: float) -> float:
    """Return a percentile in microseconds."""
    return sorted(times)[min(len(times) - 1, int(len(times) * part))] * 1e6


def commit(folder: Path, synchronous: str) -> float:
    """Return what SQLite's own commit takes: p50, in microseconds."""
    db = sqlite3.connect(folder / "plain.db", isolation_level=None)
    db.execute("pragma journal_mode=wal")
    db.execute(f"pragma synchronous={synchronous}")
    db.execute("pragma wal_autocheckpoint=4000")
    db.execute("create table if not exists event(pos integer primary key autoincrement, data blob)")
    times: list[float] = []
    for _ in range(ONE_IN_FLIGHT):
        began = time.perf_counter()
        db.execute("begin immediate")
        db.execute("insert into event(data) values(?)", (DATA,))
        db.execute("commit")
        times.append(time.perf_counter() - began)
    db.close()
    return percentile(times, 0.5)


async def append(log: Log, topic: str, data: list[bytes]) -> None:
    """Append with a token of its own, as the engine does."""
    entries = [LogEntry(one) for one in data]
    await log.append(topic, entries, keep=KEEP, token=f"{next(tokens):x}-0123456789abcdef")


async def publish(log: Log) -> dict[str, float]:
    """One in flight."""
    times: list[float] = []
    cpu = time.process_time()
    for _ in range(ONE_IN_FLIGHT):
        began = time.perf_counter()
        await append(log, "one", [DATA])
        times.append(time.perf_counter() - began)
    cpu = time.process_time() - cpu
    return {
        "publish p50, µs": percentile(times, 0.5),
        "publish p99, µs": percentile(times, 0.99),
        "publish, µs of CPU": cpu / ONE_IN_FLIGHT * 1e6,
    }


@contextmanager
def follower(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a process that hears of the topic `far`, and says how late, at the end."""
    command = [sys.executable, str(HERE / "_log_follower.py"), str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.stdin.close()
        process.wait(60)


async def end_to_end(log: Log, path: Path) -> dict[str, float]:
    """One in flight, heard by another process."""
    with follower(path) as process:
        for _ in range(ONE_IN_FLIGHT):
            stamp = b"%020d" % time.monotonic_ns()
            await append(log, "far", [stamp + DATA[20:]])
        process.stdin.write("end\n")
        process.stdin.flush()
        found = json.loads(process.stdout.readline())
    times = found["seconds"]
    assert len(times) == ONE_IN_FLIGHT, len(times)
    return {
        "end to end p50, µs": percentile(times, 0.5),
        "end to end p99, µs": percentile(times, 0.99),
        "end to end p99 / p50": percentile(times, 0.99) / percentile(times, 0.5),
        "hint, µs of CPU": found["cpu"] / ONE_IN_FLIGHT * 1e6,
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


async def catch_up(log: Log) -> dict[str, float]:
    """Read all of a topic, page by page."""
    head = (await log.heads(["past"]))["past"]
    after, found = (head.epochs[0][0], head.number - CAUGHT_UP), 0
    cpu, began = time.process_time(), time.perf_counter()
    while found < CAUGHT_UP:
        _, _, records = await log.read("past", after, PAGE)
        found += len(records)
        after = records[-1].epoch, records[-1].number
    seconds = time.perf_counter() - began
    cpu = time.process_time() - cpu
    return {"catch-up, events/s": found / seconds, "catch-up, µs of CPU": cpu / found * 1e6}


async def one_round(log: Log, folder: Path, path: Path, synchronous: str) -> dict[str, float]:
    """Measure everything once."""
    found = {"commit p50, µs": commit(folder, synchronous)}
    found |= await publish(log)
    found["publish / commit"] = found["publish p50, µs"] / found["commit p50, µs"]
    found |= await end_to_end(log, path)
    found |= await waiting(log, "64 waiting, 1 topic", 1, 1, WAITING_EVENTS)
    found |= await waiting(log, "64 waiting, 1,000 topics", 1000, 1, WAITING_EVENTS)
    found |= await waiting(log, "calls of 64", 1, 64, CALLS_EVENTS)
    found |= await catch_up(log)
    return found


async def measure(folder: Path, synchronous: str, rounds: int) -> list[dict[str, float]]:
    """Return what each round found."""
    path = folder / f"{synchronous}.db"
    async with open_log(SQLiteLog(path, synchronous)) as log:  # type: ignore[arg-type]
        for _ in range(0, CAUGHT_UP, 1000):
            await append(log, "past", [DATA] * 1000)
        await one_round(log, folder, path, synchronous)  # to warm up
        return [await one_round(log, folder, path, synchronous) for _ in range(rounds)]


def main() -> None:
    """Print a table; with ``--check`` exit 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", help="where the files are made (default: the temporary folder)")
    parser.add_argument("--synchronous", nargs="+", default=["FULL", "NORMAL"])
    parser.add_argument("--json", type=Path, help="write every sample into this file")
    parser.add_argument("--check", action="store_true", help="exit 1 if a bar is missed")
    options = parser.parse_args()
    missed: list[str] = []
    samples: dict[str, list[dict[str, float]]] = {}
    for synchronous in options.synchronous:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            rounds = trio.run(measure, Path(folder), synchronous, options.rounds)
        samples[synchronous] = rounds
        print(f"\n| synchronous={synchronous} | median (range) | bar |\n| --- | ---: | --- |")
        for name in rounds[0]:
            values = [one[name] for one in rounds]
            median, bar = statistics.median(values), ""
            if name in BARS and synchronous == "FULL":
                word, bound = BARS[name]
                met = median <= bound if word == "at most" else median >= bound
                bar = f"{word} {bound:,g}: {'met' if met else 'missed'}"
                if not met:
                    missed.append(name)
            digits = 2 if median < 10 else 0
            low, high = min(values), max(values)
            print(
                f"| {name} | {median:,.{digits}f} ({low:,.{digits}f}-{high:,.{digits}f}) | {bar} |"
            )
    if options.json:
        options.json.write_text(json.dumps(samples, indent=1))
    if options.check and missed:
        sys.exit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
