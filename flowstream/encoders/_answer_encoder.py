"""The common part of the formats for a language model's answer.

Their clients are strict: a piece of text belongs to a message that has begun, and a tool call has
to end before the answer does. So the bytes of an event depend on what the client got before it.
That is known only when the event is sent, not when it is encoded: in between a policy may drop it,
or a producer may stop waiting. So there are two steps. `encode` makes an item: a letter for its
kind, and JSON that is the same for every client, so that the clients of a run share it. `join` adds
what this client needs, and remembers what it sent.

So a client always gets a well-formed answer, whatever events come, in whatever order, and wherever
the client begins. None of the formats has a place for an event's id or ``retry``: their clients
read with fetch(), and come back without a ``Last-Event-ID``. The `openai` SDK even fails on an
empty event with only one of the two: it takes it for an answer that is not JSON.
"""

from __future__ import annotations

import abc
import types
from collections.abc import Iterable, Mapping
from typing import Any, Final, get_args

import msgspec

from flowstream.abc import Encoder
from flowstream.encoders._controls import wire_names
from flowstream.encoders._json import BigIntegers, Encode, JSONWriter, to_json, write_json
from flowstream.llm import Done, FinishReason, ModelEvent, Reasoning, Token, ToolCall, Usage

__all__ = ["AnswerEncoder", "AnswerStream", "to_json"]

MEDIA_TYPE: Final = "text/event-stream; charset=utf-8"

_MODEL_EVENTS = get_args(ModelEvent)
_PLAIN = (str, bool, int, float, list, tuple, dict, types.NoneType)  # no hook is asked about them
_TYPES = frozenset(event.__struct_config__.tag for event in _MODEL_EVENTS)

# The kind of an item: its first byte. None of these begins a line of SSE, so a client would ignore
# an item that was not joined.
_TOKEN, _REASONING, _CALL, _USAGE, _DONE, _OWN = b"\0", b"\1", b"\2", b"\3", b"\4", b"\5"

_read_call = msgspec.json.Decoder(ToolCall).decode
_read_usage = msgspec.json.Decoder(Usage).decode
_read_done = msgspec.json.Decoder(Done).decode


class AnswerEncoder(Encoder):
    """A format for answers, which an app passes to `stream`. It is a value.

    Args:
        names: control events to rename, if the format has names for them.
        encode, big_integers: as `JSONWriter` takes them. `encode` also gets each item that is not
            a model's event, and may return one.

    Raises:
        TypeError, ValueError: as `wire_names` and `JSONWriter` do.
    """

    media_type = MEDIA_TYPE
    in_band = True
    _besides = ""
    """What an app may also send, for an error's message."""

    def __init__(
        self,
        names: Mapping[str, str] = {},
        encode: Encode | None = None,
        big_integers: BigIntegers = "number",
    ) -> None:
        self._names: dict[str, str] = wire_names(names)
        self._json = JSONWriter(encode, big_integers)
        # What `encode` depends on. Hashed once: a run looks encodings up for every event.
        self._items: tuple[object, ...] = (type(self), self._json, *sorted(self._names.items()))
        self._items_hash: int = hash(self._items)

    @abc.abstractmethod
    def start(self) -> AnswerStream:
        """Return the encoder for one stream."""

    def _own_part(self, data: Any, type: str | None, key: object) -> bytes | None:
        """Return the JSON of an app's own item; None if the format can't carry it.

        Args:
            data: the item, which is not a model's event.
            type: the type of its `Event`, or None.
            key: the key of its `Event`, or None.
        """
        return None

    def _own_json(self, value: Any) -> bytes:
        """Return the JSON of an app's own value, with its `encode` and `big_integers`.

        Raises:
            TypeError, ValueError: as `JSONWriter.dumps` does.
        """
        return self._json.dumps(value)

    def _chosen(self) -> str:
        """Return the part of a `repr` for `encode` and `big_integers`, if they were given."""
        return "".join(f", {name}={value!r}" for name, value in self._json.options().items())

    def encode(
        self,
        data: Any,
        *,
        id: str | None = None,
        type: str | None = None,
        key: object = None,
        retry: int | None = None,
    ) -> bytes:
        """Return one item, for `join`.

        Raises:
            TypeError: if `data` is not a model's event, and the format cannot carry it.
            ValueError: if `data` is a mapping with the type of a model's event, but not its
                members.
            UnicodeEncodeError: if a text in it has a lone surrogate.
        """
        event = self._model_event(data, type)
        if event is None and type is None and not isinstance(data, _PLAIN):
            made = self._json.replaced(data)
            if made is not data:  # `encode` may have made a model's event
                data, event = made, self._model_event(made, None)
        if event is None:
            part = self._own_part(data, type, key)
            if part is None:
                raise TypeError(
                    "an event of a model is expected (Token, Reasoning, ToolCall, Usage, Done; a "
                    'mapping like {"type": "token", "data": "Hel"}; or a str, which is a token)'
                    f"{self._besides}, not {_kind(data, type)}"
                )
            # Only msgspec.Raw, which is copied as it is, can bring a line break in here. In JSON it
            # can stand only between two tokens, where a space means the same.
            return _OWN + part.replace(b"\n", b" ").replace(b"\r", b" ")
        if event.__class__ is Token:
            return _TOKEN + write_json(event.data)
        if event.__class__ is Reasoning:
            return _REASONING + write_json(event.data)
        if event.__class__ is ToolCall:
            return _CALL + to_json(event)
        return (_USAGE if event.__class__ is Usage else _DONE) + to_json(event)

    def _model_event(self, data: Any, type: str | None) -> Any:
        if data.__class__ in _MODEL_EVENTS:
            return data
        if isinstance(data, str):
            # The characters themselves: format() of an enum member is "Colour.RED".
            return Token(str.__str__(data)) if type is None else None
        if isinstance(data, Mapping):
            named = data.get("type")
            if isinstance(named, str) and named in _TYPES:
                return msgspec.convert(dict(data), ModelEvent)
        return None

    def join(self, items: Iterable[bytes]) -> bytes:
        """Return a stream that begins with these items; each stream's own is from `start`."""
        return self.start().join(items)

    def control(
        self, name: str, body: Any, *, id: str | None = None, retry: int | None = None
    ) -> bytes:
        """Return what `name` looks like in a stream that has nothing in it."""
        return self.start().control(name, body)

    def heartbeat(self) -> bytes:
        """Return an empty comment."""
        return b":\n\n"


