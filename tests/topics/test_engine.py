"""The engine: what it holds open, and in which order it ends."""

import itertools
import math

import trio
from shared_log import Broker, View, Worker, reading

from flowstream.topics._engine import Engine


class Unhurried(View):
    """A log whose reads end in their own time, as calls in threads do."""

    def __init__(self, broker):
        super().__init__(broker)
        self.is_open = False
        self.open_at_the_end = []  # of each read

    async def run(self, hint, stale, *, task_status=trio.TASK_STATUS_IGNORED):
        self.is_open = True
        try:
            await super().run(hint, stale, task_status=task_status)
        finally:
            self.is_open = False

    async def read(self, topic, after, limit, *, mine=False):
        with trio.CancelScope(shield=True):
            await trio.sleep(2)
        self.open_at_the_end.append(self.is_open)
        return await super().read(topic, after, limit, mine=mine)


async def test_the_log_is_open_until_nobody_uses_it(autojump_clock):
    """A read that is on its way when the engine ends finds the log still open."""
    broker = Broker()
    async with trio.open_nursery() as nursery:
        await nursery.start(broker.run)
        worker = Worker(Unhurried(broker))
        async with trio.open_nursery() as around:
            await around.start(worker.engine.run)
            async with reading(worker.topic):
                await trio.sleep(1)  # the window is open
                worker.follower.mark_stale()
                await trio.sleep(1)  # it reads
                around.cancel_scope.cancel()
        assert worker.view.open_at_the_end == [True]
        assert not worker.view.is_open
        nursery.cancel_scope.cancel()


class Looked(View):
    """A log that notes which heads were asked for in each second."""

    def __init__(self, broker):
        super().__init__(broker)
        self.looks = []

    async def heads(self, topics):
        names = list(topics)
        self.looks.append((trio.current_time(), names))
        return await super().heads(names)


class Reader:
    """A reader of a topic that needs no events."""

    def __init__(self, topic):
        self.topic = topic
        self.idle_since = math.inf

    def begin(self, head):
        pass

    def compare(self, head):
        pass

    def mark_stale(self):
        pass

    def close(self):
        pass


async def test_each_topic_is_compared_in_time_while_others_come(autojump_clock):
    """A topic's head is compared every ten seconds, though topics with smaller names are added."""
    broker = Broker()
    async with trio.open_nursery() as nursery:
        await nursery.start(broker.run)
        view = Looked(broker)
        engine = Engine(view)
        await nursery.start(engine.run)
        for number in range(95):
            engine.follow(Reader(f"topic:m{number:02}"))
        await trio.sleep(0.5)
        view.looks.clear()
        start = trio.current_time()
        for second in range(30):
            engine.follow(Reader(f"topic:a{30 - second:02}"))
            await trio.sleep(1)
        for number in range(95):
            name = f"topic:m{number:02}"
            looks = [start, *(at for at, names in view.looks if name in names)]
            assert max(b - a for a, b in itertools.pairwise(looks)) <= 13, name
            assert looks[-1] > start + 17, name
        nursery.cancel_scope.cancel()
