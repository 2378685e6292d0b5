"""The engine: what it holds open, and in which order it ends."""

import trio
from shared_log import Broker, View, Worker, reading


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
