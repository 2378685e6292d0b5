"""What a stream is made of is checked when it is made, and what it answers when it is called."""

import asyncio
import functools
import warnings

import pytest
import trio

from flowstream import (
    NDJSON,
    SSE,
    Block,
    Buffer,
    CloseReason,
    DropOldest,
    EncodingError,
    Limits,
    SourceError,
    StreamUsedError,
    csv,
    raw,
    sse,
    stream,
)
from flowstream.testing import collect, open_stream


async def some():
    yield "x"


async def report_async(report):
    pass


class AsyncCallable:
    async def __call__(self, report):
        pass


WRONG = [
    ({"policy": DropOldest}, TypeError, r"such as DropOldest\(\), not the class DropOldest"),
    ({"policy": "drop"}, TypeError, "policy must be a Policy .* not a str"),
    ({"limits": {"max_bytes": 1}}, TypeError, "limits must be a Limits, not a dict"),
    ({"limits": Limits}, TypeError, "limits must be a Limits, not the class Limits"),
    ({"buffer": 0}, ValueError, "buffer items must be at least 1"),
    ({"buffer": -5}, ValueError, "at least 1"),
    ({"buffer": 1.5}, TypeError, "buffer must be an int"),
    ({"buffer": True}, TypeError, "buffer must be an int"),
    ({"heartbeat": 0}, ValueError, "heartbeat must be more than 0 seconds"),
    ({"heartbeat": "15"}, TypeError, "heartbeat must be a number of seconds"),
    ({"prime": -1}, ValueError, "prime must be more than 0"),
    ({"prime": True}, TypeError, "prime must be a number"),
    ({"retry": -1}, ValueError, "retry must be 0 or more milliseconds"),
    ({"retry": 1.5}, TypeError, "retry must be an int"),
    ({"on_reconnect": "resume"}, ValueError, "'refuse' or 'restart', not 'resume'"),
    ({"controls": 0}, TypeError, "controls must be True or False, not a int"),
    ({"on_close": 5}, TypeError, "on_close must be a function, not a int"),
    ({"on_close": report_async}, TypeError, "must be a plain function"),
    ({"on_close": functools.partial(report_async)}, TypeError, "must be a plain function"),
    ({"on_close": AsyncCallable()}, TypeError, "must be a plain function"),
    ({"status": "200"}, TypeError, "status must be an int, not a str"),
    ({"status": True}, TypeError, "status must be an int"),
    ({"status": 199}, ValueError, "from 200 to 599"),
    ({"status": 600}, ValueError, "from 200 to 599"),
    ({"status": 204}, ValueError, "allow a body"),
    ({"status": 304}, ValueError, "allow a body"),
    ({"headers": 5}, TypeError, "a mapping, or pairs of name and value, not a int"),
    ({"headers": "a: b"}, TypeError, "a mapping, or pairs of name and value, not a str"),
    ({"headers": ["ab"]}, TypeError, "a header is a pair of name and value, not 'ab'"),
    ({"headers": [("a", "b", "c")]}, TypeError, "a header is a pair"),
    ({"headers": {"a": 5}}, TypeError, "must be str or bytes, not a int"),
    ({"headers": {"a": "b\r\nset-cookie: x"}}, ValueError, "has a control character in it"),
    ({"headers": {"a": "b\0"}}, ValueError, "has a control character in it"),
    ({"headers": {"a\nb": "c"}}, ValueError, "name must be letters, digits and hyphens"),
    ({"headers": {"a b": "c"}}, ValueError, "name must be letters, digits and hyphens"),
    ({"headers": {"": "c"}}, ValueError, "name must be letters, digits and hyphens"),
    ({"headers": {"a": "\u20ac"}}, ValueError, "must be Latin-1 text, or bytes"),
    ({"headers": {"Content-Length": "5"}}, ValueError, "is the server's"),
    ({"headers": [(b"Transfer-Encoding", b"chunked")]}, ValueError, "is the server's"),
    ({"headers": {"Connection": "close"}}, ValueError, "is the server's"),
    ({"polcy": Block()}, TypeError, "polcy"),
]


