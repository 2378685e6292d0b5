"""Requests that can bring nothing but their client's end, which the connection tells by a call."""

from collections import Counter

import pytest
import trio
from quart import Response
from quart.routing import QuartMap
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection
from trio.testing import wait_all_tasks_blocked

from flowstream import Topic, sse
from flowstream.quart import Flowstream

PLAIN = 1  # the connection's own task runs the app, too
CONNECTION = 2  # its own task, and that of a request with a body


def tasks():
    return trio.lowlevel.current_statistics().tasks_living


class Receiving:
    """Middleware that has a `receive` of its own."""

    def __init__(self, app):
        self.app = app
        self.received = []

    async def __call__(self, scope, receive, send):
        async def noting():
            message = await receive()
            self.received.append(message["type"])
            return message

        await self.app(scope, noting, send)


@pytest.fixture
def waiting(app):
    """The app, with a view that waits; what has become of it."""
    seen = []

    @app.route("/", methods=["GET", "POST"])
    async def view():
        seen.append("begun")
        try:
            await trio.sleep_forever()
        finally:
            seen.append("cancelled")

    app.seen = seen
    return app


async def test_no_task_listens_for_a_request_without_a_body(waiting, server, client, aeventually):
    """A view at work is one task of its connection, and its client's end cancels it."""
    url = await server(waiting)
    await wait_all_tasks_blocked()
    before = tasks()
    peer = client(url)
    peer.get()
    await aeventually(lambda: waiting.seen, "the view runs")
    assert tasks() - before == PLAIN
    peer.socket.close()
    await aeventually(lambda: tasks() == before, "all tasks have ended")
    assert waiting.seen == ["begun", "cancelled"]


async def test_what_comes_out_the_same_is_made_once(server, client, monkeypatch):
    """Ten clients that ask for the same stream cost one request of Quart's, one adapter and no
    task that listens.
    """
    made = Counter()

    def counted(owner, name):
        original = getattr(owner, name)

        def counting(*given, **named):
            made[name] += 1
            return original(*given, **named)

        monkeypatch.setattr(owner, name, counting)

    for name in ("_create_request_from_scope", "handle_messages"):
        counted(TrioASGIHTTPConnection, name)
    counted(QuartMap, "bind_to_request")
    counted(Response, "__init__")
    app, topic = QuartTrio("app"), Topic("t")
    Flowstream(app)

    @app.route("/")
    async def view():
        return sse(topic)

    url = await server(app)
    for _ in range(10):
        peer = client(url)
        peer.get()
        await trio.to_thread.run_sync(peer.read_until, b": connected")
    assert topic.subscribers == 10
    assert made == {"_create_request_from_scope": 1, "bind_to_request": 1, "__init__": 1} or (
        made == {"_create_request_from_scope": 1, "bind_to_request": 1}  # made by another test
    )


async def test_a_task_listens_where_a_body_may_come(waiting, server, client, aeventually):
    """Behind a body that is on its way the client's end is heard, too."""
    url = await server(waiting)
    await wait_all_tasks_blocked()
    before = tasks()
    peer = client(url)
    peer.send(b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 10\r\n\r\n12345")
    await aeventually(lambda: waiting.seen, "the view runs")
    assert tasks() - before > CONNECTION
    peer.socket.close()
    await aeventually(lambda: tasks() == before, "all tasks have ended")
    assert waiting.seen == ["begun", "cancelled"]


async def test_middleware_that_receives_is_asked(waiting, server, client, aeventually):
    """Where a function of the app's stands before `receive` it hears all there is."""
    middleware = waiting.asgi_app = Receiving(waiting.asgi_app)
    peer = client(await server(waiting))
    peer.get()
    await aeventually(lambda: waiting.seen, "the view runs")
    peer.socket.close()
    await aeventually(lambda: "cancelled" in waiting.seen, "the view has ended")
    assert middleware.received[-2:] == ["http.request", "http.disconnect"]


@pytest.mark.parametrize("how", ["whole", "parts", "form"])
async def test_the_body_of_a_silent_request_is_empty(app, server, client, how):
    """A view that reads the body of a GET has nothing at once."""

    @app.route("/")
    async def view():
        from quart import request

        if how == "whole":
            return repr(await request.get_data())
        if how == "form":
            return repr(bytes(len(await request.form)))
        return repr(b"".join([part async for part in request.body]))

    peer = client(await server(app))
    peer.get()
    answer = await trio.to_thread.run_sync(peer.read_until, b"b''")
    assert answer.startswith(b"HTTP/1.1 200")


async def test_a_view_goes_on_through_a_shutdown(app, server, client, aeventually):
    """A server that is told to stop lets a view answer that is at work."""
    begun, go_on = trio.Event(), trio.Event()

    @app.route("/")
    async def view():
        begun.set()
        await go_on.wait()
        return "answered"

    peer = client(await server(app))
    peer.get()
    await begun.wait()
    (connection,) = _attached(app)
    connection.say_goodbye()
    await wait_all_tasks_blocked()
    go_on.set()
    assert b"answered" in await trio.to_thread.run_sync(peer.read_until, b"answered")


def _attached(app):
    """Return the connections with a request that they tell of its client's end."""
    import gc

    from flowstream.server._connection import Connection

    return [one for one in gc.get_objects() if isinstance(one, Connection) and one._carried]
