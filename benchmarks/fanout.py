"""What a delivery costs: one publisher, up to ten thousand clients, ours against others'.

The bars, all with 100-byte events over HTTP/1.1, in one run:

* CPU per delivery to 1,000 clients, at 10 events a second and flat out, in the dearest of
  the four homes: at most 1.15 times that in the cheapest, at most 0.95 times that of nchan
  (nginx, in C), at most 0.3 times that of sse-starlette with an `asyncio.Queue` per client,
  and below that of Node's ``http``.
* Latency at 10 events a second, 99th percentile: at most 1.15 times nchan's. With a tenth of
  the clients stalled, at most 1.2 times what it is for the others without.
* CPU per delivery from 10 to 10,000 clients: within 20 % of that at 1,000.
* A ticker in the event loop is late by less than 20 ms (99th percentile) while events are
  published to 10,000 clients, with `publish` and with `publish_nowait`.

How it is measured:

* CPU time, user and system, of the server's process, to the nanosecond; nginx's worker alone,
  without its master. The kernel's work to hand a chunk to the client's socket is in it: over
  loopback the sender does that.
* The server is pinned to one core; the clients are one C program on another, which looks for
  one byte in what it reads. It measures the latency, too: each event bears the time at which
  it was published. That nothing is missing it knows by counting.
* The publisher is in the server's process, but nchan's, which is told by POST over a
  connection that is kept open. Parsing those is a hundredth of its cost at 1,000 clients.
* Every round has new servers. The order of the sides rotates, and ratios are taken within a
  round: a slow minute of the machine hits both halves.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from _counted import Taken, ask, taken
from _homes import HOME_LABELS
from single_stream import pinned, spread

HERE = Path(__file__).parent
PADDING = "x" * 79

LABELS = {
    **{f"flowstream-{home}": f"flowstream, {name}" for home, name in HOME_LABELS.items()},
    "nchan": "nginx + nchan",
    "node": "Node http",
    "sse-starlette": "sse-starlette, uvicorn+uvloop",
}
OURS = [f"flowstream-{home}" for home in HOME_LABELS]
HOME_BAR = 1.15  # the dearest home, of the cheapest
COLOURS = {
    "flowstream-bare": "#0b6e4f",
    "flowstream-quart": "#2f9e75",
    "flowstream-starlette": "#6bb899",
    "flowstream-fastapi": "#9ccfb8",
    "nchan": "#b5541c",
    "node": "#4666b0",
    "sse-starlette": "#8a5a9e",
}
MODES = {
    "paced": "10 events a second",
    "flat": "flat out",
    "nowait": "flat out by publish_nowait, 16 at a time",
}
RATE = 10
PEERS = {"nchan": 0.95, "sse-starlette": 0.3, "node": 1.0}
BARS = {"paced": PEERS, "flat": PEERS}
ABOUT: dict[str, str] = {}
TAKEN: dict[str, Taken] = {}  # of the last round: which way the deliveries went
NCHAN_MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
NCHAN_CONF = """
daemon off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/error.log warn;
load_module {module};
worker_rlimit_nofile 20000;
events {{ worker_connections 18000; use epoll; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 3600s; send_timeout 3600s;
  client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;
  uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
  nchan_message_buffer_length 1000; nchan_message_timeout 300s;
  nchan_shared_memory_size 256M;
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    location = /publish {{ nchan_publisher; nchan_channel_id events; }}
    location = /events {{ nchan_subscriber eventsource; nchan_channel_id events;
      nchan_subscriber_first_message newest; }}
    location = /past {{ nchan_subscriber eventsource; nchan_channel_id events;
      nchan_subscriber_first_message oldest; }}
  }}
}}
"""


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process and its threads have used, to the nanosecond."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def resident(pid: int) -> int:
    """Return the bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# The server, and who publishes


@dataclass
class Server:
    """One side at work."""

    side: str
    pid: int
    port: int
    about: str

    def publish(
        self, events: int, rate: float = 0, how: str = "publish", ticks: bool = False
    ) -> Any:
        """Publish events, `rate` a second or without a pause; return what the ticker saw."""
        if self.side == "nchan":
            return self._post(events, rate)
        path = f"/publish?events={events}&rate={rate}&how={how}" + "&ticks=1" * ticks
        return ask(self.port, path)

    def _post(self, events: int, rate: float) -> None:
        head = b"POST /publish HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.settimeout(300)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            start = time.monotonic()
            for n in range(events):
                connection.sendall(head + f"{PADDING}{time.monotonic_ns():020d}~".encode())
                answer = connection.recv(1 << 16)
                if not answer.startswith((b"HTTP/1.1 201", b"HTTP/1.1 202")):
                    raise SystemExit(f"nchan answered {answer[:60]!r}")
                if rate:
                    time.sleep(max(0, start + (n + 1) / rate - time.monotonic()))


