"""Rows as RFC 4180 wants them, and what is no row."""

from __future__ import annotations

import csv
import dataclasses
import io
import sqlite3
from collections import namedtuple
from decimal import Decimal
from types import MappingProxyType

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream.encoders import CSV

texts = st.text(st.characters(exclude_categories=["Cs"])) | st.text(",;\"\r\n\t '=x")
delimiters = st.sampled_from(",;\t|: ~^a0") | st.characters(
    exclude_categories=["Cs"], exclude_characters='"\r\n\0'
)


@dataclasses.dataclass
class Point:
    x: int
    keys: int  # a name that a mapping's method has, too


class PointStruct(msgspec.Struct):
    x: int
    keys: int


def read(text: bytes, delimiter: str = ",") -> list[list[str]]:
    return list(csv.reader(io.StringIO(text.decode(), newline=""), delimiter=delimiter))


def test_the_format_carries_rows_and_nothing_else():
    """There is no place in a table for control events, heartbeats or an opening."""
    encoder = CSV()
    assert encoder.media_type == "text/csv; charset=utf-8"
    assert not encoder.in_band
    assert not encoder.automatic_ids
    assert encoder.start().media_type == encoder.media_type
    assert encoder.heartbeat() == encoder.opening(None) == encoder.control("end", {}) == b""


def test_a_sequence_is_a_row():
    """Cells are joined by commas and the line ends with CRLF."""
    assert CSV().start().encode([1, "é", 2.5, None, True]) == "1,é,2.5,,True\r\n".encode()
    assert CSV().start().encode((Decimal("1.50"), "b")) == b"1.50,b\r\n"


def test_any_sequence_will_do():
    """A sequence need not be a list or a tuple."""
    assert CSV(["a", "b"]).encode(range(2)) == b"0,1\r\n"


def test_cells_are_quoted_where_they_must_be():
    """Delimiter, quote, CR and LF inside a cell are quoted, and a quote is doubled."""
    assert CSV().encode(["a,b", 'c"d', "e\nf", "g\rh"]) == b'"a,b","c""d","e\nf","g\rh"\r\n'


def test_a_row_of_one_empty_cell_is_not_an_empty_line():
    """A lone empty cell is quoted, since readers skip a blank line."""
    assert CSV().encode([None]) == b'""\r\n'


def test_columns_come_from_the_first_mapping():
    """The header is known after the first row and is that row's keys in order."""
    table = CSV().start()
    assert table.header() == b""
    assert table.encode({"b": 1, "a": 2}) == b"1,2\r\n"
    assert table.header() == b"b,a\r\n"
    assert table.encode({"a": 3, "b": 4}) == b"4,3\r\n"


def test_each_stream_learns_its_own_columns():
    """What one stream learns is not known to another of the same encoder, nor to itself."""
    encoder = CSV()
    first, second = encoder.start(), encoder.start()
    first.encode({"a": 1})
    second.encode({"b": 1})
    assert (first.header(), second.header(), encoder.header()) == (b"a\r\n", b"b\r\n", b"")


def test_an_encoder_that_was_not_started_remembers_nothing():
    """Each row given to the shared value is taken for a first one."""
    encoder = CSV()
    assert encoder.encode({"a": 1}) == b"1\r\n"
    assert encoder.encode({"b": 1}) == b"1\r\n"


def test_given_columns_make_a_header_without_any_row():
    """With columns the encoder serves all streams itself and an empty stream has a header."""
    encoder = CSV(["a", "b"])
    assert encoder.start() is encoder
    assert encoder.header() == b"a,b\r\n"


def test_given_columns_choose_the_order():
    """A mapping's cells are written in the order of the columns."""
    assert CSV(["a", "b"]).encode({"b": 1, "a": 2}) == b"2,1\r\n"


def test_columns_may_come_from_a_generator():
    """Any iterable of names is read once and kept."""
    encoder = CSV(name for name in "ab")
    assert encoder.header() == encoder.header() == b"a,b\r\n"


def test_the_header_can_be_left_out():
    """header=False writes none, with given columns as with learnt ones."""
    assert CSV(["a"], header=False).header() == b""
    table = CSV(header=False).start()
    table.encode({"a": 1})
    assert table.header() == b""


def test_sequences_without_columns_have_no_header():
    """Rows that don't name their cells are written as they are, of any length."""
    table = CSV().start()
    assert table.encode([1, 2]) == b"1,2\r\n"
    assert table.encode([1, 2, 3]) == b"1,2,3\r\n"
    assert table.header() == b""


def test_a_mapping_after_nameless_rows_is_refused():
    """A header that comes too late is an error, not a table without one."""
    table = CSV().start()
    table.encode([1, 2])
    with pytest.raises(ValueError, match="give CSV its columns"):
        table.encode({"a": 1, "b": 2})


def test_missing_keys_are_empty_cells():
    """A mapping need not have every column."""
    assert CSV(["a", "b", "c"]).encode({"b": 1}) == b",1,\r\n"


def test_unknown_keys_are_refused_by_name():
    """A cell that has no column is an error that names it, so that no value is lost quietly."""
    with pytest.raises(ValueError, match="no column is named 'c', 'd'"):
        CSV(["a", "b"]).encode({"a": 1, "c": 2, "d": 3})


def test_a_sequence_of_another_length_is_refused():
    """A sequence must have one cell for each known column."""
    table = CSV().start()
    table.encode({"a": 1, "b": 2})
    with pytest.raises(ValueError, match="a row of 3 cells for 2 columns"):
        table.encode([1, 2, 3])


