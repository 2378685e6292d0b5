"""What one event costs: a single stream of 100-byte SSE events, ours against others'.

Ours is measured in four homes, of which none may cost more than 1.15 times the cheapest.
The bar for the dearest of them: CPU per event at most half of what Starlette's
`StreamingResponse` of raw bytes costs on uvicorn + uvloop, and no more than Node's ``http``
doing the same, in the same run.

How it is measured:

* CPU time, user and system, of the server's process and all its threads; not wall time,
  which says as much about the client and about the neighbours on the machine.
* From the first byte that the client has to the last, after a warm-up on a connection of
  its own. As many events as take some seconds of CPU, because the kernel counts CPU time
  in hundredths of a second.
* The server is pinned to one core and the client to another. The client does next to
  nothing: `recv_into` of a large buffer, and a count of one byte that each event has once,
  which is how it knows that none is missing. It checks the last event, too.
* Every measurement has a new server process. The order of the sides rotates from round to
  round, and ratios are taken within a round, so that a slow minute of the machine hits
  both halves of a ratio.

Starlette is given every advantage: an async generator of bytes that were made beforehand,
while ours formats each event, numbers it, and passes it through a bounded buffer with a
policy. The side of Node with a bar does the same work as ours: text from an async
generator, a number and a frame for each event. Two that only copy ready-made bytes, with a
generator and without, are shown for orientation.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from _homes import HOME_LABELS
from _servers import FRAMED, PAYLOAD

HERE = Path(__file__).parent
MARK = b"~"
WARM_UP = 50_000  # events of the first stream, which nothing is taken from

LABELS = {
    **{f"flowstream-{home}": f"flowstream.sse, {name}" for home, name in HOME_LABELS.items()},
    "starlette": "Starlette raw bytes, uvicorn+uvloop",
    "node": "Node http, raw bytes",
    "node-framed": "Node http, framing each event",
    "node-loop": "Node http, raw bytes, no generator",
    "hypercorn": "plain Hypercorn-Trio, raw bytes",
    "sse-starlette": "sse-starlette, uvicorn+uvloop",
}
NODE_MODES = {"node": "generator", "node-framed": "framed", "node-loop": "loop"}
OURS = [f"flowstream-{home}" for home in HOME_LABELS]
HOME_BAR = 1.15  # the dearest home, of the cheapest
DEFAULT = [*OURS, "starlette", *NODE_MODES]
BARS = {"starlette": 0.5, "node-framed": 1.0, **dict.fromkeys(OURS, HOME_BAR)}
NEEDS = {"starlette": ("starlette", "uvicorn", "uvloop"), "sse-starlette": ("sse_starlette",)}


@dataclass(frozen=True)
class Sample:
    """One measurement of one side."""

    side: str
    round: int
    events: int
    cpu: float
    """Seconds of CPU time of the server."""
    wall: float
    """Seconds from the first byte to the last."""

    @property
    def micros(self) -> float:
        """Microseconds of CPU per event."""
        return self.cpu / self.events * 1e6


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process and its threads have used."""
    stat = Path(f"/proc/{pid}/stat")
    if stat.exists():
        # The name, field 2, may contain blanks; it ends at the last parenthesis.
        fields = stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    import psutil

    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Stay on one core for a while; what is started meanwhile inherits that."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(before)[core % len(before)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def server(side: str) -> Iterator[tuple[subprocess.Popen[str], int, str]]:
    """Run one side; give its process, its port and what it says about itself."""
    if side in NODE_MODES:
        command = ["node", str(HERE / "_node_http.js"), NODE_MODES[side], FRAMED, PAYLOAD]
    else:
        command = [sys.executable, str(HERE / "_servers.py"), side]
    with pinned(0):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"the server of side {side!r} did not start")
        ready = json.loads(line)
        yield process, ready["port"], ready["about"]
    finally:
        process.kill()
        process.communicate()


def read_stream(port: int, events: int, pid: int) -> tuple[float, float]:
    """Read one stream to its end; return the server's CPU seconds and the wall seconds.

    Raises:
        SystemExit: if the response is not what was asked for, to the last event.
    """
    buffer = bytearray(1 << 20)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(60)
        head = f"GET /stream?events={events} HTTP/1.1\r\nHost: localhost\r\n"
        connection.sendall(f"{head}Accept: text/event-stream\r\n\r\n".encode())
        size = connection.recv_into(buffer)
        cpu, wall = cpu_seconds(pid), time.perf_counter()
        start = bytes(buffer[:80])
        if not start.startswith(b"HTTP/1.1 200 "):
            raise SystemExit(f"unexpected response: {start!r}")
        count = received = 0
        tail = b""
        while True:
            received += size
            count += buffer.count(MARK, 0, size)
            tail = (tail + bytes(buffer[max(0, size - 512) : size]))[-512:]
            if tail.endswith(b"\r\n0\r\n\r\n"):
                break
            size = connection.recv_into(buffer)
            if not size:
                raise SystemExit(f"the connection was closed after {count} events")
        cpu, wall = cpu_seconds(pid) - cpu, time.perf_counter() - wall
    if count != events:
        raise SystemExit(f"{count} events came, {events} were expected")
    if f"data: {PAYLOAD}\n\n".encode() not in tail or b"id: " not in tail:
        raise SystemExit(f"the last event is not whole: {tail!r}")
    if received < events * (len(FRAMED) - 7):  # an id has 1 to 7 digits
        raise SystemExit(f"{received} bytes are too few for {events} events")
    return cpu, wall


