"""The registry of the streams of a Trio run: who runs, how the others ended, who is told."""

from __future__ import annotations

import datetime
import gc
import logging
import threading
import weakref
from collections import Counter

import pytest
import trio
from fastapi import FastAPI
from quart_trio import QuartTrio
from starlette.applications import Starlette
from starlette.routing import Route

import flowstream
from flowstream import (
    Limits,
    Topic,
    _registry,
    add_instrument,
    live_streams,
    ndjson,
    remove_instrument,
    sse,
    streams_statistics,
)
from flowstream.abc import Instrument
from flowstream.asgi.response import exchange_of
from flowstream.quart import Flowstream
from flowstream.sources import Source
from flowstream.starlette import response
from flowstream.testing import collect, open_lifespan, open_stream


async def ticks():
    while True:
        yield 1
        await trio.sleep(1)


class Notes(Instrument):
    """Keeps what it is told."""

    def __init__(self):
        self.started = []
        self.ended = []

    def stream_started(self, stream):
        self.started.append(stream)

    def stream_ended(self, stream, report):
        self.ended.append((stream, report))


# -- what there is to see ------------------------------------------------------------------


async def test_live_streams_are_listed_the_oldest_first(autojump_clock):
    """Each has a path without its query, the time of its start, and statistics."""
    before = datetime.datetime.now(datetime.UTC)
    assert live_streams() == ()
    async with open_stream(sse(ticks), "/first?token=secret") as first:
        await first.next_event()
        await first.next_event()
        async with open_stream(sse(ticks), "/second") as second:
            await second.next_event()
            one, two = live_streams()
            assert (one.path, two.path) == ("/first", "/second")
            assert one.statistics().items >= 2
            assert one.statistics().state == two.statistics().state == "open"
            assert before <= one.since <= two.since <= datetime.datetime.now(datetime.UTC)
            assert "secret" not in repr(one) + repr(two)
        assert [stream.path for stream in live_streams()] == ["/first"]
    assert live_streams() == ()
    assert streams_statistics().closed == {"client_disconnected": 2}


async def test_a_view_is_one_and_lets_go_of_its_stream(autojump_clock):
    """It is the same each time, and keeps the last statistics alone when the stream is over."""
    streamed = ndjson([1, 2])
    async with open_stream(streamed, window=0) as client:
        await client.wait_blocked()
        (view,) = live_streams()
        assert live_streams() == (view,)
        stream = weakref.ref(exchange_of(streamed).stream)
        client.resume()
        assert await client.read_all()
    del streamed, client
    gc.collect()
    assert stream() is None
    final = view.statistics()
    assert (final.state, final.reason, final.items) == ("closed", "completed", 2)


async def test_a_view_changes_nothing():
    """It has three things to read, and none that can be set."""
    async with open_stream(sse(ticks)) as client:
        await client.started()
        (view,) = live_streams()
        public = {name for name in dir(view) if not name.startswith("_")}
        assert public == {"path", "since", "statistics"}
        for name in ("path", "since", "extra"):
            with pytest.raises(AttributeError):
                setattr(view, name, "x")


async def test_a_path_is_on_one_line():
    """A client cannot write lines of its own into a list."""
    async with open_stream(sse(ticks), "/a%0Ab") as client:
        await client.started()
        (view,) = live_streams()
        assert "\n" not in view.path + repr(view)


async def test_every_end_is_counted(autojump_clock):
    """By its reason, a stream that never began included."""

    async def fails():
        yield 1
        raise ValueError

    await collect(sse([1]))
    await collect(sse(fails))
    await collect(sse(ticks, limits=Limits(max_duration=2)))
    await collect(sse([1]), method="HEAD")
    async with open_stream(sse(ticks)) as client:
        client.abort()
    expected = ("completed", "error", "max_duration", "refused", "client_disconnected")
    assert streams_statistics() == flowstream.StreamsStatistics(0, dict.fromkeys(expected, 1))


# -- in every home --------------------------------------------------------------------------


def quart(make):
    app = QuartTrio(__name__)
    Flowstream(app)

    @app.get("/")
    async def view():
        return make()

    return app


def starlette(make):
    async def view(request):
        return make()

    return Starlette(routes=[Route("/", view)])


def fastapi(make):
    app = FastAPI()

    @app.get("/")
    async def view():
        return response(make())

    return app


def bare(make):
    async def app(scope, receive, send):
        await make()(scope, receive, send)

    return app


HOMES = {"bare": bare, "quart": quart, "starlette": starlette, "fastapi": fastapi}


@pytest.mark.parametrize("home", HOMES)
async def test_in_every_home(home, autojump_clock):
    """A stream is in the list while it runs, and an instrument hears of both ends."""
    notes = Notes()
    add_instrument(notes)
    async with open_stream(HOMES[home](lambda: sse(ticks))) as client:
        await client.next_event()
        (view,) = live_streams()
        assert notes.started == [view]
        assert streams_statistics() == flowstream.StreamsStatistics(1, {})
    assert [(one, report.reason) for one, report in notes.ended] == [(view, "client_disconnected")]
    assert streams_statistics() == flowstream.StreamsStatistics(0, {"client_disconnected": 1})


