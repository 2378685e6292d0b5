"""Runs: a producer goes on when its client has gone, and ends when it should."""

import contextvars
import json
import logging

import pytest
import trio
from quart import request
from quart_trio import QuartTrio

from flowstream import (
    Block,
    Buffer,
    CatchUp,
    CloseReason,
    DropOldest,
    Event,
    NoSuchRunError,
    PublicError,
    Replay,
    RunExistsError,
    Runs,
    SourceError,
    TooManyRunsError,
    Topic,
    ndjson,
    resumable,
    sse,
)
from flowstream.quart import Flowstream
from flowstream.testing import collect, open_lifespan, open_stream


class Counter:
    """A producer that counts, and notes how it is treated."""

    def __init__(self, count=10, every=1.0, error=None, cleanup=0.0):
        self.count, self.every, self.error, self.cleanup = count, every, error, cleanup
        self.started = self.ended = self.produced = 0

    async def __call__(self, out):
        self.started += 1
        try:
            for n in range(1, self.count + 1):
                await trio.sleep(self.every)
                await out.send(str(n))
                self.produced = n
            if self.error is not None:
                raise self.error
        finally:
            await trio.sleep(self.cleanup)
            self.ended += 1


def numbers(first, last):
    return [str(n) for n in range(first, last + 1)]


async def read(client, count):
    return [(await client.next_event()).data for _ in range(count)]


async def rest(client):
    """Return the data of what is left, and the name and body of the last event."""
    events = [event async for event in client]
    return [event.data for event in events[:-1]], (events[-1].type, json.loads(events[-1].data))


async def test_a_run_outlives_its_client(flow, autojump_clock):
    """Who leaves and comes back with an id goes on there; who comes new gets all."""
    runs, work = Runs(grace=30), Counter(10)
    run = runs.start("chat", work)
    async with open_stream(sse(run)) as client:
        assert await read(client, 2) == ["1", "2"]
        event = await client.next_event()
    await trio.sleep(3.5)
    assert (work.produced, run.attached) == (6, 0)
    async with open_stream(sse(runs["chat"]), headers={"last-event-id": event.id}) as client:
        assert await rest(client) == (numbers(4, 10), ("end", {"reason": "completed"}))
    async with open_stream(sse(runs["chat"])) as client:
        assert await rest(client) == (numbers(1, 10), ("end", {"reason": "completed"}))
    assert (work.started, work.ended, run.reason) == (1, 1, CloseReason.COMPLETED)


async def test_any_number_of_clients_attach(flow, autojump_clock):
    """Each gets everything from the beginning, whenever it comes, at the pace of the producer."""
    runs = Runs()
    runs.start("chat", Counter(6))
    got = {}

    async def attend(delay):
        await trio.sleep(delay)
        async with open_stream(sse(runs["chat"])) as client:
            got[delay] = await rest(client)

    async with trio.open_nursery() as nursery:
        for delay in (0, 0.5, 3.5, 5.5, 20):
            nursery.start_soon(attend, delay)
    assert set(map(str, got.values())) == {str((numbers(1, 6), ("end", {"reason": "completed"})))}
    assert runs["chat"].statistics().published == 6


async def test_an_unattended_run_is_given_up(flow, caplog, autojump_clock):
    """Nobody there for `grace` seconds cancels the producer, and the run is as if it never was."""
    runs, work = Runs(grace=5), Counter(100)
    run = runs.start("chat", work)
    async with open_stream(sse(run)) as client:
        await read(client, 3)
    await trio.sleep(4.9)
    assert work.ended == 0
    await trio.sleep(0.2)
    assert (work.ended, run.reason) == (1, CloseReason.CLIENT_DISCONNECTED)
    assert "chat" not in runs
    assert runs.statistics().ended == {"client_disconnected": 1}
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


async def test_a_run_that_nobody_ever_reads_is_given_up(flow, autojump_clock):
    """The time runs from the start, too; None is for ever."""
    for grace, ended in ((5, 1), (None, 0)):
        work = Counter(100)
        Runs(grace=grace).start("chat", work)
        await trio.sleep(20)
        assert work.ended == ended


