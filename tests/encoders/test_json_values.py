"""JSON: what an app hands over, in every format that writes it."""

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import ipaddress
import json
import pathlib
import sqlite3
import types
import uuid
from collections import UserDict, UserList, UserString, deque

import attrs
import msgspec
import pydantic
import pytest
from markupsafe import Markup
from werkzeug.datastructures import MultiDict

from flowstream.encoders import (
    AGUI,
    CSV,
    NDJSON,
    SSE,
    Frames,
    JSONSequence,
    OpenAIChunks,
    UIMessages,
)
from flowstream.encoders._json import JSONWriter, to_json
from flowstream.llm import Token


class Text(str):
    __slots__ = ()


class Whole(int):
    pass


class Real(float):
    pass


class Octets(bytes):
    pass


class Instant(datetime.datetime):
    pass


class Day(datetime.date):
    pass


class Span(datetime.timedelta):
    pass


class Never(datetime.datetime):
    """As pandas' "not a time", which does not equal itself."""

    def __eq__(self, other):
        return False

    __hash__ = None


class Exact(decimal.Decimal):
    pass


class Colour(enum.Enum):
    RED = "red"


class Named(str, enum.Enum):  # noqa: UP042  # as apps of Python 3.10 have it
    A = "a"


class Numbered(enum.IntEnum):
    ONE = 1


class Bits(enum.Flag):
    A = 1
    B = 2


class Located(enum.Enum):
    HOME = pathlib.PurePosixPath("/home")


class Array:
    """What numpy's arrays and scalars have."""

    def __init__(self, values, kind="i"):
        self._values = values
        self.dtype = types.SimpleNamespace(kind=kind)

    def astype(self, kind):
        assert kind is str
        return Array("2024-01-01T00:00:00.000000000", "U")

    def tolist(self):
        return self._values


class Stamps(Array):
    """What numpy's arrays of times have; "not a time" is the text NaT."""

    def __init__(self, texts):
        super().__init__([0], "M")
        self._texts = texts

    def astype(self, kind):
        return Array(self._texts, "U")


class LongDouble(Array):
    """A number of numpy's that Python has no type for, which `tolist` returns as it is."""

    def __init__(self):
        super().__init__(self, "f")

    def __float__(self):
        return 1.5


class Record2(Array):
    """What numpy's records have, and, with `rows`, arrays of them."""

    def __init__(self, members, rows=()):
        super().__init__(tuple(members.values()), "V")
        self.dtype.names = tuple(members)
        self.ndim = 1 if rows else 0
        self._members, self._rows = members, rows

    def __getitem__(self, name):
        return self._members[name]

    def __iter__(self):
        return iter(self._rows)


class Missing:
    """As pandas' NA: whatever it is compared with, that is not known."""

    def __eq__(self, other):
        return self

    def __bool__(self):
        raise TypeError("boolean value of NA is ambiguous")

    def __str__(self):
        return "<NA>"

    __hash__ = None


class Span2:
    """What psycopg's ranges have."""

    lower, upper, isempty = 1, 5, False

    def __str__(self):
        return "[1, 5)"


class Model(pydantic.BaseModel):
    number: int
    day: datetime.date = datetime.date(2024, 1, 2)


class Numbers(pydantic.RootModel[list[int]]):
    pass


class OldModel:
    """What models of pydantic 1 have."""

    __fields__ = ("number",)

    def dict(self):
        return {"number": 1}

    def json(self):
        return '{"number": 1}'


@dataclasses.dataclass
class Record:
    value: object
    _hidden: int = 2


@attrs.define
class Defined:
    value: object


class Struct(msgspec.Struct, tag="struct", rename="camel", omit_defaults=True):
    the_value: object
    usual: int = 5
    items: list = []


class Flat(msgspec.Struct, array_like=True):
    a: object
    b: int


Pair = collections.namedtuple("Pair", "a b")


def sqlite_row():
    connection = sqlite3.connect(":memory:")
    connection.row_factory = sqlite3.Row
    try:
        return connection.execute("SELECT 1 AS a, 'x' AS b").fetchone()
    finally:
        connection.close()


