"""Tokens of a model in this process: a model of the test's own, with llama.cpp's interface.

On the real clock: a virtual one takes a thread that works for silence. Nothing sleeps; threads
and tasks wait for each other.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import itertools
import json
import random
import sys
import threading
import time
import types

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from flowstream import Limits, MissingExtraError, ndjson
from flowstream.sources import as_source
from flowstream.sources.llm.llama import local_tokens
from flowstream.testing import collect, open_stream

CHAT = [{"role": "user", "content": "Why?"}]


class Model:
    """A model that says numbers; `allow` lets it compute so many tokens, `open` all."""

    def __init__(self, *, size=None, finish="stop", prompt_tokens=7, shut=False, fails=None):
        self.n_tokens = 0
        self.computed = 0
        self.begun = []
        self.closed = 0
        self.inside = 0
        self.at_gate = threading.Event()
        self._size = size
        self._finish = finish
        self._prompt_tokens = prompt_tokens
        self._fails = fails
        self._permits = threading.Semaphore(0)
        self._open = not shut

    def allow(self, count=1):
        self._permits.release(count)

    def open(self):
        self._open = True
        self.allow(100)

    def create_completion(self, prompt, *, stream, max_tokens, **options):
        assert stream is True
        self.begun.append((prompt, max_tokens, options))
        for text, finish in self._answer(max_tokens):
            yield {"choices": [{"text": text, "finish_reason": finish}]}

    def create_chat_completion(self, messages, *, stream, max_tokens, **options):
        assert stream is True
        self.begun.append((messages, max_tokens, options))
        answer = self._answer(max_tokens)
        for n, (text, finish) in enumerate(answer):
            if n == 0:
                yield {"choices": [{"delta": {"role": "assistant"}, "finish_reason": None}]}
            delta = {"content": text} if text else {}
            yield {"choices": [{"delta": delta, "finish_reason": finish}]}

    def _answer(self, max_tokens):
        self.inside += 1
        assert self.inside == 1, "two answers at a time"
        try:
            self.n_tokens = self._prompt_tokens
            for n in itertools.count():
                if self._fails is not None and n == 2:
                    raise self._fails
                if not self._open:
                    self.at_gate.set()
                    assert self._permits.acquire(timeout=30), "the test never allowed it"
                if n == self._size:
                    break
                self.computed += 1
                yield f" {n}", None
                if n + 1 == max_tokens:
                    self._finish = "length"
                    break
                self.n_tokens += 1  # to go on, it reads what it has said
            yield "", self._finish
        finally:
            self.inside -= 1
            self.closed += 1


def events_of(body):
    return [json.loads(line) for line in body.splitlines()]


def tokens_of(body):
    return [event["data"] for event in events_of(body) if event["type"] == "token"]


def app_for(model, reports=None, prompt="Once", **options):
    on_close = None if reports is None else reports.append

    async def app(scope, receive, send):
        source = local_tokens(model, prompt, max_tokens=10_000)
        response = ndjson(source, on_close=on_close, controls=False, **options)
        await response(scope, receive, send)

    return app


@pytest.mark.parametrize("prompt", ["Once upon", CHAT], ids=["text", "chat"])
async def test_an_answer_is_tokens_usage_and_done(prompt):
    """Whether a text is gone on with or a message is answered, in order and to the last."""
    model = Model(size=3)
    source = local_tokens(model, prompt, max_tokens=9, temperature=0.5)
    response = await collect(ndjson(source, controls=False))
    assert events_of(response.body) == [
        {"type": "token", "data": " 0"},
        {"type": "token", "data": " 1"},
        {"type": "token", "data": " 2"},
        {"type": "usage", "input_tokens": 7, "output_tokens": 3},
        {"type": "done", "reason": "stop"},
    ]
    assert model.begun == [(prompt, 9, {"temperature": 0.5})]
    assert model.closed == 1


async def test_an_answer_that_reaches_its_limit_says_so():
    """`max_tokens` ends it with `length`, and the last token counts though it was not read."""
    response = await collect(ndjson(local_tokens(Model(), "Once", max_tokens=2), controls=False))
    assert events_of(response.body)[2:] == [
        {"type": "usage", "input_tokens": 7, "output_tokens": 2},
        {"type": "done", "reason": "length"},
    ]


@pytest.mark.parametrize(
    ("finish", "reason"),
    [("function_call", "tool_calls"), ("content_filter", "content_filter"), ("x", "other")],
)
async def test_every_reason_to_finish_is_one_that_is_known(finish, reason):
    """What llama.cpp says of the end is translated, and what is new to us is `other`."""
    source = local_tokens(Model(size=1, finish=finish), CHAT)
    response = await collect(ndjson(source, controls=False))
    assert events_of(response.body)[-1] == {"type": "done", "reason": reason}


async def test_calls_of_tools_and_thoughts():
    """A call's name and id come with its first piece only; who can't count gives no usage."""

    class Caller:
        def create_chat_completion(self, messages, stream, max_tokens, tools):
            assert tools == [{"type": "function"}]
            function = {"name": "weather", "arguments": '{"city":'}
            call = {"index": 0, "id": "call_1", "function": function}
            yield {"choices": [{"delta": {"reasoning_content": "Hm"}, "finish_reason": None}]}
            yield {"choices": [{"delta": {"tool_calls": [call]}, "finish_reason": None}]}
            call = {**call, "function": {"name": "weather", "arguments": '"Rome"}'}}
            yield {"choices": [{"delta": {"tool_calls": [call]}, "finish_reason": None}]}
            yield {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}

    source = local_tokens(Caller(), CHAT, tools=[{"type": "function"}])
    response = await collect(ndjson(source, controls=False))
    first = {"index": 0, "arguments": '{"city":', "id": "call_1", "name": "weather"}
    assert events_of(response.body) == [
        {"type": "reasoning", "data": "Hm"},
        {"type": "tool_call", **first},
        {"type": "tool_call", "index": 0, "arguments": '"Rome"}'},
        {"type": "done", "reason": "tool_calls"},
    ]


async def test_a_token_is_sent_while_the_next_is_computed():
    """None waits for the one after it."""
    model = Model(size=3, shut=True)
    async with open_stream(app_for(model)) as client:
        for n in range(3):
            model.allow()
            assert await client.next_value() == {"type": "token", "data": f" {n}"}
        model.open()


async def test_a_client_that_stops_reading_halts_the_model(aeventually):
    """It computes what the buffers take and no more, and goes on when the client does."""
    model = Model(size=400)
    async with open_stream(app_for(model, buffer=4), window=0) as client:
        await client.wait_blocked()
        # One in the blocked send, four in the buffer, one in hand, eight ahead, one at the door.
        await aeventually(lambda: model.computed >= 13, "the buffers to be full")
        await wait_all_tasks_blocked(0.05)
        assert model.computed <= 16
        assert model.inside == 1
        body = await client.read_all()
    assert tokens_of(body) == [f" {n}" for n in range(400)]


async def test_a_client_that_goes_frees_the_thread_within_one_token(reports):
    """The token that is computed is the last; the stream waits for it and no longer."""
    model = Model(shut=True)
    async with open_stream(app_for(model, reports)) as client:
        model.allow(3)
        for _ in range(3):
            await client.next_value()
        await trio.to_thread.run_sync(model.at_gate.wait)
        client.abort()
        await wait_all_tasks_blocked(0.01)
        assert not client.finished
        model.allow(50)
        await client.wait_finished()
    assert 3 <= model.computed <= 4
    assert (model.inside, model.closed) == (0, 1)
    assert [report.reason for report in reports] == ["client_disconnected"]


async def test_a_thread_that_waits_for_a_client_is_freed_at_once(reports):
    """No token is computed for a client that went while the model was halted."""
    model = Model()
    async with open_stream(app_for(model, reports, buffer=1), window=0) as client:
        await client.wait_blocked()
        await wait_all_tasks_blocked(0.05)
        before = model.computed
        client.abort()
        await client.wait_finished()
    assert model.computed == before
    assert model.closed == 1


async def test_streams_take_turns_in_the_order_in_which_they_came(aeventually):
    """Each begins when the one before is closed, and who went while it waited never begins."""
    model = Model(size=2, shut=True)
    done = []

    async def ask(prompt, task_status):
        async with open_stream(app_for(model, prompt=prompt)) as client:
            await client.started()
            await wait_all_tasks_blocked(0.01)
            task_status.started(client)
            if tokens_of(await client.read_all()):
                done.append(prompt)

    async with trio.open_nursery() as nursery:
        clients = [await nursery.start(ask, name) for name in "abcd"]
        assert [prompt for prompt, *_ in model.begun] == ["a"]
        clients[1].abort()
        await clients[1].wait_finished()
        model.open()
    assert [prompt for prompt, *_ in model.begun] == done == ["a", "c", "d"]
    assert (model.inside, model.closed) == (0, 3)


async def test_other_models_are_not_waited_for():
    """A stream of another model runs while one is held up."""
    held, free = Model(shut=True), Model(size=1)
    async with open_stream(app_for(held)) as client:
        await client.started()
        assert tokens_of((await collect(app_for(free))).body) == [" 0"]
        held.open()
        client.abort()


async def test_a_thread_that_is_left_behind_keeps_its_turn(reports):
    """A token that takes longer than cleanup may: the stream ends, the next one still waits."""
    model = Model(size=2, shut=True)
    async with trio.open_nursery() as nursery:
        app = app_for(model, reports, limits=Limits(cleanup_timeout=0.01))
        async with open_stream(app) as client:
            await trio.to_thread.run_sync(model.at_gate.wait)
            client.abort()
            await client.wait_finished()
        assert len(reports) == 1
        assert model.inside == 1

        async def next_one():
            assert tokens_of((await collect(app_for(model))).body) == [" 0", " 1"]

        nursery.start_soon(next_one)
        await wait_all_tasks_blocked(0.02)
        assert len(model.begun) == 1
        model.open()
    assert (model.inside, model.closed) == (0, 2)


def test_a_thread_of_a_run_that_is_over_is_waited_for():
    """Two Trio runs of one process: the second gets the model when the first's thread is out."""
    model = Model(size=2, shut=True)

    async def first():
        app = app_for(model, limits=Limits(cleanup_timeout=0.01))
        async with open_stream(app) as client:
            await trio.to_thread.run_sync(model.at_gate.wait)
            client.abort()

    async def second():
        async with open_stream(app_for(model)) as gone:
            await gone.started()
            await wait_all_tasks_blocked(0.02)
            gone.abort()  # it must not wait for a thread that is not its own
            await gone.wait_finished()
        async with open_stream(app_for(model)) as client:
            await client.started()
            await wait_all_tasks_blocked(0.02)
            assert len(model.begun) == 1
            model.open()
            assert tokens_of(await client.read_all()) == [" 0", " 1"]

    trio.run(first)
    assert model.inside == 1
    trio.run(second)
    assert (model.inside, model.closed) == (0, 2)


