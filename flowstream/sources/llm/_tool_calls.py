"""ToolCalls: find out which piece belongs to which of an answer's tool calls.

OpenAI numbers the calls, and sends id and name with the first piece of each. Servers that imitate
it repeat id and name with each piece, give all calls the number 0 or none, no id or the same one,
or a new id to each piece. The result here is like OpenAI's: numbers without gaps, an id that no
other call has, id and name only in the first piece.

What decides, the surest sign first:

1. A known id continues its call, unless number and name say that another call begins.
2. A new id begins a call; but a piece without a name continues a call with unfinished arguments.
3. A known number continues its call, no number the latest one. A name begins another call if it is
   a different name, or if the arguments so far are a complete JSON value.
"""

from __future__ import annotations

import re

import msgspec

from flowstream.llm import ModelEvent, ToolCall

# Characters of an answer's arguments that are searched for their end. No server that leaves out ids
# and numbers sends as much.
_MOST = 1024 * 1024

# Calls of one answer, and characters of their ids and names that are remembered: a server may give
# each piece another id. No model calls as many tools at once.
_MOST_CALLS = 1000
_MOST_REMEMBERED = 1024 * 1024

_MARKS = re.compile(r'\\.?|["{}\[\]]', re.DOTALL)


class Remembered:
    """Counts what is kept of the tool calls of one answer until it ends."""

    def __init__(self) -> None:
        self._calls = 0
        self._characters = 0

    def call(self) -> None:
        """Count another call.

        Raises:
            msgspec.ValidationError: there are more than any model makes.
        """
        self._calls += 1
        if self._calls > _MOST_CALLS:
            raise msgspec.ValidationError(f"an answer has more than {_MOST_CALLS} tool calls")

    def text(self, text: str) -> None:
        """Count an id or a name.

        Raises:
            msgspec.ValidationError: all together are longer than any server's.
        """
        self._characters += len(text) + 32  # 32 for the entry
        if self._characters > _MOST_REMEMBERED:
            raise msgspec.ValidationError(
                f"the ids and names of tool calls have more than {_MOST_REMEMBERED} characters"
            )


class ToolCalls:
    """The tool calls of one answer."""

    def __init__(self) -> None:
        self._remembered = Remembered()
        self._looked_at = 0  # characters of arguments
        self._calls: list[_Call] = []
        self._by_number: dict[int, _Call] = {}  # the latest with the upstream's number
        self._by_id: dict[str, _Call] = {}  # the latest with the upstream's id
        self._ids: set[str] = set()  # ours, of all calls
        self._latest: _Call | None = None

    def piece(
        self,
        number: int | None,
        id: str | None,
        name: str | None,
        text: str,
        *,
        custom: bool = False,
        another: bool = False,
    ) -> ToolCall | None:
        """Return the event for a piece of a call; None if there is nothing to send yet.

        Args:
            number: the upstream's number of the call; None if it has none.
            id: the call's id; None or empty if the piece has none.
            name: the tool's name; None or empty if the piece has none.
            text: a piece of the arguments.
            custom: whether the tool takes text, not JSON.
            another: whether it is in one list with the piece before. Then a piece with a name, and
                without its own id and number, is another call.

        Raises:
            msgspec.ValidationError: there are more calls, ids or names than are remembered.
        """
        call = self._find(number, id or None, name or None, text, another)
        if call is None:
            call = self._begin(id or None, name or "", custom)
        if name and not call.name:
            self._remembered.text(name)
            call.name = name
        call.custom = call.custom or custom
        if number is not None:
            if number not in self._by_number:
                self._remembered.text("")
            self._by_number[number] = call
        if id:
            if id not in self._by_id:
                self._remembered.text(id)
            self._by_id[id] = call
        self._latest = call
        self._looked_at += len(text)
        call.add(text, keep=self._looked_at <= _MOST)
        if call.told:
            return ToolCall(call.index, text, custom=call.custom)
        if not (call.name or text):
            return None
        return call.first_piece(text)

    def rest(self) -> list[ModelEvent]:
        """Return the events for calls of which only an id came."""
        return [call.first_piece("") for call in self._calls if not call.told]

    def _find(
        self, number: int | None, id: str | None, name: str | None, text: str, another: bool
    ) -> _Call | None:
        """Return the call that a piece continues; None if it begins a new one."""
        numbered = None if number is None else self._by_number.get(number)
        if id is not None:
            same = self._by_id.get(id)
            if same is not None:
                if number is not None and numbered is same:
                    return same
                if number is None or name is None:
                    return same if not same.is_over_at(name, text) else None
                return None if same.is_whole() or not same.has_text else same
            call = numbered if number is not None else self._latest
            if call is None or call.is_whole():
                return None
            if name is not None:  # a late id for a call without one
                return call if not call.has_id and name == call.name else None
            return call if call.has_text or not call.has_id else None
        if number is None:
            call = self._latest
            if another and name is not None:
                return None
        else:
            call = numbered
            if call is None:
                latest = self._latest
                goes_on = name is None and latest is not None and not latest.is_whole()
                return latest if goes_on else None
        return None if call is None or call.is_over_at(name, text) else call

    def _begin(self, id: str | None, name: str, custom: bool) -> _Call:
        self._remembered.call()
        self._remembered.text(name)
        index = len(self._calls)
        own = id or f"call_{index}"
        while own in self._ids:
            own = f"{own}_{index}"
        self._ids.add(own)
        call = _Call(index, own, id is not None, name, custom)
        self._calls.append(call)
        return call


