"""Parts: an answer as text, reasoning and calls that each begin and end.

UI messages and AG-UI have the same grammar in different words: a part of text or reasoning is
begun, continued and ended, one at a time; calls of tools are, several at once; and a turn of the
model's is around them. Here is the grammar. It keeps two promises, whatever comes:

* What is continued or ended was begun before, in this client's stream. Text that begins in the
  middle of an answer begins a part.
* A call that is not whole is never ended as if it were: the client would make it. A call is
  not whole if its beginning was not there, or if something is missing in the middle of the
  stream while it was open.
"""

from __future__ import annotations

import abc
from typing import Any, Literal

import msgspec

from flowstream._clock import chance
from flowstream.encoders._answer_encoder import AnswerEncoder, AnswerStream, to_json
from flowstream.llm import ToolCall

__all__ = ["Call", "PartKind", "PartsStream"]

PartKind = Literal["text", "reasoning"]

# How many calls may be open, and how many characters of their arguments are held together. No
# model asks for nearly as much in one turn.
_MAX_CALLS = 128
_MAX_ARGUMENTS = 1024 * 1024


class Call:
    """A call of a tool that a client was told of, or should have been.

    Attributes:
        id: what its result is returned under.
        name: the tool's name.
        arguments: the JSON text of its arguments, as far as it is known.
        flaw: why it must not be made, or None.
        custom: its tool takes text: `arguments` are that text, and not JSON.
    """

    __slots__ = ("arguments", "custom", "flaw", "id", "name")

    def __init__(self, id: str, name: str, flaw: str | None, custom: bool = False) -> None:
        self.id = id
        self.name = name
        self.arguments: list[str] = []
        self.flaw = flaw
        self.custom = custom

    def add(self, arguments: str) -> None:
        """Add a piece of the arguments. Empty pieces are not kept, because there may be many."""
        if arguments and self.flaw is None:
            self.arguments.append(arguments)

    def give_up(self, flaw: str) -> None:
        """Note that it must not be made, and hold nothing more of it."""
        self.flaw = self.flaw or flaw
        self.arguments.clear()

    def input(self) -> bytes | None:
        """Return the arguments as JSON on one line; None if they are not whole or no JSON."""
        if self.custom:
            return to_json("".join(self.arguments)) if self.flaw is None else None
        text = "".join(self.arguments) or "{}"
        if self.flaw is None:
            try:
                if _has_prototype(msgspec.json.decode(text)):
                    self.flaw = "its arguments have a member that parsers refuse"
            except (msgspec.DecodeError, RecursionError):
                self.flaw = "its arguments are not JSON"
        if self.flaw is not None:
            return None
        # As it is, since numbers may have more digits than a float. A line break can only stand
        # between two tokens, where a space means the same.
        return text.replace("\n", " ").replace("\r", " ").encode()


def _has_prototype(value: Any) -> bool:
    """Return whether `value` has what careful parsers of JavaScript take for an attack.

    They refuse the whole event, and with it the rest of the answer.
    """
    values = [value]
    while values:
        value = values.pop()
        if isinstance(value, dict):
            made = value.get("constructor")
            if "__proto__" in value or (isinstance(made, dict) and "prototype" in made):
                return True
            values += value.values()
        elif isinstance(value, list):
            values += value
    return False


