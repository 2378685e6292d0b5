"""Run Hypercorn's own tests against flowstream's server.

::

    .venv/bin/python tests/conformance/hypercorn_tests.py            # a table, and what failed
    .venv/bin/python tests/conformance/hypercorn_tests.py -k h11     # what follows goes to pytest

It downloads the source of the installed version of Hypercorn, which has the tests, into a
temporary folder. There each name of Hypercorn's that we have a class of our own for becomes ours
(`OURS`), and tests for asyncio run on Trio. What stands for a connection in memory is a pair of
sockets, since our server speaks to nothing else. A test that has nothing here to be run against
is left out, with its reason (`LEFT_OUT`). One that asks for what we do otherwise on purpose is
run, and has to fail (`OTHERWISE`): should it pass one day, the reason is out of date.

Hypercorn 0.18.0 has 141 tests, parameters not counted. 85 pass, 7 are done otherwise, 49 have
nothing to run against (32 of them are for asyncio, WSGI and middleware), and none fails.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from importlib.metadata import version
from pathlib import Path

# By file: text in it, and what takes its place in the copy.
_TRIO = {
    "import pytest_asyncio": "import pytest",
    "pytest_asyncio.fixture": "pytest.fixture",
    "pytest.mark.asyncio": "pytest.mark.trio",
    "async def _stream(": "def _stream(",  # fixtures that wait for nothing
    "async def _protocol(": "def _protocol(",
    "import asyncio\n": "import ours as asyncio\n",
    "from hypercorn.asyncio.worker_context import": "from ours import",
    "from hypercorn.asyncio.task_group import": "from ours import",
    "from hypercorn.asyncio.statsd import": "from hypercorn.trio.statsd import",
    "from hypercorn.config import Config": "from ours import Config",
    "import httpx  # type: ignore": "import httpx2 as httpx",
}
_SOCKETS = {
    "from hypercorn.trio.tcp_server import TCPServer": "from ours import TCPServer",
    "from hypercorn.trio.worker_context import WorkerContext": "from ours import WorkerContext",
    "trio.testing.memory_stream_pair()": "ours.pair()",
    "import trio\n": "import trio\nimport trio.testing\nimport ours\n",
    "KEEP_ALIVE_TIMEOUT = 0.01\n": "KEEP_ALIVE_TIMEOUT = 0.2\n",
}
OURS: dict[str, dict[str, str]] = {
    "protocol/test_h11.py": {
        "H2ProtocolAssumedError, H11Protocol\n": "H2ProtocolAssumedError\n"
        "from ours import H11Protocol\n",
        "monkeypatch.setattr(hypercorn.protocol.h11,": "monkeypatch.setattr(ours.http1,",
        "import hypercorn.protocol.h11\n": "import hypercorn.protocol.h11\nimport ours\n",
        "import ConnectionState, Event as IOEvent": "import Event as IOEvent\n"
        "from ours import ConnectionState",
    },
    "protocol/test_h2.py": {
        "BufferCompleteError, H2Protocol, StreamBuffer\n": "BufferCompleteError\n"
        "from ours import H2Protocol, StreamBuffer\n",
    },
    "protocol/test_http_stream.py": {},  # used as it is, or with a line in the access log
    "protocol/test_ws_stream.py": {
        "    WSStream,\n)": ")\nfrom ours import WSStream",
    },
    "trio/test_keep_alive.py": _SOCKETS,
    "trio/test_sanity.py": _SOCKETS,
    "trio/test_lifespan.py": {
        "from hypercorn.trio.lifespan import Lifespan": "from ours import Lifespan",
    },
    "test_logging.py": {
        "from hypercorn.logging import AccessLogAtoms, Logger": "from ours import "
        "AccessLogAtoms, Logger",
    },
    "test_config.py": {},
    "test_utils.py": {},
    "e2e/test_httpx.py": {
        "import hypercorn.trio\n": "import trio.testing\nimport ours\n",
        "hypercorn.trio.serve(": "ours.serve(",
        "0.0.0.0:1234": "127.0.0.1:PORT",
    },
}

# A file, or a test in it, and why it can't be run against anything of ours.
LEFT_OUT: dict[str, str] = {
    "asyncio/": "of Hypercorn's workers for asyncio; there is one for Trio of most",
    "middleware/": "Hypercorn's middleware, which an app may use; the server has none",
    "test_app_wrappers.py": "WSGI: flowstream's server serves ASGI alone",
    "test___main__.py": "Hypercorn's command line; ours has tests/test_cli.py",
    "test_utils.py::test_is_asgi": "tells WSGI from ASGI, of which there is ASGI alone here",
    "trio/test_sanity.py::test_http2_websocket": "its client's h2 refuses to send this CONNECT",
    "protocol/test_ws_stream.py::test_buffer": "a buffer that we don't have: see `MessageBound`",
    "protocol/test_ws_stream.py::test_handshake": "its handshake: ours is in `_ws_handshake`",
    "protocol/test_h11.py::test_protocol_handle_h2c_upgrade": "waits for the h2c upgrade, which "
    "is ignored (RFC 9113 § 3.1)",
    "protocol/test_h2.py::test_stream_buffer_push_and_pop": "waits for a sender that goes on "
    "while the buffer is full: see `BoundedStreamBuffer`",
}

# A test that has to fail, and what we do in place of what it asks for.
_REFUSED = "a refusal ends the stream, and says which version is spoken"
_NO_REQUEST = "it ends a stream that was handed no request: the protocols here never do"
OTHERWISE: dict[str, str] = {
    "protocol/test_h2.py::test_protocol_keep_alive": "GOAWAY waits for what is about to end: "
    "some clients take it for the end of all",
    "protocol/test_ws_stream.py::test_handle_data_before": _REFUSED,
    "protocol/test_ws_stream.py::test_invalid_server_name": _REFUSED,
    "protocol/test_ws_stream.py::test_handle_closed": _NO_REQUEST,
    "protocol/test_ws_stream.py::test_closure": _NO_REQUEST,
    "protocol/test_ws_stream.py::test_send_connection": "a close of the app's waits for the "
    "client's (RFC 6455 § 7.1.1)",
    "test_logging.py::test_access_logger_init": "handlers of its own, which bear a closed output",
}

# What the copies import.
_MODULE = '''
import socket
import time
from unittest.mock import AsyncMock, Mock

import trio
import trio.testing

import flowstream.server.http1._http1 as http1
from flowstream.server.log._access_log import AccessLog as Logger
from flowstream.server.log._access_log import Atoms as AccessLogAtoms
from flowstream.server._connections import Connections
from flowstream.server._http_connection import HTTPConnection
from flowstream.server._context import Context as WorkerContext
from flowstream.server._context import Event as EventWrapper
from flowstream.server.http2._http2 import HTTP2
from flowstream.server._lifespan import AppLifespan
from flowstream.server._serving import serve
from flowstream.server._settings import ServerConfig, checked
from flowstream.server._stall_bound import StallBound
from flowstream.server.http2._stream_buffer import BoundedStreamBuffer
from flowstream.server.websocket._websocket import WebSocket as WSStream
from flowstream.server._wire import Wire
from hypercorn.trio.task_group import TaskGroup as TrioTaskGroup


class Config(ServerConfig):
    h2c = True  # as Hypercorn has it


def TaskGroup(loop):
    return TrioTaskGroup()


class ConnectionState(dict):
    """Equal to any: we keep what belongs to a response in it."""

    def __eq__(self, other):
        return isinstance(other, dict)


class Carrier:
    """What a connection is to its protocol."""

    closing = False
    turn = AsyncMock()
    write_timeout = 30.0

    def stall_bound(self):
        return StallBound(30.0, "write_timeout")

    def note_progress(self):
        pass

    def origin(self, headers):
        return Mock(client=None, tls=False)

    def seconds_since_progress(self):
        return 0.0

    def __getattr__(self, name):
        return Mock()


def H11Protocol(*arguments):
    return http1.HTTP1(Carrier(), *arguments)


def H2Protocol(*arguments):
    return HTTP2(Carrier(), *arguments)


def StreamBuffer(event_class):
    return BoundedStreamBuffer(event_class, Carrier(), lambda: None)


def Lifespan(app, config, state):
    return AppLifespan(app.app, config, state)


class Task:
    """A task as asyncio has them."""

    def __init__(self, function):
        self._function = function
        self._over = trio.Event()
        self._result = None
        trio.lowlevel.spawn_system_task(self._run)

    async def _run(self):
        self._result = await self._function
        self._over.set()

    def done(self):
        return self._over.is_set()

    def __await__(self):
        yield from self._over.wait().__await__()
        return self._result


class AbstractEventLoop:
    create_task = staticmethod(Task)


def get_running_loop():
    return AbstractEventLoop


async def sleep(seconds):
    await (trio.sleep(seconds) if seconds else trio.testing.wait_all_tasks_blocked())


class Server:
    """The end of a connection that the server is to have."""

    def __init__(self, sock):
        self.sock = sock
        self.do_handshake = None  # with a mock it is to be HTTP/2


class Client:
    """The other end."""

    def __init__(self, stream):
        self.stream = stream

    async def send_all(self, data):
        await trio.testing.wait_all_tasks_blocked(0.001)
        try:
            gone = not await peek(self.stream.socket)
        except BlockingIOError:
            gone = False
        if gone:  # in memory it is known at once, and TCP would tell it to the next write
            raise trio.BrokenResourceError
        await self.stream.send_all(data)

    async def receive_some(self, size):
        return await self.stream.receive_some(size)


async def peek(sock):
    raw = socket.socket(fileno=sock.fileno())
    try:
        return raw.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    finally:
        raw.detach()


def pair():
    listener = socket.create_server(("127.0.0.1", 0))
    ours = socket.create_connection(listener.getsockname())
    theirs, _ = listener.accept()
    listener.close()
    ours.setblocking(False)
    theirs.setblocking(False)
    return Client(trio.SocketStream(trio.socket.from_stdlib_socket(ours))), Server(theirs)


class TCPServer:
    """A server of one connection."""

    def __init__(self, app, config, context, state, server):
        self.arguments = app, checked(config), context, state
        self.server = server

    async def run(self):
        app, config, context, state = self.arguments
        connections = Connections(config)

        async def call(scope, receive, send, *_):
            await app.app(scope, receive, send)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(connections.hangups.run)
            nursery.start_soon(connections.idle.run)
            connections.run_in(nursery)
            wire = Wire(trio.socket.from_stdlib_socket(self.server.sock))
            connection = HTTPConnection(connections, call, config, context, state, wire)
            await connection.run()
'''


def tests_of(release: str, folder: Path) -> Path:
    """Return the folder of the tests of a release, downloaded into `folder`."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*command, "-d", str(folder), f"hypercorn=={release}"], check=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as source:
        source.extractall(folder, filter="data")
    return folder / f"hypercorn-{release}" / "tests"


