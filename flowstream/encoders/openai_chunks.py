"""OpenAI chunks: the stream of a chat completion, as every client of that API reads it.

The `openai` SDK can be the client, and with it whatever has a ``base_url`` to set. An answer is
``chat.completion.chunk`` objects as server-sent events: one with the role, one for each piece,
one with the reason why it ended, one with the usage if it was asked for, then ``[DONE]``.

The format can't announce a gap, and an answer with a hole in it would look like any other. So a
gap is an ``error``: clients look for that, and the SDK raises it.
"""

from __future__ import annotations

from typing import Any, Final

from flowstream._clock import chance, clock
from flowstream.encoders._answer_encoder import AnswerEncoder, AnswerStream, to_json
from flowstream.encoders._json import Encode
from flowstream.llm import FinishReason, ToolCall

__all__ = ["OpenAIChunks"]

_DONE: Final = b"data: [DONE]\n\n"

# The format has no word for reasons that only the model's maker knows.
_REASONS: Final[dict[FinishReason, FinishReason]] = {"other": "stop"}


class OpenAIChunks(AnswerEncoder):
    """Chat completion chunks, ending in ``[DONE]`` (``text/event-stream``).

    It takes the events of `flowstream.llm`, mappings of the same shape, and a `str` as a token.
    `Reasoning` is sent as ``reasoning_content``, which OpenAI's own API does not have, but most
    APIs like it do. The finish reason is the one of the last `Done`, or ``"stop"`` if there was
    none. If the answer is not whole, the client gets
    ``{"error": {"message", "type", "param", "code"}}``: after a failure, a gap, and a stream that
    ends before its source. With ``controls=False`` none of this is sent, not even the end; leave it
    at True.

    Args:
        model: the model's name in the chunks.
        include_usage: whether a chunk with the usage, if the source gives it, comes before the
            end. A request asks for it by ``"stream_options": {"include_usage": true}``.
        encode: a function for the app's own types. It gets an item, and returns an event of
            `flowstream.llm`, a mapping of that shape, or a `str`, or raises TypeError.

    Raises:
        TypeError: if `model` is not a `str`, `include_usage` not a `bool`, or `encode` not a
            function.
        ValueError: if `model` has a lone surrogate in it (it is a `UnicodeEncodeError`).
    """

    def __init__(
        self, model: str, *, include_usage: bool = False, encode: Encode | None = None
    ) -> None:
        super().__init__(encode=encode)
        if not isinstance(model, str):
            raise TypeError(f"model must be a str, not {type(model).__name__}")
        if not isinstance(include_usage, bool):
            raise TypeError(f"include_usage must be a bool, not {type(include_usage).__name__}")
        model.encode()
        self.model = model
        self.include_usage = include_usage

    def start(self) -> AnswerStream:
        """Return the encoder for one stream: its chunks have an id and a time in common."""
        return _Chunks(self)

    def _value(self) -> tuple[object, ...]:
        return (self.model, self.include_usage, self._items)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, OpenAIChunks):
            return NotImplemented
        return self._value() == other._value()

    def __hash__(self) -> int:
        return hash(self._value())

    def __repr__(self) -> str:
        given = f"{self.model!r}, include_usage={self.include_usage}"
        return f"OpenAIChunks({given}{self._chosen()})"


class _Chunks(AnswerStream):
    """The chunks of one stream."""

    format: OpenAIChunks

    def __init__(self, format: OpenAIChunks) -> None:
        super().__init__(format)
        common = {
            "id": f"chatcmpl-{chance.token_hex(12)}",
            "object": "chat.completion.chunk",
            "created": int(clock.wall_time()),
            "model": format.model,
        }
        self._head = b"data: " + to_json(common)[:-1] + b',"choices":['
        self._tail = b',"finish_reason":null}]' + self._rest()
        self._begun = False

    def _rest(self, usage: bytes = b"null") -> bytes:
        return (b',"usage":' + usage if self.format.include_usage else b"") + b"}\n\n"

    def _begin(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        return self._chunk(b'{"role":"assistant","content":""}')

    def _chunk(self, delta: bytes) -> bytes:
        chunk = self._head + b'{"index":0,"delta":' + delta + self._tail
        return chunk if self._begun else self._begin() + chunk

    def token(self, text: bytes) -> bytes:
        return self._chunk(b'{"content":' + text + b"}")

    def reasoning(self, text: bytes) -> bytes:
        return self._chunk(b'{"reasoning_content":' + text + b"}")

    def call(self, piece: ToolCall) -> bytes:
        call: dict[str, Any] = {"index": piece.index}
        kind, text = ("custom", "input") if piece.custom else ("function", "arguments")
        if piece.id is not None:
            call |= {"id": piece.id, "type": kind}
        name = {} if piece.name is None else {"name": piece.name}
        call[kind] = {**name, text: piece.arguments}
        return self._chunk(to_json({"tool_calls": [call]}))

    def turn_over(self) -> bytes:
        # Not yet: there is one finish reason an answer, and a source may ask its model again.
        return b""

    def own(self, part: bytes) -> bytes:
        raise AssertionError("the format has no place for it")  # pragma: no cover

    def gap(self, body: dict[str, Any]) -> bytes:
        missed = body["missed"]
        what = "a part of the answer" if missed is None else f"{missed} events of the answer"
        return self._error("gap", f"{what} could not be delivered")

    def warning(self, body: dict[str, Any]) -> bytes:
        return b": the client is slow: " + to_json(body) + b"\n\n"

    def failed(self, code: str, message: str) -> bytes:
        return self._error(code, message) + _DONE

    def completed(self) -> bytes:
        reason = _REASONS.get(self.reason or "stop", self.reason or "stop")
        last = {"index": 0, "delta": {}, "finish_reason": reason}
        end = self._begin() + self._head + to_json(last) + b"]" + self._rest()
        if self.usage is not None and self.format.include_usage:
            end += self._head + b"]" + self._rest(to_json(self._usage()))
        return end + _DONE

    stopped = completed

    def _usage(self) -> dict[str, int]:
        assert self.usage is not None
        sent, made = self.usage.input_tokens, self.usage.output_tokens
        return {"prompt_tokens": sent, "completion_tokens": made, "total_tokens": sent + made}

    def _error(self, code: str, message: str) -> bytes:
        error = {"message": message, "type": "server_error", "param": None, "code": code}
        return b"data: " + to_json({"error": error}) + b"\n\n"
