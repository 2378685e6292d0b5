"""Starlette on Trio: a route returns a stream as it returns any other response."""

import gzip
import runpy
import sys

import pytest
import trio
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import JSONResponse
from starlette.routing import Route

import flowstream.starlette
from flowstream import CloseReason, MissingExtraError, Runs, ndjson, raw, sse
from flowstream.starlette import SharedBody, lifespan, response
from flowstream.testing import collect, open_lifespan, open_stream


def starlette(view, *, methods=("GET",), **options):
    return Starlette(routes=[Route("/", view, methods=list(methods))], **options)


async def test_a_route_returns_a_stream(autojump_clock):
    """A route's stream comes out whole, with its status and headers."""

    async def view(request):
        async def greet():
            yield request.query_params["name"]

        return sse(greet, status=201, headers={"X-One": "1"})

    answer = await collect(starlette(view), "/?name=ann")
    assert (answer.status, answer.headers["x-one"]) == (201, "1")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert b"data: ann\n" in answer.body
    assert answer.complete


async def test_a_primed_http_exception_goes_to_the_handlers(autojump_clock):
    """A producer that raises HTTPException(403) at once gives the app's own 403."""

    async def forbidden():
        raise HTTPException(403, "not for you")
        yield

    async def view(request):
        return sse(forbidden, prime=1)

    async def handler(request, error):
        return JSONResponse({"detail": error.detail}, error.status_code)

    assert (await collect(starlette(view))).status == 403
    answer = await collect(starlette(view, exception_handlers={HTTPException: handler}))
    assert (answer.status, answer.body) == (403, b'{"detail":"not for you"}')


async def test_a_head_request_runs_no_producer(autojump_clock):
    """HEAD on a GET route has the headers, and starts nothing."""
    started = []

    async def producer(out):
        started.append(out)

    async def view(request):
        return sse(producer)

    answer = await collect(starlette(view), method="HEAD")
    assert (answer.status, answer.body, answer.complete) == (200, b"", True)
    assert not started


async def test_the_client_leaves(autojump_clock):
    """A disconnect cancels the producer, whose cleanup is waited for."""
    order = []

    async def producer():
        try:
            yield "a"
            await trio.sleep_forever()
        finally:
            await trio.sleep(1)
            order.append("producer")

    async def view(request):
        return sse(producer, on_close=lambda report: order.append(report.reason.value))

    async with open_stream(starlette(view)) as client:
        await client.next_event()
        client.abort()
    assert order == ["producer", "client_disconnected"]


async def test_behind_a_middleware_that_wraps_the_response(autojump_clock):
    """Starlette's BaseHTTPMiddleware, which runs the app in a task of its own, lets a stream
    pass piece by piece, adds its headers, and the disconnect arrives.
    """
    reports = []

    class Stamp(BaseHTTPMiddleware):
        async def dispatch(self, request, call_next):
            answer = await call_next(request)
            answer.headers["X-Stamp"] = "1"
            return answer

    async def view(request):
        async def producer():
            yield "a"
            await trio.sleep(5)
            yield "b"
            await trio.sleep_forever()

        return sse(producer, on_close=reports.append)

    app = starlette(view, middleware=[Middleware(Stamp)])
    async with open_stream(app, exit_timeout=10) as client:
        assert (await client.next_event()).data == "a"
        assert trio.current_time() < 1
        assert client.headers["x-stamp"] == "1"
        assert (await client.next_event()).data == "b"
        client.abort()
    assert [report.reason for report in reports] == [CloseReason.CLIENT_DISCONNECTED]


async def test_a_shared_body(autojump_clock):
    """With SharedBody a producer answers an upload piece by piece, and the view of an
    ordinary route reads its body as ever.
    """
    more = trio.Event()

    async def upload():
        yield b"one"
        await more.wait()
        yield b"two"

    async def view(request):
        async def upper():
            async for data in request.stream():
                if data:
                    yield data.upper()

        return raw(upper())

    async def length(request):
        return JSONResponse(len(await request.body()))

    app = starlette(view, methods=["POST"], middleware=[Middleware(SharedBody)])
    app.add_route("/length", length, methods=["POST"])
    async with open_stream(app, method="POST", body=upload()) as client:
        assert await client.read(3) == b"ONE"
        more.set()
        assert await client.read_all() == b"TWO"
        assert client.complete
    assert (await collect(app, "/length", method="POST", body=b"abc")).body == b"3"


