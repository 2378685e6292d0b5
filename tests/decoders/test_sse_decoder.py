"""An event stream read as a browser reads it: WHATWG HTML § 9.2.5 and § 9.2.6."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flowstream import _errors
from flowstream.decoders import ServerSentEvent, SSEDecoder

FRAGMENTS = [
    *(b"data", b"id", b"event", b"retry", b"foo", b":", b" ", b"x", b"12", b"\0"),
    *(b"\r", b"\n", b"\r\n", b"\n\n", b"\r\r", b"\xef\xbb\xbf", b"\xc3", b"\xa9"),
    *(b"data: x\n", b"id: 1\n", b"event: e\n", "\u2028".encode(), "retry: ²\n".encode()),
]
streams = st.binary() | st.lists(st.sampled_from(FRAGMENTS), max_size=40).map(b"".join)


def reference(stream: bytes):
    """Parse a whole stream in the plainest words of the standard."""
    text = stream.decode("utf-8", "replace")
    if text.startswith("\ufeff"):
        text = text[1:]
    lines = re.split("\r\n|\r|\n", text)[:-1]  # the rest after the last line end is discarded
    events, retry, comments, last_event_id = [], None, 0, ""
    data_buffer = type_buffer = id_buffer = ""
    for line in lines:
        if line == "":
            last_event_id = id_buffer
            if data_buffer == "":
                type_buffer = ""
                continue
            if data_buffer[-1] == "\n":
                data_buffer = data_buffer[:-1]
            events.append(ServerSentEvent(type_buffer or "message", data_buffer, last_event_id))
            data_buffer = type_buffer = ""
        elif line[0] == ":":
            comments += 1
        else:
            if ":" in line:
                field, value = line.split(":", 1)
                if value[:1] == " ":
                    value = value[1:]
            else:
                field, value = line, ""
            if field == "event":
                type_buffer = value
            elif field == "data":
                data_buffer += value + "\n"
            elif field == "id" and "\0" not in value:
                id_buffer = value
            elif field == "retry" and re.fullmatch("[0-9]{1,18}", value):
                retry = int(value)
    return events, retry, comments, last_event_id


@given(streams, st.data())
@example(b"\xef\xbb\xbfdata: a\r\n\r\n", None)
@example(b"data: a\r\r\n\n", None)
@example(b"\xef\xbb\xbf\ndata\n\n", None)
def test_any_bytes_are_read_as_the_standard_says(stream, data):
    """However a stream is cut into chunks, a plain reading of the standard agrees."""
    if data is None:
        cuts = list(range(len(stream)))
    else:
        cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    decoder = SSEDecoder()
    events = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        events += decoder.feed(stream[start:end])
    assert (events, decoder.retry, decoder.comments, decoder.last_event_id) == reference(stream)


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", [("YHOO\n+2\n10", "")]),
        (
            b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\n"
            b"data:  third event\n\n",
            [("first event", "1"), ("second event", ""), (" third event", "")],
        ),
        (b"data\n\ndata\ndata\n\ndata:", [("", ""), ("\n", "")]),
        (b"data:test\n\ndata: test\n\n", [("test", ""), ("test", "")]),
    ],
)
def test_the_examples_of_the_standard_come_out_as_it_says(stream, events):
    """The example streams of WHATWG HTML § 9.2.6 give the events that it describes."""
    received = SSEDecoder().feed(stream)
    assert [(event.data, event.id) for event in received] == events
    assert {event.type for event in received} == {"message"}


def test_a_line_that_ends_with_cr_is_not_held_back():
    """An event whose last byte is a CR is delivered at once and the LF after it is skipped."""
    decoder = SSEDecoder()
    assert decoder.feed(b"data: a\r\n\r") == [ServerSentEvent("message", "a", "")]
    assert decoder.feed(b"\n") == []
    assert decoder.feed(b"data: b\r\r") == [ServerSentEvent("message", "b", "")]


def test_a_character_may_be_split_between_chunks():
    """UTF-8 is put together across chunks, and broken UTF-8 is replaced, not an error."""
    decoder = SSEDecoder()
    assert decoder.feed(b"data: \xc3") == []
    assert decoder.feed(b"\xa9\xff\n\n") == [ServerSentEvent("message", "é\ufffd", "")]


def test_only_the_first_byte_order_mark_is_dropped():
    """A mark at the very start is dropped, even in three chunks, and a second one is kept."""
    decoder = SSEDecoder()
    for byte in b"\xef\xbb":
        assert decoder.feed(bytes([byte])) == []
    assert decoder.feed(b"\xbfdata: \xef\xbb\xbf\n\n") == [ServerSentEvent("message", "\ufeff", "")]


def test_the_type_is_of_one_event_only():
    """The event field names the event it stands in; the next one is a message again."""
    events = SSEDecoder().feed(b"event: a\ndata\n\ndata\n\nevent: b\n\ndata\n\n")
    assert [event.type for event in events] == ["a", "message", "message"]


def test_an_id_is_kept_for_the_events_after_it():
    """An id holds until the next one, and one with NUL in it is as if it weren't there."""
    decoder = SSEDecoder()
    events = decoder.feed(b"id: 1\ndata\n\nid: 2\0\ndata\n\nid: 3\n\n")
    assert [event.id for event in events] == ["1", "1"]
    assert decoder.last_event_id == "3"


