"""How a stream ends: a table of states, the first reason, and one report.

Two states describe a stream's end:

* What may its writer still write? `WriterState`; the table is `WRITER`.
* What does its report wait for? `ReportState`; the table is `REPORT`.

`Ending` holds both states and the reason. The stream reports what has happened, through a method
for each kind of `Trigger`, and does the actions that come back, in their order. A trigger that a
table does not list changes nothing, such as a second abort, or an end that comes late.

There are two ways to end. A graceful end (`CLOSED`, `OVERFULL`, `PRODUCER_ENDED`) lets the writer
write what is queued and say why. An abort (`LEFT`, `GIVEN_UP`, `STALLED`, `BROKEN_OFF`) cuts the
writer off. Three writes are not cut off, because a cut would tell the client something false, or
lose the count:

* The policy gives a client up before it was answered: the client still gets the status line
  (`HEAD_ALONE`).
* The client leaves at the last chunk. It did not leave early: servers report a disconnect there,
  too, while they get the connection ready for its next request (`LAST_CHUNK_ALONE`).
* A client that knows the length leaves with the last byte, before `send` has returned. It has
  everything, so the reason is `completed`. The write may finish, so that it is counted (`TAKEN`).

There is no I/O here. docs/explanation/pipeline.md has the drawing, made from the tables.
"""

from __future__ import annotations

import enum

from flowstream._closing import CloseReason


class WriterState(enum.Enum):
    """What the writer of one stream may still write. The value says it in words."""

    HEAD = "the status line is not out yet"
    BODY = "events are written, and then the last word"
    LAST_CHUNK = "all bytes are handed over; the end of the body is on its way"
    HEAD_ALONE = "the client is given up before it was answered: it gets only the status line"
    LAST_CHUNK_ALONE = "the client left at the end of the body, which is still written"
    TAKEN = "the client took every byte it was promised and left; the write may finish"
    UNANSWERED = "cut off before the status line"
    CUT = "cut off after the status line"
    RESET = "cut off, and the connection is told to reset the client"


class ReportState(enum.Enum):
    """What the report of one stream waits for. The value says it in words."""

    AWAITS_PRODUCER = "the producer runs or cleans up"
    AWAITS_WRITER = "the producer has ended; the writer has more to write"
    MADE = "the one report is made"


class Trigger(enum.Enum):
    """What happens to a stream. The value says it in words."""

    ANSWERED = "the status line is out"
    ALL_WRITTEN = "all bytes are handed over"
    PRODUCER_ENDED = "the producer has ended and cleaned up"
    CLOSED = "the stream is closed gracefully"
    OVERFULL = "the next event would pass max_bytes"
    LEFT = "the client has left"
    LEFT_WITH_ALL = "the client has left with every byte it was promised"
    GIVEN_UP = "the policy disconnects the client"
    STALLED = "a write makes no progress"
    BROKEN_OFF = "it is cancelled, its writer fails, or the server can wait no longer"
    WRITER_OVER = "the writer is cut off, or has only one last write"
    FINISHED = "the host has waited for the producer"


class Action(enum.Enum):
    """What the stream does then. The value says it in words."""

    STOP_PRODUCER = "cancel the producer"
    FINISH_QUEUE = "let the writer take what is queued, and no more"
    DROP_QUEUE = "drop what is queued"
    CUT_WRITER = "cancel the writer"
    RESET_CLIENT = "reset the client's connection"
    REPORT = "make the report"


# {state: {trigger: (next state, actions in their order)}}
WriterTable = dict[WriterState, dict[Trigger, tuple[WriterState, tuple[Action, ...]]]]

_FINISH = (Action.FINISH_QUEUE,)
_CLOSE = (Action.STOP_PRODUCER, Action.FINISH_QUEUE)
_DROP = (Action.STOP_PRODUCER, Action.DROP_QUEUE)
_CUT = (Action.CUT_WRITER,)
_RESET = (Action.RESET_CLIENT,)

