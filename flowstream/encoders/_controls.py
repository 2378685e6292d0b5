"""The names of flowstream's own events, and how an app renames them.

The set is closed, so that a client can be written against it once. The names are plain
words that an app may already use for events of its own; hence the renaming, which every
format that carries control events offers in the same way. Two controls under one name
could not be told apart by a client, so that is refused, also when one of them keeps its
default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowstream._event import check_field, check_retry
from flowstream.abc import Encoder
from flowstream.encoders._json import BigIntegers, Encode, JSONWriter

__all__ = ["CONTROL_NAMES", "ControlEncoder", "control_envelope", "wire_names"]

CONTROL_NAMES: frozenset[str] = frozenset(
    {"gap", "snapshot", "warning", "failed", "end", "reconnect"}
)
"""Every event that flowstream itself may put into a stream, by its default name."""


def wire_names(names: Mapping[str, str]) -> dict[str, str]:
    """Return what each control event is called on the wire, given an app's renamings.

    Args:
        names: default name to new name, for those that are to be renamed.

    Raises:
        TypeError: if a new name is not a `str`.
        ValueError: if a key is not in `CONTROL_NAMES`; if a new name is empty (SSE would
            take it for ``message``) or has CR, LF or NUL in it; or if two controls would
            bear the same name.
    """
    unknown = sorted(set(names) - CONTROL_NAMES)
    if unknown:
        raise ValueError(
            f"no control event is named {', '.join(map(repr, unknown))}; "
            f"known are {', '.join(sorted(CONTROL_NAMES))}"
        )
    wire: dict[str, str] = {}
    taken: dict[str, str] = {}
    for control in sorted(CONTROL_NAMES):
        name = check_field(f"the name for {control!r}", names.get(control, control))
        if not name:
            raise ValueError(f"the name for {control!r} must not be empty")
        if name in taken:
            raise ValueError(f"{taken[name]!r} and {control!r} would both be named {name!r}")
        taken[name] = control
        wire[control] = name
    return wire


def control_envelope(name: str, body: Any, *, id: str | None, retry: int | None) -> dict[str, Any]:
    """Return a control event for a format that writes it as one JSON value.

    `name` is what it is called on the wire. ``"id"`` and ``"retry"`` are there only if they
    are given; the latter says after how many milliseconds to come back, as in SSE.

    Raises:
        TypeError, ValueError: if `retry` is no `int`, or negative.
    """
    envelope: dict[str, Any] = {"type": name}
    if id is not None:
        envelope["id"] = id
    if retry is not None:
        envelope["retry"] = check_retry(retry)
    envelope["data"] = body
    return envelope


class ControlEncoder(Encoder):
    """An encoder of JSON that carries control events, under names that an app may change.

    Equal to, and of the same hash as, any other of its class with the same arguments: a topic
    keeps one encoding of an event per distinct encoder.

    Args:
        names: control events to rename, e.g. ``{"gap": "lost"}``.
        encode, big_integers: how values are written, as `JSONWriter` takes them.

    Raises:
        TypeError, ValueError: as `wire_names` and `JSONWriter` do.
    """

    in_band = True

    def __init__(
        self,
        *,
        names: Mapping[str, str] = {},
        encode: Encode | None = None,
        big_integers: BigIntegers = "number",
    ) -> None:
        self._wire_names = wire_names(names)
        self._json = JSONWriter(encode, big_integers)  # what writes its values
        self._write = self._json.write  # what it raises TypeError for, `rewrite` may still write
        # Once, because a topic looks encodings up by encoder for every event.
        self._hash = hash((type(self), self._json, *sorted(self._wire_names.items())))

    def wire_name(self, control: str) -> str:
        """Return what the control event `control` is called in this stream.

        Raises:
            ValueError: if `control` is not in `CONTROL_NAMES`.
        """
        try:
            return self._wire_names[control]
        except KeyError:
            raise ValueError(f"no control event is named {control!r}") from None

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._wire_names == other._wire_names and self._json == other._json

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        renamed = {old: new for old, new in self._wire_names.items() if old != new}
        given = {**({"names": renamed} if renamed else {}), **self._json.options()}
        shown = ", ".join(f"{name}={value!r}" for name, value in given.items())
        return f"{type(self).__name__}({shown})"
