"""A process that follows the topic `far` of a log by its hints, and says how old each event was.

It is given the log's URL and how many events will come, and prints `ready`. It prints what it
found behind a line of input.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence

import trio

from flowstream.abc import Record
from flowstream.logs import open_log


async def main(url: str, events: int) -> None:
    """Follow until all events have come, or the input ends."""
    seconds: list[float] = []
    all_came = trio.Event()

    def hint(topic: str, before: int, records: Sequence[Record]) -> None:
        now = time.monotonic_ns()
        seconds.extend((now - int(record.data[:20])) / 1e9 for record in records)
        if len(seconds) >= events:
            all_came.set()

    async with open_log(url, hint=hint) as log:
        await log.watch(["far"])
        await trio.sleep(0.5)  # the log was read on from where it was
        cpu = time.process_time()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await trio.to_thread.run_sync(sys.stdin.readline)
        with trio.move_on_after(10):
            await all_came.wait()
        cpu = time.process_time() - cpu
    sys.stdout.write(json.dumps({"seconds": seconds, "cpu": cpu}) + "\n")


trio.run(main, sys.argv[1], int(sys.argv[2]))