WRITER: WriterTable = {
    WriterState.HEAD: {
        Trigger.ANSWERED: (WriterState.BODY, ()),
        Trigger.PRODUCER_ENDED: (WriterState.HEAD, _FINISH),
        Trigger.CLOSED: (WriterState.HEAD, _CLOSE),
        Trigger.LEFT: (WriterState.UNANSWERED, _DROP + _CUT),
        Trigger.LEFT_WITH_ALL: (WriterState.HEAD_ALONE, _DROP),  # it was promised no byte
        Trigger.GIVEN_UP: (WriterState.HEAD_ALONE, _DROP),
        Trigger.STALLED: (WriterState.UNANSWERED, _DROP + _CUT),
        Trigger.BROKEN_OFF: (WriterState.UNANSWERED, _DROP + _CUT),
    },
    WriterState.BODY: {
        Trigger.ALL_WRITTEN: (WriterState.LAST_CHUNK, ()),
        Trigger.PRODUCER_ENDED: (WriterState.BODY, _FINISH),
        Trigger.CLOSED: (WriterState.BODY, _CLOSE),
        Trigger.OVERFULL: (WriterState.BODY, _DROP),
        Trigger.LEFT: (WriterState.CUT, _DROP + _CUT),
        Trigger.LEFT_WITH_ALL: (WriterState.TAKEN, _DROP),
        # Reset it: an ordinary end of the response would wait behind what the client does not take.
        Trigger.GIVEN_UP: (WriterState.RESET, _DROP + _CUT + _RESET),
        Trigger.STALLED: (WriterState.RESET, _DROP + _CUT + _RESET),
        Trigger.BROKEN_OFF: (WriterState.CUT, _DROP + _CUT),
    },
    WriterState.LAST_CHUNK: {
        Trigger.LEFT: (WriterState.LAST_CHUNK_ALONE, _DROP),
        Trigger.GIVEN_UP: (WriterState.RESET, _DROP + _CUT + _RESET),
        Trigger.STALLED: (WriterState.RESET, _DROP + _CUT + _RESET),
        Trigger.BROKEN_OFF: (WriterState.CUT, _DROP + _CUT),
    },
    WriterState.HEAD_ALONE: {
        Trigger.ANSWERED: (WriterState.CUT, ()),
        Trigger.LEFT: (WriterState.UNANSWERED, _CUT),
        Trigger.STALLED: (WriterState.UNANSWERED, _CUT),
        Trigger.BROKEN_OFF: (WriterState.UNANSWERED, _CUT),
    },
    WriterState.LAST_CHUNK_ALONE: {
        Trigger.GIVEN_UP: (WriterState.RESET, _CUT + _RESET),
        Trigger.STALLED: (WriterState.RESET, _CUT + _RESET),
        Trigger.BROKEN_OFF: (WriterState.CUT, _CUT),
    },
    WriterState.TAKEN: {
        Trigger.GIVEN_UP: (WriterState.RESET, _CUT + _RESET),
        Trigger.STALLED: (WriterState.RESET, _CUT + _RESET),
        Trigger.BROKEN_OFF: (WriterState.CUT, _CUT),
    },
    WriterState.UNANSWERED: {
        Trigger.ANSWERED: (WriterState.CUT, ()),  # the write was shielded
    },
    WriterState.CUT: {
        # A write that was cut off may still be stuck in the server.
        Trigger.GIVEN_UP: (WriterState.RESET, _RESET),
        Trigger.STALLED: (WriterState.RESET, _RESET),
    },
    WriterState.RESET: {},
}

# {state: {trigger: next state}}; a state becomes `MADE` with the action `REPORT`
REPORT: dict[ReportState, dict[Trigger, ReportState]] = {
    ReportState.AWAITS_PRODUCER: {
        Trigger.PRODUCER_ENDED: ReportState.AWAITS_WRITER,
        Trigger.FINISHED: ReportState.MADE,
    },
    ReportState.AWAITS_WRITER: {
        Trigger.WRITER_OVER: ReportState.MADE,
        Trigger.FINISHED: ReportState.MADE,
    },
    ReportState.MADE: {},
}

GOES_ON = (WriterState.HEAD, WriterState.BODY, WriterState.LAST_CHUNK)
"""Nothing was aborted."""

CUT_OFF = (WriterState.UNANSWERED, WriterState.CUT, WriterState.RESET)
"""The writer does nothing more."""

OVER = (*CUT_OFF, WriterState.HEAD_ALONE, WriterState.LAST_CHUNK_ALONE)
"""Nothing more is written that the report counts, so `WRITER_OVER` follows at once."""

_ABORTS = {
    CloseReason.CLIENT_DISCONNECTED: Trigger.LEFT,
    CloseReason.SLOW_CONSUMER: Trigger.GIVEN_UP,
    CloseReason.STALLED: Trigger.STALLED,
}