def test_an_id_counts_from_the_blank_line_on():
    """The id of an event that was cut off is not what a client would come back with."""
    decoder = SSEDecoder()
    decoder.feed(b"id: 1\ndata: a\n\nid: 2\ndata: b\n")
    assert decoder.last_event_id == "1"


@pytest.mark.parametrize("value", ["", "-1", "1.5", "1 ", "²", "١", "1" * 5000])
def test_a_retry_that_is_no_number_is_ignored(value):
    """Only ASCII digits, and not thousands of them, set the reconnection time."""
    decoder = SSEDecoder()
    decoder.feed(f"retry: 250\nretry: {value}\n".encode())
    assert decoder.retry == 250


def test_comments_are_counted():
    """Heartbeats and other comments are visible as a count and as nothing else."""
    decoder = SSEDecoder()
    assert decoder.feed(b":\n\n: connected\n:data: x\n\n") == []
    assert decoder.comments == 3


def test_an_unfinished_event_is_not_delivered():
    """Without its blank line an event never comes out, so half of one is never acted upon."""
    assert SSEDecoder().feed(b"data: a\ndata: b\n") == []


def test_an_event_is_a_value():
    """Events compare by value and can't be changed."""
    event = ServerSentEvent("message", "a", "1")
    assert event == ServerSentEvent("message", "a", "1")
    assert hash(event) == hash(ServerSentEvent("message", "a", "1"))
    with pytest.raises(AttributeError):
        event.data = "b"


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    "stream",
    [b"data: " + b"x" * 95, b"data: " + b"x" * 95 + b"\n\n", b"data: xx\n" * 40, b":" + b"x" * 100],
    ids=["unfinished line", "one line", "many lines", "comment"],
)
def test_an_event_beyond_the_bound_is_an_error(stream, size):
    """A peer can't fill the memory by one event, in whatever pieces it sends it."""
    decoder = SSEDecoder(max_event=100)

    def feed_all():
        for start in range(0, len(stream), size):
            decoder.feed(stream[start : start + size])

    with pytest.raises(_errors.DecodingError, match="larger than 100 characters"):
        feed_all()


def test_after_an_error_nothing_more_is_decoded():
    """A decoder that lost its place refuses to go on instead of making up events."""
    decoder = SSEDecoder(max_event=10)
    for data in (b"data: 12345", b"\n\ndata: a\n\n"):
        with pytest.raises(_errors.DecodingError, match="larger than 10 characters"):
            decoder.feed(data)


def test_the_bound_is_of_one_event():
    """Events and comments up to the bound pass in any number, finished or in pieces."""
    decoder = SSEDecoder(max_event=10)
    for _ in range(20):
        assert decoder.feed(b":heart") == []
        assert decoder.feed(b"beat\ndata: 12") == []
        assert len(decoder.feed(b"34\n\n")) == 1


def test_a_bound_of_nothing_is_refused():
    """max_event must leave room for something."""
    with pytest.raises(ValueError, match="max_event must be 1 or more"):
        SSEDecoder(max_event=0)