class Mapped:
    """What rows of SQLAlchemy's have."""

    _mapping = types.MappingProxyType({"a": 1})


NAN = float("nan")

VALUES = [
    (Text("ü"), "ü"),
    (Markup("<b>"), "<b>"),
    (UserString("x"), "x"),
    (Whole(3), 3),
    (Real(1.5), 1.5),
    (Real(NAN), None),
    (Octets(b"x"), "eA=="),
    (Colour.RED, "red"),
    (Named.A, "a"),
    (Numbered.ONE, 1),
    (Bits.A | Bits.B, 3),
    (Located.HOME, "/home"),
    (Instant(2024, 1, 2, 3), "2024-01-02T03:00:00"),
    (Day(2024, 1, 2), "2024-01-02"),
    (Span(days=1), "P1D"),
    (Never(2024, 1, 2), None),
    (Exact("1.50"), "1.50"),
    (fractions.Fraction(1, 3), "1/3"),
    (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (pathlib.PurePosixPath("/a/b"), "/a/b"),
    (ipaddress.ip_address("10.0.0.1"), "10.0.0.1"),
    (ipaddress.ip_interface("::1/64"), "::1/64"),
    (ipaddress.ip_network("10.0.0.0/8"), "10.0.0.0/8"),
    (deque([1, 2]), [1, 2]),
    (UserList([1]), [1]),
    (range(3), [0, 1, 2]),
    ({"a": 1}.keys(), ["a"]),
    (frozenset([1]), [1]),
    (types.MappingProxyType({"a": 1}), {"a": 1}),
    (UserDict(a=1), {"a": 1}),
    (collections.ChainMap({"a": 1}), {"a": 1}),
    (MultiDict([("a", "1"), ("a", "2")]), {"a": ["1", "2"]}),
    (sqlite_row(), {"a": 1, "b": "x"}),
    (Mapped(), {"a": 1}),
    (Pair(1, Text("x")), [1, "x"]),
    (Array([1, 2]), [1, 2]),
    (Array(1.5), 1.5),
    (Array([1704067200000000000], "M"), "2024-01-01T00:00:00.000000000"),
    (Stamps(["2024-01-01", "NaT"]), ["2024-01-01", None]),
    (Stamps("NaT"), None),
    (LongDouble(), 1.5),
    (Record2({"a": 1, "b": "x"}), {"a": 1, "b": "x"}),
    (Record2({"a": 1}, [Record2({"a": 1}), Record2({"a": 2})]), [{"a": 1}, {"a": 2}]),
    (Missing(), None),
    (Array([1, Missing()], "O"), [1, None]),
    (Span2(), "[1, 5)"),
    (Model(number=1), {"number": 1, "day": "2024-01-02"}),
    (Numbers([1, 2]), [1, 2]),
    (OldModel(), {"number": 1}),
    (Record(Text("x")), {"value": "x", "_hidden": 2}),
    (Record(Model(number=1)), {"value": {"number": 1, "day": "2024-01-02"}, "_hidden": 2}),
    (Defined(Record(Markup("m"))), {"value": {"value": "m", "_hidden": 2}}),
    (Struct(Defined({True: Text("x")})), {"type": "struct", "theValue": {"value": {"true": "x"}}}),
    (Struct(1, usual=6, items=[1]), {"type": "struct", "theValue": 1, "usual": 6, "items": [1]}),
    (Flat({None: 1}, 2), [{"null": 1}, 2]),
    ({True: 1, False: 2, None: 3}, {"true": 1, "false": 2, "null": 3}),
    ({1: "a", 2.5: "b"}, {"1": "a", "2.5": "b"}),
    ({Colour.RED: 1, Numbered.ONE: 2}, {"red": 1, "1": 2}),
    ({Text("x"): 1, Whole(2): 2}, {"x": 1, "2": 2}),
    ({pathlib.PurePosixPath("/a"): 1}, {"/a": 1}),
    ({Located.HOME: True}, {"/home": True}),
    ({datetime.date(2024, 1, 2): {True: 1}}, {"2024-01-02": {"true": 1}}),
]
IDS = [f"{number}-{type(value).__name__}" for number, (value, _) in enumerate(VALUES)]


@pytest.mark.parametrize(("value", "expected"), VALUES, ids=IDS)
def test_a_value_is_written_as_a_user_expects(value, expected):
    """By itself and inside of other values, walked or not."""
    assert json.loads(to_json(value)) == expected
    nested = {"a": [{"b": value}], "record": Record(value)}
    wanted = {"a": [{"b": expected}], "record": {"value": expected, "_hidden": 2}}
    assert json.loads(to_json(nested)) == wanted
    assert json.loads(JSONWriter(lambda value: value).write(nested)) == wanted


@pytest.mark.parametrize(
    "encoder", [NDJSON(), SSE(), JSONSequence(), Frames(), AGUI()], ids=lambda e: type(e).__name__
)
def test_every_format_writes_such_values(encoder):
    """What one format of JSON can carry, all can."""
    value = {"model": Model(number=7), True: Markup("<i>")}
    written = encoder.encode(value, type="thing")
    assert b'{"model":{"number":7,"day":"2024-01-02"},"true":"<i>"}' in written


class Mute:
    pass


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Mute(), "object of type Mute; give the format a function for it, encode="),
        ([Mute()], "object of type Mute"),
        ((number for number in range(2)), "make a list of it"),
        (Model, "the class Model is not data"),
        ({(1, 2): 3}, "a key in JSON is text or a number, not an object of type tuple"),
        ({frozenset(): 3}, "a key in JSON"),
        ({Pair(1, 2): 3}, "a key in JSON"),
        ({range(2): 3}, "a key in JSON"),
        (1j, "object of type complex"),
    ],
)
def test_what_has_no_form_is_refused_with_what_to_write_instead(value, words):
    """Nothing is guessed, and an iterator, which might never end, is not read."""
    for write in (NDJSON().encode, NDJSON(encode=lambda value: value).encode):
        with pytest.raises(TypeError) as caught:
            write(value)
        assert words in str(caught.value)