def prepare(tests: Path) -> list[str]:
    """Put our classes into the copies; return the files that are to be run."""
    (tests.parent / "ours.py").write_text(_MODULE)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    for name, ours in OURS.items():
        file = tests / name
        text = file.read_text()
        for old, new in {**ours, **_TRIO}.items():
            if old in ours and ours is not _SOCKETS and old not in text:
                raise SystemExit(f"{name} has no {old!r} any more: see OURS")
            text = text.replace(old, new.replace("PORT", port))
        file.write_text(text)
    return [f"tests/{name}" for name in OURS]


def functions_in(tests: Path) -> list[str]:
    """Return the tests there are, parameters not counted: ``protocol/test_h11.py::test_...``."""
    return [
        f"{file.relative_to(tests)}::{name}"
        for file in sorted(tests.rglob("test_*.py"))
        for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)
    ]


def reason_for(test: str, reasons: dict[str, str]) -> str | None:
    """Return the reason that is given for `test`, or for more than that."""
    return next((reason for prefix, reason in reasons.items() if test.startswith(prefix)), None)


def run(tests: Path, files: list[str], left_out: list[str], options: list[str]) -> dict[str, bool]:
    """Run the tests; return whether each has passed, with all of its parameters."""
    report = tests.parent / "report.xml"
    (tests.parent / "pytest.ini").write_text("[pytest]\n")  # none of ours
    deselected = [f"--deselect=tests/{test}" for test in left_out]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"]
    command += ["--tb=short", "--timeout=20", f"--junitxml={report}", *deselected, *options, *files]
    subprocess.run(command, cwd=tests.parent, check=False)
    passed: dict[str, bool] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        file = case.attrib["classname"].removeprefix("tests.").replace(".", "/")
        test = f"{file}.py::{case.attrib['name'].partition('[')[0]}"
        passed[test] = passed.get(test, True) and case.find("failure") is case.find("error") is None
    return passed