async def test_a_thread_that_cannot_be_started_gives_its_turn_back(monkeypatch, reports):
    """The machine is out of threads: that stream fails, and the next one gets the model."""
    model = Model(size=2)

    def none_left(*_):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(trio.lowlevel, "start_thread_soon", none_left)
        await collect(app_for(model, reports))
    assert "new thread" in str(reports[0].error)
    assert tokens_of((await collect(app_for(model))).body) == [" 0", " 1"]


async def test_clients_that_leave_at_random_leave_the_model_free():
    """After fifty of them nobody is in the model, each answer is closed, and it still answers."""
    chance = random.Random(3)
    model = Model(size=40)

    async def one():
        async with open_stream(app_for(model, buffer=2), window=chance.choice([0, 60])) as client:
            with contextlib.suppress(EOFError):
                for _ in range(chance.randrange(8)):
                    await client.next_value()
            for _ in range(chance.choice([0, 1, 5, 50])):
                await trio.lowlevel.checkpoint()
            client.abort()

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(one)
    assert model.inside == 0
    assert model.closed == len(model.begun)
    assert len(tokens_of((await collect(app_for(model))).body)) == 40


async def test_a_model_that_fails_fails_one_stream(caplog, reports):
    """What it said before is delivered, its error stays in the log, and the next one gets it."""
    model = Model(fails=RuntimeError("llama_decode returned -1: /secret"))
    body = (await collect(ndjson(local_tokens(model, "Once"), on_close=reports.append))).body
    assert tokens_of(body) == [" 0", " 1"]
    assert events_of(body)[-1]["data"]["code"] == "internal"
    assert b"secret" not in body
    assert "llama_decode" in str(reports[0].error)
    model._fails = None
    assert len(tokens_of((await collect(ndjson(local_tokens(model, "x", max_tokens=5)))).body)) == 5
    assert (model.inside, model.closed) == (0, 2)