@pytest.mark.parametrize(("options", "error", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_option_is_refused_at_the_call(options, error, message):
    """Each message says what was expected, where the mistake was written."""
    with pytest.raises(error, match=message):
        sse(some, **options)


@pytest.mark.parametrize("encoder", [SSE, "sse", None])
def test_a_wrong_encoder_is_refused(encoder):
    """An encoder's class or name is no encoder."""
    with pytest.raises(TypeError, match=r"encoder must be an Encoder such as SSE\(\)"):
        stream(some, encoder=encoder)


@pytest.mark.parametrize("make", [lambda: DropOldest(size=3), lambda: Limits(max_items=3)])
def test_unknown_arguments_of_values_are_refused(make):
    """A policy or limit that does not exist is a TypeError that names it."""
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        make()


@pytest.mark.parametrize("name", ["stall_timeout", "cleanup_timeout"])
def test_a_limit_that_has_to_be_cannot_be_none(name):
    """Only max_duration and max_bytes may be None; the others would fail in the first stream."""
    with pytest.raises(TypeError, match=f"{name} must be a number of seconds"):
        Limits(**{name: None})


@pytest.mark.parametrize("source", ["text", b"bytes", {"a": 1}, 5, lambda: None, object])
def test_what_is_no_source_is_refused(source):
    """A SourceError, which is a TypeError, says what would have been one."""
    with pytest.raises(SourceError, match="expected an async iterable"):
        sse(source)


async def test_headers_are_sent_as_given(autojump_clock):
    """The app's headers replace flowstream's of the same name, and keep repeated ones."""
    headers = [("Set-Cookie", "a=1"), (b"set-cookie", "b=2"), ("Cache-Control", " private ")]
    response = await collect(sse(some, headers=headers, status=206))
    assert response.status == 206
    assert response.headers["set-cookie"] == "a=1, b=2"
    assert response.headers["cache-control"] == "private"
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "content-length" not in response.headers
    assert "connection" not in response.headers


def test_a_response_shows_status_and_headers_as_copies():
    """What a framework changes of them changes nothing in the response."""
    response = raw(some, media_type="text/plain", headers={"X-Own": "1"})
    assert response.status == 200
    response.headers.clear()
    assert (b"content-type", b"text/plain") in response.headers
    assert (b"x-own", b"1") in response.headers


# HEAD and what is no request of ours


@pytest.mark.parametrize("make", [sse, csv, raw])
async def test_head_never_runs_the_producer(make, reports, autojump_clock):
    """A HEAD has the status and headers of a GET and no body; the report says refused."""
    started = []

    async def produce(out):
        started.append(True)

    response = make(produce, on_close=reports.append, prime=10, status=201)
    answer = await collect(response, method="HEAD")
    assert (answer.status, answer.body, started) == (201, b"", [])
    assert answer.headers.raw == tuple(response.headers)
    (report,) = reports
    assert (report.reason, report.items, report.bytes) == (CloseReason.REFUSED, 0, 0)
    assert response.statistics().state == "closed"


async def test_head_closes_a_channel(autojump_clock):
    """A channel source is released, so that its senders learn of it."""
    send, receive = trio.open_memory_channel(5)
    await collect(raw(receive), method="HEAD")
    with pytest.raises(trio.BrokenResourceError):
        await send.send(b"x")


async def test_a_source_that_cannot_be_closed_is_logged(reports, logged, autojump_clock):
    """The client of a HEAD gets its answer, whatever the source's close raises."""

    class Unclosable:
        def __aiter__(self):
            return self

        async def __anext__(self):
            raise StopAsyncIteration

        async def aclose(self):
            raise ValueError

    response = sse(Unclosable(), on_close=reports.append)
    assert (await collect(response, "/u", method="HEAD")).status == 200
    assert logged() == [("ERROR", "the source of /u failed while it was closed")]
    assert len(reports) == 1


async def test_a_response_is_used_once(reports, autojump_clock):
    """A second call raises StreamUsedError, before anything is sent."""
    response = sse(some, on_close=reports.append)
    await collect(response)
    with pytest.raises(StreamUsedError, match="make one per request"):
        await collect(response)
    assert len(reports) == 1


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
async def test_only_http_is_answered(kind):
    """Another kind of scope is a RuntimeError, and leaves the response unused."""
    response = sse(some)
    with pytest.raises(RuntimeError, match=f"answers HTTP requests, not '{kind}'"):
        await response({"type": kind}, None, None)
    assert (await collect(response)).status == 200


def test_another_event_loop_is_told_apart():
    """On asyncio the error says which server to use."""
    with pytest.raises(RuntimeError, match="hypercorn --worker-class trio"):
        asyncio.run(sse(some)({"type": "http"}, None, None))


def test_a_response_is_no_data():
    """Iterating it, as a framework does that takes it for data, says what it is."""
    for step in (iter, next):
        with pytest.raises(TypeError, match="is an ASGI application, not data"):
            step(sse(some))


# prime


async def test_priming_waits_for_the_first_item(autojump_clock):
    """The status line goes out with the first item, not before."""

    async def produce(out):
        await trio.sleep(3)
        await out.send("x")
        await trio.sleep_forever()

    async with open_stream(sse(produce, prime=10)) as client:
        await trio.sleep(2.9)
        assert client.status is None
        await trio.sleep(0.2)
        assert client.status == 200
        assert (await client.next_event()).data == "x"


async def test_priming_ends_when_its_time_is_up(reports, read_events, autojump_clock):
    """After `prime` seconds the 200 goes out, and a later failure is told in band."""

    async def produce(out):
        await trio.sleep(3)
        raise ValueError

    async with open_stream(sse(produce, prime=1, on_close=reports.append)) as client:
        start = trio.current_time()
        await client.started()
        assert trio.current_time() - start == pytest.approx(1)
        assert [kind for kind, _, _ in await read_events(client)] == ["failed"]


class ForbiddenError(Exception):
    pass


@pytest.mark.parametrize(
    "error", [ForbiddenError("no"), ExceptionGroup("two", [ForbiddenError(), ValueError()])]
)
async def test_a_primed_failure_is_the_frameworks(error, reports, logged, autojump_clock):
    """The exception itself propagates, in no group, before any ASGI message, after cleanup."""
    cleaned, sent = [], []

    async def produce(out):
        try:
            await trio.sleep(1)
            raise error
        finally:
            await trio.sleep(1)
            cleaned.append(True)

    async def send(message):
        sent.append(message)

    response = sse(produce, prime=10, on_close=reports.append)
    with pytest.raises(type(error)) as caught:
        await response({"type": "http", "method": "GET"}, trio.sleep_forever, send)
    assert caught.value is error
    assert error.__cause__ is None
    assert (cleaned, sent) == ([True], [])
    assert [(report.reason, report.error) for report in reports] == [(CloseReason.ERROR, error)]
    assert logged() == []


async def test_a_primed_item_that_cannot_be_encoded_is_the_frameworks(autojump_clock):
    """An EncodingError of the first item is an ordinary error of the app."""
    with pytest.raises(EncodingError, match="object"):
        await collect(stream([object()], encoder=NDJSON(), prime=1))


async def test_priming_a_source_that_ends_at_once(read_events, autojump_clock):
    """An empty source is no failure: 200 and `end`."""
    async with open_stream(sse([], prime=10)) as client:
        start = trio.current_time()
        assert [kind for kind, _, _ in await read_events(client)] == ["end"]
        assert client.status == 200
        assert trio.current_time() == start


@pytest.mark.parametrize("how", ["stop", "max_duration"])
async def test_a_stream_ended_while_it_is_primed(how, reports, read_events, autojump_clock):
    """stop() and max_duration end the wait, and the client is told why."""

    async def produce(out):
        await trio.sleep_forever()

    limits = Limits(max_duration=5 if how == "max_duration" else None)
    response = sse(produce, prime=10, limits=limits, on_close=reports.append)
    async with open_stream(response) as client:
        if how == "stop":
            await trio.sleep(5)
            response.stop()
        ((kind, body, _),) = await read_events(client)
    assert kind == ("end" if how == "stop" else "reconnect")
    assert body == {"reason": reports[0].reason.value}
    assert reports[0].duration == pytest.approx(5)


async def test_a_response_that_is_never_called_leaves_nothing(autojump_clock):
    """A producer function that no stream ran warns of nothing."""

    async def produce(out):
        pass

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sse(produce, buffer=Buffer(items=3))
