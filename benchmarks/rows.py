"""Rows of a database: a real table streamed to a client, against a plain loop to a file.

336,776 flights of 19 columns, out of SQLite and out of Postgres. The bars, in
each of four homes:

* at least 60 % of the rows per second of ``for row in cursor: file.write(json(row))``;
* at most 1 µs a row more CPU than that loop, in the thread of the event loop;
* no stall of the event loop over 20 ms meanwhile, by a task that wakes every five (that
  of an idle server, just before and for as long, is shown beside it: it is the machine's);
* resident memory grows by less than 10 MB, whether the client is fast, slow or stalled;
* a client that goes has its query, cursor and transaction ended within 50 ms, as the database
  itself sees it, and be it that the query computes.

The loop is given msgspec, as ours is: with the `json` of the standard library, which is
shown beside it, it takes twice as long. Both read 500 rows at a time from Postgres, through a
cursor on the server. Ours goes through the real server, over HTTP/1.1, to ``curl | wc -l``; each
row of the table is a line, and the count is checked.

Each round runs the sides one after the other, and a ratio is between two of one round. The loop
has the machine to itself, the server shares it with its client; the other homes' servers sleep.
Memory is measured once in each home, in one round or another.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import psycopg
from _counted import ask
from _flights import CACHE, FLIGHTS, archive, into_postgres, into_sqlite
from _homes import HOME_LABELS, HOMES

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests" / "sources"))
from _postgres import postgres_server  # noqa: E402  # the tests' own server, or theirs

SIDES = HERE / "_rows_sides.py"
LIBRARIES = ("msgspec", "json")
BARS = {"speed": 0.6, "cpu": 1.0, "stall": 20.0, "memory": 10.0, "abort": 50.0}
ABORTS = (
    "sqlite",
    "sqlite/computing",
    "postgres",
    "postgres/computing",
    "postgres/asleep/computing",
)


@dataclass(frozen=True)
class Sample:
    """One reading of the whole table by one side."""

    database: str
    side: str
    round: int
    per_second: float
    """Rows."""
    cpu: float
    """Microseconds a row, of the loop's thread or of the event loop's."""
    stall: float = 0.0
    """Milliseconds of the longest stall of the event loop."""
    idle: float = 0.0
    """The same, of an event loop that had nothing to do."""


class Server:
    """Ours in one home, in a process."""

    def __init__(self, home: str, database: Path, dsn: str) -> None:
        self.home = home
        self.process = subprocess.Popen(
            [sys.executable, str(SIDES), home, str(database), dsn],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.port = json.loads(self.process.stdout.readline())["port"]

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()

    def memory(self) -> float:
        """Return its resident memory in MB."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def ask(self, path: str) -> socket.socket:
        """Return a connection that has sent a request."""
        connection = socket.create_connection(("127.0.0.1", self.port))
        connection.settimeout(60)
        head = f"GET /{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode())
        return connection

    def figures(self, *, watch: bool = False) -> dict[str, Any]:
        """Return what its event loop has spent, and how long it was held up since the last."""
        return dict(ask(self.port, "/figures?watch=1" if watch else "/figures"))


def count_rows(connection: socket.socket, *, pause: Callable[[int], None] = lambda _: None) -> int:
    """Read to the end; return how many rows came."""
    buffer = bytearray(1 << 18)
    rows, tail = 0, b""
    while size := connection.recv_into(buffer):
        rows += buffer.count(b"}\n", 0, size)
        # A row's end may lie across two reads.
        rows += tail == b"}" and buffer[:1] == b"\n"
        tail = bytes(buffer[size - 1 : size])
        pause(size)
    return rows


def curl(url: str) -> int:
    """Return how many lines curl got; a client in Python would be the slower of the two."""
    with subprocess.Popen(["curl", "-sN", url], stdout=subprocess.PIPE) as fetching:
        counted = subprocess.run(
            ["wc", "-l"], stdin=fetching.stdout, check=True, capture_output=True
        )
    if fetching.returncode:
        raise SystemExit(f"curl ended with {fetching.returncode}")
    return int(counted.stdout)


