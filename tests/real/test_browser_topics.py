"""Headless Chromium: an EventSource on a topic that is cut off again and again."""

import itertools

import pytest
import trio

from flowstream import Limits, Replay, Topic, sse

pytestmark = [pytest.mark.browser, pytest.mark.chaos]

LISTEN = """([opens, type]) => new Promise((resolve) => {
  const said = [];
  let opened = 0;
  const source = new EventSource("/ticker");
  source.onopen = () => { opened += 1; };
  const note = (name) => (event) => {
    said.push([name, JSON.parse(event.data)]);
    if (opened >= opens && name === type) { source.close(); resolve([opened, said]); }
  };
  source.onmessage = note("message");
  for (const name of ["gap", "snapshot"]) source.addEventListener(name, note(name));
})"""


@pytest.fixture
def listen(in_chromium):
    """Listen in a page until the EventSource was opened so often and had an event of a type."""

    async def run(url, opens, type):
        def use(page):
            page.goto(f"{url}/page")
            return page.evaluate(LISTEN, [opens, type])

        return await in_chromium(use)

    return run


class App:
    """A page, and a topic at /ticker that is cut off every 0.3 seconds."""

    def __init__(self, replay, retry):
        self.published = 0
        self.topic = Topic("ticker", replay=replay, snapshot=self.snapshot)
        self.retry = retry

    async def snapshot(self):
        return self.published

    async def tick(self):
        for number in itertools.count(1):
            self.published = number
            await self.topic.publish(number)
            await trio.sleep(0.005)

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return
        if scope["path"] == "/ticker":
            limits = Limits(max_duration=0.3)
            await sse(self.topic, limits=limits, retry=self.retry)(scope, receive, send)
            return
        headers = [(b"content-type", b"text/html")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"<!doctype html><title>a</title>"})


async def test_it_goes_on_where_it_left_off(server, listen, nursery):
    """Over five connections the page gets the state once and then every event, once, in order."""
    app = App(Replay(items=1000), retry=50)
    url = await server(app)
    nursery.start_soon(app.tick)
    opened, said = await listen(url, 5, "message")
    nursery.cancel_scope.cancel()
    assert opened == 5
    (kind, state), *messages = said
    assert kind == "snapshot"
    assert {kind for kind, _ in messages} == {"message"}
    assert [number for _, number in messages] == list(range(state + 1, state + 1 + len(messages)))


async def test_what_is_gone_is_announced(server, listen, nursery):
    """Where replay does not reach, a gap and a snapshot make up for exactly what is missing."""
    app = App(Replay(items=2), retry=300)
    url = await server(app)
    nursery.start_soon(app.tick)
    _, said = await listen(url, 3, "message")
    nursery.cancel_scope.cancel()
    kinds = [kind for kind, _ in said]
    assert kinds.count("gap") >= 2
    position = None
    for kind, body in said:
        if kind == "gap":
            missed = body["missed"]
            assert missed > 0
        elif kind == "snapshot":
            assert position is None or body == position + missed
            position = body
        else:
            assert body == position + 1
            position = body
