"""Runs at the edges: several apps and programs, what ends a program, formats that come later."""

import asyncio
import gc
import json
import logging
import weakref

import pytest
import trio
from quart.testing import WebsocketResponseError
from quart_trio import QuartTrio

from flowstream import (
    Block,
    CloseReason,
    DropOldest,
    Limits,
    PublicError,
    Replay,
    Runs,
    SourceError,
    Topic,
    csv,
    ndjson,
    raw,
    sse,
)
from flowstream.quart import Flowstream
from flowstream.testing import collect, open_lifespan, open_stream


def test_without_trio_the_error_says_which_server_to_use():
    """In the lifespan of an app that asyncio serves, in its views, and outside of any loop."""

    async def serve():
        async with Flowstream():
            pass

    async def view():
        Runs().start("a", idle)

    calls = (
        lambda: asyncio.run(serve()),
        lambda: asyncio.run(view()),
        lambda: Runs().start("a", idle),
    )
    for call in calls:
        with pytest.raises(RuntimeError, match="`flowstream serve module:app` or `hypercorn"):
            call()


async def idle(out):
    await trio.sleep_forever()


async def produce_for_ever(out):
    while True:
        await out.send("x" * 100)
        await trio.sleep(0.1)


async def test_a_run_ends_with_the_app_it_was_started_in(autojump_clock):
    """Of two apps in one program the one that ends first takes its own runs with it, no other."""
    runs = Runs(grace=None)

    def make(key):
        app = QuartTrio(__name__)
        Flowstream(app)

        @app.post("/")
        async def start():
            runs.start(key, idle)
            return ""

        return app

    first, second = make("first"), make("second")
    async with open_lifespan(first):
        async with open_lifespan(second):
            await collect(first, "/", method="POST")
            await collect(second, "/", method="POST")
        assert list(runs) == ["first"]
        await collect(first, "/", method="POST")  # the next one finds its nursery, too
    assert runs.statistics().ended == {"shutdown": 2}


async def test_the_innermost_flowstream_is_that_of_its_body(autojump_clock):
    """Where two are open what starts inside one belongs to it, whichever was opened last."""
    runs, opened, over = Runs(grace=None), trio.Event(), trio.Event()

    async def outer():
        async with Flowstream():
            opened.set()
            await over.wait()

    async with trio.open_nursery() as nursery, Flowstream():
        nursery.start_soon(outer)
        await opened.wait()
        run = runs.start("own", idle)
        over.set()
        await trio.testing.wait_all_tasks_blocked()
        assert run.reason is None


