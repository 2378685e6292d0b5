"""SSEDecoder: read an event stream as a browser reads it.

WHATWG HTML § 9.2.5 and § 9.2.6. Easy to get wrong:

* A CR at the end of a chunk ends its line at once: to wait for a possible LF would hold the
  event back until the next one. The LF is skipped if it comes.
* Only CR, LF and CRLF end a line. `str.splitlines` also splits at U+2028, U+0085 and others, and
  clients built on it tear events apart that have one of these in their text.
* ``id`` outlives its event. It becomes the last event id at the blank line, even if there was no
  data and so no event. It is ignored if it has a NUL in it.
* Text after the last blank line is not an event: a cut connection must not deliver half of one.

Parts of an unfinished line are kept in a list and joined once, so that a long line in many
small chunks costs no more than one in a large chunk.
"""

from __future__ import annotations

import codecs

import msgspec

from flowstream._errors import DecodingError

__all__ = ["SSEDecoder", "ServerSentEvent"]

_MAX_RETRY_DIGITS = 18
"""More digits are ignored, like a value that is no number. They would mean thirty million years or
more, and `int` raises an error for thousands of digits."""


class ServerSentEvent(msgspec.Struct, frozen=True, gc=False):
    """One event as EventSource would dispatch it.

    A Struct, because a frozen dataclass takes many times as long to make, and a load test
    makes one for each of millions of events.
    """

    type: str
    """The event's name; ``"message"`` if it has none."""

    data: str
    """The ``data:`` lines, joined by LF."""

    id: str
    """The last event id: from this event, or from an earlier one, or ``""``."""


class SSEDecoder:
    """An incremental parser of ``text/event-stream``.

    You need not call anything at the end of the stream: an unfinished event is discarded, as the
    standard says.

    Args:
        max_event: most characters of an unfinished event: its data so far and the current line.

    Raises:
        ValueError: `max_event` is less than 1.
    """

    last_event_id: str
    """The id that a client would send as ``Last-Event-ID``; ``""`` until there is one."""

    retry: int | None
    """The reconnection time that the server last asked for, in milliseconds; None if never."""

    comments: int
    """Number of comments, heartbeats included."""

    def __init__(self, *, max_event: int = 1 << 20) -> None:
        if max_event < 1:
            raise ValueError(f"max_event must be 1 or more characters, not {max_event}")
        self.last_event_id = ""
        self.retry = None
        self.comments = 0
        self._max_event = max_event
        # Replace errors by U+FFFD, one for each maximal part of a sequence. The Encoding Standard
        # asks for that, and Python does it.
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._at_start = True
        self._after_cr = False
        self._broken = False
        self._line: list[str] = []  # the parts of the unfinished line
        self._line_size = 0
        self._data: list[str] = []  # the event's data lines
        self._data_size = 0
        self._type = ""
        self._id = ""

    def feed(self, data: bytes) -> list[ServerSentEvent]:
        """Return the events that `data` completes, in order.

        Raises:
            DecodingError: an event is larger than `max_event`. Nothing can be decoded after that:
                each further call raises it, too.
        """
        events: list[ServerSentEvent] = []
        self._feed(data, events)
        return events

    def _feed(self, data: bytes, events: list[ServerSentEvent]) -> None:
        """Add the events that `data` completes to `events`, also those before an error."""
        if self._broken:
            raise self._too_large()
        lines = self._text(data).split("\n")
        rest = lines.pop()
        if lines and self._line:
            lines[0] = "".join(self._line) + lines[0]
            self._line.clear()
            self._line_size = 0
        for line in lines:
            if not line:
                self._dispatch(events)
                continue
            if self._data_size + len(line) > self._max_event:
                raise self._too_large()
            name, _, value = line.partition(":")
            if value.startswith(" "):
                value = value[1:]
            if name == "data":
                self._data.append(value)
                self._data_size += len(value) + 1
            elif name == "id":
                if "\0" not in value:
                    self._id = value
            elif name == "event":
                self._type = value
            elif name == "retry":
                # isdigit() alone accepts the digits of every script.
                if value.isascii() and value.isdigit() and len(value) <= _MAX_RETRY_DIGITS:
                    self.retry = int(value)
            elif not name:
                self.comments += 1
            else:
                self._other_line(line, events)
        if rest:
            if self._data_size + self._line_size + len(rest) > self._max_event:
                raise self._too_large()
            self._line.append(rest)
            self._line_size += len(rest)

    def _other_line(self, line: str, events: list[ServerSentEvent]) -> None:
        """Ignore a line whose field the standard does not know."""

    def _text(self, data: bytes) -> str:
        """Return the characters that `data` completes, with LF as the only end of line."""
        text = self._decode(data)
        if not text:
            return text
        if self._at_start:
            self._at_start = False
            text = text.removeprefix("\ufeff")
        if self._after_cr or "\r" in text:
            if self._after_cr:
                text = text.removeprefix("\n")
            self._after_cr = text.endswith("\r")
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        return text

    def _dispatch(self, events: list[ServerSentEvent]) -> None:
        self.last_event_id = self._id
        if self._data:
            data = self._data[0] if len(self._data) == 1 else "\n".join(self._data)
            events.append(ServerSentEvent(self._type or "message", data, self._id))
            self._data.clear()
            self._data_size = 0
        self._type = ""

    def _too_large(self) -> DecodingError:
        self._broken = True
        self._line.clear()
        self._data.clear()
        return DecodingError(f"an event is larger than {self._max_event} characters")
