"""Requests that a proxy could read otherwise are refused before an application is asked."""

import re

import hpack
import pytest
import trio
from _reading import read_to_end
from _request_probes import HTTP1, HTTP2
from fuzzing.http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    frame,
)

from flowstream.server._request_rules import (
    RequestHead,
    is_host,
    is_target,
    judge_http1,
    judge_http2,
)
from flowstream.server.http1._plain_request import read_plain


class App:
    """Answers with 200; `asked` are the scopes."""

    def __init__(self):
        self.asked = []

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            return
        self.asked.append(scope)
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x"})


async def over_http1(stream, request):
    await stream.send_all(request)
    found = re.match(rb"HTTP/1.1 (\d+)", await read_to_end(stream))
    return int(found[1]) if found else 0


async def over_http2(stream, request):
    """Return the status, or 0 for a stream or a connection that was ended."""
    fields, ended = request
    head = frame(HEADERS, END_HEADERS | ended, 1, hpack.Encoder().encode(fields))
    body = b"" if ended else frame(DATA, END_STREAM, 1, b"hello")
    await stream.send_all(PREFACE + frame(SETTINGS, 0, 0) + head + body)
    decoder, found = hpack.Decoder(), b""
    with trio.fail_after(10):
        while some := await stream.receive_some():
            found += some
            while len(found) >= 9 and len(found) >= (end := 9 + int.from_bytes(found[:3])):
                kind, payload, found = found[3], found[9:end], found[end:]
                if kind == HEADERS:
                    return int(dict(decoder.decode(payload))[":status"])
                if kind in (RST_STREAM, GOAWAY):
                    return 0
    return 0


@pytest.mark.parametrize(
    ("probes", "ask", "h2c"),
    [(HTTP1, over_http1, False), (HTTP2, over_http2, True)],
    ids=["HTTP/1.1", "HTTP/2"],
)
async def test_the_verdicts(server, connect, clean_log, probes, ask, h2c):
    """Each probe has the answer of the table; the application is asked only if it is taken."""
    app = App()
    url = await server(app, h2c=h2c)
    found = {}
    for probe in probes:
        app.asked.clear()
        stream = await connect(url)
        found[probe.name] = await ask(stream, probe.request)
        await stream.aclose()
        if "chunk" not in probe.name:  # the head of which is good
            assert len(app.asked) == (found[probe.name] == 200), probe.name
    for probe in probes:
        status = found[probe.name]
        if 200 not in (status, probe.ours) and 0 in (status, probe.ours):
            found[probe.name] = (
                probe.ours
            )  # h2 refuses some at once: which, is the release's matter
    assert found == {probe.name: probe.ours for probe in probes}


def test_no_more_lenient_than_nginx():
    """What nginx refuses is refused, but for what a row of the table gives a reason for."""
    for probe in [*HTTP1, *HTTP2]:
        assert bool(probe.why) == (probe.nginx != probe.ours), probe.name
    lenient = [one.name for one in [*HTTP1, *HTTP2] if one.ours < 400 <= one.nginx and one.ours]
    assert lenient == ["TRACE", "TRACE", "the same host"]


def test_plain_requests_have_the_same_verdict():
    """A probe that is read without h11 is one that would be taken."""
    plain = []
    for probe in HTTP1:
        request = probe.request.replace(b"Connection: close\r\n", b"")
        if read_plain(request, 256) is not None:
            plain.append(probe.name)
            assert probe.ours == 200, probe.name
    assert {"GET", "a query", "an escaped letter", "an address of IPv6"} <= {*plain}


@pytest.mark.parametrize(
    ("target", "path", "authority"),
    [
        (b"http://evil.example/p?q=1", b"/p?q=1", b"evil.example"),
        (b"HTTPS://a:8/", b"/", b"a:8"),
        (b"http://a", b"/", b"a"),
        (b"http://a?q", b"/?q", b"a"),
        (b"http://[::1]/http://b/", b"/http://b/", b"[::1]"),
    ],
)
def test_an_absolute_target(target, path, authority):
    """It is taken apart: a path for the application, and a host in place of the header."""
    for headers in ([(b"A", b"b"), (b"Host", b"x")], [(b"A", b"b")]):
        asked = RequestHead(b"GET", target, b"1.0", headers)
        expected = RequestHead(b"GET", path, b"1.0", [(b"host", authority), (b"A", b"b")])
        assert judge_http1(asked) == expected


async def test_an_absolute_target_arrives_as_a_path(server, connect):
    """The application has the path and the host that were asked for, and nothing else of it."""
    app = App()
    stream = await connect(await server(app))
    await stream.send_all(
        b"GET http://evil.example/p%20?q HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    await read_to_end(stream)
    (scope,) = app.asked
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/p ", b"/p%20", b"q")
    assert [value for name, value in scope["headers"] if name == b"host"] == [b"evil.example"]


@pytest.mark.parametrize("raw", [False, True])
async def test_two_lengths_end_the_connection(server, connect, raw):
    """What follows a request with a length and with chunks is not taken for another request."""
    app = App()
    stream = await connect(await server(app, h11_pass_raw_headers=raw))
    smuggled = b"0\r\n\r\nGET /admin HTTP/1.1\r\nHost: x\r\n\r\n"
    await stream.send_all(
        b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n"
        % len(smuggled)
        + smuggled
    )
    assert (await read_to_end(stream)).count(b"HTTP/1.1 400") == 1
    assert not app.asked


async def test_the_others_on_the_connection_go_on(server, http2, clean_log):
    """Over HTTP/2 a request that is refused ends its own stream alone, with its upload."""
    peer = await http2(await server(App()))
    refused = await peer.get("/a#b", method="POST", ended=False)
    assert await peer.finished(refused) == b""
    assert peer.statuses == {refused: 400}
    assert await peer.finished(await peer.get("/")) == b"x"


@pytest.mark.parametrize("size", [1, 100_000])
def test_the_time_is_linear(size):
    """No host and no target makes the patterns try again and again: a million bytes are judged."""
    for part in (b"a.", b"%61", b"/..", b"a", b"-"):
        many = part * size
        assert is_host(many) == (part in (b"a.", b"a", b"-"))
        assert not is_host(many + b"@")
        assert not is_target(b"/" + many + b" ")
    fields = [(b":method", b"GET"), (b":path", b"/"), (b":scheme", b"http"), (b":authority", b"x")]
    length = (b"content-length", b"0" * size)
    assert isinstance(judge_http2([*fields, length], ended=True, most=256), RequestHead)
