"""CSV: rows of a table, for exports that people open in a spreadsheet.

RFC 4180: CRLF ends a line, a cell with a delimiter, quote or line break is quoted, every
line has the same cells. The standard library's `csv` does the quoting; its writer returns
what the `write` of its file returns, so a "file" whose `write` is `str.encode` turns a row
into bytes without a buffer in between.

The columns of a stream of mappings are those of its first row, so that an export of a database
query need not name them twice. That is state, and it lives in the object that `start` returns. If
the columns are given, there is no state, and one `CSV` serves all streams.

A number, a date or a path is written as `str` writes it. A list or a model is JSON in its cell,
because only Python reads what `str` makes of it.

The format has no comments and no place for a message, so there are no heartbeats and no
control events, and a stream that ends early is cut instead of ended.
"""

from __future__ import annotations

import base64
import codecs
import csv
import datetime
import decimal
import enum
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec

from flowstream.abc import Encoder
from flowstream.encoders._json import (
    Encode,
    JSONWriter,
    dumped_of,
    is_missing,
    mapping_of,
    members_of,
    plain,
)

__all__ = ["CSV"]

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""What a spreadsheet may take for the start of a formula. The first six are the list of OWASP,
"CSV Injection"; LF is the CR of other systems, and the last four are the full-width forms of
the signs, which an East Asian input method types and a spreadsheet there understands."""


# Types of cells that the standard library's writer gets unchanged: their `str` is what people read.
_FLAT = frozenset(
    {
        str,
        int,
        float,
        bool,
        type(None),
        decimal.Decimal,
        datetime.datetime,
        datetime.date,
        datetime.time,
        datetime.timedelta,
        uuid.UUID,
    }
)
_class_of = type  # in `encode`, `type` is that of the event
_SCALARS = frozenset({str, int, float, bool, type(None)})
_BYTES = (bytes, bytearray, memoryview)
_NUMBERS = (int, float, decimal.Decimal)
_NUMBERS_AND_TIMES = (*_NUMBERS, datetime.date, datetime.time, datetime.timedelta)
_NESTED = (dict, list, tuple, set, frozenset, msgspec.Struct, msgspec.Raw)


class _Layout(NamedTuple):
    """What a `CSV` was asked for."""

    columns: tuple[str, ...] | None
    header: bool
    delimiter: str
    spreadsheet_safe: bool
    bom: bool
    encode: Encode | None


class CSV(Encoder):
    """Comma-separated values (``text/csv``, RFC 4180).

    A row is a mapping (anything with ``keys()``, as `dict` takes it, so a `sqlite3.Row`,
    too), a dataclass, an attrs object, a Struct, a pydantic model, or a sequence of cells. A cell
    is written as `str` would; None, and pandas' NA and NaT, as an empty cell, an enum's member as
    its value, bytes in base64, and a list, mapping or object with members as JSON. An object of
    which `str` says no more than its address is refused. Id, type, key and retry are not sent.

    Args:
        columns: the names of the columns, in order. By default they come from the first row, if
            that is a mapping or a named tuple; a stream of other sequences then has no header.
        header: whether the first line names the columns.
        delimiter: one character between cells; ``";"`` and TAB are the usual others.
        spreadsheet_safe: put a single quote in front of text that a spreadsheet would run
            as a formula: that begins with ``= + - @``, TAB or CR (OWASP, "CSV Injection"), LF, or
            a full-width form of the four signs. Numbers are left alone, but a *text* like
            ``"-5"`` is changed, so this is for people to open, not for programs to read.
        bom: whether the body begins with a byte-order mark (EF BB BF). Without one, Excel
            reads a file in the code page of its system, and shows ``Zürich`` wrongly. By default
            it is the same as `spreadsheet_safe`.
        encode: a function for cells of the app's own types. It gets a cell, and returns what to
            write instead, or raises TypeError. It is called for everything but plain `str`,
            `int`, `float`, `bool` and None, also inside lists and mappings.

    Raises:
        TypeError: if `columns` is a single `str`, `delimiter` is not a `str`, or `encode` is not
            a function.
        ValueError: if `columns` is empty, has a name twice, or has a lone surrogate in a
            name; or if `delimiter` is not one character, or is a quote, CR, LF or NUL.
    """

    media_type = "text/csv; charset=utf-8"

    def __init__(
        self,
        columns: Iterable[str] | None = None,
        *,
        header: bool = True,
        delimiter: str = ",",
        spreadsheet_safe: bool = False,
        bom: bool | None = None,
        encode: Encode | None = None,
    ) -> None:
        if isinstance(columns, str):
            raise TypeError("columns must be several names, not one str")
        if not isinstance(delimiter, str):
            raise TypeError(f"delimiter must be a str, not {type(delimiter).__name__}")
        if len(delimiter) != 1 or delimiter in '"\r\n\0':
            raise ValueError(
                f"delimiter must be one character, no quote, CR, LF or NUL: {delimiter!r}"
            )
        delimiter.encode()  # a lone surrogate is refused here instead of at the first row
        named = None if columns is None else tuple(columns)
        marked = spreadsheet_safe if bom is None else bom
        self._layout = _Layout(named, header, delimiter, spreadsheet_safe, marked, encode)
        first = _Table(self._layout)
        self._table = None if named is None else first

    def start(self) -> Encoder:
        """Return itself if the columns are known, else an encoder that will learn them."""
        return self if self._table else _Table(self._layout)

    def encode(
        self,
        data: Any,
        *,
        id: str | None = None,
        type: str | None = None,
        key: object = None,
        retry: int | None = None,
    ) -> bytes:
        """Return one row; without columns, and without `start`, as the first of a stream.

        Raises:
            TypeError: if `data` is not a row.
            ValueError: if a mapping has keys that are no columns (missing ones become empty
                cells), or comes without columns after a sequence did; if a sequence is not
                as long as the columns are many; or if a text has a lone surrogate in it.
        """
        return (self._table or _Table(self._layout)).encode(data, type=type)

    def header(self) -> bytes:
        """Return the byte-order mark and the names of the columns, if they are known and wanted."""
        return (self._table or _Table(self._layout)).header()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CSV):
            return NotImplemented
        return self._layout == other._layout

    def __hash__(self) -> int:
        return hash(self._layout)

    def __repr__(self) -> str:
        columns, *others = zip(_Layout._fields, self._layout, strict=True)
        return f"CSV({columns[1]!r}, {', '.join(f'{name}={value!r}' for name, value in others)})"


class _Table(Encoder):
    """The rows of one stream; `CSV` says what its methods take and raise."""

    media_type = CSV.media_type

    def __init__(self, layout: _Layout) -> None:
        self._write = csv.writer(_ToBytes(), delimiter=layout.delimiter).writerow
        self._layout = layout
        self._json = JSONWriter(layout.encode)
        # What is written as it is; the app's hook is asked about the others.
        self._flat = _FLAT if layout.encode is None else _SCALARS
        self._columns: tuple[Any, ...] = ()
        self._known: frozenset[Any] = frozenset()
        self._cells_of: Callable[[Any], Any] | None = None  # of a row that has all of them
        self._header = codecs.BOM_UTF8 if layout.bom else b""
        self._nameless = False
        self._are_flat = self._flat.issuperset
        self._width = -1  # the cells of a row that needs no look at its columns, if they are flat
        if layout.columns is not None:
            self._learn(layout.columns)

    def encode(
        self,
        data: Any,
        *,
        id: str | None = None,
        type: str | None = None,
        key: object = None,
        retry: int | None = None,
    ) -> bytes:
        # Most rows of a query. Two calls less pay for most of the look at each cell.
        kind = _class_of(data)
        if (
            (kind is tuple or kind is list)
            and len(data) == self._width
            and self._are_flat(map(_class_of, data))
        ):
            line: bytes = self._write(data)
            return line
        if isinstance(data, (list, tuple)):
            return self._sequence(data)
        if isinstance(data, dict):
            return self._mapping(data)
        if type == "progress" and isinstance(data, msgspec.Struct):
            raise TypeError(
                "a table has no room for events of progress: publish how far the source is to a "
                "topic of its own"
            )
        row = _as_row(data)
        if isinstance(row, dict):
            return self._mapping(row)
        if isinstance(row, Sequence) and not isinstance(row, (str, *_BYTES)):
            return self._sequence(row)
        raise TypeError(
            "a row is expected (a mapping, a sequence, a dataclass, a Struct or a model), "
            f"not {data.__class__.__name__}"
        )

    def header(self) -> bytes:
        return self._header

    def _learn(self, columns: tuple[Any, ...]) -> None:
        if not columns:
            raise ValueError("a table needs at least one column")
        known = frozenset(columns)
        if len(known) < len(columns):
            raise ValueError(f"a column is named twice in {columns!r}")
        if self._layout.header:
            self._header += self._line(columns)
        self._columns, self._known = columns, known
        if len(columns) > 1:  # else `itemgetter` returns the one cell, and no tuple
            self._cells_of = itemgetter(*columns)

    def _mapping(self, row: Mapping[Any, Any]) -> bytes:
        # Of a plain dict only: others may make up a member that they lack.
        if row.__class__ is dict and self._cells_of and len(row) == len(self._columns):
            try:
                cells = self._cells_of(row)
            except KeyError:
                pass  # a cell is missing, and another has no column
            else:
                return self._line(cells)
        if not self._columns:
            if self._nameless:
                # The header would have had to stand before the rows that went out already.
                raise ValueError("a mapping after rows without column names; give CSV its columns")
            self._learn(tuple(row))
        if not self._known.issuperset(row):
            unknown = ", ".join(repr(key) for key in row if key not in self._known)
            raise ValueError(f"no column is named {unknown}")
        return self._line([row.get(column) for column in self._columns])

    def _sequence(self, row: Sequence[Any]) -> bytes:
        if not (self._columns or self._nameless):
            names = getattr(row, "_fields", ())
            if names:
                self._learn(tuple(names))
            else:
                self._nameless = True
        if self._columns and len(row) != len(self._columns):
            raise ValueError(f"a row of {len(row)} cells for {len(self._columns)} columns")
        if not self._layout.spreadsheet_safe:  # which looks into each cell
            self._width = len(row)
        return self._line(row)

    def _line(self, cells: Sequence[Any]) -> bytes:
        if not self._are_flat(map(_class_of, cells)):
            cells = [self._cell(cell) for cell in cells]
        if self._layout.spreadsheet_safe:
            cells = [
                "'" + cell if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
                for cell in cells
            ]
        line: bytes = self._write(cells)
        return line

    def _cell(self, value: Any) -> Any:
        """Return a cell as something of which `str` makes what people read."""
        kind = value.__class__
        if kind in self._flat:
            return value
        made = self._json.replaced(value)
        if made is not value:
            return self._cell(made)
        if kind in _FLAT or isinstance(value, str):
            return value
        if isinstance(value, enum.Enum):
            return self._cell(value.value)
        if isinstance(value, _BYTES):
            return base64.b64encode(value).decode()
        if isinstance(value, _NUMBERS_AND_TIMES):
            is_time = not isinstance(value, _NUMBERS)
            return None if is_time and is_missing(value) else value
        if not isinstance(value, _NESTED) and members_of(value) is None:
            try:
                made = plain(value)
            except TypeError:
                if _says_nothing(value):
                    raise
                return value  # `str` knows
            if made.__class__ in _FLAT or made.__class__ is complex:
                return made
        return self._json.rewrite(value).decode()


def _says_nothing(value: Any) -> bool:
    """Return whether `str` would write ``<generator object ...>`` and the like."""
    if isinstance(value, Iterable) or callable(value):
        return True
    kind: Any = _class_of(value)
    return bool(kind.__str__ is object.__str__ and kind.__repr__ is object.__repr__)


class _ToBytes:
    """A file to the writer of `csv`, which hands on what `write` returns."""

    write = staticmethod(str.encode)


def _as_row(data: Any) -> Any:
    """Return `data` as a `dict` by column name, or as it is if it does not name its cells."""
    if isinstance(data, msgspec.Struct):
        return msgspec.structs.asdict(data)
    if (members := members_of(data)) is not None:
        return members
    if (dumped := dumped_of(data)) is not data:
        return dumped
    # After the others, any of which may have a field that is called "keys".
    if (mapping := mapping_of(data)) is not None:
        return mapping
    # A row of an array of numpy's. One number of it is no row.
    return plain(data) if hasattr(data, "dtype") and hasattr(data, "tolist") else data
