"""What flowstream's server costs beside plain Hypercorn, whose parts it is made of.

The bar: CPU per request of a `hello` app, and CPU per streamed chunk, both over HTTP/1.1, at
most 5 % above `hypercorn.trio.serve` in the same run. Requests per second on a core that is
full are the same figure, turned over; they are shown, too, but the neighbours on the machine
have their say in them. HTTP/2, TLS and new connections are shown for orientation.

How it is measured:

* Both servers run at once, each in a process of its own, on one core; the one that is not
  asked costs nothing. The client is on another core and cheap: a loop of `recv_into`, or
  h2load for HTTP/2.
* CPU time of the server's process, from its own clock, which counts nanoseconds: so a
  measurement may be short (`--seconds`), and the two of a pair come right after one another,
  in turns who is first. A slow minute of the machine hits both halves of a ratio.
* Two processes of the same program differ by some per cent for as long as they live (where
  their memory lies, how their hashes fall), so every round has new ones.

``--before CHECKOUT`` adds a third side: flowstream as it is in that checkout, such as a worktree
of an older commit. Each of its measurements comes right after one of this checkout, in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from single_stream import pinned

PLAIN = "hypercorn"
OURS = "flowstream"
BEFORE = "before"
CHUNK = b"x" * 1023 + b"~"
HELLO = b"hello, world\n"
CONNECTIONS = 8
BAR = 1.05
BAR_BEFORE = 1.03


@dataclass(frozen=True)
class Case:
    """What is asked of a server, and what one operation of it is."""

    name: str
    unit: str
    tls: bool = False
    http2: bool = False
    barred: bool = False


CASES = (
    Case("hello", "request", barred=True),
    Case("chunks", "chunk", barred=True),
    Case("connect", "connection"),
    Case("hello-tls", "request", tls=True),
    Case("chunks-tls", "chunk", tls=True),
    Case("hello-h2", "request", http2=True),
    Case("chunks-h2", "chunk", http2=True),
    Case("hello-h2-tls", "request", http2=True, tls=True),
    Case("chunks-h2-tls", "chunk", http2=True, tls=True),
)


@dataclass(frozen=True)
class Sample:
    """One measurement of one side."""

    case: str
    side: str
    against: str
    """The other side of the pair that it belongs to."""
    round: int
    turn: int
    operations: int
    cpu: float
    """Seconds of CPU time of the server."""
    wall: float

    @property
    def micros(self) -> float:
        """Microseconds of CPU per operation."""
        return self.cpu / self.operations * 1e6


# The servers


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer ``/`` with a few bytes, and ``/N`` with N chunks of 1 KiB."""
    if scope["type"] != "http":
        raise RuntimeError("HTTP only")
    count = int(scope["path"][1:] or 0)
    headers = [(b"content-type", b"text/plain")]
    if not count:
        headers.append((b"content-length", b"%d" % len(HELLO)))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for _ in range(count):
        await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
    await send({"type": "http.response.body", "body": b"" if count else HELLO})


def serve(side: str, certificate: Path) -> None:
    """Serve on two free ports, plain and TLS, and print them, until killed."""
    import hypercorn.config
    import hypercorn.trio
    import trio

    import flowstream
    from flowstream.server import streaming_config

    ours = side != PLAIN
    config = hypercorn.config.Config()
    if ours:
        try:
            config = streaming_config(h2c=True)
        except TypeError:  # an older checkout, which had it on always
            config = streaming_config()
    config.bind = ["127.0.0.1:0"]
    config.insecure_bind = ["127.0.0.1:0"]
    config.certfile = config.keyfile = str(certificate)
    config.loglevel = "ERROR"
    # Else the server closes the connection of a long HTTP/1.1 measurement.
    config.keep_alive_max_requests = 1 << 62

    async def main() -> None:
        run: Any = flowstream.serve if ours else hypercorn.trio.serve
        async with trio.open_nursery() as nursery:
            addresses = await nursery.start(run, application, config)
            ports = {a.partition(":")[0]: int(a.rpartition(":")[2]) for a in addresses}
            print(json.dumps(ports), flush=True)

    trio.run(main)


@dataclass(frozen=True)
class Server:
    """A server at work."""

    pid: int
    ports: dict[str, int]

    def cpu_seconds(self) -> float:
        """Return the CPU time that its process has used."""
        # What clock_getcpuclockid(3) makes of a process id, on Linux.
        return time.clock_gettime((~self.pid << 3) | 2)

    def port(self, case: Case) -> int:
        """Return where it listens."""
        return self.ports["https" if case.tls else "http"]


