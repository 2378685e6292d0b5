"""Loose reading: fit what servers send that imitate an API into the shapes of that API.

The usual chunk is decoded directly into a struct. What does not fit comes here: a text with a lone
surrogate or a raw control character, a list where the API has one object, a number as text. A
needed member is read if there is only one way to read it. Other members are left out. A needed
member that makes no sense is an error, since losing text silently would be worse.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Mapping
from typing import Any, TypeVar, get_args, get_origin

import msgspec

from flowstream._errors import DecodingError
from flowstream.decoders import ServerSentEvent, SSEDecoder
from flowstream.llm import Usage

StructT = TypeVar("StructT", bound=msgspec.Struct)

# The largest number that a JavaScript client reads exactly. No count of tokens is larger.
_LARGEST = 2**53 - 1

# Characters of one event outside of its texts. A text takes as much memory as it has characters.
# The rest may be a million objects, and the event loop can't run while they are made.
_MAX_STRUCTURE = 1 << 20
_SMALL = 64 * 1024

# The longest keep-alive that is recognised: they are short, and the pattern is slow.
_LONGEST_KEEP_ALIVE = 100
_KEEP_ALIVE = re.compile(
    r"\W*(ping|pong|heartbeat|keep.?alive|(\w+ )?processing)\W*", re.IGNORECASE
)


class UpstreamDecoder(SSEDecoder):
    """Reads an event stream as model servers write it, which does not always follow the standard.

    * Events before one that is too large are returned; the next call raises. So the result does not
      depend on how the bytes were cut into packets.
    * Each line of one event may be a whole chunk, if a server leaves out the blank lines.
    * ``error: {...}``, a field in older versions of llama.cpp, is an event called ``error``. A line
      that is only a JSON object is an event, too.
    """

    def __init__(self, *, max_event: int) -> None:
        super().__init__(max_event=max_event)
        self._failed: DecodingError | None = None

    def feed(self, data: bytes) -> list[ServerSentEvent]:
        """Return the events that `data` completes.

        Raises:
            DecodingError: the event after those of the last call is too large.
        """
        if self._failed is not None:
            raise self._failed
        events: list[ServerSentEvent] = []
        try:
            self._feed(data, events)
        except DecodingError as error:
            if not events:
                raise
            self._failed = error
        if any("\n" in event.data for event in events):
            return [part for event in events for part in _chunks_of(event)]
        return events

    def end(self) -> list[ServerSentEvent]:
        """Return the last event of a stream that ended properly, but without a blank line.

        Raises:
            DecodingError: it is too large.
        """
        return self.feed(b"\n\n")

    def _other_line(self, line: str, events: list[ServerSentEvent]) -> None:
        if line.startswith("error:"):
            events.append(ServerSentEvent("error", line[len("error:") :].strip(), ""))
        elif line.startswith("{"):
            events.append(ServerSentEvent("message", line, ""))


def _chunks_of(event: ServerSentEvent) -> list[ServerSentEvent]:
    lines = [line.strip() for line in event.data.split("\n") if line.strip()]
    if all(_is_object(line) or line == "[DONE]" for line in lines):
        return [ServerSentEvent(event.type, line, event.id) for line in lines]
    return [event]


def _is_object(line: str) -> bool:
    return line.startswith("{") and line.endswith("}") and line != "{}"


def is_keep_alive(event: ServerSentEvent) -> bool:
    """Return whether an event is only a keep-alive of the server."""
    data = event.data
    return not data or data == "null" or _says_alive(event.type) or _says_alive(data)


def _says_alive(text: str) -> bool:
    return len(text) <= _LONGEST_KEEP_ALIVE and _KEEP_ALIVE.fullmatch(text) is not None


def check_structure(data: str) -> None:
    """Raise if a JSON value has more structure than any answer. Its texts may be long.

    Raises:
        msgspec.ValidationError: it has more than `_MAX_STRUCTURE` characters outside of its texts.
    """
    if len(data) <= _SMALL:
        return
    plain = data.replace("\\\\", "").replace('\\"', "")  # quotes that end no text
    if plain.count('"') <= _MAX_STRUCTURE // 4:  # else a text has less than 8 characters around it
        outside = plain.split('"')[::2]
        if sum(map(len, outside)) <= _MAX_STRUCTURE:
            return
    raise msgspec.ValidationError(
        f"an event has more than {_MAX_STRUCTURE} characters outside of its texts"
    )


def loose_json(data: str) -> Any:
    """Return the value of a JSON text; texts in it may have lone surrogates and control characters.

    Raises:
        msgspec.DecodeError: it is not JSON.
    """
    try:
        return json.loads(data, strict=False)
    except ValueError as error:
        raise msgspec.DecodeError(str(error)) from None


def fit(value: Any, kind: type[StructT]) -> StructT:
    """Return `value` as a `kind`. Members of another shape are made to fit.

    Members of the type ``Any`` stay unchanged. One object may stand for a list of one, and an empty
    value for nothing.

    Raises:
        msgspec.ValidationError: it can't be made to fit.
    """
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, Mapping):
        raise msgspec.ValidationError(f"an object is expected, not {value!r:.100}")
    members: dict[str, Any] = {}
    for name, inner, is_list in _members(kind):
        given = value.get(name)
        if inner is None:
            if name in value:
                members[name] = given
        elif not given:
            continue
        elif is_list:
            some = given if isinstance(given, list) else [given]
            members[name] = [fit(one, inner) for one in some if one]
        else:
            members[name] = fit(given, inner)
    return kind(**members)


@functools.cache
def _members(kind: type[msgspec.Struct]) -> tuple[tuple[str, Any, bool], ...]:
    """Return for each member its name, its struct (None for anything), and whether it is a list."""
    members = []
    for field in msgspec.structs.fields(kind):
        inner, is_list = None, False
        for option in get_args(field.type):
            if get_origin(option) is list:
                inner, is_list = get_args(option)[0], True
            elif isinstance(option, type) and issubclass(option, msgspec.Struct):
                inner = option
        members.append((field.name, inner, is_list))
    return tuple(members)


def number(value: Any) -> int | None:
    """Return a whole number of 0 or more, given as int, float or text; None for anything else."""
    if type(value) is int:
        return value if 0 <= value <= _LARGEST else None
    if not isinstance(value, (str, float)):
        return None
    try:
        found = float(value)
    except ValueError:
        return None
    return int(found) if math.isfinite(found) and 0 <= found <= _LARGEST else None


def text_of(value: Any) -> str:
    """Return the text of a member: itself, or the text of its parts.

    Raises:
        msgspec.ValidationError: it is of a kind that has no text.
    """
    if value is None or value in ({}, []):
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(map(text_of, value))
    if isinstance(value, Mapping):
        for name in ("text", "thinking", "reasoning", "summary", "content", "refusal"):
            if value.get(name):
                return text_of(value[name])
        return ""
    raise msgspec.ValidationError(f"a text is expected, not {value!r:.100}")


def word_of(value: Any) -> str:
    """Return an id or a name as text, even if it is a number; empty for anything else."""
    if isinstance(value, str):
        return value
    return str(value) if type(value) in (int, float) else ""


def arguments_of(value: Any) -> str:
    """Return a call's arguments as JSON text, even if they came as an object."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def usage_in(said: Any, of_input: str, of_output: str) -> Usage | None:
    """Return a server's usage, however it writes numbers; None if it is not a usage."""
    if not isinstance(said, Mapping):
        return None
    counts = number(said.get(of_input)), number(said.get(of_output))
    return None if counts == (None, None) else Usage(counts[0] or 0, counts[1] or 0)
