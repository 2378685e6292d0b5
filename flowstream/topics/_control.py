"""Control messages: what one worker tells all workers of a log, itself included.

They are records of an internal topic of the log. So they are heard in one order by all, also by a
worker whose hint was lost or that was frozen for a while::

    Topic.delete()            {"what": "deleted", "topic": "topic:news", "before": "1lgppmf8l75"}
    Topics.revoke_subject()   {"what": "revoked", "subject": "ada", "name": null}

A message that this release does not know is left out: a newer release may run beside it. Only the
app's own calls write here, and nothing that a client sends does.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import msgspec

from flowstream.abc import Log, LogEntry, Record
from flowstream.limits import Replay
from flowstream.tasks._failure import passes
from flowstream.topics._log_reader import LogReader
from flowstream.topics._log_tail import LogTail
from flowstream.topics._sender import Sender

logger = logging.getLogger("flowstream")

CONTROL_TOPIC = "control:"
"""The internal topic. Those of apps begin with ``topic:``, those of runs with ``run:``."""

_KEEP = Replay(items=1000, seconds=3600.0, bytes=1 << 20)

_write = msgspec.json.encode
_read = msgspec.json.Decoder(dict[str, Any]).decode


class ControlListener(Protocol):
    """Hears control messages. It must not wait."""

    def hear_control(self, what: str, fields: Mapping[str, Any]) -> None:
        """Do what the message says; leave out what is unknown."""

    def miss_control(self) -> None:
        """Hear that messages were lost, nobody knows which."""


class Control:
    """The control messages of one log, as this process sends and hears them.

    Args:
        log: the log.
        start: starts a task that outlives the caller.
        stale: called when the tail has something to read.
        patience: seconds that `send` waits while the log is away.

    Attributes:
        tail: hears the messages.
        sent, heard: messages so far.
    """

    def __init__(
        self,
        log: Log,
        start: Callable[[Callable[[], Awaitable[object]]], None],
        stale: Callable[[LogReader], None],
        patience: float,
    ) -> None:
        self.tail: LogTail = LogTail(CONTROL_TOPIC, log, self._hear, self._miss, stale)
        self.sent: int = 0
        self.heard: int = 0
        self._sender = Sender(CONTROL_TOPIC, log, _KEEP, start, patience=patience)
        self._listeners: weakref.WeakSet[ControlListener] = weakref.WeakSet()

    def add(self, listener: ControlListener) -> None:
        """Tell `listener` what comes from now on. It is held weakly."""
        self._listeners.add(listener)

    async def send(self, what: str, **fields: str | None) -> None:
        """Tell all workers; **wait** until the message is in the log.

        Workers that reach the log hear it within milliseconds; if their hint is lost, within 10 s.

        Raises:
            LogUnavailableError: it is not in the log, or may be: see its ``maybe``.
        """
        await self._sender.send([LogEntry(_write({"what": what, **fields}))])
        self.sent += 1

    def _hear(self, record: Record) -> None:
        try:
            fields = _read(record.data)
        except msgspec.MsgspecError:
            return
        what = fields.pop("what", None)
        if isinstance(what, str):
            self.heard += 1
            self._tell(lambda listener: listener.hear_control(what, fields))

    def _miss(self) -> None:
        logger.warning(
            "control messages of the log were lost before this worker heard them; streams whose "
            "subject may have been revoked are ended, and their clients may come back"
        )
        self._tell(lambda listener: listener.miss_control())

    def _tell(self, call: Callable[[ControlListener], None]) -> None:
        for listener in list(self._listeners):
            try:
                call(listener)
            except BaseException as error:  # noqa: ASYNC103  # see `passes`
                if passes(error):
                    raise
                logger.exception("a control message failed")  # the others hear it all the same
