"""Where the logs of `log.py` keep their events: a file, a Valkey, a Postgres, each with its floor.

A floor is what the store itself takes for the least that a log needs of it, asked by the plainest
client there is, in the same run. A log can't be faster; the ratio to it is what the log adds.

The servers are those of the tests, started for the run in a folder of their own, with what they
hold flushed to the disk as the setting says.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import trio

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

Bars = dict[str, tuple[str, float]]
"""``{figure: ("at most" or "at least", bound)}``."""

DATA = b"x" * 100
PIPELINE = 64  # commands that a bare client writes at once

# What holds for every log.
_BARS: Bars = {
    "end to end p99 / p50": ("at most", 3.0),
    "catch-up, events/s": ("at least", 110_000.0),
    "memory of a followed topic, bytes": ("at most", 700.0),
    "killed to first event live, s": ("at most", 1.5),
    "stall to error, s over patience": ("at most", 0.1),
}


def percentile(times: list[float], part: float) -> float:
    """Return a percentile in microseconds."""
    return sorted(times)[min(len(times) - 1, int(len(times) * part))] * 1e6


def timed(call: Callable[[], object], times: int) -> float:
    """Call a function one time after the other; return the p50 of a call, in microseconds."""
    found: list[float] = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return percentile(found, 0.5)


class Store:
    """A place for a log. Use it with ``with``; its methods block.

    Attributes:
        settings: how what it holds reaches the disk; the bars are for the first.
        bars: of the figures.
        ratios: ``{ratio: (figure, figure below the line)}``.
        url: the log's.
        breakable: whether it is a server that can be killed.
    """

    settings: ClassVar[tuple[str, ...]]
    bars: ClassVar[Bars]
    ratios: ClassVar[dict[str, tuple[str, str]]]
    breakable: ClassVar[bool] = True
    url: str

    def __init__(self, folder: Path, setting: str) -> None:
        self.folder = folder
        self.setting = setting
        self.stack = ExitStack()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stack.close()

    def floor(self, times: int) -> dict[str, float]:
        """Return what the store itself takes, of so many calls."""
        raise NotImplementedError

    def more(self, times: int) -> dict[str, float]:
        """Return what is measured of this store alone."""
        return {}

    def kill(self) -> None:
        """Kill the server, as the kernel does for want of memory."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it again; wait until it answers."""
        raise NotImplementedError

    def freeze(self) -> None:
        """Have it stand still."""
        raise NotImplementedError

    def thaw(self) -> None:
        """Have it go on."""
        raise NotImplementedError


class SQLiteStore(Store):
    """A file; the setting is `synchronous`. Its floor is SQLite's own commit of one row."""

    settings = ("FULL", "NORMAL")
    ratios: ClassVar = {"publish / commit": ("publish p50, µs", "commit p50, µs")}
    bars: ClassVar = {
        **_BARS,
        "publish / commit": ("at most", 5.0),
        "64 waiting, 1 topic, events/s": ("at least", 19_000.0),
    }
    breakable = False

    def __init__(self, folder: Path, setting: str) -> None:
        super().__init__(folder, setting)
        self.url = f"sqlite:///{folder}/{setting}.db?synchronous={setting}"

    def floor(self, times: int) -> dict[str, float]:
        """Commit rows by the standard library's `sqlite3`, in a file with the log's settings."""
        db = sqlite3.connect(self.folder / "plain.db", isolation_level=None)
        db.execute("pragma journal_mode=wal")
        db.execute(f"pragma synchronous={self.setting}")
        db.execute("pragma wal_autocheckpoint=4000")
        db.execute(
            "create table if not exists event(pos integer primary key autoincrement, data blob)"
        )

        def commit() -> None:
            db.execute("begin immediate")
            db.execute("insert into event(data) values(?)", (DATA,))
            db.execute("commit")

        found = timed(commit, times)
        db.close()
        return {"commit p50, µs": found}


