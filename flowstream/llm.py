"""The events of a language model's answer, the same for every model and every format.

They are Structs with a ``"type"``: `NDJSON` and `SSE` write a token as
``{"type": "token", "data": "Hel"}``, which a page reads without a library. The encoders for
front ends (`OpenAIChunks`, `UIMessages`, `AGUI`) turn the same events into what a front end
expects. So one producer serves all of them. An answer is any number of `Token`, `Reasoning` and
`ToolCall`, then at most one `Usage`, then one `Done`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["Done", "FinishReason", "ModelEvent", "Reasoning", "Token", "ToolCall", "Usage"]

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "other"]
"""Why a model stopped, in this order: it was finished, it reached its limit of tokens, it wants the
app to call tools, a filter stopped it, or another reason."""


class Token(msgspec.Struct, frozen=True, tag_field="type", tag="token"):
    """A piece of the answer's text. All of them, joined, are the text."""

    data: str


class Reasoning(msgspec.Struct, frozen=True, tag_field="type", tag="reasoning"):
    """A piece of what the model thinks before it answers."""

    data: str


class ToolCall(msgspec.Struct, frozen=True, tag_field="type", tag="tool_call", omit_defaults=True):
    """A piece of a tool call that the model asks for."""

    index: int
    """The number of the call that this piece belongs to, from 0."""
    arguments: str = ""
    """A piece of the arguments' JSON text. All pieces of one call, joined, are the JSON."""
    id: str | None = None
    """The id to return the result with; in the first piece of a call."""
    name: str | None = None
    """The tool's name; in the first piece of a call."""
    custom: bool = False
    """Whether the arguments are plain text and not JSON. The same in each piece of a call."""


class Usage(msgspec.Struct, frozen=True, tag_field="type", tag="usage"):
    """What the answer cost, in the model's own tokens."""

    input_tokens: int
    output_tokens: int


class Done(msgspec.Struct, frozen=True, tag_field="type", tag="done"):
    """The answer is complete, as far as the model is concerned."""

    reason: FinishReason = "stop"


ModelEvent = Token | Reasoning | ToolCall | Usage | Done
"""Any of them."""
