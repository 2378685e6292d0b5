"""The names of flowstream's own events, and how an app renames them.

The set is closed, so that a client need not be changed later. The names are plain words, which an
app may already use for its own events. So every format that carries control events lets the app
rename them. Two control events may not have the same name, given or by default, since a client
could not tell them apart.
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
    """Return the name of each control event on the wire.

    Args:
        names: for each control event to rename, its default name and its new one.

    Raises:
        TypeError: if a new name is not a `str`.
        ValueError: if a key is not in `CONTROL_NAMES`; if a new name is empty (SSE would
            take it for ``message``) or has CR, LF or NUL in it; or if two control events would
            have the same name.
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
    """Return a control event as one JSON value.

    `name` is its name on the wire. ``"id"`` and ``"retry"`` are left out if they are None.
    ``"retry"`` is the milliseconds after which the client should come back, as in SSE.

    Raises:
        TypeError: if `retry` is not an `int`.
        ValueError: if `retry` is negative.
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

    Two encoders of one class with the same arguments are equal, and have the same hash: a topic
    keeps one encoding of an event for each distinct encoder.

    Args:
        names: control events to rename, for example ``{"gap": "lost"}``.
        encode, big_integers: as `JSONWriter` takes them.

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
        self._write = self._json.write  # if it raises TypeError, try `rewrite`
        # Once, because a topic looks encodings up by encoder for every event.
        self._hash = hash((type(self), self._json, *sorted(self._wire_names.items())))

    def wire_name(self, control: str) -> str:
        """Return the name of the control event `control` in this stream.

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
