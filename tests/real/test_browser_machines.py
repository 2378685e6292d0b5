"""Headless Chromium and the wall on two machines: each is killed, and the broker, in turn."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

import pytest
from real_servers.own_process import free_port
from real_servers.programs import missing

pytestmark = [pytest.mark.browser, pytest.mark.chaos]

START = Path(__file__).parent.parent.parent / "examples" / "20_two_machines" / "start.py"
PATIENCE = 60.0  # seconds, for processes to start on a busy machine

SHOWN = "[...document.querySelectorAll('#wall li:not(.waiting) span')].map(e => e.textContent)"


def four_free_ports():
    """Return a port of 127.0.0.1 that nobody has, nor the three behind it."""
    while True:
        port = free_port()
        with suppress(OSError):
            for further in range(port + 1, port + 4):
                with socket.socket() as unused:
                    unused.bind(("127.0.0.1", further))
            return port


class Machines:
    """What `start.py` runs.

    Attributes:
        url: where nginx listens.
    """

    def __init__(self, folder):
        port = four_free_ports()
        self.url = f"http://127.0.0.1:{port}/"
        self._output = folder / "output"
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, START, "--port", str(port)],
                stdout=output,
                stderr=output,
            )

    @property
    def output(self):
        """What all of them have written."""
        return self._output.read_text(errors="replace")

    def wait_up(self):
        """Wait until nginx has an answer of a machine, and all have been started."""
        end = time.monotonic() + PATIENCE
        while True:
            with suppress(OSError), urlopen(f"{self.url}processes", timeout=5) as answer:
                if len(json.load(answer)) == 4:
                    return
            if self._process.poll() is not None and "There is no" in self.output:
                missing(self.output)
            assert self._process.poll() is None, self.output
            assert time.monotonic() < end, self.output
            time.sleep(0.05)

    def kill(self, name):
        """Kill what has that name, with the command that was printed last."""
        *_, pid = re.findall(rf"^{name}: kill -9 (\d+)$", self.output, re.MULTILINE)
        os.kill(int(pid), signal.SIGKILL)

    def lives(self, name):
        """Return how often it was started."""
        return len(re.findall(rf"^{name}: kill -9 \d+$", self.output, re.MULTILINE))

    def end(self):
        """End all of them; return the exit code."""
        self._process.terminate()
        return self._process.wait(PATIENCE)


@pytest.fixture
def machines(tmp_path):
    """Start the example as its docstring says, on ports that are free."""
    found = Machines(tmp_path)
    try:
        found.wait_up()
        yield found
    finally:
        code = found.end()
    assert code == 0, found.output


def write(pages, round, kill):
    """Write four messages, in turn from each page, and kill something behind the second."""
    texts = [f"message {round}.{number}" for number in range(4)]
    for number, text in enumerate(texts):
        page = pages[number % len(pages)]
        page.fill("#text", text)
        page.click("form button")
        if number == 1:
            kill()
    return texts


async def test_a_wall_survives_machines_and_broker(machines, in_chromium):
    """Two pages show each message once, and no gap, while all are killed under them."""

    def use(first):
        pages = [first, first.context.browser.new_page()]
        said = []
        for page in pages:
            page.on("pageerror", lambda error: said.append(str(error)))
            page.set_default_timeout(60_000)
            page.goto(machines.url)
            page.wait_for_selector("body[data-ready=yes]")
        written = []
        # A machine by its button, the one that serves the page; the other as a user would.
        serves = first.get_attribute("body", "data-machine")
        assert serves in ("A", "B")
        other = {"A": "B", "B": "A"}[serves]
        victims = [
            lambda: first.click(f"#kill-{serves}"),
            lambda: machines.kill(other),
            lambda: first.click("#kill-valkey"),
        ]
        for round, kill in enumerate(victims):
            written += write(pages, round, kill)
            for page in pages:
                page.wait_for_function(f"{SHOWN}.length === {len(written)}")
            if round == 0:  # its machine was killed: the other one has taken the page
                first.wait_for_selector(f"body[data-machine={other}]")
            for name in "AB":  # both serve again before the next one is killed
                first.wait_for_selector(f"#kill-{name}:enabled")
        for page in pages:
            assert sorted(page.evaluate(SHOWN)) == sorted(written)
            assert page.query_selector("li.gap") is None
            page.wait_for_selector("#count[data-lost='0']")
            assert (
                "6 written here, 6 answered, 0 missing so far, 0 shown twice."
                in page.inner_text("#count")
            )
        pages[1].reload()
        pages[1].wait_for_function(f"{SHOWN}.length === {len(written)}")
        assert not said

    await in_chromium(use, patience=150)
    assert [machines.lives(name) for name in ("A", "B", "valkey", "nginx")] == [2, 2, 2, 1]
