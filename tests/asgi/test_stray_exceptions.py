"""Exceptions that do not derive from Exception: each is one stream's failure, no more."""

import asyncio
import json
import logging

import pytest
import trio

from flowstream import (
    NDJSON,
    Event,
    PublicError,
    Topic,
    ndjson,
    sse,
    stream,
)
from flowstream.tasks._failure import passes, split
from flowstream.testing import collect, open_stream


class PanicException(BaseException):
    """What a panic in an extension written in Rust is."""


STRAY = (asyncio.CancelledError, GeneratorExit, PanicException)
ENDS_THE_PROGRAM = (KeyboardInterrupt, SystemExit)


@pytest.fixture(params=STRAY, ids=lambda kind: kind.__name__)
def stray(request):
    """An exception that is no Exception."""
    return request.param("odd")


def cancelled():
    """Return a Cancelled of Trio's, which makes none for others."""
    caught = None

    async def run():
        nonlocal caught
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.sleep_forever()
            except trio.Cancelled as error:
                caught = error
                raise

    trio.run(run)
    return caught


def test_what_goes_through():
    """Cancelled, KeyboardInterrupt and SystemExit, alone or in a group; nothing else."""
    inside = cancelled()
    for kind in STRAY:
        assert not passes(kind())
        assert not passes(BaseExceptionGroup("", [kind(), ValueError()]))
        assert passes(BaseExceptionGroup("", [kind(), inside]))
        assert passes(BaseExceptionGroup("", [BaseExceptionGroup("", [SystemExit()]), kind()]))
    for kind in ENDS_THE_PROGRAM:
        assert passes(kind())
        assert split(kind()) == (None, None)
    assert passes(inside)
    assert not passes(ValueError())


def test_a_group_is_split():
    """A cancellation and a failure in one group come apart, however they are nested."""
    failure = PanicException()
    both = BaseExceptionGroup("", [cancelled(), BaseExceptionGroup("", [failure])])
    taken, rest = split(both)
    assert isinstance(taken, BaseExceptionGroup)
    assert taken.split(trio.Cancelled)[1] is None
    assert rest.exceptions[0].exceptions == (failure,)


async def report_of(make, reports):
    result = await collect(make(on_close=reports.append))
    (report,) = reports
    return result, report


async def test_of_a_producer(stray, reports, autojump_clock):
    """It is the stream's error, and the client is told that it failed, as for any other."""

    async def generator():
        yield 1
        raise stray

    result, report = await report_of(lambda **options: ndjson(generator, **options), reports)
    assert result.body.splitlines()[-1].startswith(b'{"type":"failed"')
    assert (report.reason, report.error) == ("error", stray)


async def test_of_a_producer_function(stray, reports, autojump_clock):
    """Also out of a nursery, in a group."""

    async def produce(out):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            await out.send(1)
            raise stray

    _, report = await report_of(lambda **options: ndjson(produce, **options), reports)
    assert report.reason == "error"
    assert report.error.exceptions == (stray,)


async def test_of_a_sync_iterable_in_a_thread(stray, reports):
    """Also out of a worker thread."""

    def rows():
        yield 1
        raise stray

    _, report = await report_of(lambda **options: ndjson(rows, **options), reports)
    assert report.reason == "error"


async def test_of_cleanup(stray, reports, caplog, autojump_clock):
    """What a producer raises while it is ended is logged, and the reason stands."""

    async def generator():
        try:
            while True:
                yield 1
                await trio.sleep(1)
        finally:
            raise stray

    async with open_stream(ndjson(generator, on_close=reports.append)) as client:
        await client.read(1)
        client.abort()
    assert [report.reason for report in reports] == ["client_disconnected"]
    assert "failed while it was ended" in caplog.text


async def test_of_an_encoder(stray, reports, autojump_clock):
    """An encoder's is the stream's error."""

    class Odd(NDJSON):
        def encode(self, *args, **kwargs):
            raise stray

    _, report = await report_of(lambda **options: stream([1], encoder=Odd(), **options), reports)
    assert report.reason == "error"


async def test_of_a_filter(stray, reports, autojump_clock):
    """What ``where=`` raises is that stream's error; the topic and its others go on."""

    def where(event):
        raise stray

    topic = Topic("t")
    async with open_stream(sse(topic, where=where, on_close=reports.append)) as client:
        await client.started()
        async with open_stream(sse(topic)) as other:
            await other.started()
            await topic.publish(1)
            assert (await other.next_event()).data == "1"
        await client.read_all()
    assert [(report.reason, report.error) for report in reports] == [("error", stray)]


async def test_of_on_close(stray, caplog, autojump_clock):
    """What `on_close` raises is logged."""

    def on_close(report):
        raise stray

    result = await collect(ndjson([1], on_close=on_close))
    assert b'"end"' in result.body
    assert "on_close of / failed" in caplog.text


async def test_of_a_snapshot_function(stray, caplog, autojump_clock):
    """A snapshot function's ends the stream that asked for it, and says no more to its client."""

    async def snapshot():
        raise stray

    topic = Topic("t", snapshot=snapshot)
    async with open_stream(sse(topic)) as client:
        event = await client.next_event()
    assert (event.type, json.loads(event.data)["code"]) == ("failed", "snapshot")
    assert "a snapshot function failed" in caplog.text


async def test_of_a_publisher(stray, autojump_clock):
    """An item that nobody can encode is the publisher's EncodingError."""

    class Odd:
        def __iter__(self):
            raise stray

        @property
        def __dict__(self):
            raise stray

    class Encoder(NDJSON):
        def encode(self, data, **options):
            if isinstance(data, Odd):
                raise stray
            return super().encode(data, **options)

    topic = Topic("t")
    async with open_stream(stream(topic, encoder=Encoder())) as client:
        await client.started()
        with pytest.raises(ValueError, match="cannot be encoded"):
            await topic.publish(Odd())
        await topic.publish(1)
        await client.read(1)


async def test_of_a_primed_producer(stray, autojump_clock):
    """It is raised as itself, for the framework or the server to answer with a 500."""

    async def generator():
        raise stray
        yield

    with pytest.raises(type(stray)):
        await collect(ndjson(generator, prime=1))


async def test_public_error_beside_one(stray, reports, autojump_clock):
    """A PublicError in the same group is still what the client is told."""

    async def produce(out):
        raise BaseExceptionGroup("", [stray, PublicError("quota", "Used up.")])

    result, report = await report_of(lambda **options: ndjson(produce, **options), reports)
    assert b"Used up." in result.body
    assert report.reason == "error"


async def test_a_supervised_job(stray, caplog, autojump_clock):
    """A run that raises one ends alone."""
    from flowstream import Runs
    from flowstream.quart import Flowstream

    async def producer(out):
        await out.send(Event(1))
        raise stray

    async def good(out):
        await out.send(2)
        await trio.sleep(1)
        await out.send(3)

    runs = Runs()
    async with Flowstream():
        runs.start("bad", producer)
        run = runs.start("good", good)
        result = await collect(sse(run))
    assert b"data: 3" in result.body
    assert "failed" in caplog.text
    assert not [r for r in caplog.records if r.levelno > logging.ERROR]
