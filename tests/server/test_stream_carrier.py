"""What a stream and the connection that carries it do for each other, with a carrier of ours."""

import pytest
import trio
from quart_trio import QuartTrio
from trio.testing import wait_all_tasks_blocked

from flowstream import CloseReason, Disconnect, Limits, raw, sse
from flowstream.asgi._carrier import STATE_KEY
from flowstream.quart import Flowstream
from flowstream.testing import open_stream


class Carrier:
    """A connection that is ended by hand.

    Attributes:
        attached: the streams that are told.
        aborted: the reasons for which it was reset.
    """

    write_timeout = 30.0

    def __init__(self, *, body=False, ended=None, closing=False):
        self.attached = set()
        self.aborted = []
        self.reason, self.detail = None, ""
        self._body = body
        self._ended = ended
        self._closing = closing
        self.nursery = trio.lowlevel.current_task().parent_nursery

    def attach(self, stream):
        self.attached.add(stream)
        if self._ended is not None:
            stream.abort(self._ended)
        elif self._closing:
            stream.close(CloseReason.SHUTDOWN)

    def detach(self, stream):
        self.attached.discard(stream)

    def abort(self, reason, detail=""):
        self.aborted.append(reason)
        for stream in list(self.attached):
            stream.abort(reason)

    def may_bring_more(self, scope):
        return self._body

    def end(self):
        """Report that the client has left."""
        for stream in list(self.attached):
            stream.abort(CloseReason.CLIENT_DISCONNECTED)

    @property
    def state(self):
        return {STATE_KEY: self}


def plain(make):
    async def app(scope, receive, send):
        assert scope["type"] == "http"
        await make()(scope, receive, send)

    return app


def quart(make):
    app = QuartTrio("carried")
    Flowstream(app)

    @app.route("/", methods=["GET", "POST"])
    async def view():
        return make()

    return app


@pytest.fixture(params=[plain, quart])
def app(request):
    """Make an app of a function that makes a response: a bare one, and one of Quart."""
    return request.param


async def waits(out):
    await out.send("first")
    await trio.sleep_forever()


async def floods(out):
    while True:
        await out.send("x" * 1000)


def tasks():
    return trio.lowlevel.current_statistics().tasks_living


async def tasks_of_one(app, carrier):
    before = tasks()
    async with open_stream(app, state=carrier.state if carrier else {}) as client:
        await client.next_event()
        await wait_all_tasks_blocked()
        count = tasks() - before
        if carrier:
            carrier.end()
    return count


async def test_no_task_listens_where_nothing_can_come(app):
    """A request that can have no body costs a task less where the connection reports its end."""
    listening = await tasks_of_one(app(lambda: sse(waits)), None)
    assert await tasks_of_one(app(lambda: sse(waits)), Carrier()) == listening - 1


async def test_a_body_is_drained(app):
    """Where a body may come somebody takes it, and hears of the disconnect behind it."""
    reports = []

    async def body():
        for _ in range(50):
            yield b"x" * 1000

    carrier = Carrier(body=True)

    def response():
        return sse(waits, on_close=reports.append)

    async with open_stream(
        app(response), method="POST", body=body(), state=carrier.state
    ) as client:
        await client.next_event()
        client.abort()
        await wait_all_tasks_blocked()
        assert [report.reason for report in reports] == ["client_disconnected"]
    assert not carrier.attached


async def test_the_connections_end_cancels_the_producer_at_once(app):
    """One pass of the scheduler after the connection has reported its end, the producer has
    heard of it.
    """
    reports, heard = [], []

    async def produce(out):
        try:
            await waits(out)
        except trio.Cancelled:
            heard.append(ticks())
            raise

    class Ticks(trio.abc.Instrument):
        count = 0

        def before_io_wait(self, timeout):
            self.count += 1

        def __call__(self):
            return self.count

    ticks = Ticks()
    trio.lowlevel.add_instrument(ticks)
    carrier = Carrier()
    async with open_stream(
        app(lambda: sse(produce, on_close=reports.append)), state=carrier.state
    ) as client:
        await client.next_event()
        await wait_all_tasks_blocked()
        told = ticks()
        carrier.end()
        await wait_all_tasks_blocked()
        assert heard[0] - told <= 1
        assert [report.reason for report in reports] == ["client_disconnected"]
        assert client.finished
    trio.lowlevel.remove_instrument(ticks)
    assert not carrier.aborted
    assert not carrier.attached


@pytest.mark.parametrize("stuck", [False, True])
async def test_a_stalled_client_is_closed_by_the_carrier(app, stuck, autojump_clock):
    """At stall_timeout the carrier is reset, once, and the one report says `stalled`."""
    reports, carrier = [], Carrier()

    def response():
        return sse(floods, limits=Limits(stall_timeout=5), on_close=reports.append)

    async with open_stream(
        app(response), state=carrier.state, window=100, stuck_sends=stuck
    ) as client:
        await trio.sleep(4.9)
        assert not carrier.aborted
        await trio.sleep(0.2)
        assert carrier.aborted == ["stalled"]
        assert [report.reason for report in reports] == ["stalled"]
        client.abort()
    assert [report.reason for report in reports] == ["stalled"]
    assert not carrier.attached


