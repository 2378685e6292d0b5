"""What a view may do with a stream: status, headers, cookies, sessions, methods, blueprints."""

import pytest
from quart import Blueprint, g, make_response, request, session

from flowstream import CloseReason, Event, csv, ndjson, sse
from flowstream.testing import collect, open_stream


async def letters():
    yield "a"
    yield "b"


async def numbers():
    yield 1
    yield 2


LETTERS = ["a", "b"]


async def events(app, path="/", **options):
    async with open_stream(app, path, **options) as client:
        return [event.data async for event in client]


async def test_a_view_returns_a_stream(app, autojump_clock):
    """A view's stream comes out whole, with its own status and headers, and nothing added."""

    @app.get("/")
    async def view():
        return sse(letters())

    response = await collect(app)
    assert response.complete
    assert response.status == 200
    headers = dict(response.headers)
    headers.pop("vary", None)  # Quart 0.23 says that the session looks at cookies
    assert headers == {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-cache, no-transform, no-store",
        "x-accel-buffering": "no",
        "x-content-type-options": "nosniff",
    }
    assert b"data: a\n" in response.body
    assert b"event: end\n" in response.body


async def test_quarts_own_test_client_reads_a_stream(app):
    """The client that apps test with gives status, headers and the whole body."""

    @app.get("/")
    async def view():
        return ndjson(numbers(), controls=False)

    response = await app.test_client().get("/")
    assert response.status_code == 200
    assert response.content_type.startswith("application/x-ndjson")
    assert await response.get_data() == b"1\n2\n"


@pytest.mark.parametrize(
    ("extra", "status", "header"),
    [
        ((201,), 201, None),
        (({"X-One": "1"},), 200, "1"),
        ((202, {"X-One": "1"}), 202, "1"),
        ((202, [("X-One", "1")]), 202, "1"),
    ],
)
async def test_tuples_of_status_and_headers(app, autojump_clock, extra, status, header):
    """A view may return status and headers beside a stream, as beside any response."""

    @app.get("/")
    async def view():
        return (ndjson(numbers(), controls=False), *extra)

    response = await collect(app)
    assert (response.status, response.headers.get("x-one")) == (status, header)
    assert response.body == b"1\n2\n"


async def test_a_view_that_is_no_coroutine(app):
    """A plain function, which Quart calls in a thread, may return a stream, too."""

    @app.get("/")
    def view():
        return ndjson(numbers, controls=False, status=203)

    response = await collect(app)
    assert (response.status, response.body) == (203, b"1\n2\n")


async def test_headers_of_the_stream_arrive_as_they_were_given(app, autojump_clock):
    """Bytes, Latin-1 and UTF-8 alike pass through Quart's text headers unchanged."""
    given = [("x-latin", "caf\xe9"), ("x-bytes", b"\xff\xfe"), ("x-utf8", "π".encode())]

    @app.get("/")
    async def view():
        return sse(letters(), headers=given)

    raw = dict((await collect(app)).headers.raw)
    assert (raw[b"x-latin"], raw[b"x-bytes"]) == (b"caf\xe9", b"\xff\xfe")
    assert raw[b"x-utf8"] == "π".encode()


async def test_after_request_changes_status_headers_and_cookies(app, autojump_clock):
    """What after_request functions and after_this_request do to the response is sent."""

    @app.get("/")
    async def view():
        return sse(letters())

    @app.after_request
    async def change(response):
        response.status_code = 299
        response.headers["X-After"] = "\N{GREEK SMALL LETTER PI}"
        response.headers["Cache-Control"] = "no-store"
        response.set_cookie("one", "1")
        response.set_cookie("two", "2")
        return response

    response = await collect(app)
    assert response.status == 299
    assert response.headers["x-after"].encode("latin-1") == "\N{GREEK SMALL LETTER PI}".encode()
    assert response.headers["cache-control"] == "no-store"
    cookies = [value for name, value in response.headers.raw if name == b"set-cookie"]
    assert [cookie.split(b";")[0] for cookie in cookies] == [b"one=1", b"two=2"]
    assert b"data: b\n" in response.body


