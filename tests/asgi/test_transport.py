"""A stream speaks through its transport alone: one that is no HTTP response carries all of it.

The transport here is of messages, as a WebSocket is: what the client gets is a list, and nothing of
a request, a status or a header is known to it.
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from flowstream import (
    NDJSON,
    SSE,
    Block,
    Buffer,
    CloseReason,
    Disconnect,
    DropOldest,
    Limits,
    PublicError,
    Topic,
    live_streams,
)
from flowstream.asgi._direct_write import DIRECT_WRITE_KEY, NotDirect
from flowstream.asgi._stream import Stream
from flowstream.asgi.plan import make_plan
from flowstream.framing import Framing

SCOPE = {"type": "a list", "path": "/list"}


@dataclass(frozen=True)
class Numbered(Framing):
    """A direct write's message: how many events there are, and their bytes."""

    def frame(self, pieces):
        return b"%d:%b" % (len(pieces), b"".join(pieces))


class Messages:
    """A transport whose client is a list: each write is one message; a `Transport`.

    Args:
        takes_direct: whether publishers may write past the writer.

    Attributes:
        got: what the client has got: bytes, and "open", "end", "cut" and "withdrawn".
        open: an event; a write waits until it is set.
        fault: what a write and the answer raise, if anything.
    """

    takes_pieces = False
    holds_back = False

    def __init__(self, *, takes_direct=False):
        self.got = []
        self.open = trio.Event()
        self.open.set()
        self.fault = None
        self.asked = None  # what `open_direct` was told
        self._takes_direct = takes_direct
        self._order = [["begin", "open_direct", "cut"]]  # what may be called now

    def _called(self, name):
        assert name in self._order[-1], f"{name} after {self.got[-1:]}"

    @property
    def direct(self):
        return self._write_directly if self._takes_direct else None

    @property
    def why_not_direct(self):
        return None if self._takes_direct else NotDirect.OTHER_SERVER

    def open_direct(self, given, app):
        self._called("open_direct")
        self.asked = given

    def _write_directly(self, data):
        if not self.open.is_set() or self.fault is not None:
            return False
        self._called("write")
        self.got.append(data)
        return True

    async def begin(self):
        self._called("begin")
        self._order.append(["withdraw", "cut"])
        await self._pass()
        self.got.append("open")
        self._order.append(["write", "flush", "end", "cut"])

    async def write(self, data):
        self._called("write")
        assert data, "a message without anything in it"
        await self._pass()
        self.got.append(data)
        return len(data)

    async def _pass(self):
        await self.open.wait()
        if self.fault is not None:
            raise self.fault

    async def flush(self):
        self._called("flush")

    async def end(self):
        self._called("end")
        self.got.append("end")
        self._order.append(["cut", "flush"])
        return 0

    def cut(self):
        self._called("cut")
        if self.got and self.got[-1] not in ("end", "withdrawn"):
            self.got.append("cut")
        self._order.append(["flush"])

    def withdraw(self):
        self._called("withdraw")
        self.got.append("withdrawn")
        self._order.append(["cut", "flush"])

    @property
    def messages(self):
        return [one for one in self.got if isinstance(one, bytes)]

    def values(self):
        """Return the values of all messages, each of which must have whole lines."""
        assert all(message.endswith(b"\n") for message in self.messages)
        lines = b"".join(self.messages).splitlines()
        return [json.loads(line) for line in lines if line]


@asynccontextmanager
async def delivered(source, transport, encoder=NDJSON(), *, state=None, **options):  # noqa: B008
    """Deliver `source` to `transport` while the block runs, and wait for the end of it behind."""
    scope = SCOPE if state is None else {**SCOPE, "state": state}
    stream = Stream(make_plan(source, encoder, **options), scope)

    async def host(nursery):
        stream.begin(nursery)
        try:
            await stream.deliver(transport)
        finally:
            await stream.finish()

    async with trio.open_nursery() as outer:
        done = trio.Event()

        async def run():
            async with trio.open_nursery() as nursery:
                try:
                    await host(nursery)
                finally:
                    nursery.cancel_scope.cancel()
            done.set()

        outer.start_soon(run)
        yield stream
        await done.wait()


async def silent(out):
    """A producer that makes nothing."""
    await trio.sleep_forever()


@pytest.fixture
def report(reports):
    """Return the one report that there is."""

    def only():
        (one,) = reports
        return one

    return only


