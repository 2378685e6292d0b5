"""OpenTelemetry's context and the app's own context variables in every kind of source.

A span that is open around the call of `stream()` is the parent of the spans that the producer
opens, and whatever a producer attaches to its context it can detach again, however its stream
ends. When that fails OpenTelemetry logs "Failed to detach context" as an error; here no error
may be logged.
"""

from __future__ import annotations

import contextvars
import itertools
import json
import logging
import random
import threading
from collections import Counter
from contextlib import aclosing, contextmanager, suppress

import pytest
import trio
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from quart_trio import QuartTrio

import flowstream
from flowstream import DropOldest, Runs, StreamReport, Topic, ndjson, resumable
from flowstream.quart import Flowstream
from flowstream.server import streaming_config
from flowstream.sources import batched, merge, progress, throttle, with_timeout
from flowstream.sources.llm.llama import local_tokens
from flowstream.testing import EndOfBody, collect, open_stream

ITEMS = 6

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")
own: contextvars.ContextVar[int] = contextvars.ContextVar("own", default=-1)


class ProducerFailedError(Exception):
    """What a producer of these tests fails with."""


class Books(SpanProcessor):
    """Every span that was begun and ended, by an OpenTelemetry of the test's own."""

    def __init__(self):
        self.lock = threading.Lock()
        self.begun = Counter()
        self.ended = []
        self.items = ITEMS
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(self)
        self.tracer = provider.get_tracer("tests")

    def on_start(self, span, parent_context=None):
        with self.lock:
            self.begun[span.name] += 1

    def on_end(self, span):
        with self.lock:
            self.ended.append(span)

    @contextmanager
    def span(self, name):
        """A span, baggage and a variable of the app's own: each is attached, and detached."""
        with self.tracer.start_as_current_span(name, record_exception=False) as span:
            outer = context.attach(baggage.set_baggage("span", name))
            token = own.set(span.context.span_id)
            try:
                yield
            finally:
                assert own.get() == span.context.span_id
                own.reset(token)  # raises in a context that it was not set in
                assert baggage.get_baggage("span") == name
                context.detach(outer)
                assert trace.get_current_span() is span

    def check(self, streams):
        """Every span has ended; each producer's parent is a view's, in the view's trace."""
        assert self.begun["view"] == streams
        assert Counter(span.name for span in self.ended) == self.begun
        spans = {span.context.span_id: span for span in self.ended}
        parents = {"view": None, "producer": "view", "item": "producer", "cleanup": "producer"}
        for span in self.ended:
            parent = spans[span.parent.span_id] if span.parent else None
            assert (parent.name if parent else None) == parents[span.name]
            if parent is not None:
                assert span.context.trace_id == parent.context.trace_id


@pytest.fixture
def books(caplog):
    yield Books()
    errors = [one for one in caplog.get_records("call") if one.levelno >= logging.ERROR]
    assert not errors, [one.getMessage() for one in errors]


def steps(books, fail):
    """Numbers, each made in a span; between two of them the tenant and spans are looked at."""
    assert tenant.get() == "acme"
    for n in range(books.items):
        if fail and n == ITEMS // 2:
            raise ProducerFailedError
        with books.span("item"):
            assert baggage.get_baggage("span") == "item"
        inside = trace.get_current_span()
        yield n
        assert trace.get_current_span() is inside
        assert baggage.get_baggage("span") == "producer"


def async_generator(books, fail):
    async def produce():
        with books.span("producer"):
            try:
                for n in steps(books, fail):
                    await trio.sleep(0.001)
                    yield n
            finally:
                with books.span("cleanup"):
                    await trio.sleep(0.001)

    return produce()


def async_generator_function(books, fail):
    async def produce():
        async with aclosing(async_generator(books, fail)) as inner:
            async for n in inner:
                yield n

    return produce


def producer_with_a_nursery(books, fail):
    async def one(out, n):
        with books.span("item"):
            await out.send(n)
            await trio.sleep(0.001)

    async def produce(out):
        with books.span("producer"):
            async with trio.open_nursery() as nursery:
                for n in steps(books, fail):
                    nursery.start_soon(one, out, n)
                    await trio.sleep(0.001)

    return produce


def sync_generator(books, fail):
    def rows():
        with books.span("producer"):
            try:
                yield from steps(books, fail)
            finally:
                with books.span("cleanup"):
                    pass

    return rows()


def sync_generator_function(books, fail):
    return lambda: (yield from sync_generator(books, fail))


class Cursor:
    """Attaches with its first row, detaches when it is closed: an instrumented database's."""

    def __init__(self, books, fail):
        self._rows = sync_generator(books, fail)

    def __iter__(self):
        return self

    def __next__(self):
        return next(self._rows)

    def close(self):
        self._rows.close()


