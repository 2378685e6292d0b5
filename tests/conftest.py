"""Shared fixtures: servers on real sockets, in the test's own Trio run and in a process."""

import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from urllib.parse import urlsplit

import pytest
import trio
from real_servers.programs import missing

import flowstream
from flowstream.server import streaming_config

pytest_plugins = ["real_servers.fixtures"]

# Hypercorn's own logger does not propagate; to this one it writes where `caplog` looks.
SERVER_LOG = logging.getLogger("tests.server")


def pytest_configure():
    """Have the tests' programs hear signals, also when the suite was started with them ignored.

    A shell that starts a job in the background ignores SIGINT for it, and `nohup` ignores SIGHUP;
    what is ignored stays so in the programs that a test starts (`signal(7)`).
    """
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, usual)


# Files that take ten seconds and more. They go first: the last one to begin is waited for alone.
LONG = (
    "test_fast_path.py",
    "test_direct_writes_exact.py",
    "test_docs.py",
    "test_cli_logs.py",
    "test_stopping.py",
    "test_stall_bound.py",
    "test_spool.py",
    "test_lazy_names.py",
    "test_docs_live.py",
    "test_examples.py",
    "test_write_deadline.py",
    "test_ledger.py",
    "test_ledger_sockets.py",
    "test_log_ledger.py",
    "test_runs_ledger.py",
    "test_sqlite_processes.py",
    "test_log_contracts.py",
    "test_chaos.py",
    "test_brokers.py",
    "test_fuzz_server.py",
    "test_fuzz_faults.py",
    "test_supervisor.py",
    "test_workers.py",
    "test_watchdog.py",
    "test_browser.py",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Have the files that take long begin first, and leave the order of all others as it is."""
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(scope="session")
def downloads(pytestconfig, tmp_path_factory):
    """Return a function that gives a folder for what is fetched once, by its name.

    It lasts as long as pytest's cache, or for this run where there is none.
    """
    cache = getattr(pytestconfig, "cache", None)
    if cache is not None:
        return cache.mkdir
    folder = tmp_path_factory.mktemp("downloads")

    def made(name):
        (folder / name).mkdir(exist_ok=True)
        return folder / name

    return made


@pytest.fixture
async def server():
    """Serve apps on free ports of 127.0.0.1 inside the test's Trio run.

    ``url = await server(app, **settings)``, where settings are those of Hypercorn. At the end
    the servers shut down as if they had been told to. Unless told otherwise they take HTTP/2
    without TLS, which many tests speak.
    """
    stop = trio.Event()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def start(app, **settings):
                async def serving(task_status):
                    await flowstream.serve(
                        app,
                        streaming_config(
                            bind=["127.0.0.1:0"],
                            **{
                                "errorlog": SERVER_LOG,
                                "graceful_timeout": 1.0,
                                "h2c": True,
                                **settings,
                            },
                        ),
                        shutdown_trigger=stop.wait,
                        task_status=task_status,
                    )

                (url,) = await nursery.start(serving)
                return url

            yield start
            stop.set()
            scope.deadline = trio.current_time() + 10
    assert not scope.cancelled_caught, "a server did not end within 10 s of being told to"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Have what a test logged be text that one process can send another, whatever was in it."""
    report = yield
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections
    ]
    return report


@pytest.fixture(autouse=True)
def _no_apps_of_others():
    """Forget apps that want a log and are not served: they are of other tests."""
    yield
    if module := sys.modules.get("flowstream.topics._app_log"):
        module._wishes.clear()


