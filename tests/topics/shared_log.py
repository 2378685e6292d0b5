"""A log that several workers share, and everything that can go wrong between them and it.

`Broker` is the log itself: a `MemoryLog` in the test's own process. Each worker has a `View` of it,
an `abc.Log` of its own, with a `Weather` of its own: how long calls take, what becomes of hints,
which calls fail. So a test on Trio's virtual clock can have any number of workers, each with its
own `Engine` and its own `Topic` of one name::

    async with open_workers(2) as (broker, one, other):
        async with other.topic.subscribe() as events:
            one.view.weather = Weather(lost=1)
            await one.topic.publish("hello")
"""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random

import trio

from flowstream import Event, Replay, Topic
from flowstream._errors import LogFullError, LogUnavailableError
from flowstream.abc import Log
from flowstream.ids._event_id import new_epoch
from flowstream.logs import MemoryLog
from flowstream.logs._epochs import begin_epoch
from flowstream.topics._engine import Engine


@dataclass(frozen=True)
class Weather:
    """What one worker has to put up with; the chances are from 0 to 1."""

    latency: float = 0.0
    """The most seconds that a call takes to get there, and again as many for its answer."""
    lost: float = 0.0
    """The chance that a hint never comes."""
    doubled: float = 0.0
    """The chance that a hint comes twice."""
    late: float = 0.0
    """The most seconds that a hint takes. So a later one may come first."""
    away: frozenset[str] = frozenset()
    """The calls that fail before they have done anything."""
    unsure: float = 0.0
    """The chance that an append is committed, and its caller not told."""
    full: bool = False
    """Whether appends find no room."""
    frozen: bool = False
    """Whether nothing gets there or back, until it is over."""


FINE = Weather()
ALL_CALLS = frozenset({"append", "read", "heads", "watch", "unwatch", "latest"})


class Broker:
    """The log that all workers share.

    Attributes:
        memory: where everything is.
        views: the workers' views of it.
        rolls_back: whether it may use a number for two events: then it keeps no contract.
    """

    def __init__(self, seed: int = 0) -> None:
        self.memory = MemoryLog()
        self.views: list[View] = []
        self.random = Random(seed)
        self.rolls_back = False
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status=trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(self.memory.run, self._hint, self._stale)
            task_status.started()

    def view(self) -> View:
        view = View(self)
        self.views.append(view)
        return view

    def _hint(self, topic, before, records) -> None:
        for view in self.views:
            view.post(topic, before, records)

    def _stale(self, topic) -> None:
        for view in self.views:
            view.tell_stale(topic)

    def tell_stale(self) -> None:
        """Tell all workers that hints may have been lost, as after a reconnect."""
        self._stale(None)

    # -- what happens to it ----------------------------------------------------------------

    def photograph(self):
        """Return all that it has, for `restore`."""
        return copy.deepcopy(self.memory._topics)

    def restore(self, picture) -> None:
        """Go back to a picture: what was appended since is lost, and a new epoch begins."""
        self.memory._topics = copy.deepcopy(picture)
        self.memory._epoch = new_epoch(self.memory._epoch)
        for topic in self.memory._topics.values():
            if not self.rolls_back:
                topic.epochs = begin_epoch(topic.epochs, topic.number)

    def replace(self) -> None:
        """Be another log, which knows nothing."""
        self.memory._topics.clear()
        self.memory._epoch = new_epoch(self.memory._epoch)

    async def trim(self, topic: str, items: int) -> None:
        """Keep only the newest events."""
        await self.memory.trim(topic, Replay(items=items))

    async def delete(self, topic: str) -> None:
        await self.memory.delete(topic)

    def number(self, topic: str) -> int:
        """Return the number of a topic's newest event."""
        found = self.memory._topics.get(topic)
        return 0 if found is None else found.number


