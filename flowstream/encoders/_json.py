"""JSON of any value of an app, as `json.dumps` or a user would expect it.

msgspec writes most values by itself, and fast. What it does not know it hands to `plain`, which
returns the same in types that it does: a pydantic model as its `dict`, a path as its text. No
library is imported for that: a model is what has a ``model_dump``, an array what has a ``dtype``
and a ``tolist``.

What msgspec neither writes nor hands over, such as a key that is a `bool`, makes it fail. Then the
value is walked, member by member, in Python. So the usual values, which are most of them, cost
nothing more; and an app that gives an option pays for it with that walk, because msgspec would
write a dataclass or a large number by itself.

NaN and the infinities, which JSON does not have, are ``null``, as in JavaScript's `JSON.stringify`.
A number that has to be exact, such as a `Decimal`, is text.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import fractions
import ipaddress
import pathlib
import uuid
from collections import UserString
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache
from typing import Any, Literal, get_args

import msgspec

__all__ = [
    "BigIntegers",
    "Encode",
    "JSONWriter",
    "dumped_of",
    "is_missing",
    "mapping_of",
    "members_of",
    "plain",
    "to_json",
    "write_json",
]

Encode = Callable[[Any], Any]
"""An app's own hook: returns what is written in a value's place."""

BigIntegers = Literal["number", "string"]

# What a JavaScript number holds exactly: Number.MAX_SAFE_INTEGER.
_SAFE = 2**53 - 1

# Of these types msgspec takes no subclasses.
_TEXTS = (
    decimal.Decimal,
    uuid.UUID,
    pathlib.PurePath,
    fractions.Fraction,
    UserString,
    ipaddress.IPv4Address,
    ipaddress.IPv6Address,
    ipaddress.IPv4Interface,
    ipaddress.IPv6Interface,
    ipaddress.IPv4Network,
    ipaddress.IPv6Network,
)
_TEXTY = (str, bytes, bytearray, UserString)
# JSON that is there already is nothing to walk.
_SCALARS = frozenset({str, float, bool, type(None), msgspec.Raw})
_MOMENTS = (datetime.date, datetime.time)
_KNOWN = frozenset(
    {
        datetime.datetime,
        datetime.date,
        datetime.time,
        datetime.timedelta,
        decimal.Decimal,
        uuid.UUID,
        bytes,
        bytearray,
        memoryview,
    }
)


def plain(value: Any) -> Any:
    """Return `value`, which msgspec does not know, in a type that it does.

    Raises:
        TypeError: there is none.
    """
    kind = value.__class__
    if isinstance(value, type):
        raise TypeError(f"the class {value.__name__} is not data; an object of it may be")
    if kind is bool or isinstance(value, (tuple, list, frozenset)):
        # As values msgspec writes them; so this one is a key.
        raise TypeError(f"a key in JSON is text or a number, not {_a(kind)}")
    if isinstance(value, str):
        return str.__str__(value)  # the characters: an enum member's own is "Colour.RED"
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    if isinstance(value, _MOMENTS):
        # pandas' "not a time" is a datetime that does not equal itself.
        return value.isoformat() if value == value else None  # noqa: PLR0124
    if isinstance(value, datetime.timedelta):
        same = value == value  # noqa: PLR0124
        return datetime.timedelta(value.days, value.seconds, value.microseconds) if same else None
    if isinstance(value, _TEXTS):
        return str(value)
    if (dumped := dumped_of(value)) is not value:
        return dumped
    if (mapping := mapping_of(value)) is not None:
        return mapping
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        return _array_parts(value)
    if hasattr(value, "isempty") and hasattr(value, "lower") and hasattr(value, "upper"):
        return str(value)  # a range of psycopg's
    if isinstance(value, Collection):
        return list(value)
    if is_missing(value):
        return None
    hint = "give the format a function for it, encode="
    if isinstance(value, Iterable):
        hint = "it can be read only once, or never ends: make a list of it"
    raise TypeError(f"JSON has no form for {_a(kind)}; {hint}")


def _array_parts(value: Any) -> Any:
    """Return an array or scalar of numpy's as lists and values of Python's."""
    names = getattr(value.dtype, "names", None)
    if names:  # a record, or an array of them
        return list(value) if getattr(value, "ndim", 0) else {name: value[name] for name in names}
    if getattr(value.dtype, "kind", "") in ("M", "m"):
        # Times, which are nanoseconds, would be numbers.
        return _times(value.astype(str).tolist())
    made = value.tolist()
    if made.__class__ is value.__class__:  # a number of more digits than Python's have
        return float(value)
    return made


def _times(value: Any) -> Any:
    if isinstance(value, list):
        return [_times(member) for member in value]
    return None if value == "NaT" else value


def is_missing(value: Any) -> bool:
    """Return whether `value` stands for one that is not there: pandas' NA and NaT, a NaN.

    They do not equal themselves; what NA says to a comparison is NA, and that is neither true
    nor false.
    """
    try:
        same = value == value  # noqa: PLR0124
        return same is value or same is False
    except Exception:  # noqa: BLE001  # of the value's own
        return False


def dumped_of(value: Any) -> Any:
    """Return what a pydantic model says that it is in JSON; else `value` itself."""
    kind = value.__class__
    if callable(getattr(kind, "model_dump", None)):  # of version 2; SQLModel, too
        return value.model_dump(mode="json")
    if hasattr(kind, "__fields__") and callable(getattr(kind, "json", None)):  # of version 1
        return msgspec.json.decode(value.json())
    return value


def mapping_of(value: Any) -> dict[Any, Any] | None:
    """Return what has values by key as a `dict`, or None if it is not such."""
    if callable(getattr(value, "getlist", None)):  # a MultiDict: no value of a key is lost
        return {key: value.getlist(key) for key in value.keys()}  # noqa: SIM118
    if isinstance(value, Mapping):
        return dict(value)
    named = getattr(value, "_mapping", None)  # a row of SQLAlchemy's
    if isinstance(named, Mapping):
        return dict(named)
    return dict(value) if callable(getattr(value, "keys", None)) else None  # sqlite3.Row


def members_of(value: Any) -> dict[str, Any] | None:
    """Return the members of a dataclass or an attrs object by name, or None if it is neither."""
    fields = _fields(value.__class__)
    return None if fields is None else {name: getattr(value, name) for name in fields}


@cache
def _fields(kind: type) -> tuple[str, ...] | None:
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind))
    attributes = getattr(kind, "__attrs_attrs__", None)
    return None if attributes is None else tuple(attribute.name for attribute in attributes)


class JSONWriter:
    """Writes values as JSON, in the way that an app has chosen for its streams.

    Equal to, and of the same hash as, any other with the same choices.

    Args:
        encode: the app's hook. It is given each value but the plain ones (`str`, `int`, `float`,
            `bool`, None, `list`, `tuple`, `dict`, and JSON that is there already, `msgspec.Raw`;
            their subclasses are not plain), keys included,
            and returns what to write instead. What is not its own it returns as it is, or raises
            a `TypeError`, as a function for `json.dumps` does.
        big_integers: ``"string"`` writes whole numbers that JavaScript can't hold (beyond 2⁵³ - 1)
            as text.

    Attributes:
        write: returns the JSON of a value; raises TypeError for some that `rewrite` can write.

    Raises:
        TypeError: if `encode` is not a function.
        ValueError: if `big_integers` is neither word.
    """

    __slots__ = ("_big", "_encode", "write")

    def __init__(self, encode: Encode | None = None, big_integers: BigIntegers = "number") -> None:
        if encode is not None and not callable(encode):
            raise TypeError(f"encode must be a function of a value, not {_a(type(encode))}")
        if big_integers not in get_args(BigIntegers):
            raise ValueError(f"big_integers must be 'number' or 'string', not {big_integers!r}")
        self._encode = encode
        self._big = big_integers == "string"
        usual = encode is None and not self._big
        self.write: Callable[[Any], bytes] = write_json if usual else self.rewrite

    @property
    def encode(self) -> Encode | None:
        """The app's hook."""
        return self._encode

    def dumps(self, value: Any) -> bytes:
        """Return the JSON of `value`.

        Raises:
            TypeError: JSON has no form for something in it.
            ValueError: a text in it has a lone surrogate (it is a `UnicodeEncodeError`).
        """
        try:
            return self.write(value)
        except TypeError:
            return self.rewrite(value)

    def rewrite(self, value: Any) -> bytes:
        """Return the JSON of `value`, walked member by member.

        Raises:
            TypeError: JSON has no form for something in it.
            ValueError: a text in it has a lone surrogate (it is a `UnicodeEncodeError`).
        """
        return write_json(self._walk(value))

    def options(self) -> dict[str, Any]:
        """Return what was chosen, by name, as a format's `repr` shows it."""
        chosen: dict[str, Any] = {} if self._encode is None else {"encode": self._encode}
        return {**chosen, "big_integers": "string"} if self._big else chosen

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, JSONWriter):
            return NotImplemented
        return (self._encode, self._big) == (other._encode, other._big)

    def __hash__(self) -> int:
        return hash((self._encode, self._big))

    # -- the walk --------------------------------------------------------------------------

    def _walk(self, value: Any) -> Any:
        kind = value.__class__
        if kind in _SCALARS:
            return value
        if kind is int:
            return value if not self._big or -_SAFE <= value <= _SAFE else str(value)
        if kind is dict:
            return {self._key(key): self._walk(member) for key, member in value.items()}
        if kind is list or kind is tuple:
            return [self._walk(member) for member in value]
        made = self.replaced(value)
        if made is not value:
            return self._walk(made)
        if kind in _KNOWN:
            return value
        return self._walk(self._parts(value))

    def _parts(self, value: Any) -> Any:
        """Return `value` one step nearer to what JSON has."""
        if isinstance(value, enum.Enum):
            return value.value
        if isinstance(value, msgspec.Struct):
            return _struct_parts(value)
        if (members := members_of(value)) is not None:
            return members
        if isinstance(value, dict) and not hasattr(value, "getlist"):
            return dict(value)
        if isinstance(value, (list, tuple, set, frozenset)):
            return list(value)
        return plain(value)

    def _key(self, key: Any) -> Any:
        kind = key.__class__
        if kind is str or kind is int or kind is float:
            return key
        if kind is bool:
            return "true" if key else "false"
        if key is None:
            return "null"
        made = self.replaced(key)
        if made is not key:
            return self._key(made)
        if isinstance(key, enum.Enum):
            return self._key(key.value)
        if kind in _KNOWN:
            return key
        made = None if isinstance(key, Collection) and not isinstance(key, _TEXTY) else plain(key)
        if made is None:
            raise TypeError(f"a key in JSON is text or a number, not {_a(kind)}")
        return self._key(made)

    def replaced(self, value: Any) -> Any:
        """Return what the app's hook makes of `value`; `value` itself if that is not its own."""
        if self._encode is None:
            return value
        try:
            return self._encode(value)
        except (TypeError, NotImplementedError):
            return value