async def test_who_comes_back_in_time_keeps_a_run_alive(flow, autojump_clock):
    """Reload after reload, each within the time: the run goes on to its end."""
    runs, work = Runs(grace=2), Counter(20)
    runs.start("chat", work)
    while work.ended == 0:
        async with open_stream(sse(runs["chat"])) as client:
            await read(client, 1)
        await trio.sleep(1.9)
    assert runs["chat"].reason is CloseReason.COMPLETED


async def test_a_stop_is_not_a_disconnect(flow, autojump_clock):
    """stop() ends it for all, says so, and returns when the producer has cleaned up."""
    runs, work = Runs(), Counter(100, cleanup=2.0)
    run = runs.start("chat", work)
    async with open_stream(sse(run)) as client:
        await read(client, 2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runs.stop, "chat")
            left, last = await rest(client)
        assert (left, last) == ([], ("end", {"reason": "stopped"}))
        assert client.complete
    assert (work.ended, run.reason) == (1, CloseReason.STOPPED)
    async with open_stream(sse(runs["chat"])) as client:  # a reload shows what there was
        assert await rest(client) == (["1", "2"], ("end", {"reason": "stopped"}))
    await runs.stop("chat")  # again is nothing


async def test_the_last_event_of_a_run_stops_an_eventsource(flow, autojump_clock):
    """The id of its end gets a 204, and so does that of a failure."""
    runs = Runs()
    runs.start("good", Counter(1))
    runs.start("bad", Counter(1, error=ValueError()))
    for key in ("good", "bad"):
        async with open_stream(sse(runs[key])) as client:
            last = [event async for event in client][-1]
        answer = await collect(sse(runs[key]), headers={"last-event-id": last.id})
        assert answer.status == 204


async def test_results_stay_for_a_while(flow, autojump_clock):
    """A run that is over can be attached to for `keep` seconds, then its key is unknown."""
    runs = Runs(keep=10)
    runs.start("chat", Counter(2))
    await trio.sleep(11.9)
    assert "chat" in runs
    await trio.sleep(0.2)
    assert "chat" not in runs
    with pytest.raises(KeyError):
        runs["chat"]
    with pytest.raises(NoSuchRunError, match=r"^no_such_run: There is no such run\.$"):
        await runs.stop("chat")
    assert runs.get("chat") is None


async def test_no_more_results_are_kept_than_may_be(flow, autojump_clock):
    """Of those that are over the first goes when there is one too many."""
    runs = Runs(max_kept=2, keep=1000)
    for n in range(4):
        runs.start(n, Counter(1, every=n + 1))
    await trio.sleep(10)
    assert list(runs) == [2, 3]
    assert (len(runs), runs.statistics().kept) == (2, 2)


async def test_a_failure_is_the_runs_own(flow, caplog, autojump_clock):
    """Its clients get what there is and a public message, the log one traceback, others nothing."""
    runs, other = Runs(), Counter(10)
    runs.start("other", other)
    runs.start("bad", Counter(3, error=ValueError("secret")))
    runs.start("told", Counter(3, error=PublicError("quota", "Used up.", retryable=True)))
    for key, body in (
        ("bad", {"code": "internal", "message": "the stream failed"}),
        ("told", {"code": "quota", "message": "Used up."}),
    ):
        for _ in range(3):
            async with open_stream(sse(runs[key])) as client:
                assert await rest(client) == (numbers(1, 3), ("failed", body))
                assert client.complete
        assert runs[key].reason is CloseReason.ERROR
    failures = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert sorted(record.message for record in failures) == [
        "the run 'bad' failed",
        "the run 'told' failed",
    ]
    assert "secret" in caplog.text
    await runs["other"].wait()
    assert other.produced == 10


async def test_a_failure_in_a_nursery_is_public_all_the_same(flow, autojump_clock):
    """A PublicError in a group reaches the clients with its code."""

    async def produce(out):
        async with trio.open_nursery():
            await out.send("1")
            raise PublicError("quota", "Used up.")

    run = Runs().start("chat", produce)
    async with open_stream(sse(run)) as client:
        assert await rest(client) == (["1"], ("failed", {"code": "quota", "message": "Used up."}))


