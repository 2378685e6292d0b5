"""The supervisor and its workers, as real processes: deaths, signals, and what survives them."""

import contextlib
import re
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from collections import defaultdict
from urllib.parse import urlsplit

import httpx2
import psutil
import pytest
import trio

pytestmark = pytest.mark.chaos

APP = """
    import os, sys, time
    import trio
    from flowstream import sse

    async def feed(out):
        await out.send(f"pid {os.getpid()}")
        number = 0
        while True:
            await out.send(f"number {number}")
            number += 1
            await trio.sleep(0.2)

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            state = scope["state"]["flowstream.workers"]
            await send({"type": "lifespan.startup.complete"})
            await receive()
            sys.stderr.write(f"lifespan ends, one of {state}\\n")  # in one piece
            await send({"type": "lifespan.shutdown.complete"})
        elif scope["path"] == "/feed":
            await sse(feed, on_reconnect="restart")(scope, receive, send)
        elif scope["path"] == "/endless":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while True:
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
                await trio.sleep(0.05)
        else:
            if scope["path"] == "/block":
                print("blocked", file=sys.stderr, flush=True)
                time.sleep(60)
            text = f"{os.getpid()} {scope['state'].get('flowstream.workers')}"
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": text.encode()})
"""


def workers_of(process):
    """Return the worker processes of a supervisor, without those that are yet to be reaped."""
    return {child.pid for child in psutil.Process(process.pid).children() if alive(child.pid)}


def gone(pids):
    return not any(alive(pid) for pid in pids)


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_two_workers_shut_down_in_stages(served, client):
    """SIGTERM: streams hear the farewell in both workers, each one's lifespan ends, exit 0."""
    process = served(APP, "--workers", "2")
    assert len(workers_of(process)) == 2
    assert httpx2.get(process.url).text.endswith(" 2")
    streams = [client(process.url) for _ in range(8)]
    for stream in streams:
        stream.get("/feed")
        stream.read_until(b"number 0")
    process.signal(signal.SIGTERM)
    assert all(b"event: reconnect" in stream.read_all() for stream in streams)
    assert process.wait() == 0
    assert process.log.count("lifespan ends, one of 2") == 2
    assert process.log.count("Running on") == 1
    assert "Traceback" not in process.log


def test_a_stream_has_its_grace_though_the_other_worker_is_idle(served, client):
    """What does not end by itself goes on for --graceful-timeout, whoever else is done."""
    process = served(APP, "--workers", "2", "--graceful-timeout", "1")
    stream = client(process.url)
    stream.get("/endless")
    stream.read_until(b"x")
    start = time.monotonic()
    process.signal(signal.SIGTERM)
    stream.read_all()
    assert time.monotonic() - start > 0.8
    assert process.wait() == 0
    assert process.log.count("lifespan ends") == 2


class Hypercorn:
    """Plain Hypercorn's own command line, with two workers."""

    def __init__(self, source, directory):
        (directory / "plain_app.py").write_text(source)
        (directory / "hypercorn.toml").write_text(
            'worker_class = "trio"\nworkers = 2\nbind = "127.0.0.1:0"\ngraceful_timeout = 30\n'
        )
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hypercorn", "-c", "hypercorn.toml", "plain_app:app"],
            cwd=directory,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid
        self.log = ""
        while self.log.count("Running on") < 2:
            line = self.process.stderr.readline()
            assert line, self.log
            self.log += line
        self.url = re.search(r"http://\S+", self.log)[0]
        # All but multiprocessing's resource tracker.
        self.workers = {
            child.pid
            for child in psutil.Process(self.pid).children()
            if "spawn_main" in " ".join(child.cmdline())
        }

    def end(self):
        """End it, and what it left behind."""
        for pid in (self.pid, *self.workers):
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(pid).kill()
        self.process.wait()
        self.process.stderr.close()


@pytest.fixture
def hypercorn(tmp_path):
    """Run an app under plain Hypercorn with two workers."""
    running = []

    def start(source):
        running.append(Hypercorn(textwrap.dedent(source), tmp_path))
        return running[-1]

    yield start
    for one in running:
        one.end()


def test_hypercorn_cuts_streams_when_another_worker_is_idle(hypercorn, client):
    """The fault: SIGTERM under plain Hypercorn ends a stream in a fraction of its 30 s."""
    process = hypercorn(APP.replace('["flowstream.workers"]', '.get("flowstream.workers")'))
    stream = client(process.url, timeout=20)
    stream.get("/endless")
    stream.read_until(b"x")
    process.process.send_signal(signal.SIGTERM)
    stream.read_all()
    _, log = process.process.communicate(timeout=20)
    assert log.count("lifespan ends") < 2