class PartsStream(AnswerStream):
    """One client's stream, in a format whose answers have parts that begin and end."""

    def __init__(self, format: AnswerEncoder) -> None:
        super().__init__(format)
        self._prefix = chance.token_hex(4)  # a page shows answers of several streams
        self._count = 0
        self._kind: PartKind | None = None  # what may go on as it is
        self._head = b""  # and what a piece of it begins with
        self._open: tuple[PartKind, str] | None = None  # what the client knows to be open
        self._in_turn = False
        self._calls: dict[int, Call] = {}
        self._held = 0  # characters of their arguments

    # -- the grammar -----------------------------------------------------------------------

    def token(self, text: bytes) -> bytes:
        """Return a piece of text, in a part that is begun if need be."""
        if self._kind == "text":
            return self._head + text + b"}\n\n"
        return self._first_piece("text", text)

    def reasoning(self, text: bytes) -> bytes:
        """Return a piece of reasoning, in a part that is begun if need be."""
        if self._kind == "reasoning":
            return self._head + text + b"}\n\n"
        return self._first_piece("reasoning", text)

    def _first_piece(self, kind: PartKind, text: bytes) -> bytes:
        if text == b'""':
            return b""  # models begin like that, and an empty part would be shown
        id = self.new_id()
        lead = self._end_part() + self._begin_turn() + self.part_begins(kind, id)
        self._kind = kind
        self._open = (kind, id)
        self._head = self.part_head(kind, id)
        return lead + self._head + text + b"}\n\n"

    def call(self, piece: ToolCall) -> bytes:
        """Return a piece of a call, which is begun if need be."""
        call, lead = self._find(piece), b""
        if call is None:
            lead = self._end_part() + self._begin_turn()
            if piece.index in self._calls:  # another id under the same index is another call
                lead += self._end_call(piece.index)
            if len(self._calls) == _MAX_CALLS:
                lead += self._end_call(next(iter(self._calls)))
            begins = bool(piece.id or piece.name)
            flaw = None if begins else "its beginning is missing"
            call = Call(
                piece.id or f"call_{self.new_id()}", piece.name or "unknown", flaw, piece.custom
            )
            self._calls[piece.index] = call
            lead += self.call_begins(call)
        self._held += len(piece.arguments)
        if self._held > _MAX_ARGUMENTS:
            call.give_up("its arguments are too long")
        call.add(piece.arguments)
        return lead + self.call_goes_on(call, to_json(piece.arguments)) if piece.arguments else lead

    def _find(self, piece: ToolCall) -> Call | None:
        """Return the open call that `piece` goes on with; some models repeat the id each time."""
        if piece.id:
            return next((call for call in self._calls.values() if call.id == piece.id), None)
        return self._calls.get(piece.index)

    def turn_over(self) -> bytes:
        """End what is open, and the turn; the next event begins another."""
        ended = self._end_part() + self.end_calls()
        if self._in_turn:
            self._in_turn = False
            ended += self.turn_ends()
        return ended

    def gap(self, body: dict[str, Any]) -> bytes:
        """Say that something is missing. The next piece begins a new part."""
        self._kind = None  # no end is written: the beginning of the part may never have been sent
        self.give_up_calls("a piece of it is missing")
        return self.control_part("gap", body)

    def warning(self, body: dict[str, Any]) -> bytes:
        """Say that the client is slow."""
        return self.control_part("warning", body)

    def give_up_calls(self, flaw: str) -> bool:
        """Note that the open calls must not be made; return whether there are any."""
        for call in self._calls.values():
            call.give_up(flaw)
        return bool(self._calls)

    def end_calls(self) -> bytes:
        """End the calls that are open: the model has said all it will of them."""
        return b"".join([self._end_call(index) for index in list(self._calls)])

    def _end_call(self, index: int) -> bytes:
        ended = self.call_ends(self._calls.pop(index))
        if not self._calls:
            self._held = 0
        return ended

    def _end_part(self) -> bytes:
        if self._open is None:
            return b""
        kind, id = self._open
        self._open = self._kind = None
        return self.part_ends(kind, id)

    def _begin_turn(self) -> bytes:
        if self._in_turn:
            return b""
        self._in_turn = True
        return self.turn_begins()

    def new_id(self) -> str:
        """Return an id that no other part has, on any page."""
        self._count += 1
        return f"{self._prefix}-{self._count}"

    # -- the words -------------------------------------------------------------------------

    def turn_begins(self) -> bytes:
        """Return what a turn of the model's begins with."""
        return b""

    @abc.abstractmethod
    def turn_ends(self) -> bytes:
        """Return what it ends with."""

    @abc.abstractmethod
    def part_begins(self, kind: PartKind, id: str) -> bytes:
        """Return what begins a part."""

    @abc.abstractmethod
    def part_head(self, kind: PartKind, id: str) -> bytes:
        r"""Return what stands before the JSON of each piece; ``}\n\n`` stands behind it."""

    @abc.abstractmethod
    def part_ends(self, kind: PartKind, id: str) -> bytes:
        """Return what ends a part."""

    @abc.abstractmethod
    def call_begins(self, call: Call) -> bytes:
        """Return what begins a call."""

    @abc.abstractmethod
    def call_goes_on(self, call: Call, arguments: bytes) -> bytes:
        """Return a piece of a call's arguments, given as JSON of that text."""

    @abc.abstractmethod
    def call_ends(self, call: Call) -> bytes:
        """Return what ends a call, or says that it will not be whole."""

    @abc.abstractmethod
    def control_part(self, name: str, body: dict[str, Any]) -> bytes:
        """Return an event of flowstream's own, as the format has those of an app."""
