"""A primed producer fails before the status line, where the app's error handlers are."""

import pytest
import trio
from quart import abort, make_response, redirect

from flowstream import CloseReason, PublicError, ndjson, sse
from flowstream.testing import collect, open_stream


class NoQuotaError(Exception):
    pass


@pytest.fixture
def reports():
    return []


def failing(error):
    async def producer():
        await trio.sleep(0.1)
        raise error
        yield

    return producer


async def forbidden():
    abort(403)
    yield


async def test_a_primed_abort_is_an_ordinary_403(app, autojump_clock, caplog, reports):
    """abort(403) in a primed producer gives Quart's own 403 page."""

    @app.get("/")
    async def view():
        return sse(forbidden, prime=1, on_close=reports.append)

    response = await collect(app)
    assert response.status == 403
    assert response.headers["content-type"].startswith("text/html")
    assert b"Forbidden" in response.body
    assert [report.reason for report in reports] == [CloseReason.ERROR]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    assert app.extensions["flowstream"].statistics().closed == {"error": 1}


async def test_the_apps_handler_answers_a_primed_abort(app, autojump_clock):
    """The app's own 403 handler sees what a primed producer aborted with."""

    @app.get("/")
    async def view():
        return sse(forbidden, prime=1)

    @app.errorhandler(403)
    async def handler(error):
        return {"error": error.name}, 403

    response = await collect(app)
    assert (response.status, response.body.strip()) == (403, b'{"error":"Forbidden"}')


@pytest.mark.parametrize("how", ["returned", "tuple", "made", "before_request"])
async def test_a_handler_of_an_exception_of_the_apps_own(app, autojump_clock, how):
    """However the stream is handed over, its first failure goes to the app's handler."""

    async def answer():
        response = ndjson(failing(NoQuotaError("3 a day")), prime=1)
        if how == "tuple":
            return response, 201
        return await make_response(response) if how == "made" else response

    if how == "before_request":
        app.before_request(answer)
        app.add_url_rule("/", "view", failing(AssertionError))
    else:
        app.add_url_rule("/", "view", answer)

    @app.errorhandler(NoQuotaError)
    async def handler(error):
        return str(error), 429

    response = await collect(app)
    assert (response.status, response.body) == (429, b"3 a day")
    assert app.extensions["flowstream"].statistics().open == 0


async def test_a_failure_without_a_handler_is_a_500(app, autojump_clock, caplog):
    """What nobody handles is a 500, and in the log once, with its traceback."""

    @app.get("/")
    async def view():
        return sse(failing(NoQuotaError("unhandled")), prime=1)

    assert (await collect(app)).status == 500
    assert caplog.text.count("NoQuotaError: unhandled") == 1


async def test_a_primed_failure_may_be_answered_by_another_stream(app, autojump_clock, reports):
    """The handler of a primed failure returns a stream, which is served instead."""

    @app.get("/")
    async def view():
        return sse(failing(NoQuotaError()), prime=1, on_close=reports.append)

    @app.errorhandler(NoQuotaError)
    async def handler(error):
        return ndjson(["instead"], controls=False, on_close=reports.append)

    response = await collect(app)
    assert (response.status, response.body) == (200, b'"instead"\n')
    assert [report.reason.value for report in reports] == ["error", "completed"]


async def test_what_is_primed_comes_out_whole(app, autojump_clock):
    """The item that was waited for is sent first, none is lost or doubled."""

    async def producer():
        for n in range(3):
            await trio.sleep(1)
            yield n

    @app.get("/")
    async def view():
        return ndjson(producer, prime=30, controls=False)

    async with open_stream(app) as client:
        await trio.sleep(0.5)
        assert client.status is None
        await client.started()
        assert trio.current_time() == pytest.approx(1, abs=0.01)
        assert await client.read_all() == b"0\n1\n2\n"


async def test_when_the_time_is_up_the_200_goes_out(app, autojump_clock):
    """A first item that is late fails in band, after the status line."""

    @app.get("/")
    async def view():
        return sse(late, prime=0.05)

    async def late():
        await trio.sleep(10)
        raise PublicError("late", "Too late.")
        yield

    response = await collect(app)
    assert response.status == 200
    assert b"event: failed\n" in response.body
    assert b"Too late." in response.body
    assert response.complete


