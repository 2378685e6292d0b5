"""Headless Chromium and the chat example: a reload, a stop, and a page that never comes back."""

import importlib.util
from pathlib import Path

import pytest
import trio

from flowstream import CloseReason, Runs

pytestmark = [pytest.mark.browser, pytest.mark.chaos]

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "17_chat.py"


@pytest.fixture
def chat():
    """The example, as a module of its own."""
    spec = importlib.util.spec_from_file_location("example_17_chat", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.runs = Runs(grace=1.5)
    return module


@pytest.fixture
def browse(in_chromium):
    """Drive a page that says nothing on its console: ``await browse(session, url)``."""

    async def run(session, url):
        def use(page):
            said = []
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.goto(url)
            session(page)
            assert not said, said

        await in_chromium(use)

    return run


def text(page):
    return page.text_content("#answer")


def wait_for_words(page, count):
    page.wait_for_function(
        f"document.getElementById('answer').textContent.split(' ').length > {count}"
    )


async def test_a_chat_survives_reloads(chat, server, browse):
    """Reloaded twice in the middle, the page shows the answer whole; one producer made it."""
    url = await server(chat.app)
    answer = chat.topics["lambda"]

    def session(page):
        page.fill("#question", "lambda")
        page.click("form button")
        for words in (5, 40):
            wait_for_words(page, words)
            before = text(page)
            page.reload()
            page.wait_for_function(
                f"document.getElementById('answer').textContent.length > {len(before)}"
            )
            assert text(page).startswith(before)
        page.wait_for_function("document.body.dataset.state === 'completed'")
        assert text(page).rstrip() == answer.rstrip()
        page.reload()
        page.wait_for_function("document.body.dataset.state === 'completed'")
        assert text(page).rstrip() == answer.rstrip()

    await browse(session, url)
    assert chat.runs.statistics().started == 1


async def test_a_chat_is_stopped(chat, server, browse):
    """The stop button ends the answer for good; a reload shows what there was, and that."""
    url = await server(chat.app)

    def session(page):
        page.fill("#question", "typesmethods")
        page.click("form button")
        wait_for_words(page, 10)
        page.click("#stop")
        page.wait_for_function("document.body.dataset.state === 'stopped'")
        seen = text(page)
        page.reload()
        page.wait_for_function("document.body.dataset.state === 'stopped'")
        assert text(page) == seen
        assert page.is_disabled("#stop")

    await browse(session, url)
    assert chat.runs.statistics().ended == {"stopped": 1}


async def test_a_chat_that_was_left_is_given_up(chat, server, browse):
    """When the page is closed for good the producer has the time of grace, and no longer."""
    url = await server(chat.app)

    def session(page):
        page.fill("#question", "typesmethods")
        page.click("form button")
        wait_for_words(page, 10)

    await browse(session, url)
    (key,) = chat.runs
    run = chat.runs[key]
    assert run.reason is None
    with trio.fail_after(10):
        assert await run.wait() is CloseReason.CLIENT_DISCONNECTED
    assert key not in chat.runs


async def test_a_long_answer_scrolls_along_and_stop_stays_in_view(chat, server, in_chromium):
    """The end of the answer and the stop button are on the screen, until the reader scrolls up."""
    url = await server(chat.app)

    def session(page):
        page.set_viewport_size({"width": 390, "height": 500})
        page.goto(url)
        page.fill("#question", "typesmethods")
        page.click("form button")
        page.wait_for_function("document.documentElement.scrollTop > 200")
        at_end = "innerHeight + scrollY > document.documentElement.scrollHeight - 60"
        assert page.evaluate(at_end)
        box = page.locator("#stop").bounding_box()
        assert 0 <= box["y"] < 450
        page.evaluate("scrollTo(0, 50)")
        wait_for_words(page, len(text(page).split(" ")) + 20)
        assert page.evaluate("scrollY") == 50
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        page.click("#stop")

    await in_chromium(session)


async def test_the_page_says_what_a_502_is_and_comes_back(chat, server, in_chromium):
    """While a proxy answers for the server the page says so; afterwards it shows the answer."""
    url = await server(chat.app)

    def session(page):
        away = []

        def answer(route):
            away.append(route.request.method)
            route.fulfill(status=502, body="<h1>Bad Gateway</h1>")

        page.goto(url)
        page.route("**/chats", answer)
        page.click("form button")
        page.wait_for_function("document.body.dataset.state.includes('(502)')")
        assert "Ask again in a moment." in page.text_content("#state")
        page.unroute("**/chats")
        page.fill("#question", "lambda")
        page.click("form button")
        wait_for_words(page, 5)
        page.route("**/chats/*", answer)
        page.reload()
        page.wait_for_function("document.body.dataset.state.includes('Trying again')")
        assert "(502)" in page.text_content("#state")
        page.unroute("**/chats/*")
        wait_for_words(page, 5)
        page.wait_for_function("document.body.dataset.state === 'completed'")
        page.evaluate("location.hash = 'unknown'")
        page.reload()
        page.wait_for_function("document.body.dataset.state.includes('no such chat')")

    await in_chromium(session)


async def test_an_answer_is_never_markup(chat, server, in_chromium):
    """What looks like HTML in an answer is shown, not obeyed."""
    url = await server(chat.app)

    def session(page):
        page.goto(url)
        page.fill("#question", "<img src=x onerror=document.title=1>")
        page.click("form button")
        page.wait_for_function("document.body.dataset.state === 'completed'")
        assert "<img" in text(page)
        assert page.locator("#answer *").count() == 0

    await in_chromium(session)