async def test_the_session_is_saved_before_the_stream(app, autojump_clock):
    """A session that the view changed arrives as a cookie, and the next request has it."""

    @app.get("/")
    async def view():
        session["visits"] = session.get("visits", 0) + 1

        async def visits():
            yield session["visits"]

        return ndjson(visits(), controls=False)

    first = await collect(app)
    cookie = first.headers["set-cookie"].split(";")[0]
    second = await collect(app, headers={"Cookie": cookie})
    assert (first.body, second.body) == (b"1\n", b"2\n")


async def test_make_response_in_the_view(app, autojump_clock):
    """A view that makes the response itself, to set a cookie, streams all the same."""

    @app.get("/")
    async def view():
        response = await make_response(sse(letters()), 201)
        response.set_cookie("one", "1")
        return response

    response = await collect(app)
    assert response.status == 201
    assert response.headers["set-cookie"].startswith("one=1")
    assert b"data: b\n" in response.body


async def test_before_request_may_answer_with_a_stream(app, autojump_clock):
    """A stream that a before_request function returns is served, and the view is not called."""

    @app.before_request
    async def answer():
        return sse(letters()) if request.path == "/early" else None

    @app.get("/early")
    async def view():
        raise AssertionError("called")

    @app.get("/")
    async def late():
        return sse(numbers())

    assert (await events(app, "/early"))[:2] == LETTERS
    assert (await events(app, "/"))[:2] == ["1", "2"]


async def test_an_error_handler_may_answer_with_a_stream(app, autojump_clock):
    """The handler of an exception returns a stream, with the status that it likes."""

    @app.get("/")
    async def view():
        raise LookupError("gone")

    @app.errorhandler(LookupError)
    async def handler(error):
        async def reasons():
            yield str(error.args[0])

        return ndjson(reasons, controls=False), 410

    response = await collect(app)
    assert (response.status, response.body) == (410, b'"gone"\n')
    assert response.complete


async def test_the_handler_of_last_resort_may_answer_with_a_stream(app, autojump_clock, caplog):
    """A 500 handler's stream is sent whole, and the request's context is still there."""
    reports = []

    @app.get("/")
    async def view():
        g.who = "me"
        raise ValueError("unhandled")

    @app.errorhandler(500)
    async def handler(error):
        async def reasons():
            yield [g.who, request.path]

        return ndjson(reasons, controls=False, on_close=reports.append), 500

    response = await collect(app)
    assert (response.status, response.body) == (500, b'["me","/"]\n')
    assert response.complete
    assert [report.reason for report in reports] == [CloseReason.COMPLETED]
    assert app.extensions["flowstream"].statistics().open == 0


async def test_a_head_request_runs_no_producer(app, autojump_clock):
    """HEAD has the headers of a GET, those of after_request too, and starts nothing."""
    started, reports = [], []

    async def producer(out):
        started.append(out)

    @app.get("/")
    async def view():
        return sse(producer, status=201, on_close=reports.append)

    @app.after_request
    async def change(response):
        response.headers["X-After"] = "yes"
        return response

    response = await collect(app, method="HEAD")
    assert response.status == 201
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-after"] == "yes"
    assert response.body == b""
    assert response.complete
    assert not started
    assert [report.reason for report in reports] == [CloseReason.REFUSED]
    assert app.extensions["flowstream"].statistics().closed == {"refused": 1}


async def test_options_is_answered_by_quart(app, autojump_clock):
    """The automatic OPTIONS of a route that streams is untouched."""

    @app.get("/")
    async def view():
        raise AssertionError("called")

    response = await collect(app, method="OPTIONS")
    assert response.status == 200
    assert {"GET", "HEAD", "OPTIONS"} == set(response.headers["allow"].split(", "))


async def test_a_returning_client_gets_a_204(app, autojump_clock):
    """A Last-Event-ID that cannot be resumed is answered 204 before the source is opened."""
    started = []

    async def producer(out):
        started.append(out)

    @app.get("/")
    async def view():
        return sse(producer)

    for path, headers in [("/", {"Last-Event-ID": "abc.1"}), ("/?lastEventId=abc.1", {})]:
        response = await collect(app, path, headers=headers)
        assert (response.status, response.body) == (204, b"")
        assert "content-type" not in response.headers
        assert response.headers["cache-control"] == "no-store"
    assert not started


