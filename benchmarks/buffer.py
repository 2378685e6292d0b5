"""What handing an item from a producer to a writer costs: our queue or a Trio channel.

A stream's buffer could be a bounded Trio memory channel with the items in it; it is a queue
with doorbells (``flowstream/buffer/_event_buffer.py``). This measures what the difference
costs or saves, without a network, for the three things that happen to a buffer:

* **batch**: 64 items go in, the writer takes all that is there, over and over; the queue
  under each policy;
* **part**: the same, but the writer takes the older half of what is there;
* **full**: nobody takes, and each arriving item meets a full buffer. A channel drops the
  oldest through a receive end of the producer's own; what the other policies do has no
  counterpart;
* **wait**: there is room for one item, so that producer and writer wait for each other at
  every turn. What is measured is mostly the switching of tasks.

The channel counts neither bytes nor holes, as our queue does; the two are not equal in what
they give. Both sides are measured in turn in every round; the table has the median round,
and the least and the most beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import trio

from flowstream import Block, Buffer, Conflate, Disconnect, DropNewest, DropOldest, Sample
from flowstream.abc import Policy
from flowstream.buffer._event_buffer import EventBuffer
from flowstream.buffer._queue import Outcome

Case = Callable[[int], Awaitable[None]]

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


def queue_batch(policy: Policy) -> Case:
    """Return the case for this policy; under Conflate each item of a batch has its key."""

    async def run(count: int) -> None:
        buffer = EventBuffer(Buffer(items=BOUND), policy)
        for _ in range(count // BATCH):
            for key in range(BATCH):
                buffer.offer(PAYLOAD, key=key)
            buffer.take(EVERYTHING)

    return run


async def channel_part(count: int) -> None:
    send, receive = trio.open_memory_channel[bytes](BOUND)
    for _ in range(BATCH):
        send.send_nowait(PAYLOAD)
    for _ in range(count // BATCH):
        for _ in range(BATCH):
            send.send_nowait(PAYLOAD)
        pieces, size = [], 0
        while size < BATCH * len(PAYLOAD):
            piece = receive.receive_nowait()
            pieces.append(piece)
            size += len(piece)


async def queue_part(count: int) -> None:
    buffer = EventBuffer(Buffer(items=BOUND), Block())
    for _ in range(BATCH):
        buffer.offer(PAYLOAD)
    for _ in range(count // BATCH):
        for _ in range(BATCH):
            buffer.offer(PAYLOAD)
        buffer.take(BATCH * len(PAYLOAD))


async def channel_full(count: int) -> None:
    send, receive = trio.open_memory_channel[bytes](BOUND)
    for _ in range(count):
        try:
            send.send_nowait(PAYLOAD)
        except trio.WouldBlock:
            receive.receive_nowait()
            send.send_nowait(PAYLOAD)


def queue_full(policy: Policy) -> Case:
    """Return the case for this policy; under Conflate no key comes twice."""

    async def run(count: int) -> None:
        buffer = EventBuffer(Buffer(items=BOUND), policy)
        for key in range(count):
            buffer.offer(PAYLOAD, key=key)

    return run


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


# What it is called, the channel's side if it has one, and ours.
CASES: list[tuple[str, Case | None, Case]] = [
    ("batch, Block", channel_batch, queue_batch(Block())),
    ("batch, DropOldest", channel_batch, queue_batch(DropOldest())),
    ("batch, DropOldest(max_age)", None, queue_batch(DropOldest(max_age=60))),
    ("batch, DropNewest", channel_batch, queue_batch(DropNewest())),
    ("batch, Disconnect", channel_batch, queue_batch(Disconnect())),
    ("batch, Sample", None, queue_batch(Sample(every=10))),
    ("batch, Conflate", None, queue_batch(Conflate())),
    ("part, Block", channel_part, queue_part),
    ("full, DropOldest", channel_full, queue_full(DropOldest())),
    ("full, DropNewest", None, queue_full(DropNewest())),
    ("full, Sample", None, queue_full(Sample(every=10))),
    ("full, Conflate", None, queue_full(Conflate())),
    ("wait, Block", channel_wait, queue_wait),
]


@dataclass
class Samples:
    """Nanoseconds of CPU per item, one a round."""

    rounds: list[float] = field(default_factory=list)

    def measure(self, case: Case, count: int) -> None:
        """Run the case and note what one item cost."""
        start = time.process_time_ns()
        trio.run(case, count)
        self.rounds.append((time.process_time_ns() - start) / count)

    def __str__(self) -> str:
        if not self.rounds:
            return "-"
        low, high = min(self.rounds), max(self.rounds)
        return f"{statistics.median(self.rounds):,.0f} ({low:,.0f}-{high:,.0f})"


def main() -> int:
    """Measure each case on both sides and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    print(f"{'ns of CPU per item':28}{'channel':>24}{'queue':>24}{'queue / channel':>18}")
    figures = {}
    for name, channel, queue in CASES:
        theirs, ours = Samples(), Samples()
        for _ in range(options.rounds):
            if channel is not None:
                theirs.measure(channel, options.items)
            ours.measure(queue, options.items)
        figures[name] = {"channel": theirs.rounds, "queue": ours.rounds}
        ratio = ""
        if channel is not None:
            pairs = zip(ours.rounds, theirs.rounds, strict=True)
            ratio = f"{statistics.median(our / their for our, their in pairs):.2f}"
        print(f"{name:28}{theirs!s:>24}{ours!s:>24}{ratio:>18}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
