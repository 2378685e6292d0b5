"""The writer: the one task that writes to one client.

It takes everything that is queued and makes one ``send`` of it, because a send through a server
costs as much as twenty events. One send has up to 16 KiB, or up to 64 KiB while the client takes
that at once. There is no timer: a lone event leaves at once, and batches come from load.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, Protocol

import trio

from flowstream._clock import chance, clock
from flowstream.abc import Encoder
from flowstream.asgi._transport import Transport
from flowstream.buffer._event_buffer import EventBuffer
from flowstream.buffer._queue import Gap, Slice
from flowstream.sources._nurseries import run_with_tasks
from flowstream.tasks._flag import Flag

# Trio sets TCP_NOTSENT_LOWAT to 16 KiB: a write waits while more than that is unsent in the kernel.
# A larger item is written in pieces of this size, so that a slow but steady reader makes visible
# progress.
WRITE_SIZE = 16 * 1024

# A client that takes whole pieces at once needs no small ones, and a write of four times the size
# costs little more: a file goes out twice as fast. A write that takes longer than this has waited
# for the client, and the next ones are small again.
_QUICK_WRITE_SIZE = 64 * 1024
_QUICK_SECONDS = 0.05

_DEFAULT_RETRY = 2000

# The flag to set while the writer is in no pause: nobody waits for it.
_AWAKE = Flag()

# Seconds to wait for the app's snapshot, so that it goes out in one write with the head.
_TOGETHER = 0.05


class _Backlog(Protocol):
    @property
    def behind(self) -> bool: ...
    @property
    def waits(self) -> bool: ...
    async def prepare(self) -> None: ...
    async def pull(self, limit: int) -> list[bytes | Gap | Slice]: ...
    def tally(self) -> None: ...


class Writer:
    """Writes one client's stream, and counts what it wrote.

    Args:
        transport: where it writes to.
        buffer: where the items come from.
        encoder: encodes flowstream's own events.
        supply: what to write while nothing is queued comes from here.
        controls: whether flowstream's own events are written.
        max_bytes: body bytes that may be written, counted before compression; None for no bound.

    Attributes:
        items, bytes, heartbeats: what was handed to the server.
        direct_items, direct_bytes: the part of it that publishers wrote directly.
        sliced_items: the part of it that came in slices.
        sending: bytes that are being handed over, counted before compression.
        unsent: items that were taken from the buffer and are not handed over (yet).
        first_item: when the first item was handed over, or None.
        last_write: when the last write ended.
        sending_since: when the current write began, or None.
        longest_wait: seconds of the longest write.
    """

    def __init__(
        self,
        transport: Transport,
        buffer: EventBuffer,
        encoder: Encoder,
        supply: _Backlog,
        *,
        controls: bool,
        max_bytes: int | None,
    ) -> None:
        self._transport = transport
        self._buffer = buffer
        self._encoder = encoder
        self._supply = supply
        self._controls = controls
        self._max_bytes = max_bytes
        self._plain_bytes = 0  # written, counted before compression
        self._gaps = 0
        self._announced = 0  # dropped items that gaps have announced so far
        self._heartbeat_due = False
        self._waking = _AWAKE  # set when there is something to write in a pause
        self._opening = b""  # goes out in front of the next bytes
        self._size = WRITE_SIZE
        self.items = 0
        self.direct_items = 0
        self.direct_bytes = 0
        self.sliced_items = 0
        self.bytes = 0
        self.sending = 0
        self.heartbeats = 0
        self.unsent = 0
        self.first_item: float | None = None
        self.last_write = clock.current_time()
        self.sending_since: float | None = None
        self.longest_wait = 0.0

    async def begin(self) -> None:
        """Answer the client."""
        started = self._begin_write()
        await self._transport.begin()
        self._end_write(started)

    def open(self, retry: int | None) -> None:
        """Let `run` write the opening of the format, so that client and proxies see bytes."""
        self._opening = self._encoder.opening(retry)

    async def run(self) -> bool:
        """Write everything there is, until the buffer is empty.

        Returns:
            False if the next bytes would pass `max_bytes`, else True.
        """
        buffer = self._buffer
        self._supply.tally()
        more = True
        while more:
            warning = buffer.warning()
            pieces: Sequence[bytes | Gap | Slice] = buffer.take(self._allowance())
            if pieces:
                self._heartbeat_due = False
                if not await self._write_pieces(pieces, warning):
                    return False
            elif self._supply.behind and not self._heartbeat_due:
                if self._supply.waits:  # then look again, because it may have failed
                    if not await self._fill_the_wait():
                        return False
                else:
                    pieces = await self._supply.pull(self._allowance())
                    if pieces and not await self._write_pieces(pieces, None):
                        return False
            elif not self._is_quiet:
                if not await self._fill_pause():
                    return False
            else:
                more = False
        if self.items or not buffer.finished:
            return True
        return await self._write_within_bound(self._encoder.header())

    async def _fill_the_wait(self) -> bool:
        """Wait for the app's snapshot, and write heartbeats meanwhile.

        Returns:
            False if the next bytes would pass `max_bytes`, else True.
        """
        made = Flag()
        is_within = True

        async def prepare() -> None:
            await self._supply.prepare()
            made.set()
            self._waking.set()

        async def fill(nursery: trio.Nursery) -> None:
            nonlocal is_within
            nursery.start_soon(prepare)
            with trio.move_on_after(_TOGETHER):
                await made.wait()
            while is_within and not made.is_set():
                self._waking = Flag()
                if self._is_quiet:
                    await self._waking.wait()
                else:
                    is_within = await self._fill_pause()

        await run_with_tasks(fill)
        return is_within

    @property
    def _is_quiet(self) -> bool:
        """Whether there is nothing to write besides events."""
        return not (self._heartbeat_due or self._opening or self._transport.holds_back)

    async def _fill_pause(self) -> bool:
        """Write what is due besides events; return False if that would pass `max_bytes`."""
        if self._heartbeat_due:
            self._heartbeat_due = False
            if not await self._write_within_bound(self._encoder.heartbeat()):
                return False
            self.heartbeats += 1
            return True
        if self._opening:
            return await self._write_within_bound(b"")
        await self._transport.flush()  # meanwhile the buffer may have been filled
        return True

    async def announce_rest(self) -> None:
        """Announce, in one gap, all dropped items that no gap has announced yet."""
        missed = self._buffer.queue.offered - self.items - self._announced
        if missed:
            # Without the id of the last item taken: that may be the one that passed the bound.
            await self.say("gap", Gap(missed, None, None)._asdict())

    async def announce(self, missed: int | None) -> None:
        """Announce that `missed` events are left out at the end; None for an unknown number."""
        await self.say("gap", Gap(missed, self._buffer.queue.last_id, None)._asdict())

    async def end(self) -> None:
        """Write the end of a complete stream."""
        started = self._begin_write()
        self.bytes += await self._transport.end()
        self._end_write(started)

    def wrote(self, size: int, items: int, at: float) -> None:
        """Count what was written directly, past this writer; the last of it at time `at`."""
        self.items += items
        self.direct_items += items
        self.direct_bytes += size
        self.bytes += size
        self.last_write = max(self.last_write, at)
        if self.first_item is None:
            self.first_item = at

    def beat(self) -> None:
        """Write a heartbeat soon, unless something else is written first."""
        self._heartbeat_due = True
        self._waking.set()
        self._buffer.filled.ring()

    async def say(
        self, name: str, body: dict[str, Any], *, id: str | None = None, retry: int | None = None
    ) -> None:
        """Write one of flowstream's own events, unless the stream has none."""
        if self._controls:
            await self._write(self._encoder.control(name, body, id=id, retry=retry))

    def _allowance(self) -> int:
        if self._max_bytes is None:
            return self._size
        left = self._max_bytes - self._plain_bytes - len(self._opening)
        return max(1, min(self._size, left))

    async def _write_pieces(
        self, pieces: Sequence[bytes | Gap | Slice], warning: tuple[int, int] | None
    ) -> bool:
        gaps = self._buffer.queue.gaps
        count = len(pieces)
        head = b""
        if warning is not None and self._controls:
            buffered, limit = warning
            head = self._encoder.control("warning", {"buffered": buffered, "limit": limit})
        announced = sliced = 0
        if isinstance(pieces[0], Slice):  # it comes alone
            count, data = pieces[0]
            sliced = count
        elif gaps == self._gaps:
            data = self._encoder.join(pieces)  # type: ignore[arg-type]  # no gap among them
        else:
            count -= gaps - self._gaps
            self._gaps = gaps
            data = b"".join(self._with_gaps(pieces))
            announced = sum(piece.missed or 0 for piece in pieces if isinstance(piece, Gap))
        if not self.items and count:
            head += self._encoder.header()
        if head:
            data = head + data
        self.unsent = count
        if not await self._write_within_bound(data):
            return False
        self.unsent = 0
        self.items += count
        self.sliced_items += sliced
        self._announced += announced
        if self.first_item is None and count:
            self.first_item = self.last_write
        return True

    def _with_gaps(self, pieces: Iterable[bytes | Gap | Slice]) -> Iterable[bytes]:
        for kind, run in groupby(pieces, type):
            if kind is not Gap:
                yield self._encoder.join(run)  # type: ignore[arg-type]  # no gap among them
            elif self._controls:
                for gap in run:  # nothing but gaps
                    yield self._encoder.control("gap", gap._asdict())  # type: ignore[union-attr]

    async def _write_within_bound(self, data: bytes) -> bool:
        if self._max_bytes is not None:
            left = self._max_bytes - self._plain_bytes - len(self._opening)
            if left < 0:
                self._opening = b""
            if left < len(data):
                await self._write(b"")  # the opening by itself may fit
                return False
        await self._write(data)
        return True

    async def _write(self, data: bytes) -> None:
        if self._opening:
            data, self._opening = self._opening + data, b""
        start = 0
        while start < len(data):
            size = self._size if self._transport.takes_pieces else len(data)
            piece = data[start : start + size]  # `data` itself if that is all of it
            self.sending = len(piece)
            try:
                started = self._begin_write()
                self.bytes += await self._transport.write(piece)
                waited = self._end_write(started)
                self._plain_bytes += len(piece)
            finally:
                self.sending = 0
            start += len(piece)
            if waited > _QUICK_SECONDS:
                self._size = WRITE_SIZE
            elif 2 * len(piece) > self._size and self._size < _QUICK_WRITE_SIZE:
                self._size *= 2

    def _begin_write(self) -> float:
        """Note that a write begins now; return the time."""
        self.sending_since = started = clock.current_time()
        return started

    def _end_write(self, started: float) -> float:
        """Note that the write that began at `started` ends now; return its seconds."""
        self.sending_since = None
        self.last_write = now = clock.current_time()
        waited = now - started
        self.longest_wait = max(self.longest_wait, waited)
        return waited


def jittered(retry: int | None) -> int:
    """Return milliseconds to wait before a reconnect: half to one and a half times `retry`.

    A server that goes down tells all its clients at the same time. Without jitter they would also
    come back at the same time.
    """
    base = _DEFAULT_RETRY if retry is None else retry
    return round(base * chance.uniform(0.5, 1.5))
