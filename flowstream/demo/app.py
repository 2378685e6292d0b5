"""The demo: one page that shows the pipeline at work, and the streams that it shows.

Every view here is what an app author would write: a producer is handed to `sse`, `ndjson` or
`csv`, and what comes back is returned. All else in this directory is where the data comes
from. There is no build step, and the page loads nothing from elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import trio
from quart import Response, jsonify, request
from quart_trio import QuartTrio

from flowstream import Conflate, StreamResponse, csv, ndjson, sse
from flowstream.quart import Flowstream
from flowstream.sources import Source

from . import _query, unicode_table
from . import model as language_model
from .flood import POLICIES, Flood
from .gallery import Gallery, NoRoomError
from .model import LanguageModel
from .system import system
from .tokens import tokens, topic_names

ASSETS = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    **{
        f"/{name}": (name, "text/javascript; charset=utf-8")
        for name in ("page.js", "client.js", "reader.js", "sse.js", "chart.js", "format.js")
    },
    "/uplot/uPlot.min.css": ("uplot/uPlot.min.css", "text/css; charset=utf-8"),
    "/uplot/uPlot.iife.min.js": ("uplot/uPlot.iife.min.js", "text/javascript; charset=utf-8"),
    "/uplot/LICENSE": ("uplot/LICENSE", "text/plain; charset=utf-8"),
}
"""Files of the page: path to name and media type. A list, so no path can lead elsewhere."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src data:; object-src 'none'; base-uri 'none';"
        " form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
"""Headers of the page's files: nothing from elsewhere, nothing inline, in nobody's frame."""

MODEL_BUFFER = 16
"""Tokens of the model that wait for a client: few, so that it can be seen to wait itself."""

HEARTBEAT = 2.0
"""Seconds of silence in the flood before a heartbeat: short, so that one can be watched."""


def create_app(gallery: Gallery | None = None, *, model: LanguageModel | None = None) -> QuartTrio:
    """Return the demo.

    Args:
        gallery: what holds its streams; a new one unless given.
        model: what ``/tokens`` is made by; without one it is Python's documentation.
    """
    shown = Gallery() if gallery is None else gallery
    app = QuartTrio(__name__, static_folder=None)
    Flowstream(app)
    _add_page(app)
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
    def show(response: StreamResponse, policy: str = "block") -> StreamResponse:
        client = _query.word(request.args, "client")
        return gallery.add(response, client=client, path=request.path, policy=policy)

    @app.get("/rows.ndjson")
    async def rows_ndjson() -> StreamResponse:
        rows = unicode_table.open_rows(await _table(), _limit(request.args))
        # Rows and nothing else, so that any tool can read them; one that is cut short
        # ends without its last chunk.
        return show(ndjson(rows, controls=False))

    @app.get("/rows.csv")
    async def rows_csv() -> StreamResponse:
        return show(csv(unicode_table.open_rows(await _table(), _limit(request.args))))

    @app.get("/system")
    async def live_system() -> StreamResponse:
        # Not resumable, and no history to miss: who comes back just gets the next reading.
        return show(sse(system, on_reconnect="restart"))

    @app.get("/topics")
    async def topics() -> Response:
        return jsonify(topic_names())

    @app.get("/model")
    async def model_name() -> Response:
        known = model and {"name": model.name, "beginning": language_model.BEGINNING}
        return jsonify(known)

    @app.get("/tokens")
    async def text() -> StreamResponse | tuple[Response, int]:
        if model is not None and "topic" not in request.args:
            return show(ndjson(_answer(model, request.args), buffer=MODEL_BUFFER))
        if model is None and "prompt" in request.args:
            expected = "left out where there is no model (flowstream demo --model has one)"
            raise _query.BadParameterError("prompt", request.args["prompt"], expected)
        _query.known(request.args, ("topic", "rate", "client"))
        topic = request.args.get("topic", "lambda")
        if topic not in topic_names():
            message = f"there is no documentation topic {topic[:80]!r}; /topics lists them"
            return jsonify(error=message), 404
        rate = _query.number(
            request.args, "rate", 40, low=0, high=100_000, unit="tokens a second (0: no limit)"
        )
        return show(ndjson(tokens(topic, rate or None)))

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

    @app.errorhandler(NoRoomError)
    async def no_room(error: NoRoomError) -> tuple[Response, int, Mapping[str, str]]:
        return jsonify(error=str(error)), 503, {"Retry-After": "5"}


def _answer(model: LanguageModel, arguments: _query.Arguments) -> Source:
    _query.known(arguments, ("prompt", "max_tokens", "client"))
    beginning = arguments.get("prompt", language_model.BEGINNING)
    if len(beginning) > language_model.LONGEST_BEGINNING:
        expected = f"at most {language_model.LONGEST_BEGINNING} characters"
        raise _query.BadParameterError("prompt", beginning, expected)
    low, high = 1, language_model.MAX_TOKENS
    usual = language_model.USUAL_TOKENS
    size = _query.whole(arguments, "max_tokens", usual, low=low, high=high, unit="tokens")
    return model.go_on(beginning, size)


async def _table() -> Path:
    return await trio.to_thread.run_sync(unicode_table.load)


def _limit(arguments: _query.Arguments) -> int | None:
    _query.known(arguments, ("limit", "client"))
    if "limit" not in arguments:
        return None
    return _query.whole(arguments, "limit", 0, low=1, high=1_000_000, unit="rows")
