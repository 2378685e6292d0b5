"""A stream that fails for a reason that is the client's to know, before there is any of it."""

import logging
import math

import pytest
import trio
from fastapi import FastAPI
from quart_trio import QuartTrio
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from flowstream import NotFoundError, PublicError, UpstreamError, sse
from flowstream.quart import Flowstream
from flowstream.starlette import public_error, response
from flowstream.testing import collect


def failing(error):
    async def producer(out):
        async with trio.open_nursery():  # makes a group of it
            raise error

    return producer


def busy():
    return UpstreamError("busy", "Try again soon.", status=503, retry_after=1.2)


def bare(make):
    async def app(scope, receive, send):
        await make()(scope, receive, send)

    return app


def on_quart(make):
    app = QuartTrio(__name__)
    Flowstream(app)

    @app.get("/")
    async def view():
        return make()

    return app


def on_starlette(make, **options):
    async def view(request):
        return make()

    return Starlette(routes=[Route("/", view)], **options)


def on_fastapi(make):
    app = FastAPI()

    @app.get("/")
    async def view():
        return response(make())

    return app


@pytest.mark.parametrize("host", [bare, on_quart, on_starlette, on_fastapi])
async def test_a_primed_public_error_is_answered_with_its_status(host, autojump_clock, caplog):
    """Status, Retry-After, code and message of a PublicError reach the client, in every host."""
    answer = await collect(host(lambda: sse(failing(busy()), prime=1)))
    assert (answer.status, answer.headers["retry-after"]) == (503, "2")
    assert answer.headers["content-type"] == "application/json"
    assert answer.body == b'{"code":"busy","message":"Try again soon."}'
    assert answer.complete
    logged = [(r.levelno, r.message) for r in caplog.records if "503 busy" in r.message]
    assert logged == [(logging.WARNING, "/: 503 busy: Try again soon.")]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("host", [bare, on_quart, on_starlette, on_fastapi])
async def test_a_public_error_after_the_first_item_is_in_band(host, autojump_clock):
    """Once the 200 is out the same error is the stream's last event."""

    async def producer():
        yield "one"
        raise busy()

    answer = await collect(host(lambda: sse(producer, prime=1)))
    assert answer.status == 200
    assert b'event: failed\ndata: {"code":"busy","message":"Try again soon."}' in answer.body


async def test_the_cause_of_an_upstream_error_is_in_the_log_alone(autojump_clock, caplog):
    """What an UpstreamError was raised from is logged, and not told."""

    async def producer():
        try:
            raise OSError("secret host refused")
        except OSError as error:
            raise UpstreamError("down", "The model is down.") from error
        yield

    answer = await collect(bare(lambda: sse(producer, prime=1)))
    assert (answer.status, b"secret" in answer.body) == (502, False)
    assert "secret host refused" in caplog.text


@pytest.mark.parametrize("key", [PublicError, NotFoundError])
async def test_an_apps_own_starlette_handler_answers(key, autojump_clock):
    """A handler of the app's for the error's type comes before ours."""

    async def handler(request, error):
        return PlainTextResponse("mine", 404)

    def make():
        return sse(failing(NotFoundError("There is no such chat.")), prime=1)

    answer = await collect(on_starlette(make, exception_handlers={key: handler}))
    assert answer.body == b"mine"


async def test_an_apps_own_quart_handler_answers(autojump_clock):
    """A Quart error handler for the error's type comes before ours."""
    app = on_quart(lambda: sse(failing(NotFoundError("There is no such chat.")), prime=1))

    @app.errorhandler(NotFoundError)
    async def missing(error):
        return error.code, 404

    assert (await collect(app)).body == b"not_found"


async def test_a_view_may_raise_a_public_error(autojump_clock):
    """A view that raises one is answered alike, on Starlette with the handler offered for it."""

    def make():
        raise NotFoundError("There is no such chat.")

    app = on_starlette(make, exception_handlers={PublicError: public_error})
    for host in (app, on_quart(make)):
        answer = await collect(host)
        assert (answer.status, answer.body) == (
            404,
            b'{"code":"not_found","message":"There is no such chat."}',
        )


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"status": 200}, "400 to 599"),
        ({"retry_after": -1}, "0 or more"),
        ({"retry_after": math.inf}, "finite"),
        ({"retry_after": math.nan}, "finite"),
    ],
)
def test_a_public_error_that_makes_no_sense_is_refused(options, complaint):
    """A status that is no error and a wait that is over are refused where the error is made."""
    with pytest.raises(ValueError, match=complaint):
        PublicError("code", "message", **options)
