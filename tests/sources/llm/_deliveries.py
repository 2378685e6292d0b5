"""Deliveries: whatever a writer may do with an encoder, in any order, for Hypothesis.

A model may say anything in any order; a policy drops what it will; a client begins anywhere; and
a stream ends in one of its ways, once with its last items taken from the queue and never sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from hypothesis import strategies as st

from flowstream import Event
from flowstream.abc import Encoder
from flowstream.llm import Done, ModelEvent, Reasoning, Token, ToolCall, Usage

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["", "\r\n", "data: x", "\u2028", '"}\n\n', "[DONE]", "\0", "é😀"]
)
ids = st.none() | st.sampled_from(["", "a", "b", "c d", 'q"\n'])
arguments = texts | st.sampled_from(["{}", '{"x":', "1}", "[1,\n2]", '{"__proto__":1}'])
counts = st.integers(0, 2**31)

events: st.SearchStrategy[ModelEvent] = st.one_of(
    st.builds(Token, texts),
    st.builds(Token, texts),
    st.builds(Reasoning, texts),
    st.builds(
        ToolCall,
        index=st.integers(0, 2),
        arguments=arguments,
        id=ids,
        name=ids,
        custom=st.booleans(),
    ),
    st.builds(ToolCall, index=st.integers(0, 2), arguments=arguments, id=ids, name=ids),
    st.builds(Usage, counts, counts),
    st.builds(Done, st.sampled_from(["stop", "length", "tool_calls", "content_filter", "other"])),
)


@st.composite
def items(draw: st.DrawFn) -> Any:
    """Draw an event as a source may give it: a Struct, a mapping, a str, with an envelope."""
    event = draw(events)
    how = draw(st.integers(0, 3))
    if how == 1:
        return msgspec.to_builtins(event)
    if how == 2 and isinstance(event, Token):
        return event.data
    if how == 3:
        return Event(event, id="e.1", key="k", retry=5)
    return event


@dataclass
class Delivery:
    """What happened, and what it was made of.

    Attributes:
        body: what the client got.
        text: the tokens among it, joined.
        gap: something was missing.
        ending: how it ended.
    """

    body: bytes
    text: str
    reasoning: str
    gap: bool
    ending: str


_SENT, _DROPPED, _GAP, _WARNING = range(4)
steps = st.tuples(
    st.sampled_from([_SENT, _SENT, _SENT, _SENT, _DROPPED, _GAP, _WARNING]),
    st.lists(items(), max_size=6),
)
ENDINGS = ("completed", "stopped", "failed", "reconnect", "max_bytes")


def encode(encoder: Encoder, item: Any) -> bytes:
    """Encode an item as the outlet does."""
    if not isinstance(item, Event):
        return encoder.encode(item)
    return encoder.encode(item.data, id=item.id, type=item.type, key=item.key, retry=item.retry)


def data_of(item: Any, kind: str) -> str:
    """Return the text in an item, if it is one of `kind`."""
    data = item.data if isinstance(item, Event) else item
    if isinstance(data, str):
        return data if kind == "token" else ""
    fields = msgspec.to_builtins(data)
    return fields["data"] if fields["type"] == kind else ""


@st.composite
def deliveries(draw: st.DrawFn, format: Encoder) -> Delivery:
    """Draw a stream in `format`."""
    encoder = format.start()
    body = encoder.opening(draw(st.none() | st.just(2000)))
    text = reasoning = ""
    gap = False
    for kind, some in draw(st.lists(steps, max_size=5)):
        made = [encode(encoder, item) for item in some]
        if kind == _SENT:
            body += encoder.join(made)
            text += "".join(data_of(item, "token") for item in some)
            reasoning += "".join(data_of(item, "reasoning") for item in some)
        elif kind == _WARNING:
            body += encoder.control("warning", {"buffered": 8, "limit": 10})
        elif kind == _GAP or some:  # dropped, and announced
            gap = True
            missed = None if kind == _GAP else len(some)
            body += encoder.control("gap", {"missed": missed, "after": None, "before": None})
        body += draw(st.sampled_from([b"", encoder.heartbeat()]))
    ending = draw(st.sampled_from(ENDINGS))
    if ending in ("completed", "stopped"):
        body += encoder.control("end", {"reason": ending}, id="e.end")
    elif ending == "reconnect":
        body += encoder.control("reconnect", {"reason": "shutdown"}, retry=1000)
    else:
        if ending == "max_bytes":
            gap = True
            encoder.join([encode(encoder, item) for item in draw(st.lists(items(), max_size=4))])
            body += encoder.control("gap", {"missed": 1, "after": None, "before": None})
        body += encoder.control("failed", {"code": "internal", "message": "it failed"}, id="e.f")
    return Delivery(body, text, reasoning, gap, ending)
