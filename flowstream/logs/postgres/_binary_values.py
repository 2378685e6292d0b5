"""Values as Postgres sends and takes them in binary: integers, floats, booleans, text, bytes.

Text needs quotes and escapes, and twice the bytes for data; binary is a copy. A statement names the
types of its parameters by casts (``$1::bigint``), so only the types here are used.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

_INT8 = struct.Struct("!q")
_INT4 = struct.Struct("!i")
_FLOAT8 = struct.Struct("!d")
_ARRAY = struct.Struct("!iiiii")  # dimensions, whether there are nulls, type; length, first index
_NULL = _INT4.pack(-1)

# The type numbers that Postgres has for these types, the same in every database.
_BOOL, _BYTEA, _INT8_TYPE, _INT4_TYPE, _TEXT, _FLOAT8_TYPE = 16, 17, 20, 23, 25, 701

_LARGEST = (1 << 63) - 1


def int8(value: int) -> bytes:
    """Return a bigint; one that is too large becomes the largest."""
    return _INT8.pack(max(-_LARGEST, min(value, _LARGEST)))


def int4(value: int) -> bytes:
    """Return an integer of 32 bits."""
    return _INT4.pack(value)


def float8(value: float) -> bytes:
    """Return a double."""
    return _FLOAT8.pack(value)


def boolean(value: bool) -> bytes:
    """Return a boolean."""
    return b"\1" if value else b"\0"


def text(value: str) -> bytes:
    """Return text; the connection's encoding is UTF-8."""
    return value.encode()


def int8_array(values: Sequence[int | None]) -> bytes:
    """Return an array of bigint."""
    return _array(_INT8_TYPE, [None if one is None else int8(one) for one in values])


def int4_array(values: Sequence[int]) -> bytes:
    """Return an array of integer."""
    return _array(_INT4_TYPE, [_INT4.pack(one) for one in values])


def float8_array(values: Sequence[float]) -> bytes:
    """Return an array of double precision."""
    return _array(_FLOAT8_TYPE, [_FLOAT8.pack(one) for one in values])


def text_array(values: Sequence[str | None]) -> bytes:
    """Return an array of text."""
    return _array(_TEXT, [None if one is None else one.encode() for one in values])


def bytea_array(values: Sequence[bytes]) -> bytes:
    """Return an array of bytea."""
    return _array(_BYTEA, values)


def decoder(type: int) -> Callable[[bytes], Any]:
    """Return the function that decodes a value of a type, given as its number in Postgres.

    A value of a type that is none of ours stays as it is. A value that is not of its type raises
    ValueError or `struct.error`.
    """
    return _DECODERS.get(type, bytes)


def _array(type: int, values: Sequence[bytes | None]) -> bytes:
    if not values:
        return struct.pack("!iii", 0, 0, type)
    parts = [_ARRAY.pack(1, None in values, type, len(values), 1)]
    for value in values:
        if value is None:
            parts.append(_NULL)
        else:
            parts.append(_INT4.pack(len(value)))
            parts.append(value)
    return b"".join(parts)


def _decode_int8(value: bytes) -> int:
    number: int = _INT8.unpack(value)[0]
    return number


def _decode_int4(value: bytes) -> int:
    number: int = _INT4.unpack(value)[0]
    return number


def _decode_float8(value: bytes) -> float:
    number: float = _FLOAT8.unpack(value)[0]
    return number


_DECODERS: dict[int, Callable[[bytes], Any]] = {
    _BOOL: lambda value: value == b"\1",
    _BYTEA: bytes,
    _INT8_TYPE: _decode_int8,
    _INT4_TYPE: _decode_int4,
    _TEXT: bytes.decode,
    _FLOAT8_TYPE: _decode_float8,
    2278: lambda value: None,  # void
}
