"""A request's context that ends before its stream: when it may, what is left, what is found."""

import gc
import logging
from collections import Counter

import pytest
import trio
from quart import (
    Blueprint,
    current_app,
    g,
    has_request_context,
    make_response,
    request,
    session,
    url_for,
)
from quart.signals import appcontext_popped, appcontext_tearing_down, request_tearing_down
from quart.wrappers import Request
from quart_trio import QuartTrio
from trio.testing import wait_all_tasks_blocked

from flowstream import Topic, sse
from flowstream.quart import Flowstream

CLIENTS = 10
OF_A_REQUEST = (
    *("TrioRequest", "TrioBody", "Headers", "Lock", "partial"),
    *("RequestContext", "AppContext", "_AppCtxGlobals", "MapAdapter", "SecureCookieSession"),
    *("Nursery", "CancelScope"),
)


def extension(app):
    return app.extensions["flowstream"]


async def opened(server, client, app, path="/", headers=(), until=b": connected"):
    """Return a client whose stream has begun."""
    peer = client(await server(app))
    await begun(peer, path, headers, until)
    return peer


async def begun(peer, path="/", headers=(), until=b": connected"):
    """Ask for a stream, and wait until it is there."""
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers)
    peer.send(f"GET {path} HTTP/1.1\r\nHost: here\r\n{fields}\r\n".encode())
    await trio.to_thread.run_sync(peer.read_until, until)
    await wait_all_tasks_blocked()


async def closed(peer, app, aeventually):
    peer.socket.close()
    await aeventually(lambda: not extension(app).statistics().open, "the stream has ended")


# -- what is left of a request -------------------------------------------------------------------


def census():
    """Return how many objects there are of each class."""
    gc.collect()
    return Counter(type(one).__name__ for one in gc.get_objects())


async def test_nothing_of_quart_is_left_of_an_idle_stream(app, server, client):
    """An idle stream of a topic has no object of Quart's, no nursery, and nine coroutines."""
    topic = Topic("t")

    @app.route("/")
    async def view():
        return sse(topic)

    url = await server(app)
    peers = [client(url) for _ in range(2 * CLIENTS)]
    for peer in peers[:CLIENTS]:  # what is made once is made now
        await begun(peer)
    before, tasks = census(), trio.lowlevel.current_statistics().tasks_living
    for peer in peers[CLIENTS:]:
        await begun(peer)
    more = census() - before
    assert extension(app).statistics().left == topic.subscribers == 2 * CLIENTS
    # Each connection had its own task and nursery before, and a timer of its idleness.
    assert trio.lowlevel.current_statistics().tasks_living - tasks <= CLIENTS
    for name in OF_A_REQUEST:
        assert more[name] < CLIENTS, (name, more)
    assert 0 < more["coroutine"] <= 9 * CLIENTS, more
    await topic.publish("x")
    assert topic.statistics().direct_deliveries == 2 * CLIENTS


# -- when it may not ------------------------------------------------------------------------------


def with_teardown_request(app):
    @app.teardown_request
    async def teardown(error):
        app.told.append("end")


def with_teardown_of_a_blueprint(app):
    blueprint = Blueprint("b", __name__)

    @blueprint.teardown_request
    async def teardown(error):
        raise AssertionError("it is no request of this blueprint's")

    app.register_blueprint(blueprint)


def with_teardown_appcontext(app):
    @app.teardown_appcontext
    async def teardown(error):
        app.told.append("end")


def with_signal(signal):
    def connect(app):
        async def receiver(sender, **given):
            app.told.append("end")

        app.receiver = receiver
        signal.connect(receiver, app)

    return connect


def with_a_request_that_closes(app):
    class Closing(QuartTrio.request_class):
        async def close(self):
            app.told.append("end")
            await super().close()

    app.request_class = Closing


def with_a_replaced_function(app):
    dispatch = app.full_dispatch_request

    async def full_dispatch_request(*given):
        try:
            return await dispatch(*given)
        finally:
            app.told.append("end")

    app.full_dispatch_request = full_dispatch_request


def with_a_function_around(app):
    handle = app.handle_request

    async def handle_request(*given):
        try:
            return await handle(*given)
        finally:
            app.told.append("end")

    app.handle_request = handle_request


SEEN = [
    with_teardown_request,
    with_teardown_of_a_blueprint,
    with_teardown_appcontext,
    with_signal(request_tearing_down),
    with_signal(appcontext_tearing_down),
    with_signal(appcontext_popped),
    with_a_request_that_closes,
    with_a_replaced_function,
    with_a_function_around,
]