@pytest.mark.parametrize("replay", [Replay(items=4), Replay(bytes=112), Replay(seconds=3.9)])
async def test_what_the_replay_has_lost_is_a_gap(flow, replay, autojump_clock):
    """A late client is told how much of the beginning is gone, and gets the rest."""
    runs = Runs(replay=replay)
    runs.start("chat", Counter(10))
    await trio.sleep(8.5)
    async with open_stream(sse(runs["chat"])) as client:
        gap = await client.next_event()
        left, last = await rest(client)
    missed = json.loads(gap.data)["missed"]
    assert gap.type == "gap"
    assert missed == 4
    assert (left, last) == (numbers(5, 10), ("end", {"reason": "completed"}))


async def test_a_client_with_a_strangers_id_gets_a_gap_and_everything(flow, autojump_clock):
    """What it saw was not of this run: it is told, and nothing of this one is held back."""
    run = Runs().start("chat", Counter(3))
    await trio.sleep(2.5)
    for id in ("0123abcd.2", "1lgppmf8l75.a2", "nonsense", f"{run.epoch}.b77"):
        async with open_stream(sse(run), headers={"last-event-id": id}) as client:
            gap = await client.next_event()
            assert json.loads(gap.data) == {"missed": None, "after": None, "before": None}
            assert await read(client, 2) == ["1", "2"]


async def test_a_slow_client_loses_nothing_that_is_kept(flow, autojump_clock):
    """A client that stalls behind a small buffer reads it all later, and holds up nobody."""
    runs, work = Runs(), Counter(500, every=0.001)
    run = runs.start("chat", work)
    response = sse(run, buffer=Buffer(items=4, bytes=200))
    async with open_stream(response, window=100) as client:
        await run.wait()
        assert response.statistics().buffer.items <= 4
        client.resume()
        assert await rest(client) == (numbers(1, 500), ("end", {"reason": "completed"}))
    assert response.statistics().dropped == 0


async def test_a_client_may_choose_another_policy(flow, autojump_clock):
    """With DropOldest a slow client has a gap; with Block(timeout) the producer waits for it."""
    runs = Runs()
    run = runs.start("drops", Counter(500, every=0.001))
    async with open_stream(sse(run, buffer=4, policy=DropOldest()), window=100) as client:
        await run.wait()
        client.resume()
        left, _ = await rest(client)
        assert len(left) < 500
        assert any("missed" in data for data in left)
    work = Counter(500, every=0.001)
    run = runs.start("waits", work)
    async with open_stream(sse(run, buffer=4, policy=Block(timeout=60)), window=2000) as client:
        await trio.sleep(30)
        assert work.produced < 200
        client.resume()
        assert (await rest(client))[0] == numbers(1, 500)


async def test_a_run_inside_the_program(flow, autojump_clock):
    """subscribe() gives everything from the beginning, then ends, or raises what was the end."""
    runs = Runs()
    async with runs.start("chat", Counter(3)).subscribe() as events:
        assert [event.data async for event in events] == numbers(1, 3)
    async with runs["chat"].subscribe(where=lambda event: event.data != "2") as events:
        assert [event.data async for event in events] == ["1", "3"]
    run = runs.start("bad", Counter(1, error=PublicError("quota", "Used up.")))
    async with run.subscribe() as events:
        assert (await anext(events)).data == "1"
        with pytest.raises(PublicError, match="quota"):
            await anext(events)
    assert await run.wait() is CloseReason.ERROR


async def test_one_key_is_one_run(flow, autojump_clock):
    """start() refuses a key that goes on, get_or_start() attaches, and one that is over is free."""
    runs, first, second = Runs(), Counter(3), Counter(3)
    run = runs.start("chat", first)
    with pytest.raises(RunExistsError):
        runs.start("chat", second)
    assert runs.get_or_start("chat", second) is run
    await run.wait()
    assert runs.get_or_start("chat", second) is run
    again = runs.start("chat", second)
    assert again is runs["chat"]
    assert again.epoch != run.epoch
    await trio.sleep(100)
    assert (first.started, second.started) == (1, 1)