def measure(side: str, round_: int, seconds: float) -> tuple[Sample, str]:
    """Measure one side once, on as many events as take `seconds` of CPU."""
    with server(side) as (process, port, about), pinned(1):
        events = WARM_UP
        # The second stream warms up too, and is long enough to tell how long the third must
        # be. A hundredth of a second is the unit of measurement: never divide by less.
        for share in (0.2, 1.0):
            cpu, wall = read_stream(port, events, process.pid)
            events = max(WARM_UP, int(events * seconds * share / max(cpu, 0.01)))
        cpu, wall = read_stream(port, events, process.pid)
    return Sample(side, round_, events, cpu, wall), about


def available(sides: list[str]) -> list[str]:
    """Return the sides that can run here, and say why the others cannot."""
    usable = []
    for side in sides:
        missing = [name for name in NEEDS.get(side, ()) if not find_spec(name)]
        if side in NODE_MODES and not shutil.which("node"):
            missing = ["node"]
        if missing:
            print(f"skipped: {LABELS[side]} ({', '.join(missing)} not installed)")
        else:
            usable.append(side)
    return usable


def spread(values: list[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def summarise(samples: list[Sample], sides: list[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Return per side: µs of CPU per event, events per second, and a ratio.

    That of a home is to the cheapest home; that of another side is of our dearest home to it.
    """
    by_side = {side: [s for s in samples if s.side == side] for side in sides}
    summary: dict[str, dict[str, dict[str, float]]] = {}
    for side, own in by_side.items():
        summary[side] = {
            "micros": spread([s.micros for s in own]),
            "per_second": spread([s.events / s.wall for s in own]),
        }
        homes = [by_side[home] for home in OURS if home in by_side]
        if homes:
            choose = min if side in OURS else max
            reference = [
                choose(s.micros for s in of_round) for of_round in zip(*homes, strict=True)
            ]
            pairs = zip(reference, own, strict=True)
            ratios = [s.micros / ours if side in OURS else ours / s.micros for ours, s in pairs]
            summary[side]["ratio"] = spread(ratios)
    return summary


def show(summary: dict[str, dict[str, dict[str, float]]], about: dict[str, str]) -> None:
    print(f"\n{'':38}{'µs CPU per event':^24}{'events/s':>10}   ratio")
    print(f"{'':38}{'min':>8}{'median':>8}{'max':>8}{'median':>10}   median (min-max)")
    for side, figures in summary.items():
        cost = figures["micros"]
        line = f"{LABELS[side]:38}{cost['min']:8.2f}{cost['median']:8.2f}{cost['max']:8.2f}"
        line += f"{figures['per_second']['median']:10,.0f}"
        if ratio := figures.get("ratio"):
            line += f"   {ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f})"
            line += " of the cheapest home" if side in OURS else " dearest home / this"
            if side in BARS:
                passed = ratio["median"] <= BARS[side]
                line += f"  {'meets' if passed else 'MISSES'} the bar of {BARS[side]}"
        print(line)
    print()
    for side, text in about.items():
        print(f"{side:22} {text}")


def main() -> int:
    """Run the rounds, print the table; 1 if `--check` was asked for and a bar is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--seconds", type=float, default=1.5, help="CPU seconds a measurement")
    parser.add_argument("--sides", nargs="+", choices=LABELS, default=DEFAULT)
    parser.add_argument("--all", action="store_true", help="every side that is installed")
    parser.add_argument("--check", action="store_true", help="exit 1 if a bar is missed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    sides = available(list(LABELS) if options.all else options.sides)
    samples: list[Sample] = []
    about: dict[str, str] = {}
    for round_ in range(options.rounds):
        turn = round_ % len(sides)
        for side in sides[turn:] + sides[:turn]:
            sample, about[side] = measure(side, round_, options.seconds)
            samples.append(sample)
            print(
                f"round {round_ + 1}/{options.rounds}  {side:22} {sample.micros:7.2f} µs CPU per"
                f" event  ({sample.events:,} events, {sample.cpu:.2f} s CPU)",
                flush=True,
            )
    summary = summarise(samples, sides)
    show(summary, about)
    print(f"\nPython {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    if options.json:
        result = {
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "about": about,
            "summary": summary,
            "samples": [asdict(sample) for sample in samples],
        }
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    if not options.check:
        return 0
    ratios = {side: summary.get(side, {}).get("ratio") for side in BARS}
    for side in [side for side, ratio in ratios.items() if ratio is None]:
        print(f"not checked: {LABELS[side]} was not measured beside flowstream")
    return int(any(ratio and ratio["median"] > BARS[side] for side, ratio in ratios.items()))


if __name__ == "__main__":
    sys.exit(main())