async def test_a_whole_stream_goes_to_a_list(reports, report, autojump_clock):
    """Events, the last word and the end arrive in this order, each event in a message by itself."""

    async def slowly():
        for n in range(3):
            yield {"n": n}
            await trio.sleep(1)

    client = Messages()
    async with delivered(slowly, client, on_close=reports.append):
        pass
    assert client.got[0] == "open"
    assert client.got[-1] == "end"
    assert len(client.messages) == 4
    *events, last = client.values()
    assert events == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert "end" in str(last)
    assert report().reason is CloseReason.COMPLETED
    assert (report().items, report().bytes) == (3, sum(map(len, client.messages)))


async def test_a_message_has_whole_events(reports, report, autojump_clock):
    """Neither a large event nor a flood of small ones is cut: a message is no row of bytes."""
    large = "x" * 100_000

    async def flood():
        yield {"text": large}
        for n in range(20_000):
            yield {"n": n}

    client = Messages()
    async with delivered(flood, client, on_close=reports.append):
        pass
    first, *others = client.values()
    assert first == {"text": large}
    assert [one["n"] for one in others if "n" in one] == list(range(20_000))
    assert len(client.messages) < 2000  # what waits together goes together
    assert report().items == 20_001


async def test_a_silent_stream_has_heartbeats(reports, autojump_clock):
    """Each is a message of its own, and comes after the silence that the stream was given."""
    client = Messages()
    async with delivered(silent, client, SSE(), heartbeat=10, on_close=reports.append) as stream:
        await wait_all_tasks_blocked()
        before = len(client.messages)
        await trio.sleep(35)
        beats = client.messages[before:]
        assert len(beats) in (3, 4)
        assert set(beats) == {SSE().heartbeat()}
        stream.close(CloseReason.STOPPED)
    assert client.got[-1] == "end"


async def test_a_client_that_takes_nothing_is_given_up(reports, report, autojump_clock):
    """A write without progress ends the stream after its bound: stalled, cut, with no last word."""
    cleaned_up = []

    async def produce():
        try:
            while True:
                yield {"n": 1}
                await trio.sleep(1)
        finally:
            cleaned_up.append(trio.current_time())

    client = Messages()
    start = trio.current_time()
    async with delivered(produce, client, limits=Limits(stall_timeout=20), on_close=reports.append):
        await trio.sleep(5.5)
        client.open = trio.Event()
        taken = len(client.messages)
    assert report().reason is CloseReason.STALLED
    assert client.got[-1] == "cut"
    assert len(client.messages) == taken
    (when,) = cleaned_up
    assert 25 <= when - start <= 32
    assert live_streams() == ()


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        (CloseReason.STOPPED, "end"),
        (CloseReason.COMPLETED, "end"),
        (CloseReason.SHUTDOWN, "reconnect"),
        (CloseReason.MAX_DURATION, "reconnect"),
        (CloseReason.ERROR, "failed"),
        (CloseReason.RATE_LIMITED, "failed"),
    ],
)
async def test_a_graceful_end_is_told(reason, word, reports, report, autojump_clock):
    """For each reason what is queued goes out, then the event that says why, then the end."""
    client = Messages()

    async def produce(out):
        for n in range(3):
            await out.send(n)
        await trio.sleep_forever()

    async with delivered(produce, client, on_close=reports.append) as stream:
        await wait_all_tasks_blocked()
        client.open = trio.Event()
        stream.beat()
        await wait_all_tasks_blocked()
        stream.close(reason)
        client.open.set()
    assert client.got[-1] == "end"
    assert client.values()[:3] == [0, 1, 2]
    assert f'"{word}"'.encode() in client.messages[-1]
    assert report().reason is reason


async def test_a_failure_is_told(reports, report, autojump_clock):
    """A producer's public error is a message like any other, and the transport ends in order."""

    async def fails():
        yield 1
        raise PublicError("gone", "the feed is away")

    client = Messages()
    async with delivered(fails, client, on_close=reports.append):
        pass
    assert b"the feed is away" in client.messages[-1]
    assert client.got[-1] == "end"
    assert report().reason is CloseReason.ERROR


async def test_a_format_without_controls_is_cut(reports, report, autojump_clock):
    """What can't say that it failed has no end: the transport is cut, so that half is no whole."""

    async def fails():
        yield 1
        raise ValueError

    client = Messages()
    async with delivered(fails, client, controls=False, on_close=reports.append):
        pass
    assert client.got == ["open", b"1\n", "cut"]
    assert report().reason is CloseReason.ERROR