class _Call:
    """A call.

    Attributes:
        index: our number for it.
        id: our id for it.
        has_id: whether the upstream gave it an id.
        name: the tool's name; empty if it is not known yet.
        custom: whether the tool takes text.
        told: whether its first piece was sent.
        has_text: whether some of its arguments came.
    """

    __slots__ = (
        "_depth",
        "_escaped",
        "_in_string",
        "_left",
        "_over",
        "custom",
        "has_id",
        "has_text",
        "id",
        "index",
        "name",
        "told",
    )

    def __init__(self, index: int, id: str, has_id: bool, name: str, custom: bool) -> None:
        self.index = index
        self.id = id
        self.has_id = has_id
        self.name = name
        self.custom = custom
        self.told = False
        self.has_text = False
        self._left: list[str] = []  # the arguments that were not looked at yet
        self._depth = 0  # of brackets
        self._in_string = False
        self._escaped = False  # a backslash was the last character
        self._over = False

    def first_piece(self, text: str) -> ToolCall:
        """Return the event for a piece of this call."""
        self.told = True
        return ToolCall(self.index, text, self.id, self.name, self.custom)

    def add(self, text: str, *, keep: bool) -> None:
        """Add a piece of the arguments; `keep` it to search for their end."""
        self.has_text = self.has_text or bool(text.strip())
        if keep:
            self._left.append(text)

    def is_over_at(self, name: str | None, text: str) -> bool:
        """Return whether a piece with this name and text must belong to another call."""
        if name is None or not self.name:
            return False
        return name != self.name or (bool(text.strip()) and self.is_whole())

    def is_whole(self) -> bool:
        """Return whether the arguments are a complete JSON object or array."""
        # Searches only when it is called, and each piece once.
        text, self._left = "".join(self._left), []
        if not text:
            return self._over
        start, self._escaped = int(self._escaped), False
        for mark in _MARKS.finditer(text, start):
            found = mark.group()
            if found == "\\":
                self._escaped = True
            elif found == '"':
                self._in_string = not self._in_string
            elif found in ("{", "[") and not self._in_string:
                self._depth += 1
            elif found in ("}", "]") and not self._in_string:
                self._depth -= 1
                self._over = self._over or self._depth == 0
        return self._over