def resumable_history(books, fail):
    return resumable(lambda after: async_generator(books, fail))


def resumable_rows(books, fail):
    return resumable(lambda after: sync_generator(books, fail))


def async_iterable(books, fail):
    """One with an iterator of its own, as SDKs have them."""

    class Stream:
        def __init__(self):
            self._inner = async_generator(books, fail)

        def __aiter__(self):
            return self

        async def __anext__(self):
            return await anext(self._inner)

        async def aclose(self):
            await self._inner.aclose()

    return Stream()


def throttled(books, fail):
    return throttle(async_generator(books, fail), per_second=2000)


def in_batches(books, fail):
    return batched(async_generator(books, fail), 2, 0.0005)


def merged(books, fail):
    return merge(async_generator(books, fail), [])


def watched(books, fail):
    return with_timeout(async_generator(books, fail), first=5, between=5)


def with_progress(books, fail):
    return progress(async_generator(books, fail), every=0.002)


def wrapped_rows(books, fail):
    return throttle(merge(sync_generator(books, fail), []), per_second=5000)


def language_model(books, fail):
    """One that computes in its own thread, traced."""

    class Model:
        def create_chat_completion(self, messages, **options):
            for n in sync_generator(books, fail):
                yield {"choices": [{"delta": {"content": str(n)}, "finish_reason": None}]}

    return local_tokens(Model(), [{"role": "user"}])


IN_THE_LOOP = [
    async_generator,
    async_generator_function,
    async_iterable,
    producer_with_a_nursery,
    resumable_history,
    throttled,
    in_batches,
    merged,
    watched,
    with_progress,
]
IN_THREADS = [
    sync_generator,
    sync_generator_function,
    Cursor,
    resumable_rows,
    wrapped_rows,
    language_model,
]
KINDS = [*IN_THE_LOOP, *IN_THREADS]


def view_of(books, make, *, fail=False, reports=None, **options):
    """An app whose view is over, with its span, before its stream starts."""
    reports = [] if reports is None else reports

    async def app(scope, receive, send):
        response = respond(books, make, fail=fail, reports=reports, **options)
        assert not trace.get_current_span().get_span_context().is_valid
        await response(scope, receive, send)

    return app


def respond(books, make, *, fail=False, reports, **options):
    token = tenant.set("acme")
    with books.tracer.start_as_current_span("view") as span:

        def on_close(report):
            reports.append(report)
            assert trace.get_current_span() is span
            assert tenant.get() == "acme"

        response = ndjson(make(books, fail), controls=False, on_close=on_close, **options)
    tenant.reset(token)
    return response


def numbers_in(body):
    """The numbers that arrived, of whatever kind of source."""
    for item in map(json.loads, body.splitlines()):
        match item:
            case int():
                yield item
            case list():
                yield from item
            case {"type": "token", "data": text}:
                yield int(text)
            case {"data": int(n)}:
                yield n


@pytest.fixture
def reports():
    return []


@pytest.fixture
def clock(request):
    """The virtual clock for what runs in the loop; it takes a working thread for silence."""
    in_the_loop = request.node.callspec.params["make"] in IN_THE_LOOP
    return request.getfixturevalue("autojump_clock") if in_the_loop else None


@pytest.mark.parametrize("make", KINDS)
async def test_a_producers_spans_are_children_of_the_views(make, clock, books, reports):
    """Though the view, and its span, were over before the producer ran its first line."""
    response = await collect(view_of(books, make, reports=reports))
    assert sorted(numbers_in(response.body)) == list(range(ITEMS))
    assert [report.reason for report in reports] == ["completed"]
    assert books.begun["producer"] == 1
    books.check(1)


@pytest.mark.parametrize("make", KINDS)
async def test_a_failing_producer_detaches(make, clock, books, reports, caplog):
    """What it attached is detached while its exception passes, and only that is logged."""
    caplog.set_level(logging.CRITICAL, "flowstream")
    await collect(view_of(books, make, fail=True, reports=reports))
    error = reports[0].error
    error = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
    assert isinstance(error, ProducerFailedError)
    books.check(1)


@pytest.mark.parametrize("make", IN_THE_LOOP)
async def test_a_producer_detaches_wherever_its_client_leaves(make, clock, books, reports):
    """After any number of items, and in any turn of the scheduler after that."""
    app = view_of(books, make, reports=reports)
    count = 0
    for items, turns in itertools.product(range(ITEMS), range(7)):
        async with open_stream(app) as client:
            if items:
                await client.read(2 * items - 1)
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            client.abort()
        count += 1
    assert len(reports) == count
    books.check(count)