@pytest.mark.parametrize(
    "row", [Point(1, 2), PointStruct(1, 2), MappingProxyType({"x": 1, "keys": 2})]
)
def test_a_row_may_be_an_object_that_names_its_cells(row):
    """A dataclass, a Struct and any mapping give columns and cells."""
    table = CSV().start()
    assert table.encode(row) == b"1,2\r\n"
    assert table.header() == b"x,keys\r\n"


def test_a_row_of_sqlite_brings_its_column_names():
    """A sqlite3.Row is taken as a mapping though it counts as a sequence."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.row_factory = sqlite3.Row
        row = connection.execute("select 1 as a, 'x' as b").fetchone()
    finally:
        connection.close()
    table = CSV().start()
    assert table.encode(row) == b"1,x\r\n"
    assert table.header() == b"a,b\r\n"


@pytest.mark.parametrize(
    "row", ["abc", b"abc", bytearray(b"abc"), memoryview(b"abc"), 5, None, {1, 2}, Point]
)
def test_what_is_no_row_is_a_type_error(row):
    """A value that isn't a row of cells is refused, text included, with its type named."""
    with pytest.raises(TypeError, match=f"a row is expected.*{type(row).__name__}"):
        CSV(["a"]).encode(row)


def test_an_empty_mapping_can_not_name_the_columns():
    """A first row without keys is an error, not a table without columns."""
    with pytest.raises(ValueError, match="at least one column"):
        CSV().start().encode({})


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ("abc", TypeError, "not one str"),
        ([], ValueError, "at least one column"),
        (["a", "b", "a"], ValueError, "named twice"),
        (["\ud800"], ValueError, "surrogates"),
    ],
)
def test_unusable_columns_are_refused_at_once(columns, error, message):
    """Columns that can't make a header raise where they are given."""
    with pytest.raises(error, match=message):
        CSV(columns)


@pytest.mark.parametrize("delimiter", ["", ",,", '"', "\r", "\n", "\0", "\ud800"])
def test_an_unusable_delimiter_is_refused_at_once(delimiter):
    """A delimiter is one character that isn't a quote, a line break or NUL."""
    with pytest.raises(ValueError, match=r"delimiter|surrogates"):
        CSV(delimiter=delimiter)


def test_a_delimiter_that_is_no_text_is_refused():
    """A delimiter that is not a str is a TypeError."""
    with pytest.raises(TypeError, match="delimiter must be a str"):
        CSV(delimiter=5)


def test_a_lone_surrogate_is_a_value_error():
    """Text that has no UTF-8 form raises."""
    with pytest.raises(ValueError, match="surrogates not allowed"):
        CSV().encode(["\ud800"])


@pytest.mark.parametrize("start", list("=+-@\t\r\n＝＋－＠"))
def test_a_formula_becomes_text(start):
    """With spreadsheet_safe no cell or column name begins as a formula does."""
    encoder = CSV([start + "name"], spreadsheet_safe=True, bom=False)
    assert read(encoder.header()) == [["'" + start + "name"]]
    assert read(encoder.encode([start + "1"])) == [["'" + start + "1"]]
    assert read(encoder.encode({start + "name": start})) == [["'" + start]]


def test_numbers_and_harmless_text_are_left_alone():
    """With spreadsheet_safe only text is changed, and only at its start."""
    encoder = CSV(spreadsheet_safe=True)
    assert encoder.encode([-1, -2.5, "a=b", "", None]) == b"-1,-2.5,a=b,,\r\n"


def test_formulas_pass_unless_asked_otherwise():
    """Without spreadsheet_safe cells are written exactly as they are."""
    assert CSV().encode(["=1+1", "-x"]) == b"=1+1,-x\r\n"


def test_encoders_are_equal_by_their_settings():
    """Two encoders with the same settings are one dictionary key; each setting counts."""
    assert CSV(["a"]) == CSV(("a",))
    assert hash(CSV(["a"])) == hash(CSV(("a",)))
    different = {
        CSV(),
        CSV(["a"]),
        CSV(["a"], header=False),
        CSV(["a"], delimiter=";"),
        CSV(["a"], spreadsheet_safe=True),
    }
    assert len(different) == 5
    assert CSV() != "CSV"
    assert repr(CSV(["a"])) == (
        "CSV(('a',), header=True, delimiter=',', spreadsheet_safe=False, bom=False, encode=None)"
    )


@given(st.lists(st.lists(texts, min_size=2, max_size=2)), delimiters)
def test_what_is_encoded_is_what_a_reader_gets(rows, delimiter):
    """Any text in any cell comes back through csv.reader, whatever the delimiter."""
    encoder = CSV(["one", "two"], delimiter=delimiter)
    stream = encoder.header() + b"".join(encoder.encode(row) for row in rows)
    assert read(stream, delimiter) == [["one", "two"], *rows]


@given(st.lists(st.dictionaries(st.sampled_from("abc"), texts), min_size=1))
def test_mappings_come_back_by_their_names(rows):
    """Whatever keys a row has, each cell is found under its column."""
    encoder = CSV("abc"[i] for i in range(3))
    stream = encoder.header() + b"".join(encoder.encode(row) for row in rows)
    reader = csv.DictReader(io.StringIO(stream.decode(), newline=""))
    assert list(reader) == [{name: row.get(name, "") for name in "abc"} for row in rows]


def test_named_tuples_name_the_columns():
    """A named tuple as the first row gives the header; one after rows without names does not."""
    point = namedtuple("point", "x y")
    table = CSV().start()
    assert [table.encode(point(1, 2)), table.header()] == [b"1,2\r\n", b"x,y\r\n"]
    assert table.encode((3, 4)) == b"3,4\r\n"
    nameless = CSV().start()
    assert [nameless.encode((1, 2)), nameless.encode(point(3, 4))] == [b"1,2\r\n", b"3,4\r\n"]
    assert nameless.header() == b""
