"""Requests that are copies of one that Quart made, and URL adapters that are shared."""

import logging

import pytest
from quart import request
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection

from flowstream.quart import Flowstream
from flowstream.quart._requests import Requests

HEADERS = [
    (b"host", b"here:8000"),
    (b"accept", b"text/event-stream"),
    (b"x-double", b"one"),
    (b"x-double", b"two"),
    (b"cookie", b"a=1; b=2"),
    (b"user-agent", b"Name/1 \xe9"),
    (b"remote-addr", b"forged"),
]


def scope(**given):
    return {
        **{"type": "http", "http_version": "1.1", "method": "GET", "scheme": "http"},
        **{"path": "/of/ada", "query_string": b"q=1&q=2", "root_path": "", "headers": HEADERS},
        **{"client": ("10.0.0.1", 1), "server": ("10.0.0.2", 2), "extensions": {}, "state": {}},
        **given,
    }


async def no_send(message):
    raise AssertionError("nothing is sent")


@pytest.fixture
def quart():
    return QuartTrio("app")


def connection(app, **given):
    return TrioASGIHTTPConnection(app, scope(**given))


SCOPES = [
    {},
    {"method": "HEAD", "query_string": b"", "headers": []},
    {"client": None, "server": None},
    {"path": "/é/ü", "scheme": "https", "headers": HEADERS[:1]},
    {"path": "/", "headers": [(b"host", b"")]},
]
NOT_COPIED = [
    {"http_version": "1.0", "headers": []},
    {"root_path": "/of"},
    {"path": "//twice"},
    {"path": "http://there/of"},
]
SEEN = (
    *("method", "scheme", "path", "full_path", "url", "base_url", "host", "root_path", "server"),
    *("query_string", "args", "cookies", "remote_addr", "http_version", "body_timeout"),
    *("max_content_length", "content_length", "mimetype", "is_json", "user_agent", "scope"),
    *("access_route", "url_rule", "view_args", "routing_exception", "blueprints"),
)


def seen(one):
    values = {}
    for name in SEEN:
        try:
            values[name] = str(getattr(one, name, "none"))
        except Exception as error:  # noqa: BLE001  # compared
            values[name] = repr(error)
    return values, list(one.headers), sorted(vars(one))


@pytest.mark.parametrize("given", [*SCOPES, *NOT_COPIED])
async def test_a_copy_is_what_quart_would_have_made(quart, given):
    """Each attribute of a copy is that of Quart's own request of the same scope."""
    requests = Requests()
    requests.make(connection(quart), no_send)
    ours = requests.make(connection(quart, **given), no_send)
    assert (requests.made, requests.copied) == ((1, 1) if given in SCOPES else (2, 0))
    one = connection(quart, **given)
    quarts = one._create_request_from_scope(no_send)
    quarts.scope = ours.scope
    ours_before, quarts_before = sorted(vars(ours)), sorted(vars(quarts))
    assert ours_before == quarts_before
    assert seen(ours) == seen(quarts)
    assert await ours.get_data() == b""
    assert not await ours.form
    assert await ours.get_json(silent=True) is None


async def test_copies_share_nothing_that_changes(quart):
    """What one request is given the next does not have."""
    requests = Requests()
    first, second, third = (requests.make(connection(quart), no_send) for _ in range(3))
    assert (requests.made, requests.copied) == (1, 2)
    second.headers["X-Own"] = "1"
    second.user = "Ada"
    second.view_args = {"a": 1}
    assert await second.get_json(silent=True, cache=True) is None
    for other in (first, third):
        assert "X-Own" not in other.headers
        assert not hasattr(other, "user")
        assert other.view_args is None
    assert len({id(one.body) for one in (first, second, third)}) == 3
    assert len({id(one._cached_json) for one in (first, second, third)}) == 3
    assert len({id(one._parsing_lock) for one in (first, second, third)}) == 3


async def test_configuration_is_that_of_the_moment(quart):
    """A bound or a timeout that the app sets later is that of the requests that follow."""
    requests = Requests()
    requests.make(connection(quart), no_send)
    quart.config["BODY_TIMEOUT"] = 7
    quart.config["MAX_CONTENT_LENGTH"] = 9
    copy = requests.make(connection(quart), no_send)
    assert copy.body_timeout == 7
    assert copy.body._max_content_length == 9


