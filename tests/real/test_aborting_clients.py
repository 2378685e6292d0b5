"""A thousand clients that go away, each at a moment of its own."""

import logging
import os
import random
import socket
import sqlite3
import struct
from collections import Counter
from contextlib import closing

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from flowstream import Block, CloseReason, DropOldest, csv, ndjson, sse

pytestmark = pytest.mark.chaos

CLIENTS = 1000
AT_ONCE = 200
RESET = struct.pack("ii", 1, 0)  # SO_LINGER of 0 seconds: close() sends RST


@pytest.fixture
def rows(tmp_path):
    """A table of 20,000 rows."""
    path = tmp_path / "rows.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("create table t (n integer, text text)")
        connection.executemany(
            "insert into t values (?, ?)", ((n, f"row number {n}") for n in range(20_000))
        )
        connection.commit()
    return path


class App:
    """Streams of three kinds, which count what they open and what they close."""

    def __init__(self, rows):
        self.rows = rows
        self.opened = Counter()
        self.closed = Counter()
        self.reports = []

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return
        made = {
            "/generator": self.generator,
            "/producer": self.producer,
            "/cursor": self.cursor,
        }[scope["path"]]()
        await made(scope, receive, send)

    def generator(self):
        async def numbers():
            self.opened["generator"] += 1
            try:
                n = 0
                while True:
                    yield {"n": n, "text": "x" * (n % 200)}
                    n += 1
                    if not n % 50:
                        await trio.sleep(0.001)
            finally:
                await trio.sleep(0.001)
                self.closed["generator"] += 1

        return ndjson(numbers, policy=DropOldest(), on_close=self.reports.append)

    def producer(self):
        async def produce(out):
            self.opened["producer"] += 1
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trio.sleep_forever)
                    while True:
                        for n in range(200):
                            await out.send(n)
                        await trio.sleep(0.001)
            finally:
                self.closed["producer"] += 1

        return sse(produce, policy=Block(), on_close=self.reports.append)

    def cursor(self):
        def select():
            self.opened["cursor"] += 1
            try:
                with closing(sqlite3.connect(self.rows, check_same_thread=False)) as connection:
                    for _ in range(100):
                        yield from connection.execute("select n, text from t")
            finally:
                self.closed["cursor"] += 1

        return csv(select, on_close=self.reports.append)


async def abort(address, path, count, how):
    """Read `count` bytes of a stream, then go away."""
    client = trio.socket.socket()
    try:
        await client.connect(address)
        await client.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        while count > 0:
            count -= len(await client.recv(min(count, 65536)))
        if how == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        elif how == "half-close":
            client.shutdown(socket.SHUT_WR)
            while await client.recv(65536):
                pass
    finally:
        client.close()


async def test_a_thousand_clients_abort(server, rows, caplog, aeventually):
    """After 1,000 clients left by FIN, RST or half-close, each producer's finally has run, each
    stream has its report, and no task, descriptor, cursor or error is left.
    """
    chance = random.Random(20260701)
    app = App(rows)
    url = await server(app)
    host, _, port = url.removeprefix("http://").partition(":")
    address = (host, int(port))
    plans = [
        (
            path,
            chance.choice([1, chance.randrange(1, 500), chance.randrange(1, 60_000)]),
            chance.choice(["close", "reset", "half-close"]),
        )
        for path in ("/generator", "/producer", "/cursor")
        for _ in range(CLIENTS // 3 + 1)
    ][:CLIENTS]
    chance.shuffle(plans)

    def tasks():
        return trio.lowlevel.current_statistics().tasks_living

    def descriptors():
        return len(os.listdir("/proc/self/fd"))

    await wait_all_tasks_blocked()
    before = tasks(), descriptors()
    limiter = trio.CapacityLimiter(AT_ONCE)

    async def one(plan):
        async with limiter:
            await abort(address, *plan)

    with trio.fail_after(50):
        async with trio.open_nursery() as nursery:
            for plan in plans:
                nursery.start_soon(one, plan)
        await aeventually(lambda: len(app.reports) >= CLIENTS, "a report for each")
        await aeventually(lambda: (tasks(), descriptors()) == before, "tasks and descriptors")
    assert len(app.reports) == CLIENTS
    assert app.opened == app.closed
    assert Counter(report.reason for report in app.reports) == {
        CloseReason.CLIENT_DISCONNECTED: CLIENTS
    }
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
