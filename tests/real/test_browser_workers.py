"""Headless Chromium and the wall of two workers: each of them is killed, and nothing is missed."""

from pathlib import Path

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.chaos]

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "18_two_workers.py"


@pytest.fixture
def wall(tmp_path, monkeypatch, command):
    """Serve the example as its docstring says, with its file in a folder of the test's."""
    monkeypatch.setenv("FLOWSTREAM_LOG_URL", f"sqlite:///{tmp_path / 'wall.db'}")
    arguments = ["--workers", "2", "--bind", "127.0.0.1:0"]
    server = command("serve", f"{EXAMPLE}:app", *arguments)
    server.wait_listening()
    return server


SHOWN = "[...document.querySelectorAll('#wall li:not(.waiting) span')].map(e => e.textContent)"


def write(page, text):
    page.fill("#text", text)
    page.click("form button")


async def test_a_wall_survives_its_workers(wall, in_chromium):
    """Two pages show all messages, in one order, while workers are killed under them."""

    def use(first):
        second = first.context.browser.new_page()
        for page in (first, second):
            page.goto(wall.url)
            page.wait_for_selector("body[data-ready=yes]")
        written = []
        for round in range(4):
            for number in range(5):
                written.append(f"message {round}.{number}")
                write((first, second)[number % 2], written[-1])
                if number == 2:
                    first.click("#kill")
        for page in (first, second):
            page.wait_for_function(f"{SHOWN}.length === {len(written)}", timeout=30_000)
            assert page.query_selector("li.gap") is None
        assert sorted(first.evaluate(SHOWN)) == sorted(written)
        assert sorted(second.evaluate(SHOWN)) == sorted(written)
        second.reload()
        second.wait_for_function(f"{SHOWN}.length === {len(written)}", timeout=30_000)

    await in_chromium(use)
    assert wall.log.count("was killed by SIGKILL") >= 4