@pytest.mark.parametrize("name", ["__init__", "__new__", "body"])
def test_a_class_that_does_more_has_its_requests_made_by_quart(quart, caplog, name):
    """A constructor of the app's own is called for each request; the log says so."""
    calls = []

    class Own(QuartTrio.request_class):
        if name == "__init__":

            def __init__(self, *given, **named):
                super().__init__(*given, **named)
                calls.append(self)

        elif name == "__new__":

            def __new__(cls, *given, **named):
                made = super().__new__(cls)
                calls.append(made)
                made.__dict__["at"] = [len(calls)]
                return made

        else:

            class Body(QuartTrio.request_class.body_class):
                def __init__(self, *given):
                    super().__init__(*given)
                    calls.append(self)
                    setattr(self, f"number{len(calls)}", True)

            body_class = Body

    quart.request_class = Own
    requests = Requests()
    with caplog.at_level(logging.DEBUG, "flowstream"):
        for _ in range(3):
            requests.make(connection(quart), no_send)
    assert requests.copied == 0
    assert requests.made == 3
    assert len(calls) >= 3
    assert "Quart makes each request of class Own" in caplog.text


def test_a_line_break_in_a_header_is_refused_as_by_quart(quart):
    """A value that no server lets through is an error, in a copy as in the original."""
    requests = Requests()
    requests.make(connection(quart), no_send)
    broken = connection(quart, headers=[(b"x", b"one\r\ntwo")])
    with pytest.raises(ValueError):
        broken._create_request_from_scope(no_send)
    with pytest.raises(ValueError):
        requests.make(broken, no_send)


# -- adapters ------------------------------------------------------------------------------------


@pytest.fixture
def routed(app):
    @app.route("/of/<name>")
    async def view(name):
        return f"{request.host} {request.url} {name}"

    return app


def adapter(app, **given):
    return app.create_url_adapter(connection(app, **given)._create_request_from_scope(no_send))


def test_the_same_first_line_and_host_share_an_adapter(routed):
    """A request for the same has the same adapter, and one that differs has another."""
    first = adapter(routed)
    assert adapter(routed) is first
    differing = [
        {"path": "/of/bob"},
        {"query_string": b"q=2"},
        {"method": "POST"},
        {"scheme": "https"},
        {"headers": [(b"host", b"there")]},
        {"headers": []},
        {"root_path": "/of", "path": "/of/of/ada"},
    ]
    plain = QuartTrio("app")
    plain.url_map = routed.url_map
    for given in differing:
        ours, quarts = adapter(routed, **given), adapter(plain, **given)
        assert ours is not first
        assert vars(ours) == vars(quarts), given


def test_adapters_are_bounded(routed):
    """A client that asks for another path each time, or for a long one, fills no memory."""
    first = adapter(routed)
    for number in range(200):
        adapter(routed, path=f"/{number}")
    assert adapter(routed) is not first
    long = {"path": "/" + "x" * 2000}
    assert adapter(routed, **long) is not adapter(routed, **long)


def test_a_host_that_is_not_trusted_is_refused_each_time(routed):
    """Where the app trusts some hosts alone, each request's is looked at."""

    class Trusting(QuartTrio.request_class):
        trusted_hosts = ("there",)

    adapter(routed)
    routed.request_class = Trusting
    for _ in range(2):
        with pytest.raises(Exception, match="not trusted"):
            adapter(routed)


def test_a_server_name_is_compared_each_time(routed):
    """With a SERVER_NAME each request is warned of that has another host."""
    adapter(routed)
    routed.config["SERVER_NAME"] = "there"
    for _ in range(2):
        with pytest.warns(UserWarning, match="doesn't match"):
            adapter(routed)


def test_an_app_with_adapters_of_its_own_keeps_them():
    """A class that makes adapters itself is asked for each."""

    class Own(QuartTrio):
        def create_url_adapter(self, request):
            return super().create_url_adapter(request)

    app = Own("own")
    Flowstream(app)
    assert adapter(app) is not adapter(app)