@contextmanager
def server(side: str) -> Iterator[Server]:
    """Run one side on the first core."""
    with tempfile.TemporaryDirectory() as directory:
        port = 0
        if side == "nchan":
            with socket.create_server(("127.0.0.1", 0)) as probe:
                port = probe.getsockname()[1]
            text = NCHAN_CONF.format(dir=directory, port=port, module=NCHAN_MODULE)
            conf = Path(directory, "nginx.conf")
            conf.write_text(text)
            command = ["nginx", "-p", directory, "-c", str(conf)]
        elif side == "node":
            command = ["node", str(HERE / "_fanout_node.js")]
        else:
            command = [sys.executable, str(HERE / "_fanout_servers.py"), side]
        with pinned(0):
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            if side == "nchan":
                yield Server(side, _worker(process.pid), port, _nginx_version())
            else:
                assert process.stdout is not None
                line = process.stdout.readline()
                if not line:
                    raise SystemExit(f"the server of side {side!r} did not start")
                yield Server(side, process.pid, **json.loads(line))
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
            process.communicate()


def _worker(master: int) -> int:
    """Return the process of nginx that does the work."""
    children = Path(f"/proc/{master}/task/{master}/children")
    for _ in range(100):
        time.sleep(0.05)
        if found := children.read_text().split():
            return int(found[0])
    raise SystemExit("nginx did not start")


def _nginx_version() -> str:
    done = subprocess.run(["nginx", "-v"], stderr=subprocess.PIPE, text=True, check=True)
    return done.stderr.strip().rpartition(" ")[2] + " with nchan"


