"""The page in a real browser, against a real server: what a visitor does and sees."""

import json
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
expect.set_options(timeout=PATIENCE)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(180),
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
    pytest.mark.chaos,
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


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def port():
    """A free port of this machine."""
    return free_port()


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


def card(page, name):
    return page.locator(f'.card[data-client="{name}"]')


def shown(card, part):
    return card.locator(f'[data-part="{part}"]')


def number(card, part):
    return int(re.sub(r"\D", "", shown(card, part).inner_text()))


def behind(card):
    text = shown(card, "behind").inner_text()
    return float(text.removesuffix(" s")) if text.endswith(" s") else 0.0


def until(condition, what):
    end = time.monotonic() + PATIENCE / 1000
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.1)


def above(card, part, value):
    """Wait until a number on the card is above `value`."""
    until(lambda: number(card, part) > value, f"{part} above {value}")


def set_speed(page, name, step):
    """Move the slider as a hand would; -1 is full speed."""
    slider = page.get_by_label(f"Client {name} reads at")
    top = int(slider.get_attribute("max"))
    slider.focus()
    slider.press("Home")
    for _ in range(top if step < 0 else step):
        slider.press("ArrowRight")


def sums(page):
    """Return for each card whether its four numbers add up, as they stand."""
    return page.evaluate("""() => [...document.querySelectorAll(".card")].map((card) => {
      const number = (part) =>
        Number(card.querySelector(`[data-part="${part}"]`).textContent.replaceAll(/\\D/g, ""));
      return number("published") === number("received") + number("missed") + number("flight");
    })""")


def above_the_fold(locator, height):
    box = locator.bounding_box()
    return box["y"] >= 0 and box["y"] + box["height"] <= height


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height", "cards"), [(1280, 800, 3), (390, 844, 2)])
def test_the_first_screen_tells_the_story_by_itself(
    browser, port, tmp_path, scheme, width, height, cards
):
    """Untouched, B falls behind alone, and unbounded queues would grow: all above the fold."""
    size = {"width": width, "height": height}
    with served(port), visit(browser, port, viewport=size, color_scheme=scheme) as page:
        until(lambda: behind(card(page, "B")) > 3, "B to fall behind")
        assert behind(card(page, "A")) < 1
        assert behind(card(page, "C")) < 1
        expect(shown(card(page, "B"), "state")).to_have_text("reads slowly")
        until(lambda: "MB" in page.locator("#owed").inner_text(), "a queue that would grow")
        assert sums(page) == [True] * 3
        first = [page.locator("h1"), page.locator("#memory"), page.locator("#would")]
        first += [card(page, name) for name in "ABC"[:cards]]
        assert all(above_the_fold(one, height) for one in first)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        page.screenshot(path=tmp_path / f"{width}-{scheme}.png")


def test_a_client_is_stalled_and_let_go(browser, port):
    """One that stops reading fills its buffer and loses events, each of them announced."""
    with served(port), visit(browser, port) as page:
        slow, fast = card(page, "C"), card(page, "A")
        page.get_by_label("Policy of client C").select_option("drop_oldest")
        above(slow, "received", 50)
        set_speed(page, "C", 0)
        expect(shown(slow, "speed-text")).to_have_text("nothing")
        expect(shown(slow, "level")).to_have_text("64 of 64")
        expect(shown(slow, "state")).to_contain_text("takes nothing for")
        received = number(slow, "received")
        above(fast, "received", number(fast, "received") + 100)
        assert number(slow, "received") == received  # it has really stopped
        assert number(fast, "missed") == 0
        set_speed(page, "C", -1)
        above(slow, "missed", 100)
        expect(shown(slow, "state")).to_have_text("keeps up")
        for name in "ABC":
            expect(shown(card(page, name), "sum")).to_have_attribute("data-adds", "true")


def test_the_account_holds_when_keys_overtake_one_another(browser, port):
    """What a first event replaced is counted; an event that is lost is found out."""
    script = """async (lost) => {
      const { Account } = await import("/account.js");
      const account = new Account(true);
      account.gap(1);  // 4, which 12 took the place of
      const came = [12, 5, 6, 7, 8, 9, 10, 11, 13].filter((n) => n !== lost);
      for (const n of came) account.take({ n, key: String(n % 8) });
      for (let n = 14; n < 40; n += 1) account.take({ n, key: String(n % 8) });
      return [account.first, account.received + account.missed, account.failed !== null];
    }"""
    with served(port), visit(browser, port) as page:
        assert page.evaluate(script, None) == [3, 36, False]
        assert page.evaluate(script, 10) == [3, 35, True]


