"""Server-sent events as WHATWG HTML § 9.2 wants them."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import uuid

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream.decoders import ServerSentEvent, SSEDecoder
from flowstream.encoders import SSE

texts = st.text(st.characters(exclude_categories=["Cs"])) | st.text("a:\r\n \u2028\x85\ufeff\0")
fields = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"))


@dataclasses.dataclass
class Point:
    x: int
    y: int


class PointStruct(msgspec.Struct):
    x: int
    y: int


class Colour(str, enum.Enum):  # noqa: UP042  # the kind whose format() is not its value
    RED = "red"


class Name(str):
    __slots__ = ()

    def __format__(self, spec: str) -> str:
        return "formatted"


def test_the_media_type_names_the_charset():
    """Clients that don't know that SSE is always UTF-8 are told so."""
    assert SSE.media_type == "text/event-stream; charset=utf-8"
    assert SSE().automatic_ids


def test_text_is_sent_as_it_is():
    """A str is one data line without quotes, then the blank line that dispatches it."""
    assert SSE().encode("hé") == "data: hé\n\n".encode()


def test_an_id_stands_in_its_own_field():
    """The id of an event comes in front of its data."""
    assert SSE().encode("a", id="7f3a.12") == b"id: 7f3a.12\ndata: a\n\n"


def test_type_and_retry_are_fields_too():
    """All fields of an event are written, each on its line."""
    assert (
        SSE().encode("a", id="1", type="token", key="k", retry=500)
        == b"event: token\nid: 1\nretry: 500\ndata: a\n\n"
    )


def test_a_type_needs_no_id():
    """Type and retry are written without each other and without an id."""
    assert SSE().encode("a", type="token") == b"event: token\ndata: a\n\n"
    assert SSE().encode("a", retry=0) == b"retry: 0\ndata: a\n\n"


@pytest.mark.parametrize("data", ["a\nb\nc", "a\rb\rc", "a\r\nb\r\nc", "a\nb\r\nc", "a\r\nb\rc"])
def test_each_kind_of_line_break_starts_a_new_data_line(data):
    """CR, LF and CRLF in data all become a further data line."""
    assert SSE().encode(data) == b"data: a\ndata: b\ndata: c\n\n"


def test_other_line_separators_are_ordinary_characters():
    """U+2028 and U+0085, at which str.splitlines splits, stay inside their line."""
    assert SSE().encode("a\u2028b\x85c") == "data: a\u2028b\x85c\n\n".encode()


def test_data_can_not_forge_a_field():
    """Text that looks like fields and events arrives as the text of one event."""
    data = "x\n\nevent: end\ndata: {}\n\nid: 9"
    assert SSEDecoder().feed(SSE().encode(data)) == [ServerSentEvent("message", data, "")]


def test_the_empty_text_is_delivered():
    """An event whose data is empty still has a data line, so a browser dispatches it."""
    assert SSE().encode("") == b"data: \n\n"
    assert SSEDecoder().feed(SSE().encode("")) == [ServerSentEvent("message", "", "")]


def test_an_empty_id_resets_the_last_event_id():
    """The empty id is written, which is how the standard forgets a position."""
    decoder = SSEDecoder()
    decoder.feed(SSE().encode("a", id="1") + SSE().encode("b", id=""))
    assert decoder.last_event_id == ""


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"a": [1, None, True]}, '{"a":[1,null,true]}'),
        (None, "null"),
        (12, "12"),
        (["é"], '["é"]'),
        ({"a": "x\ny"}, '{"a":"x\\ny"}'),
        (Point(1, 2), '{"x":1,"y":2}'),
        (PointStruct(1, 2), '{"x":1,"y":2}'),
        (datetime.datetime(2024, 1, 2, 3, 4, 5), '"2024-01-02T03:04:05"'),
        (uuid.UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (float("nan"), "null"),
        (b"abc", '"YWJj"'),
    ],
)
def test_everything_but_text_is_json(data, expected):
    """Values, dataclasses, Structs, dates, UUIDs and bytes are written as msgspec does."""
    assert SSE().encode(data) == f"data: {expected}\n\n".encode()


@pytest.mark.parametrize(("data", "expected"), [(Colour.RED, b"red"), (Name("n"), b"n")])
def test_a_kind_of_text_is_its_characters(data, expected):
    """An enum member or str subclass is sent by its value, whatever its format() says."""
    assert SSE().encode(data) == b"data: " + expected + b"\n\n"
    assert SSE().encode("", id=data, type=data) == (
        b"event: " + expected + b"\nid: " + expected + b"\ndata: \n\n"
    )


@pytest.mark.parametrize("line_break", [b"\n", b"\r", b"\r\n"])
def test_ready_made_json_with_line_breaks_stays_one_event(line_break):
    """The breaks in a msgspec.Raw become data lines and the JSON arrives whole."""
    raw = msgspec.Raw(b'{"a":' + line_break + line_break + b"1}")
    [event] = SSEDecoder().feed(SSE().encode({"raw": raw}))
    assert json.loads(event.data) == {"raw": {"a": 1}}


