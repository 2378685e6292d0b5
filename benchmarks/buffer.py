"""What handing an item from a producer to a writer costs: our queue or a Trio channel.

A stream's buffer could be a bounded Trio memory channel with the items in it; it is a queue
with channels for doorbells (``flowstream/_buffer.py``). This measures what the difference
costs or saves, without a network, for the three things that happen to a buffer:

* **batch**: 64 items go in, the writer takes all that is there, over and over;
* **evict**: it is full, and each arriving item drops the oldest. A channel does it through
  a receive end of the producer's own;
* **wait**: there is room for one item, so that producer and writer wait for each other at
  every turn. What is measured is mostly the switching of tasks.

The channel counts neither bytes nor holes, as our queue does; the two are not equal in what
they give. The least of several runs is shown: interference only ever adds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from flowstream import Block, Buffer, DropOldest
from flowstream._buffer import EventBuffer
from flowstream._queue import Outcome

BATCH = 64
BOUND = 256
PAYLOAD = b"x" * 128
EVERYTHING = 1 << 30  # bytes: more than is ever queued


async def channel_batch(count: int) -> None:
    send, receive = trio.open_memory_channel[bytes](BOUND)
    for _ in range(count // BATCH):
        for _ in range(BATCH):
            send.send_nowait(PAYLOAD)
        pieces = []
        try:
            while True:
                pieces.append(receive.receive_nowait())
        except trio.WouldBlock:
            pass


async def queue_batch(count: int) -> None:
    buffer = EventBuffer(Buffer(items=BOUND), Block())
    for _ in range(count // BATCH):
        for _ in range(BATCH):
            buffer.offer(PAYLOAD)
        buffer.take(EVERYTHING)


async def channel_evict(count: int) -> None:
    send, receive = trio.open_memory_channel[bytes](BOUND)
    for _ in range(count):
        try:
            send.send_nowait(PAYLOAD)
        except trio.WouldBlock:
            receive.receive_nowait()
            send.send_nowait(PAYLOAD)


async def queue_evict(count: int) -> None:
    buffer = EventBuffer(Buffer(items=BOUND), DropOldest())
    for _ in range(count):
        buffer.offer(PAYLOAD)


async def channel_wait(count: int) -> None:
    send, receive = trio.open_memory_channel[bytes](1)

    async def produce() -> None:
        async with send:
            for _ in range(count):
                await send.send(PAYLOAD)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce)
        async for _ in receive:
            pass


async def queue_wait(count: int) -> None:
    buffer = EventBuffer(Buffer(items=1), Block())

    async def produce() -> None:
        for _ in range(count):
            while buffer.offer(PAYLOAD) is Outcome.WAIT:
                await buffer.room.wait()
        buffer.finish()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce)
        while True:
            if buffer.take(EVERYTHING):
                continue
            if buffer.finished:
                break
            await buffer.filled.wait()


Case = Callable[[int], Awaitable[None]]
CASES: dict[str, tuple[Case, Case]] = {
    "batch": (channel_batch, queue_batch),
    "evict": (channel_evict, queue_evict),
    "wait": (channel_wait, queue_wait),
}


def nanoseconds(case: Case, count: int, rounds: int) -> float:
    """Return the least CPU time per item of `rounds` runs."""
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time_ns()
        trio.run(case, count)
        best = min(best, (time.process_time_ns() - start) / count)
    return best


def main() -> int:
    """Measure each case on both sides and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    print(f"{'ns of CPU per item':20}{'channel':>10}{'queue':>10}{'queue / channel':>18}")
    figures = {}
    for name, (channel, queue) in CASES.items():
        theirs = nanoseconds(channel, options.items, options.rounds)
        ours = nanoseconds(queue, options.items, options.rounds)
        figures[name] = {"channel": theirs, "queue": ours}
        print(f"{name:20}{theirs:10,.0f}{ours:10,.0f}{ours / theirs:18.2f}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
