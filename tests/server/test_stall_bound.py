"""How long a stream may stall: its own `stall_timeout`, where its app has set one.

On the virtual clock, with real connections: a client that takes nothing makes everybody wait.
"""

import math
import pickle
import socket
from dataclasses import replace

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import flowstream
from flowstream import Limits, Topic, raw, sse
from flowstream.asgi._carrier import STATE_KEY
from flowstream.limits import chosen
from flowstream.server import streaming_config
from flowstream.server._stall_bound import stall_bound

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
PIECE = b"x" * 16384


async def floods():
    while True:
        yield PIECE


class App:
    """An app whose streams have a bound of their own.

    Attributes:
        reports: of its streams.
        reported: set when there is one.
        carriers: what carried them.
    """

    def __init__(self, limits, source=floods, cancelled_after=math.inf):
        self.limits, self.source, self.cancelled_after = limits, source, cancelled_after
        self.reports, self.carriers = [], []
        self.reported = trio.Event()

    def note(self, report):
        self.reports.append(report)
        self.reported.set()

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return
        self.carriers.append(scope["state"][STATE_KEY])
        if scope["path"] == "/plain":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while True:
                await send({"type": "http.response.body", "body": PIECE, "more_body": True})
        response = raw(self.source, limits=self.limits, on_close=self.note)
        with trio.move_on_after(self.cancelled_after):
            await response(scope, receive, send)

    @property
    def endings(self):
        return [(report.reason, report.detail) for report in self.reports]

    def user_timeout(self):
        """Return for how many seconds TCP itself bears a client that takes nothing."""
        sock = self.carriers[0]._socket
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) / 1000


@pytest.fixture
def ask(server, connect, http2, certificate):
    """Serve an app to a client that takes nothing."""

    async def start(app, kind, write_timeout, **settings):
        tls = certificate if kind.startswith("tls") else {}
        url = await server(app, write_timeout=write_timeout, **tls, **settings)
        if kind == "http2":
            peer = await http2(url, grants=False)
            await peer.get()
            return peer.stream
        stream = await connect(url, receive_buffer=4096)
        await stream.send_all(GET)
        return stream

    return start


async def until(condition, seconds):
    """Wait until it is true, on the virtual clock; return when that was."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110  # there is no event
            await trio.sleep(1)
    return trio.current_time()


KINDS = pytest.mark.parametrize("kind", ["http1", "tls", "http2"])


@KINDS
@pytest.mark.parametrize(
    ("limits", "write_timeout", "seconds", "detail"),
    [
        (Limits(stall_timeout=120), 30, 120, "stall_timeout 120 s"),
        (Limits(stall_timeout=30), 10, 30, "stall_timeout 30 s"),
        (Limits(stall_timeout=5), 30, 5, "stall_timeout 5 s"),
        (Limits(), 10, 10, "write_timeout 10 s"),
        (Limits(max_duration=1000), 10, 10, "write_timeout 10 s"),
        (Limits(), 60, 30, "stall_timeout 30 s"),
    ],
)
async def test_which_holds(ask, patient_clock, kind, limits, write_timeout, seconds, detail):
    """What the app has set holds, longer or shorter; of the defaults the shorter one does."""
    app = App(limits)
    await ask(app, kind, write_timeout)
    start = trio.current_time()
    with trio.fail_after(200):
        await app.reported.wait()
    ended = trio.current_time() - start
    assert app.endings == [("stalled", detail)]
    assert seconds - 1 <= ended <= 2 * seconds + 15  # while the kernel moves on, time does, too


@KINDS
async def test_without_a_bound(ask, patient_clock, kind):
    """A stream that may stall for ever does so, until its client leaves."""
    app = App(Limits(stall_timeout=math.inf))
    stream = await ask(app, kind, 100)
    await trio.sleep(500)
    assert not app.reports
    await stream.aclose()
    with trio.fail_after(30):
        await app.reported.wait()
    assert app.reports[0].reason == "client_disconnected"


@KINDS
async def test_a_shutdown_does_not_wait_for_it(
    connect, http2, certificate, patient_clock, nursery, kind
):
    """The grace of a shutdown holds for a stream that may stall for ever."""
    app, stop, ended = App(Limits(stall_timeout=math.inf)), trio.Event(), trio.Event()
    tls = certificate if kind == "tls" else {}
    config = streaming_config(
        h2c=True, bind=["127.0.0.1:0"], errorlog=None, write_timeout=1000, graceful_timeout=5, **tls
    )

    async def serve(task_status):
        await flowstream.serve(app, config, shutdown_trigger=stop.wait, task_status=task_status)
        ended.set()

    (url,) = await nursery.start(serve)
    if kind == "http2":
        await (await http2(url, grants=False)).get()
    else:
        await (await connect(url, receive_buffer=4096)).send_all(GET)
    await trio.sleep(100)
    stop.set()
    start = trio.current_time()
    with trio.fail_after(60):
        await ended.wait()
    assert 4 <= trio.current_time() - start <= 10
    assert app.endings == [("shutdown", "the server goes down")]


@KINDS
@pytest.mark.parametrize("stall_timeout", [3600, math.inf])
async def test_what_is_cancelled(ask, patient_clock, kind, stall_timeout):
    """What a stream that was cancelled leaves in flight is under the server's own bound."""
    app = App(Limits(stall_timeout=stall_timeout), cancelled_after=20)
    await ask(app, kind, 10)
    with trio.fail_after(25):
        await app.reported.wait()
    assert app.endings == [("cancelled", "")]
    connection = getattr(app.carriers[0], "_connection", app.carriers[0])
    await until(lambda: connection.reason is not None, 30)
    assert (connection.reason, connection.detail) == ("stalled", "write_timeout 10 s")


