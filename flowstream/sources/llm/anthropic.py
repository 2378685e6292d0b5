"""Anthropic's models: the Messages API, also where AWS, Google or Microsoft serve it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from flowstream._errors import missing_extra
from flowstream.llm import FinishReason, ModelEvent, Reasoning, Token, ToolCall, Usage
from flowstream.sources._source import Source
from flowstream.sources.llm._client_check import check_client, check_params, for_one_stream
from flowstream.sources.llm._loose import arguments_of, number, text_of, word_of
from flowstream.sources.llm._model_answer import AnswerReader, ModelAnswer
from flowstream.sources.llm._model_failures import failure_of_reason
from flowstream.sources.llm._tool_calls import Remembered

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic
    from anthropic.lib.bedrock import AsyncAnthropicBedrock
    from anthropic.lib.vertex import AsyncAnthropicVertex

    Client = AsyncAnthropic | AsyncAnthropicBedrock | AsyncAnthropicVertex

__all__ = ["anthropic_tokens"]

# Clients that don't derive from AsyncAnthropic. Not every version of the SDK has all of them.
_CLIENTS = (
    "AsyncAnthropic",
    "AsyncAnthropicBedrock",
    "AsyncAnthropicBedrockMantle",
    "AsyncAnthropicVertex",
)


def anthropic_tokens(
    client: Client,
    *,
    first_timeout: float | None = 120.0,
    token_timeout: float | None = 60.0,
    **params: Any,
) -> Source:
    """Stream the answer of a message: `Token`, ..., `Usage`, `Done`.

    It makes the request when the stream runs. When the client leaves, it closes the connection to
    the model's server at once, however far the answer is.

    **Emits** each piece of text as a `Token`, each piece of thinking as a `Reasoning`, and each
    piece of a call of the app's tools as a `ToolCall`. It leaves out what Anthropic's own tools
    do. A refusal has the reason ``content_filter``. The usage includes cached input.
    **Backpressures** the model's server: it reads no more than the client takes. **Completes**
    when the model has stopped.

    Args:
        client: an `anthropic.AsyncAnthropic`, or its variant for another cloud. Its
            ``max_retries`` apply only to short waits: if the server asks for more than 8
            seconds, or more than is left of `first_timeout`, the stream fails, and our client
            is told when to come back.
        first_timeout: seconds to the first event, 120 by default. None for no other limit than
            the client's ``timeout``.
        token_timeout: seconds from one event to the next, 60 by default; or None. The time that
            our own client takes does not count.
        params: those of ``client.messages.create``: ``model``, ``max_tokens``, ``messages``, ...

    Raises:
        TypeError: `client` is no asynchronous client of this SDK, or `params` are not those of
            the call.
        ValueError: a timeout is not above 0.
        MissingExtraError: the package ``anthropic`` is not installed.

    While it runs, and told to the client:
        UpstreamError: the model's server failed: ``upstream_busy``, ``upstream_timeout``,
            ``upstream_failed``, ``upstream_unreachable``, ``upstream_broken`` (all retryable)
            or ``upstream_rejected``.
        PublicError: ``context_too_long``.
    """
    try:
        import anthropic
    except ImportError:
        raise missing_extra("anthropic_tokens", "anthropic") from None
    kinds = tuple(getattr(anthropic, name) for name in _CLIENTS if hasattr(anthropic, name))
    check_client(client, kinds, "anthropic.AsyncAnthropic")
    check_params(client.messages.create, params)
    create: Callable[..., Awaitable[Any]] = for_one_stream(client).messages.create

    def request() -> Awaitable[Any]:
        return create(stream=True, **params)

    return ModelAnswer(
        anthropic, request, client.max_retries, MessageReader, first_timeout, token_timeout
    )


class _Block(msgspec.Struct):
    type: Any = None
    text: Any = None
    thinking: Any = None
    id: Any = None
    name: Any = None
    input: Any = None


class _BlockDelta(msgspec.Struct):
    text: Any = None
    thinking: Any = None
    partial_json: Any = None
    stop_reason: Any = None


class _AnthropicMessage(msgspec.Struct):
    usage: Any = None


class MessageEvent(msgspec.Struct):
    """One event of a message: only the fields used here. Any may be missing."""

    type: Any = None
    index: Any = None
    message: _AnthropicMessage | None = None
    content_block: _Block | None = None
    delta: _BlockDelta | None = None
    usage: Any = None
    error: Any = None


_TYPES = frozenset(
    {
        "content_block_delta",
        "content_block_start",
        "content_block_stop",
        "message_start",
        "message_delta",
        "message_stop",
        "ping",
    }
)

_STOP: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


class MessageReader(AnswerReader[MessageEvent]):
    """Reads the events of a message."""

    def __init__(self) -> None:
        super().__init__(MessageEvent)
        self._calls: dict[int | None, int] = {}  # {number of a block: our number of its call}
        self._count_of_calls = 0
        self._ids: set[str] = set()
        self._remembered = Remembered()
        self._without_arguments: set[int | None] = set()
        self._input = self._created = self._read_from_cache = self._output = 0

    def is_usual(self, chunk: MessageEvent) -> bool:
        """Return whether the event has a type of this API, and is no error."""
        return isinstance(chunk.type, str) and chunk.type in _TYPES and not chunk.error

    def take(self, chunk: MessageEvent) -> Sequence[ModelEvent]:
        """Return our events for one event of the upstream."""
        match chunk.type:
            case "content_block_delta" if chunk.delta is not None:
                return self._take_delta(number(chunk.index), chunk.delta)
            case "content_block_start" if chunk.content_block is not None:
                return self._take_block(number(chunk.index), chunk.content_block)
            case "content_block_stop" if number(chunk.index) in self._without_arguments:
                place = number(chunk.index)
                self._without_arguments.discard(place)
                # No piece came, or only empty ones: the tool has no arguments. "" is no JSON.
                return (ToolCall(self._calls[place], "{}"),)
            case "message_start" if chunk.message is not None:
                self._count(chunk.message.usage)
            case "message_delta":
                self._count(chunk.usage)
                if chunk.delta is not None and chunk.delta.stop_reason:
                    self._stop(str(chunk.delta.stop_reason))
            case "message_stop":
                self.over = True
        return ()

    def _stop(self, reason: str) -> None:
        failure = failure_of_reason(reason, reason)
        if failure is not None and self.reason is None:
            raise failure
        self.reason: FinishReason | None = _STOP.get(reason, "other")

    def _take_delta(self, place: int | None, delta: _BlockDelta) -> Sequence[ModelEvent]:
        if delta.text:
            return (Token(text_of(delta.text)),)
        if delta.thinking:
            return (Reasoning(text_of(delta.thinking)),)
        if delta.partial_json and place in self._calls:
            self._without_arguments.discard(place)
            return (ToolCall(self._calls[place], arguments_of(delta.partial_json)),)
        return ()

    def _take_block(self, place: int | None, block: _Block) -> Sequence[ModelEvent]:
        match block.type:
            case "text" if block.text:
                return (Token(text_of(block.text)),)
            case "thinking" if block.thinking:
                return (Reasoning(text_of(block.thinking)),)
            case "tool_use":
                self._remembered.call()
                index = self._count_of_calls
                self._count_of_calls += 1
                self._calls[place] = index
                arguments = ""
                if block.input:  # the arguments do not come in pieces
                    arguments = arguments_of(block.input)
                else:
                    self._without_arguments.add(place)
                id = word_of(block.id) or f"call_{index}"
                while id in self._ids:  # each call needs an id of its own, for its result
                    id = f"{id}_{index}"
                self._remembered.text(id)
                self._ids.add(id)
                return (ToolCall(index, arguments, id, word_of(block.name)),)
        return ()

    def _count(self, usage: Any) -> None:
        """Note the usage so far. Each figure is a total; one that is missing has not changed."""
        if not isinstance(usage, Mapping):
            return
        self._input = _latest(usage.get("input_tokens"), self._input)
        self._created = _latest(usage.get("cache_creation_input_tokens"), self._created)
        self._read_from_cache = _latest(usage.get("cache_read_input_tokens"), self._read_from_cache)
        self._output = _latest(usage.get("output_tokens"), self._output)
        self.usage: Usage | None = Usage(
            self._input + self._created + self._read_from_cache, self._output
        )


def _latest(now: Any, before: int) -> int:
    found = number(now)
    return before if found is None else found