@pytest.mark.parametrize("make", IN_THE_LOOP)
async def test_a_producer_that_waits_for_its_client_detaches(make, clock, books, reports):
    """Cancelled in `send`, at a `yield`, with its spans open: by an abort, and by a stop."""
    responses = []

    async def app(scope, receive, send):
        responses.append(respond(books, make, reports=reports, buffer=1))
        await responses[-1](scope, receive, send)

    for end in ("abort", "stop"):
        async with open_stream(app, window=0) as client:
            await client.wait_blocked()
            await trio.testing.wait_all_tasks_blocked()
            if end == "stop":
                responses[-1].stop()
            else:
                client.abort()
    assert [report.reason for report in reports] == ["client_disconnected", "stopped"]
    books.check(2)


@pytest.mark.parametrize("make", IN_THREADS)
async def test_a_generator_in_threads_is_closed_in_its_own_context(make, books, reports):
    """Whichever thread closes it, and however the client left: what it attached is detached."""
    chance = random.Random(7)
    app = view_of(books, make, reports=reports, buffer=1)
    books.items = 300  # more than a thread fetches at a time
    count = 12

    async def one_client():
        async with open_stream(app, window=0) as client:
            with suppress(EndOfBody):
                await client.read(chance.choice((1, 10, 100, 1500)))
            for _ in range(chance.choice((0, 0, 1, 3, 20))):
                await trio.lowlevel.checkpoint()
            client.abort()

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one_client)
    assert len(reports) == count
    books.check(count)


async def test_a_thread_that_is_inside_the_generator_closes_it_in_its_context(books, reports):
    """The client goes while `next()` blocks: the thread that comes back detaches."""
    token = trio.lowlevel.current_trio_token()
    inside, go_on = trio.Event(), threading.Event()

    def blocked(books, fail):
        with books.span("producer"):
            yield 0
            token.run_sync_soon(inside.set)
            assert go_on.wait(30)
            yield 1

    async with open_stream(view_of(books, blocked, reports=reports)) as client:
        await inside.wait()
        client.abort()
        go_on.set()
    assert [report.reason for report in reports] == ["client_disconnected"]
    books.check(1)


async def test_a_thread_that_is_left_behind_closes_it_in_its_context(books, reports):
    """It comes back when the stream is long over, and detaches where it attached."""
    token = trio.lowlevel.current_trio_token()
    inside, left, go_on = trio.Event(), trio.Event(), threading.Event()

    def blocked(books, fail):
        try:
            with books.span("producer"):
                yield 0
                token.run_sync_soon(inside.set)
                assert go_on.wait(30)
                yield 1
        finally:
            token.run_sync_soon(left.set)

    limits = flowstream.Limits(cleanup_timeout=0.01)
    async with open_stream(view_of(books, blocked, reports=reports, limits=limits)) as client:
        await inside.wait()
        client.abort()
    assert books.begun["producer"] == 1
    assert len(reports) == 1
    go_on.set()
    await left.wait()
    books.check(1)


async def test_a_producer_that_took_too_long_detaches(autojump_clock, books, reports, caplog):
    """Cancelled by the wrapper that watches it, and not with its client."""
    caplog.set_level(logging.CRITICAL, "flowstream")

    def slow(books, fail):
        async def tokens():
            with books.span("producer"):
                yield 0
                with books.span("item"):
                    await trio.sleep(60)

        return with_timeout(tokens, between=5)

    await collect(view_of(books, slow, reports=reports))
    assert reports[0].error.code == "timeout"
    books.check(1)


async def test_a_runs_producer_belongs_to_the_view_that_started_it(autojump_clock, books):
    """Whoever reads it, and when that view's client has long gone."""
    runs = Runs()

    async def app(scope, receive, send):
        if scope["path"] == "/start":
            with books.tracer.start_as_current_span("view"):
                token = tenant.set("acme")
                run = runs.start("chat", async_generator_function(books, False))
                tenant.reset(token)
        else:
            run = runs["chat"]
        await ndjson(run)(scope, receive, send)

    async with Flowstream():
        async with open_stream(app, "/start") as client:
            await client.read(2)
            client.abort()
        assert list(numbers_in((await collect(app, "/read")).body)) == list(range(ITEMS))
    books.check(1)


async def test_items_of_a_list_and_of_a_topic_have_the_views_context_at_the_end(reports, books):
    """There is no producer to trace, but `on_close` finds the view's span all the same."""
    response = await collect(view_of(books, lambda *_: [1, 2], reports=reports))
    assert response.body == b"1\n2\n"
    topic = Topic("prices")
    async with open_stream(view_of(books, lambda *_: topic, reports=reports)) as client:
        await client.started()
        client.abort()
    assert [report.reason for report in reports] == ["completed", "client_disconnected"]
    books.check(2)


