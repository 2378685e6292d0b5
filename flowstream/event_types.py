"""Typed events: define what a stream may send, check it in the producer, describe it to clients.

::

    class Token(msgspec.Struct, tag="token"):
        text: str

    class Usage(msgspec.Struct, tag="usage"):
        tokens: int

    answer = EventTypes(Token, Usage)

    @app.get("/answer")
    async def view():
        return sse(tokens, events=answer)       # ndjson(...) and stream(...) likewise

    answer.json_schema(SSE())                   # for clients, in whatever language

An encoder does the check, because the items of producers, topics and runs all go through it. It is
a value like any other encoder, so a topic's subscribers share its bytes.

It checks what is sent: it writes each item as JSON and reads it again as its type. msgspec does not
check a Struct that is made in Python; this finds a wrong value in any case, at 0.3 µs for each
item. It also finds a NaN, which would reach the client as null.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal, TypeVar, Union

import msgspec

from flowstream._errors import unencodable
from flowstream._event import Event, check_field
from flowstream.abc import Encoder
from flowstream.encoders import NDJSON, SSE, Frames
from flowstream.encoders._controls import CONTROL_NAMES, ControlEncoder
from flowstream.encoders._json import Encode, JSONWriter
from flowstream.encoders._schemas import Parts, Schema, Shape, shape_of

__all__ = ["EventTypes"]

_Data = TypeVar("_Data")

_USUAL = JSONWriter()

_CHANNEL = re.compile(r"[A-Za-z0-9_-]+")
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


class EventTypes:
    """The events that a stream may send: msgspec Structs, told apart by their tags.

    Two are equal, and have the same hash, if they have the same Structs.

    Args:
        types: Struct classes, each with its own tag, a `str`, and all with the same tag field:
            ``class Token(msgspec.Struct, tag="token")``.
        snapshot: the type of a topic's snapshots, any type that msgspec knows. Snapshots are then
            checked, too. None allows anything.

    Raises:
        TypeError: a type is not a Struct, has no tag, or its tag is not a `str`; or their tag
            fields differ.
        ValueError: there are no types, two have the same tag, or a tag has CR, LF or NUL in
            it.
    """

    def __init__(self, *types: type[msgspec.Struct], snapshot: Any = None) -> None:
        self.types = types
        self._tags = _tags(types)
        self._snapshot = snapshot
        self._read = msgspec.json.Decoder(Union[types]).decode  # noqa: UP007  # of a tuple
        self._read_snapshot = None if snapshot is None else msgspec.json.Decoder(snapshot).decode
        self._expected = "expected " + ", ".join(
            f"{kind.__name__} ({tag!r})" for kind, tag in self._tags.items()
        )

    def check(self, data: _Data, *, encode: Encode | None = None) -> _Data:
        """Return `data` if it is one of these events, else raise.

        Use it in a publisher, which otherwise learns of a wrong event only if the topic has
        subscribers: ``await topic.publish(prices.check(Price("EUR", 1.1)))``.

        Args:
            data: one of the Structs, or a `dict` of the same shape, tag included; or an
                `Event` with such data.
            encode: the format's function for the app's own types, if it has one.

        Raises:
            EncodingError: it is of another type, or has a value that its type does not allow;
                the message names what was expected.
        """
        event = data if isinstance(data, Event) else Event(data)
        try:
            self._tag_of(event.data, event.type, JSONWriter(encode))
        except Exception as error:
            raise unencodable(event.data, error) from error
        return data

    def _tag_of(self, data: Any, type: str | None = None, writer: JSONWriter | None = None) -> str:
        """Check an event, and return its tag.

        Args:
            data: the event's data.
            type: the type that the app gave it, or None.
            writer: makes the JSON that is checked; None for one without a function of the app's.

        Raises:
            TypeError: it is none of the types, or JSON cannot carry it.
            ValueError: a value in it is not what its type allows, or `type` is not its tag.
        """
        if data.__class__ not in self._tags and not isinstance(data, (dict, msgspec.Raw)):
            raise TypeError(f"it is not an event of this stream; {self._expected}")
        payload = (writer or _USUAL).dumps(data)
        try:
            found = self._read(payload)
        except ValueError as error:
            raise ValueError(f"{error}; {self._expected}") from error
        tag = self._tags[found.__class__]
        if type is not None and type != tag:
            raise ValueError(f"its type is {type!r}, but its tag is {tag!r}")
        return tag

    def _check_snapshot(self, data: Any, writer: JSONWriter | None = None) -> None:
        """Raise unless `data` is a snapshot of the right type; `writer` is that of `_tag_of`.

        Raises:
            TypeError: JSON cannot carry it.
            ValueError: it has another type.
        """
        if self._read_snapshot is not None:
            try:
                self._read_snapshot((writer or _USUAL).dumps(data))
            except ValueError as error:
                raise ValueError(f"{error}; expected a snapshot, {self._snapshot!r}") from error

    def encoder(self, inner: Encoder) -> Encoder:
        """Return `inner` as an encoder that writes these events and no others.

        In SSE an event's ``event:`` field is its tag. An envelope of another format has the tag as
        its ``"type"``. An `Event` to which the app gave another type is refused.

        Raises:
            TypeError: `inner` is not an encoder.
            ValueError: a tag is the name of one of flowstream's own events in it.
        """
        if not isinstance(inner, Encoder):
            raise TypeError(f"events go into an Encoder such as SSE(), not {inner!r}")
        if isinstance(inner, ControlEncoder):
            taken = {inner.wire_name(name) for name in CONTROL_NAMES}
            clashes = sorted(taken.intersection(self._tags.values()))
            if clashes:
                raise ValueError(
                    f"{clashes[0]!r} is the name of one of flowstream's own events: give the "
                    f"Struct another tag, or those another name, {type(inner).__name__}(names=...)"
                )
        return _Typed(self, inner)

    # -- descriptions for clients -----------------------------------------------------------

    def json_schema(self, encoder: Encoder | None = None, *, controls: bool = True) -> Schema:
        """Return the JSON Schema (draft 2020-12) of one item of the stream.

        Args:
            encoder: the format, by default `NDJSON`. An item of NDJSON or of a JSON text
                sequence is a JSON value. An item of SSE is an object with its fields; ``data``
                is a string with JSON in it.
            controls: whether flowstream's own events are in the stream; they are by default.

        Raises:
            TypeError: the format is none of these.
        """
        shape, parts = self._parts(encoder, "#/$defs/", controls)
        items = [shape.item(part) for part in parts.all]
        return _plain({"$schema": _DIALECT, "anyOf": items, "$defs": parts.definitions})

    def openapi(
        self,
        encoder: Encoder | None = None,
        *,
        controls: bool = True,
        version: Literal["3.1", "3.2"] = "3.1",
    ) -> Schema:
        """Return the parts of an OpenAPI document about the stream: ``content``, ``components``.

        ``content`` is the response's, by media type. ``components`` has the ``schemas`` that it
        refers to; merge them into those of your document. OpenAPI 3.2 describes a stream with
        ``itemSchema``. In 3.1 the schema is that of one item, as generators of clients expect.

        Args:
            encoder: the format, `NDJSON` if it is left out.
            controls: whether flowstream's own events are in the stream; they are by default.
            version: ``"3.1"`` or ``"3.2"``.

        Raises:
            TypeError: the format is not SSE, NDJSON or a JSON text sequence.
            ValueError: there is no such version.
        """
        if version not in ("3.1", "3.2"):
            raise ValueError(f"version must be '3.1' or '3.2', not {version!r}")
        shape, parts = self._parts(encoder, "#/components/schemas/", controls)
        item = {
            "description": "One item of the stream.",
            "anyOf": [shape.item(part) for part in parts.all],
        }
        word = "schema" if version == "3.1" else "itemSchema"
        return _plain(
            {
                "content": {shape.media_type: {word: item}},
                "components": {"schemas": parts.definitions},
            }
        )

    def asyncapi(
        self, name: str, address: str, *, encoder: Encoder | None = None, controls: bool = True
    ) -> Schema:
        """Return the parts of an AsyncAPI 3 document about it: channels, operations, components.

        There is one channel with a message for each type, also flowstream's own, and the operation
        that sends them. Merge each part into your document.

        Args:
            name: the channel's: letters, digits, ``_`` and ``-``.
            address: where a client gets it, e.g. ``"/answer"``.
            encoder: the format, by default `NDJSON`. The payload of a message is an item; in SSE
                it is the JSON in an event's ``data``.
            controls: whether flowstream's own events are in the stream; they are by default.

        Raises:
            TypeError: the format is not SSE, NDJSON or a JSON text sequence.
            ValueError: `name` has other characters in it.
        """
        if not _CHANNEL.fullmatch(name):
            raise ValueError(f"a channel's name is letters, digits, '_' and '-', not {name!r}")
        shape, parts = self._parts(encoder, "#/components/schemas/", controls)
        messages = {f"{name}.{part.key}": shape.message(part) for part in parts.all}
        return _plain(
            {
                "channels": {
                    name: {
                        "address": address,
                        "messages": {
                            part.key: {"$ref": f"#/components/messages/{name}.{part.key}"}
                            for part in parts.all
                        },
                    }
                },
                "operations": {
                    f"send-{name}": {"action": "send", "channel": {"$ref": f"#/channels/{name}"}}
                },
                "components": {"messages": messages, "schemas": parts.definitions},
            }
        )

    def _parts(self, encoder: Encoder | None, refs: str, controls: bool) -> tuple[Shape, Parts]:
        shape = shape_of(NDJSON() if encoder is None else encoder)
        given = self.types if self._snapshot is None else (*self.types, self._snapshot)
        data, definitions = msgspec.json.schema_components(given, ref_template=f"{refs}{{name}}")
        parts = Parts(definitions, refs)
        for kind, schema in zip(self.types, data, strict=False):
            parts.add_event(self._tags[kind], schema)
        if controls:
            snapshot = None if self._snapshot is None else data[-1]
            parts.add_controls(shape.names, snapshot)
        return shape, parts

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EventTypes):
            return NotImplemented
        return (self.types, self._snapshot) == (other.types, other._snapshot)

    def __hash__(self) -> int:
        return hash(self.types)

    def __repr__(self) -> str:
        return f"EventTypes({', '.join(kind.__name__ for kind in self.types)})"


class _Typed(Encoder):
    """An encoder that writes the events of `events` with `inner`, and refuses all others."""

    def __init__(self, events: EventTypes, inner: Encoder) -> None:
        self._events = events
        self._inner = inner
        self._hash = hash((events, inner))
        self.media_type = inner.media_type
        self.headers = inner.headers
        self.in_band = inner.in_band
        self.automatic_ids = inner.automatic_ids
        # SSE has a field for an event's name. Other formats need an envelope for it, and an event
        # without an envelope is recognised by its tag field.
        self._names = isinstance(inner, SSE)
        self._envelopes = isinstance(inner, (NDJSON, Frames))
        # With the app's function for its own types, but without `big_integers`: large numbers are
        # checked as numbers.
        self._writer = (
            JSONWriter(inner._json.encode) if isinstance(inner, ControlEncoder) else _USUAL
        )

    def start(self) -> Encoder:
        """Return the encoder for one stream: itself, if `inner` remembers nothing."""
        inner = self._inner.start()
        return self if inner is self._inner else _Typed(self._events, inner)

    def encode(
        self,
        data: Any,
        *,
        id: str | None = None,
        type: str | None = None,
        key: object = None,
        retry: int | None = None,
    ) -> bytes:
        """Check an event, and encode it with `inner`.

        Raises:
            TypeError, ValueError: it is none of the events, or `inner` cannot write it.
        """
        tag = self._events._tag_of(data, type, self._writer)
        if self._names or (self._envelopes and not (id is None and key is None)):
            type = tag
        return self._inner.encode(data, id=id, type=type, key=key, retry=retry)

    def join(self, items: Iterable[bytes]) -> bytes:
        """Join items with `inner`."""
        return self._inner.join(items)

    def opening(self, retry: int | None) -> bytes:
        """Return the opening of `inner`."""
        return self._inner.opening(retry)

    def header(self) -> bytes:
        """Return the header of `inner`."""
        return self._inner.header()

    def heartbeat(self) -> bytes:
        """Return the heartbeat of `inner`."""
        return self._inner.heartbeat()

    def control(
        self, name: str, body: Any, *, id: str | None = None, retry: int | None = None
    ) -> bytes:
        """Return a control event of `inner`; check it first if it is a snapshot.

        Raises:
            TypeError, ValueError: the snapshot has another type, or `inner` cannot write it.
        """
        if name == "snapshot":
            self._events._check_snapshot(body, self._writer)
        return self._inner.control(name, body, id=id, retry=retry)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Typed):
            return NotImplemented
        return (self._events, self._inner) == (other._events, other._inner)

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"{self._events!r}.encoder({self._inner!r})"


def _tags(types: tuple[Any, ...]) -> dict[type, str]:
    """Check the types, and return the tag of each."""
    if not types:
        raise ValueError("EventTypes() takes at least one Struct")
    tags: dict[type, str] = {}
    for kind in types:
        if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
            raise TypeError(f"events are msgspec Structs, not {kind!r}")
        tag = kind.__struct_config__.tag
        if not isinstance(tag, str):
            raise TypeError(
                f"{kind.__name__} has no tag that names it for clients: write "
                f'class {kind.__name__}(msgspec.Struct, tag="...")'
            )
        check_field(f"the tag of {kind.__name__}", tag)
        if not tag:
            raise ValueError(f"the tag of {kind.__name__} must not be empty")
        if tag in tags.values():
            raise ValueError(f"two events have the tag {tag!r}")
        tags[kind] = tag
    return tags


def _plain(schema: Schema) -> Schema:
    """Return `schema` as its JSON will be read: lists for tuples, text for dates."""
    plain: Schema = msgspec.json.decode(_USUAL.dumps(schema))
    return plain