@pytest.mark.parametrize("home", HOMES)
async def test_on_our_server(home, server, client, aeventually):
    """Streams of a topic, which need no task, enter and leave as others do."""
    topic = Topic("t")
    notes = Notes()
    add_instrument(notes)
    url = await server(HOMES[home](lambda: sse(topic)))
    peers = [client(url) for _ in range(3)]
    for peer in peers:
        peer.get("/")
    await aeventually(lambda: len(live_streams()) == topic.subscribers == 3, "all are here")
    peers[0].socket.close()
    await aeventually(lambda: len(live_streams()) == 2, "one has left")
    await topic.aclose()
    await aeventually(lambda: not live_streams(), "all have left")
    assert streams_statistics().closed == {"client_disconnected": 1, "completed": 2}
    assert len(notes.started) == len(notes.ended) == 3


async def test_the_streams_of_two_apps(autojump_clock):
    """Each Quart app counts its own; the run has those of both."""
    one, two = quart(lambda: sse([1])), quart(lambda: sse(ticks))
    await collect(one, "/")
    async with open_stream(two, "/") as client:
        await client.next_event()
        counted = [app.extensions["flowstream"].statistics() for app in (one, two)]
        assert [(moment.open, moment.closed) for moment in counted] == [
            (0, {"completed": 1}),
            (1, {}),
        ]
        assert streams_statistics() == flowstream.StreamsStatistics(1, {"completed": 1})


# -- one a run --------------------------------------------------------------------------------


def test_each_run_has_its_own():
    """Two runs in two threads see their own streams, and neither sees the other's."""
    both = threading.Barrier(2, timeout=30)
    seen = {}

    async def main(name: str, count: int) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(collect, sse(ticks, limits=Limits(max_duration=1)), f"/{name}")
            while len(live_streams()) < count:
                await trio.lowlevel.checkpoint()
            await trio.to_thread.run_sync(both.wait)
            seen[name] = Counter(stream.path for stream in live_streams())
            await trio.to_thread.run_sync(both.wait)
            nursery.cancel_scope.cancel()

    threads = [threading.Thread(target=trio.run, args=(main, *it)) for it in (("a", 2), ("b", 5))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert seen == {"a": {"/a": 2}, "b": {"/b": 5}}


def test_nothing_is_left_of_a_run():
    """Registry and instrument go with their run, also if its streams were cut off."""
    left = []

    async def main() -> None:
        notes = Notes()
        add_instrument(notes)
        left.extend([weakref.ref(notes), weakref.ref(_registry.registry_of_run())])
        with trio.move_on_after(0):
            await collect(sse(ticks))
        assert len(notes.started) == len(notes.ended) == 1

    trio.run(main)
    gc.collect()
    assert [reference() for reference in left] == [None, None]


@pytest.mark.parametrize(
    "call",
    [live_streams, streams_statistics, lambda: add_instrument(Notes())],
)
def test_outside_a_run(call):
    """Where no Trio run is, the error says where to call it."""
    with pytest.raises(RuntimeError, match="Call it in an async def view, or where the app starts"):
        call()


async def test_in_a_plain_function_of_before_serving():
    """Quart-Trio runs it in a thread: the error says to write ``async def``."""
    app = quart(lambda: sse([1]))
    app.before_serving(lambda: add_instrument(Notes()))
    with pytest.raises(RuntimeError, match="in an async def function of Quart's before_serving"):
        async with open_lifespan(app):
            pass


async def test_from_a_worker_thread():
    """The error says how a worker thread does it, and that works."""

    def view():
        with pytest.raises(RuntimeError, match=r"trio\.from_thread\.run_sync"):
            live_streams()
        return trio.from_thread.run_sync(live_streams)

    assert await trio.to_thread.run_sync(view) == ()


# -- instruments -------------------------------------------------------------------------------


async def test_an_instrument_of_the_lifespan(autojump_clock):
    """Added where the app starts, it hears of each stream."""
    notes = Notes()
    app = quart(lambda: sse([1, 2]))

    @app.before_serving
    async def start():
        add_instrument(notes)

    async with open_lifespan(app) as served:
        await collect(served or app, "/")
    ((view, report),) = notes.ended
    assert (view.path, report.items, report.reason) == ("/", 2, "completed")


async def test_it_is_told_in_order_and_may_ask(autojump_clock):
    """At the start the stream is in the list and new; at the end it is out, and counted."""
    told = []

    class Asks(Instrument):
        def stream_started(self, stream):
            told.append((stream in live_streams(), stream.statistics().items))

        def stream_ended(self, stream, report):
            told.append((stream in live_streams(), dict(streams_statistics().closed)))
            assert stream.statistics().items == report.items == 1

    add_instrument(Asks())
    await collect(sse([1], on_close=lambda report: told.append("on_close")))
    assert told == [(True, 0), (False, {"completed": 1}), "on_close"]


@pytest.mark.parametrize("error", [ValueError, GeneratorExit, BaseExceptionGroup])
@pytest.mark.parametrize("method", ["stream_started", "stream_ended"])
async def test_one_that_raises_is_dropped(method, error, caplog):
    """The log has it once, others are told all the same, and no client notices."""

    def fails(*_):
        raise error("no", [ValueError()]) if error is BaseExceptionGroup else error

    calls = Counter()

    class Broken(Instrument):
        pass

    def count_and_fail(self, *what):
        calls[method] += 1
        fails()

    setattr(Broken, method, count_and_fail)
    first, last = Notes(), Notes()
    for instrument in (first, Broken(), last):
        add_instrument(instrument)
    reports = []
    for _ in range(3):
        body = (await collect(sse([1], on_close=reports.append))).body
        assert b"data: 1" in body
        assert b"event: end" in body
    assert len(first.ended) == len(last.ended) == len(reports) == 3
    assert calls[method] == 1
    failures = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.getMessage() for record in failures] == [
        f"{Broken.__qualname__}.{method} failed: it is told nothing more"
    ]
    assert failures[0].exc_info


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("home", HOMES)
async def test_one_that_ends_the_program_leaves_no_entry(home, error):
    """The stream never began: it is in no list, and counted nowhere."""
    asked = []

    class Ends(Instrument):
        def stream_started(self, stream):
            asked.append(live_streams() == (stream,))
            raise error

    add_instrument(Ends())
    app = HOMES[home](lambda: sse([1]))
    with pytest.raises(BaseException) as caught:  # alone or in groups
        await collect(app)
    ended = caught.value
    while isinstance(ended, BaseExceptionGroup):
        (ended,) = ended.exceptions
    assert isinstance(ended, error)
    assert asked == [True]
    assert streams_statistics() == flowstream.StreamsStatistics(0, {})
    if home == "quart":
        moment = app.extensions["flowstream"].statistics()
        assert (moment.open, moment.closed) == (0, {})