async def test_an_unprimed_failure_is_told_in_band(app, autojump_clock, caplog, reports):
    """Without prime= even an immediate abort(403) is a failed event, whose detail is logged."""

    @app.get("/")
    async def view():
        return sse(forbidden, on_close=reports.append)

    response = await collect(app)
    assert response.status == 200
    assert b"event: failed\n" in response.body
    assert b"Forbidden" not in response.body
    assert response.complete
    assert [report.reason for report in reports] == [CloseReason.ERROR]
    assert "Forbidden" in caplog.text


async def test_a_redirect_by_a_primed_producer(app, autojump_clock):
    """abort() with a response, such as a redirect, works from a primed producer."""

    async def producer():
        abort(redirect("/login"))
        yield

    @app.get("/")
    async def view():
        return sse(producer, prime=1)

    response = await collect(app)
    assert (response.status, response.headers["location"]) == (302, "/login")


async def test_after_request_raises_over_a_primed_stream(app, autojump_clock, caplog, reports):
    """The client gets a 500; the primed producer is cancelled, reported, and leaves nothing."""
    cleaned = []

    async def endless():
        try:
            while True:
                yield "x"
                await trio.sleep(1)
        finally:
            await trio.sleep(0.1)
            cleaned.append(trio.current_time())

    @app.get("/")
    async def view():
        return sse(endless, prime=1, on_close=reports.append)

    @app.after_request
    async def broken(response):
        if response.status_code == 200:
            raise ValueError("after_request is broken")
        return response

    before = trio.lowlevel.current_statistics().tasks_living
    async with open_stream(app) as client:
        await client.started()
        assert client.status == 500
        assert b"Internal Server Error" in await client.read_all()
        await client.wait_finished()
        assert cleaned
    assert [report.reason for report in reports] == [CloseReason.CANCELLED]
    assert "after_request is broken" in caplog.text
    assert app.extensions["flowstream"].statistics().open == 0
    assert trio.lowlevel.current_statistics().tasks_living == before


async def test_after_request_replaces_a_primed_stream(app, autojump_clock, reports):
    """A primed producer whose stream is not sent after all is ended, and reported."""

    @app.get("/")
    async def view():
        return sse(waiting, prime=1, on_close=reports.append)

    async def waiting():
        yield "x"
        await trio.sleep_forever()

    @app.after_request
    async def change(response):
        return await make_response("closed", 503)

    response = await collect(app)
    assert (response.status, response.body) == (503, b"closed")
    assert [report.reason for report in reports] == [CloseReason.CANCELLED]


async def test_the_client_leaves_while_a_stream_is_primed(app, autojump_clock, reports):
    """A disconnect before the first item cancels the producer; teardown still runs."""
    order = []

    async def producer():
        try:
            await trio.sleep_forever()
            yield
        finally:
            order.append("producer")

    @app.get("/")
    async def view():
        return sse(producer, prime=60, on_close=reports.append)

    @app.teardown_request
    async def teardown(error):
        await trio.sleep(1)
        order.append("teardown")

    async with open_stream(app) as client:
        await trio.sleep(5)
        client.abort()
    assert trio.current_time() < 10
    assert order == ["producer", "teardown"]
    assert [report.reason for report in reports] == [CloseReason.CLIENT_DISCONNECTED]


async def test_the_client_leaves_what_took_a_primed_streams_place(app, autojump_clock):
    """Quart's own endless response, in place of a failed stream, ends with the disconnect."""
    order = []

    @app.get("/")
    async def view():
        return sse(failing(NoQuotaError()), prime=1)

    @app.errorhandler(NoQuotaError)
    async def handler(error):
        async def endless():
            try:
                while True:
                    yield "x"
                    await trio.sleep(1)
            finally:
                order.append("closed")

        return endless()

    async with open_stream(app, exit_timeout=10) as client:
        assert await client.read(3) == b"xxx"
        client.abort()
    assert order == ["closed"]


async def test_a_disconnect_during_priming_reaches_what_comes_instead(app, autojump_clock):
    """The client left while the producer failed: the handler's answer is not run in vain."""
    started = []

    async def producer():
        try:
            await trio.sleep_forever()
            yield
        finally:
            raise NoQuotaError

    @app.get("/")
    async def view():
        return sse(producer, prime=60)

    @app.after_request
    async def change(response):
        async def endless():
            started.append(True)
            while True:
                yield "x"
                await trio.sleep(1)

        return await make_response(endless())

    async with open_stream(app, exit_timeout=10) as client:
        await trio.sleep(5)
        client.abort()
    assert not started
