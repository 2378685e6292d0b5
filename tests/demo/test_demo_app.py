import csv
import io
import json
import re
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from flowstream import CloseReason, StreamResponse, sse
from flowstream.demo import app as app_module
from flowstream.demo import unicode_table
from flowstream.demo.app import ASSETS, create_app
from flowstream.demo.demo_feed import PAD, RATE, TOPIC_POLICIES
from flowstream.demo.flood import KEYS, POLICIES, Flood
from flowstream.demo.gallery import Gallery, NoRoomError
from flowstream.testing import collect, open_stream

STATIC = Path(app_module.__file__).parent / "static"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table of the first two thousand code points."""
    path = tmp_path_factory.mktemp("table") / "t"
    unicode_table.make(path, range(2000))
    return path


@pytest.fixture
def app(table, monkeypatch):
    """The demo, on a small table."""
    monkeypatch.setattr(unicode_table, "load", lambda: table)
    return create_app()


def numbers(events):
    """Return the events' numbers, and how many were announced as missed."""
    received = [json.loads(event.data)["n"] for event in events if event.type == "message"]
    missed = sum(json.loads(event.data)["missed"] for event in events if event.type == "gap")
    return received, missed


# The page


@pytest.mark.parametrize("path", ASSETS)
async def test_every_file_of_the_page_is_served_under_a_strict_policy(app, path):
    """The page's files come with their types, and with a policy that allows nothing foreign."""
    response = await collect(app, path)
    name, media_type = ASSETS[path]
    assert response.status == 200
    assert response.headers["content-type"] == media_type
    assert response.body == (STATIC / name).read_bytes()
    policy = response.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy


def test_the_page_loads_what_is_served_and_nothing_else():
    """Every file that the page or a script of it names is served by the demo itself."""
    page = (STATIC / "page.html").read_text()
    wanted = set(re.findall(r'(?:src|<link[^>]*? href)="(/[^"]*)"', page))
    wanted |= set(re.findall(r'SharedWorker\("([^"]+)"', (STATIC / "hub.js").read_text()))
    wanted |= set(re.findall(r'href="(/[^"]*\.css)"', (STATIC.parent / "manual.py").read_text()))
    for script in STATIC.glob("*.js"):
        wanted |= {f"/{name}" for name in re.findall(r'from "\./([^"]+)"', script.read_text())}
    assert wanted <= set(ASSETS)
    assert len(wanted) >= 8
    assert not re.search(r'(?:src|<link[^>]*? href)="(?!/|data:)', page)
    assert {f"/{path.relative_to(STATIC)}" for path in STATIC.rglob("*") if path.is_file()} - set(
        ASSETS
    ) == {"/page.html"}


def test_the_page_offers_every_policy():
    """The page's list of policies and that of the server are the same."""
    script = (STATIC / "policies.js").read_text()
    offered = script.split("export const POLICIES = {")[1].split("};")[0]
    assert set(re.findall(r"^  (\w+):", offered, re.M)) == {*POLICIES, *TOPIC_POLICIES}
    assert f"const KEYS = {KEYS};" in (STATIC / "account.js").read_text()
    own = f"{{ rate: {RATE:.0f}, pad: {PAD}, stall: 30 }}"
    assert own in (STATIC / "client.js").read_text()


def test_the_page_names_no_other_server():
    """Not a link, a script or a style of the page leads elsewhere."""
    for file in STATIC.iterdir():
        if file.is_file():
            addresses = set(re.findall(r"""https?://[^\s"'`)]+""", file.read_text()))
            assert addresses <= {"http://www.w3.org/2000/svg"}, file


# The table


async def test_rows_come_as_ndjson(app, table):
    """Each line is a row of the table, in order, and nothing is added."""
    response = await collect(app, "/rows.ndjson")
    lines = response.body.decode().splitlines()
    assert [json.loads(line) for line in lines] == list(unicode_table.open_rows(table))
    assert response.complete