async def test_shared_body_leaves_other_scopes_alone():
    """A lifespan or a WebSocket passes through SharedBody with the server's own receive."""
    seen = []

    async def app(scope, receive, send):
        seen.append(receive)

    async def receive():
        raise AssertionError("called")

    await SharedBody(app)({"type": "lifespan"}, receive, None)
    assert seen == [receive]


async def test_a_wrapped_response_takes_cookies_headers_and_status(autojump_clock):
    """What is set on `response(...)` is sent, for the stream and for a HEAD."""

    async def view(request):
        wrapped = response(ndjson([1], controls=False))
        wrapped.status_code = 202
        wrapped.headers["X-One"] = "1"
        wrapped.set_cookie("a", "b")
        return wrapped

    for method, body in (("GET", b"1\n"), ("HEAD", b"")):
        answer = await collect(starlette(view), method=method)
        assert (answer.status, answer.body) == (202, body)
        assert answer.headers["x-one"] == "1"
        assert answer.headers["set-cookie"].startswith("a=b")


async def test_a_wrapped_response_refuses_a_returning_client(autojump_clock):
    """The 204 that stops an EventSource is not turned into the status that was set."""

    async def view(request):
        wrapped = response(sse(["a"]))
        wrapped.status_code = 202
        return wrapped

    answer = await collect(starlette(view), headers={"Last-Event-ID": "abc.1"})
    assert (answer.status, answer.body) == (204, b"")


async def test_background_tasks_run_after_the_stream(autojump_clock):
    """A background task of a wrapped response starts when the last byte is out."""
    order = []

    async def view(request):
        async def producer():
            yield 1
            order.append("producer")

        async def later():
            order.append("background")

        wrapped = response(ndjson(producer))
        wrapped.background = BackgroundTask(later)
        return wrapped

    await collect(starlette(view))
    assert order == ["producer", "background"]


@pytest.mark.parametrize("given", ["text", None, JSONResponse({})])
def test_only_a_stream_can_be_wrapped(given):
    """Anything else is a TypeError that names what it was."""
    with pytest.raises(TypeError, match=f"not a {type(given).__name__}"):
        response(given)


def test_without_starlette_the_message_names_the_extra(monkeypatch):
    """Importing the module without Starlette says what to install."""
    monkeypatch.setitem(sys.modules, "starlette.responses", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'flowstream-trio\[starlette\]'"):
        runpy.run_path(flowstream.starlette.__file__)


async def test_runs_have_a_lifespan_on_starlette(autojump_clock):
    """With the lifespan that is offered a run outlives its request, and ends with the app."""
    runs, ended = Runs(), []

    async def count():
        try:
            for n in range(100):
                await trio.sleep(1)
                yield str(n)
        finally:
            ended.append(True)

    async def view(request):
        return sse(runs.get_or_start("chat", count))

    app = starlette(view, lifespan=lifespan)
    async with open_lifespan(app) as state:
        for _ in range(2):
            async with open_stream(app, state=state) as client:
                assert [(await client.next_event()).data for _ in range(2)] == ["0", "1"]
        assert not ended
    assert ended


@pytest.mark.parametrize("own", [None, "br"])
async def test_an_encoding_of_the_apps_own_is_left_alone(own):
    """A body that the app has encoded is not compressed once more, nor called what it is not."""

    async def view(request):
        made = response(raw([b"body"], compress="gzip"))
        if own is not None:
            made.headers["content-encoding"] = own
        return made

    answer = await collect(starlette(view), headers={"Accept-Encoding": "gzip"})
    assert answer.headers["content-encoding"] == (own or "gzip")
    assert (answer.body if own else gzip.decompress(answer.body)) == b"body"
