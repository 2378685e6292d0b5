"""A source that knows its length: the response has it, and is cut if it is not kept."""

import pytest
import trio
from quart_trio import QuartTrio

from flowstream import CloseReason, ndjson, raw
from flowstream.quart import Flowstream
from flowstream.sources import Source
from flowstream.testing import collect, open_stream


class Bytes(Source):
    """So many bytes, of which it says that they are so many."""

    def __init__(self, made, length):
        self.length = length
        self._made = made

    async def run(self, out):
        await out.send(b"x" * self._made)


async def test_the_response_has_the_length(reports):
    """And no other, and only where nothing is added to the bytes."""
    answer = await collect(raw(Bytes(50_000, 50_000), on_close=reports.append))
    assert answer.headers["content-length"] == "50000"
    assert answer.complete
    assert reports[0].reason is CloseReason.COMPLETED
    head = await collect(raw(Bytes(5, 5)), method="HEAD")
    assert head.headers["content-length"] == "5"
    assert b"content-length" not in dict(ndjson(Bytes(5, 5)).headers)


async def test_fewer_bytes_than_promised_are_cut(reports, logged):
    """Not ended: the client has to see that something is missing."""
    async with open_stream(raw(Bytes(4, 5), on_close=reports.append)) as client:
        assert await client.read_all() == b"xxxx"
        assert not client.complete
    assert reports[0].reason is CloseReason.ERROR
    assert "the source made 4 bytes, and its length was 5" in str(reports[0].error)


async def test_a_client_that_leaves_with_the_last_byte_has_it_all(reports):
    """Whether `send` has returned by then or not."""
    async with open_stream(raw(Bytes(40_000, 40_000), on_close=reports.append)) as client:
        assert len(await client.read(40_000)) == 40_000
        client.abort()
    assert reports[0].reason is CloseReason.COMPLETED
    assert reports[0].bytes == 40_000


async def test_a_client_that_leaves_before_it_has_gone(reports):
    """It was not given all of it."""
    response = raw(Bytes(400_000, 400_000), on_close=reports.append)
    async with open_stream(response, window=20_000) as client:
        await client.wait_blocked()
        client.abort()
    assert reports[0].reason is CloseReason.CLIENT_DISCONNECTED


@pytest.mark.parametrize("value", ["7", "5"])
async def test_an_app_does_not_change_the_length(value):
    """Nor does it on Quart, where it could: another than the source's is refused."""
    app = QuartTrio(__name__)
    Flowstream(app)

    @app.get("/")
    async def view():
        return raw(Bytes(5, 5))

    @app.after_request
    async def change(response):
        if response.status_code == 200:
            response.headers["Content-Length"] = value
        return response

    with trio.fail_after(5):
        answer = await collect(app, raise_app_exceptions=False)
    assert answer.status == (200 if value == "5" else 500)
