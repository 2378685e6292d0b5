"""The ledger of runs: two hundred at once, clients that reload at random, stops and crashes.

A run's events are numbers from 1 on, so a client can check by itself that what it gets, and
what it is told that it missed, is all that was published, in order and once. The producers
note when they end, so that none is left when it should be gone.
"""

import json
import math
from random import Random

import pytest
import trio

from flowstream import (
    Block,
    Buffer,
    CloseReason,
    Conflate,
    DropOldest,
    Event,
    Limits,
    Replay,
    RunExistsError,
    Runs,
    Sample,
    ndjson,
    sse,
)
from flowstream.ids._event_id import event_id, parse_event_id
from flowstream.quart import Flowstream
from flowstream.testing import EndOfBody, open_stream

pytestmark = pytest.mark.chaos

GRACE = 5.0
KEEP = 20.0
RUNS = 200


class CrashError(Exception):
    pass


class Work:
    """One run's producer: what it publishes, and when it began and ended."""

    def __init__(self, key, random):
        self.key, self.random = key, random
        self.count = random.choice([0, 1, 5, 40, 300])
        self.pause = random.choice([0.0, 0.01, 0.3, 1.0])
        self.fate = random.choice(["completes", "completes", "crashes", "hangs"])
        self.cleanup = random.choice([0.0, 0.5])
        self.published = self.began = self.ended = 0
        self.cancelled_at = None

    async def __call__(self, out):
        self.began += 1
        try:
            for number in range(1, self.count + 1):
                if self.pause and number % 7:
                    await trio.sleep(self.random.random() * 2 * self.pause)
                text = f"{number} " + "x" * self.random.choice([0, 10, 300])
                item = text if number % 3 else Event(text, key=number % 5)
                wait = out._put(item)
                self.published = number
                if wait is not None:
                    await wait
            if self.fate == "crashes":
                raise CrashError
            if self.fate == "hangs":
                await trio.sleep_forever()
        except trio.Cancelled:
            self.cancelled_at = trio.current_time()
            raise
        finally:
            try:
                await trio.sleep(self.cleanup)  # which a stop may cut short
            finally:
                self.ended += 1


class Reader:
    """One client of one run, over all its connections; it checks what it gets."""

    def __init__(self, world, run, work, random):
        self.world, self.run, self.work, self.random = world, run, work, random
        self.last_id = None
        self.at = 0  # the last number that it has, or was told that it missed
        self.connections = 0
        self.over = None  # the name of the last event, once there was one

    async def attend(self):
        """Connect, read, leave and come back, until the run is over or this reader has gone."""
        patience = self.random.choice([1, 3, 30])
        while self.over is None and self.connections < patience:
            if self.random.random() < 0.3:
                self.last_id = None  # a reload: the page begins anew
            await self.connect()
            await trio.sleep(self.random.choice([0.0, 0.1, GRACE / 2]))

    async def connect(self):
        self.connections += 1
        self.at = 0 if self.last_id is None else parse_event_id(self.last_id)[1]
        make = self.random.choice([sse, sse, ndjson])
        policy = self.random.choice(
            [None, None, None, DropOldest(), Sample(every=3), Block(timeout=1.0), Conflate()]
        )
        self.keyed = isinstance(policy, Conflate)
        self.due = 0  # with Conflate: what was announced or superseded is only counted
        response = make(
            self.run,
            policy=policy,
            buffer=self.random.choice([256, Buffer(items=3, bytes=500)]),
            heartbeat=self.random.choice([None, 3.0]),
            limits=Limits(stall_timeout=1000),
        )
        headers = {} if self.last_id is None else {"last-event-id": self.last_id}
        window = self.random.choice([None, None, 200, 2000])
        to_the_end = math.inf if self.work.fate != "hangs" else 20.0
        leave = self.random.choice([0.0, 0.2, 2.0, to_the_end, to_the_end])
        with trio.move_on_after(leave):
            async with open_stream(response, headers=headers, window=window) as client:
                if window is not None:
                    await trio.sleep(self.random.choice([0.0, 0.5, 3.0]))
                    client.resume()
                await (self.read_sse(client) if make is sse else self.read_ndjson(client))
        if policy is None:
            assert response.statistics().reason is not CloseReason.SLOW_CONSUMER

    async def read_sse(self, client):
        async for event in client:
            if event.type in ("gap", "end", "failed", "reconnect"):
                self.control(event.type, json.loads(event.data))
            else:
                self.event(event.data, event.id)
        assert self.over is not None or client.finished

    async def read_ndjson(self, client):
        try:
            while True:
                value = await client.next_value()
                if isinstance(value, str):  # Conflate sends an id only where it is true
                    self.event(value, None)
                elif value.get("type") in ("gap", "end", "failed", "reconnect"):
                    self.control(value["type"], value["data"])
                else:
                    self.event(value["data"], value.get("id"))
        except EndOfBody:
            pass

    def event(self, text, id):
        number = int(text.partition(" ")[0])
        if self.keyed:
            self.due += 1
            self.last_id = id if id is not None else self.last_id
        else:
            assert id == event_id(self.run.epoch, number)
            assert number == self.at + 1, f"{number} where {self.at + 1} was due"
            self.at = number
            self.last_id = id
        self.world.delivered += 1

    def control(self, name, body):
        if name == "gap":
            assert body["missed"] > 0
            self.at += body["missed"]
            self.world.missed += body["missed"]
            return
        self.over = name
        if not self.keyed:
            assert self.at == self.work.published, f"{self.at} of {self.work.published} accounted"
        expected = {
            CloseReason.COMPLETED: "end",
            CloseReason.STOPPED: "end",
            CloseReason.ERROR: "failed",
            CloseReason.SHUTDOWN: "reconnect",
            CloseReason.CLIENT_DISCONNECTED: "failed",  # it was given up before this one came
        }[self.run.reason]
        assert name == expected


