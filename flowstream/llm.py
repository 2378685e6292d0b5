"""The events of a language model's answer, the same for every model and every format.

Structs that JSON knows by their ``"type"``: `NDJSON` and `SSE` write a token as
``{"type": "token", "data": "Hel"}``, which a page reads without a library. The encoders for
front ends (`OpenAIChunks`, `UIMessages`, `AGUI`) make of the same events what those expect,
so one producer serves all of them. An answer is any number of `Token`, `Reasoning` and
`ToolCall`, then at most one `Usage`, then one `Done`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["Done", "FinishReason", "ModelEvent", "Reasoning", "Token", "ToolCall", "Usage"]

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "other"]
"""Why a model stopped: it was done, it reached its limit of tokens, it wants tools to be
called, it was not allowed to go on, or something that only its maker knows."""


class Token(msgspec.Struct, frozen=True, tag_field="type", tag="token"):
    """A piece of the answer's text, as the model gave it; joined they are the text."""

    data: str


class Reasoning(msgspec.Struct, frozen=True, tag_field="type", tag="reasoning"):
    """A piece of what the model thinks before it answers."""

    data: str


class ToolCall(msgspec.Struct, frozen=True, tag_field="type", tag="tool_call", omit_defaults=True):
    """A piece of a call that the model wants to be made."""

    index: int
    """Which of the answer's calls it is a piece of, from 0."""
    arguments: str = ""
    """A piece of the arguments' JSON text; those of one call, joined, are all of it."""
    id: str | None = None
    """What the result is to be returned under; in the first piece of a call."""
    name: str | None = None
    """The tool's name; in the first piece of a call."""
    custom: bool = False
    """The tool takes text: the arguments are that text, and not JSON. In each piece of a call."""


class Usage(msgspec.Struct, frozen=True, tag_field="type", tag="usage"):
    """What the answer cost, in the model's own tokens."""

    input_tokens: int
    output_tokens: int


class Done(msgspec.Struct, frozen=True, tag_field="type", tag="done"):
    """The answer is complete, as far as the model is concerned."""

    reason: FinishReason = "stop"


ModelEvent = Token | Reasoning | ToolCall | Usage | Done
"""Any of them."""