@contextmanager
def running(side: str, checkout: Path | None, certificate: Path) -> Iterator[Server]:
    """Run one side, with the flowstream of `checkout` where one is given."""
    command = [sys.executable, __file__, "--serve", side, str(certificate)]
    environment = os.environ | ({"PYTHONPATH": str(checkout)} if checkout else {})
    with pinned(0):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"the server of side {side!r} did not start")
        yield Server(process.pid, json.loads(line))
    finally:
        process.kill()
        process.communicate()


# The clients: each does a number of operations and says how many it did


def connect(case: Case, port: int) -> socket.socket:
    """Return a connection that is ready for a request."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not case.tls:
        return connection
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(connection)


def request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def hello(case: Case, port: int, operations: int) -> int:
    """Ask again and again on a few connections, so that the server never waits for us."""
    turns = max(1, operations // CONNECTIONS)
    ask = request("/")
    connections = [connect(case, port) for _ in range(CONNECTIONS)]
    for connection in connections:
        connection.sendall(ask)
    for turn in range(turns):
        for connection in connections:
            answer = connection.recv(4096)
            while not answer.endswith(HELLO):
                answer += received(connection.recv(4096))
            if turn < turns - 1:
                connection.sendall(ask)
    for connection in connections:
        connection.close()
    return turns * CONNECTIONS


def connections_anew(case: Case, port: int, operations: int) -> int:
    """Ask once on each connection."""
    for _ in range(operations):
        with connect(case, port) as connection:
            connection.sendall(request("/"))
            answer = connection.recv(4096)
            while not answer.endswith(HELLO):
                answer += received(connection.recv(4096))
    return operations


def chunks(case: Case, port: int, operations: int) -> int:
    """Read one stream, as fast as it comes."""
    buffer = bytearray(1 << 18)
    count, tail = 0, b""
    with connect(case, port) as connection:
        connection.sendall(request(f"/{operations}"))
        while not tail.endswith(b"\r\n0\r\n\r\n"):
            size = received(connection.recv_into(buffer))
            count += buffer.count(b"~", 0, size)
            tail = (tail + bytes(buffer[max(0, size - 16) : size]))[-16:]
    if count != operations:
        raise SystemExit(f"{count} chunks came, {operations} were expected")
    return count


def h2load(case: Case, port: int, operations: int) -> int:
    """Have h2load ask: many small requests on a few connections, or one stream."""
    url = f"{'https' if case.tls else 'http'}://127.0.0.1:{port}/"
    command = ["h2load", "-w", "20", "-W", "22"]
    if case.unit == "chunk":
        command += ["-c", "1", "-n", "1", f"{url}{operations}"]
    else:
        command += ["-c", str(CONNECTIONS), "-n", str(operations), "-m", "1", url]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    expected = 1 if case.unit == "chunk" else operations
    size = operations * len(CHUNK) if case.unit == "chunk" else operations * len(HELLO)
    done = re.search(r"(\d+) succeeded", output)
    # "traffic: 1.02MB (1070592) total, ... 1.00MB (1048576) data"
    data = re.search(r"\((\d+)\) data", output)
    if not done or int(done[1]) != expected or not data or int(data[1]) != size:
        raise SystemExit(f"h2load did not get what it asked for:\n{output}")
    return operations


def received(data: Any) -> Any:
    if not data:
        raise SystemExit("the server closed the connection")
    return data


def client(case: Case) -> Callable[[Case, int, int], int]:
    """Return what asks this of a server."""
    if case.http2:
        return h2load
    return {"request": hello, "chunk": chunks, "connection": connections_anew}[case.unit]


# The measurement


def measure(case: Case, server: Server, operations: int) -> tuple[int, float, float]:
    """Return how many operations were done, and what they took of CPU and of time."""
    cpu, wall = server.cpu_seconds(), time.perf_counter()
    with pinned(1):
        done = client(case)(case, server.port(case), operations)
    return done, server.cpu_seconds() - cpu, time.perf_counter() - wall


def a_round(
    number: int,
    cases: list[Case],
    turns: int,
    seconds: float,
    certificate: Path,
    before: Path | None,
) -> Iterator[Sample]:
    """Measure each case in pairs, on new processes: ours and each other side, in turns."""
    others = [PLAIN, BEFORE] if before else [PLAIN]
    with ExitStack() as stack:
        checkouts = {BEFORE: before}
        servers = {
            side: stack.enter_context(running(side, checkouts.get(side), certificate))
            for side in (OURS, *others)
        }
        for case in cases:
            operations = 200
            for side in (*servers, *servers):  # the second time knows how long the first was
                done, cpu, _ = measure(case, servers[side], operations)
                operations = max(200, int(done * seconds / max(cpu, 0.001)))
            for turn in range(turns):
                for other in others:
                    pair = (OURS, other) if (number + turn) % 2 else (other, OURS)
                    for side in pair:
                        done, cpu, wall = measure(case, servers[side], operations)
                        yield Sample(case.name, side, other, number, turn, done, cpu, wall)


def make_certificate(directory: str) -> Path:
    """Return a file with a key and a certificate for localhost."""
    import trustme

    path = Path(directory) / "server.pem"
    certificate = trustme.CA().issue_cert("localhost", "127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(path)
    return path


@dataclass(frozen=True)
class Comparison:
    """What one case costs in flowstream and on another side."""

    ours: float
    """Microseconds of CPU per operation, the median, as the next one."""
    theirs: float
    per_second: tuple[float, float]
    ratio: float
    """The median of the pairs' ratios of CPU: ours to theirs."""
    quartiles: tuple[float, float]
    pairs: int