def test_a_cut_is_made_up_for_or_announced(browser, port):
    """Cut for a second, a client gets what it missed; cut for eight, it is told how much."""
    with served(port), visit(browser, port) as page:
        for name in "AC":
            above(card(page, name), "received", 100)
            page.get_by_label(f"Cut the connection of client {name} for 1 second").click()
        expect(shown(card(page, "A"), "said")).to_contain_text("replayed, nothing missed.")
        expect(shown(card(page, "C"), "said")).to_contain_text("replayed, nothing missed.")
        assert number(card(page, "A"), "missed") == 0
        for name in "AC":
            page.get_by_label(f"Cut the connection of client {name} for 8 seconds").click()
            expect(shown(card(page, name), "state")).to_contain_text("cut off, back in")
        for name in "AC":
            told = shown(card(page, name), "said")
            expect(told).to_contain_text("missed, told in a gap.")
            assert number(card(page, name), "missed") > 500
            expect(shown(card(page, name), "sum")).to_have_attribute("data-adds", "true")


@pytest.mark.parametrize(("policy", "why"), [("block", "stalled"), ("disconnect", "slow_consumer")])
def test_the_server_ends_a_client_and_it_comes_again(browser, port, policy, why):
    """A stall past its timeout, or a policy, ends a stream; its card says why, and can go on."""
    with served(port), visit(browser, port) as page:
        page.get_by_label("Policy of client A").select_option(policy)
        above(card(page, "A"), "received", 50)
        set_speed(page, "A", 0)
        state = shown(card(page, "A"), "state")
        expect(state).to_have_text(f"ended by the server: {why}", timeout=2 * PATIENCE)
        set_speed(page, "A", -1)
        page.get_by_label("Connect client A again").click()
        expect(state).to_have_text("keeps up")


def test_a_second_and_a_third_tab_work(browser, port):
    """All tabs show the same clients, however many there are, and obey any of them."""
    with served(port), visit(browser, port) as page:
        above(card(page, "A"), "received", 50)
        others = [page.context.new_page() for _ in range(4)]
        for other in others:
            other.goto(f"http://127.0.0.1:{port}/")
            expect(other.locator("#server-state")).to_have_text("live")
            above(card(other, "A"), "received", 50)
        set_speed(others[0], "C", 3)
        expect(shown(card(page, "C"), "speed-text")).to_have_text("256 kB/s")
        expect(page.locator("#all tr[data-state=open]")).to_have_count(4)


def test_without_shared_workers_a_tab_has_clients_of_its_own(browser, port):
    """A browser that has none runs the same page."""
    with served(port), visit(browser, port, "delete globalThis.SharedWorker") as page:
        until(lambda: behind(card(page, "B")) > 2, "B to fall behind")
        assert behind(card(page, "A")) < 1


def test_it_pauses_and_goes_on(browser, port):
    """Pause closes every stream, by the keyboard too; what is published meanwhile is announced."""
    with served(port), visit(browser, port) as page:
        above(card(page, "A"), "received", 50)
        page.get_by_role("button", name="Pause").focus()
        page.keyboard.press("Enter")
        expect(page.locator("#server-state")).to_have_text("paused")
        received = number(card(page, "A"), "received")
        page.get_by_role("button", name="Go on").click()
        expect(page.locator("#server-state")).to_have_text("live")
        above(card(page, "A"), "received", received + 100)
        expect(shown(card(page, "A"), "sum")).to_have_attribute("data-adds", "true")


def test_a_browser_that_cannot_read_in_small_pieces_can_stall_as_well(browser, port):
    """Without byte readers the page takes what a read gives, and still stops reading."""
    script = """
      delete globalThis.SharedWorker;  // so that this page is what reads
      const getReader = ReadableStream.prototype.getReader;
      ReadableStream.prototype.getReader = function (options) {
        if (options) throw new TypeError("no byte readers here");
        return getReader.call(this);
      };
    """
    with served(port), visit(browser, port, script) as page:
        above(card(page, "A"), "received", 10)
        set_speed(page, "A", 0)
        expect(shown(card(page, "A"), "level")).to_have_text("64 of 64")
        set_speed(page, "A", -1)
        above(card(page, "A"), "missed", 0)
        expect(shown(card(page, "A"), "sum")).to_have_attribute("data-adds", "true")