def warm_up(server: Server, database: str) -> None:
    """Read some megabytes, so that what is made once is there, and leave."""
    with server.ask(database) as connection:
        got = 0
        while got < 10_000_000 and (data := connection.recv(1 << 18)):
            got += len(data)


def read_ours(server: Server, database: str, round_: int) -> Sample:
    server.figures(watch=True)
    time.sleep(1)
    before = server.figures(watch=True)
    started = time.perf_counter()
    rows = curl(f"http://127.0.0.1:{server.port}/{database}")
    wall = time.perf_counter() - started
    after = server.figures()
    check_count(rows, database)
    cpu = (after["cpu"] - before["cpu"]) / rows * 1e6
    stall, idle = after["worst"] * 1e3, before["worst"] * 1e3
    return Sample(database, server.home, round_, rows / wall, cpu, stall, idle)


def run_loop(database: str, place: str, library: str, round_: int, directory: Path) -> Sample:
    command = [sys.executable, str(SIDES), "loop", place, library, str(directory / "rows")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    took = json.loads(done.stdout)
    check_count(took["rows"], database)
    rows = took["rows"]
    return Sample(database, library, round_, rows / took["wall"], took["cpu"] / rows * 1e6)


def check_count(rows: int, database: str) -> None:
    if rows != FLIGHTS:
        raise SystemExit(f"{rows} rows came from {database}, {FLIGHTS} were expected")


def growth(server: Server, database: str, client: str) -> float:
    """Return by how many MB the server's memory grows at most while it serves one client."""
    before = peak = server.memory()
    started = time.perf_counter()
    with server.ask(database) as connection:
        if client == "stalled":
            while time.perf_counter() - started < 2:
                peak = max(peak, server.memory())
                time.sleep(0.02)
            return peak - before
        read, looked = 0, started

        def pause(size: int) -> None:
            nonlocal read, looked, peak
            read += size
            if time.perf_counter() - looked > 0.02:
                looked = time.perf_counter()
                peak = max(peak, server.memory())
            if client == "slow":  # 20 MB/s, a fifth of what it could have
                ahead = read / 20e6 - (time.perf_counter() - started)
                if ahead > 0:
                    time.sleep(ahead)

        check_count(count_rows(connection, pause=pause), database)
    return max(peak, server.memory()) - before


@contextlib.contextmanager
def watching(database: Path, dsn: str, path: str) -> Iterator[Callable[[], bool]]:
    """Give a function that asks the database whether somebody reads it."""
    if path.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(database, timeout=0)) as connection:

            def is_read() -> bool:
                try:
                    connection.execute("BEGIN EXCLUSIVE")  # which it allows if nobody reads
                except sqlite3.OperationalError:
                    return True
                connection.rollback()
                return False

            yield is_read
        return
    with psycopg.connect(dsn, autocommit=True) as connection:

        def is_connected() -> bool:
            query = (
                "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
                " AND pid <> pg_backend_pid() AND xact_start IS NOT NULL"
            )
            row = connection.execute(query).fetchone()
            return row is not None and bool(row[0])

        yield is_connected


def abort(server: Server, database: Path, dsn: str, path: str) -> float:
    """Return how many ms after its client went a query was over, as the database sees it."""
    with watching(database, dsn, path) as busy:
        with server.ask(path):
            while not busy():
                time.sleep(0.001)
            time.sleep(0.5)
        started = time.perf_counter()
        while busy():
            time.sleep(0.0005)
        return (time.perf_counter() - started) * 1e3


def spread(values: list[float]) -> tuple[float, float, float]:
    return min(values), statistics.median(values), max(values)


def show(title: str, values: list[float], bar: str, *, least: bool = False) -> bool:
    """Print one line; return whether the median meets its bar."""
    low, median, high = spread(values)
    met = median >= BARS[bar] if least else median <= BARS[bar]
    verdict = f"{'meets' if met else 'MISSES'} the bar of {BARS[bar]:g}"
    print(f"{title:58}{median:9.2f}  ({low:.2f} to {high:.2f})  {verdict}")
    return met


