"""A process that publishes to a log, and prints what was acknowledged: name, file, count, lanes."""

import sys

import trio

from flowstream import Replay
from flowstream.abc import LogEntry
from flowstream.logs import open_log


async def main(name: str, url: str, count: int, lanes: int) -> None:
    """Append `count` events in each of so many tasks."""
    keep = Replay(items=10**7, bytes=1 << 40)
    async with open_log(url) as log:

        async def publish(lane: int) -> None:
            for number in range(count):
                token = f"{name}-{lane}-{number}"
                entries = [LogEntry(token.encode())]
                (done,) = await log.append("news", entries, keep=keep, token=token)
                sys.stdout.write(f"{token} {done.epoch} {done.number}\n")
                sys.stdout.flush()

        async with trio.open_nursery() as nursery:
            for lane in range(lanes):
                nursery.start_soon(publish, lane)


trio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