class View(Log):
    """The log, as one worker reaches it.

    Attributes:
        weather: what it has to put up with now.
        calls: the names of the calls that have got there.
    """

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self._weather = FINE
        self._changed = trio.Event()
        self.calls: list[str] = []
        self._watched: set[str] = set()
        self._hear = None
        self._hear_stale = None
        self._nursery: trio.Nursery | None = None

    async def run(self, hint, stale, *, task_status=trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery, self._hear, self._hear_stale = nursery, hint, stale
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = self._hear = self._hear_stale = None

    @property
    def weather(self) -> Weather:
        return self._weather

    @weather.setter
    def weather(self, weather: Weather) -> None:
        self._weather = weather
        self._changed.set()
        self._changed = trio.Event()

    # -- hints -----------------------------------------------------------------------------

    def post(self, topic, before, records) -> None:
        """A hint is on its way."""
        weather, random = self.weather, self.broker.random
        if topic not in self._watched or self._nursery is None:
            return
        for _ in range(1 + (random.random() < weather.doubled)):
            if random.random() >= weather.lost:
                if weather.late or weather.frozen:
                    self._nursery.start_soon(self._post_late, topic, before, records)
                else:
                    self._hear(topic, before, records)

    async def _post_late(self, topic, before, records) -> None:
        await self._travel(self.weather.late)
        if topic in self._watched:
            self._hear(topic, before, records)

    def tell_stale(self, topic=None) -> None:
        if self._hear_stale is not None:
            self._hear_stale(topic)

    # -- calls -----------------------------------------------------------------------------

    async def _travel(self, most: float) -> None:
        if most:
            await trio.sleep(self.broker.random.uniform(0, most))
        while self.weather.frozen:
            await self._changed.wait()

    async def _call(self, name: str, do: Callable[[], Awaitable]):
        await self._travel(self.weather.latency)
        if name in self.weather.away:
            await trio.lowlevel.checkpoint()
            raise LogUnavailableError(f"{name}: nobody there")
        self.calls.append(name)
        result = await do()
        await self._travel(self.weather.latency)
        return result

    async def append(self, topic, entries, *, keep, token, fence=None):
        async def do():
            if self.weather.full:
                await trio.lowlevel.checkpoint()
                raise LogFullError("there is no room")
            done = await self.broker.memory.append(
                topic, entries, keep=keep, token=token, fence=fence
            )
            if self.broker.random.random() < self.weather.unsure:
                raise LogUnavailableError("the connection broke", maybe=True)
            return done

        return await self._call("append", do)

    async def read(self, topic, after, limit, *, mine=False):
        mine = mine and not self.broker.rolls_back
        memory = self.broker.memory
        return await self._call("read", lambda: memory.read(topic, after, limit, mine=mine))

    async def heads(self, topics):
        return await self._call("heads", lambda: self.broker.memory.heads(topics))

    async def watch(self, topics):
        async def do():
            self._watched.update(topics)
            await self.broker.memory.watch(topics)

        await self._call("watch", do)

    async def unwatch(self, topics):
        async def do():
            self._watched.difference_update(topics)
            await trio.lowlevel.checkpoint()

        await self._call("unwatch", do)

    async def latest(self, topic, cursor=None):
        return await self._call("latest", lambda: self.broker.memory.latest(topic, cursor))

    async def topics(self, prefix="", cursor=None):
        return await self._call("topics", lambda: self.broker.memory.topics(prefix, cursor))

    async def trim(self, topic, keep=None):
        return await self._call("trim", lambda: self.broker.memory.trim(topic, keep))

    async def delete(self, topic):
        return await self._call("delete", lambda: self.broker.memory.delete(topic))

    async def claim(self, topic, owner, *, seconds, instead=None):
        memory = self.broker.memory
        return await self._call(
            "claim", lambda: memory.claim(topic, owner, seconds=seconds, instead=instead)
        )

    async def beat(self, owner, tokens, *, seconds):
        memory = self.broker.memory
        return await self._call("beat", lambda: memory.beat(owner, tokens, seconds=seconds))

    async def end(self, topic, fence, entry, **options):
        memory = self.broker.memory
        return await self._call("end", lambda: memory.end(topic, fence, entry, **options))

    async def leases(self, topics):
        return await self._call("leases", lambda: self.broker.memory.leases(topics))

    async def aclose(self):
        await trio.lowlevel.checkpoint()


class Worker:
    """One process: its view of the log, its engine, and its topic.

    Args:
        view: the log.
        name, options: what `Topic` takes.
    """

    def __init__(self, view: View, name: str = "news", patience: float = 5.0, **options) -> None:
        self.view = view
        self.engine = Engine(view, patience=patience)
        self.topic = Topic(name, **options)
        replay = options.get("replay", Replay())
        publisher = self.engine.publisher("topic", name, replay, self.topic._count_changed)
        self.topic._publisher = publisher
        self.topic._prepare_snapshots(publisher)
        self.topic._is_bound = True
        self.publisher = publisher
        self.follower = publisher._follower
        self.window = publisher._window
        self.sender = publisher._sender
        self.name = publisher._topic
        """The topic's name in the log."""

    async def publish(self, data, **options) -> str:
        return await self.publisher.publish(Event(data, **options))


@asynccontextmanager
async def open_workers(
    count: int = 1, *, seed: int = 0, **options
) -> AsyncIterator[tuple[Broker | Worker, ...]]:
    """Open a broker and `count` workers; yield all of them."""
    broker = Broker(seed)
    with trio.fail_after(7200):  # virtual seconds: the engines' clocks tick for ever
        async with _opened(broker, count, options) as workers:
            yield (broker, *workers)


@asynccontextmanager
async def _opened(broker: Broker, count: int, options: dict) -> AsyncIterator[list[Worker]]:
    async with trio.open_nursery() as outer:
        await outer.start(broker.run)
        async with trio.open_nursery() as nursery:
            workers = [Worker(broker.view(), **options) for _ in range(count)]
            for worker in workers:
                await nursery.start(worker.engine.run)
            yield workers
            nursery.cancel_scope.cancel()
        outer.cancel_scope.cancel()  # they have ended, and need it no more


async def read_all(topic, **options) -> None:
    """Read a topic until that fails."""
    async with topic.subscribe(**options) as events:
        async for _ in events:
            pass


class Client:
    """What one subscription has got, in a task of its own.

    Attributes:
        got: ``(type, data)`` of each event; for a gap what it says.
        ids: the ids of events.
        gaps: what the gaps say.
        snapshot_ids: the ids of snapshots.
    """

    def __init__(self) -> None:
        self.got: list = []
        self.ids: list = []
        self.gaps: list = []
        self.snapshot_ids: list = []
        self.scope = trio.CancelScope()
        self.open = trio.Semaphore(0)

    async def run(self, topic, *, task_status=trio.TASK_STATUS_IGNORED, **options) -> None:
        with self.scope:
            async with topic.subscribe(**options) as events:
                task_status.started()
                async for event in events:
                    self.take(event)

    def take(self, event) -> None:
        if event.type == "gap":
            self.gaps.append(event.data)
            self.got.append(("gap", event.data["missed"]))
        elif event.type == "snapshot":
            self.got.append(("snapshot", event.data))
            self.snapshot_ids.append(event.id)
        else:
            self.got.append(event.data)
            self.ids.append(event.id)


@asynccontextmanager
async def reading(topic, **options) -> AsyncIterator[Client]:
    """Have a client read a topic while the context is open."""
    client = Client()
    async with trio.open_nursery() as nursery:
        await nursery.start(
            lambda task_status: client.run(topic, task_status=task_status, **options)
        )
        yield client
        client.scope.cancel()
