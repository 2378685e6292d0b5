"""What a delivery costs that came through a log, and what two workers cost beside one.

The bars, with 1,000 clients and 100-byte events over HTTP/1.1, at 10 and at 200 events a second:

* CPU per delivery of a worker whose topic is in a log: at most 1.1 times that of one whose topic is
  in memory, in each of the four homes. An event comes from another process, as it does with
  several workers; the worker hears of it, and from there on it is as one in memory.
* Deliveries per CPU-second of two workers with 500 clients each: at least 0.9 times those of one
  worker with all of them. Each event is read and encoded once a worker, and not once in all.

How it is measured: as `fanout.py` does. The workers are pinned to one core; the clients and the
process that publishes to the log are on another. To memory the worker itself publishes, which is in
its CPU. Every round has new servers, and ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from _counted import Taken, ask, taken
from _homes import HOME_LABELS
from _log_stores import STORES
from fanout import Clients, clients, compiled, cpu_seconds
from single_stream import pinned, spread

HERE = Path(__file__).parent
RATES = (10, 200)  # events a second
LOG_BAR = 1.1
WORKERS_BAR = 0.9


@dataclass(frozen=True)
class Worker:
    """A server's process."""

    pid: int
    port: int
    about: str


@dataclass(frozen=True)
class Sample:
    """One measurement of one or two workers."""

    home: str
    topic: str
    """Where it is: in memory, or in a log."""
    workers: int
    rate: int
    deliveries: int
    cpu: float
    """Seconds, of all workers."""
    p99: float
    """Seconds from publishing to the client's read."""

    @property
    def micros(self) -> float:
        """Microseconds of CPU per delivery."""
        return self.cpu / self.deliveries * 1e6


@contextmanager
def worker(home: str, url: str | None, core: int) -> Iterator[Worker]:
    """Run a server on a core."""
    command = [sys.executable, str(HERE / "_log_delivery_servers.py"), home]
    with pinned(core):
        process = subprocess.Popen(
            command if url is None else [*command, url], stdout=subprocess.PIPE, text=True
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"the server in {home} did not start")
        yield Worker(process.pid, **json.loads(line))
    finally:
        process.kill()
        process.communicate()


def measure(
    workers: list[Worker], readers: list[Clients], publisher: Worker, count: int, rate: int, n: int
) -> tuple[float, float]:
    """Publish `n` events; return the workers' seconds of CPU, and the 99th percentile of latency.

    Raises:
        SystemExit: a client has not got all of them.
    """
    for them in readers:
        them.tell(f"expect {n} 120")
    cpu = sum(cpu_seconds(one.pid) for one in workers)
    ask(publisher.port, f"/publish?events={n}&rate={rate}&how=publish")
    got = [them.answer() for them in readers]
    cpu = sum(cpu_seconds(one.pid) for one in workers) - cpu
    events = sum(one["events"] for one in got)
    if any(one["short"] for one in got) or events < n * count:
        raise SystemExit(f"{got} of {n} events to {count} clients")
    return cpu, max(one["p99"] for one in got)


def run(
    home: str, url: str | None, many: int, program: Path, options: argparse.Namespace
) -> tuple[list[Sample], Taken]:
    """Measure new servers: `many` workers that share the clients."""
    with ExitStack() as stack:
        workers = [stack.enter_context(worker(home, url, 0)) for _ in range(many)]
        publisher = workers[0] if url is None else stack.enter_context(worker(home, url, 1))
        stack.enter_context(pinned(1))
        readers = [stack.enter_context(clients(program, one.port)) for one in workers]
        each = options.clients // many
        for them in readers:
            them.tell(f"open {each} /events")
        measure(workers, readers, publisher, each * many, 20, 10)  # to warm up
        samples = []
        for rate in RATES:
            n = max(10, int(rate * options.seconds))
            cpu, p99 = measure(workers, readers, publisher, each * many, rate, n)
            topic = "memory" if url is None else options.log
            samples.append(Sample(home, topic, many, rate, n * each * many, cpu, p99))
        return samples, taken(workers[0].port)


