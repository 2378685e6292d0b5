"""The programs that the documentation shows for runs over a log, on FastAPI and on Starlette."""

import json
import re
from pathlib import Path

import pytest
import trio

from flowstream.testing import collect, open_lifespan, open_stream

PAGES = Path(__file__).parent.parent.parent / "docs" / "how-to"
SHOWN = {
    "fastapi": (PAGES / "survive-a-reload.md", "FastAPI("),
    "starlette": (PAGES / "fastapi-and-starlette.md", "lifespan=lifespan(log="),
}


def program(framework):
    """Return the one program of the page that has that text in it."""
    page, mark = SHOWN[framework]
    found = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    (text,) = [text for text in found if mark in text]
    return compile(text, page.name, "exec")


async def ask(app, id, question, state):
    async def body():
        yield json.dumps(question).encode()

    sent = {"content-type": "application/json"}
    answer = await collect(
        app, f"/chats/{id}", method="POST", headers=sent, body=body(), state=state
    )
    return answer.status


async def endless(question):
    yield {"type": "token", "data": question}
    await trio.sleep_forever()


@pytest.mark.parametrize("framework", SHOWN)
async def test_an_answer_is_read_and_stopped_on_another_worker(framework, tmp_path, monkeypatch):
    """One worker makes it, the other shows all of it; a stop ends it; an unknown one is a 404."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLOWSTREAM_LOG_URL", raising=False)
    one, other = {"__name__": "one"}, {"__name__": "other"}
    for worker in (one, other):
        exec(program(framework), worker)
    async with (
        open_lifespan(one["app"]) as state,
        open_lifespan(other["app"]) as others,
    ):
        assert await ask(one["app"], "a", "why?", state) == 202
        async with open_stream(other["app"], "/chats/a", state=others) as client:
            events = [event async for event in client]
        words = [json.loads(event.data)["data"] for event in events[:-1]]
        assert words == ["You", "asked:", "why?"]
        assert (events[-1].type, json.loads(events[-1].data)) == ("end", {"reason": "completed"})
        one["answer_to"] = endless
        assert await ask(one["app"], "b", "why?", state) == 202
        assert await ask(other["app"], "b", "why?", others) == 409
        async with open_stream(one["app"], "/chats/b", state=state) as client:
            await client.next_event()
            stopped = await collect(other["app"], "/chats/b", method="DELETE", state=others)
            assert (stopped.status, stopped.body) == (204, b"")
            end = [event async for event in client][-1]
            assert (end.type, json.loads(end.data)) == ("end", {"reason": "stopped"})
        for app, known in ((one["app"], state), (other["app"], others)):
            assert (await collect(app, "/chats/c", state=known)).status == 404