def test_hypercorn_leaves_orphans(hypercorn, eventually):
    """The fault: with its master killed, a worker of plain Hypercorn serves on and on."""
    process = hypercorn(APP.replace('["flowstream.workers"]', '.get("flowstream.workers")'))
    process.process.kill()
    process.process.wait()
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        assert httpx2.get(process.url).status_code == 200
    assert not gone(process.workers)


def test_workers_end_with_their_supervisor(served, client, eventually):
    """kill -9 of the supervisor: its workers are gone soon, though the grace is long, and one that
    hangs is gone, too.
    """
    process = served(APP, "--workers", "2", "--graceful-timeout", "300")
    workers = workers_of(process)
    stream, hung = client(process.url), client(process.url)
    stream.get("/endless")
    stream.read_until(b"x")
    hung.get("/block")
    eventually(lambda: "blocked" in process.log, "a worker hangs")
    process.signal(signal.SIGKILL)
    eventually(lambda: gone(workers), "the workers have ended", timeout=30)
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(process.url)


def test_a_worker_that_hangs_is_killed_at_the_deadline(tmp_path, served, client, eventually):
    """A blocked event loop cannot hold up the end: it is killed, and the exit status says so."""
    (tmp_path / "c.toml").write_text("graceful_timeout = 0.2\nshutdown_timeout = 0.2\n")
    process = served(APP, "--workers", "2", "--config", "c.toml")
    client(process.url).get("/block")
    eventually(lambda: "blocked" in process.log, "a worker hangs")
    process.signal(signal.SIGTERM)
    assert process.wait() == 1
    assert re.search(r"Error: worker \d+ did not end in time: killed", process.log)
    assert process.log.count("lifespan ends") == 1


def test_a_second_signal_kills_at_once(served, client, eventually):
    """A second SIGINT does not wait for the grace of the first."""
    process = served(APP, "--workers", "2", "--graceful-timeout", "60")
    workers = workers_of(process)
    stream = client(process.url)
    stream.get("/endless")
    stream.read_until(b"x")
    process.signal(signal.SIGINT)
    eventually(lambda: len(workers_of(process)) == 1, "the idle worker has ended")
    process.signal(signal.SIGINT)
    assert process.wait(10) == 1
    assert gone(workers)


def test_signals_to_a_worker_itself(served, client, eventually):
    """A worker takes SIGTERM twice for once, as systemd sends it; another takes its place."""
    process = served(APP, "--workers", "2", "--graceful-timeout", "30")
    stream = client(process.url)
    stream.get("/feed")
    worker = int(re.search(rb"pid (\d+)", stream.read_until(b"number 0"))[1])
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP):
        psutil.Process(worker).send_signal(number)
    assert b"event: reconnect" in stream.read_all()
    eventually(lambda: worker not in workers_of(process), "it has ended")
    eventually(lambda: len(workers_of(process)) == 2, "another one has its place")
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert "has ended with status 0: another one starts" in process.log


class Reader:
    """One SSE stream, read to its end."""

    def __init__(self, port):
        self.port = port
        self.text = ""
        self.ended = False

    async def read(self, *headers):
        request = "\r\n".join(["GET /feed HTTP/1.1", "Host: a", *headers, "", ""])
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        async with stream:
            await stream.send_all(request.encode())
            try:
                async for data in stream:
                    self.text += data.decode()
            except trio.BrokenResourceError:
                pass
        self.ended = True

    @property
    def pid(self):
        found = re.search(r"pid (\d+)", self.text)
        return found and int(found[1])

    @property
    def numbers(self):
        return [int(number) for number in re.findall(r"number (\d+)", self.text)]

    @property
    def last_id(self):
        return re.findall(r"^id: (\S+)", self.text, re.MULTILINE)[-1]


async def test_a_killed_worker_under_200_streams(served, aeventually):
    """The other worker's streams have no gap, it is replaced, and who comes back is served."""
    process = served(APP, "--workers", "2")
    port = urlsplit(process.url).port
    readers = [Reader(port) for _ in range(200)]
    async with trio.open_nursery() as nursery:
        for reader in readers:
            nursery.start_soon(reader.read)
        await aeventually(lambda: all(r.numbers for r in readers), "200 streams", timeout=30)
        spread = defaultdict(list)
        for reader in readers:
            spread[reader.pid].append(reader)
        assert len(spread) == 2, {pid: len(group) for pid, group in spread.items()}
        (victim, cut), (_, others) = spread.items()

        psutil.Process(victim).kill()
        await aeventually(lambda: all(r.ended for r in cut), "the streams of the dead end")
        seen = {reader: len(reader.numbers) for reader in others}
        back = [Reader(port) for _ in cut]
        for old, new in zip(cut, back, strict=True):
            nursery.start_soon(new.read, f"Last-Event-ID: {old.last_id}")
        await aeventually(lambda: all(r.numbers for r in back), "all are served", timeout=30)
        await aeventually(lambda: len(workers_of(process)) == 2, "another worker", timeout=20)
        await aeventually(
            lambda: all(len(r.numbers) > seen[r] + 5 for r in others), "they go on", timeout=30
        )
        nursery.cancel_scope.cancel()
    for reader in others:
        assert not reader.ended
        assert reader.numbers == list(range(len(reader.numbers)))
    assert f"worker {victim} was killed by SIGKILL: another one starts in 0.1 s" in process.log