def test_what_json_can_not_carry_is_a_type_error():
    """An object that msgspec doesn't know is refused with its TypeError."""
    with pytest.raises(TypeError, match="object"):
        SSE().encode(object())


@pytest.mark.parametrize("bad", ["a\nb", "a\rb", "\r\n", "a\0b"])
@pytest.mark.parametrize("field", ["id", "type"])
def test_a_field_with_a_line_break_or_nul_is_refused(field, bad):
    """CR, LF and NUL in an id or type raise instead of forging fields or being ignored."""
    with pytest.raises(ValueError, match=f"{field} must not contain"):
        SSE().encode("a", **{field: bad})


@pytest.mark.parametrize("field", ["id", "type"])
def test_a_field_that_is_no_text_is_refused(field):
    """An id or type that is not a str is a TypeError."""
    with pytest.raises(TypeError, match=f"{field} must be a str"):
        SSE().encode("a", **{field: 5})


@pytest.mark.parametrize(
    ("retry", "error"), [(-1, ValueError), (True, TypeError), (1.5, TypeError)]
)
def test_a_retry_that_is_no_number_of_milliseconds_is_refused(retry, error):
    """Only a non-negative int is written as a reconnection time, in the opening as well."""
    with pytest.raises(error, match="retry must be"):
        SSE().encode("a", retry=retry)
    with pytest.raises(error, match="retry must be"):
        SSE().opening(retry)


@pytest.mark.parametrize(
    "call",
    [
        {"data": "\ud800"},
        {"data": {"a": "\ud800"}},
        {"data": "a", "id": "\ud800"},
        {"data": "a", "type": "\ud800"},
    ],
)
def test_a_lone_surrogate_is_a_value_error(call):
    """Text that has no UTF-8 form raises wherever it stands."""
    with pytest.raises(ValueError, match="surrogates not allowed"):
        SSE().encode(**call)


def test_the_opening_is_a_comment():
    """Bytes flow at once without an event, with the reconnection time if there is one."""
    assert SSE().opening(None) == b": connected\n\n"
    assert SSE().opening(1500) == b": connected\nretry: 1500\n\n"
    decoder = SSEDecoder()
    assert decoder.feed(SSE().opening(1500)) == []
    assert (decoder.comments, decoder.retry) == (1, 1500)


def test_a_heartbeat_is_a_comment_and_no_event():
    """A heartbeat between two events is seen as a comment and disturbs neither."""
    decoder = SSEDecoder()
    sse = SSE()
    events = decoder.feed(sse.encode("a") + sse.heartbeat() + sse.encode("b"))
    assert [event.data for event in events] == ["a", "b"]
    assert decoder.comments == 1


def test_a_control_event_is_named_by_its_type():
    """A control event has its name in the event field and its body as JSON."""
    assert (
        SSE().control("end", {"reason": "completed"}, id="7f3a.end")
        == b'event: end\nid: 7f3a.end\ndata: {"reason":"completed"}\n\n'
    )
    assert (
        SSE().control("reconnect", {"reason": "shutdown"}, retry=700)
        == b'event: reconnect\nretry: 700\ndata: {"reason":"shutdown"}\n\n'
    )


def test_a_control_event_bears_the_name_that_the_app_gave_it():
    """A renamed control event has its new name on the wire, the others their own."""
    sse = SSE(names={"gap": "lost"})
    assert sse.control("gap", {}) == b"event: lost\ndata: {}\n\n"
    assert sse.control("end", {}) == b"event: end\ndata: {}\n\n"


@given(st.lists(st.tuples(texts, fields | st.none(), fields | st.none())), st.data())
def test_what_is_encoded_is_what_a_browser_gets(items, data):
    """Any text, id and type come back however the bytes are cut, with LF for line breaks."""
    sse, decoder = SSE(), SSEDecoder()
    stream = b"".join(sse.encode(text, id=id, type=type) for text, id, type in items)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    received = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += decoder.feed(stream[start:end])
    expected, last_id = [], ""
    for text, id, type in items:
        last_id = last_id if id is None else id
        lines = text.replace("\r\n", "\n").replace("\r", "\n")
        expected.append(ServerSentEvent(type or "message", lines, last_id))
    assert received == expected


@given(texts, fields, fields, st.integers(0, 10**6))
def test_the_short_way_and_the_long_way_agree(text, id, type, retry):
    """The data line doesn't depend on which other fields are given."""
    data_line = SSE().encode(text)
    assert SSE().encode(text, id=id) == f"id: {id}\n".encode() + data_line
    assert SSE().encode(text, type=type) == f"event: {type}\n".encode() + data_line
    assert SSE().encode(text, retry=retry) == f"retry: {retry}\n".encode() + data_line
