"""UI messages: the format that the hooks of the AI SDK read, such as `useChat`.

The AI SDK's "UI message stream protocol", version 1: JSON chunks as server-sent events that
build up one message of an assistant, part by part, and ``[DONE]``. A turn of the model is a step.
The client raises if a chunk belongs to a part that is not open.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from flowstream._event import check_field
from flowstream.encoders._answer_encoder import AnswerEncoder, AnswerStream, to_json
from flowstream.encoders._json import BigIntegers, Encode
from flowstream.encoders._parts import Call, PartKind, PartsStream
from flowstream.llm import FinishReason

__all__ = ["UIMessages"]

_DONE: Final = b"data: [DONE]\n\n"

_REASONS: Final[dict[FinishReason, str]] = {
    "tool_calls": "tool-calls",
    "content_filter": "content-filter",
}

# Chunks that stand for themselves, so that an app may send them between those of the model.
_FREE: Final = frozenset(
    {
        "file",
        "message-metadata",
        "source-document",
        "source-url",
        "tool-approval-request",
        "tool-output-available",
        "tool-output-denied",
        "tool-output-error",
    }
)


class UIMessages(AnswerEncoder):
    """The AI SDK's UI message stream (``text/event-stream``), with the header of its version.

    It takes the events of `flowstream.llm`, mappings of the same shape, a `str` as a token, and the
    app's own parts: ``Event(value, type="weather")`` is sent as a part of type ``data-weather``.
    Its id is the event's key, if it has one; a later part with the same id replaces it. A mapping
    with the type of a data part, a source, a file, metadata or the result of a tool
    (``{"type": "tool-output-available", ...}``) is sent as it is, without a check.

    `Usage` goes into the message's metadata, as ``usage``. A call whose arguments are not JSON, or
    incomplete, is a ``tool-input-error``. flowstream's own events are ``data-gap``,
    ``data-snapshot`` and ``data-warning``. A failure, or a stream that ends before its source, is
    an ``error``; a stream that was stopped is an ``abort``. With ``controls=False`` neither these
    nor the end are sent; leave it at True.

    Args:
        message_id: the message's id; by default the client makes one. Give one if a client can
            come back to an answer, so that it recognises it.
        names, encode, big_integers: as `NDJSON` takes them: ``{"gap": "lost"}`` for ``data-lost``.
            `encode` may also turn an item into one of the above: a `Token`, a source's mapping.

    Raises:
        TypeError: if `message_id` is not a `str`.
        ValueError: if `message_id` has CR, LF or NUL in it, or a lone surrogate.
        TypeError, ValueError: for the other arguments, as `NDJSON` raises them.
    """

    headers: tuple[tuple[str, str], ...] = (("x-vercel-ai-ui-message-stream", "v1"),)
    _besides = '; for a part of your own, Event(value, type="weather") is sent as data-weather'

    def __init__(
        self,
        *,
        message_id: str | None = None,
        names: Mapping[str, str] = {},
        encode: Encode | None = None,
        big_integers: BigIntegers = "number",
    ) -> None:
        super().__init__(names, encode, big_integers)
        if message_id is not None:
            check_field("message_id", message_id).encode()
        self.message_id = message_id

    def start(self) -> AnswerStream:
        """Return the encoder for one stream."""
        return _UIMessage(self)

    def _own_part(self, data: Any, type: str | None, key: object) -> bytes | None:
        """Return a data part, or a chunk that stands for itself."""
        if type is not None:
            part = {"type": type if type.startswith("data-") else f"data-{type}", "data": data}
            if key is not None:
                part["id"] = str(key)
            return self._own_json(part)
        kind = data.get("type") if isinstance(data, Mapping) else None
        if isinstance(kind, str) and (kind.startswith("data-") or kind in _FREE):
            return self._own_json(
                {"type": kind, **data}
            )  # its type first, where `own` looks for it
        return None

    def _value(self) -> tuple[object, ...]:
        return (self.message_id, self._items)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, UIMessages):
            return NotImplemented
        return self._value() == other._value()

    def __hash__(self) -> int:
        return hash(self._value())

    def __repr__(self) -> str:
        return f"UIMessages(message_id={self.message_id!r}{self._chosen()})"


class _UIMessage(PartsStream):
    """The chunks of one stream."""

    format: UIMessages

    def opening(self, retry: int | None) -> bytes:
        start = {"type": "start"}
        if self.format.message_id is not None:
            start["messageId"] = self.format.message_id
        return super().opening(retry) + _sse(start)

    def turn_begins(self) -> bytes:
        return _sse({"type": "start-step"})

    def turn_ends(self) -> bytes:
        return _sse({"type": "finish-step"})

    def part_begins(self, kind: PartKind, id: str) -> bytes:
        return _sse({"type": f"{kind}-start", "id": id})

    def part_head(self, kind: PartKind, id: str) -> bytes:
        return f'data: {{"type":"{kind}-delta","id":"{id}","delta":'.encode()

    def part_ends(self, kind: PartKind, id: str) -> bytes:
        return _sse({"type": f"{kind}-end", "id": id})

    def call_begins(self, call: Call) -> bytes:
        return _sse({"type": "tool-input-start", "toolCallId": call.id, "toolName": call.name})

    def call_goes_on(self, call: Call, arguments: bytes) -> bytes:
        delta = {"type": "tool-input-delta", "toolCallId": call.id}
        return _sse(delta, b"inputTextDelta", arguments)

    def call_ends(self, call: Call) -> bytes:
        end = {"type": "tool-input-available", "toolCallId": call.id, "toolName": call.name}
        arguments = call.input()
        if arguments is None:
            end |= {
                "type": "tool-input-error",
                "errorText": f"this call cannot be made: {call.flaw}",
            }
            arguments = to_json("".join(call.arguments))
        return _sse(end, b"input", arguments)

    def own(self, part: bytes) -> bytes:
        # The result of a call comes after all of its arguments.
        calls = self.end_calls() if part.startswith(b'{"type":"tool-') else b""
        return calls + b"data: " + part + b"\n\n"

    def control_part(self, name: str, body: dict[str, Any]) -> bytes:
        part: dict[str, Any] = {"type": f"data-{self.format._names[name]}", "data": body}
        if name == "warning":
            part["transient"] = True  # nothing that is worth keeping in the message
        return _sse(part)

    def failed(self, code: str, message: str) -> bytes:
        return _sse({"type": "error", "errorText": message}) + _DONE

    def completed(self) -> bytes:
        reason = self.reason or "stop"
        finish: dict[str, Any] = {"type": "finish", "finishReason": _REASONS.get(reason, reason)}
        if self.usage is not None:
            sent, made = self.usage.input_tokens, self.usage.output_tokens
            usage = {"inputTokens": sent, "outputTokens": made, "totalTokens": sent + made}
            finish["messageMetadata"] = {"usage": usage}
        return self.turn_over() + _sse(finish) + _DONE

    def stopped(self) -> bytes:
        self.give_up_calls("the answer was stopped")
        return self.turn_over() + _sse({"type": "abort", "reason": "stopped"}) + _DONE


def _sse(chunk: dict[str, Any], name: bytes = b"", value: bytes = b"") -> bytes:
    """Return one event; `name` is a member whose `value` is JSON already."""
    if name:
        return b"data: " + to_json(chunk)[:-1] + b',"' + name + b'":' + value + b"}\n\n"
    return b"data: " + to_json(chunk) + b"\n\n"
