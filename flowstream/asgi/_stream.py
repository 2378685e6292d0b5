"""One running stream: the tasks, and how it ends.

::

    supply ──► buffer ──► writer ──► send
       ▲                    ▲
       │ client gone        │ heartbeats
       └────── watch ───────┘

The host's own task is the writer. The supply is a task that runs a producer, or a place in a
topic, which needs none. The watch looks at deadlines: a task, or under flowstream's server,
which tells a stream of its end by itself, one for all streams. Whoever hosts the stream
(`StreamResponse` as an ASGI application, the Quart extension) else tells it when the client
has gone.

There are two ways to end it. `close` is graceful: the producer is cancelled, what is
queued is still written, and a last event says why. `abort` is for a client that is gone or
takes nothing: the producer is cancelled, the buffer dropped, the writer cancelled. In both
the first reason stands, and in both the one report is made when the producer has cleaned
up, even if the writer is still stuck in a ``send`` that the server does not let go of.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import trio

from flowstream._clock import chance, clock
from flowstream._closing import CloseReason, StreamReport
from flowstream.abc import Policy
from flowstream.asgi._carrier import carrier_of, entry_of
from flowstream.asgi._compression import Gzip, accepts_gzip, gzip_headers
from flowstream.asgi._cut import cut_of
from flowstream.asgi._deadlines import Activity, Deadlines, Due
from flowstream.asgi._direct_write import direct_write_of
from flowstream.asgi._head import head_of
from flowstream.asgi._logging import log_report, printable
from flowstream.asgi._permit import Permit
from flowstream.asgi._plain_hypercorn import warn_on_plain_hypercorn
from flowstream.asgi._request import last_event_id
from flowstream.asgi._statistics import StreamStatistics
from flowstream.asgi._supply import open_supply
from flowstream.asgi._writer import Writer, jittered
from flowstream.asgi.plan import Plan
from flowstream.asgi.receive import Send
from flowstream.buffer._event_buffer import EventBuffer
from flowstream.limits import chosen
from flowstream.policies import Block
from flowstream.tasks._failure import is_refusal, kind_of, passes, public, public_of
from flowstream.tasks._timers import Timer, start_timer

logger = logging.getLogger("flowstream")

# How a `send` says that the connection is closed, where it says so at all: ASGI leaves it
# to the server, and middleware that puts a Trio channel in between has errors of its own.
# Busy is what Hypercorn lets through while it closes a connection that broke off an upload.
_GONE = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError)

_COMES_BACK = (CloseReason.MAX_DURATION, CloseReason.SHUTDOWN)
_TAKES_NOTHING = (CloseReason.STALLED, CloseReason.SLOW_CONSUMER)


class Stream:
    """A stream at work for one client.

    Args:
        plan: what it is to be.
        scope: the request's. Of its path the log has no query, which may hold a token.

    Attributes:
        seen: the id that its client saw last, or None.
        reason: why it ended or is ending, or None.
    """

    def __init__(self, plan: Plan, scope: Mapping[str, Any]) -> None:
        self._plan = plan
        self._gzip = plan.compress == "gzip" and accepts_gzip(scope)
        self._carrier = carrier_of(scope)
        direct_write = direct_write_of(scope)
        self._permit = Permit(direct_write, scope.get("app"))
        self._entry = entry_of(scope)
        if self._entry is not None:
            self._entry.begin_stream()
        self._head = head_of(scope)
        self._cut = cut_of(scope)
        self._path = printable(scope.get("path", ""))
        self._start = clock.current_time()
        self._epoch = chance.token_hex(4)
        self._encoder = plan.encoder.start()
        # A feed numbers its events itself.
        numbered = self._encoder.automatic_ids and not plan.is_feed
        prefix = f"{self._epoch}." if numbered else None
        self._buffer = EventBuffer(plan.buffer, plan.policy, prefix)
        self.seen = last_event_id(scope)
        after = self.seen or plan.after
        self._supply = open_supply(
            plan,
            self._buffer,
            self._encoder,
            self,
            path=self._path,
            after=after,
            framing=direct_write.framing,
        )
        beats = bool(self._encoder.heartbeat()) and plan.controls
        self._deadlines = Deadlines(plan.limits, plan.heartbeat if beats else None, self._start)
        self._timer: Timer | None = None
        self._writer: Writer | None = None
        self._writing: trio.CancelScope | None = None  # what the writer does now
        self._cut_off = False  # the writer is to do nothing more
        self._aborted = False
        self._answered = False  # the status line is out: no exception may leave any more
        self._reset = False  # the carrier was told to close the client at the socket
        self._parted = False  # the writer has nothing more to write
        self._saying_goodbye = False  # all bytes are handed over, the final chunk is on its way
        self._gone_with_all = False  # the client has what it was promised, and did not wait
        self._error: BaseException | None = None
        self._detail = ""  # of the reason: see `StreamReport.detail`
        self._logged_elsewhere = False  # the error is for somebody else to log
        self._final: StreamStatistics | None = None
        self.reason: CloseReason | None = None

    # -- what the host calls, in this order ------------------------------------------------

    @property
    def has_tasks(self) -> bool:
        """Whether it runs tasks beside the host's own."""
        return self._needs_watch or self._supply.has_task

    @property
    def _needs_watch(self) -> bool:
        """Whether a task has to watch it: no carrier would tell it of its end.

        Nor of a cancellation while a write is stuck, for longer than the carrier itself allows.
        """
        own = self.stall_timeout
        return self._carrier is None or (own is not None and own > self._carrier.write_timeout)

    @property
    def stall_timeout(self) -> float | None:
        """Seconds that a write may make no progress, if its app has set that and it goes on."""
        return None if self._aborted else chosen(self._plan.limits.stall_timeout)

    @property
    def needs_nursery(self) -> bool:
        """Whether one of these needs a nursery of the host's: a producer takes the carrier's."""
        return self._needs_watch

    def begin(self, nursery: trio.Nursery | None) -> None:
        """Start the producer and the watch over it in `nursery`, the host's own.

        It may be None for a stream that needs none. Its producer then is a task of the server,
        for which `finish` waits.
        """
        self._supply.start(self._carrier.nursery if nursery is None and self._carrier else nursery)
        if self._needs_watch:
            assert nursery is not None
            nursery.start_soon(self._watch, name=f"flowstream watch of {self._path}")
        else:
            again = self._look(self._start)
            if again < math.inf:
                self._timer = start_timer(again, self._look)
        if self._carrier is not None:
            self._carrier.attach(self)  # it tells of the client's end and of the server's

    async def prime(self, seconds: float) -> None:
        """Wait for the first item, for the end of the source, or for `seconds`.

        Raises:
            Exception: what the producer raised before its first item, unchanged; but a
                `PublicError` out of the group that a nursery made of it.
        """
        with trio.move_on_after(seconds):
            if not self._buffer.queue.offered and not self._buffer.finished:
                await self._buffer.filled.wait()
        if self._error is not None and not self._buffer.queue.offered:
            await self._supply.ended.wait()
            self._logged_elsewhere = True  # by the framework
            raise public_of(self._error) or self._error

    async def deliver(
        self,
        send: Send,
        status: int,
        headers: list[tuple[bytes, bytes]],
        *,
        direct: bool | None = None,
    ) -> None:
        """Write the response, from the status line to the last byte.

        Args:
            send: the server's, with what was put around it.
            status: of the response.
            headers: of the response.
            direct: what the app says of all its streams; what the stream's own plan says wins.

        Raises:
            Exception: what `send` raised for the status line, if not that the client has gone.
        """
        if self._aborted and self.reason is not CloseReason.SLOW_CONSUMER:
            return
        if self._carrier is None:
            warn_on_plain_hypercorn()
        coded = gzip_headers(headers) if self._gzip else None
        self._gzip = coded is not None
        direct_write = self._permit.decide(self._plan, self._encoder, send, direct, gzip=self._gzip)
        self._writer = writer = Writer(
            send,
            self._buffer,
            self._encoder,
            self._supply,
            self._head,
            controls=self._plan.controls,
            max_bytes=self._plan.limits.max_bytes,
            direct_write=direct_write,
            gzip=Gzip() if self._gzip else None,
        )
        try:
            with self._until_cut_off():
                self._head.hold()  # until the writer has nothing more to write
                await writer.begin(status, coded or headers)
                self._answered = True
                self._supply.connect(writer, None if direct_write is None else direct_write.write)
                if self._aborted:
                    return
                writer.open(self._plan.retry)
                if self._supply.has_task:
                    await self._let_it_begin()
                await self._write(writer, True)
            self._permit.tell(self._path, parted=self._parted)
            while not (self._parted or self._cut_off):
                # An idle stream is here, without a scope, which would take 0.8 KB.
                self._writing = None
                await self._buffer.filled.wait()
                if not self._cut_off:
                    with self._until_cut_off():
                        await self._write(writer, True)
                    self._permit.tell(self._path, parted=self._parted)
        except _GONE as error:
            self.abort(CloseReason.CLIENT_DISCONNECTED, f"send: {kind_of(error)}")
        except BaseException as error:  # noqa: ASYNC103  # see `passes`
            if passes(error):
                raise
            self.failed(error, "writer")
            self.abort(CloseReason.ERROR)
            if not self._answered:
                self._logged_elsewhere = True  # by the framework
                self._cut = None  # which answers in our place
                raise
        finally:
            if self._cut is not None and not self._saying_goodbye:
                self._cut.say(status)  # before the host hears that we have ended
            await self._head.release()  # noqa: ASYNC102  # what is written is shielded

    async def _let_it_begin(self) -> None:
        """Let the producer's task run to where it waits for the first time.

        What it has made by then goes out with the head. Two passes: in the first of them the
        event loop may take the two tasks in either order.
        """
        buffer = self._buffer
        for _ in range(2):
            if not (buffer.queue.offered or buffer.finished):
                await trio.lowlevel.checkpoint()

    async def finish(self) -> None:
        """Wait until the producer has cleaned up, then make the report.

        Whatever state the stream is in: a host calls this in a ``finally``.
        """
        if self.reason is None:
            self.abort(CloseReason.CANCELLED, "never sent" if self._writer is None else "")
        if self._supply.started:
            with trio.CancelScope(shield=True):
                await self._supply.ended.wait()  # bounded by cleanup_timeout
            self._supply.stop()  # to be no longer in a topic that has ended
        if self._carrier is not None:
            self._carrier.detach(self)
        if self._timer is not None:
            self._timer.stop()
        self._report()

    @property
    def _has_all(self) -> bool:
        """Whether the client was given as many bytes as it was promised, or is being given."""
        writer = self._writer
        return writer is not None and writer.bytes + writer.sending == self._plan.length

    @property
    def _looks_whole_and_is_not(self) -> bool:
        """Whether the client lacks what no policy was to drop, and can't be told of it."""
        policy = self._plan.policy
        keeps_all = policy.rereads or isinstance(policy, Block)
        return keeps_all and not self._plan.controls and self._buffer.queue.gaps > 0

    # -- how it ends -----------------------------------------------------------------------

    def close(self, reason: CloseReason, detail: str = "") -> None:
        """End it gracefully: cancel the producer, write what is queued, say why.

        A source that has ended by itself is complete, however long its last items take.
        """
        if not self._supply.ended.is_set() or reason is CloseReason.MAX_BYTES:
            self._note(reason, detail)
        self._supply.stop()  # before the bell, which would wake a producer in vain
        self._buffer.finish()

    def abort(self, reason: CloseReason, detail: str = "") -> None:
        """End it at once: cancel the producer and the writer, drop what is queued."""
        if reason is CloseReason.CLIENT_DISCONNECTED and self.reason is None and self._has_all:
            # It knows the length, and leaves with the last byte, before `send` has returned.
            # The report waits for that, to count it.
            self.reason, self._gone_with_all = CloseReason.COMPLETED, True
        self._note(reason, detail)
        self._aborted = True
        self._supply.stop()
        self._buffer.abandon()
        # Two writes are not cut off. A client is told that it was answered even if the
        # policy gave it up before; and at the final chunk servers report a disconnect, too,
        # while they get the connection ready for its next request.
        unanswered = reason is CloseReason.SLOW_CONSUMER and not self._answered
        parting = reason is CloseReason.CLIENT_DISCONNECTED and (
            self._saying_goodbye or self._gone_with_all
        )
        if not unanswered and not parting:
            self._cut_off = True
            if self._writing is not None:
                self._writing.cancel()
        if reason in _TAKES_NOTHING and self._answered and not self._reset:
            # Not by the end of the response, which would wait behind what it does not take.
            self._reset = True  # the carrier tells us of it again
            if self._carrier is not None:
                self._carrier.abort(reason, detail)
        if self._supply.ended.is_set() and not (parting and self._gone_with_all):
            self._report()

    def _note(self, reason: CloseReason, detail: str) -> None:
        """Note why it ends: the first cause counts."""
        if self.reason is None:
            self.reason, self._detail = reason, detail

    async def refuse(self, detail: str) -> None:
        """End it before it begins: the source is released, the report made."""
        self._note(CloseReason.REFUSED, detail)
        await self._supply.discard()
        self._report()

    def statistics(self) -> StreamStatistics:
        """Return what the stream has done so far, and how full its buffer is."""
        if self._final is not None:
            return self._final
        self._supply.tally()
        writer, now = self._writer, clock.current_time()
        buffer = self._buffer.statistics()
        since = None if writer is None else writer.sending_since
        sending_for = 0.0 if since is None else now - since
        why_not = self._permit.why_not(parted=self._parted)
        return StreamStatistics(
            state="open",
            reason=self.reason,
            items=writer.items if writer else 0,
            bytes=writer.bytes if writer else 0,
            dropped=buffer.dropped,
            gaps=buffer.gaps,
            heartbeats=writer.heartbeats if writer else 0,
            duration=now - self._start,
            longest_wait=max(writer.longest_wait, sending_for) if writer else 0.0,
            sending_for=sending_for,
            buffer=buffer,
            direct_items=writer.direct_items if writer else 0,
            why_not_direct=why_not.value if why_not else None,
        )

    # -- what the supply calls -------------------------------------------------------------

    def give_up(self, detail: str = "") -> None:
        """End it at once: the client is too slow."""
        self.abort(CloseReason.SLOW_CONSUMER, detail or _in_words(self._plan.policy))

    def failed(self, error: BaseException, who: str) -> None:
        """Note why there will be no more events; the client is told at the end of those."""
        if self.reason is None:
            self._note(CloseReason.ERROR, f"{who}: {kind_of(error)}")
            self._error = error
        elif not is_refusal(error):
            logger.error(
                "the %s of %s failed while it was ended (%s)",
                who,
                self._path,
                self.reason,
                exc_info=error,
            )

    def supply_ended(
        self,
        reason: CloseReason = CloseReason.COMPLETED,
        error: BaseException | None = None,
        detail: str = "",
    ) -> None:
        """Write what there is, and end for this reason; an `error` was logged elsewhere."""
        if self.reason is None and reason is not CloseReason.COMPLETED:
            self._note(reason, detail)
            self._error = error
            self._logged_elsewhere = True
        self._buffer.finish()
        if self._aborted and (self._cut_off or not self._gone_with_all):
            self._report()

    # -- the tasks -------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Look at the deadlines, each when it comes due."""
        try:
            again = self._start
            while True:
                await trio.sleep_until(again)
                again = self._look(clock.current_time())
        finally:
            # Cancelled from outside, while the writer may be stuck in a shielded send and
            # the producer is shielded by us: nobody else would tell them.
            if self._final is None:
                self.abort(CloseReason.CANCELLED)

    def _look(self, now: float) -> float:
        """Do what has come due; return when to look again."""
        self._supply.tally()
        writer = self._writer
        activity = Activity(
            None if writer is None else writer.sending_since,
            now if writer is None else writer.last_write,
        )
        due, again = self._deadlines.check(now, activity)
        if due is Due.HEARTBEAT and writer is not None:
            writer.beat()
        elif due is Due.MAX_DURATION:
            self.close(CloseReason.MAX_DURATION, self._deadlines.bound(due))
        elif due is Due.STALLED:
            self.abort(CloseReason.STALLED, self._deadlines.bound(due))
            return math.inf
        return again

    # -- the end ---------------------------------------------------------------------------

    def _until_cut_off(self) -> trio.CancelScope:
        """Return a scope for what the writer does next."""
        self._writing = scope = trio.CancelScope()
        if self._cut_off:
            scope.cancel()
        return scope

    async def _write(self, writer: Writer, within_bound: bool) -> None:
        """Write what there is, and part if no more will come."""
        if not (within_bound and await writer.run()):
            self.close(CloseReason.MAX_BYTES, f"max_bytes {self._plan.limits.max_bytes}")
            self._buffer.abandon()
            await writer.announce_rest()
        if self._buffer.finished:
            self._parted = True
            await self._part(writer)

    async def _part(self, writer: Writer) -> None:
        """Say why the stream ends, and end the body if what was sent is whole."""
        await self._supply.ended.wait()  # its failure decides what is said
        reason = CloseReason.COMPLETED if self.reason is None else self.reason
        promised = self._plan.length
        if reason is CloseReason.COMPLETED and promised is not None and not self._has_all:
            # The client counts, too: there is no other end of the body than that byte.
            made = f"the source made {writer.bytes} bytes, and its length was {promised}"
            self.failed(ValueError(made), "producer")
            reason = CloseReason.ERROR
        if reason is CloseReason.COMPLETED and self._looks_whole_and_is_not:
            self.failed(LookupError("what the replay has lost can't be told here"), "feed")
            reason = CloseReason.ERROR
        if self._supply.lacking != 0 and reason not in _COMES_BACK:
            # It was catching up; who comes back goes on with that, and this one will not.
            await writer.announce(self._supply.lacking)
        if reason is CloseReason.COMPLETED or reason is CloseReason.STOPPED:
            await writer.say("end", {"reason": reason.value}, id=f"{self._epoch}.end")
        elif reason in _COMES_BACK:
            retry = jittered(self._plan.retry)
            await writer.say("reconnect", {"reason": reason.value}, retry=retry)
        else:
            code, message, retryable = public(reason, self._error)
            id = None if retryable else f"{self._epoch}.failed"
            await writer.say("failed", {"code": code, "message": message}, id=id)
        self._note(reason, "")
        if self._plan.controls or reason is CloseReason.COMPLETED:
            # Otherwise the application returns without the final chunk, which HTTP/1.1
            # servers answer by closing the connection: the client sees that it is cut. What
            # stands between may add that chunk; our server hears of the cut (`Cut`).
            self._saying_goodbye = True
            await writer.end()

    def _report(self) -> None:
        """Make the one report: to the log, and to `on_close`."""
        if self._final is not None:
            return
        assert self.reason is not None
        moment, writer = self.statistics(), self._writer
        unsent = 0 if writer is None else writer.unsent
        dropped = moment.dropped + unsent
        self._final = replace(moment, state="closed", dropped=dropped, sending_for=0.0)
        first = None if writer is None else writer.first_item
        report = StreamReport(
            reason=self.reason,
            items=moment.items,
            bytes=moment.bytes,
            dropped=dropped,
            gaps=moment.gaps,
            duration=moment.duration,
            first_byte=None if first is None else first - self._start,
            longest_wait=moment.longest_wait,
            error=self._error,
            detail=self._detail,
        )
        # Whichever task it is that comes here, log and app find the variables of the view.
        self._plan.context.run(self._tell, report)

    def _tell(self, report: StreamReport) -> None:
        if self._entry is not None:
            self._entry.end_stream(report, self._writer.direct_bytes if self._writer else 0)
        log_report(report, self._path, answered_elsewhere=self._logged_elsewhere)
        if self._plan.on_close is not None:
            try:
                self._plan.on_close(report)
            except BaseException as error:  # noqa: ASYNC103  # see `passes`
                if passes(error):
                    raise
                logger.exception("on_close of %s failed", self._path)


def _in_words(policy: Policy) -> str:
    """Return which policy gave the client up, for the report."""
    name = f"policy {type(policy).__name__}"
    return name if policy.timeout is None else f"{name}, timeout {policy.timeout:g} s"