class Clients:
    """The C program that reads."""

    def __init__(self, program: Path, port: int) -> None:
        with pinned(1):
            self._process = subprocess.Popen(
                [str(program), str(port)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )

    def tell(self, line: str) -> Any:
        """Have it do what `line` says; return its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        return self.answer()

    def answer(self) -> Any:
        """Return its next answer.

        Raises:
            SystemExit: it has ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the clients gave up")
        return json.loads(line)

    @property
    def cpu(self) -> float:
        """Seconds of CPU time that it has used."""
        return cpu_seconds(self._process.pid)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def clients(program: Path, port: int) -> Iterator[Clients]:
    them = Clients(program, port)
    try:
        yield them
    finally:
        them.close()


@dataclass(frozen=True)
class Sample:
    """One measurement."""

    side: str
    mode: str
    clients: int
    deliveries: int
    cpu: float
    """Seconds of CPU time of the server."""
    reader: float
    """Of the clients."""
    wall: float
    p50: float
    p99: float
    """Seconds from publishing to the client's read."""
    growth: float = 0.0
    """Bytes of memory for each client that is stalled."""

    @property
    def micros(self) -> float:
        """Microseconds of CPU per delivery."""
        return self.cpu / self.deliveries * 1e6


def measure(
    at: Server, them: Clients, mode: str, count: int, events: int, rate: float = 0
) -> Sample:
    """Publish `events` to `count` clients that are read, and see what that costs."""
    them.tell(f"expect {events} 120")
    cpu, reader = cpu_seconds(at.pid), them.cpu
    how = mode if mode == "nowait" else "publish"
    at.publish(events - events // 17 if mode == "nowait" else events, rate, how)
    got = them.answer()
    cpu, reader = cpu_seconds(at.pid) - cpu, them.cpu - reader
    if got["short"] or got["events"] < events * count:
        raise SystemExit(f"{at.side}: {got} of {events} events to {count} clients")
    return Sample(
        at.side, mode, count, events * count, cpu, reader, got["wall"], got["p50"], got["p99"]
    )


# The parts


def sweep(side: str, count: int, program: Path, options: argparse.Namespace) -> list[Sample]:
    """Measure one new server with `count` clients, in all ways that it has."""
    samples = []
    with server(side) as at, pinned(1), clients(program, at.port) as them:
        ABOUT[side] = at.about
        # A publisher that hurries for ten clients outruns them: it has to wait for them.
        few = count <= 100
        them.tell(f"open {count} /events" + "?block=1" * few)
        events = max(34, options.deliveries // count // 17 * 17)
        measure(at, them, "warm", count, max(10, events // 4))
        samples.append(measure(at, them, "flat", count, events))
        if side in OURS:
            TAKEN[f"{side}, {count:,} clients"] = taken(at.port)
        if side in OURS and not few:
            samples.append(measure(at, them, "nowait", count, events))
        if count == options.clients:
            paced = int(options.seconds * RATE)
            samples.append(measure(at, them, "paced", count, paced, RATE))
            if side in (*OURS, "nchan"):
                samples.append(with_stalled(at, them, count, paced))
    return samples


def with_stalled(at: Server, them: Clients, count: int, paced: int) -> Sample:
    """Have a tenth of the clients stall, fill what they have of buffers, and measure the rest."""
    stalled = count // 10
    before = resident(at.pid)
    them.tell(f"stall {stalled}")
    # Until the kernel takes no more for them, and their buffers drop what comes.
    measure(at, them, "fill", count - stalled, 2000)
    sample = measure(at, them, "stalled", count - stalled, paced, RATE)
    growth = (resident(at.pid) - before) / stalled
    return replace(sample, growth=growth)


def late(how: str, program: Path, options: argparse.Namespace) -> float:
    """Return the 99th percentile of how late a ticker is while events are published."""
    with server("flowstream-bare") as at, pinned(1), clients(program, at.port) as them:
        them.tell(f"open {options.most} /events")
        measure(at, them, "warm", options.most, 10)
        ticks: list[float] = []
        while len(ticks) < 1000:
            them.tell("expect 34 120")
            ticks += at.publish(34 if how == "publish" else 32, 0, how, ticks=True)
            if them.answer()["short"]:
                raise SystemExit("events are missing")
        return sorted(ticks)[int(len(ticks) * 0.99)]


def compiled(directory: Path) -> Path:
    """Return the clients' program.

    Raises:
        SystemExit: there is no C compiler.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise SystemExit("no C compiler: the clients are a C program, cheaper than any server")
    program = directory / "clients"
    subprocess.run([compiler, "-O2", "-o", program, HERE / "_fanout_client.c"], check=True)
    return program


def available(sides: list[str]) -> list[str]:
    """Return the sides that can run here, and say why the others cannot."""
    usable = []
    for side in sides:
        missing = ""
        if side == "nchan" and not (shutil.which("nginx") and NCHAN_MODULE.exists()):
            missing = "nginx and libnginx-mod-nchan"
        elif side == "node" and not shutil.which("node"):
            missing = "node"
        elif side == "sse-starlette":
            names = ("sse_starlette", "starlette", "uvicorn", "uvloop")
            missing = ", ".join(name for name in names if not find_spec(name))
        if missing:
            print(f"skipped: {LABELS[side]} ({missing} not installed)")
        else:
            usable.append(side)
    return usable


class Report:
    """Prints the tables, and knows which bars are missed."""

    def __init__(self, samples: list[Sample]) -> None:
        self._samples = samples
        self.missed: list[str] = []
        self.figures: dict[str, Any] = {}

    def values(self, side: str, mode: str, count: int, what: str) -> list[float]:
        """Return one figure of one side, a round each."""
        return [
            getattr(s, what)
            for s in self._samples
            if (s.side, s.mode, s.clients) == (side, mode, count)
        ]

    def judge(self, what: str, value: float, bar: float, *, strictly: bool = False) -> str:
        """Return whether a bar is met, in words; remember it if not."""
        met = value < bar if strictly else value <= bar
        if not met:
            self.missed.append(what)
        return f"{'meets' if met else 'MISSES'} the bar of {bar:g}"

    def table(self, mode: str, count: int, what: str, unit: str, scale: float, bars: Any) -> None:
        """Print one figure of all sides, and our ratio to each."""
        rounds = [values for side in OURS if (values := self.values(side, mode, count, what))]
        cheapest = [min(of_round) for of_round in zip(*rounds, strict=True)]
        dearest = [max(of_round) for of_round in zip(*rounds, strict=True)]
        print(f"\n{unit}, {count:,} clients, {MODES[mode]}")
        print(f"{'':32}{'min':>9}{'median':>9}{'max':>9}   ratio")
        for side, label in LABELS.items():
            own = self.values(side, mode, count, what)
            if not own:
                continue
            at = spread([value * scale for value in own])
            line = f"{label:32}{at['min']:9.2f}{at['median']:9.2f}{at['max']:9.2f}"
            figures: dict[str, Any] = {"values": at}
            if rounds:
                if side in OURS:
                    of, bar = "of the cheapest home", HOME_BAR if what == "micros" else None
                    ratio = spread([a / b for a, b in zip(own, cheapest, strict=True)])
                else:
                    of, bar = "dearest home / this", bars.get(side)
                    ratio = spread([a / b for a, b in zip(dearest, own, strict=True)])
                figures["ratio"] = ratio
                line += f"   {ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f}) {of}"
                if bar is not None:
                    name, strictly = f"{what}, {mode}, {side}", side == "node"
                    line += "  " + self.judge(name, ratio["median"], bar, strictly=strictly)
            print(line)
            self.figures[f"{what} {mode} {count} {side}"] = figures

    def stalled(self, count: int) -> None:
        """Print what a tenth of stalled clients does to the others."""
        print("\nwith a tenth of the clients stalled: p99 of the others / p99 without; memory")
        for side in (*OURS, "nchan"):
            with_them = self.values(side, "stalled", count - count // 10, "p99")
            without = self.values(side, "paced", count, "p99")
            if not with_them:
                continue
            ratio = spread([a / b for a, b in zip(with_them, without, strict=True)])
            growth = statistics.median(self.values(side, "stalled", count - count // 10, "growth"))
            line = (
                f"{LABELS[side]:32}{ratio['median']:6.2f} ({ratio['min']:.2f}-{ratio['max']:.2f})"
            )
            line += f"   {growth / 1e3:.0f} KB per stalled client"
            if side in OURS:
                what = f"p99 with stalled clients, {side}"
                line += "  " + self.judge(what, ratio["median"], 1.2)
            print(line)
            self.figures[f"stalled {side}"] = {"ratio": ratio, "growth": growth}

    def curve(self, counts: list[int], reference: int) -> dict[str, list[tuple[int, float]]]:
        """Print and return the cost per delivery by number of clients."""
        print("\nµs of CPU per delivery, flat out, by number of clients (medians)")
        print(f"{'':32}" + "".join(f"{count:>9,}" for count in counts))
        curves = {}
        for side, label in LABELS.items():
            points = [
                (count, statistics.median(values))
                for count in counts
                if (values := self.values(side, "flat", count, "micros"))
            ]
            if len(points) < 2:
                continue
            curves[side] = points
            line = f"{label:32}" + "".join(f"{cost:9.2f}" for _, cost in points)
            if side == "flowstream-bare":
                at = dict(points)
                worst = max(abs(cost / at[reference] - 1) for cost in at.values())
                line += "  " + self.judge("flat curve", worst, 0.2) + f" (off by {worst:.0%})"
            print(line)
        self.figures["curve"] = curves
        return curves


def draw(curves: dict[str, list[tuple[int, float]]], path: Path) -> None:
    """Write the curves as an SVG, one line a side, the clients on a logarithmic scale."""
    width, height, left, right, top, bottom = 720, 400, 60, 190, 50, 50
    counts = sorted({count for points in curves.values() for count, _ in points})
    highest = max(cost for points in curves.values() for _, cost in points)
    step = 5 if highest < 40 else 10
    ceiling = math.ceil(highest / step) * step

    def x(count: float) -> float:
        share = math.log(count / counts[0]) / math.log(counts[-1] / counts[0])
        return left + share * (width - left - right)

    def y(cost: float) -> float:
        return height - bottom - cost / ceiling * (height - top - bottom)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="system-ui, sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="{left}" y="26" font-size="16" fill="#111">'
        "CPU per delivery, by number of clients (µs)</text>",
    ]
    out += [
        f'<path d="M{left} {y(cost):.1f}H{width - right}" stroke="#ddd"/>'
        f'<text x="{left - 8}" y="{y(cost) + 4:.1f}" text-anchor="end" fill="#555">'
        f"{cost}</text>"
        for cost in range(0, ceiling + 1, step)
    ]
    out += [
        f'<text x="{x(count):.1f}" y="{height - bottom + 22}" text-anchor="middle" fill="#555">'
        f"{count:,}</text>"
        for count in counts
    ]
    label_at = math.inf
    for side, points in sorted(curves.items(), key=lambda item: item[1][-1][1]):
        line = " ".join(f"{x(count):.1f},{y(cost):.1f}" for count, cost in points)
        colour, thick = COLOURS[side], 3 if side in OURS else 1.5
        out.append(
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="{thick}"/>'
        )
        out += [
            f'<circle cx="{x(count):.1f}" cy="{y(cost):.1f}" r="{thick + 1}" fill="{colour}"/>'
            for count, cost in points
        ]
        label_at = min(y(points[-1][1]) + 4, label_at - 17)  # from below, none over another
        weight = ' font-weight="bold"' if side in OURS else ""
        out.append(
            f'<text x="{width - right + 12}" y="{label_at:.1f}" fill="{colour}"{weight}>'
            f"{LABELS[side]}</text>"
        )
    path.write_text("\n".join([*out, "</svg>"]) + "\n")


PARTS = ("cost", "scale", "ticker")


def main() -> int:
    """Run the parts, print the tables; 1 if `--check` was asked for and a bar is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--seconds", type=float, default=3, help="of a paced measurement")
    parser.add_argument("--deliveries", type=int, default=170_000, help="of one flat out")
    parser.add_argument("--clients", type=int, default=1000, help="default: 1000")
    parser.add_argument("--most", type=int, default=10_000, help="clients of the curve's end")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["cost"])
    parser.add_argument("--sides", nargs="+", choices=LABELS, default=list(LABELS))
    parser.add_argument("--check", action="store_true", help="exit 1 if a bar is missed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the curve there (SVG)")
    options = parser.parse_args()
    sides = available(options.sides)
    counts = [10, 100, 1000, options.most]
    samples: list[Sample] = []
    report = Report(samples)
    with tempfile.TemporaryDirectory() as directory:
        program = compiled(Path(directory))
        wanted = {options.clients} if "cost" in options.parts else set()
        if "scale" in options.parts:
            wanted |= set(counts)
        for round_ in range(options.rounds if wanted else 0):
            turn = round_ % len(sides)
            for count in sorted(wanted):
                for side in sides[turn:] + sides[:turn]:
                    for sample in sweep(side, count, program, options):
                        samples.append(sample)
                        print(
                            f"round {round_ + 1}/{options.rounds}  {side:22}{sample.clients:7,}"
                            f" {sample.mode:8}{sample.micros:7.2f} µs CPU per delivery, p99"
                            f" {sample.p99 * 1e3:.1f} ms",
                            flush=True,
                        )
        if "cost" in options.parts:
            for mode in ("paced", "flat", "nowait"):
                unit = "µs of CPU per delivery"
                report.table(mode, options.clients, "micros", unit, 1, BARS.get(mode, {}))
            report.table("paced", options.clients, "p50", "latency in ms, median", 1e3, {})
            report.table(
                "paced", options.clients, "p99", "latency in ms, p99", 1e3, {"nchan": 1.15}
            )
            report.stalled(options.clients)
        if "scale" in options.parts:
            curves = report.curve(counts, 1000)
            if options.picture is not None:
                draw(curves, options.picture)
        if "ticker" in options.parts:
            print(
                f"\nlateness of a ticker while {options.most:,} clients are served, p99, "
                "best of the rounds"
            )
            for how in ("publish", "nowait"):
                values = [late(how, program, options) for _ in range(min(options.rounds, 3))]
                value = min(values)  # whoever else runs on this core can only make it later
                report.figures[f"ticker {how}"] = values
                print(f"{how:32}{value * 1e3:6.1f} ms  {report.judge(how, value * 1e3, 20)}")
    print()
    for name, way in TAKEN.items():
        print(f"{name:40}{way}")
    for side, text in ABOUT.items():
        print(f"{side:22} {text}")
    print(f"\nPython {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    if options.json:
        result = {
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "about": ABOUT,
            "taken": {name: asdict(way) for name, way in TAKEN.items()},
            "figures": report.figures,
            "missed": report.missed,
            "samples": [asdict(sample) for sample in samples],
        }
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return int(options.check and bool(report.missed))


if __name__ == "__main__":
    sys.exit(main())
