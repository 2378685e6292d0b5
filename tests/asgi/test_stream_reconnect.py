"""A client that comes back: who is sent away with a 204, and who is served again."""

import json

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from flowstream import NDJSON, SSE, Limits, PublicError, csv, ndjson, raw, sse, stream
from flowstream.asgi._request import last_event_id
from flowstream.asgi._writer import jittered
from flowstream.ids._event_id import MAX_ID_LENGTH, is_final
from flowstream.testing import collect, open_stream


def source(started):
    async def produce(out):
        started.append(True)
        await out.send("x")

    return produce


async def status_of(response, path="/", **headers):
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return (await collect(response, path, headers=names)).status


@pytest.mark.parametrize("make", [sse, ndjson])
async def test_the_id_of_an_end_gets_a_204(make, reports, autojump_clock):
    """Whoever saw the end is sent away before the source is opened, under "restart" too."""
    started = []
    async with open_stream(sse(source([]))) as client:
        seen = [event.id async for event in client][-1]
    for on_reconnect in ("refuse", "restart"):
        response = make(
            source(started), on_reconnect=on_reconnect, on_close=reports.append, prime=5
        )
        answer = await collect(response, headers={"last-event-id": seen})
        assert (answer.status, answer.body) == (204, b"")
        assert answer.headers["cache-control"] == "no-store"
    assert not started
    assert [report.reason for report in reports] == ["refused", "refused"]


@pytest.mark.parametrize(("retryable", "status"), [(False, 204), (True, 200)])
async def test_a_failure_sends_away_unless_it_is_retryable(retryable, status, autojump_clock):
    """The id of a `failed` gets a 204; a retryable one has none, and "restart" serves again."""

    async def produce(out):
        await out.send("x")
        raise PublicError("x", "y", retryable=retryable)

    async with open_stream(sse(produce)) as client:
        seen = [event.id async for event in client][-1]
    assert await status_of(sse(source([]), on_reconnect="restart"), last_event_id=seen) == status


async def test_a_source_that_cannot_resume_refuses_or_restarts(autojump_clock):
    """Any id gets a 204 by default, and a new run where the app asked for it."""
    started = []
    assert await status_of(sse(source(started)), last_event_id="abc.1") == 204
    assert not started
    response = sse(source(started), on_reconnect="restart")
    assert await status_of(response, last_event_id="abc.1") == 200
    assert len(started) == 1


@pytest.mark.parametrize("make", [raw, csv])
async def test_formats_without_ids_know_no_reconnect(make, autojump_clock):
    """A Last-Event-ID means nothing to raw bytes and CSV."""
    assert await status_of(make([]), last_event_id="abc.end") == 200


async def test_the_header_wins_over_the_query(autojump_clock):
    """A stale ?lastEventId= in the page's URL does not count beside the header."""

    def fresh():
        return sse(source([]), on_reconnect="restart")

    query = "/?lastEventId=abc.end"
    assert await status_of(fresh(), query) == 204
    assert await status_of(fresh(), query, last_event_id="abc.7") == 200
    assert await status_of(fresh(), "/?lastEventId=", last_event_id="abc.end") == 204
    assert await status_of(sse(source([])), "/?lastEventId=") == 200
    assert await status_of(sse(source([])), "/?other=1") == 200
    assert await status_of(sse(source([])), last_event_id="") == 200
    assert await status_of(sse(source([])), "/?lastEventId=%ff.1") == 204
    many = "/?" + "&".join(f"a{n}=1" for n in range(200)) + "&lastEventId=abc.end"
    assert await status_of(fresh(), many) == 200


@given(st.binary(max_size=3000), st.binary(max_size=3000))
@settings(deadline=None)
def test_an_id_of_any_bytes_never_raises(header, query):
    """Malformed, huge or not UTF-8: an id has a bounded length, and no error."""
    for scope in (
        {"headers": [(b"last-event-id", header)], "query_string": query},
        {"headers": [], "query_string": b"lastEventId=" + query},
        {"headers": [], "query_string": query},
        {},
    ):
        found = last_event_id(scope)
        assert found is None or 0 < len(found) <= MAX_ID_LENGTH
        if found is not None:
            is_final(found)


@pytest.mark.parametrize("id", ["a.end", "0f3a9c21.failed"])
def test_ids_of_our_own_last_events_are_final(id):
    """`<epoch>.end` and `<epoch>.failed` are what a 204 answers."""
    assert is_final(id)


@pytest.mark.parametrize(
    "id", ["", "end", ".end", "a.end2", "a.ended", "a.end\n", "a b.end", "A.1"]
)
def test_ids_that_only_look_final_are_not(id):
    """What no stream of ours ever gave out sends nobody away."""
    assert not is_final(id)


@pytest.mark.parametrize("encoder", [SSE(), NDJSON()])
@pytest.mark.parametrize("retry", [None, 5000])
async def test_max_duration_asks_the_client_to_come_back(encoder, retry, reports, autojump_clock):
    """At max_duration: what is queued, then `reconnect` with jittered retry and no id."""

    async def produce(out):
        for n in range(100):
            await out.send(n)
            await trio.sleep(1)

    limits = Limits(max_duration=9.5)
    response = stream(produce, encoder=encoder, limits=limits, retry=retry, on_close=reports.append)
    async with open_stream(response) as client:
        start = trio.current_time()
        await client.wait_finished()
        assert trio.current_time() - start == pytest.approx(9.5)
        assert client.complete
    base = retry or 2000
    if encoder == SSE():
        block = client.received.decode().strip("\n").split("\n\n")[-1]
        name, wait, data = block.split("\n")
        assert (name, data) == ("event: reconnect", 'data: {"reason":"max_duration"}')
        given_retry = int(wait.removeprefix("retry: "))
    else:
        last = json.loads(client.received.splitlines()[-1])
        given_retry = last.pop("retry")
        assert last == {"type": "reconnect", "data": {"reason": "max_duration"}}
    assert base * 0.5 <= given_retry <= base * 1.5
    assert [(report.reason, report.items) for report in reports] == [("max_duration", 10)]


def test_clients_do_not_come_back_together():
    """A hundred retries are spread over half to one and a half of what was asked for."""
    drawn = [jittered(1000) for _ in range(500)]
    assert 500 <= min(drawn) < 600
    assert 1400 < max(drawn) <= 1500


async def test_the_opening_carries_the_apps_retry(autojump_clock):
    """`retry=` is in the first bytes, before there is an item."""
    assert (await collect(sse([], retry=1234))).body.startswith(b": connected\nretry: 1234\n\n")


async def test_a_204_has_the_headers_of_the_app_and_none_of_the_streams():
    """A page of another origin may see it only with the CORS headers that the app gave."""
    response = sse(["a"], headers={"Access-Control-Allow-Origin": "*", "Content-Type": "x/y"})
    answer = await collect(response, headers={"Last-Event-ID": "0.end"})
    assert (answer.status, answer.body) == (204, b"")
    assert dict(answer.headers) == {
        "access-control-allow-origin": "*",
        "cache-control": "no-store",
    }