class World:
    def __init__(self, seed):
        self.random = Random(seed)
        self.runs = Runs(
            grace=GRACE,
            keep=KEEP,
            replay=self.random.choice([Replay(items=10_000), Replay(items=20), Replay(bytes=3000)]),
            max_running=RUNS,
            max_kept=RUNS,
        )
        self.works = []
        self.delivered = self.missed = 0

    async def live(self, nursery):
        for number in range(RUNS):
            work = Work(number, Random(self.random.random()))
            self.works.append(work)
            run = self.runs.start(number, work)
            with pytest.raises(RunExistsError):
                self.runs.start(number, work)
            for _ in range(self.random.choice([0, 1, 1, 2, 4])):
                reader = Reader(self, run, work, Random(self.random.random()))
                nursery.start_soon(reader.attend)
            if self.random.random() < 0.2:
                nursery.start_soon(self.stop_later, run)
            nursery.start_soon(self.watch, run, work)
            if self.random.random() < 0.1:
                await trio.sleep(0.1)
        assert self.runs.statistics().running <= RUNS

    async def stop_later(self, run):
        await trio.sleep(self.random.random() * 10)
        await run.stop()

    async def watch(self, run, work):
        """Look that the run does not go on while nobody attends it."""
        while run.reason is None:
            assert run.statistics().unattended <= GRACE + 0.5, "a producer was left"
            await trio.sleep(0.5)
        await run.wait()
        assert (work.began, work.ended) == (1, 1)
        fates = {
            CloseReason.COMPLETED: work.fate == "completes",
            CloseReason.ERROR: work.fate == "crashes",
            CloseReason.STOPPED: True,
            CloseReason.CLIENT_DISCONNECTED: True,
        }
        assert fates[run.reason], f"{work.fate} ended with {run.reason}"


@pytest.mark.parametrize("seed", range(2))
async def test_two_hundred_runs_keep_their_books(seed, autojump_clock, caplog):
    """Each client's events and gaps are all that was published; no producer outlives its time."""
    caplog.set_level("CRITICAL", "flowstream")  # a crash is the point of it
    world = World(seed)
    async with Flowstream():
        async with trio.open_nursery() as nursery:
            await world.live(nursery)
        assert world.runs.statistics().running == 0
        assert all(work.began == work.ended == 1 for work in world.works)
        assert sum(world.runs.statistics().ended.values()) == RUNS
        await trio.sleep(KEEP + 1)
        assert len(world.runs) == 0
        assert world.runs.statistics().kept == 0
    assert world.delivered > 5_000
    reasons = set(world.runs.statistics().ended)
    assert reasons == {"completed", "error", "stopped", "client_disconnected"}
