"""A process that follows the topic `far` of a log, and says how old each event was when it came.

It follows as the engine above a log does: hints that follow on are taken, and where one does not,
or something is stale, the log is read. It is given the log's URL and how many events will come, and
prints `ready`. It prints what it found behind a line of input.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence

import trio

from flowstream.abc import Log, Record
from flowstream.logs import open_log


class Follower:
    """The place in the topic, and how late what came was.

    Attributes:
        seconds: of each event, from before its append.
        reads: how often the log had to be read.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.reads = 0
        self.news = trio.Event()
        self._place = ("", 0)
        self._lacks = False

    def hint(self, topic: str, before: int, records: Sequence[Record]) -> None:
        """Take what follows on."""
        if before > self._place[1]:
            self.see_stale(topic)
            return
        self._take(records)

    def see_stale(self, topic: str | None) -> None:
        """Have the log read."""
        self._lacks = True
        self.news.set()

    def _take(self, records: Sequence[Record]) -> None:
        now = time.monotonic_ns()
        for record in records:
            if record.number > self._place[1]:
                self._place = record.epoch, record.number
                self.seconds.append((now - int(record.data[:20])) / 1e9)
        self.news.set()

    async def begin(self, log: Log) -> None:
        """Go to the end of the topic."""
        head = (await log.heads(["far"]))["far"]
        self._place, self._lacks = (head.epochs[-1][0], head.number), False

    async def follow(self, log: Log, events: int) -> None:
        """**Wait** until so many have come."""
        while len(self.seconds) < events:
            if self._lacks:
                self._lacks = False
                self.reads += 1
                self._take((await log.read("far", self._place, 512, mine=True))[2])
                continue
            self.news = trio.Event()
            await self.news.wait()


async def main(url: str, events: int) -> None:
    """Follow until all events have come."""
    follower = Follower()
    async with open_log(url, hint=follower.hint, stale=follower.see_stale) as log:
        await log.watch(["far"])
        await trio.sleep(0.5)  # the log was read on from where it was
        await follower.begin(log)
        cpu = time.process_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follower.follow, log, events)
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            await trio.to_thread.run_sync(sys.stdin.readline)
            nursery.cancel_scope.deadline = trio.current_time() + 10
        cpu = time.process_time() - cpu
    found = {"seconds": follower.seconds, "cpu": cpu, "reads": follower.reads}
    sys.stdout.write(json.dumps(found) + "\n")


trio.run(main, sys.argv[1], int(sys.argv[2]))