@pytest.mark.parametrize("seen", SEEN)
async def test_who_is_told_of_the_end_is_told_behind_the_stream(
    app, server, client, aeventually, caplog, seen
):
    """Where somebody can tell when the context ends, it lasts as long as the stream."""
    app.told, topic = [], Topic("t")
    seen(app)

    @app.route("/")
    async def view():
        return sse(topic, on_close=lambda report: app.told.append("closed"))

    peer = client(await server(app))
    app.told.clear()  # the startup has a context, too
    with caplog.at_level(logging.DEBUG, "flowstream"):
        await begun(peer)
    assert extension(app).statistics().left == 0
    assert any("context lasts" in message for message in caplog.messages)
    assert not app.told
    await closed(peer, app, aeventually)
    if seen is not with_teardown_of_a_blueprint:
        await aeventually(lambda: app.told == ["closed", "end"], "it was told")


class Around(QuartTrio):
    async def handle_request(self, request):
        return await super().handle_request(request)


class Dispatching(QuartTrio):
    async def full_dispatch_request(self, *given):
        return await super().full_dispatch_request(*given)


class Connection(QuartTrio.asgi_http_class):
    async def _send_response(self, send, response):
        await super()._send_response(send, response)


class Connecting(QuartTrio):
    asgi_http_class = Connection


@pytest.mark.parametrize("kind", [Around, Dispatching, Connecting])
async def test_an_app_of_ones_own_is_served_as_before(server, client, aeventually, kind):
    """A class of the app's own that has a part in a request has it until the stream ends."""
    app, topic = kind("own"), Topic("t")
    Flowstream(app)

    @app.route("/")
    async def view():
        return sse(topic)

    peer = await opened(server, client, app)
    assert extension(app).statistics().left == 0
    assert extension(app).statistics().open == 1
    await closed(peer, app, aeventually)


async def test_a_producer_keeps_the_context(app, server, client, aeventually):
    """A stream with a producer of the app's runs inside the context."""

    @app.route("/")
    async def view():
        async def producer():
            yield request.path
            await trio.sleep_forever()

        return sse(producer())

    peer = await opened(server, client, app, until=b"data: /")
    assert extension(app).statistics().left == 0
    await closed(peer, app, aeventually)


# -- what is found --------------------------------------------------------------------------------


@pytest.fixture
def rich(app):
    """The app, whose view leaves something in everything that a request has."""
    app.topic = Topic("t")
    app.found = []

    @app.before_request
    async def before():
        request.user = "Ada"
        g.value = "kept"

    def look():
        return [
            request.path,
            request.args.get("q"),
            request.headers["X-Own"],
            request.view_args,
            request.endpoint,
            request.user,
            g.value,
            session["user"],
            current_app.name,
            url_for("view", name="other"),
            has_request_context(),
        ]

    app.look = look
    app.expected = [
        *("/of/ada", "1", "x", {"name": "ada"}, "view", "Ada", "kept", "ada", "app", "/of/other"),
        True,
    ]

    @app.route("/of/<name>")
    async def view(name):
        session["user"] = name
        return sse(app.topic, on_close=lambda report: app.found.append(look()))

    return app


ASKED = {"path": "/of/ada?q=1", "headers": [("X-Own", "x")]}


async def test_on_close_finds_what_the_view_had(rich, server, client, aeventually):
    """`request`, `session`, `g`, `current_app` and `url_for` are there at the stream's end."""
    peer = await opened(server, client, rich, **ASKED)
    assert extension(rich).statistics().left == 1
    await closed(peer, rich, aeventually)
    assert rich.found == [rich.expected]
    assert extension(rich).statistics().left == 0


async def test_what_was_left_nowhere_is_made_again(app, server, client, aeventually):
    """A request that the app left nothing in is made again, of the same scope, once."""
    found, topic = [], Topic("t")

    def look(report):
        found.append((request.path, request.headers["X-Own"], request.args["q"], vars(g), session))
        found.append(request._get_current_object() is request._get_current_object())
        found.append(request.view_args)

    @app.url_value_preprocessor
    def preprocess(endpoint, values):
        values["name"] = values["name"].upper()

    @app.route("/of/<name>")
    async def view(name):
        return sse(topic, on_close=look)

    peer = await opened(server, client, app, **ASKED)
    await closed(peer, app, aeventually)
    (path, own, q, left, _), same, values = found
    assert (path, own, q, left, same) == ("/of/ada", "x", "1", {}, True)
    assert values == {"name": "ADA"}


async def test_a_filter_of_the_log_finds_the_request(app, server, client, aeventually, caplog):
    """The line of a stream's end can name the request, as the documentation of Flask shows."""
    paths = []

    class Naming(logging.Filter):
        def filter(self, record):
            if has_request_context():
                paths.append(request.path)
            return True

    log, naming = logging.getLogger("flowstream"), Naming()
    log.addFilter(naming)
    try:
        topic = Topic("t")

        @app.route("/")
        async def view():
            return sse(topic)

        with caplog.at_level(logging.INFO, "flowstream"):
            peer = await opened(server, client, app)
            del paths[:]
            await closed(peer, app, aeventually)
    finally:
        log.removeFilter(naming)
    assert paths
    assert set(paths) == {"/"}


