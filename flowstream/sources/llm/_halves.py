r"""Halves: join characters that a server cut in two.

JavaScript counts an emoji as two units (UTF-16). A server that cuts a text between them sends each
half as an escape, ``\ud83d`` in one chunk and ``\ude00`` in the next. JSON allows that (RFC 8259,
section 8.2), but UTF-8 has no bytes for a half. So a first half waits here for the second one,
which comes with the next piece of the same text. A half that stays alone becomes U+FFFD.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from flowstream.llm import ModelEvent, Reasoning, Token, ToolCall

_HIGH = re.compile("[\ud800-\udbff]\\Z")


class Halves:
    """The halves that wait, in one answer.

    Attributes:
        waiting: each half, by its text: a call's number, or the type of the event.
    """

    def __init__(self) -> None:
        self.waiting: dict[object, str] = {}

    def mend(self, events: Iterable[ModelEvent]) -> list[ModelEvent]:
        """Return the events without lone halves. Events that become empty are left out."""
        return [mended for event in events if (mended := self._mend(event)) is not None]

    def rest(self) -> list[ModelEvent]:
        """Return an event for each half whose other half never came."""
        waiting, self.waiting = self.waiting, {}
        return [
            ToolCall(key, "\N{REPLACEMENT CHARACTER}")
            if isinstance(key, int)
            else (Token if key is Token else Reasoning)("\N{REPLACEMENT CHARACTER}")
            for key in waiting
        ]

    def _mend(self, event: ModelEvent) -> ModelEvent | None:
        if isinstance(event, (Token, Reasoning)):
            text = self._whole(type(event), event.data)
            if text == event.data:
                return event
            return type(event)(text) if text else None
        if isinstance(event, ToolCall):
            text = self._whole(event.index, event.arguments)
            id, name = event.id and _well_formed(event.id), event.name and _well_formed(event.name)
            if not text and event.arguments and id is None and name is None:
                return None
            return msgspec.structs.replace(event, arguments=text, id=id, name=name)
        return event

    def _whole(self, key: object, text: str) -> str:
        if not text:
            return text
        text = self.waiting.pop(key, "") + text
        if _HIGH.search(text):
            self.waiting[key] = text[-1]
            text = text[:-1]
        return _well_formed(text)


def _well_formed(text: str) -> str:
    """Return `text` with neighbouring halves joined, and U+FFFD for those that are alone."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
