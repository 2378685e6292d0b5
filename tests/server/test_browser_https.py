"""Headless Chromium over TLS and HTTP/2: what HTTP/1.1's six connections do not allow."""

import pytest
import trio

from flowstream import CloseReason, sse

pytestmark = [pytest.mark.browser, pytest.mark.chaos]

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--ignore-certificate-errors",
]

# Opens that many streams; resolves when each has had three events.
MANY = """count => Promise.all(Array.from({length: count}, (_, number) => new Promise(resolve => {
    const source = new EventSource(`/events/${number}`);
    let seen = 0;
    source.onmessage = event => { if (++seen == 3) resolve(event.data); };
})))"""


class App:
    """A blank page, and streams without an end.

    Attributes:
        clients: the addresses that streams came from, with the HTTP version.
    """

    def __init__(self):
        self.clients = set()
        self.open = self.most = 0
        self.reports = []

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError
        if not scope["path"].startswith("/events/"):
            headers = [(b"content-type", b"text/html")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"<!doctype html><title>a</title>"})
            return
        self.clients.add((scope["http_version"], *scope["client"]))
        await sse(self.events, on_close=self.reports.append)(scope, receive, send)

    async def events(self):
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            while True:
                yield self.open
                await trio.sleep(0.02)
        finally:
            self.open -= 1


async def test_a_dozen_eventsources(server, certificate, program, aeventually, clean_log):
    """Twelve EventSources get their events at once on one connection; closing the page ends
    them all.
    """
    from playwright import sync_api

    app = App()
    url = await server(app, **certificate)

    def session():
        with sync_api.sync_playwright() as p:
            browser = p.chromium.launch(
                executable_path=program("chromium", "chromium-browser", "google-chrome"), args=FLAGS
            )
            try:
                page = browser.new_page(ignore_https_errors=True)
                page.goto(f"{url}/page")
                data = page.evaluate(MANY, 12)
                page.close()
                trio.from_thread.run(aeventually, lambda: not app.open, "all have ended")
                return data
            finally:
                browser.close()

    with trio.fail_after(40):
        data = await trio.to_thread.run_sync(session, abandon_on_cancel=True)
    assert len(data) == 12
    assert app.most == 12
    assert len(app.clients) == 1
    assert app.clients.pop()[0] == "2"
    await aeventually(lambda: len(app.reports) == 12, "every report")
    assert {report.reason for report in app.reports} == {CloseReason.CLIENT_DISCONNECTED}
