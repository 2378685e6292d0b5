"""AG-UI: the events of the Agent User Interaction Protocol, version 1.0, as its clients read them.

JSON objects as server-sent events, from ``RUN_STARTED`` to ``RUN_FINISHED`` or ``RUN_ERROR``. The
client checks the grammar: no event before the first or after the last, every message and call
begun once, and none left open when a run has finished. A run that ends in an error may leave them
open. One with an incomplete call does so, since the client makes every call that was ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from flowstream._clock import chance
from flowstream._event import check_field
from flowstream.encoders._answer_encoder import AnswerEncoder, AnswerStream, to_json
from flowstream.encoders._json import BigIntegers, Encode
from flowstream.encoders._parts import Call, PartKind, PartsStream

__all__ = ["AGUI"]

_VERSION: Final = "1.0"

# Events that stand for themselves, so that an app may send them between those of the model.
_FREE: Final = frozenset(
    {
        "ACTIVITY_DELTA",
        "ACTIVITY_SNAPSHOT",
        "CUSTOM",
        "MESSAGES_SNAPSHOT",
        "RAW",
        "STATE_DELTA",
        "STATE_SNAPSHOT",
        "STEP_FINISHED",
        "STEP_STARTED",
        "TOOL_CALL_RESULT",
    }
)


class AGUI(AnswerEncoder):
    """AG-UI events (``text/event-stream``).

    It takes the events of `flowstream.llm`, mappings of the same shape, a `str` as a token, and the
    app's own events: ``Event(value, type="weather")`` is sent as a ``CUSTOM`` event of that name.
    A mapping with the type of a state, messages, activity, step, raw or custom event, or of a
    call's result (``{"type": "STATE_SNAPSHOT", ...}``), is sent as it is, without a check.

    `Usage` becomes the run's ``usage``. If the model stopped for an unusual reason, that is
    ``finishReason`` in the metadata of ``RUN_FINISHED``. A run that was stopped has the
    outcome ``cancelled``. flowstream's own events are ``CUSTOM``, called ``gap``, ``snapshot`` and
    ``warning``. A failure, a stream that ends before its source, and an incomplete call make a
    ``RUN_ERROR``. With ``controls=False`` neither these nor the end are sent; leave it at True.

    Args:
        thread_id: the conversation: the request's ``threadId``. By default one is made up.
        run_id: this run: the request's ``runId``. By default one is made up.
        names, encode, big_integers: as `NDJSON` takes them. `encode` may also turn an item into
            one of the above: a `Token`, the mapping of a state.

    Raises:
        TypeError: if an id is not a `str`.
        ValueError: if an id has CR, LF or NUL in it, or a lone surrogate.
        TypeError, ValueError: for the other arguments, as `NDJSON` raises them.
    """

    _besides = '; for an event of your own, Event(value, type="weather") is sent as CUSTOM'

    def __init__(
        self,
        *,
        thread_id: str | None = None,
        run_id: str | None = None,
        names: Mapping[str, str] = {},
        encode: Encode | None = None,
        big_integers: BigIntegers = "number",
    ) -> None:
        super().__init__(names, encode, big_integers)
        for name, id in (("thread_id", thread_id), ("run_id", run_id)):
            if id is not None:
                check_field(name, id).encode()
        self.thread_id = thread_id
        self.run_id = run_id

    def start(self) -> AnswerStream:
        """Return the encoder for one stream."""
        return _Run(self)

    def _own_part(self, data: Any, type: str | None, key: object) -> bytes | None:
        """Return a custom event, or one that stands for itself."""
        if type is not None:
            return self._own_json({"type": "CUSTOM", "name": type, "value": data})
        kind = data.get("type") if isinstance(data, Mapping) else None
        if isinstance(kind, str) and kind in _FREE:
            return self._own_json(
                {"type": kind, **data}
            )  # its type first, where `own` looks for it
        return None

    def _value(self) -> tuple[object, ...]:
        return (self.thread_id, self.run_id, self._items)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AGUI):
            return NotImplemented
        return self._value() == other._value()

    def __hash__(self) -> int:
        return hash(self._value())

    def __repr__(self) -> str:
        return f"AGUI(thread_id={self.thread_id!r}, run_id={self.run_id!r}{self._chosen()})"


_BEGINS: Final[dict[PartKind, tuple[tuple[str, str | None], ...]]] = {
    "text": (("TEXT_MESSAGE_START", "assistant"),),
    "reasoning": (("REASONING_START", None), ("REASONING_MESSAGE_START", "reasoning")),
}
_GOES_ON: Final[dict[PartKind, str]] = {
    "text": "TEXT_MESSAGE_CONTENT",
    "reasoning": "REASONING_MESSAGE_CONTENT",
}
_ENDS: Final[dict[PartKind, tuple[str, ...]]] = {
    "text": ("TEXT_MESSAGE_END",),
    "reasoning": ("REASONING_MESSAGE_END", "REASONING_END"),
}


class _Run(PartsStream):
    """The events of one stream."""

    format: AGUI

    def __init__(self, format: AGUI) -> None:
        super().__init__(format)
        self._ids = {
            "threadId": format.thread_id or str(chance.uuid4()),
            "runId": format.run_id or str(chance.uuid4()),
        }
        self._message: str | None = None  # the turn's last text, which its calls belong to
        self._flawed = False  # a call was left open

    def opening(self, retry: int | None) -> bytes:
        started = {"type": "RUN_STARTED", **self._ids, "protocolVersion": _VERSION}
        return super().opening(retry) + _sse(started)

    def turn_ends(self) -> bytes:
        self._message = None
        return b""

    def part_begins(self, kind: PartKind, id: str) -> bytes:
        if kind == "text":
            self._message = id
        begins = [{"type": type, "messageId": id, "role": role} for type, role in _BEGINS[kind]]
        return b"".join(_sse({k: v for k, v in event.items() if v}) for event in begins)

    def part_head(self, kind: PartKind, id: str) -> bytes:
        return f'data: {{"type":"{_GOES_ON[kind]}","messageId":"{id}","delta":'.encode()

    def part_ends(self, kind: PartKind, id: str) -> bytes:
        return b"".join(_sse({"type": type, "messageId": id}) for type in _ENDS[kind])

    def call_begins(self, call: Call) -> bytes:
        if self._flawed:  # its id may be one that is still open, and the run fails anyway
            call.give_up("a call before it was not whole")
        if call.flaw is not None:
            return b""
        start = {"type": "TOOL_CALL_START", "toolCallId": call.id, "toolCallName": call.name}
        if self._message is not None:
            start["parentMessageId"] = self._message
        # A tool that takes text: its arguments are JSON, too, and so that text is a JSON string.
        return _sse(start) + (self._arguments(call, to_json('"')) if call.custom else b"")

    def call_goes_on(self, call: Call, arguments: bytes) -> bytes:
        if call.flaw is not None:
            return b""
        if call.custom:
            arguments = to_json(arguments[1:-1].decode())  # within the quotes, as it stands there
        return self._arguments(call, arguments)

    def _arguments(self, call: Call, piece: bytes) -> bytes:
        args = to_json({"type": "TOOL_CALL_ARGS", "toolCallId": call.id})
        return b"data: " + args[:-1] + b',"delta":' + piece + b"}\n\n"

    def call_ends(self, call: Call) -> bytes:
        if call.flaw is not None:
            self._flawed = True
            return b""
        quote = self._arguments(call, to_json('"')) if call.custom else b""
        return quote + _sse({"type": "TOOL_CALL_END", "toolCallId": call.id})

    def own(self, part: bytes) -> bytes:
        # The result of a call comes after all of its arguments.
        calls = self.end_calls() if part.startswith(b'{"type":"TOOL_') else b""
        return calls + b"data: " + part + b"\n\n"

    def control_part(self, name: str, body: dict[str, Any]) -> bytes:
        return _sse({"type": "CUSTOM", "name": self.format._names[name], "value": body})

    def failed(self, code: str, message: str) -> bytes:
        return _sse({"type": "RUN_ERROR", "message": message, "code": code, **self._usage()})

    def completed(self) -> bytes:
        ended = self.turn_over()
        if self._flawed:
            return ended + self.failed("gap", "a call of a tool could not be delivered")
        more = {} if self.reason in (None, "stop") else {"metadata": {"finishReason": self.reason}}
        finished = {"type": "RUN_FINISHED", **self._ids, **more, **self._usage()}
        return ended + _sse(finished)

    def stopped(self) -> bytes:
        self.give_up_calls("the answer was stopped")
        ended = self.turn_over()
        if self._flawed:
            return ended + self.failed("stopped", "the answer was stopped")
        outcome = {"type": "cancelled"}
        finished = {"type": "RUN_FINISHED", **self._ids, "outcome": outcome, **self._usage()}
        return ended + _sse(finished)

    def _usage(self) -> dict[str, Any]:
        if self.usage is None:
            return {}
        sent, made = self.usage.input_tokens, self.usage.output_tokens
        return {"usage": [{"inputTokens": sent, "outputTokens": made, "totalTokens": sent + made}]}


def _sse(event: dict[str, Any]) -> bytes:
    return b"data: " + to_json(event) + b"\n\n"