async def test_a_stream_leaves_when_its_log_line_fails():
    """A filter of the app's logging that raises keeps no stream in the list."""

    class Broken(logging.Filter):
        def filter(self, record):
            raise ValueError("no")

    notes, broken = Notes(), Broken()
    add_instrument(notes)
    logger = logging.getLogger("flowstream")
    logger.addFilter(broken)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        with pytest.raises(ValueError, match="no"):
            await collect(sse([1]))
    finally:
        logger.removeFilter(broken)
        logger.setLevel(level)
    assert streams_statistics() == flowstream.StreamsStatistics(0, {"completed": 1})
    assert len(notes.ended) == 1


async def test_a_refused_stream_leaves_when_it_is_cancelled(autojump_clock):
    """A HEAD whose source is cancelled while it is released is counted, too."""

    class Slow(Source):
        async def run(self, out):
            raise AssertionError("never opened")

        async def discard(self):
            await trio.sleep_forever()

    with trio.move_on_after(1):
        await collect(sse(Slow()), method="HEAD", timeout=60)
    assert streams_statistics() == flowstream.StreamsStatistics(0, {"refused": 1})


async def test_added_twice_and_removed():
    """It is told once of each thing, and of nothing when it was removed."""
    notes = Notes()
    add_instrument(notes)
    add_instrument(notes)
    await collect(sse([1]))
    remove_instrument(notes)
    remove_instrument(notes)
    await collect(sse([1]))
    assert len(notes.started) == len(notes.ended) == 1


async def test_one_that_leaves_while_it_is_told():
    """Those behind it are told all the same."""

    class Once(Notes):
        def stream_started(self, stream):
            super().stream_started(stream)
            remove_instrument(self)

    once, last = Once(), Notes()
    add_instrument(once)
    add_instrument(last)
    await collect(sse([1]))
    await collect(sse([1]))
    assert (len(once.started), len(last.started)) == (1, 2)


class Waits(Instrument):
    async def stream_ended(self, stream, report):
        pass


@pytest.mark.parametrize(
    ("instrument", "message"),
    [
        (Notes, r"expected an instance, not the class Notes: add_instrument\(Notes\(\)\)"),
        (object(), "expected a flowstream.abc.Instrument, not a object"),
        (None, "expected a flowstream.abc.Instrument, not a NoneType"),
        (Waits(), "Waits.stream_ended must be a plain function"),
    ],
)
async def test_a_wrong_instrument_is_refused_at_once(instrument, message):
    """The sentence says what was expected."""
    with pytest.raises(TypeError, match=message):
        add_instrument(instrument)


async def test_it_finds_the_variables_of_the_view(autojump_clock):
    """What a view has set, for a trace for instance, is there at both ends."""
    import contextvars

    trace = contextvars.ContextVar("trace", default="none")
    found = []

    class Traces(Instrument):
        def stream_started(self, stream):
            found.append(trace.get())

        def stream_ended(self, stream, report):
            found.append(trace.get())

    add_instrument(Traces())

    def make():
        trace.set("abc")
        return sse([1])

    await collect(starlette(make), "/")
    assert found == ["abc", "abc"]


def test_the_methods_of_an_instrument_do_nothing():
    """One that wants only the ends writes only that."""
    assert _registry._METHODS == ("stream_started", "stream_ended")