async def test_a_snapshot_finds_the_request(app, server, client, aeventually):
    """A snapshot function that runs while the stream is open finds its request."""

    async def snapshot():
        return f"{request.path} {g.value}"

    topic = Topic("t", snapshot=snapshot)

    @app.route("/")
    async def view():
        g.value = "kept"
        return sse(topic)

    peer = await opened(server, client, app, until=b"/ kept")
    assert extension(app).statistics().left == 1
    await closed(peer, app, aeventually)


async def test_middleware_around_the_app_finds_no_context(app, server, client, aeventually):
    """When the stream has ended nothing of the request's context is left in its task."""
    topic, seen = Topic("t"), []
    inner = app.asgi_app

    async def around(scope, receive, send):
        try:
            await inner(scope, receive, send)
        finally:
            seen.append((scope["type"], has_request_context()))

    app.asgi_app = around

    @app.route("/")
    async def view():
        return sse(topic)

    peer = await opened(server, client, app)
    assert extension(app).statistics().left == 1
    peer.socket.close()
    await aeventually(lambda: seen, "the app has returned")
    assert seen == [("http", False)]


# -- how it begins and ends -----------------------------------------------------------------------


async def test_cookies_and_headers_are_those_of_after_request(app, server, client):
    """What the app's functions made of the head is sent, with the session's cookie."""
    topic = Topic("t")

    @app.after_request
    async def after(response):
        response.headers["X-After"] = "yes"
        response.set_cookie("own", "1")
        return response

    @app.route("/")
    async def view():
        session["user"] = "ada"
        return await make_response(sse(topic), 203)

    peer = client(await server(app))
    peer.get()
    head = (await trio.to_thread.run_sync(peer.read_until, b": connected")).lower()
    assert head.startswith(b"http/1.1 203")
    assert b"x-after: yes" in head
    assert b"set-cookie: own=1" in head
    assert b"set-cookie: session=" in head
    assert extension(app).statistics().left == 1


async def test_a_head_that_cannot_be_sent_is_the_apps_error(app, server, client, aeventually):
    """What fails at the status line is answered by the app's handler, inside a context."""
    topic, errors = Topic("t"), []
    inner = app.asgi_app

    async def refusing(scope, receive, send):
        async def sending(message):
            if message["type"] == "http.response.start" and message["status"] == 200:
                raise ValueError("no such head")
            await send(message)

        await inner(scope, receive, sending)

    app.asgi_app = refusing

    @app.errorhandler(500)
    async def handler(error):
        errors.append((request.path, repr(error.original_exception)))
        return "answered by the app", 500

    @app.route("/")
    async def view():
        return sse(topic)

    peer = client(await server(app))
    peer.get()
    answer = await trio.to_thread.run_sync(peer.read_until, b"answered by the app")
    assert answer.startswith(b"HTTP/1.1 500")
    assert errors == [("/", "ValueError('no such head')")]
    statistics = extension(app).statistics()
    assert (statistics.open, statistics.left, statistics.closed) == (0, 0, {"error": 1})


async def test_a_topic_that_ends_ends_the_stream(app, server, client, aeventually):
    """The stream's end is sent, and the connection serves another request."""
    topic = Topic("t")

    @app.route("/")
    async def view():
        return sse(topic)

    @app.route("/next")
    async def following():
        return str(has_request_context())

    peer = await opened(server, client, app)
    await topic.publish("one")
    await topic.aclose()
    assert b"data: one" in await trio.to_thread.run_sync(peer.read_until, b"0\r\n\r\n")
    peer.send(b"GET /next HTTP/1.1\r\nHost: here\r\n\r\n")
    assert b"True" in await trio.to_thread.run_sync(peer.read_until, b"True")
    statistics = extension(app).statistics()
    assert (statistics.open, statistics.left, statistics.closed) == (0, 0, {"completed": 1})


async def test_a_request_class_with_arguments_of_its_own(app, server, client, aeventually):
    """A request is made again by the app's own class."""
    topic, found = Topic("t"), []

    class Own(QuartTrio.request_class):
        def __init__(self, *given, **named):
            super().__init__(*given, **named)
            self.made_by = "Own"

    app.request_class = Own

    @app.route("/")
    async def view():
        return sse(topic, on_close=lambda report: found.append(request.made_by))

    peer = await opened(server, client, app)
    assert extension(app).statistics().left == 1
    await closed(peer, app, aeventually)
    assert found == ["Own"]
    assert Request.close is Own.close
