"""Headless Chromium: EventSource that stays away after the end, fetch that knows a cut stream."""

from pathlib import Path

import pytest
import trio
from quart import request
from quart_trio import QuartTrio

from flowstream import CloseReason, PublicError, csv, ndjson, sse
from flowstream.quart import Flowstream

pytestmark = [pytest.mark.browser, pytest.mark.chaos]


@pytest.fixture
def browse(in_chromium):
    """Run a script in a page of the server, and return what its promise gave."""

    async def run(url, script):
        def use(page):
            page.goto(f"{url}/page")
            return page.evaluate(script)

        return await in_chromium(use)

    return run


class App:
    """A blank page, and one kind of stream at every other path."""

    def __init__(self, make, *, seen=None):
        self.make = make
        self.seen = seen
        self.requests = []
        self.reports = []

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return
        if scope["path"] in ("/page", "/favicon.ico", "/seen"):
            if scope["path"] == "/seen":
                self.seen()
            headers = [(b"content-type", b"text/html")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"<!doctype html><title>a</title>"})
            return
        self.requests.append(dict(scope["headers"]).get(b"last-event-id"))
        await self.make(self.reports.append)(scope, receive, send)


# Resolves when the EventSource has closed for good, which it says by an error event.
UNTIL_CLOSED = """() => new Promise(resolve => {
    const log = [];
    const source = new EventSource("/events");
    source.onmessage = event => log.push(event.data);
    source.addEventListener("end", event => log.push("end"));
    source.addEventListener("failed", event => log.push("failed"));
    source.onerror = () => {
        log.push(source.readyState === EventSource.CLOSED ? "closed" : "reconnects");
        if (source.readyState === EventSource.CLOSED) resolve(log);
    };
})"""


async def test_after_the_end_an_eventsource_stays_away(server, browse, clean_log, aeventually):
    """The browser comes back once, after the end, gets a 204 and closes: the producer ran once."""
    runs = []

    async def words():
        runs.append(1)
        for word in ("one", "two\nlines", "\N{SNOWMAN}"):
            yield word

    app = App(lambda on_close: sse(words, retry=20, on_close=on_close))
    log = await browse(await server(app), UNTIL_CLOSED)
    assert log == ["one", "two\nlines", "\N{SNOWMAN}", "end", "reconnects", "closed"]
    assert len(runs) == 1
    assert app.requests[0] is None
    assert app.requests[1].endswith(b".end")
    await aeventually(lambda: len(app.reports) == 2, "both reports")
    reasons = [report.reason for report in app.reports]
    assert reasons == [CloseReason.COMPLETED, CloseReason.REFUSED]


async def test_after_a_failure_an_eventsource_stays_away(server, browse):
    """A producer that failed, and is not said to be worth a retry, runs once."""
    runs = []

    async def fails():
        runs.append(1)
        yield "one"
        raise ValueError("a bug")

    app = App(lambda on_close: sse(fails, retry=20))
    log = await browse(await server(app), UNTIL_CLOSED)
    assert log == ["one", "failed", "reconnects", "closed"]
    assert len(runs) == 1


async def test_a_failure_worth_a_retry_brings_it_back(server, browse):
    """A retryable failure of a source that may be run again is tried again, then completes."""
    runs = []

    async def fails_once():
        runs.append(1)
        yield f"run {len(runs)}"
        if len(runs) == 1:
            raise PublicError("busy", "Try again.", retryable=True)

    app = App(lambda on_close: sse(fails_once, retry=20, on_reconnect="restart"))
    log = await browse(await server(app), UNTIL_CLOSED)
    assert log == ["run 1", "failed", "reconnects", "run 2", "end", "reconnects", "closed"]


async def test_a_closed_eventsource_cancels_the_producer(server, browse, clean_log, aeventually):
    """EventSource.close() in the page ends the stream, and the browser does not come back."""

    async def endless():
        while True:
            yield "tick"
            await trio.sleep(0.005)

    app = App(lambda on_close: sse(endless, retry=20, on_close=on_close))
    await browse(
        await server(app),
        """() => new Promise(resolve => {
            const source = new EventSource("/events");
            let seen = 0;
            source.onmessage = () => { if (++seen == 5) { source.close(); resolve(); } };
        })""",
    )
    await aeventually(lambda: app.reports, "the report")
    assert [report.reason for report in app.reports] == [CloseReason.CLIENT_DISCONNECTED]
    assert len(app.requests) == 1


# Reads a body piece by piece: how much came, and how it ended.
READ = """async () => {
    const reader = (await fetch("/stream")).body.getReader();
    let text = "";
    const decoder = new TextDecoder();
    try {
        while (true) {
            const {done, value} = await reader.read();
            if (done) return [text, "done"];
            text += decoder.decode(value, {stream: true});
        }
    } catch (error) {
        return [text, error.name + ": " + error.message];
    }
}"""


