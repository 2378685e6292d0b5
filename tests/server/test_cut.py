"""An export that has failed never looks whole, whatever stands between it and its client.

In process, where every home, middleware and reason meet; `test_cut_on_sockets` has the protocols.
"""

import pytest
import trio
from _ending import (
    MADE,
    ROWS,
    WRAPPERS,
    Buffers,
    Ending,
    fails,
    floods,
    goes_on,
    reason_of,
    whole,
)
from _homes import HOMES, bare
from _middleware import PassesOn
from starlette.responses import JSONResponse, Response

from flowstream import Disconnect, csv, ndjson, sse
from flowstream.testing import collect, open_stream


@pytest.fixture
def reports():
    """Return the list of reports, for `on_close`."""
    return []


class GivesUp(Ending):
    """Has no patience for more than three seconds, and ends what it has sent by then."""

    async def serve(self, scope, receive, send):
        with trio.move_on_after(3):
            await self.app(scope, receive, send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def check_cut(wrapped, home, made, reports):
    app = WRAPPERS[wrapped](HOMES[home](lambda: MADE[made](on_close=reports.append)))
    answer = await collect(app, headers={"accept-encoding": "gzip"}, timeout=10)
    assert not answer.complete
    assert answer.status == 200
    assert [report.reason for report in reports] == [reason_of(made)]


@pytest.mark.parametrize("home", HOMES)
@pytest.mark.parametrize("wrapped", WRAPPERS)
async def test_a_failed_export_is_cut(wrapped, home, autojump_clock, reports):
    """In each home, behind each middleware: the final chunk never comes."""
    await check_cut(wrapped, home, "error", reports)


@pytest.mark.parametrize("home", HOMES)
@pytest.mark.parametrize("made", MADE)
async def test_every_reason_but_completed_is_a_cut(made, home, autojump_clock, reports):
    """Also where middleware has sent nothing before the stream ended."""
    await check_cut("BaseHTTPMiddleware", home, made, reports)
    reports.clear()
    await check_cut("buffers", home, made, reports)


@pytest.mark.parametrize("home", HOMES)
async def test_a_client_that_has_only_closed_its_half(home, autojump_clock, reports):
    """It still reads, and is not told that half is all."""
    app = PassesOn(HOMES[home](lambda: csv(goes_on, on_close=reports.append)))
    async with open_stream(app) as client:
        await client.read(100)
        client.half_close()
        await client.read_all()
        assert not client.complete
    assert [report.reason for report in reports] == ["client_disconnected"]


@pytest.mark.parametrize("home", HOMES)
@pytest.mark.parametrize("wrapped", ["BaseHTTPMiddleware", "three queues", "ends by itself"])
async def test_a_client_that_is_too_slow(wrapped, home, autojump_clock, reports):
    """It is given up, and what it still reads has no end."""
    ended = trio.Event()

    def end(report):
        reports.append(report)
        ended.set()

    def make():
        return csv(floods, policy=Disconnect(), buffer=3, on_close=end)

    async with open_stream(WRAPPERS[wrapped](HOMES[home](make)), window=4000) as client:
        with trio.fail_after(5):
            await ended.wait()
        client.resume()
        await client.read_all()
        assert not client.complete
    assert [report.reason for report in reports] == ["slow_consumer"]


@pytest.mark.parametrize("make", [csv, ndjson, sse], ids=["csv", "ndjson", "sse"])
@pytest.mark.parametrize("home", HOMES)
async def test_what_gives_up_does_not_make_it_whole(home, make, autojump_clock, reports):
    """A stream that is cancelled from outside is cut, in formats with events of ours, too."""
    app = GivesUp(HOMES[home](lambda: make(goes_on, on_close=reports.append)))
    answer = await collect(app)
    assert not answer.complete
    assert answer.body
    assert [report.reason for report in reports] == ["cancelled"]


@pytest.mark.parametrize("wrapped", WRAPPERS)
async def test_a_whole_export_is_whole(wrapped, autojump_clock):
    """What has completed has its end, and its length where middleware gives one."""
    answer = await collect(WRAPPERS[wrapped](bare(lambda: csv(whole))))
    assert answer.complete
    assert answer.body.count(b"\r\n") == len(ROWS)
    assert ("content-length" in answer.headers) == ("buffers" in wrapped)


@pytest.mark.parametrize("wrapped", WRAPPERS)
async def test_a_failure_that_is_told_in_the_body_has_its_end(wrapped, autojump_clock):
    """The format has an event for it: the response is whole."""
    answer = await collect(WRAPPERS[wrapped](bare(lambda: ndjson(fails))))
    assert answer.complete
    assert b"failed" in answer.body.lower()


# -- an answer in its place --------------------------------------------------------------------


class Answers(Buffers):
    """Gives up after three seconds, and answers something of its own."""

    answer = JSONResponse({"error": "too late"}, 504)

    async def serve(self, scope, receive, send):
        with trio.move_on_after(3) as patience:
            await super().serve(scope, receive, send)
        if patience.cancelled_caught:
            await self.answer(scope, receive, send)


class AnswersWithNothing(Answers):
    answer = Response(status_code=204)


class AnswersFromACache(Answers):
    answer = Response("an older one")


@pytest.mark.parametrize("home", HOMES)
@pytest.mark.parametrize("answers", [Answers, AnswersWithNothing])
async def test_an_answer_in_place_of_it_is_whole(answers, home, autojump_clock, reports):
    """Its status says that it is no part of the stream, which had begun and was given up."""
    answer = await collect(answers(HOMES[home](lambda: csv(goes_on, on_close=reports.append))))
    assert [report.reason for report in reports] == ["cancelled"]
    assert answer.status == answers.answer.status_code
    assert answer.body == answers.answer.body
    assert answer.complete


@pytest.mark.parametrize("home", HOMES)
async def test_a_success_in_place_of_it_is_taken_for_the_stream(home, autojump_clock):
    """It can't be told from half an export, and is cut."""
    answer = await collect(AnswersFromACache(HOMES[home](lambda: csv(goes_on))))
    assert not answer.complete
    assert "content-length" not in answer.headers


@pytest.mark.parametrize("home", ["starlette", "fastapi"])
async def test_a_stream_that_fails_before_its_head(home, autojump_clock):
    """The framework's own answer is whole."""

    async def at_once():
        raise OSError("there is no database")
        yield

    app = PassesOn(HOMES[home](lambda: csv(at_once, prime=5)))
    answer = await collect(app, raise_app_exceptions=False)
    assert (answer.status, answer.complete) == (500, True)
