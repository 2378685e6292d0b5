"""The page in a real browser, against a real server: what a visitor does and sees."""

import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import pytest

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# Chromium takes in megabytes ahead of the page's reader; on a busy machine that takes a while.
PATIENCE = 30_000

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(180),
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
]


@contextmanager
def served(port):
    """Run `flowstream demo` in a process of its own."""
    command = "from flowstream.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", command, "demo", "--bind", f"127.0.0.1:{port}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
                break
            except OSError:
                time.sleep(0.05)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        _, log = process.communicate(timeout=20)
    assert "Traceback" not in log


@pytest.fixture
def port():
    """A free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def browser():
    """One headless Chromium for this module."""
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@contextmanager
def visit(browser, port, script="", **options):
    """Open the page; what it says on the console is a failure. `script` runs before it."""
    context = browser.new_context(**options)
    context.add_init_script(script)
    page = context.new_page()
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(f"http://127.0.0.1:{port}/")
    yield page
    context.close()
    assert said == []


def card(page, policy):
    return page.locator(f'.card[data-policy="{policy}"]')


def shown(card, part):
    return card.locator(f'[data-part="{part}"]')


def number(card, part):
    return int(re.sub(r"\D", "", shown(card, part).inner_text()))


def above(card, part, value):
    """Wait until a number on the card is above `value`."""
    until(lambda: number(card, part) > value, f"{part} above {value}")


def until(condition, what):
    end = time.monotonic() + PATIENCE / 1000
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.1)


def set_speed(card, step):
    """Move the slider as a hand would; -1 is full speed."""
    slider = shown(card, "speed")
    top = int(slider.get_attribute("max"))
    slider.focus()
    slider.press("Home")
    for _ in range(top if step < 0 else step):
        slider.press("ArrowRight")


def test_a_visitor_stalls_a_client_lets_it_go_and_aborts_it(browser, port, tmp_path):
    """A client that stops reading fills its buffer and loses events, every one announced."""
    with served(port), visit(browser, port, viewport={"width": 1280, "height": 900}) as page:
        expect(page.locator(".card")).to_have_count(3)
        expect(page.locator("#server-state")).to_have_text("connected")
        for policy in ("block", "drop_oldest", "conflate"):
            expect(shown(card(page, policy), "state")).to_have_attribute("data-state", "open")
            above(card(page, policy), "received", 50)

        # The one that is to lose events, and one beside it that must not notice.
        slow, fast = card(page, "drop_oldest"), card(page, "block")
        set_speed(slow, 0)
        expect(shown(slow, "speed-text")).to_have_text("stalled")
        expect(shown(slow, "fill")).to_have_attribute("data-state", "full", timeout=PATIENCE)
        expect(shown(slow, "state")).to_have_attribute("data-state", "parked", timeout=PATIENCE)
        received = number(slow, "received")
        above(slow, "dropped", number(slow, "dropped") + 100)
        assert number(slow, "received") == received  # it has really stopped
        fast_received = number(fast, "received")
        above(fast, "received", fast_received + 100)
        assert number(fast, "dropped") == 0
        page.screenshot(path=tmp_path / "stalled.png", full_page=True)

        set_speed(slow, -1)
        above(slow, "gaps", 0)
        above(slow, "missed", 100)
        expect(shown(slow, "state")).to_have_attribute("data-state", "open", timeout=PATIENCE)
        until(lambda: number(slow, "dropped") == number(slow, "missed"), "all drops told")
        for policy in ("block", "drop_oldest", "conflate"):
            expect(shown(card(page, policy), "sum")).to_have_attribute("data-state", "good")

        slow.get_by_role("button", name="Abort").click()
        expect(shown(slow, "state")).to_have_text("closed: client_disconnected")
        expect(page.locator("#connections-text")).to_have_text("4 of 6 connections in use")
        page.screenshot(path=tmp_path / "aborted.png", full_page=True)
        slow.get_by_role("button", name="Remove").click()
        expect(page.locator(".card")).to_have_count(2)


def test_a_client_that_stalls_too_long_is_ended_by_the_server(browser, port):
    """A stall past its timeout closes the stream with the reason `stalled`, for any policy."""
    with served(port), visit(browser, port) as page:
        page.get_by_label("Policy").select_option("block")
        page.get_by_label("Stall timeout, s").fill("2")
        page.get_by_role("button", name="Start a client").click()
        expect(page.locator(".card")).to_have_count(4)
        expect(page.get_by_role("button", name="Start a client")).to_be_disabled()
        client = page.locator(".card").last
        above(client, "received", 10)
        set_speed(client, 0)
        expect(shown(client, "state")).to_have_text("closed: stalled", timeout=PATIENCE)


def test_disconnect_ends_a_slow_client(browser, port):
    """The policy `disconnect` ends a client that does not keep up, and says so."""
    with served(port), visit(browser, port) as page:
        page.get_by_label("Policy").select_option("disconnect")
        # A second's worth of buffer, or a busy machine would be slow before it is told to.
        page.get_by_label("Buffer, items").fill("80")
        page.get_by_label("Events a second").first.fill("80")
        page.get_by_role("button", name="Start a client").click()
        client = card(page, "disconnect")
        above(client, "received", 10)
        set_speed(client, 0)
        expect(shown(client, "state")).to_have_text("closed: slow_consumer", timeout=PATIENCE)


def test_a_browser_that_cannot_read_in_small_pieces_can_stall_as_well(browser, port):
    """Without byte readers the page takes what a read gives, and still stops reading."""
    script = """
      const getReader = ReadableStream.prototype.getReader;
      ReadableStream.prototype.getReader = function (options) {
        if (options) throw new TypeError("no byte readers here");
        return getReader.call(this);
      };
    """
    with served(port), visit(browser, port, script) as page:
        client = card(page, "drop_oldest")
        above(client, "received", 10)
        set_speed(client, 0)
        expect(shown(client, "fill")).to_have_attribute("data-state", "full", timeout=PATIENCE)
        set_speed(client, -1)
        until(lambda: number(client, "dropped") == number(client, "missed") > 0, "all drops told")
        expect(shown(client, "sum")).to_have_attribute("data-state", "good")


def test_an_idle_stream_has_heartbeats(browser, port):
    """A stream without events for a while shows that it lives."""
    with served(port), visit(browser, port) as page:
        page.get_by_label("Events a second").first.fill("0.1")
        page.get_by_role("button", name="Start a client").click()
        above(page.locator(".card").last, "heartbeats", 0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_telephone(browser, port, tmp_path, scheme):
    """At 390 pixels nothing is wider than the screen, in either colour scheme."""
    size = {"width": 390, "height": 844}
    with served(port), visit(browser, port, viewport=size, color_scheme=scheme) as page:
        above(card(page, "conflate"), "received", 20)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        page.screenshot(path=tmp_path / f"{scheme}.png", full_page=True)


def test_the_other_panels_live(browser, port):
    """The machine's feed, the text and the table's cursor count show real streams."""
    with served(port), visit(browser, port) as page:
        expect(page.locator("#cpu")).to_contain_text("%", timeout=PATIENCE)
        page.get_by_label("Tokens a second").fill("0")
        page.get_by_role("button", name="Ask").click()
        expect(page.locator("#tokens-state")).to_contain_text("tokens, done.")
        expect(page.locator("#text")).to_contain_text("Lambda expressions")
        expect(page.locator("#cursors")).to_contain_text("0 (of 0")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/rows.ndjson") as rows:
            rows.readline()
            expect(page.locator("#cursors")).to_contain_text("1 (of 1", timeout=PATIENCE)
            expect(page.locator("#all")).to_contain_text("/rows.ndjson")
        expect(page.locator("#cursors")).to_contain_text("0 (of 1", timeout=PATIENCE)
        page.get_by_role("button", name="Stop the feed").click()
        expect(page.locator("#all tr", has_text="/system")).to_contain_text("client_disconnected")


def test_a_server_that_goes_is_noticed_and_one_that_comes_back_is_found(browser, port):
    """The page says that the server cannot be reached, and goes on by itself when it can."""
    with served(port):
        context = browser.new_context()
        page = context.new_page()  # the browser itself logs connections that fail
        page.goto(f"http://127.0.0.1:{port}/")
        expect(page.locator("#server-state")).to_have_text("connected")
        above(card(page, "block"), "received", 10)
    expect(page.locator("#server-state")).to_contain_text("not reached", timeout=PATIENCE)
    expect(shown(card(page, "block"), "state")).to_have_attribute("data-state", "ended")
    with served(port):
        expect(page.locator("#server-state")).to_have_text("connected", timeout=PATIENCE)
    context.close()