@pytest.mark.parametrize("fault", [ConnectionResetError(), trio.BrokenResourceError()])
async def test_a_client_that_has_left_is_noticed(fault, reports, report, autojump_clock):
    """A write that fails as one to a closed connection is the client's leave, and no error."""

    async def produce():
        while True:
            yield 1
            await trio.sleep(1)

    client = Messages()
    async with delivered(produce, client, on_close=reports.append):
        await trio.sleep(1.5)
        client.fault = fault
    assert client.got == ["open", b"1\n", b"1\n", "cut"]
    assert report().reason is CloseReason.CLIENT_DISCONNECTED


async def test_a_slow_client_is_ended_by_its_policy(reports, report, autojump_clock):
    """A full buffer under `Disconnect` ends the stream at once: what is queued is dropped."""
    client = Messages()

    async def produce(out):
        await out.send(1)
        await wait_all_tasks_blocked()
        client.open = trio.Event()
        for n in range(10):
            await out.send(n)

    options = {"policy": Disconnect(), "buffer": Buffer(4), "on_close": reports.append}
    async with delivered(produce, client, **options):
        pass
    assert client.got == ["open", b"1\n", "cut"]
    assert report().reason is CloseReason.SLOW_CONSUMER


async def test_a_bound_in_bytes_holds(reports, report, autojump_clock):
    """No message passes `max_bytes`: the one that would is left out and announced."""
    client = Messages()
    limits = Limits(max_bytes=20)
    options = {"limits": limits, "policy": Block(), "on_close": reports.append}

    async def produce():
        for _ in range(3):
            yield "x" * 8
            await trio.sleep(1)

    async with delivered(produce, client, **options):
        pass
    values = client.values()
    assert values[:1] == ["x" * 8]
    assert values.count("x" * 8) < 3
    assert client.got[-1] == "end"
    assert report().reason is CloseReason.MAX_BYTES


async def test_what_is_dropped_is_announced(reports, autojump_clock):
    """Events and gaps together are all that was published, in order, in whole messages."""
    topic = Topic("prices")
    client = Messages()
    options = {"policy": DropOldest(), "buffer": Buffer(4), "on_close": reports.append}
    async with delivered(topic, client, **options):
        await wait_all_tasks_blocked()
        await topic.publish(0)
        await wait_all_tasks_blocked()
        client.open = trio.Event()
        for n in range(1, 20):
            await topic.publish(n)
        await wait_all_tasks_blocked()
        client.open.set()
        await topic.aclose()
    (report,) = reports
    assert report.items + report.dropped == 20
    numbers = [value for value in client.values() if isinstance(value, int)]
    assert numbers == sorted(numbers)
    assert b'"gap"' in b"".join(client.messages)
    assert f'"missed":{report.dropped}'.encode() in b"".join(client.messages)


async def test_publishers_write_past_the_writer(reports, report, autojump_clock):
    """A transport with a framing and a direct write of its own gets events so, in order."""
    topic = Topic("prices")
    client = Messages(takes_direct=True)
    state = {DIRECT_WRITE_KEY: SimpleNamespace(framing=Numbered())}
    async with delivered(
        topic, client, state=state, direct=True, on_close=reports.append
    ) as stream:
        await wait_all_tasks_blocked()
        for n in range(3):
            await topic.publish(n)
        client.open = trio.Event()  # now they go through the buffer
        await topic.publish(3)
        await wait_all_tasks_blocked()
        client.open.set()
        await wait_all_tasks_blocked()
        await topic.publish(4)
        assert stream.statistics().why_not_direct is None
        await topic.aclose()
    assert client.asked is True
    *_, zero, one, two, three, four, last = client.messages
    for n, message in enumerate([zero, one, two, b"1:" + three, four]):
        assert message.startswith(b"1:{")
        assert json.loads(message[2:])["data"] == n
    assert b'"end"' in last
    assert report().items == 5


async def test_a_transport_says_why_publishers_may_not(reports, autojump_clock):
    """A stream's statistics have the transport's own reason, and the stream's where it decides."""
    topic = Topic("prices")
    for options, why_not in [
        ({}, NotDirect.OTHER_SERVER),
        ({"where": lambda event: True}, NotDirect.FILTER),
        ({"direct": False}, NotDirect.SWITCHED_OFF),
    ]:
        async with delivered(topic, Messages(), **options) as stream:
            await wait_all_tasks_blocked()
            assert stream.statistics().why_not_direct == why_not
            stream.close(CloseReason.STOPPED)


async def test_an_answer_that_fails_is_withdrawn(reports, report, autojump_clock):
    """What `begin` raises reaches the host, and somebody else may answer: nothing was sent."""
    client = Messages()
    client.fault = ZeroDivisionError()
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with delivered(silent, client, on_close=reports.append):
            pass
    assert client.got == ["withdrawn"]
    assert report().reason is CloseReason.ERROR