@dataclasses.dataclass(frozen=True)
class Money:
    amount: int
    currency: str


def money(value):
    if isinstance(value, Money):
        return f"{value.amount / 100:.2f} {value.currency}"
    raise TypeError(value)


def test_the_hook_goes_before_all_that_is_not_plain_json():
    """Dataclasses, models and dates, however deep, and keys; what it gives back is written on."""
    price = Money(150, "EUR")
    row = {"price": price, "all": [Struct(Record(price))], price: 1, "model": Model(number=1)}
    assert json.loads(NDJSON(encode=money).encode(row)) == {
        "price": "1.50 EUR",
        "all": [{"type": "struct", "theValue": {"value": "1.50 EUR", "_hidden": 2}}],
        "1.50 EUR": 1,
        "model": {"number": 1, "day": "2024-01-02"},
    }
    assert SSE(encode=money).encode(price) == b'data: "1.50 EUR"\n\n'
    assert Frames(encode=money).encode(price)[5:] == b'"1.50 EUR"'
    years = SSE(encode=lambda value: value.year if hasattr(value, "year") else value)
    assert years.encode([datetime.date(2024, 1, 2)]) == b"data: [2024]\n\n"
    nothing = NDJSON(encode=lambda value: None)
    assert nothing.encode([Mute(), 1, "x", True]) == b'[null,1,"x",true]\n'


@pytest.mark.parametrize("make", [AGUI, UIMessages])
def test_the_formats_for_answers_take_the_hook_and_big_integers(make):
    """In what an app sends of its own: an event with a type, a mapping that stands for itself."""
    price = Money(150, "EUR")
    stream = make(encode=money, big_integers="string").start()
    sent = stream.join([stream.encode({"price": price, "n": 2**60}, type="offer")])
    assert b'{"price":"1.50 EUR","n":"1152921504606846976"}' in sent
    kind = "STATE_SNAPSHOT" if make is AGUI else "data-state"
    sent = stream.join([stream.encode({"type": kind, "snapshot": [price]})])
    assert b'"snapshot":["1.50 EUR"]' in sent
    assert b'"1.50 EUR"' in stream.join([stream.control("snapshot", {"price": price})])
    with pytest.raises(TypeError, match="encode="):
        make().start().encode({"price": Mute()}, type="offer")