async def test_a_source_that_is_not_needed_is_released(flow, autojump_clock):
    """get_or_start() closes the generator that it has no use for."""
    closed = trio.Event()

    class Rows:
        def __aiter__(self):
            raise AssertionError("not to be read")

        async def aclose(self):
            closed.set()

    runs = Runs()
    runs.start("chat", Counter(3))
    runs.get_or_start("chat", Rows())
    with trio.fail_after(5):
        await closed.wait()


async def test_no_more_run_than_may(flow, autojump_clock):
    """Beyond max_running is a 503 to come back after; one that has ended makes room."""
    runs = Runs(max_running=2)
    runs.start(1, Counter(1))
    runs.start(2, Counter(5))
    with pytest.raises(TooManyRunsError) as caught:
        runs.start(3, Counter(1))
    assert (caught.value.status, caught.value.retryable) == (503, True)
    assert 3 not in runs
    await runs[1].wait()
    runs.start(3, Counter(1))


async def test_a_run_is_stopped_before_it_has_begun(flow, autojump_clock):
    """A stop in the same tick as the start still runs the producer's cleanup, and ends."""
    runs, work = Runs(), Counter(5)
    run = runs.start("chat", work)
    await run.stop()
    assert (work.started, work.ended, work.produced) == (1, 1, 0)
    async with open_stream(sse(run)) as client:
        assert await rest(client) == ([], ("end", {"reason": "stopped"}))


async def test_cleanup_has_its_time_and_no_more(flow, caplog, autojump_clock):
    """A producer whose cleanup hangs is cancelled again after cleanup_timeout, with a warning."""
    runs = Runs(cleanup_timeout=2)

    async def hang(out):
        try:
            await trio.sleep_forever()
        finally:
            await trio.sleep_forever()

    runs.start("chat", hang)
    await trio.sleep(1)
    start = trio.current_time()
    await runs.stop("chat")
    assert trio.current_time() - start == pytest.approx(2)
    assert "its cleanup took longer" in caplog.text


async def test_a_producer_can_send_nothing_after_the_stop(flow, autojump_clock):
    """What it sends while it cleans up is refused, and that is no failure."""
    refused = []

    async def produce(out):
        await out.send("1")
        try:
            await trio.sleep_forever()
        finally:
            for send in (out.send, out.send_nowait):
                try:
                    result = send("2")
                    if result is not None:
                        await result
                except trio.BrokenResourceError:
                    refused.append(send)

    run = Runs().start("chat", produce)
    await trio.sleep(1)
    await run.stop()
    assert len(refused) == 2
    async with open_stream(sse(run)) as client:
        assert (await rest(client))[0] == ["1"]


async def test_the_end_of_the_program_ends_runs(autojump_clock):
    """Leaving `async with Flowstream()` stops them, waits for them, and sends clients away."""
    runs, work, lasts = Runs(), Counter(100, cleanup=1), []

    async def attend(run):
        async with open_stream(sse(run)) as client:
            lasts.append((await rest(client))[1])

    async with trio.open_nursery() as nursery:
        async with Flowstream():
            nursery.start_soon(attend, runs.start("chat", work))
            await trio.sleep(2.5)
        assert work.ended == 1
    assert lasts == [("reconnect", {"reason": "shutdown"})]
    with pytest.raises(RuntimeError, match=r"Flowstream\(app\)"):
        runs.start("chat", work)
    assert "chat" not in runs


async def test_a_cancelled_program_still_cleans_up(autojump_clock):
    """If what is around is cancelled, producers are cancelled once and clean up all the same."""
    work = Counter(100, cleanup=1)
    with trio.move_on_after(3.5):
        async with Flowstream():
            Runs().start("chat", work)
            await trio.sleep_forever()
    assert (work.produced, work.ended) == (3, 1)


async def test_one_flowstream_is_open_once(autojump_clock):
    """Opening it a second time is refused; after its end it can be opened again."""
    flow = Flowstream()
    async with flow:
        with pytest.raises(RuntimeError, match="open already"):
            await flow.__aenter__()
    async with flow:
        Runs().start("chat", Counter(1))