async def test_what_http2_has_left_of_a_cut_stream(ask, patient_clock):
    """What waits for a window when its stream has failed has the server's bound to be taken."""

    async def fails():
        yield PIECE * 5  # fills the window of 64 KiB, and the rest waits
        raise ValueError

    app = App(Limits(stall_timeout=math.inf), fails)
    await ask(app, "http2", 10)
    with trio.fail_after(5):
        await app.reported.wait()
    connection = app.carriers[0]._connection
    await until(lambda: connection.reason is not None, 30)
    assert (connection.reason, connection.detail) == ("stalled", "write_timeout 10 s")


async def test_others_on_the_same_connection(server, http2, patient_clock):
    """A response beside it is under the server's bound, and the connection lasts as long as it."""
    app = App(Limits(stall_timeout=120))
    peer = await http2(await server(app, write_timeout=30), grants=False, initial_window_size=5000)
    patient, plain = await peer.get("/"), await peer.get("/plain")
    start = trio.current_time()
    await peer.until(lambda: plain in peer.resets, timeout=200)
    assert 29 <= trio.current_time() - start <= 60
    assert patient not in peer.resets
    await peer.until(lambda: patient in peer.resets, timeout=200)
    assert 119 <= trio.current_time() - start <= 150
    assert app.endings == [("stalled", "stall_timeout 120 s")]


@pytest.mark.parametrize(
    ("limits", "seconds", "detail"),
    [
        (Limits(stall_timeout=5), 5, "stall_timeout 5 s"),
        (Limits(stall_timeout=120), 120, "stall_timeout 120 s"),
        (Limits(), 30, "write_timeout 30 s"),
    ],
)
async def test_a_direct_write(server, connect, patient_clock, aeventually, limits, seconds, detail):
    """The rest of a direct write that the kernel took in part is under the stream's bound, with
    nobody else who waits to write.
    """
    topic, reports, carriers = Topic("t"), [], []

    async def app(scope, receive, send):
        if scope["type"] == "http":
            carriers.append(scope["state"][STATE_KEY])
            stream = sse(topic, limits=limits, heartbeat=None, on_close=reports.append)
            await stream(scope, receive, send)

    stream = await connect(await server(app, write_timeout=30), receive_buffer=4096)
    await stream.send_all(GET)
    await aeventually(lambda: topic.subscribers, "it has subscribed")
    await topic.publish("first")  # the head and this
    await wait_all_tasks_blocked(0.01)
    for _ in range(200):
        await topic.publish("x" * 60_000)
        await wait_all_tasks_blocked(0.01)
        if carriers[0]._outgoing._rest or carriers[0]._outgoing._busy:
            break
    start = trio.current_time()
    assert topic.statistics().direct_deliveries >= 1
    ended = await until(lambda: reports, 200) - start
    assert [(report.reason, report.detail) for report in reports] == [("stalled", detail)]
    assert reports[0].longest_wait == 0, "somebody else waited to write"
    assert seconds - 1 <= ended <= 2 * seconds + 15  # while the kernel moves on, time does, too


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="needs TCP_USER_TIMEOUT")
@pytest.mark.parametrize(
    ("stall_timeout", "seconds"), [(5, 90), (30, 90), (120, 210), (math.inf, 0)]
)
@pytest.mark.parametrize("kind", ["http1", "tls"])
async def test_what_tcp_itself_bears(ask, patient_clock, kind, stall_timeout, seconds):
    """TCP gives up no client before a longer bound is over, and is as it was behind the stream."""
    more = trio.Event()

    async def source():
        yield b"first"
        await more.wait()

    app = App(Limits(stall_timeout=stall_timeout), source)
    stream = await ask(app, kind, 30)
    await stream.receive_some()
    assert app.user_timeout() == seconds
    more.set()
    with trio.fail_after(5):
        await app.reported.wait()
    await wait_all_tasks_blocked(0.01)
    assert app.endings == [("completed", "")]
    assert app.user_timeout() == 90


async def test_on_the_real_clock(server, connect, aeventually):
    """A stream outlives the server's bound for as long as it was allowed to."""
    app = App(Limits(stall_timeout=1.0))
    stream = await connect(await server(app, write_timeout=0.2), receive_buffer=4096)
    await stream.send_all(GET)
    await aeventually(lambda: app.reports, "it has ended")
    assert app.endings == [("stalled", "stall_timeout 1 s")]
    assert app.reports[0].duration >= 1.0


# -- the decision, as values -------------------------------------------------------------------


class Carried:
    def __init__(self, stall_timeout):
        self.stall_timeout = stall_timeout


@pytest.mark.parametrize(
    ("stalls", "shared", "expected"),
    [
        ([], False, "write_timeout 30 s"),
        ([None], False, "write_timeout 30 s"),
        ([5], False, "stall_timeout 5 s"),
        ([5], True, "write_timeout 30 s"),
        ([5, None], False, "stall_timeout 5 s"),
        ([5, 120], False, "stall_timeout 120 s"),
        ([120, None], True, "stall_timeout 120 s"),
        ([math.inf], True, "stall_timeout inf s"),
    ],
)
def test_the_bound_of_what_is_carried(stalls, shared, expected):
    """It is the longest that streams have set, and the server's where none has or others share."""
    assert str(stall_bound(map(Carried, stalls), 30, shared=shared)) == expected


def test_what_was_chosen():
    """A default is a number like any other, and still a default in a copy."""
    assert Limits() == Limits(stall_timeout=30.0)
    assert repr(Limits().stall_timeout) == "30.0"
    for limits in (Limits(), replace(Limits(), max_bytes=5), pickle.loads(pickle.dumps(Limits()))):
        assert chosen(limits.stall_timeout) is None
    assert chosen(Limits(stall_timeout=30.0).stall_timeout) == 30.0