def main() -> int:
    """Print the table; return how many tests did not do what they should."""
    folder = Path(tempfile.mkdtemp(prefix="hypercorn-"))
    try:
        release = version("hypercorn")
        tests = tests_of(release, folder)
        known = functions_in(tests)
        left_out = {test: why for test in known if (why := reason_for(test, LEFT_OUT))}
        passed = run(tests, prepare(tests), list(left_out), sys.argv[1:])
    finally:
        shutil.rmtree(folder)
    otherwise = {test: why for test in passed if (why := reason_for(test, OTHERWISE))}
    wrong = [test for test, ok in passed.items() if ok is (test in otherwise)]
    right = [test for test, ok in passed.items() if ok and test not in otherwise]
    print(f"\nHypercorn {release}: {len(known)} tests\n")
    print(f"{len(right):4} pass")
    for title, tests_of_it in (("done otherwise", otherwise), ("nothing to run against", left_out)):
        print(f"{len(tests_of_it):4} {title}")
        for reason, count in Counter(tests_of_it.values()).items():
            print(f"     {count:4} {reason}")
    print(f"{len(wrong):4} FAIL" if wrong else "   0 fail")
    for test in wrong:
        print(f"          {test}" + (" (passes)" if test in otherwise else ""))
    return len(wrong)


if __name__ == "__main__":
    sys.exit(min(main(), 1))