@dataclasses.dataclass
class Piece:
    text: str


def pieces(value):
    if isinstance(value, Piece):
        return Token(value.text)
    raise TypeError(value)


@pytest.mark.parametrize("format", [AGUI, UIMessages, lambda **o: OpenAIChunks("m", **o)])
def test_the_hook_may_make_an_event_of_a_model(format):
    """What an app's own library yields for tokens; what is neither is refused as before."""
    stream = format(encode=pieces).start()
    assert stream.encode(Piece("Hel")) == stream.encode(Token("Hel"))
    assert b'"Hel"' in stream.join([stream.encode(Piece("Hel"))])
    with pytest.raises(TypeError, match="an event of a model is expected"):
        stream.encode(Mute())
    with pytest.raises(TypeError, match="not a Piece"):
        format().start().encode(Piece("Hel"))


def test_a_hook_that_never_comes_to_an_end_is_an_error_and_not_a_hang():
    """A hook may return what it is asked about again."""
    with pytest.raises(RecursionError):
        NDJSON(encode=lambda value: Mute()).encode(Mute())


def test_big_integers_as_text_are_those_that_javascript_rounds():
    """Beyond 2**53 - 1 on either side, as values, at any depth; keys are text already."""
    encoder = NDJSON(big_integers="string")
    limit = 2**53 - 1
    row = {"fit": [limit, -limit, 1.5e300, True], "big": [limit + 1, Record(-limit - 1)]}
    assert json.loads(encoder.encode(row)) == {
        "fit": [limit, -limit, 1.5e300, True],
        "big": [str(limit + 1), {"value": str(-limit - 1), "_hidden": 2}],
    }
    assert NDJSON().encode(2**64) == b"18446744073709551616\n"


def test_choices_make_another_encoder():
    """A topic shares bytes between equal encoders only."""
    encoders = [NDJSON(), NDJSON(encode=money), NDJSON(big_integers="string"), SSE(encode=money)]
    encoders += [OpenAIChunks("m"), OpenAIChunks("m", encode=money), AGUI(), AGUI(encode=money)]
    encoders += [UIMessages(), UIMessages(big_integers="string"), UIMessages(encode=money)]
    assert len(set(encoders)) == 11
    assert UIMessages(encode=money).start() != UIMessages().start()
    assert repr(UIMessages(big_integers="string")).endswith(", big_integers='string')")
    assert NDJSON(encode=money) == NDJSON(encode=money)
    assert hash(SSE(encode=money)) == hash(SSE(encode=money))
    assert "big_integers='string'" in repr(NDJSON(big_integers="string"))
    for make in (SSE, AGUI, UIMessages, CSV, lambda **options: OpenAIChunks("m", **options)):
        with pytest.raises(TypeError, match="encode must be a function"):
            make(encode="str")
    with pytest.raises(ValueError, match="'number' or 'string'"):
        NDJSON(big_integers="text")


# -- CSV -----------------------------------------------------------------------------------------


def table(*rows, **options):
    stream = CSV(**options).start()
    lines = [stream.encode(row) for row in rows]
    return (stream.header() + b"".join(lines)).decode()


@pytest.mark.parametrize(
    "row",
    [Model(number=1), Record(1, 2), Defined(1), OldModel(), Mapped(), sqlite_row(), UserDict(a=1)],
    ids=lambda row: type(row).__name__,
)
def test_models_and_mappings_are_rows(row):
    """Whatever has named members has columns."""
    members = json.loads(to_json(row))
    header, cells = table(row).splitlines()
    assert header.split(",") == list(members)
    assert cells.split(",") == [str(member) for member in members.values()]