class Ending:
    """How one stream ends.

    Each method except `note` and `fail` returns the actions for the stream to do now.

    Attributes:
        writer: what the writer may still write.
        report: what the report waits for.
        reason: why the stream ended or is ending, or None. The first reason stays.
        detail: the cause of the reason: see `StreamReport.detail`.
        error: what the producer failed with, or None.
        logged_elsewhere: somebody else logs that error.
    """

    __slots__ = ("detail", "error", "logged_elsewhere", "reason", "report", "writer")

    def __init__(self) -> None:
        self.writer = WriterState.HEAD
        self.report = ReportState.AWAITS_PRODUCER
        self.reason: CloseReason | None = None
        self.detail = ""
        self.error: BaseException | None = None
        self.logged_elsewhere = False

    @property
    def goes_on(self) -> bool:
        """Whether nothing was aborted."""
        return self.writer in GOES_ON

    @property
    def is_cut_off(self) -> bool:
        """Whether the writer does nothing more."""
        return self.writer in CUT_OFF

    @property
    def unanswered(self) -> bool:
        """Whether it is cut off before the status line, so that somebody else may answer."""
        return self.writer is WriterState.UNANSWERED

    def note(self, reason: CloseReason, detail: str = "") -> bool:
        """Note why the stream ends; return False if there is a reason already."""
        if self.reason is not None:
            return False
        self.reason, self.detail = reason, detail
        return True

    def fail(self, error: BaseException, detail: str) -> bool:
        """Note that the stream fails with `error`; return False if it is ending already."""
        if not self.note(CloseReason.ERROR, detail):
            return False
        self.error = error
        return True

    def answered(self) -> tuple[Action, ...]:
        """The status line is out."""
        return self._turn(Trigger.ANSWERED)

    def all_written(self) -> tuple[Action, ...]:
        """All bytes are handed over; the end of the body comes next."""
        self.note(CloseReason.COMPLETED)
        return self._turn(Trigger.ALL_WRITTEN)

    def producer_ended(
        self,
        reason: CloseReason = CloseReason.COMPLETED,
        error: BaseException | None = None,
        detail: str = "",
    ) -> tuple[Action, ...]:
        """No more events will come. If there is an `error`, it was logged elsewhere.

        The reason `completed` is not recorded yet: what was made must be written first.
        """
        if reason is not CloseReason.COMPLETED and self.note(reason, detail):
            self.error, self.logged_elsewhere = error, True
        return self._turn(Trigger.PRODUCER_ENDED)

    def close(self, reason: CloseReason, detail: str = "") -> tuple[Action, ...]:
        """End gracefully. If the producer has ended by itself, the stream still completes."""
        if self.report is ReportState.AWAITS_PRODUCER:
            self.note(reason, detail)
        return self._turn(Trigger.CLOSED)

    def overfull(self, detail: str) -> tuple[Action, ...]:
        """End without what is queued: the next event would pass the bound in bytes."""
        self.note(CloseReason.MAX_BYTES, detail)
        return self._turn(Trigger.OVERFULL)

    def abort(
        self, reason: CloseReason, detail: str = "", *, has_all: bool = False
    ) -> tuple[Action, ...]:
        """End at once.

        Args:
            reason: why.
            detail: the cause of the reason.
            has_all: every byte that the client was promised is written, or being written.
        """
        trigger = _ABORTS.get(reason, Trigger.BROKEN_OFF)
        if trigger is Trigger.LEFT and has_all and self.note(CloseReason.COMPLETED):
            trigger = Trigger.LEFT_WITH_ALL
        self.note(reason, detail)
        return self._turn(trigger)

    def finish(self) -> tuple[Action, ...]:
        """The host has waited for the producer. Make the report, unless it is made."""
        return self._turn(Trigger.FINISHED)

    def _turn(self, trigger: Trigger) -> tuple[Action, ...]:
        was_made = self.report is ReportState.MADE
        self.writer, actions = WRITER[self.writer].get(trigger, (self.writer, ()))
        self.report = REPORT[self.report].get(trigger, self.report)
        if self.writer in OVER:
            self.report = REPORT[self.report].get(Trigger.WRITER_OVER, self.report)
        if self.report is ReportState.MADE and not was_made:
            actions = (*actions, Action.REPORT)
        return actions
