"""What ``flowstream serve`` logs by itself, and that an app's own configuration wins."""

import contextlib
import json
import logging
import signal
import socket
import subprocess
import sys

import httpx2
import pytest

from flowstream.server.log._log_handlers import Console

APP = """
import logging
from quart_trio import QuartTrio
from flowstream import sse
from flowstream.quart import Flowstream

{setup}
app = QuartTrio(__name__)
Flowstream(app)
app.logger.info("made")

@app.get("/numbers")
async def numbers():
    return sse([1, 2, 3])

@app.get("/fails")
async def fails():
    raise ValueError("it \\x1b[31m fails")

@app.get("/late")
async def late():
    async def source():
        yield 1
        raise RuntimeError("late")
    return sse(source)
"""

BASIC = 'logging.basicConfig(level="INFO", format="MINE %(message)s")'
DICT = """
from logging.config import dictConfig
dictConfig({"version": 1, "disable_existing_loggers": False,
    "formatters": {"mine": {"format": "MINE %(message)s"}},
    "handlers": {"mine": {"class": "logging.StreamHandler", "formatter": "mine"}},
    "root": {"level": "INFO", "handlers": ["mine"]}})
"""
ADDED = """
handler = logging.StreamHandler()
handler.setFormatter(logging.Formatter("MINE %(message)s"))
logging.getLogger().addHandler(handler)
logging.getLogger().setLevel("INFO")
"""


# In one process, and in a worker of its own.
WORKERS = [(), pytest.param(("-w", "1"), marks=pytest.mark.chaos)]


def visit(process):
    """Ask for everything, and end the server in order; return the lines of its log."""
    for path in ("/numbers", "/fails", "/late"):
        httpx2.get(process.url + path)
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    return process.lines


def having(lines, text):
    return [line for line in lines if text in line]


@pytest.mark.parametrize("workers", WORKERS)
def test_by_default(served, workers):
    """One line a stream, its level in it, one traceback a failure; no control characters."""
    lines = visit(served(APP.format(setup=""), *workers))
    (stream,) = having(lines, "stream /numbers completed: 3 items")
    assert "[INFO]" in stream
    (late,) = having(lines, "stream /late error")
    assert "[ERROR]" in late
    assert len(having(lines, "Exception on request GET /fails")) == 1
    assert len(having(lines, "Traceback")) == 2
    assert having(lines, "ValueError: it \\x1b[31m fails")
    assert len(having(lines, "Running on")) == 1
    assert len({line.split("]")[0].count("[") for line in having(lines, "INFO")}) == 1


@pytest.mark.parametrize("workers", WORKERS)
def test_json(served, workers):
    """With ``--log-format json`` each line is an object, exceptions inside it."""
    lines = visit(served(APP.format(setup=""), "--log-format", "json", *workers))
    found = [json.loads(line) for line in lines]
    (stream,) = [one for one in found if one.get("path") == "/numbers"]
    assert (stream["level"], stream["reason"], stream["items"]) == ("INFO", "completed", 3)
    failures = [one for one in found if "exception" in one]
    assert [one["exception"].splitlines()[-1] for one in failures] == [
        "ValueError: it \x1b[31m fails",
        "RuntimeError: late",
    ]


@pytest.mark.parametrize("setup", [BASIC, DICT, ADDED])
@pytest.mark.parametrize("workers", WORKERS)
def test_a_configuration_of_the_apps_own_wins(served, setup, workers):
    """What the app's module sets up shows all lines, once, and nothing else shows them."""
    lines = visit(served(APP.format(setup=setup), *workers))
    assert having(lines, "stream /numbers") == [
        line for line in lines if line.startswith("MINE stream /numbers")
    ]
    for text in ("stream /numbers completed", "Running on", "ValueError: it", "RuntimeError: late"):
        assert len(having(lines, text)) == 1, text


