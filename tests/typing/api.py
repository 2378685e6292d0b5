"""An app as it is typed: checked by mypy --strict, never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

import trio
from quart import request
from quart.typing import ResponseReturnValue
from quart_trio import QuartTrio

from flowstream import (
    NDJSON,
    Buffer,
    CatchUp,
    CloseReason,
    Conflate,
    DropOldest,
    Event,
    Limits,
    Outlet,
    Replay,
    Retry,
    Run,
    Runs,
    Sample,
    SharedReceive,
    SourceLike,
    StreamOptions,
    StreamReport,
    StreamResponse,
    StreamStatistics,
    Topic,
    Topics,
    Where,
    csv,
    ndjson,
    raw,
    sse,
    stream,
)
from flowstream.quart import Flowstream
from flowstream.sources import throttle

app = QuartTrio(__name__)
Flowstream(app)


async def tokens() -> AsyncIterator[dict[str, str]]:
    """An async generator function, as a source."""
    yield {"type": "token", "data": "x"}


async def produce(out: Outlet) -> None:
    """A producer function, as a source."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(out.send, Event(1, id="1", type="n", key="k", essential=True))
    out.send_nowait("x")
    items: int = out.statistics().items
    assert items


def note(report: StreamReport) -> None:
    """What `on_close` takes."""
    reason: CloseReason = report.reason
    seconds: float | None = report.first_byte
    assert reason or seconds


@app.get("/answer")
async def answer() -> ResponseReturnValue:
    """A view that returns a stream, and one with a status."""
    question = request.args["q"]
    if question:
        return ndjson(tokens()), 201
    return sse(
        produce,
        policy=DropOldest(max_age=5),
        buffer=256,
        heartbeat=None,
        limits=Limits(max_duration=3600),
        headers={"X-A": "b"},
        prime=1.5,
        controls=False,
        on_reconnect="restart",
        retry=100,
        on_close=note,
    )


async def may_read(name: str, who: str) -> bool:
    """What `authorize` takes."""
    return name != who


prices = Topic("prices", replay=Replay(items=10))
rooms = Topics(authorize=may_read)


@app.get("/rooms/<name>")
async def room(name: str) -> ResponseReturnValue:
    """A view that returns topics."""
    await prices.publish({"n": 1}, key="n")
    async with prices.subscribe(where=lambda event: event.key == "n") as events:
        event: Event = await anext(events)
        assert event
    return sse([prices, await rooms.open(name, "me")], where=lambda event: event.type is None)


runs = Runs(grace=None, replay=Replay(items=10))


@app.get("/chats/<id>")
async def chat(id: str) -> ResponseReturnValue:
    """A view that starts, reads and stops runs."""
    run: Run = runs.get_or_start(id, tokens)
    async with run.subscribe(policy=CatchUp()) as events:
        event: Event = await anext(events)
        assert event
    if run.statistics().attached:
        await runs.stop(id)
    return sse([runs[id], prices])


def others() -> list[StreamResponse]:
    """Return one of each."""
    send, receive = trio.open_memory_channel[bytes](1)
    send.close()
    return [
        stream(tokens, encoder=NDJSON(names={"gap": "lost"}), policy=Conflate()),
        csv([{"a": 1}], columns=["a"], buffer=Buffer(items=5, bytes=500)),
        raw(receive, media_type="text/plain", policy=Sample(every=3)),
    ]


def state(response: StreamResponse) -> int:
    """Read what a stream has done."""
    statistics: StreamStatistics = response.statistics()
    response.stop()
    return statistics.buffer.bytes


async def upload(
    scope: dict[str, object],
    receive: SharedReceive,
) -> bytes:
    """Read a body beside a stream."""
    message = await receive()
    return bytes(message["body"])


def sources(rows: Iterable[dict[str, int]], channel: trio.MemoryReceiveChannel[int]) -> None:
    """Hand over what is a source."""
    given: list[SourceLike] = [rows, channel, tokens, tokens(), produce, [1], {1}, range(3)]
    options: StreamOptions = {"buffer": 3, "where": where}
    sse(prices.subscribe(), **options)
    sse(throttle(iter(rows), per_second=1))
    prices.publish_from(lambda: throttle(tokens, per_second=1), retry=Retry(first=2))
    assert given


def where(event: Event) -> bool:
    """What ``where=`` takes."""
    return event.type is None


chosen: Where = where

sse("text")  # type: ignore[arg-type]
sse(b"text")  # type: ignore[arg-type]
sse({"a": 1})  # type: ignore[dict-item]
sse(None)  # type: ignore[arg-type]
sse(5)  # type: ignore[arg-type]
sse(may_read("a", "b"))  # type: ignore[arg-type]
sse(may_read)  # type: ignore[arg-type]
sse(state)  # type: ignore[arg-type]
sse(Event)  # type: ignore[arg-type]
sse(produce, policy="drop")  # type: ignore[arg-type]
sse(produce, on_reconnect="again")  # type: ignore[arg-type]
sse(produce, polcy=DropOldest())  # type: ignore[call-arg]