async def test_a_slow_consumer_is_closed_by_the_carrier(app, autojump_clock):
    """With `Disconnect` a client that was answered is reset, once, with `slow_consumer`."""
    reports, carrier = [], Carrier()

    def response():
        return sse(floods, policy=Disconnect(), buffer=2, on_close=reports.append)

    async with open_stream(app(response), state=carrier.state, window=500) as client:
        await trio.sleep(1)
        assert carrier.aborted == ["slow_consumer"]
        assert client.status == 200
    assert [report.reason for report in reports] == ["slow_consumer"]
    assert not carrier.attached


async def test_an_unanswered_slow_consumer_has_its_status_first(app):
    """A primed stream that is given up before its status line is answered, and not reset."""
    reports, carrier = [], Carrier()

    async def fills_at_once(out):
        while True:
            await out.send("x")

    def response():
        return sse(fills_at_once, prime=1, policy=Disconnect(), buffer=1, on_close=reports.append)

    async with open_stream(app(response), state=carrier.state) as client:
        await wait_all_tasks_blocked()
        assert client.status == 200
    assert not carrier.aborted
    assert [report.reason for report in reports] == ["slow_consumer"]


async def test_a_connection_that_has_ended_already():
    """A stream that begins on it sends nothing, and reports the disconnect."""
    reports, sent = [], []
    carrier = Carrier(ended=CloseReason.CLIENT_DISCONNECTED)
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "state": carrier.state}

    async def send(message):
        sent.append(message)

    with trio.fail_after(5):
        await sse(waits, on_close=reports.append)(scope, None, send)
    assert [report.reason for report in reports] == ["client_disconnected"]
    assert not sent
    assert not carrier.attached


@pytest.mark.parametrize("prime", [None, 5])
async def test_a_server_that_shuts_down_already(app, prime):
    """A stream that begins then has its status and its farewell."""
    reports, carrier = [], Carrier(closing=True)

    def response():
        return sse(waits, prime=prime, on_close=reports.append)

    async with open_stream(app(response), state=carrier.state) as client:
        assert [event.type async for event in client][-1] == "reconnect"
        assert client.status == 200
    assert [report.reason for report in reports] == ["shutdown"]


async def test_half_an_export_is_cut_by_a_shutdown(app):
    """A format without room for a farewell ends without its final chunk."""
    reports, carrier = [], Carrier()

    async def bytes_(out):
        await out.send(b"first")
        await trio.sleep_forever()

    async with open_stream(
        app(lambda: raw(bytes_, on_close=reports.append)), state=carrier.state
    ) as client:
        await wait_all_tasks_blocked()
        (stream,) = carrier.attached
        stream.close(CloseReason.SHUTDOWN)
        await wait_all_tasks_blocked()
        assert not client.complete
    assert [report.reason for report in reports] == ["shutdown"]


IDLE = 2  # the connection's task, in which the app runs, and the producer's


async def test_tasks_of_an_idle_stream(server, client, app, aeventually):
    """On a real connection an idle stream is so many tasks, and none when it has ended; one
    more is the timer of all.
    """
    response = app(lambda: sse(waits))
    url = await server(response)
    await wait_all_tasks_blocked()
    before = tasks()
    readers = [client(url) for _ in range(10)]
    for one in readers:
        one.get()
    for one in readers:
        await trio.to_thread.run_sync(one.read_until, b"first")
    await wait_all_tasks_blocked(0.01)
    assert tasks() - before == 10 * IDLE + 1
    for one in readers:
        one.socket.close()
    await aeventually(lambda: tasks() == before, "all tasks have ended")


async def test_disconnect_ends_one_http2_stream(server, http2, app, aeventually):
    """`Disconnect` resets the stream of the slow client, and its neighbour goes on."""
    reports, floodgates, paths = [], trio.Event(), iter(["steady", "slow"])

    async def steady(out):
        await out.send("first")
        await floodgates.wait()
        await out.send("second")

    def response():
        if next(paths) == "steady":
            return sse(steady)
        return sse(floods, policy=Disconnect(), buffer=2, on_close=reports.append)

    peer = await http2(await server(app(response)), grants=False)
    first = await peer.get()
    await peer.until(lambda: b"first" in peer.bodies[first])
    slow = await peer.get()
    await peer.until(lambda: slow in peer.resets)
    await aeventually(lambda: reports, "the producer has cleaned up")
    assert [report.reason for report in reports] == ["slow_consumer"]
    floodgates.set()
    await peer.until(lambda: b"second" in peer.bodies[first])


async def test_a_host_that_is_cancelled_ends_when_the_producer_has_cleaned_up(autojump_clock):
    """Its task is the server's: the host waits for it, and the stream stays attached till then."""
    cleaned, reports, left = [], [], []
    carrier, host = Carrier(), trio.CancelScope()

    async def produce(out):
        try:
            await waits(out)
        finally:
            await trio.sleep(1)
            cleaned.append(trio.current_time())

    async def app(scope, receive, send):
        with host:
            await sse(produce, on_close=reports.append)(scope, receive, send)
        left.append((trio.current_time(), set(carrier.attached)))

    async with open_stream(app, state=carrier.state) as client:
        await client.next_event()
        await wait_all_tasks_blocked()
        host.cancel()
        await wait_all_tasks_blocked()
        assert carrier.attached
        await client.wait_finished()
    assert left == [(cleaned[0], set())]
    assert [report.reason for report in reports] == ["cancelled"]