def test_logconfig_wins(served, tmp_path):
    """With Hypercorn's ``logconfig`` nothing is logged but what that says."""
    (tmp_path / "log.json").write_text(
        json.dumps(
            {
                "version": 1,
                "disable_existing_loggers": False,
                "formatters": {"mine": {"format": "MINE %(message)s"}},
                "handlers": {"mine": {"class": "logging.StreamHandler", "formatter": "mine"}},
                "root": {"level": "INFO", "handlers": ["mine"]},
            }
        )
    )
    (tmp_path / "c.toml").write_text('logconfig = "json:log.json"\n')
    lines = visit(served(APP.format(setup=""), "-c", "c.toml"))
    assert having(lines, "stream /numbers")[0].startswith("MINE ")
    for text in ("stream /numbers completed", "Running on", "RuntimeError: late"):
        assert len(having(lines, text)) == 1, text


def test_log_level(served):
    """``--log-level`` says what is logged at least."""
    lines = visit(served(APP.format(setup=""), "--log-level", "debug"))
    assert having(lines, "[DEBUG] stream /numbers")


@pytest.mark.parametrize("workers", WORKERS)
def test_an_app_that_fails_to_load_is_one_object(tmp_path, workers):
    """In JSON the traceback of the app's module is inside an object, too."""
    (tmp_path / "broken.py").write_text("1 / 0")
    done = subprocess.run(
        [
            *(sys.executable, "-c", "from flowstream.cli import main; main()"),
            *("serve", "broken", "--log-format", "json", "-b", "127.0.0.1:0", *workers),
        ],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    found = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.returncode == 1
    assert "ZeroDivisionError" in found[0]["exception"]
    assert found[0]["level"] == "CRITICAL"


STARTS = """
import os, signal, sys, trio

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        print("hello")
        print("hello", file=sys.stderr)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})
"""


@pytest.mark.parametrize("how", ["no descriptors", "nobody reads"])
@pytest.mark.parametrize("workers", WORKERS)
def test_closed_output(tmp_path, eventually, how, workers):
    """A server whose output is closed, or that nobody reads, serves, and ends with status 0."""
    (tmp_path / "starts.py").write_text(
        STARTS
        if how == "no descriptors"
        else STARTS.replace('print("hello")', "").replace('print("hello", file=sys.stderr)', "")
    )
    address = tmp_path / "socket"
    command = [sys.executable, "-c", "from flowstream.cli import main; main()", "serve", "starts"]
    command += ["-b", f"unix:{address}", "--access-log", "-", *workers]
    if how == "no descriptors":
        shell = f"exec {' '.join(repr(part) for part in command)} <&- >&- 2>&-"
        command = ["sh", "-c", shell.replace('"', '\\"')]
        process = subprocess.Popen(command, cwd=tmp_path)
    else:
        process = subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        process.stdout.close()
        process.stderr.close()
    try:

        def answer():
            with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
                client.connect(str(address))
                client.sendall(b"GET / HTTP/1.0\r\nhost: x\r\n\r\n")
                with client.makefile("rb") as file:
                    return file.read().rpartition(b"\r\n")[2].decode()

        for _ in range(3):
            assert eventually(answer, "it answers") == "hello"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_the_console_stands_back():
    """It takes what nobody else takes, whenever the others come; one that does nothing is none."""
    console, written = Console("text"), []
    console.emit = written.append
    outer, inner = logging.getLogger("tests.console"), logging.getLogger("tests.console.inner")
    outer.propagate = False
    outer.setLevel("INFO")
    outer.addHandler(console)
    inner.addHandler(logging.NullHandler())
    other = logging.Handler()
    other.emit = lambda record: None
    inner.info("one")
    inner.addHandler(other)
    inner.info("two")
    outer.info("three")
    outer.addHandler(other)
    outer.info("four")
    outer.handlers.clear()
    inner.handlers.clear()
    assert [record.getMessage() for record in written] == ["one", "three"]