class ServerProcess:
    """``flowstream serve`` in a process of its own.

    Attributes:
        url: where it listens.
        pid: its process id.
        lines: what it has written to stderr so far.
    """

    def __init__(self, arguments, cwd):
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from flowstream.cli import main; main()", *arguments],
            cwd=cwd,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid
        self.lines = []
        self.url = None
        self._listening = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        with self.process.stderr as stderr:
            for line in stderr:
                self.lines.append(line)
                if found := re.search(r"Running on (http://\S+)", line):
                    self.url = found[1]
                    self._listening.set()
        self._listening.set()

    def wait_listening(self):
        """Wait until it listens."""
        assert self._listening.wait(20), "the server does not listen"
        assert self.url is not None, self.log

    @property
    def log(self):
        """What it has written to stderr."""
        return "".join(self.lines)

    def signal(self, number):
        """Send it a signal."""
        self.process.send_signal(number)

    def wait(self, timeout=20):
        """Wait for its end and return its exit code."""
        code = self.process.wait(timeout)
        self._reader.join(5)
        return code

    def end(self):
        """End it, if it still runs."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
            try:
                self.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.wait()


@pytest.fixture
def served(tmp_path):
    """Serve the source text of an app from a process: ``served(source)`` is a `ServerProcess`.

    The name of the app in the source is ``app``; the process runs in `tmp_path`.
    """
    running = []

    def start(source, *options):
        (tmp_path / "served_app.py").write_text(textwrap.dedent(source))
        running.append(
            ServerProcess(["serve", "served_app", "--bind", "127.0.0.1:0", *options], tmp_path)
        )
        running[-1].wait_listening()
        return running[-1]

    yield start
    for process in running:
        process.end()


@pytest.fixture
def command(tmp_path):
    """Start the command line in a process: ``command("demo", ...)`` is a `ServerProcess`."""
    running = []

    def start(*arguments, cwd=tmp_path):
        running.append(ServerProcess(arguments, cwd))
        return running[-1]

    yield start
    for process in running:
        process.end()


@pytest.fixture
def program():
    """Return the path of a program, ``program("curl")``; without it the test is skipped.

    Where CI is set, it fails instead: there, nothing is left out without being noticed.
    """

    def find(*names):
        for name in names:
            if path := shutil.which(name):
                return path
        return missing(f"{' or '.join(names)} is not on PATH")

    return find


@pytest.fixture
def in_chromium(program):
    """Use a page of headless Chromium: ``await in_chromium(use)`` returns what ``use(page)`` does.

    All of it in one thread, which Playwright's objects belong to, in `patience` seconds at most.
    """
    from playwright import sync_api

    path = program("chromium", "chromium-browser", "google-chrome")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]

    def session(use):
        with sync_api.sync_playwright() as p:
            browser = p.chromium.launch(executable_path=path, args=flags)
            try:
                return use(browser.new_page())
            finally:
                browser.close()

    async def run(use, *, patience=40):
        with trio.fail_after(patience):
            return await trio.to_thread.run_sync(session, use, abandon_on_cancel=True)

    return run


class Client:
    """A plain socket that speaks HTTP as badly as it is told to."""

    def __init__(self, url, *, timeout=10.0, receive_buffer=None):
        address = urlsplit(url)
        self.socket = socket.socket()
        self.socket.settimeout(timeout)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect((address.hostname, address.port))

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.socket.close()

    def get(self, path="/", *headers, version="1.1", method="GET"):
        """Send a request without a body."""
        lines = [f"{method} {path} HTTP/{version}", "Host: localhost", *headers, "", ""]
        self.send("\r\n".join(lines).encode("latin-1"))

    def send(self, data):
        """Send all of `data`."""
        self.socket.sendall(data)

    def read_until(self, mark, *, limit=1 << 22):
        """Return what comes, up to the first `mark` and perhaps beyond it."""
        data = b""
        while mark not in data:
            more = self.socket.recv(65536)
            assert more, f"the connection ended before {mark!r}: {data!r}"
            data += more
            assert len(data) < limit, f"no {mark!r} in {limit} bytes"
        return data

    def read_all(self):
        """Return what comes until the connection ends, in whichever way."""
        data = b""
        try:
            while more := self.socket.recv(65536):
                data += more
        except ConnectionResetError:
            pass
        return data


@pytest.fixture
def client():
    """Connect plain sockets: ``client(url)`` is a `Client`, closed at the test's end."""
    opened = []

    def connect(url, **options):
        opened.append(Client(url, **options))
        return opened[-1]

    yield connect
    for one in opened:
        one.socket.close()


@pytest.fixture
def clean_log(caplog):
    """Fail the test if anything at ERROR or above, or a traceback, was logged."""
    yield caplog
    bad = [
        record
        for record in caplog.get_records("call")
        if record.levelno >= logging.ERROR or record.exc_info
    ]
    assert not bad, [record.getMessage() for record in bad]


def wait_for(condition, what, *, timeout=10.0):
    """Wait until `condition()` is true, for at most `timeout` seconds of real time."""
    end = time.monotonic() + timeout
    while not (result := condition()):
        assert time.monotonic() < end, f"not within {timeout} s: {what}"
        time.sleep(0.005)
    return result


@pytest.fixture
def eventually():
    """Wait for something without an event of its own: ``eventually(condition, what)``."""
    return wait_for


@pytest.fixture
def aeventually():
    """Do the same in a Trio task: ``await aeventually(condition, what)``."""

    async def wait(condition, what, *, timeout=10.0):
        with trio.move_on_after(timeout):
            while not (result := condition()):  # noqa: ASYNC110  # there is no event
                await trio.sleep(0.005)
            return result
        raise AssertionError(f"not within {timeout} s: {what}")

    return wait
