"""Anthropic's models: the Messages API, also where AWS, Google or Microsoft serve it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from flowstream._errors import missing_extra
from flowstream.llm import FinishReason, ModelEvent, Reasoning, Token, ToolCall, Usage
from flowstream.sources._llm_answer import AnswerReader, ModelAnswer
from flowstream.sources._llm_client import check_client, check_params, for_one_stream
from flowstream.sources._llm_failures import failure_in_stream
from flowstream.sources._source import Source

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic
    from anthropic.lib.bedrock import AsyncAnthropicBedrock
    from anthropic.lib.vertex import AsyncAnthropicVertex

    Client = AsyncAnthropic | AsyncAnthropicBedrock | AsyncAnthropicVertex

__all__ = ["anthropic_tokens"]

# Those that don't derive from AsyncAnthropic; not every version of the SDK has all of them.
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

    The request is made when the stream runs. When the client goes, the connection to the
    model's server is closed at once, in whatever state the answer is.

    **Emits** each piece of text as a `Token`, of thinking as a `Reasoning`, of a call of one of
    the app's tools as a `ToolCall`; what Anthropic's own tools do is left out. A refusal has
    the reason ``content_filter``. The usage has cached input in it. **Backpressures** the
    model's server: what the client does not take is not read. **Completes** when the model has
    stopped.

    Args:
        client: an `anthropic.AsyncAnthropic`, or one of its kin for other clouds. Its
            ``max_retries`` are kept to where a retry is near: what asks for more than 8
            seconds, or more than is left of `first_timeout`, is told to our client instead.
        first_timeout: seconds to the first event, 120 by default. None for no other limit than
            the client's ``timeout``.
        token_timeout: seconds from one event to the next, 60 by default; or None. The time that
            our own client takes for them does not count.
        params: those of ``client.messages.create``: ``model``, ``max_tokens``, ``messages``, ...

    Raises:
        TypeError: `client` is no asynchronous client of this SDK, or `params` are not those of
            the call.
        ValueError: a timeout is not above 0.
        MissingExtraError: the package ``anthropic`` is not installed.

    While it runs, and to be told to the client:
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
    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: Any = None


class _Delta(msgspec.Struct):
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None


class _Message(msgspec.Struct):
    usage: _Usage | None = None


class MessageEvent(msgspec.Struct):
    """One event of a message; only what is used here, and all of it may be missing."""

    type: str | None = None
    index: int | None = None
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: _Usage | None = None
    error: Any = None


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
        self._calls: dict[int | None, int] = {}  # ours by the block's number
        self._without_arguments: set[int | None] = set()
        self._input = self._created = self._read_from_cache = self._output = 0

    def take(self, chunk: MessageEvent) -> Sequence[ModelEvent]:
        """Return the events in one event of the upstream's."""
        match chunk.type:
            case "content_block_delta" if chunk.delta is not None:
                return self._take_delta(chunk.index, chunk.delta)
            case "content_block_start" if chunk.content_block is not None:
                return self._take_block(chunk.index, chunk.content_block)
            case "content_block_stop" if chunk.index in self._without_arguments:
                self._without_arguments.discard(chunk.index)
                # No piece came, or empty ones: a tool without arguments. "" is no JSON.
                return (ToolCall(self._calls[chunk.index], "{}"),)
            case "message_start" if chunk.message is not None:
                self._count(chunk.message.usage)
            case "message_delta":
                self._count(chunk.usage)
                if chunk.delta is not None and chunk.delta.stop_reason:
                    self.reason = _STOP.get(chunk.delta.stop_reason, "other")
            case "message_stop":
                self.over = True
            case "error":
                raise failure_in_stream(chunk.error)
        return ()

    def _take_delta(self, number: int | None, delta: _Delta) -> Sequence[ModelEvent]:
        if delta.text:
            return (Token(delta.text),)
        if delta.thinking:
            return (Reasoning(delta.thinking),)
        if delta.partial_json and number in self._calls:
            self._without_arguments.discard(number)
            return (ToolCall(self._calls[number], delta.partial_json),)
        return ()

    def _take_block(self, number: int | None, block: _Block) -> Sequence[ModelEvent]:
        match block.type:
            case "text" if block.text:
                return (Token(block.text),)
            case "thinking" if block.thinking:
                return (Reasoning(block.thinking),)
            case "tool_use":
                index = self._calls[number] = len(self._calls)
                arguments = ""
                if block.input:  # where it does not come in pieces
                    arguments = msgspec.json.encode(block.input).decode()
                else:
                    self._without_arguments.add(number)
                return (ToolCall(index, arguments, block.id, block.name),)
        return ()

    def _count(self, usage: _Usage | None) -> None:
        """Note the usage so far; each figure is a sum, and of what is missing the last stands."""
        if usage is None:
            return
        self._input = _latest(usage.input_tokens, self._input)
        self._created = _latest(usage.cache_creation_input_tokens, self._created)
        self._read_from_cache = _latest(usage.cache_read_input_tokens, self._read_from_cache)
        self._output = _latest(usage.output_tokens, self._output)
        self.usage = Usage(self._input + self._created + self._read_from_cache, self._output)


def _latest(now: int | None, before: int) -> int:
    return before if now is None else now