async def test_fetch_reads_a_whole_stream(server, browse, clean_log):
    """A stream that completes is done for a page that reads it with fetch."""
    app = App(lambda on_close: ndjson([1, "\N{SNOWMAN}", {"a": None}], controls=False))
    assert await browse(await server(app), READ) == ['1\n"\N{SNOWMAN}"\n{"a":null}\n', "done"]


@pytest.mark.parametrize("kind", ["ndjson", "csv"])
async def test_fetch_rejects_a_cut_stream(server, browse, kind):
    """Half an export is a network error for fetch, whatever had come by then."""
    seen = trio.Event()

    async def rows():
        yield [1, 2]
        # Chromium throws away what it has not yet handed to the page when a stream is cut.
        with trio.move_on_after(10):
            await seen.wait()
        raise ValueError("gone")

    def make(on_close):
        return csv(rows) if kind == "csv" else ndjson(rows, controls=False)

    app = App(make, seen=seen.set)
    script = READ.replace("text += ", "fetch('/seen'); text += ")
    text, ended = await browse(await server(app), script)
    assert text == ("1,2\r\n" if kind == "csv" else "[1,2]\n")
    assert ended == "TypeError: network error"


async def test_a_failure_in_band_is_a_clean_end_for_fetch(server, browse):
    """NDJSON with flowstream's own events says `failed` and then ends as a whole."""

    async def rows():
        yield 1
        raise PublicError("quota", "No more today.")

    app = App(lambda on_close: ndjson(rows))
    text, ended = await browse(await server(app), READ)
    assert ended == "done"
    assert '"type":"failed"' in text
    assert "No more today." in text


async def test_an_aborted_fetch_cancels_the_producer(server, browse, clean_log, aeventually):
    """AbortController.abort() in the page ends the stream on the server."""

    async def endless():
        while True:
            yield 1
            await trio.sleep(0.005)

    app = App(lambda on_close: ndjson(endless, on_close=on_close))
    await browse(
        await server(app),
        """async () => {
            const controller = new AbortController();
            const reader = (await fetch("/s", {signal: controller.signal})).body.getReader();
            await reader.read();
            controller.abort();
        }""",
    )
    await aeventually(lambda: app.reports, "the report")
    assert [report.reason for report in app.reports] == [CloseReason.CLIENT_DISCONNECTED]


# Reads two chunks and stops; the second request is answered when the server has felt it.
READ_A_LITTLE = """async () => {
    const reader = (await fetch("/flood")).body.getReader();
    await reader.read();
    await reader.read();
    return await (await fetch("/felt")).text();
}"""


async def test_a_page_that_stops_reading_is_felt_by_the_producer(server, browse, aeventually):
    """Chromium does not take a stream into memory ahead of a page that has stopped reading it."""
    made = 0
    streams = []

    async def flood():
        nonlocal made
        while made < 64e6:
            made += 65536
            yield "x" * 65536

    def felt():
        return made >= 64e6 or streams[0].statistics().sending_for > 0.5

    app = App(lambda on_close: streams[-1])

    async def both(scope, receive, send):
        if scope["type"] == "http" and scope["path"] == "/flood":
            streams.append(sse(flood, buffer=4))
        if scope["type"] == "http" and scope["path"] == "/felt":
            await aeventually(felt, "a parked write")
            await ndjson([made], controls=False)(scope, receive, send)
        else:
            await app(scope, receive, send)

    taken = await browse(await server(both), READ_A_LITTLE)
    assert int(taken) < 16e6


async def test_a_page_of_another_origin_stays_away_too(server, browse, clean_log):
    """A Quart app's CORS headers are on the 204, too, so that it is seen for what it is and
    not for a network error, after which an EventSource may come back.
    """
    quart_app, requests = QuartTrio("app"), []
    Flowstream(quart_app)

    @quart_app.get("/events")
    async def view():
        requests.append(request.headers.get("Last-Event-ID"))
        return sse(["one"], retry=20)

    @quart_app.after_request
    async def cors(response):
        response.headers["Access-Control-Allow-Origin"] = "*"
        return response

    other = await server(quart_app)
    page = await server(App(lambda on_close: sse([])))
    log = await browse(page, UNTIL_CLOSED.replace('"/events"', f'"{other}/events"'))
    assert log == ["one", "end", "reconnects", "closed"]
    assert len(requests) == 2


@pytest.mark.parametrize("name", ["報告.csv", "Bericht – 2024.csv", 'a "b".csv'])
async def test_a_download_is_saved_under_the_name_that_the_app_gave(server, in_chromium, name):
    """The browser reads the form of RFC 8187; a quote, which no file system likes, is a `_`."""
    app = App(lambda on_close: csv([{"city": "Zürich"}], filename=name, bom=True))
    url = await server(app)

    def use(page):
        page.goto(f"{url}/page")
        with page.expect_download() as started:
            page.evaluate("() => { location.href = '/report'; }")
        saved = started.value
        return saved.suggested_filename, Path(saved.path()).read_bytes()

    saved_as, body = await in_chromium(use)
    assert saved_as == name.replace('"', "_")
    assert body == "\ufeffcity\r\nZürich\r\n".encode()
