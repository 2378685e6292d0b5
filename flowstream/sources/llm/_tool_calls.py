"""ToolCalls: which piece belongs to which of an answer's tool calls.

OpenAI numbers the calls, and sends id and name with the first piece of each. Servers that imitate
it repeat id and name with each piece, give all calls the number 0 or none, no id or the same one,
or a new id to each piece. What comes out here is as OpenAI has it: dense numbers, an id that no
other call has, id and name in the first piece and only there.

What decides, from the surest to the least:

1. A known id goes on with its call, unless number and name say that another call begins.
2. A new id begins a call; a piece without a name goes on where arguments are not at their end.
3. A known number, or none, goes on with its call, or the latest; a name begins another one if it
   is another name, or if the arguments so far are a whole JSON value.
"""

from __future__ import annotations

import re

import msgspec

from flowstream.llm import ModelEvent, ToolCall

# Characters of an answer's arguments that are looked at to find their end. No server that leaves
# out ids and numbers sends as much.
_MOST = 1024 * 1024

# Calls of one answer, and characters of the ids and names that are remembered of them: a server
# may give each piece another id. No model calls as many tools at once.
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
            msgspec.ValidationError: together they are longer than any server's.
        """
        self._characters += len(text) + 32  # and an entry for it
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
        """Return the event for a piece of a call; None if there is nothing to tell yet.

        Args:
            number: the upstream's for the call; None if it has none.
            id: the call's; None or empty if it is not said.
            name: the tool's; None or empty if it is not said.
            text: of the arguments.
            custom: the tool takes text, not JSON.
            another: it stands in one list with the piece before; with a name and without an id
                and a number of its own it is another call.

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
        """Return the events for calls of which nothing but an id came."""
        return [call.first_piece("") for call in self._calls if not call.told]

    def _find(
        self, number: int | None, id: str | None, name: str | None, text: str, another: bool
    ) -> _Call | None:
        """Return the call that a piece goes on with; None if it begins one."""
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
            if name is not None:  # a late id, of a call that had none
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
        index: ours.
        id: ours.
        has_id: the upstream gave it one.
        name: the tool's; empty if it is not known yet.
        custom: the tool takes text.
        told: its first piece was sent.
        has_text: some of its arguments came.
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
        """Return the event that tells of it."""
        self.told = True
        return ToolCall(self.index, text, self.id, self.name, self.custom)

    def add(self, text: str, *, keep: bool) -> None:
        """Add a piece of the arguments; `keep` it to be looked at."""
        self.has_text = self.has_text or bool(text.strip())
        if keep:
            self._left.append(text)

    def is_over_at(self, name: str | None, text: str) -> bool:
        """Return whether a piece with this name and text must be of another call."""
        if name is None or not self.name:
            return False
        return name != self.name or (bool(text.strip()) and self.is_whole())

    def is_whole(self) -> bool:
        """Return whether the arguments are a JSON object or array, from beginning to end."""
        # Looked at only when it is asked for, and each piece once.
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
