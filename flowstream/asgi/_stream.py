"""One running stream: its tasks, and how it ends.

::

    supply ──► buffer ──► writer ──► send
       ▲                    ▲
       │ client gone        │ heartbeats
       └────── watch ───────┘

* The writer runs in the host's own task. The host is the code that serves the stream:
  `StreamResponse` as an ASGI application, or the Quart extension.
* The supply is a task that runs a producer, or a subscription to a topic, which needs no task.
* The watch looks at deadlines. It is a task; under flowstream's server, one task watches all
  streams.
* Under flowstream's server the connection tells the stream that the client has gone. Under other
  servers the host does.

There are two ways to end a stream. `close` is graceful: cancel the producer, still write what is
queued, and say why in a last event. `abort` is for a client that is gone or takes nothing: cancel
the producer and the writer, and drop the buffer. In both the first reason stays. In both the one
report is made when the producer has cleaned up, even if the writer is still stuck in a ``send``
that does not return.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import trio

from flowstream._clock import chance, clock
from flowstream._closing import CloseReason, StreamReport
from flowstream._live_stream import StreamStatistics
from flowstream._registry import Tally, registry_of_run
from flowstream.abc import Policy
from flowstream.asgi._advice import warn_on_plain_hypercorn
from flowstream.asgi._carrier import carrier_of, entry_of
from flowstream.asgi._deadlines import Activity, Deadlines
from flowstream.asgi._direct_write import direct_write_of
from flowstream.asgi._ending import Action, Ending, ReportState
from flowstream.asgi._last_word import has_all, say_last_word, shortfall
from flowstream.asgi._logging import call_on_close, log_report, printable
from flowstream.asgi._permit import Permit
from flowstream.asgi._request import last_event_id
from flowstream.asgi._statistics import closed, measured, report_of
from flowstream.asgi._supply import open_supply
from flowstream.asgi._transport import Transport
from flowstream.asgi._watch import Watch
from flowstream.asgi._writer import Writer
from flowstream.asgi.plan import Plan
from flowstream.buffer._event_buffer import EventBuffer
from flowstream.limits import chosen
from flowstream.tasks._failure import is_refusal, kind_of, passes, public_of

logger = logging.getLogger("flowstream")

# What `send` raises when the connection is closed, if it raises at all. ASGI leaves that to the
# server, and middleware that puts a Trio channel in between has errors of its own. Hypercorn raises
# BusyResourceError while it closes a connection that broke off an upload.
_GONE = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError)


class Stream:
    """A stream at work for one client.

    Args:
        plan: what is delivered.
        scope: the request's. The log gets its path without the query, which may hold a token.
        tally: the app's, if it counts its streams.

    Attributes:
        seen: the id of the event that the client saw last, or None.
    """

    def __init__(self, plan: Plan, scope: Mapping[str, Any], tally: Tally | None = None) -> None:
        self._plan = plan
        self._carrier = carrier_of(scope)
        self._permit = Permit(scope.get("app"))
        self._entry = entry_of(scope)
        if self._entry is not None:
            self._entry.begin_stream()
        self._path = printable(scope.get("path", ""))
        self._start = clock.current_time()
        self._epoch = chance.token_hex(4)
        self._encoder = plan.encoder.start()
        # A feed numbers its events itself.
        numbered = self._encoder.automatic_ids and not plan.is_feed
        prefix = f"{self._epoch}." if numbered else None
        self._buffer = EventBuffer(plan.buffer, plan.policy, prefix)
        self.seen: str | None = last_event_id(scope)
        after = self.seen or plan.after
        self._supply = open_supply(
            plan,
            self._buffer,
            self._encoder,
            self,
            path=self._path,
            after=after,
            framing=direct_write_of(scope).framing,
        )
        beats = bool(self._encoder.heartbeat()) and plan.controls
        deadlines = Deadlines(plan.limits, plan.heartbeat if beats else None, self._start)
        self._watch = Watch(self, deadlines)
        self._writer: Writer | None = None
        self._writing: trio.CancelScope | None = None  # around what the writer does now
        self._ending = Ending()
        self._final: StreamStatistics | None = None
        # Do this last: an instrument may ask for the statistics at once.
        self._registry = registry_of_run()
        self._view = self._registry.enter(self, self._path, plan.context, tally)

    @property
    def reason(self) -> CloseReason | None:
        """Why it ended or is ending, or None."""
        return self._ending.reason

    # -- what the host calls, in this order ------------------------------------------------

    @property
    def has_tasks(self) -> bool:
        """Whether it runs tasks besides the host's own."""
        return self.needs_nursery or self._supply.has_task

    @property
    def needs_nursery(self) -> bool:
        """Whether it needs a nursery of the host's, for a task that watches it.

        Without a carrier it does. A carrier tells it of its end, but does not notice a cancellation
        while a write is stuck: so a stream needs the task, too, if it lets a write be stuck for
        longer than the carrier does. A producer never needs the host's nursery: it can run in the
        carrier's.
        """
        own = self.stall_timeout
        return self._carrier is None or (own is not None and own > self._carrier.write_timeout)

    @property
    def stall_timeout(self) -> float | None:
        """Seconds that a write may make no progress; None if the server decides that.

        The server decides if the app has set nothing, or once the stream is aborted.
        """
        return chosen(self._plan.limits.stall_timeout) if self._ending.goes_on else None

    def begin(self, nursery: trio.Nursery | None) -> None:
        """Start the producer and the watch in `nursery`, the host's own.

        `nursery` may be None if `needs_nursery` is false. Then the producer is a task of the
        server, and `finish` waits for it.
        """
        self._supply.start(self._carrier.nursery if nursery is None and self._carrier else nursery)
        if self.needs_nursery:
            assert nursery is not None
            name = f"flowstream watch of {self._path}"
            nursery.start_soon(self._watch.run, self._start, name=name)
        else:
            self._watch.start(self._start)
        if self._carrier is not None:
            self._carrier.attach(self)  # it tells of the client's end and of the server's

    async def prime(self, seconds: float) -> None:
        """Wait for the first item, for the end of the source, or for `seconds`.

        Raises:
            Exception: what the producer raised before its first item, unchanged. Only a
                `PublicError` inside an exception group is raised alone.
        """
        with trio.move_on_after(seconds):
            if not self._buffer.queue.offered and not self._buffer.finished:
                await self._buffer.filled.wait()
        error = self._ending.error
        if error is not None and not self._buffer.queue.offered:
            await self._supply.ended.wait()
            self._ending.logged_elsewhere = True  # by the framework
            raise public_of(error) or error

    async def deliver(self, transport: Transport) -> None:
        """Write the stream to its client, from the answer to the last byte.

        Args:
            transport: carries the bytes; not begun.

        Raises:
            Exception: what `transport` raised before the status line was out. An error that says
                that the client has gone is not raised.
        """
        if self._ending.is_cut_off:
            return
        if self._carrier is None:
            warn_on_plain_hypercorn()
        self._permit.decide(self._plan, self._encoder, transport)
        self._writer = writer = Writer(
            transport,
            self._buffer,
            self._encoder,
            self._supply,
            controls=self._plan.controls,
            max_bytes=self._plan.limits.max_bytes,
        )
        more = True
        try:
            with self._until_cut_off():
                await writer.begin()
                self._do(self._ending.answered())
                self._supply.connect(writer, transport.direct)
                if not self._ending.goes_on:
                    return
                writer.open(self._plan.retry)
                await self._supply.run_up()  # the items that it makes now go out with the head
                more = await self._write(writer)
            self._permit.tell(self._path)
            while more and not self._ending.is_cut_off:
                # An idle stream waits here, without a cancel scope, which would take 0.8 KB.
                self._writing = None
                await self._buffer.filled.wait()
                if not self._ending.is_cut_off:
                    with self._until_cut_off():
                        more = await self._write(writer)
                    self._permit.tell(self._path)
        except _GONE as error:
            self.abort(CloseReason.CLIENT_DISCONNECTED, f"send: {kind_of(error)}")
        except BaseException as error:  # noqa: ASYNC103  # see `passes`
            if passes(error):
                raise
            self.failed(error, "writer")
            self.abort(CloseReason.ERROR)
            if self._ending.unanswered:
                self._ending.logged_elsewhere = True  # by the framework
                transport.withdraw()  # the framework answers in our place
                raise
        finally:
            transport.cut()  # before this returns to the host
            await transport.flush()  # noqa: ASYNC102  # the write is shielded

    async def finish(self) -> None:
        """Wait until the producer has cleaned up, then make the report.

        The stream may be in any state: a host calls this in a ``finally``.
        """
        if self.reason is None:
            self.abort(CloseReason.CANCELLED, "never sent" if self._writer is None else "")
        if self._supply.started:
            with trio.CancelScope(shield=True):
                await self._supply.ended.wait()  # bounded by cleanup_timeout
            self._supply.stop()  # leaves a topic that has ended
        if self._carrier is not None:
            self._carrier.detach(self)
        self._watch.stop()
        self._do(self._ending.finish())

    # -- how it ends -----------------------------------------------------------------------

    def close(self, reason: CloseReason, detail: str = "") -> None:
        """End it gracefully: cancel the producer, write what is queued, say why.

        A source that has ended by itself stays complete, however long its last items take.
        """
        self._do(self._ending.close(reason, detail))

    def abort(self, reason: CloseReason, detail: str = "") -> None:
        """End it at once: cancel the producer and the writer, drop what is queued."""
        actions = self._ending.abort(reason, detail, has_all=has_all(self._plan, self._writer))
        self._do(actions, reason, detail)

    def _do(
        self, actions: tuple[Action, ...], reason: CloseReason | None = None, detail: str = ""
    ) -> None:
        """Do these actions; `reason` and `detail` say why a client is reset."""
        for action in actions:
            match action:
                case Action.STOP_PRODUCER:
                    self._supply.stop()  # before the buffer rings, which would wake the producer
                case Action.FINISH_QUEUE:
                    self._buffer.finish()
                case Action.DROP_QUEUE:
                    self._buffer.abandon()
                case Action.CUT_WRITER:
                    if self._writing is not None:
                        self._writing.cancel()
                case Action.RESET_CLIENT:
                    if self._carrier is not None and reason is not None:
                        self._carrier.abort(reason, detail)  # it calls our `abort` again
                case Action.REPORT:
                    self._report()
        if self._supply.ended.is_set() and self._ending.report is ReportState.AWAITS_PRODUCER:
            self._do(self._ending.producer_ended())  # a stopped feed does not report its end

    async def refuse(self, detail: str) -> None:
        """End it before it begins: release the source, make the report."""
        self._ending.note(CloseReason.REFUSED, detail)
        await self._supply.discard()
        self._do(self._ending.finish())

    def statistics(self) -> StreamStatistics:
        """Return what the stream has done so far, and how full its buffer is."""
        if self._final is not None:
            return self._final
        self._supply.tally()
        return measured(self._ending, self._writer, self._buffer, self._permit, start=self._start)

    # -- what the supply calls -------------------------------------------------------------

    def give_up(self, detail: str = "") -> None:
        """End it at once: the client is too slow."""
        self.abort(CloseReason.SLOW_CONSUMER, detail or _in_words(self._plan.policy))

    def failed(self, error: BaseException, who: str) -> None:
        """Note why no more events will come. The client is told after those that are queued."""
        noted = self._ending.fail(error, f"{who}: {kind_of(error)}")
        if not noted and not is_refusal(error):
            what = f"the {who} of %s failed while it was ended (%s)"
            logger.error(what, self._path, self.reason, exc_info=error)

    def supply_ended(
        self,
        reason: CloseReason = CloseReason.COMPLETED,
        error: BaseException | None = None,
        detail: str = "",
    ) -> None:
        """Write what is queued, and end. If there is an `error`, it was logged elsewhere."""
        self._do(self._ending.producer_ended(reason, error, detail))

    # -- what the watch calls --------------------------------------------------------------

    def activity(self, now: float) -> Activity:
        """Return what the writer has noted until `now`."""
        self._supply.tally()
        writer = self._writer
        if writer is None:
            return Activity(None, now)
        return Activity(writer.sending_since, writer.last_write)

    def beat(self) -> None:
        """Let the writer send a heartbeat."""
        if self._writer is not None:
            self._writer.beat()

    def watch_ended(self) -> None:
        """End at once, unless it has ended: the task that watched it was cancelled."""
        if self._ending.report is not ReportState.MADE:
            self.abort(CloseReason.CANCELLED)

    # -- the end ---------------------------------------------------------------------------

    def _until_cut_off(self) -> trio.CancelScope:
        """Return a cancel scope for what the writer does next; it ends when the writer is cut."""
        self._writing = scope = trio.CancelScope()
        if self._ending.is_cut_off:
            scope.cancel()
        return scope

    async def _write(self, writer: Writer) -> bool:
        """Write what is queued; write the end if no more will come. Return whether more may."""
        if not await writer.run():
            self._do(self._ending.overfull(f"max_bytes {self._plan.limits.max_bytes}"))
            await writer.announce_rest()
        if not self._buffer.finished:
            return True
        await self._part(writer)
        return False

    async def _part(self, writer: Writer) -> None:
        """Say why the stream ends; end the body if it is complete, or if it said so."""
        self._permit.part()
        await self._supply.ended.wait()  # it may still fail, which changes what is said
        reason = self.reason or CloseReason.COMPLETED
        if reason is CloseReason.COMPLETED:
            fault = shortfall(self._plan, writer, self._buffer)
            if fault is not None:
                self.failed(*fault)
                reason = CloseReason.ERROR
        error, lacking = self._ending.error, self._supply.lacking
        await say_last_word(writer, self._plan, reason, error, lacking=lacking, epoch=self._epoch)
        if self._plan.controls or reason is CloseReason.COMPLETED:
            # Otherwise the application returns without the final chunk. An HTTP/1.1 server then
            # closes the connection, and the client sees that the body is cut. Middleware may add
            # that chunk, so our server is told of the cut (`Cut`).
            self._do(self._ending.all_written())
            await writer.end()

    def _report(self) -> None:
        """Make the one report, for the log and `on_close`."""
        self._final = final = closed(self.statistics(), self._writer)
        report = report_of(final, self._ending, self._writer, start=self._start)
        # Any task may come here; the log and the app get the context variables of the view.
        self._plan.context.run(self._tell, report)

    def _tell(self, report: StreamReport) -> None:
        assert self._final is not None
        if self._entry is not None:
            self._entry.end_stream(report, self._writer.direct_bytes if self._writer else 0)
        try:
            log_report(report, self._path, answered_elsewhere=self._ending.logged_elsewhere)
        finally:  # a filter of the app's logging may raise
            self._registry.leave(self._view, self._final, report)
        if self._plan.on_close is not None:
            call_on_close(self._plan.on_close, report, self._path)


def _in_words(policy: Policy) -> str:
    """Return the policy that gave the client up, in words for the report."""
    name = f"policy {type(policy).__name__}"
    return name if policy.timeout is None else f"{name}, timeout {policy.timeout:g} s"
