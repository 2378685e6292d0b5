"""What a new connection costs, and what an idle one holds on to, in four homes and beside peers.

The bars, in one run:

* CPU for a new connection, from the accept to the first event: at most 0.5 ms in a bare ASGI app
  and 0.9 ms in a Quart-Trio view; at most 0.6 and 1.1 times what sse-starlette takes on uvicorn.
* The head and the first event come in one write.
* Resident memory of an idle stream: less than 20 KB in a bare ASGI app, at most 22 KB in a
  Quart-Trio view.

How it is measured:

* CPU time, user and system, of the server's process, pinned to one core, while a C program on
  another opens connections, at most a hundred of them unanswered at a time. Each asks for a
  stream, and is answered with the head and one event of 100 bytes. A quarter as many warm up.
* Whether head and event came together is told by what the client's first read gives. Two writes
  may be read as one, so that a share below 1 proves two writes, and 1 makes one very likely.
* Memory is the growth of the resident set while streams open on a topic without events,
  divided by their number, behind a hundred that make what is there once.
* Every round has new servers. The order of the sides rotates, and ratios are taken within a round.
* One event is published to the idle streams at the end, and how many got it by a direct write is
  printed: what is idle is to be ready for that.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from _counted import Taken, ask, taken
from _homes import HOME_LABELS
from fanout import clients, compiled, cpu_seconds, resident
from single_stream import pinned, spread

HERE = Path(__file__).parent
OURS = {f"flowstream-{home}": f"flowstream, {name}" for home, name in HOME_LABELS.items()}
LABELS = {**OURS, "sse-starlette": "sse-starlette, uvicorn+uvloop", "node": "Node http"}
COST_BARS = {"flowstream-bare": 0.5, "flowstream-quart": 0.9}
RATIO_BARS = {"flowstream-bare": 0.6, "flowstream-quart": 1.1}
TAKEN: dict[str, Taken] = {}  # of the last round: which way an event to idle streams went
MEMORY_BARS = {"flowstream-bare": 20.0, "flowstream-quart": 22.0}


@dataclass(frozen=True)
class Sample:
    """One measurement of one side."""

    side: str
    milliseconds: float
    """Of CPU for a new connection."""
    whole: float
    """The share of clients whose first read had the head and the event."""
    kilobytes: float
    """Of resident memory for an idle stream."""


@contextmanager
def server(side: str) -> Iterator[tuple[int, int, str]]:
    """Run one side on the first core; give its process id, its port and what it is."""
    if side == "node":
        command = ["node", str(HERE / "_connection_node.js")]
    else:
        command = [sys.executable, str(HERE / "_connection_servers.py"), side]
    with pinned(0):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"the server of side {side!r} did not start")
        ready = json.loads(line)
        yield process.pid, ready["port"], ready["about"]
    finally:
        process.kill()
        process.communicate()


def measure(side: str, program: Path, options: argparse.Namespace) -> tuple[Sample, str]:
    """Measure one side once: the cost by one server, the memory by another."""
    with server(side) as (pid, port, about), clients(program, port) as them:
        warm = max(100, options.connections // 4)
        before = them.tell(f"open {warm} /first")["whole"]
        cpu = cpu_seconds(pid)
        whole = them.tell(f"open {options.connections} /first")["whole"] - before
        cpu = cpu_seconds(pid) - cpu
    with server(side) as (pid, port, about), clients(program, port) as them:
        them.tell("open 100 /idle")
        memory = resident(pid)
        them.tell(f"open {options.idle} /idle")
        time.sleep(0.5)
        memory = resident(pid) - memory
        if side in OURS:
            ask(port, "/publish")
            TAKEN[side] = taken(port)
    milliseconds = cpu / options.connections * 1e3
    share = whole / options.connections
    return Sample(side, milliseconds, share, memory / options.idle / 1e3), about


def available(sides: list[str]) -> list[str]:
    """Return the sides that can run here, and say why the others cannot."""
    needs = {"sse-starlette": ("sse_starlette", "starlette", "uvicorn", "uvloop")}
    usable = []
    for side in sides:
        missing = [name for name in needs.get(side, ()) if not find_spec(name)]
        if side == "node" and not shutil.which("node"):
            missing = ["node"]
        if missing:
            print(f"skipped: {LABELS[side]} ({', '.join(missing)} not installed)")
        else:
            usable.append(side)
    return usable


def show(samples: list[Sample]) -> list[str]:
    """Print the tables; return the bars that are missed."""
    missed = []

    def judged(what: str, value: float, bar: float | None, *, least: bool = False) -> str:
        if bar is None:
            return ""
        met = value >= bar if least else value <= bar
        if not met:
            missed.append(what)
        return f"  {'meets' if met else 'MISSES'} the bar of {bar:g}"

    by_side = {side: [s for s in samples if s.side == side] for side in LABELS}
    peers = by_side["sse-starlette"]
    print(f"\n{'CPU for a new connection, ms':34}{'min':>7}{'median':>8}{'max':>7}")
    for side, own in by_side.items():
        if not own:
            continue
        cost = spread([s.milliseconds for s in own])
        line = f"{LABELS[side]:34}{cost['min']:7.3f}{cost['median']:8.3f}{cost['max']:7.3f}"
        line += judged(f"cost, {side}", cost["median"], COST_BARS.get(side))
        if peers and side != "sse-starlette":
            pairs = zip(own, peers, strict=True)
            ratio = spread([ours.milliseconds / theirs.milliseconds for ours, theirs in pairs])
            line += f"   of sse-starlette {ratio['median']:.2f}"
            line += f" ({ratio['min']:.2f}-{ratio['max']:.2f})"
            line += judged(f"ratio, {side}", ratio["median"], RATIO_BARS.get(side))
        print(line)
    print("\nhead and first event in the client's first read, share of the connections")
    for side, own in by_side.items():
        if own:
            share = spread([s.whole for s in own])["median"]
            bar = 1.0 if side in OURS else None
            verdict = judged(f"one write, {side}", share, bar, least=True)
            print(f"{LABELS[side]:34}{share:7.1%}{verdict}")
    print(f"\n{'resident memory, KB a stream':34}{'min':>7}{'median':>8}{'max':>7}")
    for side, own in by_side.items():
        if own:
            at = spread([s.kilobytes for s in own])
            line = f"{LABELS[side]:34}{at['min']:7.1f}{at['median']:8.1f}{at['max']:7.1f}"
            print(line + judged(f"memory, {side}", at["median"], MEMORY_BARS.get(side)))
    return missed


def main() -> int:
    """Run the rounds, print the tables; 1 if `--check` was asked for and a bar is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--connections", type=int, default=1000, help="of a measurement")
    parser.add_argument("--idle", type=int, default=1500, help="streams that are idle")
    parser.add_argument("--sides", nargs="+", choices=LABELS, default=list(LABELS))
    parser.add_argument("--check", action="store_true", help="exit 1 if a bar is missed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    options = parser.parse_args()
    sides = available(options.sides)
    samples: list[Sample] = []
    about: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as directory:
        program = compiled(Path(directory))
        for round_ in range(options.rounds):
            turn = round_ % len(sides)
            for side in sides[turn:] + sides[:turn]:
                sample, about[side] = measure(side, program, options)
                samples.append(sample)
                print(
                    f"round {round_ + 1}/{options.rounds}  {side:22}"
                    f"{sample.milliseconds:7.3f} ms, {sample.kilobytes:5.1f} KB",
                    flush=True,
                )
    missed = show(samples)
    print("\nan event to the idle streams")
    for side, way in TAKEN.items():
        print(f"{LABELS[side]:34}{way}")
    print()
    for side, text in about.items():
        print(f"{side:22} {text}")
    print(f"\nPython {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    if options.json:
        result = {
            "about": about,
            "missed": missed,
            "taken": {side: asdict(way) for side, way in TAKEN.items()},
            "samples": [asdict(sample) for sample in samples],
        }
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return int(options.check and bool(missed))


if __name__ == "__main__":
    sys.exit(main())