class Reader(Model):
    """A model that reads its prompt until it is asked to stop, by llama.cpp's callback."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.ctx = object()
        self.asks = None
        self.reading = threading.Event()

    def create_completion(self, prompt, **options):
        if prompt == "long":
            self.reading.set()
            while not self.asks(None):
                time.sleep(0.001)
            raise RuntimeError("llama_decode returned 2")
        yield from super().create_completion(prompt, **options)


@pytest.fixture
def reader(llama_cpp):
    """One, and llama-cpp-python's functions for it."""
    model = Reader(size=3)

    def set_callback(context, callback, data):
        assert context is model.ctx
        model.asks = callback

    llama_cpp.ggml_abort_callback = lambda function=None: function
    llama_cpp.llama_set_abort_callback = set_callback
    return model


async def test_a_prompt_is_not_read_to_its_end_for_a_client_that_went(reader, reports, caplog):
    """What llama.cpp says when it is cut short is no failure, and the model is free."""
    async with open_stream(app_for(reader, reports, prompt="long")) as client:
        await trio.to_thread.run_sync(reader.reading.wait)
        client.abort()
    assert [report.reason for report in reports] == ["client_disconnected"]
    assert reports[0].error is None
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    assert reader.asks is None
    assert len(tokens_of((await collect(app_for(reader))).body)) == 3