def compare(samples: list[Sample]) -> Comparison:
    """Return the figures of one case and one other side."""
    ours = {(s.round, s.turn): s for s in samples if s.side == OURS}
    theirs = {(s.round, s.turn): s for s in samples if s.side != OURS}
    ratios = [ours[key].micros / theirs[key].micros for key in sorted(ours)]
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return Comparison(
        statistics.median(s.micros for s in ours.values()),
        statistics.median(s.micros for s in theirs.values()),
        (
            statistics.median(s.operations / s.wall for s in ours.values()),
            statistics.median(s.operations / s.wall for s in theirs.values()),
        ),
        middle,
        (low, high),
        len(ratios),
    )


def summarise(samples: list[Sample]) -> dict[str, dict[str, Comparison]]:
    """Return the figures by the other side, and by the case."""
    groups: dict[str, dict[str, list[Sample]]] = {}
    for sample in samples:
        groups.setdefault(sample.against, {}).setdefault(sample.case, []).append(sample)
    return {
        other: {case: compare(group) for case, group in by_case.items()}
        for other, by_case in groups.items()
    }


def show(summary: dict[str, dict[str, Comparison]]) -> None:
    """Print a table for each other side."""
    for other, by_case in summary.items():
        print(f"\n{'':16}{'µs CPU per operation':>24}{'per second':>20}   flowstream / {other}")
        print(f"{'':16}{'flowstream':>12}{other:>12}{'flowstream':>12}{other:>10}", end="")
        print("   median (quartiles), pairs")
        for name, figures in by_case.items():
            low, high = figures.quartiles
            line = f"{name:16}{figures.ours:12.1f}{figures.theirs:12.1f}"
            line += f"{figures.per_second[0]:12,.0f}{figures.per_second[1]:10,.0f}"
            line += f"   {figures.ratio:.3f} ({low:.3f}-{high:.3f}), {figures.pairs}"
            if (bar := bar_of(name, other)) is not None:
                line += f"  {'meets' if figures.ratio <= bar else 'MISSES'} the bar of {bar}"
            print(line)


def bar_of(name: str, other: str) -> float | None:
    """Return the highest ratio that a case may have to another side."""
    if other == BEFORE:
        return BAR_BEFORE
    return BAR if any(case.barred for case in CASES if case.name == name) else None


def main() -> int:
    """Run the rounds, print the table; 1 if `--check` was asked for and a bar is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = [case.name for case in CASES]
    parser.add_argument("--rounds", type=int, default=5, help="new processes; default: 5")
    parser.add_argument("--turns", type=int, default=8, help="pairs a round and case; default: 8")
    parser.add_argument("--seconds", type=float, default=0.3, help="CPU seconds a measurement")
    parser.add_argument("--cases", nargs="+", choices=names, default=names)
    parser.add_argument("--check", action="store_true", help="exit 1 if a bar is missed")
    parser.add_argument(
        "--before", type=Path, metavar="CHECKOUT", help="compare with the flowstream there, too"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve[0], Path(options.serve[1]))
        return 0
    if options.rounds < 1 or options.turns < 1:
        parser.error("--rounds and --turns must be at least 1")
    cases = [case for case in CASES if case.name in options.cases]
    if not shutil.which("h2load"):
        print("skipped: HTTP/2 (h2load is not on PATH)")
        cases = [case for case in cases if not case.http2]
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory() as directory:
        certificate = make_certificate(directory)
        for number in range(options.rounds):
            samples.extend(
                a_round(number, cases, options.turns, options.seconds, certificate, options.before)
            )
            print(f"round {number + 1}/{options.rounds} done", flush=True)
    summary = summarise(samples)
    show(summary)
    print(f"\nPython {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    if options.json:
        figures = {
            other: {case: asdict(figure) for case, figure in by_case.items()}
            for other, by_case in summary.items()
        }
        result = {"summary": figures, "samples": [asdict(sample) for sample in samples]}
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    missed = [
        (other, case)
        for other, by_case in summary.items()
        for case, figure in by_case.items()
        if (bar := bar_of(case, other)) is not None and figure.ratio > bar
    ]
    return int(options.check and bool(missed))


if __name__ == "__main__":
    sys.exit(main())
