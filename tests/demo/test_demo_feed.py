"""The feed and the answers of the demo, on a clock that jumps."""

import json

import pytest
import trio

from flowstream import CatchUp
from flowstream.demo.app import create_app
from flowstream.demo.demo_feed import LINGER, REPLAY, TOPIC_POLICIES, DemoFeed
from flowstream.demo.gallery import Gallery
from flowstream.demo.tokens import topic_names
from flowstream.testing import collect, open_lifespan, open_stream


@pytest.fixture
async def app():
    """The demo, started, with a slow feed of small events."""
    gallery = Gallery()
    gallery.feed = DemoFeed(rate=20, pad=100)
    app = create_app(gallery)
    app.gallery = gallery
    async with open_lifespan(app):
        yield app


def body(event):
    return json.loads(event.data)


async def read(client, count):
    return [await client.next_event() for _ in range(count)]


async def test_all_clients_share_one_publisher(app, autojump_clock):
    """Two clients that come at different times get the same events from then on, by number."""
    async with open_stream(app, "/feed") as one:
        first = await read(one, 100)
        async with open_stream(app, "/feed?policy=conflate") as other:
            start = body(await other.next_event())["n"]
            assert start >= body(first[-1])["n"]
            other.abort()
        one.abort()
    assert [body(event)["n"] for event in first] == list(range(1, 101))


async def test_it_stops_when_nobody_listens(app, autojump_clock):
    """Half a minute after the last client it publishes no more; the next one wakes it."""
    feed = app.gallery.feed
    async with open_stream(app, "/feed") as client:
        await read(client, 10)
        client.abort()
    await trio.sleep(LINGER + 1)
    published = feed.published
    await trio.sleep(100)
    assert feed.published == published > 0
    async with open_stream(app, "/feed") as client:
        assert body(await client.next_event())["n"] == published + 1
        client.abort()


async def test_a_short_cut_is_replayed_and_a_long_one_is_a_gap(app, autojump_clock):
    """A client that comes back in time misses nothing, and else is told how much."""
    async with open_stream(app, "/feed") as stays:
        for away, missed in ((1, 0), (REPLAY.items / 20 + 5, 1)):
            async with open_stream(app, "/feed") as client:
                last = (await read(client, 20))[-1]
                client.abort()
            await trio.sleep(away)
            async with open_stream(app, "/feed", headers={"last-event-id": last.id}) as client:
                event = await client.next_event()
                if missed:
                    assert event.type == "gap"
                    after = body(event)["missed"]
                    event = await client.next_event()
                    assert body(event)["n"] == body(last)["n"] + after + 1
                else:
                    assert body(event)["n"] == body(last)["n"] + 1
                client.abort()
        stays.abort()


async def test_an_unbounded_queue_would_hold_what_was_published_and_not_sent(app, autojump_clock):
    """For a stalled client that is all since it came; for one that reads, nothing."""
    async with (
        open_stream(app, "/feed?client=slow", window=0),
        open_stream(app, "/feed?client=fast") as fast,
    ):
        events = await read(fast, 400)
        shown = {entry["client"]: entry for entry in app.gallery.picture()["streams"]}
        size = sum(len(event.data) for event in events)
        assert size * 0.9 < shown["slow"]["owed"] < size * 1.5
        assert shown["slow"]["buffer"]["items"] == 64
        assert shown["fast"]["owed"] == 0
        fast.abort()


async def test_who_resumes_is_owed_what_is_replayed_too():
    """The sum begins at the id that a client comes back with, if that is still kept."""
    feed = DemoFeed(pad=0)
    feed.published = 1000
    epoch = feed.topic.epoch
    assert feed.position(None) == 1000
    assert feed.position(f"{epoch}.c900") == 900
    assert feed.position(f"{epoch}.a1") == 1000
    for strange in ("other.c900", "0123abcd.900", "", "900"):
        assert feed.position(strange) == 1000
    for offset in ("d2000", "900", "d900", "c0900", "x", "lost", ""):
        assert feed.position(f"{epoch}.{offset}") == 1000


def test_no_client_can_hold_the_publisher():
    """`Block` is not to be had on the feed, `CatchUp` is."""
    assert "block" not in TOPIC_POLICIES
    assert TOPIC_POLICIES["catch_up"] == CatchUp()


@pytest.mark.parametrize(
    ("query", "expected"),
    [("policy=block", "one of drop_oldest"), ("buffer=0", "from 1 to 10000"), ("rate=9", "policy")],
)
async def test_a_bad_parameter_of_the_feed_is_a_400(app, autojump_clock, query, expected):
    """The answer says what was expected."""
    response = await collect(app, f"/feed?{query}")
    assert response.status == 400
    assert expected in json.loads(response.body)["expected"]


# Answers


async def ask(app, query):
    response = await collect(app, f"/answers?{query}", method="POST")
    assert response.status == 201
    return json.loads(response.body)["id"]


async def test_an_answer_goes_on_without_its_page(app, autojump_clock):
    """Who attaches later gets it from the beginning, and its end."""
    assert "lambda" in topic_names()
    id = await ask(app, "topic=lambda&rate=10")
    async with open_stream(app, f"/answers/{id}") as client:
        first = await read(client, 5)
        client.abort()
    await trio.sleep(5)
    response = await collect(app, f"/answers/{id}")
    assert response.body.count(b"token") == 104
    assert first[0].data.encode() in response.body
    assert b'{"reason":"completed"}' in response.body


async def test_an_answer_is_stopped_for_all(app, autojump_clock):
    """DELETE ends it with the reason `stopped`; its id is shown to nobody else."""
    id = await ask(app, "topic=lambda&rate=1")
    async with open_stream(app, f"/answers/{id}") as client:
        await client.next_event()
        assert id not in json.dumps(app.gallery.picture())
        assert (await collect(app, f"/answers/{id}", method="DELETE")).status == 204
        async for event in client:
            last = event
    assert body(last) == {"reason": "stopped"}


async def test_there_is_room_for_a_few_answers(app, autojump_clock):
    """The ninth is refused, and an unknown one is a 404."""
    for _ in range(8):
        await ask(app, "topic=lambda&rate=1")
    assert (await collect(app, "/answers", method="POST")).status == 503
    assert (await collect(app, "/answers/none")).status == 404
    assert (await collect(app, "/answers?topic=none", method="POST")).status == 404


# The manual


async def test_the_documentation_is_served_and_nothing_beside_it(app, autojump_clock):
    """Pages are HTML whose markup is escaped; what is not in docs/ is a 404."""
    page = await collect(app, "/docs/tutorial.md")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert b"<h1>" in page.body
    assert b"<!-- " not in page.body
    assert (await collect(app, "/docs/images/fanout.svg")).status == 200
    for path in ("/docs/../README.md", "/docs/%2e%2e/README.md", "/docs/nothing.md", "/docs/"):
        assert (await collect(app, path)).status == 404


async def test_without_markdown_it_the_documentation_is_text(app, autojump_clock, monkeypatch):
    """What is installed decides how it looks, not whether it is there."""
    monkeypatch.setattr("flowstream.demo.manual.find_spec", lambda name: None)
    page = await collect(app, "/docs/index.md")
    assert page.headers["content-type"] == "text/plain; charset=utf-8"
    assert page.body.startswith(b"# flowstream")