class AnswerStream(Encoder):
    """One client's stream of an answer.

    Equal to any other of the same format, because what `encode` returns is the same: a run keeps
    one encoding of an event for all its clients.

    Attributes:
        format: the encoder that was given to `stream`.
        usage: what the answer cost so far, or None; a turn of the model's has one, and they are
            added up.
        reason: why the model stopped in its last turn, or None.
    """

    media_type = MEDIA_TYPE
    in_band = True

    def __init__(self, format: AnswerEncoder) -> None:
        self.format = format
        self.usage: Usage | None = None
        self.reason: FinishReason | None = None

    def encode(
        self,
        data: Any,
        *,
        id: str | None = None,
        type: str | None = None,
        key: object = None,
        retry: int | None = None,
    ) -> bytes:
        """Return one item, for `join`: the same for all streams of the format."""
        return self.format.encode(data, type=type, key=key)

    # -- what the writer calls -------------------------------------------------------------

    def opening(self, retry: int | None) -> bytes:
        """Return a comment that shows client and proxies that the stream is open."""
        return b": connected\n\n"

    def heartbeat(self) -> bytes:
        """Return an empty comment."""
        return b":\n\n"

    def join(self, items: Iterable[bytes]) -> bytes:
        """Return what the client is sent for these items."""
        return b"".join([self._sent(item) for item in items])

    def _sent(self, item: bytes) -> bytes:
        kind, body = item[:1], item[1:]
        if kind == _TOKEN:
            return self.token(body)
        if kind == _REASONING:
            return self.reasoning(body)
        if kind == _CALL:
            return self.call(_read_call(body))
        if kind == _USAGE:
            more, so_far = _read_usage(body), self.usage or Usage(0, 0)
            self.usage = Usage(
                so_far.input_tokens + more.input_tokens, so_far.output_tokens + more.output_tokens
            )
            return b""
        if kind == _DONE:
            self.reason = _read_done(body).reason
            return self.turn_over()
        return self.own(body)

    def control(
        self, name: str, body: Any, *, id: str | None = None, retry: int | None = None
    ) -> bytes:
        """Return one of flowstream's own events, in the words of the format."""
        if name == "gap":
            return self.gap(body)
        if name == "failed":
            return self.failed(body["code"], body["message"])
        if name == "end":
            return self.completed() if body["reason"] == "completed" else self.stopped()
        if name == "reconnect":
            reason = body["reason"]
            return self.failed(reason, "the answer was broken off before its end")
        if name == "snapshot":
            return self.encode(body, type=self.format._names["snapshot"])
        return self.warning(body)

    # -- what a format says ----------------------------------------------------------------

    @abc.abstractmethod
    def token(self, text: bytes) -> bytes:
        """Return what is sent for a piece of the answer, given as JSON."""

    @abc.abstractmethod
    def reasoning(self, text: bytes) -> bytes:
        """Return what is sent for a piece of what the model thinks, given as JSON."""

    @abc.abstractmethod
    def call(self, piece: ToolCall) -> bytes:
        """Return what is sent for a piece of a call."""

    @abc.abstractmethod
    def turn_over(self) -> bytes:
        """Return what is sent when the model has stopped. It may be asked again after that."""

    @abc.abstractmethod
    def own(self, part: bytes) -> bytes:
        """Return what is sent for something of the app's own, given as JSON."""

    @abc.abstractmethod
    def gap(self, body: dict[str, Any]) -> bytes:
        """Return what tells that something is missing here."""

    @abc.abstractmethod
    def warning(self, body: dict[str, Any]) -> bytes:
        """Return what tells that the client is slow."""

    @abc.abstractmethod
    def failed(self, code: str, message: str) -> bytes:
        """Return the end of an answer that is not whole.

        It must not refer to what was begun: that may be among what was never sent.
        """

    @abc.abstractmethod
    def completed(self) -> bytes:
        """Return the end of an answer that is whole."""

    @abc.abstractmethod
    def stopped(self) -> bytes:
        """Return the end of an answer that somebody stopped."""

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.format._items == other.format._items

    def __hash__(self) -> int:
        return self.format._items_hash


def _kind(data: object, envelope: str | None) -> str:
    if envelope is not None:
        return f"an Event of type {envelope!r}"
    if isinstance(data, Mapping):
        return f"a mapping of type {data.get('type')!r}"
    return f"a {type(data).__name__}"
