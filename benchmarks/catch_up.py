"""What it costs to catch up: clients that replay what a topic keeps, ours against Durable Streams'.

The bars, over HTTP/1.1, in each of the four homes:

* a replay of 200,000 events of 100 bytes, to one client and to 100 at once: 600 MB a CPU-second;
* of 1,000 bytes: 1 GB a CPU-second;
* more bytes a CPU-second than Durable Streams' Node server, which reads the same bytes from memory;
* 10,000 clients that come back at once and replay 1,000 events of 100 bytes each: CPU, memory and
  the time until all are live are shown, beside nginx with nchan (if it is there).

How it is measured:

* CPU time, user and system, of the server's process, to the nanosecond. The kernel's work to hand
  the bytes to the client's socket is in it: over loopback the sender does that.
* The server is pinned to one core; the clients are one program on another.
* Every round has new servers, and the order of the sides rotates. Each server is asked once before
  it is measured: "first" is what that request cost.
* ``--before PATH`` measures another checkout of flowstream, too, in the same rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from _counted import ask
from _homes import HOME_LABELS
from fanout import NCHAN_MODULE, cpu_seconds, resident
from fanout import server as fanout_server
from single_stream import pinned

HERE = Path(__file__).parent
NODE = "durable-streams"
NCHAN = "nchan"
BARS = {100: 600, 1000: 1000}  # MB a CPU-second
ABOUT: dict[str, str] = {}


@dataclass(frozen=True)
class Sample:
    """One measurement."""

    side: str
    size: int
    clients: int
    events: int
    bytes: int
    cpu: float
    wall: float
    first: float = 0.0
    """Seconds of CPU of the first request, which is not measured otherwise."""
    memory: float = 0.0
    """Bytes for each client, once all are live."""

    @property
    def speed(self) -> float:
        """Megabytes a CPU-second."""
        return self.bytes / self.cpu / 1e6


@contextmanager
def server(
    side: str, size: int, options: argparse.Namespace, events: int, back: int
) -> Iterator[tuple[int, int, str]]:
    """Run one side on the first core: its process, its port, and what to ask it for."""
    environment = dict(os.environ)
    if side == NODE:
        script, *rest = "_catch_up_node.mjs", options.durable_streams, str(events), str(size)
        command = ["node", str(HERE / script), *rest]
    else:
        checkout, _, home = side.partition("-")
        if checkout == "before":
            environment["PYTHONPATH"] = str(options.before)
        command = [sys.executable, str(HERE / "_catch_up_servers.py"), home]
    with pinned(0):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"the server of side {side!r} did not start")
        hello = json.loads(line)
        ABOUT[side] = hello["about"]
        path = "/events?offset=-1"
        if side != NODE:
            path = f"/fill?events={events}&size={size}&back={back}"
            path = f"/events?after={ask(hello['port'], path)['after']}"
        yield process.pid, hello["port"], path
    finally:
        process.kill()
        process.communicate()


def replay(pid: int, port: int, path: str, clients: int, events: int) -> tuple[Any, float, int]:
    """Have clients read so many events; return what they say, the server's CPU, its memory."""
    arguments = [str(HERE / "_catch_up_client.py"), str(port), path, str(clients), str(events)]
    before = cpu_seconds(pid)
    with pinned(1):
        reader = subprocess.Popen(
            [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    assert reader.stdout is not None
    line = reader.stdout.readline()
    cpu, memory = cpu_seconds(pid) - before, resident(pid)
    reader.communicate()
    if not line:
        raise SystemExit("the clients gave up")
    return json.loads(line), cpu, memory


def measure(side: str, size: int, options: argparse.Namespace) -> list[Sample]:
    """Replay everything to one client, and to many at once."""
    samples = []
    events = options.events
    with server(side, size, options, events + 1, events) as (pid, port, path):
        count = events + (side == NODE)
        first = replay(pid, port, path, 1, count)[1]
        for clients in (1, options.clients):
            got, cpu, _ = replay(pid, port, path, clients, count)
            samples.append(
                Sample(side, size, clients, events, got["bytes"], cpu, got["wall"], first)
            )
    return samples


@contextmanager
def nchan(events: int) -> Iterator[tuple[int, int, str]]:
    """Run nchan, and have it keep events; yield the same as `server`."""
    with fanout_server(NCHAN) as started:
        started.publish(events)
        ABOUT[NCHAN] = started.about
        yield started.pid, started.port, "/past"


def come_back(side: str, options: argparse.Namespace) -> Sample:
    """Have many clients come back at once, and replay a little."""
    count, events = options.returning, 1000
    running = nchan(events) if side == NCHAN else server(side, 100, options, 2 * events, events)
    with running as (pid, port, path):
        replay(pid, port, path, 10, events)
        before = resident(pid)
        got, cpu, memory = replay(pid, port, path, count, events)
    each = (memory - before) / count
    return Sample(side, 100, count, events, got["bytes"], cpu, got["wall"], memory=each)


def missed(samples: list[Sample], returning: int) -> list[str]:
    """Return a sentence for each bar that is missed."""
    sentences = []
    speeds: dict[tuple[str, int, int], list[float]] = {}
    for one in samples:
        speeds.setdefault((one.side, one.size, one.clients), []).append(one.speed)
    for (side, size, clients), found in speeds.items():
        if not side.startswith("flowstream-") or clients == returning:
            continue
        speed = statistics.median(found)
        bar = max(BARS.get(size, 0), statistics.median(speeds.get((NODE, size, clients), [0])))
        if speed < bar:
            sentences.append(
                f"{side}, {size} bytes, {clients} clients: {speed:.0f} MB a CPU-s, bar {bar:.0f}"
            )
    return sentences


def told(samples: list[Sample]) -> list[Sample]:
    """Say what was measured, in case the run is broken off."""
    for one in samples:
        print(f"{one.side}, {one.size} bytes, {one.clients}: {one.speed:.0f} MB", file=sys.stderr)
    return samples


def table(samples: list[Sample], returning: int) -> str:
    """Return the figures: medians, with the least and the most."""
    lines = [
        "| side | bytes | clients | MB a CPU-s | first | µs an event | seconds | KB a client |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    kinds = dict.fromkeys((one.side, one.size, one.clients) for one in samples)
    for kind in sorted(kinds, key=lambda kind: (kind[2], kind[1])):
        these = [one for one in samples if (one.side, one.size, one.clients) == kind]
        speeds = [one.speed for one in these]
        first = [one.bytes / one.clients / one.first / 1e6 for one in these if one.first]
        cost = statistics.median(one.cpu / one.events / one.clients * 1e6 for one in these)
        wall = statistics.median(one.wall for one in these)
        memory = statistics.median(one.memory for one in these) / 1024
        lines.append(
            f"| {kind[0]} | {kind[1]:,} | {kind[2]:,} | {statistics.median(speeds):,.0f} "
            f"({min(speeds):,.0f}-{max(speeds):,.0f}) | "
            + (f"{statistics.median(first):,.0f}" if first else "-")
            + f" | {cost:.3f} | {wall:.1f} | "
            + (f"{memory:.1f} |" if kind[2] == returning else "- |")
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--homes", default=",".join(HOME_LABELS), help="of the four, by commas")
    parser.add_argument("--sizes", default="100,1000")
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--clients", type=int, default=100, help="that replay at once")
    parser.add_argument("--returning", type=int, default=10_000, help="0 to leave them out")
    parser.add_argument("--before", type=Path, help="another checkout of flowstream")
    parser.add_argument("--json", type=Path, help="where to write all samples")
    parser.add_argument(
        "--durable-streams", help="a directory in which npm has installed @durable-streams/server"
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    options = parser.parse_args()
    homes = options.homes.split(",")
    sides = [f"flowstream-{home}" for home in homes]
    if options.before:
        sides += [f"before-{home}" for home in homes]
    peers = [NODE] if options.durable_streams else []
    back = sides + [NCHAN] * (shutil.which("nginx") is not None and NCHAN_MODULE.exists())
    samples: list[Sample] = []
    for round in range(options.rounds):
        for size in map(int, options.sizes.split(",") if options.sizes else ()):
            all_sides = sides + peers
            start = round % len(all_sides)
            for side in all_sides[start:] + all_sides[:start]:
                samples += told(measure(side, size, options))
        for side in back if options.returning else ():
            samples += told([come_back(side, options)])
        print(f"round {round + 1} of {options.rounds}", file=sys.stderr)
    print(table(samples, options.returning))
    for side, about in ABOUT.items():
        print(f"{side}: {about}")
    if options.json:
        options.json.write_text(json.dumps([asdict(one) for one in samples], indent=1))
    below = missed(samples, options.returning)
    print("\n".join(below))
    if options.check and below:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
