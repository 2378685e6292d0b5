"""Whatever clients send, the server goes on, leaves no task behind and has nothing to report.

The servers run on a clock that jumps: a client that waits for a timeout costs no time. Most
clients come over Unix sockets, which are cheap; a smaller share comes over TCP, where there
is RST. What a client does follows from a seed and a number (see `_conversations`).
"""

import contextlib
import logging
import os
import secrets
import socket
import struct
import time
from functools import partial
from itertools import zip_longest

import hpack
import hypercorn.trio
import pytest
import trio
import trio.testing
from _conversations import (
    DATA,
    END_HEADERS,
    END_STREAM,
    ENDS,
    HEADERS,
    PREFACE,
    SETTINGS,
    WRITTEN,
    Conversation,
    conversation,
    frame,
    written,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

import flowstream
from flowstream.server import _serving, streaming_config
from flowstream.server._connections import Connections

SEED = "flowstream"
CONVERSATIONS = 8000
CONVERSATIONS_TCP = 500
CUT_AT_MOST = 500
BATCH = 250

CONTROL = b"GET /control HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


# -- the applications --------------------------------------------------------------------------


class BrokenAppError(Exception):
    """What the test's own applications fail with: the one thing that may be logged."""


async def http(scope, receive, send):
    """Do what the first letter of the path says."""
    letter = scope["path"][1:2]

    async def start():
        headers = [(b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def body(data, *, more=False):
        await send({"type": "http.response.body", "body": data, "more_body": more})

    async def read():
        while (message := await receive())["type"] == "http.request":
            if not message["more_body"]:
                return

    match letter:
        case "a":  # answers, without a look at the request
            await start()
            await body(b"answer")
        case "b":  # fails before it has answered
            raise BrokenAppError
        case "d":  # waits for the client to leave
            while (await receive())["type"] != "http.disconnect":
                pass
        case "e":  # sends back what comes
            await start()
            while (message := await receive())["type"] == "http.request":
                await body(message["body"], more=message["more_body"])
                if not message["more_body"]:
                    break
        case "f":  # fails in the middle
            await start()
            await body(b"x" * 100, more=True)
            raise BrokenAppError
        case "g":  # floods the client, and has no ear for its leaving
            await start()
            for _ in range(40):
                await body(b"x" * 16384, more=True)
            await body(b"")
        case "n":  # returns without a word
            pass
        case "q":  # returns in the middle
            await start()
            await body(b"x", more=True)
        case "s":  # streams
            await flowstream.ndjson(numbers(30))(scope, receive, send)
        case "w":  # streams, slowly and without an end
            await flowstream.sse(numbers(None))(scope, receive, send)
        case _:  # reads, and answers
            await read()
            await start()
            await body(b"read")


async def numbers(count):
    number = 0
    while count is None or number < count:
        yield {"number": number, "text": "x" * 200}
        number += 1
        if count is None:
            await trio.sleep(1)


async def websocket(scope, receive, send):
    """Do what the first letter of the path says."""
    letter = scope["path"][1:2]
    assert (await receive())["type"] == "websocket.connect"
    if letter == "r":
        await send({"type": "websocket.close"})
        return
    if letter == "n":
        return
    if letter == "w":
        while (await receive())["type"] != "websocket.disconnect":
            pass
        return
    await send({"type": "websocket.accept"})
    if letter == "c":
        await send({"type": "websocket.close"})
        return
    if letter == "f":
        raise BrokenAppError
    if letter == "s":
        for _ in range(100):
            await send({"type": "websocket.send", "bytes": b"x" * 4000})
    while (message := await receive())["type"] != "websocket.disconnect":
        await send({**message, "type": "websocket.send"})


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    await (http if scope["type"] == "http" else websocket)(scope, receive, send)


# -- the clients -------------------------------------------------------------------------------


class Client:
    """One conversation with the server."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_INET if ":" in address else socket.AF_UNIX)
        if ":" in address:
            host, port = address.rsplit(":", 1)
            self.socket.connect((host, int(port)))
        else:
            self.socket.connect(address)
        self.socket.setblocking(False)
        self.over = False
        self.received = 0

    def read(self):
        """Take what is there; note the end."""
        try:
            while data := self.socket.recv(65536):
                self.received += len(data)
        except BlockingIOError:
            return
        except OSError:
            pass
        self.over = True

    async def read_to_the_end(self, seconds):
        """Take what comes, for so long."""
        with trio.move_on_after(seconds):
            while True:
                self.read()
                if self.over:
                    return
                await trio.lowlevel.wait_readable(self.socket)

    async def converse(self, said):
        with self.socket:
            try:
                await self.say(said)
                await self.end(said.end)
            except OSError:
                pass  # the server has had enough
            finally:
                trio.lowlevel.notify_closing(self.socket)

    async def say(self, said):
        for piece, pause in zip_longest(said.pieces, said.pauses, fillvalue=0):
            rest = memoryview(piece)
            while rest:
                try:
                    rest = rest[self.socket.send(rest) :]
                except BlockingIOError:  # an application that does not read
                    with trio.move_on_after(1) as scope:
                        await trio.lowlevel.wait_writable(self.socket)
                    if scope.cancelled_caught:
                        return
            for _ in range(pause):
                await trio.lowlevel.checkpoint()
            if said.reads:
                self.read()

    async def end(self, how):
        match how:
            case "half-close":
                self.socket.shutdown(socket.SHUT_WR)
                await self.read_to_the_end(3)
            case "reset":  # over Unix sockets only as long as something is unread
                now = struct.pack("ii", 1, 0)
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
            case "wait":
                await self.read_to_the_end(8)
            case "stall":
                await trio.sleep(8)


# -- the server --------------------------------------------------------------------------------


class Watch(logging.Handler):
    """What the server logs, as far as nobody should be able to make it log that."""

    def __init__(self):
        super().__init__(logging.INFO)
        self.faults = []

    def emit(self, record):
        error = record.exc_info[1] if record.exc_info else None
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, BrokenAppError):
            return
        if error is not None or record.levelno >= logging.ERROR:
            self.faults.append(logging.Formatter().format(record))


def count_tasks(task):
    """Return how many tasks there are below this one."""
    below = [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return len(below) + sum(map(count_tasks, below))


class Fuzzed:
    """A server under fire.

    Args:
        address: what clients connect to.
        watch: what listens to its log.
        connections: its open connections.
    """

    def __init__(self, address, watch, connections, task):
        self.address = address
        self.watch = watch
        self.connections = connections
        self.task = task
        self.tasks = count_tasks(task)

    async def take(self, conversations):
        """Have these conversations all at once; raise AssertionError if it did not go well."""
        async with trio.open_nursery() as nursery:
            for said in conversations:
                nursery.start_soon(Client(self.address).converse, said)
        await self.settle()

    async def settle(self):
        """See that all is as it was before."""
        with trio.move_on_after(120):
            while len(self.connections) or count_tasks(self.task) > self.tasks:  # noqa: ASYNC110
                await trio.sleep(0.5)
        left = len(self.connections)
        assert not left, f"{left} connections are left"
        assert count_tasks(self.task) == self.tasks, "tasks are left"
        assert not self.watch.faults, "the log says:\n" + "\n".join(self.watch.faults[:3])
        client = Client(self.address)
        with client.socket:
            client.socket.sendall(CONTROL)
            await client.read_to_the_end(10)
            assert client.received, "the server does not answer"
            trio.lowlevel.notify_closing(client.socket)


@contextlib.asynccontextmanager
async def fuzzed(monkeypatch, address, serve=flowstream.serve):
    """Run a server for a while, on a Unix socket or on a port of TCP."""
    made = []

    def connections(*arguments):
        made.append(Connections(*arguments))
        return made[-1]

    monkeypatch.setattr(_serving, "Connections", connections)
    watch = Watch()
    own, theirs = logging.getLogger("flowstream"), logging.getLogger("tests.fuzz")
    theirs.propagate = False
    config = streaming_config(
        bind=[address if ":" in address else f"unix:{address}"],
        errorlog=theirs,
        write_timeout=4,
        h2c=True,
    )
    own.addHandler(watch)
    theirs.addHandler(watch)
    try:
        async with trio.open_nursery() as nursery:
            (url,) = await nursery.start(serve, app, config)
            await trio.testing.wait_all_tasks_blocked()
            (task,) = nursery.child_tasks
            if ":" in address:
                address = url.removeprefix("http://")
            yield Fuzzed(address, watch, made[-1] if made else (), task)
            nursery.cancel_scope.cancel()
    finally:
        own.removeHandler(watch)
        theirs.removeHandler(watch)


async def bombard(start, conversations):
    """Have the conversations with a server; if it did not go well, find out which it was."""
    for at in range(0, len(conversations), BATCH):
        batch = conversations[at : at + BATCH]
        if (error := await outcome(start, batch)) is None:
            continue
        for said in batch:
            if alone := await outcome(start, [said]):
                raise AssertionError(f"this alone does it: {said}") from alone
        raise AssertionError(f"only together: {batch[0].name} to {batch[-1].name}") from error


async def outcome(start, conversations):
    """Return what went wrong, or None."""
    failure = None
    try:
        async with start() as server:
            await server.take(conversations)
    except* Exception as group:  # noqa: BLE001  # returned
        failure = group
    return failure


def run(main):
    """Run a Trio program on a clock that jumps."""
    trio.run(main, clock=MockClock(autojump_threshold=0))


# -- the tests ---------------------------------------------------------------------------------


@pytest.fixture
def start(tmp_path, monkeypatch):
    """What starts a server on a Unix socket."""
    return partial(fuzzed, monkeypatch, str(tmp_path / "socket"))


@pytest.fixture
def start_tcp(monkeypatch):
    """What starts a server on TCP."""
    return partial(fuzzed, monkeypatch, "127.0.0.1:0")


@pytest.mark.parametrize("part", range(4))
def test_damaged_and_odd_conversations(part, start):
    """Thousands of clients say what they should not, and the server is as it was before."""
    numbers = range(part * CONVERSATIONS // 4, (part + 1) * CONVERSATIONS // 4)
    run(partial(bombard, start, [conversation(SEED, number) for number in numbers]))


def test_over_tcp(start_tcp):
    """The same holds over TCP, where clients can reset."""
    said = [conversation(f"{SEED}-tcp", number) for number in range(CONVERSATIONS_TCP)]
    run(partial(bombard, start_tcp, said))


def test_cut_at_every_point(start):
    """A whole conversation of each kind, ended after each of its bytes."""
    said = []
    for kind in WRITTEN:
        data = b"".join(written(kind, 1))[:CUT_AT_MOST]
        for at in range(len(data)):
            pieces = [data[:at], data[at : at + 1]] if at % 2 else [data[:at]]
            end = ENDS[at % 3]
            said.append(
                Conversation(
                    f"{kind.__name__}, cut at {at}", pieces, [at % 4] * len(pieces), end=end
                )
            )
    run(partial(bombard, start, said))


UPGRADE = (
    b"GET /e HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
BEGINNINGS = [b"", b"GET /e HTTP/1.1\r\n", UPGRADE, PREFACE, PREFACE + frame(SETTINGS, 0, 0)]

noises = st.builds(
    lambda start, pieces, end: Conversation("made by Hypothesis", [start, *pieces], end=end),
    st.sampled_from(BEGINNINGS),
    st.lists(st.binary(max_size=40), max_size=4),
    st.sampled_from(ENDS),
)


@given(st.lists(noises, min_size=20, max_size=20))
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_bytes(start, said):
    """Bytes that Hypothesis thinks of, behind the beginnings of conversations."""
    run(partial(bombard, start, said))


def fatal_to_hypercorn():
    """Return conversations that end plain Hypercorn's worker, as Hypercorn 0.18 is."""
    encode = hpack.Encoder().encode
    fields = [(b":scheme", b"http"), (b":authority", b"localhost")]
    beginning = PREFACE + frame(SETTINGS, 0, 0)
    whole, open_ended = END_HEADERS | END_STREAM, END_HEADERS
    bad_path = encode([(b":method", b"GET"), (b":path", b"/\xe9"), *fields])
    no_path = encode([(b":method", b"CONNECT"), (b":authority", b"localhost")])
    upload = hpack.Encoder().encode([(b":method", b"POST"), (b":path", b"/a"), *fields])
    return {
        "a path that is not ASCII": [beginning, frame(HEADERS, whole, 1, bad_path)],
        "CONNECT without a path": [beginning + frame(HEADERS, whole, 1, no_path)],
        "data behind the response": [
            beginning + frame(HEADERS, open_ended, 1, upload),
            frame(DATA, END_STREAM, 1, b"late"),
        ],
        "a message before the acceptance": [UPGRADE + b"\x81\x81\0\0\0\0x"],
    }


@pytest.mark.parametrize("name", fatal_to_hypercorn())
def test_the_harness_sees_a_worker_end(name, start):
    """Plain Hypercorn's worker is ended by one conversation, and this is noticed; ours goes on."""
    pieces = fatal_to_hypercorn()[name]
    said = Conversation(name, pieces, [8] * len(pieces), end="wait")
    outcomes = []

    async def both():
        outcomes.append(await outcome(partial(start, serve=hypercorn.trio.serve), [said]))
        outcomes.append(await outcome(start, [said]))

    run(both)
    plain, ours = outcomes
    assert plain is not None
    assert not plain.subgroup(AssertionError), "the worker itself has ended"
    assert ours is None


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_soak(start, start_tcp, record_property):
    """More of the same, from a new seed, for as long as one likes."""
    seed = secrets.token_hex(4)
    end = time.monotonic() + 60 * float(os.environ.get("FUZZ_MINUTES", "3"))
    done = 0
    while time.monotonic() < end:
        said = [conversation(seed, number) for number in range(done, done + 4 * BATCH)]
        run(partial(bombard, start_tcp if done % (20 * BATCH) == 0 else start, said))
        done += len(said)
        record_property("conversations", f"{done} of seed {seed}")