def test_nothing_can_be_asked_before_the_topics_are_there(browser, port):
    """On a slow line the button waits for what it would ask for."""
    with served(port), visit(browser, port) as page:
        held = []
        page.route("**/topics", lambda route: held.append(route))  # noqa: PLW0108  # it is marked
        page.reload()
        expect(shown(card(page, "A"), "state")).to_have_text("keeps up")
        ask = page.get_by_role("button", name="Ask")
        expect(ask).to_be_disabled()
        held[0].continue_()
        ask.click()
        expect(page.locator("#text")).to_contain_text("Exceptions are a means")


def test_an_answer_survives_a_reload_and_is_stopped(browser, port):
    """After a reload in the middle the page has all of it; Stop ends it."""
    with served(port), visit(browser, port) as page:
        page.get_by_role("button", name="Ask").click()
        text = page.locator("#text")
        expect(text).to_contain_text("Exceptions are a means")
        said = text.inner_text()
        page.get_by_role("button", name="Reload the page").click()
        expect(page.locator("#answer-state")).to_contain_text("attached again, none is missing")
        assert text.inner_text().startswith(said)
        page.get_by_role("button", name="Stop", exact=True).click()
        expect(page.locator("#answer-state")).to_contain_text(
            "Stopped; its producer was cancelled."
        )


def test_the_documentation_opens_and_the_table_lives(browser, port):
    """Links lead to pages of this server, and a download shows in the table and goes from it."""
    with served(port), visit(browser, port) as page:
        expect(page.locator("#cursors")).to_contain_text("0 (of 0")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/rows.ndjson") as rows:
            rows.readline()
            expect(page.locator("#cursors")).to_contain_text("1 (of 1")
            expect(page.locator("#all")).to_contain_text("/rows.ndjson")
        expect(page.locator("#cursors")).to_contain_text("0 (of 1")
        links = page.locator('a[href^="/docs/"]').evaluate_all("all => all.map((a) => a.href)")
        assert len(links) >= 4
        for link in links:
            assert page.request.get(link).status == 200
        page.get_by_role("link", name="Tutorial").click()
        expect(page.locator("h1")).to_have_count(1)


def test_a_server_that_goes_is_noticed_and_one_that_comes_back_is_found(browser, port):
    """The page says that the server cannot be reached, and goes on by itself when it can."""
    with served(port):
        context = browser.new_context()
        page = context.new_page()  # the browser itself logs connections that fail
        page.goto(f"http://127.0.0.1:{port}/")
        expect(page.locator("#server-state")).to_have_text("live")
        above(card(page, "A"), "received", 10)
    expect(page.locator("#server-state")).to_contain_text("not reached")
    with served(port):
        expect(page.locator("#server-state")).to_have_text("live")
        expect(shown(card(page, "A"), "state")).to_have_text("keeps up")
    context.close()


def test_a_hidden_page_lets_go_of_its_streams_and_says_so(browser, port):
    """When nobody can see it, it has no connection; seen again, it goes on and counts the gap."""
    script = """
      delete globalThis.SharedWorker;  // which would wait 20 s for another tab to be looked at
      let hidden = false;
      Object.defineProperty(document, "hidden", { get: () => hidden });
      globalThis.hide = (value) => {
        hidden = value;
        document.dispatchEvent(new Event("visibilitychange"));
      };
    """
    with served(port), visit(browser, port, script) as page:
        above(card(page, "A"), "received", 50)
        page.evaluate("hide(true)")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/streams") as pictures:

            def streams():
                while not (line := pictures.readline()).startswith(b"data:"):
                    pass
                return [one["path"] for one in json.loads(line[5:])["streams"] if not one["reason"]]

            until(lambda: streams() == ["/streams"], "its streams to end")  # the test's own
        received = number(card(page, "A"), "received")
        page.evaluate("hide(false)")
        above(card(page, "A"), "received", received + 100)
        expect(page.locator("#server-state")).to_have_text("live")
        expect(shown(card(page, "A"), "sum")).to_have_attribute("data-adds", "true")