class ValkeyStore(Store):
    """A Valkey; the setting is `appendfsync`.

    Its floors are a PING by the log's own client, and the processor's time of a client without
    anything around it: a socket of Trio's, hiredis, and a task that reads. It calls a script that
    adds to a stream, one call at a time as the publisher does, and 64 a write.
    """

    settings = ("everysec", "always")
    ratios: ClassVar = {
        "publish / PING": ("publish p50, µs", "PING p50, µs"),
        "publish, CPU / bare client's": ("publish, µs of CPU", "bare client, µs of CPU"),
    }
    bars: ClassVar = {
        **_BARS,
        "publish / PING": ("at most", 2.8),
        "publish, CPU / bare client's": ("at most", 2.0),
        "64 waiting, 1 topic, events/s": ("at least", 35_000.0),
        "64 waiting, 1,000 topics, events/s": ("at least", 18_000.0),
    }

    def __init__(self, folder: Path, setting: str) -> None:
        super().__init__(folder, setting)
        from real_servers.key_value import KeyValueServer

        self._server = self.stack.enter_context(KeyValueServer("valkey", appendfsync=setting))
        self.url = self._server.url

    def floor(self, times: int) -> dict[str, float]:
        """Ask by the log's client, and by one without anything around it."""
        return {"PING p50, µs": trio.run(self._ping, times)} | trio.run(self._bare, times)

    async def _ping(self, times: int) -> float:
        from flowstream.logs.valkey._valkey_client import ValkeyClient
        from flowstream.logs.valkey._valkey_settings import ValkeySettings

        async def ready(connection: object) -> None:
            pass

        client = ValkeyClient(
            ValkeySettings.from_url(self.url),
            ready=ready,
            pushed=lambda message: None,
            lost=lambda: None,
        )
        found: list[float] = []
        async with trio.open_nursery() as nursery:
            await nursery.start(client.run)
            connection = await client.connection()
            for _ in range(times):
                began = time.perf_counter()
                await connection.call("PING")
                found.append(time.perf_counter() - began)
            nursery.cancel_scope.cancel()
        return percentile(found, 0.5)

    async def _bare(self, times: int) -> dict[str, float]:
        import hiredis

        where = urlsplit(self.url)
        reader = hiredis.Reader()
        answers: deque[Any] = deque()
        came = trio.lowlevel.ParkingLot()
        script = (
            "local n = redis.call('INCR', KEYS[1])"
            " redis.call('XADD', KEYS[2], 'MAXLEN', '~', 1000, '*', 'd', ARGV[1])"
            " return {n, n, '0'}"
        )

        async with (
            await trio.open_tcp_stream(where.hostname or "", where.port or 0) as stream,
            trio.open_nursery() as nursery,
        ):

            async def read() -> None:
                while True:
                    reader.feed(await stream.receive_some())
                    while (answer := reader.gets()) is not False:
                        if isinstance(answer, Exception):
                            raise answer
                        answers.append(answer)
                        came.unpark()

            async def ask(data: bytes) -> Any:
                await stream.send_all(data)
                while not answers:
                    await came.park()
                return answers.popleft()

            def command(turn: int) -> bytes:
                token = f"{turn:x}-0123456789abcdef"
                words = ("EVALSHA", sha, 2, "bare:n", "bare:s", DATA, token, 1000, "inf", 1 << 30)
                packed: bytes = hiredis.pack_command(words)
                return packed

            nursery.start_soon(read)
            sha = await ask(hiredis.pack_command(("SCRIPT", "LOAD", script)))
            cpu = time.process_time()
            for turn in range(times):
                await ask(command(turn))
            one = time.process_time() - cpu
            nursery.cancel_scope.cancel()
        with socket.create_connection((where.hostname, where.port)) as connection:
            cpu = time.process_time()
            for turn in range(times):
                connection.sendall(b"".join(command(turn) for _ in range(PIPELINE)))
                for _ in range(PIPELINE):
                    while reader.gets() is False:
                        reader.feed(connection.recv(1 << 16))
            many = time.process_time() - cpu
        return {
            "bare client, µs of CPU": one / times * 1e6,
            f"bare client, {PIPELINE} a write, µs of CPU": many / times / PIPELINE * 1e6,
        }

    def kill(self) -> None:
        self._server.kill()

    def start(self) -> None:
        self._server.start()

    def freeze(self) -> None:
        self._server.freeze()

    def thaw(self) -> None:
        self._server.thaw()


class PostgresStore(Store):
    """A Postgres that flushes each commit.

    Its floor is an INSERT of one row, prepared, by libpq. An outbox is measured beside the same
    transactions without it: 16 clients, 5 ms each, all of one topic.
    """

    settings = ("on",)
    ratios: ClassVar = {
        "publish / INSERT": ("publish p50, µs", "INSERT p50, µs"),
        "outbox / without": ("with outbox, transactions/s", "without, transactions/s"),
    }
    bars: ClassVar = {
        **_BARS,
        "publish / INSERT": ("at most", 3.0),
        "outbox / without": ("at least", 0.4),
        "64 waiting, 1 topic, events/s": ("at least", 27_000.0),
        "64 waiting, 1,000 topics, events/s": ("at least", 6_500.0),
    }

    def __init__(self, folder: Path, setting: str) -> None:
        super().__init__(folder, setting)
        from real_servers.own_postgres import OwnPostgres

        self._server = self.stack.enter_context(
            OwnPostgres(
                fsync="on", full_page_writes="on", shared_buffers="128MB", max_wal_size="4GB"
            )
        )
        self.url = self._server.url
        subprocess.run(
            [Path(sys.executable).with_name("flowstream"), "log", "init"],
            env={**os.environ, "FLOWSTREAM_LOG_URL": self.url},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        self._server.sql("create table plain(id bigint generated always as identity, data bytea)")

    def floor(self, times: int) -> dict[str, float]:
        """Insert rows, each in a transaction of its own."""
        from psycopg import pq

        connection = pq.PGconn.connect(self._server.dsn.encode())
        if connection.status != pq.ConnStatus.OK:
            raise SystemExit(connection.error_message.decode())
        connection.prepare(b"insert", b"insert into plain(data) values($1)", [17])

        def insert() -> None:
            done = connection.exec_prepared(b"insert", [DATA], [1])
            assert done.status == pq.ExecStatus.COMMAND_OK, done.error_message

        found = timed(insert, times)
        connection.finish()
        return {"INSERT p50, µs": found}

    def more(self, times: int) -> dict[str, float]:
        """Run transactions of 16 clients, without an outbox and with one."""
        found = {}
        for name, outbox in (("without", "no"), ("with outbox", "yes")):
            command = [sys.executable, str(HERE / "_log_outbox.py"), self._server.dsn, outbox]
            done = subprocess.run([*command, str(times)], capture_output=True, check=True)
            found[f"{name}, transactions/s"] = json.loads(done.stdout)
        return found

    def kill(self) -> None:
        self._server.crash()

    def start(self) -> None:
        self._server.start()

    def freeze(self) -> None:
        self._server.freeze()

    def thaw(self) -> None:
        self._server.thaw()


STORES: dict[str, type[Store]] = {
    "sqlite": SQLiteStore,
    "valkey": ValkeyStore,
    "postgres": PostgresStore,
}