def _struct_parts(value: msgspec.Struct) -> Any:
    """Return the members of a Struct as msgspec would write them: its tag, its own names."""
    config = value.__struct_config__
    parts: dict[str, Any] = {} if config.tag_field is None else {config.tag_field: config.tag}
    for field in _struct_fields(value.__class__):
        member = getattr(value, field.name)
        if member is msgspec.UNSET and not config.array_like:
            continue
        if config.omit_defaults and not config.array_like and _is_default(member, field):
            continue
        parts[field.encode_name] = member
    return list(parts.values()) if config.array_like else parts


_struct_fields = cache(msgspec.structs.fields)


def _is_default(member: Any, field: msgspec.structs.FieldInfo) -> bool:
    if field.default is not msgspec.NODEFAULT:
        return bool(member.__class__ is field.default.__class__ and member == field.default)
    return field.default_factory in (list, dict, set) and not member


def _a(kind: type) -> str:
    return f"an object of type {kind.__qualname__}"


# Raises TypeError for some values that `to_json` writes, but costs no call of Python's.
write_json = msgspec.json.Encoder(enc_hook=plain).encode
_USUAL = JSONWriter()


def to_json(value: Any) -> bytes:
    """Return the JSON of `value`, with no choices made.

    Raises:
        TypeError: JSON has no form for something in it.
        ValueError: a text in it has a lone surrogate (it is a `UnicodeEncodeError`).
    """
    return _USUAL.dumps(value)
