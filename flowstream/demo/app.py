"""The demo: one page that shows the pipeline at work, and the streams that the page shows.

Every view here is as an app author would write it: it gives a producer to `sse`, `ndjson` or
`csv`, and returns the result. The other modules of this directory make the data. There is no build
step, and the page loads nothing from other servers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from importlib.resources import files
from pathlib import Path

import trio
from quart import Response, jsonify, request
from quart_trio import QuartTrio

from flowstream import Conflate, Limits, StreamResponse, csv, ndjson, sse
from flowstream.quart import Flowstream

from . import _query, unicode_table
from . import model as language_model
from .answers import NoTopicError, add_answers, text_of
from .demo_feed import TOPIC_POLICIES, FeedClient
from .flood import POLICIES, Flood
from .gallery import Gallery, NoRoomError, Owed
from .guard import protect
from .manual import add_manual, pages
from .model import LanguageModel
from .system import system
from .tokens import topic_names

ASSETS = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/manual.css": ("manual.css", "text/css; charset=utf-8"),
    **{
        f"/{name}": (name, "text/javascript; charset=utf-8")
        for name in (
            "page.js",
            "hub.js",
            "worker.js",
            "client.js",
            "account.js",
            "reader.js",
            "sse.js",
            "policies.js",
            "card.js",
            "memory.js",
            "answer.js",
            "table.js",
            "commands.js",
            "chart.js",
            "format.js",
        )
    },
    "/uplot/uPlot.min.css": ("uplot/uPlot.min.css", "text/css; charset=utf-8"),
    "/uplot/uPlot.iife.min.js": ("uplot/uPlot.iife.min.js", "text/javascript; charset=utf-8"),
    "/uplot/LICENSE": ("uplot/LICENSE", "text/plain; charset=utf-8"),
}
"""Files of the page: path to name and media type. Other paths lead nowhere."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src data:; object-src 'none'; base-uri 'none';"
        " form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
"""Headers of the page's files: load nothing from other servers, nothing inline, in no frame."""

TEXT_BUFFER = 16
"""Tokens that may wait for a client: few, so that one can see how the model waits."""

STALL = Limits(stall_timeout=30)
"""How long a client of the feed may take nothing."""

HEARTBEAT = 2.0
"""Seconds of silence in the flood before a heartbeat: short, so that one can watch heartbeats."""


def create_app(
    gallery: Gallery | None = None,
    *,
    model: LanguageModel | None = None,
    hosts: Iterable[str] = (),
) -> QuartTrio:
    """Return the demo.

    Args:
        gallery: holds its streams; by default a new one.
        model: makes the text of ``/tokens``; without a model it is Python's documentation.
        hosts: names under which browsers may ask for the demo, besides those of loopback.
    """
    shown = Gallery() if gallery is None else gallery
    app = QuartTrio(__name__, static_folder=None)
    Flowstream(app)
    protect(app, hosts, {"/", *pages()})
    _add_page(app)
    add_manual(app, HEADERS)
    _add_streams(app, shown, model)
    _add_refusals(app)
    return app


def _add_page(app: QuartTrio) -> None:
    static = files("flowstream.demo") / "static"

    def add(path: str, name: str, media_type: str) -> None:
        body = (static / name).read_bytes()

        async def asset() -> Response:
            return Response(body, content_type=media_type, headers=HEADERS)

        app.add_url_rule(path, endpoint=name, view_func=asset)

    for path, (name, media_type) in ASSETS.items():
        add(path, name, media_type)


def _add_streams(app: QuartTrio, gallery: Gallery, model: LanguageModel | None) -> None:
    def show(
        response: StreamResponse, policy: str = "block", owed: Owed | None = None
    ) -> StreamResponse:
        client = _query.word(request.args, "client")
        path = str(request.url_rule)  # without the id of an answer, with which one may stop it
        return gallery.add(response, client=client, path=path, policy=policy, owed=owed)

    feed = gallery.feed

    @app.before_serving
    async def begin() -> None:
        app.nursery.start_soon(feed.publish)

    @app.get("/feed")
    async def subscribe() -> StreamResponse:
        asked = FeedClient.parse(request.args)
        feed.want()
        since = feed.position(request.headers.get("Last-Event-ID"))
        response = sse(
            feed.topic, policy=TOPIC_POLICIES[asked.policy], buffer=asked.buffer, limits=STALL
        )
        return show(response, asked.policy, partial(feed.owed, since))

    add_answers(app, show, model)

    @app.get("/rows.ndjson")
    async def rows_ndjson() -> StreamResponse:
        rows = unicode_table.open_rows(await _table(), _limit(request.args))
        # Rows and nothing else, so that any tool can read them. A table that is cut ends without
        # its last chunk.
        return show(ndjson(rows, controls=False))

    @app.get("/rows.csv")
    async def rows_csv() -> StreamResponse:
        return show(csv(unicode_table.open_rows(await _table(), _limit(request.args))))

    @app.get("/system")
    async def live_system() -> StreamResponse:
        # It has no past to resume: a client that comes back gets the next reading.
        return show(sse(system, on_reconnect="restart"))

    @app.get("/topics")
    async def topics() -> Response:
        return jsonify(topic_names())

    @app.get("/model")
    async def model_name() -> Response:
        known = model and {"name": model.name, "beginning": language_model.BEGINNING}
        return jsonify(known)

    @app.get("/tokens")
    async def text() -> StreamResponse:
        return show(ndjson(text_of(request.args, model), buffer=TEXT_BUFFER))

    @app.get("/flood")
    async def flood() -> StreamResponse:
        asked = Flood.parse(request.args)
        response = sse(
            asked.events,
            policy=POLICIES[asked.policy],
            buffer=asked.buffer,
            heartbeat=HEARTBEAT,
            limits=asked.limits,
            on_reconnect="restart",
        )
        return show(response, asked.policy)

    @app.get("/streams")
    async def streams() -> StreamResponse:
        response = sse(gallery.pictures, policy=Conflate(), buffer=4, on_reconnect="restart")
        return show(response, "conflate")


def _add_refusals(app: QuartTrio) -> None:
    @app.errorhandler(_query.BadParameterError)
    async def bad_parameter(error: _query.BadParameterError) -> tuple[Response, int]:
        return jsonify(error=str(error), parameter=error.name, expected=error.expected), 400

    @app.errorhandler(NoTopicError)
    async def no_topic(error: NoTopicError) -> tuple[Response, int]:
        return jsonify(error=str(error)), 404

    @app.errorhandler(NoRoomError)
    async def no_room(error: NoRoomError) -> tuple[Response, int, Mapping[str, str]]:
        return jsonify(error=str(error)), 503, {"Retry-After": "5"}


async def _table() -> Path:
    return await trio.to_thread.run_sync(unicode_table.load)


def _limit(arguments: _query.Arguments) -> int | None:
    _query.known(arguments, ("limit", "client"))
    if "limit" not in arguments:
        return None
    return _query.whole(arguments, "limit", 0, low=1, high=1_000_000, unit="rows")