async def test_rows_come_as_csv(app, table):
    """The CSV has the columns as its header and the same rows."""
    response = await collect(app, "/rows.csv")
    rows = list(csv.DictReader(io.StringIO(response.body.decode(), newline="")))
    expected = list(unicode_table.open_rows(table))
    assert list(rows[0]) == list(unicode_table.COLUMNS)
    assert [row["name"] for row in rows] == [row["name"] for row in expected]
    assert [row["character"] for row in rows] == [row["character"] for row in expected]


async def test_a_limit_of_rows(app):
    """Only as many rows come as the query asks for."""
    response = await collect(app, "/rows.ndjson?limit=7")
    assert len(response.body.splitlines()) == 7


async def test_an_aborted_download_closes_its_cursor(app):
    """A client that reads nothing holds one cursor, and none as soon as it goes."""
    before = unicode_table.cursors.statistics().open
    async with open_stream(app, "/rows.ndjson", window=1000) as client:
        await client.wait_blocked()
        assert unicode_table.cursors.statistics().open == before + 1
        client.abort()
        await client.wait_finished()
        assert unicode_table.cursors.statistics().open == before


# The other streams


async def test_system_goes_on_for_ever(app, autojump_clock):
    """A reading comes each second for as long as the client stays, also when it comes back."""
    headers = [("last-event-id", "another.3")]
    async with open_stream(app, "/system", headers=headers) as client:
        for _ in range(5):
            assert "cpu" in json.loads((await client.next_event()).data)
        assert trio.current_time() == 4
        client.abort()


async def test_tokens_are_a_topic(app, autojump_clock):
    """The text of a topic comes in tokens and says that it is done."""
    response = await collect(app, "/tokens?topic=lambda&rate=100")
    values = [json.loads(line) for line in response.body.splitlines() if line]
    text = "".join(value["data"] for value in values if value["type"] == "token")
    assert text.startswith("Lambdas\n")
    assert {"type": "done"} in values


async def test_topics_are_listed(app):
    """What can be asked for is a list of names."""
    assert "lambda" in json.loads((await collect(app, "/topics")).body)


async def test_an_unknown_topic_is_a_404(app):
    """A topic that is not there is found out before the stream begins."""
    response = await collect(app, "/tokens?topic=nonsense")
    assert response.status == 404
    assert "nonsense" in json.loads(response.body)["error"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/flood?policy=drop", "one of block, drop_oldest"),
        ("/flood?buffer=0", "from 1 to 10000"),
        ("/flood?buffer=many", "a whole number of items"),
        ("/flood?buffer=" + "9" * 5000, "a whole number of items"),
        ("/flood?buffer=%D9%A3", "a whole number of items"),
        ("/flood?rate=-1", "from 0 to 100000"),
        ("/flood?rate=nan", "a number of events a second"),
        ("/flood?rate=fast", "a number of events a second"),
        ("/flood?pad=70000", "from 0 to 65536"),
        ("/flood?stall=0", "a number of seconds"),
        ("/flood?client=a%20b", "letters, digits"),
        ("/flood?polices=block", "one of policy, buffer"),
        ("/rows.ndjson?limit=0", "a whole number of rows"),
        ("/rows.csv?limit=x", "a whole number of rows"),
        ("/tokens?rate=x", "a number of tokens a second"),
    ],
)
async def test_a_bad_parameter_is_a_400_that_says_what_was_expected(app, path, expected):
    """Whatever is wrong with a query, the answer names the parameter's range, with no traceback."""
    response = await collect(app, path)
    assert response.status == 400
    answer = json.loads(response.body)
    assert expected in answer["expected"]
    assert len(answer["error"]) < 400


# The flood


@pytest.mark.parametrize("policy", [name for name in POLICIES if name != "disconnect"])
async def test_received_and_missed_make_up_the_last_number(app, autojump_clock, policy):
    """Through a stall and after it, events received and announced as missed add up, per key."""
    path = f"/flood?policy={policy}&buffer=16&rate=100&stall=3600"
    async with open_stream(app, path, window=0) as client:
        await trio.sleep(60)
        events = [await client.next_event() for _ in range(100)]
        client.resume()
        events += [await client.next_event() for _ in range(100)]
        client.abort()
    received, missed = numbers(events)
    if policy == "conflate":
        newest = {n % KEYS: n for n in received}
        made = sum(len(range(key or KEYS, n + 1, KEYS)) for key, n in newest.items())
        assert len(received) + missed == made
    else:
        assert received == sorted(set(received))
        assert len(received) + missed == received[-1]
    assert (missed > 0) == (policy != "block")