async def test_views_do_not_see_each_others_context(autojump_clock, books):
    """What one producer sets is seen by no other, and not by the task that serves it."""
    seen = []

    async def app(scope, receive, send):
        tenant.set(scope["path"])

        async def produce():
            seen.append(tenant.get())
            tenant.set("changed")
            yield 1

        await ndjson(produce)(scope, receive, send)
        seen.append(tenant.get())

    for path in ("/a", "/b"):
        await collect(app, path)
    assert seen == ["/a", "/a", "/b", "/b"]
    assert tenant.get() == "nobody"


async def test_a_span_for_the_streams_life(autojump_clock, books):
    """A span that the view leaves open is current in `on_close`, which ends it with the report."""

    def end(report: StreamReport):
        span = trace.get_current_span()
        span.set_attribute("flowstream.reason", report.reason)
        span.set_attribute("flowstream.items", report.items)
        span.end()

    async def app(scope, receive, send):
        with trace.use_span(books.tracer.start_span("view"), end_on_exit=False):
            response = ndjson(async_generator_function(books, False), on_close=end)
        await response(scope, receive, send)

    token = tenant.set("acme")
    await collect(app)
    async with open_stream(app) as client:
        await client.read(2)
        client.abort()
    tenant.reset(token)
    books.check(2)
    attributes = [dict(span.attributes) for span in books.ended if span.name == "view"]
    assert attributes[0] == {"flowstream.reason": "completed", "flowstream.items": ITEMS}
    assert attributes[1]["flowstream.reason"] == "client_disconnected"
    for span in books.ended:
        if span.name == "view":  # it outlasted its children
            children = [one for one in books.ended if one.parent == span.context]
            assert all(one.end_time <= span.end_time for one in children)


def quart_app(books, reports, *, fail=False):
    app = QuartTrio("traced")
    Flowstream(app)

    @app.get("/<int:kind>")
    async def view(kind):
        return respond(books, KINDS[kind], fail=fail, reports=reports, policy=DropOldest())

    @app.get("/endless/<int:kind>")
    async def endless(kind):
        def make(books, fail):
            async def tokens():
                with books.span("producer"):
                    for n in itertools.count():
                        with books.span("item"):
                            await trio.sleep(0.001)
                        yield n

            def rows():
                with books.span("producer"):
                    yield from itertools.count()

            return (tokens, rows)[kind]

        return respond(books, make, reports=reports, buffer=4)

    return app


async def visit(url, path, size):
    """Read so many bytes of an answer and leave without a word; all of it if that is None."""
    host, port = url.removeprefix("http://").rsplit(":", 1)
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        await stream.send_all(
            f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        )
        got = 0
        with suppress(trio.BrokenResourceError):
            while size is None or got < size:
                data = await stream.receive_some(4096 if size is None else size - got)
                if not data:
                    break
                got += len(data)


@contextmanager
def quietly(caplog):
    """Without the log of failures that the test wants."""
    with caplog.at_level(logging.CRITICAL, "flowstream"):
        yield


async def test_under_quart_on_real_sockets(server, books, reports, aeventually, caplog):
    """Whole answers, failed ones, and clients that leave at random, of every kind at once."""
    chance = random.Random(11)
    whole = await server(quart_app(books, reports))
    failing = await server(quart_app(books, reports, fail=True))
    visits = [(url, kind, None) for kind in range(len(KINDS)) for url in (whole, failing)]
    visits += [
        (whole, kind, chance.randrange(1, 420)) for kind in range(len(KINDS)) for _ in "1234"
    ]
    chance.shuffle(visits)
    with quietly(caplog):
        async with trio.open_nursery() as nursery:
            for url, kind, size in visits:
                nursery.start_soon(visit, url, f"/{kind}", size)
        await aeventually(lambda: len(reports) == len(visits), "a report for each")
    assert Counter(report.reason for report in reports)["error"] == len(KINDS)
    books.check(len(visits))


async def test_a_shutdown_of_the_server(books, reports, aeventually):
    """Endless producers of clients that read, and of some that don't, end with it and detach."""
    stop = trio.Event()
    config = streaming_config(bind=["127.0.0.1:0"], graceful_timeout=1.0)
    async with trio.open_nursery() as nursery:

        async def serve(task_status):
            await flowstream.serve(
                quart_app(books, reports),
                config,
                shutdown_trigger=stop.wait,
                task_status=task_status,
            )

        (url,) = await nursery.start(serve)
        async with trio.open_nursery() as clients:
            for kind in (0, 1):
                for size in (None, None, 600):
                    clients.start_soon(visit, url, f"/endless/{kind}", size)
            await aeventually(lambda: books.begun["producer"] == 6, "six producers")
            await aeventually(lambda: len(reports) == 2, "two that have left")
            stop.set()
    assert Counter(report.reason for report in reports) == {
        "shutdown": 4,
        "client_disconnected": 2,
    }
    books.check(6)
