"""OpenAI's models, and all that are served in the same way.

`openai_tokens` uses the chat completions API, which most servers of other models speak, too:
vLLM, llama.cpp, Ollama, OpenRouter and many more, by the client's ``base_url``.
`openai_responses` uses OpenAI's own later one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from flowstream._errors import missing_extra
from flowstream.decoders import ServerSentEvent
from flowstream.llm import FinishReason, ModelEvent, Reasoning, Token, Usage
from flowstream.sources._llm_answer import AnswerReader, ModelAnswer
from flowstream.sources._llm_client import check_client, check_params, for_one_stream
from flowstream.sources._llm_failures import failure_in_stream
from flowstream.sources._llm_tool_calls import ToolCalls
from flowstream.sources._source import Source

if TYPE_CHECKING:
    from openai import AsyncOpenAI

__all__ = ["openai_responses", "openai_tokens"]


def openai_tokens(
    client: AsyncOpenAI,
    *,
    first_timeout: float | None = 120.0,
    token_timeout: float | None = 60.0,
    **params: Any,
) -> Source:
    """Stream the answer of a chat completion: `Token`, ..., `Usage`, `Done`.

    The request is made when the stream runs. When the client goes, the connection to the
    model's server is closed at once, in whatever state the answer is.

    **Emits** each piece of text as a `Token`, of what a model thinks as a `Reasoning` (from
    servers that send it), of a tool call as a `ToolCall`; a refusal is text, too, and then the
    reason is ``content_filter``. **Backpressures** the model's server: what the client does not
    take is not read. **Completes** when the model has stopped.

    Args:
        client: an `openai.AsyncOpenAI`, or what derives from it. Its ``max_retries`` are kept
            to where a retry is near: what asks for more than 8 seconds, or more than is left
            of `first_timeout`, is told to our client instead.
        first_timeout: seconds to the first event, 120 by default: a model that thinks in
            silence may need as long. None for no other limit than the client's ``timeout``.
        token_timeout: seconds from one event to the next, 60 by default; or None. The time that
            our own client takes for them does not count.
        params: those of ``client.chat.completions.create``: ``model``, ``messages``, ... The
            usage is asked for by ``stream_options``, and without it of servers that refuse
            that; ``stream_options=None`` does not ask.

    Raises:
        TypeError: `client` is no asynchronous client of this SDK, or `params` are not those of
            the call.
        ValueError: a timeout is not above 0, or more than one answer (``n``) is asked for.
        MissingExtraError: the package ``openai`` is not installed.

    While it runs, and to be told to the client:
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
        return await create(stream=True, **params)  # it knows nothing of them

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


# -- chat completions ----------------------------------------------------------------------


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    # DeepSeek, vLLM, SGLang and others have the first, OpenRouter and newer vLLM the second.
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    index: int | None = 0
    delta: _Delta | None = None
    finish_reason: str | None = None


class _ChatUsage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Chunk(msgspec.Struct):
    """One event of a chat completion; only what is used here, and all of it may be missing."""

    choices: list[_Choice] | None = None
    usage: _ChatUsage | None = None
    error: Any = None


_FINISH: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


class ChatReader(AnswerReader[Chunk]):
    """Reads the chunks of a chat completion."""

    def __init__(self) -> None:
        super().__init__(Chunk)
        self._calls = ToolCalls()
        self._refused = False

    def read(self, event: ServerSentEvent) -> Sequence[ModelEvent]:
        """Return the events in one chunk; ``[DONE]`` has none."""
        if event.data.startswith("[DONE]"):
            self.over = True
            if self.reason is None:
                self.reason = "other"  # a server that does not say why
            return ()
        return super().read(event)

    def take(self, chunk: Chunk) -> Sequence[ModelEvent]:
        """Return the events in one chunk."""
        if chunk.error:
            raise failure_in_stream(chunk.error)
        if chunk.usage is not None:  # some servers send it with each chunk; the last is right
            usage = chunk.usage
            self.usage = Usage(usage.prompt_tokens or 0, usage.completion_tokens or 0)
        events: list[ModelEvent] = []
        for choice in chunk.choices or ():
            if choice.index:
                continue
            if choice.delta is not None:
                self._take_delta(choice.delta, events)
            if choice.finish_reason:
                reason = _FINISH.get(choice.finish_reason, "other")
                self.reason = "content_filter" if self._refused else reason
        return events

    def _take_delta(self, delta: _Delta, events: list[ModelEvent]) -> None:
        thought = delta.reasoning_content or delta.reasoning
        if thought:
            events.append(Reasoning(thought))
        if delta.content:
            events.append(Token(delta.content))
        if delta.refusal:
            self._refused = True
            events.append(Token(delta.refusal))
        for call in delta.tool_calls or ():
            function = call.function or _Function()
            events.append(
                self._calls.piece(call.index, call.id, function.name, function.arguments or "")
            )


