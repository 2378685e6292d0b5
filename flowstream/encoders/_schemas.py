"""What one item of a stream looks like to its client, as JSON Schema (draft 2020-12).

An item is what a client has when its reader of the format is done: for NDJSON and JSON text
sequences a JSON value; for SSE the fields of an event, in the shape that OpenAPI 3.2 gives
them (§ 4.14.4.3, "Special considerations for server-sent events"): ``data`` is a string, and
``contentSchema`` says what is in it.

flowstream's own events are items, too. A client that is made from a schema without them breaks
at the first ``gap``.
"""

from __future__ import annotations

import abc
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flowstream.abc import Encoder
from flowstream.encoders import NDJSON, SSE
from flowstream.encoders._controls import CONTROL_NAMES, ControlEncoder

__all__ = ["Part", "Parts", "Schema", "Shape", "shape_of"]

Schema = dict[str, Any]

_COUNT: Schema = {"type": "integer", "minimum": 0}
_MAYBE_ID: Schema = {"type": ["string", "null"]}

_TITLES = {
    "gap": "Events that this client does not get, at their place.",
    "snapshot": "The state up to here, in place of the events that led to it.",
    "warning": "The client's buffer is filling up: it reads too slowly.",
    "failed": "The stream ends here: it failed.",
    "end": "The stream ends here, for good.",
    "reconnect": "The stream ends here; come back for the rest.",
}


def _record(**properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_BODIES: dict[str, Schema] = {
    "gap": _record(missed={"type": ["integer", "null"]}, after=_MAYBE_ID, before=_MAYBE_ID),
    "warning": _record(buffered=_COUNT, limit=_COUNT),
    "failed": _record(code={"type": "string"}, message={"type": "string"}),
    "end": _record(reason={"enum": ["completed", "stopped"]}),
    "reconnect": _record(reason={"enum": ["max_duration", "shutdown"]}),
}


@dataclass(frozen=True, slots=True)
class Part:
    """One kind of event."""

    name: str
    """What it is called on the wire."""
    key: str
    """What it is called in a document."""
    data: Schema
    """The schema of its data."""
    control: bool
    """Whether it is one of flowstream's own."""
    text: bool = False
    """Whether its data may be a text, which SSE sends as it is."""


class Parts:
    """The kinds of events that a stream has, and what their schemas refer to.

    Args:
        definitions: schemas by name, which those of the data refer to.
        refs: where references find them.
    """

    def __init__(self, definitions: dict[str, Schema], refs: str) -> None:
        self.definitions = definitions
        self.all: list[Part] = []
        self._refs = refs

    def add_event(self, tag: str, data: Schema) -> None:
        """Add one of the app's."""
        self.all.append(Part(tag, _key(tag), data, False))

    def add_controls(self, names: Mapping[str, str], snapshot: Schema | None) -> None:
        """Add those of flowstream's own.

        Args:
            names: default name to name on the wire.
            snapshot: the schema of the app's snapshots; None for anything.
        """
        for control, name in names.items():
            body = (snapshot or {}) if control == "snapshot" else _BODIES[control]
            key = f"flowstream.{control}"
            text = self._may_be_text(body)
            self.definitions[key] = {"title": control, "description": _TITLES[control], **body}
            self.all.append(Part(name, key, {"$ref": f"{self._refs}{key}"}, True, text))

    def _may_be_text(self, schema: Schema) -> bool:
        while "$ref" in schema:
            schema = self.definitions[schema["$ref"].removeprefix(self._refs)]
        return schema.get("type") not in ("object", "array", "integer", "number", "boolean")


def _key(name: str) -> str:
    """Return `name` with nothing in it that a document does not allow in a key."""
    return re.sub(r"[^A-Za-z0-9_-]", lambda match: f".{ord(match[0]):x}.", name)


class Shape(abc.ABC):
    """How a format shows an event to its client."""

    def __init__(self, encoder: ControlEncoder) -> None:
        self.media_type = encoder.media_type.partition(";")[0]
        self.names: Mapping[str, str] = {
            name: encoder.wire_name(name) for name in sorted(CONTROL_NAMES)
        }

    @abc.abstractmethod
    def item(self, part: Part) -> Schema:
        """Return the schema of such an event as an item of the stream."""

    def message(self, part: Part) -> Schema:
        """Return such an event as a message of an AsyncAPI document."""
        return {"name": part.name, "contentType": "application/json", "payload": self.item(part)}


def shape_of(encoder: Encoder) -> Shape:
    """Return the shape of `encoder`'s format.

    Raises:
        TypeError: the format is not one whose items are JSON.
    """
    if isinstance(encoder, SSE):
        return _Fields(encoder)
    if isinstance(encoder, NDJSON):  # and JSONSequence, which has the same texts
        return _Texts(encoder)
    raise TypeError(
        f"no JSON Schema describes the items of {encoder!r}; those of SSE, NDJSON and "
        "JSONSequence have one"
    )


_ID: Schema = {"type": "string"}


class _Fields(Shape):
    """SSE: the fields of an event."""

    def item(self, part: Part) -> Schema:
        content = {"contentMediaType": "application/json", "contentSchema": part.data}
        data = {"type": "string", **({} if part.text else content)}
        properties = {"event": {"const": part.name}, "data": data, "id": _ID, "retry": _COUNT}
        return {
            "type": "object",
            "properties": properties,
            "required": ["event", "data"],
            "additionalProperties": False,
        }

    def message(self, part: Part) -> Schema:
        headers = {"type": "object", "properties": {"id": _ID, "retry": _COUNT}}
        return {**super().message(part), "payload": part.data, "headers": headers}


class _Texts(Shape):
    """NDJSON: values, and envelopes of those that have an id or a key."""

    def item(self, part: Part) -> Schema:
        properties = {"type": {"const": part.name}, "id": _ID, "data": part.data}
        if part.control:
            properties["retry"] = _COUNT
        envelope = {
            "type": "object",
            "properties": properties,
            "required": ["type", "data"],
            "additionalProperties": False,
        }
        return envelope if part.control else {"anyOf": [part.data, envelope]}
