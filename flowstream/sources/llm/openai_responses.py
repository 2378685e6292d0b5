"""OpenAI's Responses: the API with which OpenAI follows up Chat Completions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from flowstream._errors import missing_extra
from flowstream.llm import FinishReason, ModelEvent, Reasoning, Token, Usage
from flowstream.sources._source import Source
from flowstream.sources.llm._client_check import check_client, check_params, for_one_stream
from flowstream.sources.llm._loose import arguments_of, number, text_of, usage_in, word_of
from flowstream.sources.llm._model_answer import AnswerReader, ModelAnswer
from flowstream.sources.llm._model_failures import failure_in_stream
from flowstream.sources.llm._tool_calls import ToolCalls

if TYPE_CHECKING:
    from openai import AsyncOpenAI

__all__ = ["ResponseReader", "openai_responses"]


def openai_responses(
    client: AsyncOpenAI,
    *,
    first_timeout: float | None = 120.0,
    token_timeout: float | None = 60.0,
    **params: Any,
) -> Source:
    """Stream the answer of OpenAI's Responses API: `Token`, ..., `Usage`, `Done`.

    Works like `openai_tokens`, but takes the `params` of ``client.responses.create``: ``model``,
    ``input``, ... Summaries of what the model thinks are `Reasoning`. Calls of the app's tools are
    `ToolCall`; calls of OpenAI's own tools are left out, because OpenAI makes them itself.

    Raises:
        TypeError, ValueError, MissingExtraError: as `openai_tokens`.
    """
    try:
        import openai
    except ImportError:
        raise missing_extra("openai_responses", "openai") from None
    check_client(client, (openai.AsyncOpenAI,), "openai.AsyncOpenAI")
    check_params(client.responses.create, params)
    create: Callable[..., Awaitable[Any]] = for_one_stream(client).responses.create

    def request() -> Awaitable[Any]:
        return create(stream=True, **params)

    return ModelAnswer(
        openai, request, client.max_retries, ResponseReader, first_timeout, token_timeout
    )


class _Item(msgspec.Struct):
    type: Any = None
    call_id: Any = None
    name: Any = None
    arguments: Any = None
    input: Any = None  # a custom tool has this in place of arguments


class _Incomplete(msgspec.Struct):
    reason: Any = None


class _Response(msgspec.Struct):
    usage: Any = None
    incomplete_details: _Incomplete | None = None
    error: Any = None


class ResponseEvent(msgspec.Struct):
    """One event of a response: only the fields used here. Any may be missing."""

    type: Any = None
    delta: Any = None
    output_index: Any = None
    item: _Item | None = None
    response: _Response | None = None
    arguments: Any = None
    input: Any = None
    code: Any = None
    message: Any = None
    error: Any = None


# The types of items that are calls of the app's tools, and whether the tool takes text.
_CALLS = {"function_call": False, "custom_tool_call": True}

_INCOMPLETE: dict[str | None, FinishReason] = {
    "max_output_tokens": "length",
    "content_filter": "content_filter",
}


class ResponseReader(AnswerReader[ResponseEvent]):
    """Reads the events of a response."""

    def __init__(self) -> None:
        super().__init__(ResponseEvent)
        self._calls = ToolCalls()
        self._kinds: dict[int | None, bool] = {}  # {number of a call: its tool is a custom one}
        self._without_arguments: set[int | None] = set()
        self._reason: FinishReason = "stop"

    def is_usual(self, chunk: ResponseEvent) -> bool:
        """Return whether the event has a type of this API, or says that the answer failed."""
        return isinstance(chunk.type, str) and chunk.type.startswith("response.")

    def rest(self) -> Sequence[ModelEvent]:
        """Return the events that were held back, when the answer has ended."""
        return (*super().rest(), *self._halves.mend(self._calls.rest()))

    def take(self, chunk: ResponseEvent) -> Sequence[ModelEvent]:
        """Return our events for one event of the upstream."""
        text = chunk.delta if isinstance(chunk.delta, str) else ""
        place = number(chunk.output_index)
        match chunk.type:
            case "response.output_text.delta":
                return _piece(Token, chunk.delta)
            case "response.refusal.delta":
                self._reason = "content_filter"
                return _piece(Token, chunk.delta)
            case "response.reasoning_text.delta" | "response.reasoning_summary_text.delta":
                return _piece(Reasoning, chunk.delta)
            case (
                "response.function_call_arguments.delta" | "response.custom_tool_call_input.delta"
            ) if text:
                return self._go_on(place, text)
            case "response.function_call_arguments.done" | "response.custom_tool_call_input.done":
                whole = arguments_of(chunk.arguments or chunk.input)
                if whole and place in self._without_arguments:  # they came in no pieces
                    return self._go_on(place, whole)
            case "response.output_item.added" if chunk.item and chunk.item.type in _CALLS:
                return self._begin(place, chunk.item)
            case "response.output_item.done" if chunk.item and chunk.item.type in _CALLS:
                if place not in self._kinds:
                    return self._begin(place, chunk.item)
                whole = arguments_of(chunk.item.arguments or chunk.item.input)
                if whole and place in self._without_arguments:
                    return self._go_on(place, whole)
            case "response.completed" | "response.incomplete":
                response = chunk.response or _Response()
                if response.error and self.reason is None:
                    raise failure_in_stream(response.error)
                self._end(response)
            case "response.failed" | "response.cancelled":
                raise failure_in_stream(chunk.response and chunk.response.error)
            case "response.error":
                raise failure_in_stream(
                    chunk.error or {"code": chunk.code, "message": chunk.message}
                )
        return ()

    def _begin(self, place: int | None, item: _Item) -> Sequence[ModelEvent]:
        if self._reason == "stop":
            self._reason = "tool_calls"
        custom = self._kinds[place] = _CALLS[item.type]
        text = arguments_of(item.arguments or item.input)
        if not text:
            self._without_arguments.add(place)
        id, name = word_of(item.call_id), word_of(item.name)
        piece = self._calls.piece(place, id, name, text, custom=custom)
        return () if piece is None else (piece,)

    def _go_on(self, place: int | None, text: str) -> Sequence[ModelEvent]:
        self._without_arguments.discard(place)
        custom = self._kinds.get(place, False)
        piece = self._calls.piece(place, None, None, text, custom=custom)
        return () if piece is None else (piece,)

    def _end(self, response: _Response) -> None:
        self.usage: Usage | None = (
            usage_in(response.usage, "input_tokens", "output_tokens") or self.usage
        )
        incomplete = response.incomplete_details
        self.reason: FinishReason | None = self._reason
        if incomplete is not None:
            self.reason = _INCOMPLETE.get(incomplete.reason, "other")
        self.over = True


def _piece(kind: type[Token | Reasoning], delta: Any) -> Sequence[ModelEvent]:
    if delta == {}:
        raise msgspec.ValidationError("a piece of text is an object without members")
    text = text_of(delta)
    return (kind(text),) if text else ()