def test_no_connection_is_lost_while_workers_are_replaced(served, eventually):
    """SIGHUP under a load of new connections: each is taken, and has its answer."""
    process = served(APP, "--workers", "2")
    before = workers_of(process)
    address = urlsplit(process.url).hostname, urlsplit(process.url).port
    stop, faults, answers = threading.Event(), [], defaultdict(int)

    def load(pause):
        while not stop.is_set():
            try:
                with socket.create_connection(address, timeout=20) as sock:
                    if pause:
                        stop.wait(pause)  # a request that comes a while after its connection
                    sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                    data = b""
                    while more := sock.recv(4096):
                        data += more
                assert data.startswith(b"HTTP/1.1 200"), data
                answers[int(re.search(rb"(\d+) 2", data.partition(b"\r\n\r\n")[2])[1])] += 1
            except Exception as error:  # noqa: BLE001  # whatever a client would see
                faults.append(repr(error))

    threads = [threading.Thread(target=load, args=(p,)) for p in (0, 0, 0, 0.01, 0.05, 0.3)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: before <= set(answers), "both workers are at work")
        for count in (1, 2):
            process.signal(signal.SIGHUP)
            eventually(
                lambda count=count: process.log.count("workers have been replaced") == count,
                "the workers are replaced",
                timeout=30,
            )
        eventually(lambda: len(workers_of(process)) == 2, "the old ones have ended")
        after = workers_of(process)
        eventually(lambda: after <= set(answers), "the new ones are at work")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not faults, faults[:5]
    assert not before & after
    assert sum(answers.values()) > 200


def test_workers_speak_tls(command, tmp_path, certificate, authority, eventually):
    """Certificate, address and access log of the command line reach the workers."""
    tls = [part for name, path in certificate.items() for part in (f"--{name}", path)]
    (tmp_path / "an_app.py").write_text(textwrap.dedent(APP))
    process = command(
        *("serve", "an_app", "-w", "2", "-b", "127.0.0.1:0", "--access-log", "access.log"),
        *(*tls, "--readyz", "/readyz"),
    )
    found = eventually(lambda: re.search(r"Running on (https://\S+)", process.log), "it runs")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    assert httpx2.get(f"{found[1]}/readyz", verify=context).text == "ready\n"
    assert httpx2.get(found[1], verify=context).text.endswith(" 2")
    eventually(lambda: "GET /readyz" in (tmp_path / "access.log").read_text(), "it is logged")


def test_a_successor_that_fails_changes_nothing(served, tmp_path, eventually):
    """SIGHUP with code that does not start: the log says so, and the old workers serve on."""
    process = served(APP, "--workers", "2")
    before = workers_of(process)
    (tmp_path / "served_app.py").write_text("raise RuntimeError('half a deployment')\n")
    process.signal(signal.SIGHUP)
    eventually(lambda: "the workers stay as they are" in process.log, "the log says so")
    assert "'served_app' cannot be served: RuntimeError: half a deployment" in process.log
    eventually(lambda: workers_of(process) == before, "the old workers are there")
    assert httpx2.get(process.url).status_code == 200


@pytest.mark.parametrize(
    ("source", "error", "trace"),
    [
        ("import not_there", "'an_app' cannot be served: ModuleNotFoundError", True),
        ("def f(:", "'an_app' cannot be served: SyntaxError", True),
        ("pp = 1", "there is no 'app' in 'an_app'", False),
        (
            "async def app(scope, receive, send):\n    await receive()\n"
            "    await send({'type': 'lifespan.startup.failed', 'message': 'no database'})\n",
            "no database",
            False,
        ),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL", False),
    ],
)
def test_an_app_that_does_not_start(command, tmp_path, source, error, trace):
    """At the first start a worker's failure ends everything: one error, the app's traceback."""
    (tmp_path / "an_app.py").write_text(source + "\n")
    process = command("serve", "an_app", "-w", "2", "-b", "127.0.0.1:0")
    assert process.wait() == 1
    (line,) = [line for line in process.lines if line.startswith("Error: ")]
    assert error in line
    assert ("an_app.py" in process.log and "line 1" in process.log) == trace
    assert "flowstream/" not in process.log
    assert "Running on" not in process.log