async def test_in_quart(caplog, autojump_clock):
    """Start, attach, reload, stop and a 404, through the views of an app and its lifespan."""
    app = QuartTrio(__name__)
    Flowstream(app)
    runs, work = Runs(), Counter(100)

    @app.post("/chat/<key>")
    async def start(key):
        runs.start(key, work)
        return "", 202

    @app.get("/chat/<key>")
    async def attach(key):
        return sse(runs[key])

    @app.delete("/chat/<key>")
    async def stop(key):
        await runs.stop(key)
        return "", 204

    async with open_lifespan(app):
        assert (await collect(app, "/chat/a")).status == 404
        assert (await collect(app, "/chat/a", method="DELETE")).status == 404
        assert (await collect(app, "/chat/a", method="POST")).status == 202
        assert (await collect(app, "/chat/a", method="POST")).status == 409
        for _ in range(3):
            async with open_stream(app, "/chat/a") as client:
                assert await read(client, 2) == ["1", "2"]
        async with open_stream(app, "/chat/a") as client:
            assert (await collect(app, "/chat/a", method="DELETE")).status == 204
            assert (await rest(client))[1] == ("end", {"reason": "stopped"})
        runs.start("b", work)
        await trio.sleep(1)
    assert (work.started, work.ended) == (2, 2)
    assert runs.statistics().ended == {"stopped": 1, "shutdown": 1}
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


async def test_a_run_has_the_context_of_who_started_it(flow, autojump_clock):
    """Context variables, and in Quart the request, are there when the request is over."""
    app = QuartTrio(__name__)
    Flowstream(app)
    runs, user, seen = Runs(), contextvars.ContextVar("user"), []

    @app.get("/")
    async def view():
        user.set(request.args["user"])

        async def produce(out):
            await trio.sleep(5)
            seen.append((user.get(), request.path))

        return runs.start("chat", produce).epoch

    async with open_lifespan(app):
        await collect(app, "/?user=ann")
        await runs["chat"].wait()
    assert seen == [("ann", "/")]


async def test_runs_and_topics_on_one_connection(flow, autojump_clock):
    """A list of a run and a topic is one stream, which one id resumes."""
    run, topic = Runs().start("chat", Counter(4)), Topic("news")
    await trio.sleep(1.5)
    async with open_stream(sse([run, topic])) as client:
        assert await read(client, 1) == ["1"]
        await topic.publish("news")
        event = await client.next_event()
        assert event.data == "news"
    await trio.sleep(1)
    await topic.publish("more")
    async with open_stream(sse([topic, run]), headers={"last-event-id": event.id}) as client:
        assert sorted(await read(client, 3)) == ["2", "3", "more"]


async def test_an_events_envelope_is_kept(flow, autojump_clock):
    """Type, key, retry and an id of the app's own go to all; the app's event stays as it was."""
    given = Event({"n": 1}, id="own", type="tick", key="k", retry=5)
    own = Event("x")
    run = Runs().start("chat", [given, own])
    await run.wait()
    for after, count in ((None, 2), ("own", 1)):
        headers = {} if after is None else {"last-event-id": after}
        body = (await collect(sse(run), headers=headers)).body.decode()
        assert body.count("data: x") == 1
        assert body.count('event: tick\nid: own\nretry: 5\ndata: {"n":1}') == count - 1
    assert own.id is None


async def test_a_run_that_reads_a_topic(flow, autojump_clock):
    """The topic's events get ids of the run, by which its clients come back."""
    topic = Topic("news")
    run = Runs().start("chat", topic.subscribe())
    await trio.sleep(1)
    for number in range(3):
        await topic.publish(str(number))
    await topic.aclose()
    assert await run.wait() is CloseReason.COMPLETED
    async with open_stream(sse(run), headers={"last-event-id": f"{run.epoch}.a1"}) as client:
        assert await read(client, 2) == ["1", "2"]


async def test_ndjson_clients_attach_too(flow, autojump_clock):
    """Other formats read the same run; events bear ids, so that they can be resumed."""
    run = Runs().start("chat", Counter(2))
    answer = await collect(ndjson(run))
    lines = [json.loads(line) for line in answer.body.splitlines() if line]
    assert [line["data"] for line in lines] == ["1", "2", {"reason": "completed"}]
    assert [line["id"] for line in lines[:2]] == [f"{run.epoch}.a1", f"{run.epoch}.a2"]