def report(
    homes: list[str],
    samples: list[Sample],
    memory: dict[str, list[float]],
    aborts: dict[str, list[float]],
) -> bool:
    """Print all figures; return whether every bar is met."""
    met = []
    for database in ("sqlite", "postgres"):
        own = {
            side: [s for s in samples if (s.database, s.side) == (database, side)]
            for side in (*LIBRARIES, *homes)
        }
        print(f"\n{database:20}{'rows/s':>12}{'µs CPU a row':>16}   (medians)")
        for side, taken in own.items():
            label = HOME_LABELS.get(side, f"loop with {side}")
            rate, cpu = (
                statistics.median(getattr(s, n) for s in taken) for n in ("per_second", "cpu")
            )
            print(f"  {label:18}{rate:12,.0f}{cpu:16.2f}")
        for home, library in product(homes, LIBRARIES):
            pairs = list(zip(own[home], own[library], strict=True))
            speed = [ours.per_second / loop.per_second for ours, loop in pairs]
            more = [ours.cpu - loop.cpu for ours, loop in pairs]
            name = f"  {HOME_LABELS[home]}, "
            met.append(show(f"{name}speed, of the loop with {library}", speed, "speed", least=True))
            met.append(show(f"{name}µs a row more than the loop with {library}", more, "cpu"))
        for home in homes:
            stalls = [s.stall for s in own[home]]
            met.append(show(f"  {HOME_LABELS[home]}, longest stall in ms", stalls, "stall"))
        low, median, high = spread([s.idle for home in homes for s in own[home]])
        print(f"{'  the same, of idle servers':58}{median:9.2f}  ({low:.2f} to {high:.2f})")
    print("\nmemory, MB more")
    met += [show(f"  {name}", values, "memory") for name, values in memory.items()]
    print("\nms from a client's end to the query's, in the database's eyes")
    met += [show(f"  {name}", values, "abort") for name, values in aborts.items()]
    return all(met)


def main() -> int:
    """Run the rounds, print the figures; 1 if `--check` was asked for and a bar is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--homes", nargs="+", choices=HOMES, default=list(HOMES))
    parser.add_argument("--archive", type=Path, default=CACHE, help="directory of the archive")
    parser.add_argument("--check", action="store_true", help="exit 1 if a bar is missed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    source = archive(options.archive)
    samples: list[Sample] = []
    memory: dict[str, list[float]] = {}
    aborts: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name, postgres_server() as dsn:
        directory = Path(name)
        table = directory / "flights.sqlite"
        into_sqlite(source, table)
        into_postgres(source, dsn)
        places = {"sqlite": str(table), "postgres": dsn}
        with contextlib.ExitStack() as stack:
            servers = [
                stack.enter_context(contextlib.closing(Server(home, table, dsn)))
                for home in options.homes
            ]
            for server, database in product(servers, places):
                warm_up(server, database)
            for round_ in range(options.rounds):
                turn = round_ % len(servers)
                for database, place in places.items():
                    samples += [
                        run_loop(database, place, one, round_, directory) for one in LIBRARIES
                    ]
                    samples += [
                        read_ours(server, database, round_)
                        for server in servers[turn:] + servers[:turn]
                    ]
                for server in servers[round_ :: options.rounds]:
                    for database, client in product(places, ("fast", "slow", "stalled")):
                        grown = growth(server, database, client)
                        name = f"{HOME_LABELS[server.home]}, {database}, {client} client"
                        memory.setdefault(name, []).append(grown)
                for server, path in product(servers, ABORTS):
                    took = abort(server, table, dsn, path)
                    aborts.setdefault(f"{HOME_LABELS[server.home]}, {path}", []).append(took)
                print(f"round {round_ + 1} of {options.rounds}", file=sys.stderr)
        met = report(options.homes, samples, memory, aborts)
    print(f"\nPython {platform.python_version()}, psycopg {psycopg.__version__}")
    if options.json:
        written = {"rows": [asdict(s) for s in samples], "memory": memory, "aborts": aborts}
        options.json.write_text(json.dumps(written, indent=1))
    return 0 if met or not options.check else 1


if __name__ == "__main__":
    sys.exit(main())