async def test_a_204_has_the_apps_headers(app, autojump_clock):
    """CORS headers and cookies go out with a 204, so that a page of another origin sees it."""

    @app.get("/")
    async def view():
        return sse(letters(), headers={"Access-Control-Allow-Origin": "*"})

    @app.after_request
    async def change(response):
        response.set_cookie("one", "1")
        return response

    response = await collect(app, headers={"Last-Event-ID": "abc.1"})
    assert response.status == 204
    assert response.headers["access-control-allow-origin"] == "*"
    assert response.headers["set-cookie"].startswith("one=1")


async def test_a_stream_in_a_blueprint(app, autojump_clock):
    """A blueprint's views, hooks and error handlers work with streams."""
    blueprint = Blueprint("live", "live", url_prefix="/live")

    @blueprint.get("/<name>")
    async def view(name):
        if name == "none":
            raise LookupError(name)

        async def items():
            yield Event(name, type="name")

        return sse(items())

    @blueprint.after_request
    async def change(response):
        response.headers["X-Blueprint"] = request.blueprint
        return response

    @blueprint.errorhandler(LookupError)
    async def handler(error):
        return sse(letters()), 404

    app.register_blueprint(blueprint)
    response = await collect(app, "/live/x")
    assert response.headers["x-blueprint"] == "live"
    assert b"event: name\n" in response.body
    response = await collect(app, "/live/none")
    assert response.status == 404
    assert b"data: a\n" in response.body


@pytest.mark.parametrize("status", [204, 205, 304])
async def test_a_status_without_a_body_is_the_apps_error(app, autojump_clock, caplog, status):
    """A stream with a status that has no body is a 500 that says so, and nothing runs."""

    @app.get("/")
    async def view():
        return sse(letters()), status

    assert (await collect(app)).status == 500
    assert f"the status {status} has none" in caplog.text


async def test_a_length_is_the_apps_error(app, autojump_clock, caplog):
    """An after_request function that gives a stream a Content-Length causes a 500."""

    @app.get("/")
    async def view():
        return sse(letters())

    @app.after_request
    async def change(response):
        if response.status_code == 200:
            response.headers["Content-Length"] = "3"
        return response

    assert (await collect(app)).status == 500
    assert "the header 'Content-Length' is the server's" in caplog.text


@pytest.mark.parametrize("what", ["get", "set", "etag"])
async def test_a_streams_data_is_out_of_reach(app, autojump_clock, caplog, what):
    """An after_request function that reads, hashes or replaces the body gets an exception."""

    @app.get("/")
    async def view():
        return csv([["a"]])

    @app.after_request
    async def change(response):
        if response.status_code != 200:
            return response
        if what == "get":
            await response.get_data()
        elif what == "set":
            response.set_data(b"other")
        else:
            await response.add_etag()
        return response

    assert (await collect(app)).status == 500
    assert "RuntimeError: a stream " in caplog.text


async def test_after_request_may_replace_a_stream(app, autojump_clock):
    """Another response in the place of a stream is sent; the stream never starts."""
    started = []

    async def producer(out):
        started.append(out)

    @app.get("/")
    async def view():
        return sse(producer)

    @app.after_request
    async def change(response):
        return await make_response("closed for today", 503)

    response = await collect(app)
    assert (response.status, response.body) == (503, b"closed for today")
    assert not started


async def test_one_response_for_two_requests_is_the_apps_error(app, autojump_clock, caplog):
    """A response that was made once for all is served once; then a 500 says why."""
    made_once = sse(letters)

    @app.get("/")
    async def view():
        return made_once

    assert (await collect(app)).status == 200
    for _ in range(3):
        assert (await collect(app)).status == 500
    assert "make one per request" in caplog.text
    assert app.extensions["flowstream"].statistics().open == 0
    assert app.extensions["flowstream"].statistics().closed == {"completed": 1}
