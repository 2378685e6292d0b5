"""OpenAI's Chat Completions: the API that most servers of other models have, too.

Set the client's ``base_url`` to use vLLM, llama.cpp, Ollama, OpenRouter and many more. The module
`openai_responses` is for OpenAI's own later API.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from flowstream._errors import PublicError, missing_extra
from flowstream.llm import FinishReason, ModelEvent, Reasoning, Token, Usage
from flowstream.sources._source import Source
from flowstream.sources.llm._client_check import check_client, check_params, for_one_stream
from flowstream.sources.llm._loose import arguments_of, number, text_of, usage_in, word_of
from flowstream.sources.llm._model_answer import AnswerReader, ModelAnswer
from flowstream.sources.llm._model_failures import failure_in_stream, failure_of_reason
from flowstream.sources.llm._tool_calls import ToolCalls

if TYPE_CHECKING:
    from openai import AsyncOpenAI

__all__ = ["ChatReader", "openai_tokens"]


def openai_tokens(
    client: AsyncOpenAI,
    *,
    first_timeout: float | None = 120.0,
    token_timeout: float | None = 60.0,
    **params: Any,
) -> Source:
    """Stream the answer of a chat completion: `Token`, ..., `Usage`, `Done`.

    It makes the request when the stream runs. When the client leaves, it closes the connection to
    the model's server at once, however far the answer is.

    **Emits** each piece of text as a `Token`, each piece of thinking as a `Reasoning` (if the
    server sends it), and each piece of a tool call as a `ToolCall`. A refusal is text, with the
    reason ``content_filter``. **Backpressures** the model's server: it reads no more than the
    client takes. **Completes** when the model has stopped.

    Args:
        client: an `openai.AsyncOpenAI`, or a class derived from it. Its ``max_retries`` apply
            only to short waits: if the server asks for more than 8 seconds, or more than is
            left of `first_timeout`, the stream fails, and our client is told when to come back.
        first_timeout: seconds to the first event, 120 by default, because a model may think in
            silence that long. None for no other limit than the client's ``timeout``.
        token_timeout: seconds from one event to the next, 60 by default; or None. The time that
            our own client takes does not count.
        params: those of ``client.chat.completions.create``: ``model``, ``messages``, ... It asks
            for the usage with ``stream_options``. If the server refuses that, it asks again
            without. With ``stream_options=None`` it does not ask for the usage.

    Raises:
        TypeError: `client` is no asynchronous client of this SDK, or `params` are not those of
            the call.
        ValueError: a timeout is not above 0, or more than one answer (``n``) is asked for.
        MissingExtraError: the package ``openai`` is not installed.

    While it runs, and told to the client:
        UpstreamError: the model's server failed: ``upstream_busy``, ``upstream_timeout``,
            ``upstream_failed``, ``upstream_unreachable``, ``upstream_broken`` (all retryable)
            or ``upstream_rejected``.
        PublicError: ``context_too_long`` or ``content_filter``.
    """
    try:
        import openai
    except ImportError:
        raise missing_extra("openai_tokens", "openai") from None
    check_client(client, (openai.AsyncOpenAI,), "openai.AsyncOpenAI")
    check_params(client.chat.completions.create, params)
    if params.get("n") not in (None, 1):
        raise ValueError(f"n must be 1: a stream is one answer, not {params['n']!r}")
    create: Callable[..., Awaitable[Any]]
    create = for_one_stream(client).chat.completions.create

    async def request() -> Any:
        if "stream_options" in params:
            return await create(stream=True, **_without_none(params))
        try:
            return await create(stream=True, stream_options={"include_usage": True}, **params)
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            if "stream_options" not in str(error):
                raise
        return await create(stream=True, **params)  # the server does not know stream_options

    return ModelAnswer(
        openai, request, client.max_retries, ChatReader, first_timeout, token_timeout
    )


def _without_none(params: dict[str, Any]) -> dict[str, Any]:
    options = params["stream_options"]
    return {
        name: value
        for name, value in params.items()
        if name != "stream_options" or options is not None
    }


class _Function(msgspec.Struct):
    name: Any = None
    arguments: Any = None
    input: Any = None  # a custom tool has this in place of arguments


class _ChatCall(msgspec.Struct):
    index: Any = None
    id: Any = None
    function: _Function | None = None
    custom: _Function | None = None


class _ChatDelta(msgspec.Struct):
    content: Any = None  # text, or Mistral's list of parts
    refusal: Any = None
    # DeepSeek, vLLM, SGLang and others have the first, OpenRouter and newer vLLM the second,
    # Ollama and proxies of Anthropic the third.
    reasoning_content: Any = None
    reasoning: Any = None
    thinking: Any = None
    tool_calls: list[_ChatCall] | None = None
    function_call: _Function | None = None


class _Choice(msgspec.Struct):
    index: Any = None
    delta: _ChatDelta | None = None
    message: _ChatDelta | None = None  # the complete answer in one piece
    text: Any = None  # the older Completions API has this
    finish_reason: Any = None
    error: Any = None


class ChatChunk(msgspec.Struct):
    """One event of a chat completion: only the fields used here. Any may be missing."""

    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None
    object: Any = None


_FINISH: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "sensitive": "content_filter",
    "safety": "content_filter",
}


_THOUGHTS = ("thinking", "reasoning", "reasoning_text", "summary_text")


class ChatReader(AnswerReader[ChatChunk]):
    """Reads the chunks of a chat completion."""

    def __init__(self) -> None:
        super().__init__(ChatChunk)
        self._calls = ToolCalls()
        self._refused = False
        self._has_answer = False

    def done(self) -> None:
        """Note that the upstream sent ``[DONE]``, with or without a reason before it."""
        super().done()
        if self.reason is None:
            self.reason: FinishReason | None = "other"  # the server did not say why

    def is_usual(self, chunk: ChatChunk) -> bool:
        """Return whether the chunk has a choice and no error."""
        return bool(chunk.choices) and not chunk.error and chunk.object != "error"

    def rest(self) -> Sequence[ModelEvent]:
        """Return the events that were held back, when the answer has ended."""
        return (*super().rest(), *self._halves.mend(self._calls.rest()))

    def take(self, chunk: ChatChunk) -> Sequence[ModelEvent]:
        """Return the events in one chunk."""
        if chunk.usage is not None:  # some servers send it with each chunk; the last one counts
            self.usage: Usage | None = (
                usage_in(chunk.usage, "prompt_tokens", "completion_tokens") or self.usage
            )
        events: list[ModelEvent] = []
        for choice in chunk.choices or ():
            if choice.index and number(choice.index):
                continue
            delta = choice.delta
            if delta is not None:
                self._take_delta(delta, events)
            elif choice.message is not None and not self._has_answer:
                self._take_delta(choice.message, events)
            if choice.text:
                events.append(Token(text_of(choice.text)))
            reason = choice.finish_reason
            if reason or choice.error:
                self._end(reason, choice.error)
        if events:
            self._has_answer = True
        elif self.failure is not None:
            raise self.failure
        return events

    def _end(self, reason: Any, error: Any) -> None:
        """Note why the answer ends. A failure after its end changes nothing."""
        if isinstance(reason, dict):  # as SGLang sends it
            reason, error = reason.get("type"), error or reason
        reason = str(reason or "").lower()
        if reason == "null":
            reason = ""
        failure = failure_in_stream(error) if error else failure_of_reason(reason, reason)
        if failure is not None:
            if self.reason is None:
                self.failure: PublicError | None = failure
        elif reason:
            self.reason = "content_filter" if self._refused else _FINISH.get(reason, "other")

    def _take_delta(self, delta: _ChatDelta, events: list[ModelEvent]) -> None:
        thought = delta.reasoning_content or delta.reasoning or delta.thinking
        if thought:
            events.append(Reasoning(text_of(thought)))
        content = delta.content
        if content.__class__ is str:
            if content:
                events.append(Token(content))
        elif content:
            self._take_parts(content, events)
        if delta.refusal:
            self._refused = True
            events.append(Token(text_of(delta.refusal)))
        if delta.tool_calls:
            for place, call in enumerate(delta.tool_calls):
                self._take_call(call, place > 0, events)
        # For older clients, some servers send a call in both ways.
        elif delta.function_call is not None:
            self._take_call(_ChatCall(function=delta.function_call), False, events)

    def _take_parts(self, content: Any, events: list[ModelEvent]) -> None:
        for part in content if isinstance(content, list) else (content,):
            kind = part.get("type") if isinstance(part, dict) else None
            text = text_of(part)
            if text:
                events.append(Reasoning(text) if kind in _THOUGHTS else Token(text))

    def _take_call(self, call: _ChatCall, another: bool, events: list[ModelEvent]) -> None:
        function = call.function or call.custom or _Function()
        given = function.input if call.custom is not None else function.arguments
        piece = self._calls.piece(
            number(call.index),
            word_of(call.id),
            word_of(function.name),
            arguments_of(given),
            custom=call.custom is not None,
            another=another,
        )
        if piece is not None:
            events.append(piece)