async def test_disconnect_gives_a_slow_client_up(autojump_clock):
    """Under the policy `disconnect` a full buffer ends the stream with slow_consumer."""
    gallery = Gallery()
    path = "/flood?policy=disconnect&buffer=4&rate=100&client=slow"
    async with open_stream(create_app(gallery), path, window=0) as client:
        await trio.sleep(1)
        assert gallery.picture()["streams"][0]["reason"] == CloseReason.SLOW_CONSUMER
        client.abort()


async def test_a_flood_without_a_rate_is_as_fast_as_its_client(app):
    """A rate of 0 sets no pace: what a client reads is all the time it takes."""
    async with open_stream(app, "/flood?rate=0&buffer=8&pad=10") as client:
        events = [await client.next_event() for _ in range(2000)]
        client.abort()
    assert numbers(events) == (list(range(1, 2001)), 0)


async def test_the_padding_has_its_size():
    """An event is padded with as many bytes as were asked for."""
    events = Flood.parse({"pad": "4096", "rate": "0"}).events()
    assert len((await anext(events)).data["pad"]) == 4096
    await events.aclose()


# The gallery


async def test_streams_shows_each_stream_while_it_runs_and_after(autojump_clock):
    """The feed lists a client with its live statistics, and with its reason once it has gone."""
    app = create_app()
    async with open_stream(app, "/streams") as viewer:
        async with open_stream(
            app, "/flood?client=me&rate=100&policy=drop_oldest&buffer=8", window=0
        ):
            await trio.sleep(2)
            seen = await newest(viewer, "me")
            assert seen["policy"] == "drop_oldest"
            assert seen["state"] == "open"
            assert seen["buffer"]["items"] == seen["buffer"]["max_items"] == 8
            assert seen["dropped"] > 100
            assert seen["sending_for"] > 1.5
        await trio.sleep(1)
        seen = await newest(viewer, "me")
        assert (seen["state"], seen["reason"]) == ("closed", "client_disconnected")
        viewer.abort()


async def newest(viewer, client):
    """Return the last that the feed has said of `client` by now."""
    while True:
        now = trio.current_time()
        picture = json.loads((await viewer.next_event()).data)
        if trio.current_time() > now:  # what had been queued is read
            return next(entry for entry in picture["streams"] if entry["client"] == client)


@asynccontextmanager
async def served(response: StreamResponse):
    """Serve a response to a client that reads all."""
    async with open_stream(response, "/") as client:
        await client.started()
        yield client
        client.abort()


async def test_a_full_gallery_refuses(autojump_clock):
    """Past its room the demo answers 503 and when to come back; a stream that ends makes room."""
    gallery = Gallery(room=1)
    app = create_app(gallery)
    async with open_stream(app, "/system") as client:
        await client.next_event()
        response = await collect(app, "/flood")
        assert response.status == 503
        assert response.headers["retry-after"] == "5"
        client.abort()
        await client.wait_finished()
    assert (await collect(app, "/tokens?rate=0")).status == 200


async def test_a_stream_that_never_starts_is_forgotten(autojump_clock):
    """A response that nobody called takes room for ten seconds and no longer."""
    gallery = Gallery(room=1)
    gallery.add(sse([]), client="a", path="/", policy="block")
    with pytest.raises(NoRoomError):
        gallery.check_room()
    await trio.sleep(11)
    gallery.check_room()
    assert gallery.picture()["streams"] == []


async def test_only_the_last_of_the_ended_are_remembered(autojump_clock):
    """However many streams come and go, the gallery holds a bounded number."""
    gallery = Gallery(remembered=3)
    for index in range(10):
        response = gallery.add(sse([]), client=f"c{index}", path="/", policy="block")
        async with served(response):
            pass
    assert [entry["client"] for entry in gallery.picture()["streams"]] == ["c9", "c8", "c7"]