async def test_any_source_can_be_run(flow, autojump_clock):
    """Generators, sync iterables, channels and resumables outlive their clients alike."""
    send, receive = trio.open_memory_channel(5)
    for item in "ab":
        send.send_nowait(item)
    send.close()

    async def generator():
        yield "a"
        yield "b"

    runs = Runs(grace=None)  # a thread's time is real, and virtual time flies meanwhile
    for source in (
        generator,
        generator(),
        ["a", "b"],
        iter("ab"),
        receive,
        resumable(lambda _: ["ab"]),
    ):
        run = runs.start(object(), source)
        await run.wait()
        async with open_stream(sse(run)) as client:
            assert "".join((await rest(client))[0]) == "ab"


async def test_an_item_that_cannot_be_encoded_ends_the_run(flow, caplog, autojump_clock):
    """It fails as a stream would, with the code for it; what came before is there."""
    run = Runs().start("chat", ["1", object(), "3"])
    async with open_stream(sse(run)) as client:
        left, (name, body) = await rest(client)
    assert (left, name, body["code"]) == (["1"], "failed", "encoding")
    assert "'object' cannot be encoded" in caplog.text or "object" in caplog.text


async def test_statistics(flow, autojump_clock):
    """Counts of a run and of all of them are those of what happened."""
    runs = Runs(max_running=7)
    run = runs.start("chat", Counter(4))
    async with open_stream(sse(run)) as client:
        await read(client, 2)
        seen = run.statistics()
        assert (seen.key, seen.reason, seen.attached, seen.published) == ("chat", None, 1, 2)
        assert (seen.replay_items, seen.unattended) == (2, 0)
        assert seen.replay_bytes > 0
        assert runs.statistics().attached == 1
    await trio.sleep(1.5)
    assert run.statistics().unattended == pytest.approx(1.5)
    assert run.statistics().age == pytest.approx(3.5)
    await run.wait()
    seen = runs.statistics()
    assert (seen.running, seen.limit, seen.kept, seen.attached) == (0, 7, 1, 0)
    assert (seen.started, seen.ended) == (1, {"completed": 1})


async def test_a_producer_sees_how_full_the_replay_is(flow, autojump_clock):
    """statistics() of a run's outlet are of what it keeps."""
    seen = []

    async def produce(out):
        for n in range(5):
            await out.send(n)
        seen.append(out.statistics())

    await Runs(replay=Replay(items=3)).start("chat", produce).wait()
    assert (seen[0].offered, seen[0].items, seen[0].max_items, seen[0].dropped) == (5, 3, 3, 2)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"grace": 0}, ValueError),
        ({"grace": "30"}, TypeError),
        ({"replay": 100}, TypeError),
        ({"max_running": 0}, ValueError),
        ({"keep": 0}, ValueError),
        ({"max_kept": 0.5}, TypeError),
        ({"cleanup_timeout": -1}, ValueError),
    ],
)
async def test_settings_that_make_no_sense_are_refused(options, error, autojump_clock):
    """Each argument is checked where it is given."""
    with pytest.raises(error, match=next(iter(options))):
        Runs(**options)


async def test_what_cannot_be_run_is_refused(flow, autojump_clock):
    """A topic, a str and a key that can't be hashed are refused, and nothing is started."""
    runs = Runs()
    for source in (Topic("t"), "text"):
        with pytest.raises(SourceError):
            runs.start("chat", source)
    with pytest.raises(TypeError):
        runs.start([], Counter())
    with pytest.raises(TypeError, match="CatchUp"):
        sse(["a"], policy=CatchUp())
    assert (len(runs), runs.statistics().started) == (0, 0)


async def test_a_run_started_where_nothing_can_run_it_is_refused(autojump_clock):
    """Without a Flowstream start() says what is missing, and takes no place."""
    runs = Runs(max_running=1)
    with pytest.raises(RuntimeError, match="async with Flowstream"):
        runs.start("chat", Counter())
    async with Flowstream():
        runs.start("chat", Counter())
