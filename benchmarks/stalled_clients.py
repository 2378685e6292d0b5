"""A client that reads nothing, and what it costs the server and everybody else.

In each of four homes, for each slow-consumer policy: a server process; four clients of a
paced stream (100 events per second, each carrying the time at which it was made); and one
client that asks for an endless stream from a producer that never pauses, and then reads
nothing at all.

Two things are to be shown:

* the server's memory stays flat: it may grow by the bytes that the client's buffer may
  hold, and 1 MB;
* the others do not notice: the 99th percentile of their latency is at most one and a half
  times what it was without the stalled client, or a few milliseconds more where that is
  next to nothing (`--slack`; on a shared machine other processes take that much).

How it is measured:

* Latency is the time from the moment the producer made an event to the moment the client
  had read it, on one machine and one monotonic clock. The clients are in one process, the
  server in another, each pinned to a core of its own. The percentiles are taken of each
  second by itself, and of these the median is shown: what the stalled client does it does
  in every second, while a neighbour on the machine that is busy for one spoils that one.
* Memory is the resident set of the server's process, as the kernel has it, read every
  tenth of a second: before the stalled client comes, 2 s into the stall, at its end, and
  the highest value of all, from which the growth is taken. No client of the endless stream
  came before, so whatever the first one makes the server allocate counts as growth, too.
* Under a policy that drops, a producer that never pauses keeps a whole core busy for as
  long as the client is stalled. That is the hard case and the default; `--rate` has it
  make so many events a second instead, which tells the cost of the stalled client from
  that of a producer that computes all the time.
* By default four policies are measured, of which one waits, one drops, one merges and one cuts;
  ``--all`` takes the others, too.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psutil
import trio
from _homes import HOME_LABELS, HOMES
from _servers import serve_trio
from single_stream import pinned

import flowstream
from flowstream import Block, Conflate, Disconnect, DropNewest, DropOldest, Event, Sample
from flowstream.decoders import SSEDecoder

POLICIES: dict[str, Callable[[], flowstream.abc.Policy]] = {
    "Block()": Block,
    "Block(timeout=5)": lambda: Block(timeout=5),
    "DropOldest()": DropOldest,
    "DropNewest()": DropNewest,
    "Sample(every=10)": lambda: Sample(every=10),
    "Sample(interval=0.1)": lambda: Sample(interval=0.1),
    "Conflate()": Conflate,
    "Disconnect()": Disconnect,
}
DEFAULT = ["Block()", "DropOldest()", "Conflate()", "Disconnect()"]
BUFFER = flowstream.Buffer(items=256, bytes=1 << 20)
ITEM = "x" * 4096  # 256 of them fill the buffer in items and in bytes
RATE = 100  # events per second of the paced stream
BURST = 10  # events that the endless producer makes between two pauses, if it has any
READERS = 4
MEGABYTE = 1_000_000


# The server


async def paced(given: dict[str, str]) -> Any:
    """Stream `RATE` events a second, each with the time at which it was made."""

    async def events() -> AsyncIterator[str]:
        due = trio.current_time()
        while True:
            due += 1 / RATE
            await trio.sleep_until(due)
            yield str(time.monotonic_ns())

    return flowstream.sse(events())


async def endless(given: dict[str, str]) -> Any:
    """Stream ``rate`` events a second (0: without a pause) under ``policy``."""
    rate = float(given["rate"])

    async def events() -> AsyncIterator[Event]:
        n = 0
        while True:
            n += 1
            yield Event(ITEM, key=n % 1000)
            if rate and n % BURST == 0:
                await trio.sleep(BURST / rate)

    return flowstream.sse(
        events(),
        policy=POLICIES[given["policy"]](),
        buffer=BUFFER,
        # No stall_timeout within the measurement: it would end what is to be measured.
        limits=flowstream.Limits(stall_timeout=3600),
    )


def serve(home: str) -> None:
    """Serve both in one of the homes."""
    logging.getLogger("flowstream").setLevel("ERROR")  # slow consumers are expected here
    serve_trio(*HOMES[home]({"/paced": paced, "/endless": endless}))


@contextmanager
def server(home: str) -> Iterator[tuple[psutil.Process, int]]:
    """Run a server of its own for one policy; give its process and its port."""
    with pinned(0):
        process = subprocess.Popen(
            [sys.executable, __file__, "--serve", home], stdout=subprocess.PIPE, text=True
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit("the server did not start")
        yield psutil.Process(process.pid), json.loads(line)["port"]
    finally:
        process.kill()
        process.communicate()


# The clients


def request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


class PacedReader:
    """A client of the paced stream that notes how old each event is when it comes."""

    def __init__(self) -> None:
        self.latencies: list[tuple[int, float]] = []
        """For each event, the second in which it came and the milliseconds it took."""

    async def run(self, port: int) -> None:
        """Read until cancelled."""
        decoder = SSEDecoder()
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(request("/paced"))
            async for data in stream:
                now = time.monotonic_ns()
                # The head and the chunks' sizes are fields without a meaning to the decoder.
                for event in decoder.feed(data):
                    if event.data.isdigit():
                        took = (now - int(event.data)) / 1e6
                        self.latencies.append((now // 1_000_000_000, took))
        raise SystemExit("the paced stream ended")


@dataclass(frozen=True)
class Latency:
    """Milliseconds, over all the paced clients: medians of what each second had."""

    events: int
    p50: float
    p99: float
    max: float
    """The longest of all."""

    @classmethod
    def of(cls, values: list[tuple[int, float]]) -> Latency:
        """Return the percentiles of (second, milliseconds) pairs."""
        seconds: dict[int, list[float]] = {}
        for second, took in sorted(values):  # ascending within each second, too
            seconds.setdefault(second, []).append(took)
        # The first and the last second are not whole.
        whole = list(seconds.values())[1:-1]
        return cls(
            events=len(values),
            p50=statistics.median(took[(len(took) - 1) // 2] for took in whole),
            p99=statistics.median(took[(len(took) - 1) * 99 // 100] for took in whole),
            max=max(took for _, took in values),
        )


@dataclass(frozen=True)
class Result:
    """What one policy did in one home; resident memory in bytes."""

    home: str
    policy: str
    rss_before: int
    rss_early: int
    """2 s into the stall."""
    rss_late: int
    """At the end of the stall."""
    rss_peak: int
    alone: Latency
    beside: Latency
    """While the stalled client was there."""

    @property
    def growth(self) -> int:
        """Bytes by which the resident memory grew at the most."""
        return self.rss_peak - self.rss_before

    def faults(self, slack: float) -> list[str]:
        """Return what misses its bar; `slack` is in milliseconds."""
        faults = []
        if self.growth > BUFFER.bytes + MEGABYTE:
            faults.append(f"memory grew by {self.growth / MEGABYTE:.1f} MB")
        allowed = max(1.5 * self.alone.p99, self.alone.p99 + slack)
        if self.beside.p99 > allowed:
            faults.append(f"p99 {self.beside.p99:.2f} ms, allowed {allowed:.2f} ms")
        return faults


async def measure(home: str, policy: str, options: argparse.Namespace) -> Result:
    """Measure one policy in one home, on a server of its own."""
    # On the other core: a client that shares the one of a server that always computes waits
    # for its time slice, 3 ms and more, and takes that for latency.
    with server(home) as (process, port), pinned(1):
        readers = [PacedReader() for _ in range(READERS)]

        def gathered() -> list[tuple[int, float]]:
            values = [value for reader in readers for value in reader.latencies]
            for reader in readers:
                reader.latencies.clear()
            return values

        async with trio.open_nursery() as nursery:
            for reader in readers:
                nursery.start_soon(reader.run, port)
            await trio.sleep(1)
            gathered()  # the first second is a warm-up
            await trio.sleep(options.baseline)
            alone = Latency.of(gathered())
            before = early = peak = process.memory_info().rss
            stalled = await trio.open_tcp_stream("127.0.0.1", port)
            async with stalled:
                query = urlencode({"policy": policy, "rate": options.rate})
                await stalled.send_all(request(f"/endless?{query}"))
                begin = trio.current_time()
                while (passed := trio.current_time() - begin) < options.seconds:
                    await trio.sleep(0.1)
                    rss = process.memory_info().rss
                    peak = max(peak, rss)
                    if passed < 2:
                        early = rss
                beside = Latency.of(gathered())
                late = process.memory_info().rss
            nursery.cancel_scope.cancel()
    return Result(home, policy, before, early, late, max(peak, late), alone, beside)


HEAD = f"{'':34}{'resident memory, MB':^34}{'latency of the others, ms':^42}"
COLUMNS = (
    f"{'home':12}{'policy':22}{'before':>8}{'2 s':>8}{'end':>8}{'growth':>10}"
    f"{'p50':>9}{'p99':>7}   {'p50':>9}{'p99':>7}{'ratio':>7}"
)


def row(result: Result) -> str:
    memory = [result.rss_before, result.rss_early, result.rss_late]
    line = f"{HOME_LABELS[result.home]:12}{result.policy:22}"
    line += "".join(f"{value / MEGABYTE:8.1f}" for value in memory)
    line += f"{result.growth / MEGABYTE:+10.2f}"
    line += f"{result.alone.p50:9.2f}{result.alone.p99:7.2f} ->"
    line += f"{result.beside.p50:9.2f}{result.beside.p99:7.2f}"
    return line + f"{result.beside.p99 / result.alone.p99:7.1f}"


def main() -> int:
    """Measure policy by policy, print the table; 1 if `--check` finds a missed bar."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--homes", nargs="+", choices=HOMES, default=list(HOMES))
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=DEFAULT)
    parser.add_argument("--all", action="store_true", help="all policies")
    parser.add_argument("--seconds", type=float, default=8, help="of the stall; default: 8")
    parser.add_argument("--baseline", type=float, default=5, help="seconds without it")
    parser.add_argument("--rate", type=float, default=0, help="events/s of the endless producer")
    parser.add_argument("--slack", type=float, default=5, help="ms that p99 may grow anyway")
    parser.add_argument("--check", action="store_true", help="exit 1 if a bar is missed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument("--serve", choices=HOMES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if min(options.seconds, options.baseline) < 3:
        parser.error("--seconds and --baseline must be at least 3")
    if options.serve:
        serve(options.serve)
        return 0
    print(HEAD, COLUMNS, sep="\n", flush=True)
    results, missed = [], False
    with pinned(1):
        policies = list(POLICIES) if options.all else options.policies
        for policy, home in product(policies, options.homes):
            result = trio.run(measure, home, policy, options)
            results.append(result)
            faults = result.faults(options.slack)
            missed = missed or bool(faults)
            print(row(result), *faults, sep="  ", flush=True)
    print(
        f"\nbars: growth up to {(BUFFER.bytes + MEGABYTE) / MEGABYTE:.2f} MB; p99 up to 1.5 times"
        f" what it was alone, or {options.slack:g} ms more"
        f"\nPython {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}"
    )
    if options.json:
        rows = [{**asdict(r), "faults": r.faults(options.slack)} for r in results]
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    return int(options.check and missed)


if __name__ == "__main__":
    sys.exit(main())
