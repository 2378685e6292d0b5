"""httpx2 over HTTP/1.1 and over HTTP/2: streams whole, aborted and many at once."""

from contextlib import aclosing

import httpx2
import pytest
import trio

from flowstream import CloseReason, ndjson, sse
from flowstream.decoders import SSEDecoder

# httpx2 leaves its inner generators to the garbage collector when a response is left early.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning")


@pytest.fixture(params=["HTTP/1.1", "HTTP/2"])
def version(request):
    """A version of HTTP."""
    return request.param


@pytest.fixture
async def http(version):
    """A client of that version; HTTP/2 in cleartext, by prior knowledge."""
    http2 = version == "HTTP/2"
    async with httpx2.AsyncClient(http1=not http2, http2=http2, timeout=20) as client:
        yield client


class Events:
    """Streams `count` SSE events of a generator; counts starts, endings and reports."""

    def __init__(self, count=None, *, pause=0.0):
        self.count = count
        self.pause = pause
        self.started = self.ended = 0
        self.reports = []

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            await sse(self.numbers, on_close=self.reports.append)(scope, receive, send)

    async def numbers(self):
        self.started += 1
        n = 0
        try:
            while n != self.count:
                yield n
                n += 1
                if self.pause:
                    await trio.sleep(self.pause)
        finally:
            self.ended += 1


async def test_a_stream_from_beginning_to_end(server, http, version, clean_log, aeventually):
    """All events arrive in order, then `end`; the version is the one that was asked for."""
    app = Events(2000)
    response = await http.get(await server(app))
    assert response.status_code == 200
    assert response.http_version == version
    events = SSEDecoder().feed(response.content)
    assert [event.data for event in events[:-1]] == [str(n) for n in range(2000)]
    assert events[-1].type == "end"
    await aeventually(lambda: app.reports, "the report")
    assert [report.reason for report in app.reports] == [CloseReason.COMPLETED]


async def test_leaving_in_the_middle(server, clean_log, aeventually):
    """Closing a response cancels its producer."""
    app = Events(pause=0.001)
    url = await server(app)
    async with (
        httpx2.AsyncClient() as client,
        client.stream("GET", url) as response,
        aclosing(response.aiter_raw()) as body,
    ):
        await anext(body)
    await aeventually(lambda: app.reports, "the report")
    assert app.started == app.ended == 1
    assert [report.reason for report in app.reports] == [CloseReason.CLIENT_DISCONNECTED]


async def test_many_streams_of_one_client(server, http, clean_log):
    """Thirty streams at once, over HTTP/2 on one connection, each come out whole."""
    app = Events(200, pause=0.0001)
    url = await server(app)
    bodies = []

    async def one():
        bodies.append((await http.get(url)).text)

    async with trio.open_nursery() as nursery:
        for _ in range(30):
            nursery.start_soon(one)
    assert len(bodies) == 30
    assert all(body.count("\ndata: ") == 201 for body in bodies)
    assert app.started == app.ended == 30


async def test_a_connection_is_used_again(server, clean_log):
    """After a whole stream the same HTTP/1.1 connection serves the next request."""
    ports = []

    async def app(scope, receive, send):
        if scope["type"] == "http":
            ports.append(scope["client"][1])
            await ndjson([1], controls=False)(scope, receive, send)

    url = await server(app)
    async with httpx2.AsyncClient() as client:
        for _ in range(3):
            assert (await client.get(url)).text == "1\n"
    assert len(set(ports)) == 1


async def test_a_failed_export_is_an_error_of_the_client(server, caplog):
    """A raw stream whose producer failed makes httpx2 raise, not return half of it."""
    from flowstream import raw

    async def half():
        yield b"half"
        raise ValueError

    async def app(scope, receive, send):
        await raw(half)(scope, receive, send)

    url = await server(app)
    async with httpx2.AsyncClient() as client:
        with pytest.raises(httpx2.RemoteProtocolError):
            await client.get(url)


async def test_a_204_for_a_returning_client(server, http, clean_log):
    """A Last-Event-ID gets a 204 without a body over either version."""
    app = Events(3)
    response = await http.get(await server(app), headers={"Last-Event-ID": "abc.1"})
    assert (response.status_code, response.content) == (204, b"")
    assert app.started == 0
