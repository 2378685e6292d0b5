"""Any client, any producer, any policy: what holds for every stream, whatever happens."""

import json

import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from flowstream import (
    Block,
    Buffer,
    CloseReason,
    Conflate,
    Disconnect,
    DropNewest,
    DropOldest,
    Event,
    Limits,
    PublicError,
    Sample,
    sse,
)
from flowstream.decoders import SSEDecoder
from flowstream.testing import open_stream

POLICIES = [
    Block(),
    Block(timeout=3),
    DropOldest(),
    DropOldest(max_age=2),
    DropNewest(),
    Sample(every=2),
    Sample(interval=1),
    Conflate(),
    Disconnect(),
]

pauses = st.sampled_from([0, 0, 0.3, 1, 7, 40])
producer_steps = st.one_of(
    st.tuples(st.just("send"), st.integers(1, 30), st.booleans()),
    st.tuples(st.just("pause"), pauses),
    st.tuples(st.just("burst"), st.integers(1, 12)),
    st.tuples(st.just("large"), st.integers(1, 40_000)),
)
endings = st.sampled_from(["return", "fail", "public", "group", "bad item", "hang", "interfere"])
client_steps = st.one_of(
    st.tuples(st.just("grant"), st.integers(1, 3000)),
    st.tuples(st.just("pause"), pauses),
    st.tuples(st.sampled_from(["stall", "resume", "abort", "half_close", "stop", "cancel"])),
)
limits = st.builds(
    Limits,
    max_duration=st.sampled_from([None, None, 5, 60]),
    max_bytes=st.sampled_from([None, None, 50, 2000]),
    stall_timeout=st.sampled_from([2, 30]),
)


@pytest.mark.timeout(240)
@given(
    policy=st.sampled_from(POLICIES),
    buffer=st.builds(Buffer, items=st.integers(1, 20), bytes=st.integers(50, 5000)),
    limits=limits,
    production=st.lists(producer_steps, max_size=12),
    ending=endings,
    schedule=st.lists(client_steps, max_size=14),
    stuck=st.booleans(),
    prime=st.sampled_from([None, None, 1]),
    heartbeat=st.sampled_from([None, 4]),
)
@example(
    policy=Block(),
    buffer=Buffer(items=1, bytes=50),
    limits=Limits(stall_timeout=2),
    production=[],
    ending="public",
    schedule=[("stall",), ("pause", 1), ("abort",)],
    stuck=False,
    prime=1,
    heartbeat=None,
)
@settings(deadline=None, max_examples=300)
def test_every_stream_keeps_its_books(
    policy, buffer, limits, production, ending, schedule, stuck, prime, heartbeat
):
    """One report, no task left, no error to the server, and received + missed = sent."""
    reports, cleaned = [], []

    async def produce(out):
        n = 0
        try:
            for step, *rest in production:
                if step == "pause":
                    await trio.sleep(rest[0])
                elif step == "large":
                    n += 1
                    await out.send(Event("x" * rest[0], key=n % 3))
                elif step == "burst":
                    for _ in range(rest[0]):
                        n += 1
                        try:
                            out.send_nowait(Event(n, key=n % 5))
                        except trio.WouldBlock:
                            await out.send(n)
                else:
                    for _ in range(rest[0]):
                        n += 1
                        await out.send(Event(n, key=n % 5, essential=rest[1] and n % 4 == 0))
            await end(out)
        finally:
            try:
                await trio.sleep(0.5)
            finally:
                cleaned.append(n)

    async def end(out):
        if ending == "fail":
            raise ValueError("secret")
        if ending == "public":
            raise PublicError("code", "message", retryable=True)
        if ending == "group":
            raise ExceptionGroup("both", [ValueError("secret"), PublicError("code", "message")])
        if ending == "bad item":
            await out.send(object())
        if ending == "hang":
            await trio.sleep(500)
        if ending == "interfere":
            with trio.move_on_after(30), trio.CancelScope(shield=True):
                await trio.sleep(1)

    response = sse(
        produce,
        policy=policy,
        buffer=buffer,
        limits=limits,
        heartbeat=heartbeat,
        prime=prime,
        on_close=reports.append,
    )

    async def main():
        outside = trio.CancelScope()

        async def app(*args):
            with outside:
                await response(*args)
            if outside.cancelled_caught:
                raise InterruptedError

        async with open_stream(
            app, window=100, stuck_sends=stuck, raise_app_exceptions=False, exit_timeout=100
        ) as client:
            for step, *rest in schedule:
                if step == "grant":
                    client.grant(*rest)
                elif step == "pause":
                    await trio.sleep(*rest)
                elif step == "stop":
                    response.stop()
                elif step == "cancel":
                    outside.cancel()
                else:
                    getattr(client, step)()
                check_bounds()
                await trio.lowlevel.checkpoint()
            client.resume()
            with trio.move_on_after(600):
                await client.wait_finished()
        check_books(client)

    def check_bounds():
        now = response.statistics().buffer
        assert now.items <= buffer.items
        assert now.bytes <= buffer.bytes or now.items == 1

    def check_books(client):
        (report,) = reports
        final = response.statistics()
        assert final.state == "closed"
        assert (final.items, final.bytes, final.dropped) == (
            report.items,
            report.bytes,
            report.dropped,
        )
        assert report.items + report.dropped == final.buffer.offered
        assert final.buffer.items == final.buffer.bytes == 0
        assert len(cleaned) == 1
        if client.error is not None and not isinstance(client.error, InterruptedError):
            # Only what a primed producer raised, before there was a status line.
            assert prime is not None
            assert client.status is None
            assert client.error is report.error
        assert (report.error is not None) == (report.reason is CloseReason.ERROR)
        assert b"secret" not in client.received
        if client.status is not None and client.status != 200:
            # What it failed with was for the client to know, and is the whole answer.
            assert prime is not None
            assert report.items == 0
            if client.complete:  # it may have left before it read that
                assert json.loads(client.received)["code"] == "code"
            assert report.reason is CloseReason.ERROR
            return
        events = SSEDecoder().feed(client.received)
        received = [event for event in events if event.type == "message"]
        if not policy.keyed:  # else an id comes only when all before it are out
            numbers = [int(event.id.partition(".")[2]) for event in received]
            assert numbers == sorted(set(numbers))
        missed = sum(json.loads(event.data)["missed"] for event in events if event.type == "gap")
        last = [event for event in events if event.type in ("end", "failed", "reconnect")]
        if client.complete:
            assert events[-1:] == last
            assert len(last) == 1
            assert len(received) + missed == final.buffer.offered
            assert len(received) == report.items
            assert missed == report.dropped
        elif last:
            assert events[-1] == last[0]
        else:
            assert len(received) + missed <= final.buffer.offered

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flowstream.asgi._logging.logger.disabled", True)
        patch.setattr("flowstream.asgi._stream.logger.disabled", True)
        trio.run(main, clock=MockClock(autojump_threshold=0), strict_exception_groups=True)
