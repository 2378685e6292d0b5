"""Attacks, and what they cost the server and the other clients.

For each attack and side a new server, 20 clients of a paced stream, and one that makes a small
request every 50 ms; then many connections that attack. The sides are flowstream's server and plain
Hypercorn's Trio worker, each by its own command, with the same application and configuration.

The bars, for flowstream's side:

* memory: at most 1 MiB for each attacking connection, and 10 MiB for each WebSocket, whose messages
  may have 8 MiB here;
* latency: the others' 99th percentile, of events and of requests, is at most three times what it
  is undisturbed;
* the log has no traceback, no other client is cut off, and the server ends in time at a SIGTERM
  that comes while it is attacked.

How it is measured:

* The server has one core. The other clients are in this process, on another core, and the attackers
  in a third process on that core, too, with a lower priority, so that they take what is left.
* Each server sees several rounds, each with a part without the attack and one with it. A ratio is
  of the two parts of one round; the median of the rounds counts. Of requests there are few, so
  those of all rounds are taken together.
* Memory is the resident set of the process that serves: before the first attack, the highest since
  (the kernel's own mark, if it rose), and half a second after the last.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import trio
from _attack_others import Latency, Others, Samples
from _attack_run import ATTACKS
from _attack_server import GRACE, SIDES, Server, running
from _attackers import MIB, Aim, Attack, Toll
from _attackers_http2 import connect as connect_http2
from _attackers_http2 import get as get_http2
from _attackers_websocket import connect as connect_websocket
from _homes import versions
from server_cost import make_certificate
from single_stream import pinned

RATIO = 3.0
IN_TIME = GRACE + 3.0  # seconds, for the whole shutdown of a server that has that grace


@dataclass(frozen=True)
class Round:
    """A part of the time without the attack, and the next with it."""

    events: tuple[Latency, Latency]
    requests: tuple[Latency, Latency]
    begun: int
    """Connections that the attackers made."""
    cut: int
    """Those that the server ended."""
    sent: int
    """Bytes."""


@dataclass
class Result:
    """What one attack did to one side; memory in bytes."""

    attack: str
    side: str
    connections: int
    bound: int
    rounds: list[Round] = field(default_factory=list)
    requests: tuple[Latency, Latency] | None = None
    """Of all rounds, without and with the attack."""
    before: int = 0
    peak: int = 0
    after: int = 0
    lost: int = 0
    """Streams that other clients lost, and requests of theirs that failed."""
    tracebacks: int = 0
    died: bool = False
    """Whether the server has ended under the attack."""
    ended: float | None = None
    """Seconds from SIGTERM to the end; None if it did not come."""

    @property
    def each(self) -> float:
        """Bytes of memory for each attacking connection."""
        return max(0, self.peak - self.before) / self.connections

    @property
    def left(self) -> float:
        """Bytes of memory for each of them after they had gone."""
        return max(0, self.after - self.before) / self.connections

    @property
    def ratios(self) -> list[float]:
        """How many times the 99th percentile of events was longer, by round."""
        return [one.events[1].p99 / one.events[0].p99 for one in self.rounds]

    @property
    def ratio(self) -> float:
        """Their median."""
        return statistics.median(self.ratios)

    @property
    def request_ratio(self) -> float:
        """How many times the 99th percentile of requests was longer."""
        assert self.requests is not None
        return self.requests[1].p99 / self.requests[0].p99

    def faults(self) -> list[str]:
        """Return what misses its bar."""
        faults = []
        if self.each > self.bound:
            faults.append(f"{self.each / MIB:.2f} MiB a connection")
        if self.ratio > RATIO:
            faults.append(f"events {self.ratio:.1f} times as late")
        if self.request_ratio > RATIO:
            faults.append(f"requests {self.request_ratio:.1f} times as late")
        if self.lost:
            faults.append(f"{self.lost} streams or requests of others lost")
        if self.died:
            faults.append("the server has ended under the attack")
        if self.tracebacks:
            faults.append(f"{self.tracebacks} tracebacks")
        if self.ended is None or self.ended > IN_TIME:
            faults.append("no end at SIGTERM" if self.ended is None else f"end {self.ended:.1f} s")
        return faults


class Attackers:
    """The process that attacks."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process

    async def go(self) -> None:
        """Begin; return when there is a connection."""
        assert self._process.stdin is not None
        await self._process.stdin.send_all(b"go\n")
        await self.line()

    async def stop(self) -> Toll:
        """End, and tell what was done."""
        assert self._process.stdin is not None
        await self._process.stdin.send_all(b"stop\n")
        return Toll(**json.loads(await self.line()))

    async def line(self) -> bytes:
        """Return the next line that it prints."""
        assert self._process.stdout is not None
        said = b""
        while not said.endswith(b"\n"):
            data = await self._process.stdout.receive_some()
            if not data:
                raise SystemExit("the attackers have ended")
            said += data
        return said


