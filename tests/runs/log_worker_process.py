"""A worker, or the clients, of `test_runs_processes.py`: a process of its own.

::

    python log_worker_process.py worker URL SHARE SHARES RUNS
    python log_worker_process.py clients URL RUNS

A worker claims the runs of its share that nobody has claimed yet. The clients read all runs, and
print a line of JSON for each.
"""

from __future__ import annotations

import json
import os
import signal
import sys

import trio

from flowstream import NoSuchRunError, RunExistsError, Runs
from flowstream._errors import LogUnavailableError, PublicError
from flowstream.quart import Flowstream

EVENTS = 40
PAUSE = 0.08
LEASE = 1.5

runs = Runs("chaos", grace=None, lease=LEASE, keep=600.0)


def counting(owner: str):
    async def produce():
        for number in range(1, EVENTS + 1):
            yield {"number": number, "owner": owner}
            await trio.sleep(PAUSE)

    return produce


async def work(url: str, share: int, shares: int, count: int) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with Flowstream(log=url), trio.open_nursery() as nursery:
            limit = trio.Semaphore(12)

            async def one(key: str) -> None:
                async with limit:
                    while True:
                        try:
                            try:
                                await runs.open(key)
                                return
                            except NoSuchRunError:
                                run = await runs.claim(key, counting(f"{os.getpid()}"))
                            await run.wait()
                            return
                        except RunExistsError:
                            return
                        except (LogUnavailableError, NoSuchRunError):
                            await trio.sleep(0.1)

            for number in range(share, count, shares):
                nursery.start_soon(one, f"run-{number}")
            async for _ in signals:
                nursery.cancel_scope.cancel()
                break


async def read(url: str, count: int) -> None:
    async def one(key: str) -> None:
        got: list[dict] = []
        last = None
        while True:
            try:
                run = await runs.open(key)
                async with run.subscribe(after=last) as events:
                    async for event in events:
                        got.append({"gap": True} if event.type == "gap" else event.data)
                        last = event.id or last
            except NoSuchRunError:
                await trio.sleep(0.2)
                continue
            except LogUnavailableError:
                await trio.sleep(0.2)
                continue
            except PublicError as error:
                code = error.code
            else:
                code = "completed"
            sys.stdout.write(json.dumps({"key": key, "code": code, "got": got}) + "\n")
            sys.stdout.flush()
            return

    async with Flowstream(log=url), trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(one, f"run-{number}")


if __name__ == "__main__":
    kind, url, *numbers = sys.argv[1:]
    trio.run(work if kind == "worker" else read, url, *map(int, numbers))