# -- responses -----------------------------------------------------------------------------


def openai_responses(
    client: AsyncOpenAI,
    *,
    first_timeout: float | None = 120.0,
    token_timeout: float | None = 60.0,
    **params: Any,
) -> Source:
    """Stream the answer of OpenAI's Responses API: `Token`, ..., `Usage`, `Done`.

    As `openai_tokens`, but for `params`, which are those of ``client.responses.create``:
    ``model``, ``input``, ... Summaries of what the model thinks are `Reasoning`; of the tools
    only functions are `ToolCall`: OpenAI calls its own by itself.

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
    type: str | None = None
    call_id: str | None = None
    name: str | None = None


class _Incomplete(msgspec.Struct):
    reason: str | None = None


class _ResponseUsage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None


class _Response(msgspec.Struct):
    usage: _ResponseUsage | None = None
    incomplete_details: _Incomplete | None = None
    error: Any = None


class ResponseEvent(msgspec.Struct):
    """One event of a response; only what is used here, and all of it may be missing."""

    type: str | None = None
    delta: Any = None
    output_index: int | None = None
    item: _Item | None = None
    response: _Response | None = None
    code: Any = None
    message: Any = None
    error: Any = None


_INCOMPLETE: dict[str | None, FinishReason] = {
    "max_output_tokens": "length",
    "content_filter": "content_filter",
}


class ResponseReader(AnswerReader[ResponseEvent]):
    """Reads the events of a response."""

    def __init__(self) -> None:
        super().__init__(ResponseEvent)
        self._calls = ToolCalls()
        self._reason: FinishReason = "stop"

    def take(self, chunk: ResponseEvent) -> Sequence[ModelEvent]:
        """Return the events in one event of the upstream's."""
        text = chunk.delta if isinstance(chunk.delta, str) else ""
        match chunk.type:
            case "response.output_text.delta" if text:
                return (Token(text),)
            case "response.refusal.delta" if text:
                self._reason = "content_filter"
                return (Token(text),)
            case "response.reasoning_text.delta" | "response.reasoning_summary_text.delta" if text:
                return (Reasoning(text),)
            case "response.function_call_arguments.delta" if text:
                return (self._calls.piece(chunk.output_index, None, None, text),)
            case "response.output_item.added" if chunk.item and chunk.item.type == "function_call":
                if self._reason == "stop":
                    self._reason = "tool_calls"
                item = chunk.item
                return (self._calls.piece(chunk.output_index, item.call_id, item.name, ""),)
            case "response.completed" | "response.incomplete":
                self._end(chunk.response or _Response())
            case "response.failed":
                raise failure_in_stream(chunk.response and chunk.response.error)
            case "error":
                raise failure_in_stream(
                    chunk.error or {"code": chunk.code, "message": chunk.message}
                )
        return ()

    def _end(self, response: _Response) -> None:
        if response.usage is not None:
            usage = response.usage
            self.usage = Usage(usage.input_tokens or 0, usage.output_tokens or 0)
        incomplete = response.incomplete_details
        self.reason = self._reason
        if incomplete is not None:
            self.reason = _INCOMPLETE.get(incomplete.reason, "other")
        self.over = True
