"""HTTP/2 over a connection's whole life, and as other clients speak it: h2load, curl, httpx."""

import re
import subprocess

import httpx2
import pytest
import trio
from h2.errors import ErrorCodes

from flowstream import sse

in_thread = trio.to_thread.run_sync


async def app(scope, receive, send):
    """Answer with five bytes, with a short stream, or with one that ends when it is told."""
    if scope["type"] != "http":
        raise NotImplementedError
    if scope["path"] == "/sse":
        await sse(["one", "two"])(scope, receive, send)
    elif scope["path"] == "/long":
        await sse(ticks)(scope, receive, send)
    elif scope["path"] == "/few":
        await sse(few_ticks)(scope, receive, send)
    else:
        headers = [(b"content-length", b"5")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"hello"})


async def ticks():
    while True:
        yield "tick"
        await trio.sleep(0.01)


async def few_ticks():
    for _ in range(20):
        yield "tick"
        await trio.sleep(0.01)


# -- the end of a connection -------------------------------------------------------------


async def test_long_streams_outlive_the_last_request(server, http2, clean_log):
    """At keep_alive_max_requests GOAWAY is sent and further requests are refused; streams that
    are open go on to their end, and with the last of them the connection closes.
    """
    peer = await http2(await server(app, keep_alive_max_requests=5))
    stream = await peer.get("/few")
    for _ in range(3):
        await peer.finished(await peer.get("/"))
    assert peer.goaway is None
    last = await peer.get("/")
    assert await peer.finished(last) == b"hello"
    await peer.until(lambda: peer.goaway)
    assert (peer.goaway.error_code, peer.goaway.last_stream_id) == (ErrorCodes.NO_ERROR, last)
    refused = await peer.get("/")
    await peer.finished(refused)
    assert peer.resets == {refused: ErrorCodes.REFUSED_STREAM}
    assert b"event: end\n" in await peer.finished(stream)
    assert stream in peer.ended
    await peer.until_closed()


@pytest.mark.upstream
async def test_hypercorn_cuts_long_streams(plain_hypercorn, http2):
    """Plain Hypercorn cuts them: after its GOAWAY nothing more comes on a stream."""
    peer = await http2(await plain_hypercorn(app, keep_alive_max_requests=2))
    stream = await peer.get("/few")
    for _ in range(3):
        await peer.get("/")
    await peer.until(lambda: peer.goaway)
    with pytest.raises(AssertionError):
        await peer.finished(stream, timeout=1)


async def test_httpx_opens_another_connection(server, clean_log):
    """A client that is told to go away takes its next request elsewhere by itself."""
    url = await server(app, keep_alive_max_requests=3)
    async with httpx2.AsyncClient(http1=False, http2=True) as client:
        for _ in range(10):
            assert (await client.get(url)).text == "hello"


# -- clients -----------------------------------------------------------------------------


async def run(*command, check=True):
    """Run a command and return what it printed."""
    done = await in_thread(
        lambda: subprocess.run(command, capture_output=True, text=True, timeout=40, check=False)
    )
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("tls", [False, True], ids=["cleartext", "tls"])
@pytest.mark.parametrize("path", ["/", "/sse"])
async def test_h2load(server, certificate, program, clean_log, tls, path):
    """Thousands of requests on many streams of few connections, and not one that fails."""
    url = await server(app, keep_alive_max_requests=100_000, **certificate if tls else {})
    count = 2000 if path == "/" else 500
    printed = await run(
        program("h2load"), "-n", str(count), "-c", "4", "-m", "50", "-t", "1", url + path
    )
    found = re.search(r"requests: .*", printed)[0]
    assert found.endswith(f"{count} succeeded, 0 failed, 0 errored, 0 timeout"), printed


@pytest.mark.parametrize("how", ["prior-knowledge", "upgrade", "tls"])
async def test_curl(server, certificate, program, clean_log, how):
    """curl has a stream over HTTP/2 if it begins with it, or over TLS; else over HTTP/1.1."""
    url = await server(app, **certificate if how == "tls" else {})
    options = ["--http2-prior-knowledge"] if how == "prior-knowledge" else ["--http2", "-k"]
    written = ["-w", "\n%{http_version}"]
    printed = await run(
        program("curl"), "-sS", "--max-time", "30", *options, *written, url + "/sse"
    )
    assert "data: two\n" in printed
    assert "event: end\n" in printed
    assert printed.endswith("\n1.1" if how == "upgrade" else "\n2")


async def test_curl_goes_on_without_an_upgrade(server, program, clean_log):
    """More requests on a connection, of which the first has asked for an upgrade in vain."""
    url = await server(app)
    printed = await run(program("curl"), "-sS", "--http2", f"{url}/few", f"{url}/", f"{url}/sse")
    assert printed.count("tick") == 20
    assert "hello" in printed
    assert printed.count("event: end\n") == 2
