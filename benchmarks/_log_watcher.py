"""A process that watches many topics of a log, and says what that takes.

``python _log_watcher.py URL TOPICS`` watches ``followed 0``, ``followed 1`` and so on, appends to
the last one and hears it. It prints the bytes of memory that a topic takes, without its name, the
seconds until all were watched, and the sockets that the log has open.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import trio

from flowstream import Replay
from flowstream.abc import LogEntry, Record
from flowstream.logs import open_log


def resident() -> int:
    """Return the bytes of memory that this process has."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def sockets() -> int:
    """Return how many sockets this process has open."""
    found = 0
    for one in Path("/proc/self/fd").iterdir():
        try:
            found += str(one.readlink()).startswith("socket:")
        except OSError:
            continue  # that of the folder itself
    return found


async def main(url: str, count: int) -> None:
    """Watch, hear the last topic, and print."""
    names = [f"followed {number}" for number in range(count)]
    heard = trio.Event()
    before = sockets()

    def hint(topic: str, before: int, records: Sequence[Record]) -> None:
        if topic == names[-1]:
            heard.set()

    async with open_log(url, hint=hint) as log:
        await log.heads(names[:1])
        memory, began = resident(), time.perf_counter()
        await log.watch(names)
        entry = LogEntry(b"x")
        with trio.fail_after(60):
            while not heard.is_set():
                await log.append(names[-1], [entry], keep=Replay(), token=f"{time.time_ns()}")
                with trio.move_on_after(0.25):
                    await heard.wait()
        seconds = time.perf_counter() - began
        found = {
            "bytes": (resident() - memory) / count,
            "seconds": seconds,
            "sockets": sockets() - before,
        }
    sys.stdout.write(json.dumps(found) + "\n")


trio.run(main, sys.argv[1], int(sys.argv[2]))