@asynccontextmanager
async def attackers(attack: Attack, server: Server) -> AsyncIterator[Attackers]:
    """Run the process of one attack."""
    program = Path(__file__).with_name("_attack_run.py")
    command = [sys.executable, str(program), attack.name, str(server.http), str(server.https)]
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        made = Attackers(process)
        await made.line()
        yield made
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def warm_up(server: Server, attack: Attack) -> None:
    """Have the server import and allocate what the first connection of each kind needs."""
    aim = Aim(server.http, server.https, Toll())
    await connect_websocket(aim, compressed=True)
    wire = await connect_http2(aim)
    await wire.send(get_http2(1))
    await wire.until(b"hello")
    wire = await aim.connect_tls()
    await wire.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await wire.until(b"hello")
    if attack.prepares:
        wire = await aim.connect()
        await wire.send(f"GET {attack.prepares} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await wire.receive()
        await trio.sleep(1)
    await aim.close()


async def measure(
    attack: Attack, side: str, options: argparse.Namespace, certificate: Path
) -> Result:
    """Measure one attack on one side."""
    result = Result(attack.name, side, attack.connections, attack.bound)
    with (
        tempfile.TemporaryDirectory() as directory,
        running(side, certificate, Path(directory)) as server,
    ):
        others = Others(server.http, attack.asks)
        async with attackers(attack, server) as attacking, trio.open_nursery() as nursery:
            await warm_up(server, attack)
            nursery.start_soon(others.run)
            await trio.sleep(0.7)
            result.before = server.memory()
            highest = server.highest()
            nursery.start_soon(watch, server, result)
            spans = [
                await a_round(attacking, others, options, result) for _ in range(options.rounds)
            ]
            await trio.sleep(0.5)
            result.after = server.memory()
            if server.highest() > highest:
                result.peak = max(result.peak, server.highest())
            result.requests = latencies(others.requests, spans)
            result.lost = others.lost
            await attacking.go()
            await trio.sleep(0.3)
            nursery.cancel_scope.cancel()
            result.died = not server.is_alive
            result.ended = server.terminate()
        result.tracebacks = server.tracebacks()
    return result


Span = tuple[float, float, float, float]
"""Seconds: the begin and the end without the attack, and those with it."""


async def a_round(
    attacking: Attackers, others: Others, options: argparse.Namespace, result: Result
) -> Span:
    """Measure one round; return its times."""
    begin = time.monotonic()
    await trio.sleep(options.quiet)
    between = time.monotonic()
    await attacking.go()
    await trio.sleep(options.seconds)
    end = time.monotonic()
    toll = await attacking.stop()
    await others.settled(end)
    span = (begin, between, between, end)
    events, requests = latencies(others.events, [span]), latencies(others.requests, [span])
    result.rounds.append(Round(events, requests, **asdict(toll)))
    await trio.sleep(0.5)
    return span


def latencies(samples: Samples, spans: list[Span]) -> tuple[Latency, Latency]:
    """Return what was without the attack, and with it."""
    quiet = [late for span in spans for late in samples.within(span[0], span[1])]
    loud = [late for span in spans for late in samples.within(span[2], span[3])]
    return Latency.of(quiet), Latency.of(loud)


async def watch(server: Server, result: Result) -> None:
    """Note the server's highest memory, until cancelled."""
    while True:
        result.peak = max(result.peak, server.memory())
        await trio.sleep(0.02)


HEAD = (
    "| attack | connections | MiB each | left | events, p99 ms | times (range) | requests, p99 ms"
    " | times | Hypercorn: MiB each | events, times | requests, times |\n"
    "| --- | ---: | ---: | ---: | --- | --- | --- | ---: | ---: | ---: | ---: |"
)


def row(ours: Result, plain: Result | None) -> str:
    """Return a row of the table."""
    assert ours.requests is not None
    events = [statistics.median(one.events[at].p99 for one in ours.rounds) for at in (0, 1)]
    cells = [
        ATTACKS[ours.attack].about,
        f"{ours.connections}",
        f"{ours.each / MIB:.2f}",
        f"{ours.left / MIB:.2f}",
        f"{events[0]:.1f} → {events[1]:.1f}",
        f"**{ours.ratio:.1f}** ({min(ours.ratios):.1f}-{max(ours.ratios):.1f})",
        f"{ours.requests[0].p99:.1f} → {ours.requests[1].p99:.1f}",
        f"**{ours.request_ratio:.1f}**",
    ]
    if plain is None:
        cells += ["", "", ""]
    else:
        cells += [
            f"{plain.each / MIB:.2f}",
            f"{plain.ratio:.1f}",
            f"{plain.request_ratio:.1f}",
        ]
    return f"| {' | '.join(cells)} |"


def notes(result: Result) -> list[str]:
    """Return what the table has no column for."""
    found = [f"{result.side}, {result.attack}: {fault}" for fault in result.faults()]
    return [note for note in found if result.side == "flowstream" or "late" not in note]


def main() -> int:
    """Measure attack by attack, print the table; 1 if `--check` finds a missed bar."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--rounds", type=int, default=3, help="for each attack; default: 3")
    parser.add_argument("--quiet", type=float, default=0.8, help="seconds without the attack")
    parser.add_argument("--seconds", type=float, default=1.2, help="with it; default: 1.2")
    parser.add_argument("--check", action="store_true", help="exit 1 if a bar is missed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    options = parser.parse_args()
    if options.rounds < 1 or min(options.quiet, options.seconds) < 0.3:
        parser.error("--rounds must be at least 1, --quiet and --seconds at least 0.3")
    results: list[Result] = []
    print(HEAD, flush=True)
    with tempfile.TemporaryDirectory() as directory, pinned(1):
        certificate = make_certificate(directory)
        for name in options.attacks:
            attack = ATTACKS[name]
            sides = [one for one in options.sides if one == "flowstream" or attack.hypercorn]
            measured = {
                side: trio.run(measure, attack, side, options, certificate) for side in sides
            }
            results += measured.values()
            if options.json:
                rows = [{**asdict(one), "faults": one.faults()} for one in results]
                options.json.write_text(json.dumps(rows, indent=2) + "\n")
            if "flowstream" in measured:
                print(row(measured["flowstream"], measured.get("hypercorn")), flush=True)
            for note in (note for result in measured.values() for note in notes(result)):
                print(note, file=sys.stderr, flush=True)
    print(
        f"\nbars: 1 MiB a connection (WebSocket 10), {RATIO:g} times; {versions('hypercorn', 'h2')}"
        f"\nPython {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}"
    )
    missed = any(one.faults() for one in results if one.side == "flowstream")
    return int(options.check and missed)


if __name__ == "__main__":
    sys.exit(main())
