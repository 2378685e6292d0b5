"""Keep Postgres values that Python has no type for as the text that Postgres itself writes.

A date may be ``infinity``, or have a year before Christ or after 9999; a time may be ``24:00:00``;
an interval may be longer than a `timedelta`. psycopg refuses such a value, and with it all rows
that were fetched together. But the server has sent them, as text. So these rows are read again, and
a value that can't be loaded stays text. That costs nothing unless there is such a value.

psycopg loads ranges into objects of its own, and network addresses into objects whose text differs
between versions of Python. So both stay text from the start. A loader that the app has registered,
on its connection or globally, is not replaced.

A number in a `json` value may be larger than any float. It becomes a `Decimal`. Python's parser
would make it an infinity, for which clients would get ``null``.
"""

from __future__ import annotations

import decimal
import json
import math
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import psycopg
from psycopg import pq
from psycopg.abc import AdaptContext, Buffer
from psycopg.abc import Loader as AnyLoader
from psycopg.adapt import AdaptersMap, Loader, Transformer
from psycopg.types import TypeInfo
from psycopg.types.json import JsonbLoader, JsonLoader
from psycopg.types.multirange import MultirangeInfo
from psycopg.types.range import RangeInfo

__all__ = ["is_loading_failure", "keep_as_text", "rows_as_sent"]

_TEXT = pq.Format.TEXT

# These values may be inside an array; the result has only the type of the array.
_MOMENTS = ("date", "time", "timetz", "timestamp", "timestamptz", "interval")

_DEPTH = 256  # nested brackets that every Python reads, and every encoder of ours writes
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
# Matches every number that is too large for a float, and some that are not.
_LARGE = re.compile(rb"\d{309}|[eE]\+?\d{3}")


def keep_as_text(adapters: AdaptersMap) -> None:
    """Leave ranges and addresses as text, and keep large numbers in JSON.

    A type for which the app has a loader of its own is not changed.
    """
    types: list[TypeInfo] = [adapters.types["inet"], adapters.types["cidr"]]
    types += [info for info in adapters.types if isinstance(info, (RangeInfo, MultirangeInfo))]
    for info in types:
        if _is_psycopgs(adapters.get_loader(info.oid, _TEXT)):
            adapters.register_loader(info.oid, _AsSent)
    for name in ("json", "jsonb"):
        oid = adapters.types[name].oid
        loader = adapters.get_loader(oid, _TEXT)
        if loader in (JsonLoader, JsonbLoader) and loader(oid).loads is json.loads:
            adapters.register_loader(oid, _WholeNumbers)


def is_loading_failure(cursor: psycopg.Cursor[Any], before: object) -> bool:
    """Return whether the server has sent the rows, and `cursor` has only failed to load them.

    Args:
        cursor: the cursor that raised.
        before: its `pgresult` before the call that raised.
    """
    result = cursor.pgresult
    return result is not None and result is not before and result.status == pq.ExecStatus.TUPLES_OK


def rows_as_sent(cursor: psycopg.Cursor[Any]) -> Iterator[tuple[Any, ...]]:
    """Yield the rows that `cursor` has fetched, with text for values that can't be loaded.

    Raises:
        Exception: what a loader of the app's own raised, after the rows before that.
    """
    result = cursor.pgresult
    assert result is not None
    adapters = AdaptersMap(cursor.adapters)
    oids = {adapters.types[name].oid for name in _MOMENTS}
    for oid in oids.union(map(result.ftype, range(result.nfields))):
        loader = adapters.get_loader(oid, _TEXT)
        if loader is not None and _is_psycopgs(loader):
            adapters.register_loader(oid, _careful(loader))
    transformer = Transformer(_Context(adapters, cursor.connection))
    transformer.set_pgresult(result)
    for number in range(result.ntuples):
        row = transformer.load_row(number, tuple)
        assert row is not None
        yield row


class _Context:
    """The connection or cursor, as a loader knows it."""

    def __init__(self, adapters: AdaptersMap, connection: Any) -> None:
        self.adapters = adapters
        self.connection = connection


class _AsSent(Loader):
    """Leaves a value as the text that the server wrote."""

    def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
        super().__init__(oid, context)
        connection = None if context is None else context.connection
        encoding = "utf-8" if connection is None else connection.info.encoding
        # A database without an encoding sends any bytes that it was given.
        self._encoding = "utf-8" if encoding == "ascii" else encoding

    def load(self, data: Buffer) -> Any:
        return bytes(data).decode(self._encoding, "replace")


class _WholeNumbers(_AsSent):
    """Loads JSON. A number that no float can hold becomes a `Decimal`.

    A value that can't be read, or not be written again, stays text: one with an exponent beyond any
    `Decimal`, or with more than `_DEPTH` nested brackets. (Versions of Python read 900 to 90,000.)
    """

    def load(self, data: Buffer) -> Any:
        text = bytes(data)
        try:
            if _is_deep(text):
                return super().load(data)
            if _LARGE.search(text) is None:
                return json.loads(text)
            return json.loads(text, parse_float=_float_or_decimal)
        except (ValueError, ArithmeticError, RecursionError):
            return super().load(data)


def _is_deep(text: bytes) -> bool:
    """Return whether JSON has more than `_DEPTH` nested brackets."""
    if text.count(b"[") + text.count(b"{") <= _DEPTH:
        return False
    rest = _STRING.sub(b"", text).translate(_SQUARE, _NO_BRACKETS)
    for _ in range(_DEPTH):
        rest = rest.replace(b"[]", b"")  # remove the innermost pairs
        if not rest:
            return False
    return True


def _float_or_decimal(text: str) -> float | decimal.Decimal:
    number = float(text)
    return number if math.isfinite(number) else decimal.Decimal(text)


@cache
def _careful(inner: type[AnyLoader]) -> type[Loader]:
    """Return a loader like `inner`, which leaves a value as text if `inner` refuses it."""

    class Careful(_AsSent):
        def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
            super().__init__(oid, context)
            self._load = inner(oid, context).load

        def load(self, data: Buffer) -> Any:
            try:
                return self._load(data)
            except Exception:  # noqa: BLE001  # of any kind: the value stays text
                return super().load(data)

    return Careful


def _is_psycopgs(loader: type[AnyLoader] | None) -> bool:
    """Return whether `loader` is psycopg's own, in Python or in C."""
    return loader is not None and loader.__module__.partition(".")[0].startswith("psycopg")