def test_cells_are_what_people_read():
    """A nested value is JSON, never what only Python reads."""
    cells = {
        "enum": Colour.RED,
        "number": Numbered.ONE,
        "bytes": b"x",
        "list": [1, {"a": None}],
        "model": Model(number=1),
        "path": pathlib.PurePosixPath("/a"),
        "array": Array([1, 2]),
        "scalar": Array(1.5),
        "at": datetime.datetime(2024, 1, 2),
        "none": None,
        "text": Markup("<b>"),
    }
    header, line = table(cells).splitlines()
    assert header == ",".join(cells)
    assert line == (
        'red,1,eA==,"[1,{""a"":null}]","{""number"":1,""day"":""2024-01-02""}",/a,"[1,2]",1.5,'
        "2024-01-02 00:00:00,,<b>"
    )


def test_a_missing_value_is_an_empty_cell():
    """Pandas' NA and NaT, by themselves; NaN is a number, and written as `str` writes it."""
    assert table([1, Missing(), Never(2024, 1, 2), Stamps("NaT"), NAN]) == "1,,,,nan\r\n"


def test_rows_of_arrays_are_rows():
    """An array is a sequence of cells, a record has names for them."""
    assert table(Array([1, 2.5])) == "1,2.5\r\n"
    assert table(Record2({"a": 1, "b": "x"})) == "a,b\r\n1,x\r\n"
    with pytest.raises(TypeError, match="a row is expected"):
        table(Array(5))


@pytest.mark.parametrize("cell", [(n for n in range(2)), map(str, [1]), len, Model, Mute()])
def test_a_cell_of_which_str_says_no_more_than_the_address_is_refused(cell):
    """What has a text of its own is that text, if JSON has no form for it."""
    with pytest.raises(TypeError, match=r"JSON has no form|is not data"):
        table([1, cell])
    assert table([1j, Array(1j, "c"), ValueError("x")]) == "1j,1j,x\r\n"


def test_the_hook_writes_cells():
    """And what is inside of them."""
    price = Money(150, "EUR")
    row = {"price": price, "all": [price], "day": datetime.date(2024, 1, 2)}
    assert table(row, encode=money) == 'price,all,day\r\n1.50 EUR,"[""1.50 EUR""]",2024-01-02\r\n'


def test_rows_that_make_up_members_are_not_asked_to():
    """A column that a row lacks is an empty cell, and one that it has too many is an error."""
    row = collections.defaultdict(lambda: "made up", a=1, c=2)
    with pytest.raises(ValueError, match="no column is named 'c'"):
        table(row, columns=["a", "b"])
    assert table({"a": 1}, {"a": 2}, columns=["a"]) == "a\r\n1\r\n2\r\n"
    with pytest.raises(ValueError, match="no column is named 'c'"):
        table({"a": 1, "c": 2}, columns=["a", "b"])


@pytest.mark.parametrize("options", [{"bom": True}, {"spreadsheet_safe": True}])
def test_a_byte_order_mark_stands_in_front_once(options):
    """With columns that are given, those of the first row, none, and no rows."""
    rows = [{"city": "Zürich"}, {"city": "Köln"}]
    assert table(*rows, **options) == "\ufeffcity\r\nZürich\r\nKöln\r\n"
    assert table(*rows, columns=["city"], **options) == "\ufeffcity\r\nZürich\r\nKöln\r\n"
    assert table(["Zürich"], **options) == "\ufeffZürich\r\n"
    assert table({"a": 1}, header=False, **options) == "\ufeff1\r\n"
    assert table(**options) == "\ufeff"
    assert CSV(**options).header() == b"\xef\xbb\xbf"


def test_a_spreadsheet_safe_table_can_go_without_the_mark():
    """For who wants the one and not the other."""
    assert table({"a": "=1"}, spreadsheet_safe=True, bom=False) == "a\r\n'=1\r\n"
    assert CSV(bom=True) != CSV()


def test_events_of_progress_are_no_rows():
    """They would stand in the table as one; the message says what to do."""
    from flowstream.sources import Progress

    event = Progress(1, 1.0, 1.0, None, None, None)
    with pytest.raises(TypeError, match="a topic of its own"):
        CSV().start().encode(event, type="progress")
