"""Find the part of a file that a request asks for (RFC 9110 § 14). Sans-I/O."""

from __future__ import annotations

import re

# § 14.1.1; § 5.6.1.2: a recipient takes empty elements of a list, and white space around any.
_BYTES = re.compile(r"[ \t]*bytes=(.*)", re.IGNORECASE | re.DOTALL)
_SPEC = re.compile(r"(?P<first>[0-9]+)-(?P<last>[0-9]*)|-(?P<suffix>[0-9]+)")
_BLANK = " \t"

# Beyond any file. Python refuses to make an int of a few thousand digits, which a client may send.
_MOST_DIGITS = 18


def asked_range(header: str | None, size: int) -> range | None:
    """Return which of `size` bytes a ``Range`` header asks for.

    Returns:
        The positions; an empty range, which is a 416, if the file has no such bytes. None means the
        whole file: there is no header, or it must be ignored (§ 14.2), because it is not in bytes,
        is invalid, or asks for several parts. Several parts would be ``multipart/byteranges``. Its
        parts name their media type, which a source does not know. A server need not support it, no
        browser asks for it, and thousands of small parts have been used to exhaust servers.

        An empty file is always returned whole, though the RFC would have a 416. So clients get an
        answer that put ``Range: bytes=0-`` into every request, or resume a download at 0.
    """
    if header is None or not size or (unit := _BYTES.fullmatch(header)) is None:
        return None
    specs = [spec for part in unit[1].split(",") if (spec := part.strip(_BLANK))]
    ranges = [_one(spec, size) for spec in specs]
    if not ranges or None in ranges:
        return None
    satisfiable = [one for one in ranges if one]
    if not satisfiable:
        return range(0)
    return satisfiable[0] if len(ranges) == 1 else None


def _one(spec: str, size: int) -> range | None:
    """Return the positions for one part of the header; None if it is invalid."""
    found = _SPEC.fullmatch(spec)
    if found is None:
        return None
    if found["suffix"]:
        return range(max(0, size - _number(found["suffix"])), size)
    first = _number(found["first"])
    if not found["last"]:
        return range(first, size)
    last = _number(found["last"])
    return range(first, min(last + 1, size)) if first <= last else None


def _number(digits: str) -> int:
    digits = digits.lstrip("0")
    # A longer number is always beyond the end, whatever it is; and two such are in order.
    return int(digits or "0") if len(digits) <= _MOST_DIGITS else 10**_MOST_DIGITS