def test_in_the_next_program_there_are_none(autojump_clock):
    """What one Trio run has left is not found in the next, whose clock is another."""
    runs = Runs(keep=1)

    async def program(last):
        async with Flowstream():
            assert len(runs) == 0
            assert runs.get_or_start("chat", ["1"]).statistics().published == 0
            await runs["chat"].wait()
            if last:
                await trio.sleep(1.5)
                assert len(runs) == 0
            else:
                assert runs.statistics().kept == 1

    trio.run(program, False)
    assert len(runs) == 1
    trio.run(program, True, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_what_ends_the_program_completes_nothing(autojump_clock):
    """SystemExit goes through: its run ends as an error, the others as the app goes down."""

    async def leave(out):
        raise SystemExit

    runs, started = Runs(), []

    async def program():
        async with Flowstream():
            started.extend(runs.start(key, source) for key, source in enumerate([leave, idle]))
            await trio.sleep_forever()

    with pytest.raises(BaseExceptionGroup) as raised:
        await program()
    assert raised.value.split(SystemExit)[1] is None
    assert [run.reason for run in started] == [CloseReason.ERROR, CloseReason.SHUTDOWN]


async def test_a_run_that_is_kept_holds_its_events_and_nothing_else(flow, autojump_clock):
    """The source, and what that holds, is released with the producer's end; then the run is."""

    class Prompt:
        pass

    held = []

    def source():
        prompt = Prompt()
        held.append(weakref.ref(prompt))

        async def answer():
            yield str(type(prompt))

        return answer

    runs = Runs(keep=10)
    for key in range(1000):
        runs.start(key, source())
        if key % 100 == 99:
            await runs[key].wait()
    await trio.sleep(1)
    gc.collect()
    assert len(runs) == 1000
    assert not any(prompt() for prompt in held)
    run = weakref.ref(runs[5])
    await trio.sleep(11)
    gc.collect()
    assert run() is None


async def test_one_error_for_all_who_read_a_failed_run(flow, autojump_clock):
    """Each reader gets it with its own traceback, not with those of all before it."""

    async def fail(out):
        raise PublicError("quota", "Used up.")

    run, depths = Runs().start("chat", fail), []
    for _ in range(3):
        with pytest.raises(PublicError) as raised:
            async with run.subscribe() as events:
                await anext(events)
        depths.append(len(raised.traceback))
    assert depths[0] == depths[1] == depths[2]


@pytest.mark.parametrize("first", [sse, ndjson])
async def test_to_read_in_another_format_costs_nobody_the_beginning(flow, first, autojump_clock):
    """A replay that is full in one format is whole for the next client in any."""
    run = Runs(replay=Replay(bytes=50_000)).start("chat", ["x" * 1000] * 48)
    await run.wait()
    for make in (first, ndjson, sse, ndjson):
        body = (await collect(make(run))).body
        assert body.count(b"x" * 1000) == 48
        assert b"missed" not in body
    assert run.statistics().replay_bytes <= 50_000


async def test_bytes_are_kept_before_anybody_reads_them(flow, autojump_clock):
    """A run of bytes needs no client to say in what format they are; cut if it is stopped."""

    async def produce(out):
        await out.send(b"\xff\xfe")
        await out.send(b"\x00")
        await trio.sleep_forever()

    runs = Runs()
    run = runs.start("file", produce)
    await trio.sleep(1)
    async with open_stream(raw(run)) as client:
        assert await client.read(3) == b"\xff\xfe\x00"
        await run.stop()
        await client.wait_finished()
        assert not client.complete


@pytest.mark.parametrize("policy", [None, Block(timeout=5)])
async def test_half_a_run_never_looks_whole(flow, policy, caplog, autojump_clock):
    """Where a gap can't be told, a client that lacks the beginning is cut off at the end."""
    run = Runs(replay=Replay(items=5)).start("export", [[n] for n in range(8)])
    await run.wait()
    reports = []
    answer = await collect(csv(run, policy=policy, on_close=reports.append))
    assert answer.body == b"3\r\n4\r\n5\r\n6\r\n7\r\n"
    assert not answer.complete
    assert reports[0].reason is CloseReason.ERROR
    assert "the replay has lost events" in caplog.text
    answer = await collect(csv(run, policy=DropOldest()))  # who may lose some has lost some
    assert answer.complete


async def test_a_client_that_takes_nothing_attends_until_it_stalls(flow, autojump_clock):
    """It keeps the run alive for its stall_timeout; then the time of grace begins."""
    run = Runs(grace=5).start("chat", produce_for_ever)
    begun = trio.current_time()
    limits = Limits(stall_timeout=20)
    async with open_stream(sse(run, limits=limits), window=100):
        assert await run.wait() is CloseReason.CLIENT_DISCONNECTED
    assert trio.current_time() - begun == pytest.approx(25, abs=0.2)


async def test_several_runs_on_one_connection_lose_nothing(flow, autojump_clock):
    """A list of runs has their policy: a client that stalls reads all of it later."""

    async def count(out):
        for number in range(300):
            await out.send(number)
            await trio.sleep(0.001)

    runs = Runs()
    both = [runs.start("a", count), runs.start("b", count)]
    for given in (both, [Topic("news", replay=Replay(items=1)), *both]):
        async with open_stream(sse(given, buffer=4), window=100) as client:
            for run in both:
                await run.wait()
            client.resume()
            got = [json.loads((await client.next_event()).data) for _ in range(600)]
    assert sorted(got) == sorted([*range(300), *range(300)])


async def test_one_of_several_runs_fails(flow, autojump_clock):
    """The others go on; what the stream ends with, when all are over, is the failure."""

    async def fail(out):
        await out.send("last words")
        raise PublicError("quota", "Used up.")

    async def go_on(out):
        for number in range(3):
            await trio.sleep(1)
            await out.send(number)

    runs = Runs()
    async with open_stream(sse([runs.start("bad", fail), runs.start("good", go_on)])) as client:
        events = [(event.type, event.data) async for event in client]
    assert [data for _, data in events[:-1]] == ["last words", "0", "1", "2"]
    assert events[-1][0] == "failed"


async def test_a_websocket_is_refused_as_a_request_is(autojump_clock, caplog):
    """A view of a WebSocket that finds no run answers 404, and nothing is logged as an error."""
    app, runs = QuartTrio(__name__), Runs()
    Flowstream(app)

    @app.websocket("/")
    async def read():
        runs["nobody's"]

    async with app.test_app():
        with pytest.raises(BaseExceptionGroup) as raised:
            async with app.test_client().websocket("/") as socket:
                await socket.receive()
    (answer,) = raised.value.exceptions
    assert isinstance(answer, WebsocketResponseError)
    assert answer.response.status_code == 404
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


async def test_a_long_key_is_cut_in_the_log(flow, caplog, autojump_clock):
    """What a client has made a key of doesn't fill the log."""

    async def fail(out):
        raise ValueError

    await Runs().start("k" * 100_000, fail).wait()
    assert "the run 'kkkk" in caplog.messages[0]
    assert len(caplog.messages[0]) < 200


async def test_get_or_start_while_the_app_goes_down(autojump_clock):
    """A run that is kept can be attached to until the very end; a topic is refused as ever."""
    runs, found = Runs(), []

    async def ask_again(out):
        try:
            await trio.sleep_forever()
        finally:
            found.append(runs.get_or_start("over", ["1"]))

    async with Flowstream():
        run = runs.start("over", ["1"])
        await run.wait()
        with pytest.raises(SourceError):
            runs.get_or_start("over", Topic("t"))
        runs.start("asks", ask_again)
        await trio.sleep(1)
    assert found == [run]


@pytest.mark.parametrize("bound", [Replay(items=100), Replay(bytes=5_000)])
async def test_who_is_waited_for_loses_nothing_though_it_came_late(flow, bound, autojump_clock):
    """With Block(timeout) a producer waits for a client that still reads the past, too."""
    sent = []

    async def rows(out):
        for number in range(800):
            await out.send(f"{number} " + "x" * (number % 40))
            sent.append(number)

    run = Runs(replay=bound).start("export", rows)
    while len(sent) < 300:
        await trio.lowlevel.checkpoint()
    got = []
    response = sse(run, policy=Block(timeout=5), buffer=10)
    async with open_stream(response, window=2_000) as client:
        gap = json.loads((await client.next_event()).data)
        async for event in client:
            if event.type == "message":
                got.append(int(event.data.partition(" ")[0]))
                if got[-1] % 20 == 0:
                    await trio.sleep(0.5)
                assert len(sent) < got[-1] + 400
    assert gap["missed"] >= 200
    assert got == list(range(gap["missed"], 800))
    assert event.type == "end"


async def test_who_is_waited_for_holds_nobody_up_once_it_has_read(flow, autojump_clock):
    """The producer goes on as soon as such a client has read on, and not when its time is up."""
    begun = trio.Event()

    async def rows(out):
        for number in range(60):
            await out.send(f"{number} " + "x" * 1000)
        await begun.wait()
        for number in range(60, 400):
            await out.send(f"{number} " + "x" * 1000)

    run = Runs(replay=Replay(items=60)).start("export", rows)
    await trio.sleep(1)
    start = trio.current_time()
    async with open_stream(sse(run, policy=Block(timeout=5), buffer=2), window=300) as client:
        await client.wait_blocked()
        begun.set()
        await trio.testing.wait_all_tasks_blocked()
        assert run.reason is None, "it waits"
        client.resume()
        events = [event async for event in client]
    got = [int(event.data.split()[0]) for event in events if event.type == "message"]
    assert got == list(range(400))
    assert trio.current_time() == start


async def test_who_reads_nothing_is_waited_for_only_so_long(flow, autojump_clock):
    """Two that stall while they read the past are given up at the same time, and it goes on."""
    stalled, refused = trio.Event(), 0

    async def rows(out):
        nonlocal refused
        for _ in range(60):
            await out.send("x" * 1000)
        await stalled.wait()
        for _ in range(30):
            try:
                out.send_nowait("x" * 1000)
            except trio.WouldBlock:
                refused += 1
        for _ in range(100):
            await out.send("x" * 1000)

    run = Runs(replay=Replay(items=60)).start("export", rows)
    await trio.sleep(1)
    responses = [sse(run, policy=Block(timeout=5), buffer=2) for _ in range(2)]
    async with (
        open_stream(responses[0], window=300) as first,
        open_stream(responses[1], window=300) as second,
    ):
        await first.wait_blocked()
        await second.wait_blocked()
        begun = trio.current_time()
        stalled.set()
        assert await run.wait() is CloseReason.COMPLETED
        assert trio.current_time() - begun == pytest.approx(5)
    assert 0 < refused < 30
    for response in responses:
        assert response.statistics().reason is CloseReason.SLOW_CONSUMER
