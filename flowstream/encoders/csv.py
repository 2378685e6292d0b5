"""CSV: rows of a table, for exports that people open in a spreadsheet.

RFC 4180: CRLF ends a line, a cell with a delimiter, quote or line break is quoted, every
line has the same cells. The standard library's `csv` does the quoting; its writer returns
what the `write` of its file returns, so a "file" whose `write` is `str.encode` turns a row
into bytes without a buffer in between.

The columns of a stream of mappings are those of its first row, because an export of a
database query should not have to name them twice. That is state, and it lives in what
`start` returns. With columns given there is none, and a `CSV` serves all streams itself.

The format has no comments and no place for a message, so there are no heartbeats and no
control events, and a stream that ends early is cut instead of ended.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from flowstream.abc import Encoder

__all__ = ["CSV"]

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""What a spreadsheet may take for the start of a formula. The first six are the list of OWASP,
"CSV Injection"; LF is the CR of other systems, and the last four are the full-width forms of
the signs, which an East Asian input method types and a spreadsheet there understands."""


class CSV(Encoder):
    """Comma-separated values (``text/csv``, RFC 4180).

    A row is a mapping (anything with ``keys()``, as `dict` takes it, so a `sqlite3.Row`,
    too), a dataclass, a `msgspec.Struct`, or a sequence of cells. A cell is written as `str`
    would; None as an empty cell. Id, type, key and retry are not sent.

    Args:
        columns: the names of the columns, in order. Left out, they are taken from the first
            row, if that is a mapping or a named tuple; a stream of other sequences then has
            no header.
        header: whether the first line names the columns.
        delimiter: one character between cells; ``";"`` and TAB are the usual others.
        spreadsheet_safe: put a single quote in front of text that a spreadsheet would run
            as a formula: that begins with ``= + - @``, TAB or CR (OWASP, "CSV Injection"), LF, or
            a full-width form of the four signs. Numbers are left alone, but a *text* like
            ``"-5"`` is changed, so this is for people to open, not for programs to read.

    Raises:
        TypeError: if `columns` is a single `str`, or `delimiter` is not a `str`.
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
        self._columns = None if columns is None else tuple(columns)
        self._header = header
        self._delimiter = delimiter
        self._spreadsheet_safe = spreadsheet_safe
        self._table = None if self._columns is None else self._new_table()

    def start(self) -> Encoder:
        """Return itself if the columns are known, else an encoder that will learn them."""
        return self if self._table else self._new_table()

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
        return (self._table or self._new_table()).encode(data)

    def header(self) -> bytes:
        """Return the line with the names of the columns, if they are known and wanted."""
        return self._table.header() if self._table else b""

    def _new_table(self) -> _Table:
        return _Table(self._columns, self._header, self._delimiter, self._spreadsheet_safe)

    def _value(self) -> tuple[object, ...]:
        return (self._columns, self._header, self._delimiter, self._spreadsheet_safe)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CSV):
            return NotImplemented
        return self._value() == other._value()

    def __hash__(self) -> int:
        return hash(self._value())

    def __repr__(self) -> str:
        return (
            f"CSV({self._columns!r}, header={self._header}, delimiter={self._delimiter!r}, "
            f"spreadsheet_safe={self._spreadsheet_safe})"
        )


class _Table(Encoder):
    """The rows of one stream; `CSV` says what its methods take and raise."""

    media_type = CSV.media_type

    def __init__(
        self,
        columns: tuple[str, ...] | None,
        header: bool,
        delimiter: str,
        spreadsheet_safe: bool,
    ) -> None:
        self._write = csv.writer(_ToBytes(), delimiter=delimiter).writerow
        self._wants_header = header
        self._spreadsheet_safe = spreadsheet_safe
        self._columns: tuple[Any, ...] = ()
        self._known: frozenset[Any] = frozenset()
        self._header = b""
        self._nameless = False
        if columns is not None:
            self._learn(columns)

    def encode(
        self,
        data: Any,
        *,
        id: str | None = None,
        type: str | None = None,
        key: object = None,
        retry: int | None = None,
    ) -> bytes:
        if isinstance(data, (list, tuple)):
            return self._sequence(data)
        if (mapping := _as_mapping(data)) is not None:
            return self._mapping(mapping)
        if isinstance(data, Sequence) and not isinstance(data, (str, bytes, bytearray, memoryview)):
            return self._sequence(data)
        raise TypeError(
            "a row is expected (a mapping, a sequence, a dataclass or a Struct), "
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
        if self._wants_header:
            self._header = self._line(columns)
        self._columns, self._known = columns, known

    def _mapping(self, row: Mapping[Any, Any]) -> bytes:
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
        return self._line(row)

    def _line(self, cells: Sequence[Any]) -> bytes:
        if self._spreadsheet_safe:
            cells = [
                "'" + cell if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
                for cell in cells
            ]
        line: bytes = self._write(cells)
        return line


class _ToBytes:
    """A file to the writer of `csv`, which hands on what `write` returns."""

    write = staticmethod(str.encode)


def _as_mapping(row: Any) -> Mapping[Any, Any] | None:
    """Return `row` by column name, or None if it does not name its cells."""
    if isinstance(row, dict):
        return row
    if isinstance(row, msgspec.Struct):
        return msgspec.structs.asdict(row)
    if dataclasses.is_dataclass(type(row)):
        return {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
    # After the two above, either of which may have a field that is called "keys".
    return dict(row) if hasattr(row, "keys") else None