async def test_it_is_asked_while_it_reads_and_no_longer(reader):
    """A callback into Python is called hundreds of times a token: there is none after the first."""
    seen = []
    speak = reader._answer

    def answer(max_tokens):
        seen.append(reader.asks(None))
        for text in speak(max_tokens):
            yield text
            seen.append(reader.asks)

    reader._answer = answer
    await collect(app_for(reader))
    assert seen == [False, None, None, None, None]


class Full:
    """A model whose context is shorter than any prompt."""

    def create_completion(self, prompt, **options):
        raise ValueError("Requested tokens (5000) exceed context window of 4096")

    create_chat_completion = create_completion


async def test_a_prompt_that_is_too_long_is_the_clients_fault():
    """Status 413 before the first item, an event in band without `prime`, no numbers in either."""
    response = await collect(ndjson(local_tokens(Full(), "x"), prime=5))
    assert response.status == 413
    assert json.loads(response.body)["code"] == "context_too_long"
    response = await collect(ndjson(local_tokens(Full(), "x")))
    (failed,) = events_of(response.body)
    assert failed["data"]["code"] == "context_too_long"
    assert "4096" not in failed["data"]["message"]


@pytest.fixture
def llama_cpp(monkeypatch):
    """A module in the place of llama-cpp-python, and the models that were made of it."""
    module = types.ModuleType("llama_cpp")
    module.__spec__ = importlib.machinery.ModuleSpec("llama_cpp", None)
    module.made = []

    class Llama(Model):
        def __init__(self, model_path, n_ctx, verbose):
            super().__init__(size=2)
            module.made.append((model_path, threading.get_ident()))

    module.Llama = Llama
    monkeypatch.setitem(sys.modules, "llama_cpp", module)
    return module


async def test_a_file_is_loaded_once_and_in_a_thread(llama_cpp, tmp_path):
    """By the first stream that needs it, whatever the path is called; the others share it."""
    path, link = tmp_path / "model.gguf", tmp_path / "link"
    path.touch()
    link.symlink_to(path)
    local_tokens(path, "never run")
    assert llama_cpp.made == []

    async def one(given):
        assert len(tokens_of((await collect(app_for(given))).body)) == 2

    async with trio.open_nursery() as nursery:
        for given in (path, str(path), link):
            nursery.start_soon(one, given)
    ((loaded, thread),) = llama_cpp.made
    assert loaded == str(path)
    assert thread != threading.get_ident()


def test_a_missing_file_is_told_at_the_call(llama_cpp, tmp_path):
    """In the view, where it is the app's own error."""
    with pytest.raises(FileNotFoundError, match=r"none\.gguf"):
        local_tokens(tmp_path / "none.gguf", "x")
    with pytest.raises(FileNotFoundError):
        local_tokens(tmp_path, "x")


def test_without_the_extra_it_says_which(monkeypatch, tmp_path):
    """A path needs llama-cpp-python; the message has the command that installs it."""
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'flowstream-trio\[llm-local\]'"):
        local_tokens(tmp_path / "model.gguf", "x")


@pytest.mark.parametrize(
    ("model", "prompt", "options", "message"),
    [
        (object(), "x", {}, "not a object"),
        (None, "x", {}, "not a NoneType"),
        (Model(), None, {}, "not a NoneType"),
        (Model(), {"role": "user"}, {}, "list of messages"),
        (Model(), ["x"], {}, "a message is a dict"),
        (Model(), [{"content": "x"}], {}, "a message is a dict"),
        (Model(), [], {}, "no message"),
        (Model(), "x", {"max_tokens": 0}, "at least 1"),
        (Model(), "x", {"max_tokens": True}, "an int"),
        (Model(), "x", {"max_tokens": 1.5}, "an int"),
        (Model(), "x", {"stream": False}, "stream"),
        (Model(), "x", {"messages": []}, "messages"),
    ],
)
def test_arguments_that_cannot_be_right_are_refused(model, prompt, options, message):
    """At the call, with a word on what was expected; nothing is begun."""
    with pytest.raises((TypeError, ValueError), match=message):
        local_tokens(model, prompt, **options)


async def test_it_is_a_source_like_any_other():
    """It is taken as it is, and one that is never run has touched nothing."""
    model = Model()
    source = local_tokens(model, "x")
    assert as_source(source) is source
    await source.discard()
    assert model.begun == []
    response = await collect(ndjson(source), method="HEAD")
    assert response.body == b""
    assert model.begun == []


@pytest.fixture
def reports():
    return []
