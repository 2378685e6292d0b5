"""Headless Chromium and the durable chat: the worker that answers is killed, and it goes on."""

import os
import re
import signal
from pathlib import Path
from pydoc_data.topics import topics

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.chaos]

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "19_durable_chat.py"
QUESTION = "exceptions"

# The example. A worker that is gone counts as gone sooner, since the test waits for that; and who
# makes an answer says so.
APP = f"""
import importlib.util
import os
import sys
from functools import partial

import flowstream

flowstream.Runs = partial(flowstream.Runs, lease=1.5)
spec = importlib.util.spec_from_file_location("example", {str(EXAMPLE)!r})
example = importlib.util.module_from_spec(spec)
spec.loader.exec_module(example)
app, real_answer = example.app, example.answer


def answer(*arguments):
    print("made by", os.getpid(), file=sys.stderr, flush=True)
    return real_answer(*arguments)


example.answer = answer
"""


@pytest.fixture
def chat(tmp_path, monkeypatch, served):
    """Serve the example with two workers, as its docstring says."""
    monkeypatch.setenv("FLOWSTREAM_LOG_URL", f"sqlite:///{tmp_path / 'chats.db'}")
    return served(APP, "--workers", "2")


def makers(chat):
    """Return the ids of the processes that have made the answer, one after the other."""
    return [int(pid) for pid in re.findall(r"^made by (\d+)$", chat.log, re.MULTILINE)]


async def test_an_answer_survives_its_worker(chat, in_chromium, eventually):
    """The worker that makes the answer is killed: the page shows all of it, each word once."""
    answer = topics[QUESTION].rstrip()

    def use(page):
        said = []
        page.on("pageerror", lambda error: said.append(str(error)))
        page.set_default_timeout(60_000)
        page.goto(chat.url)
        page.fill("#question", QUESTION)
        page.click("form button")
        page.wait_for_function("document.getElementById('answer').textContent.length > 100")
        (maker,) = makers(chat)
        os.kill(maker, signal.SIGKILL)
        eventually(lambda: len(makers(chat)) == 2, "nobody goes on with the answer", timeout=60)
        for _ in range(2):
            page.wait_for_function("document.body.dataset.state === 'completed'")
            assert page.text_content("#answer").rstrip() == answer
            page.reload()
        assert not said

    await in_chromium(use, patience=150)
    assert chat.log.count("was killed by SIGKILL") == 1