class Report:
    """Prints ratios, and knows which bars are missed."""

    def __init__(self, samples: list[Sample], log: str) -> None:
        self._log = log
        self.missed: list[str] = []
        self._rounds: dict[tuple[str, str, int, int], list[Sample]] = defaultdict(list)
        for one in samples:
            self._rounds[one.home, one.topic, one.workers, one.rate].append(one)

    def log(self, home: str, rate: int) -> None:
        """Print what a delivery costs through the log, and from memory."""
        over = self._rounds[home, self._log, 1, rate]
        under = self._rounds[home, "memory", 1, rate]
        ratio = spread([a.micros / b.micros for a, b in zip(over, under, strict=True)])
        figures = (spread([one.micros for one in some])["median"] for some in (under, over))
        name = f"{HOME_LABELS[home]}, {rate} events/s"
        line = "{:28}{:9.2f}{:9.2f}".format(name, *figures)
        print(line + self._judged(name, ratio, LOG_BAR))

    def workers(self, home: str, rate: int) -> None:
        """Print what two workers deliver per CPU-second, of what one does."""
        one, two = (self._rounds[home, self._log, many, rate] for many in (1, 2))
        ratio = spread([a.micros / b.micros for a, b in zip(one, two, strict=True)])
        name = f"two workers, {HOME_LABELS[home]}, {rate} events/s"
        print(f"{name:46}" + self._judged(name, ratio, WORKERS_BAR, least=True))

    def _judged(self, name: str, ratio: dict[str, float], bar: float, least: bool = False) -> str:
        met = ratio["median"] >= bar if least else ratio["median"] <= bar
        if not met:
            self.missed.append(name)
        return (
            f"   {ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f})"
            f"  {'meets' if met else 'MISSES'} the bar of {bar:g}"
        )


def main() -> int:
    """Print the tables; 1 if `--check` was asked for and a bar is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--log", choices=STORES, default="sqlite", help="default: sqlite")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--seconds", type=float, default=3, help="of a measurement")
    parser.add_argument("--clients", type=int, default=1000, help="default: 1000")
    parser.add_argument("--homes", nargs="+", choices=HOME_LABELS, default=list(HOME_LABELS))
    parser.add_argument("--check", action="store_true", help="exit 1 if a bar is missed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    options = parser.parse_args()
    samples: list[Sample] = []
    ways: dict[str, Taken] = {}
    kind = STORES[options.log]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        program = compiled(folder)
        with pinned(1):
            store = stack.enter_context(kind(folder, kind.settings[0]))
        sides = [(home, many) for home in options.homes for many in (0, 1)]
        sides.append((options.homes[0], 2))
        for round_ in range(options.rounds):
            turn = round_ % len(sides)
            for home, many in sides[turn:] + sides[:turn]:
                url = store.url if many else None
                found, way = run(home, url, max(many, 1), program, options)
                samples += found
                ways[f"{home}, {f'{many} through {options.log}' if many else 'memory'}"] = way
                for one in found:
                    print(
                        f"round {round_ + 1}/{options.rounds}  {home:10}{one.topic:9}{one.workers}"
                        f" workers {one.rate:4}/s {one.micros:7.2f} µs CPU per delivery,"
                        f" p99 {one.p99 * 1e3:.1f} ms",
                        flush=True,
                    )
    report = Report(samples, options.log)
    print(f"\nµs of CPU per delivery, {options.clients:,} clients: memory, {options.log}, ratio")
    for home in options.homes:
        for rate in RATES:
            report.log(home, rate)
    print("\ndeliveries per CPU-second of the workers, of those of one")
    for rate in RATES:
        report.workers(options.homes[0], rate)
    print()
    for name, way in ways.items():
        print(f"{name:32}{way}")
    print(f"\nPython {platform.python_version()}, {platform.machine()}")
    if options.json:
        result = {"missed": report.missed, "samples": [asdict(one) for one in samples]}
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return int(options.check and bool(report.missed))


if __name__ == "__main__":
    sys.exit(main())
