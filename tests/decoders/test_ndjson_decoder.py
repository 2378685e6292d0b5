"""JSON lines out of chunks."""

from __future__ import annotations

import pytest

from flowstream import _errors
from flowstream.decoders import NDJSONDecoder


def test_values_come_out_as_their_lines_end():
    """A value is returned by the call that brings its line break."""
    decoder = NDJSONDecoder()
    assert decoder.feed(b'{"a"') == []
    assert decoder.feed(b":1}\n[2]\n3") == [{"a": 1}, [2]]
    assert decoder.feed(b"\n") == [3]
    assert decoder.flush() == []


def test_a_last_line_needs_no_line_break():
    """flush() returns the value of an unfinished line, once."""
    decoder = NDJSONDecoder()
    assert decoder.feed(b"1\n2") == [1]
    assert decoder.flush() == [2]
    assert decoder.flush() == []


def test_crlf_ends_a_line_as_well():
    """Lines that end with CRLF are read alike, wherever the chunks are cut."""
    decoder = NDJSONDecoder()
    assert decoder.feed(b"1\r\n2\r") == [1]
    assert decoder.feed(b"\n\r\n") == [2]
    assert decoder.heartbeats == 1


def test_other_line_separators_are_ordinary_characters():
    """U+2028 inside a string, where str.splitlines splits, doesn't end the line."""
    assert NDJSONDecoder().feed('"a\u2028b"\n'.encode()) == ["a\u2028b"]


def test_empty_lines_are_counted_as_heartbeats():
    """A line of nothing or of blanks gives no value and raises the count."""
    decoder = NDJSONDecoder()
    assert decoder.feed(b"\n1\n \t\n\n2\n") == [1, 2]
    assert decoder.heartbeats == 3


@pytest.mark.parametrize(
    "line", [b"nope", b"{", b'"\xff"', b"1 2", b"NaN", b"[" * 100_000, b"1e999", b"\xef\xbb\xbf1"]
)
def test_what_is_not_json_is_an_error_with_its_line_number(line):
    """Broken JSON, broken UTF-8 and endless nesting raise DecodingError with the line."""
    decoder = NDJSONDecoder()
    with pytest.raises(_errors.DecodingError, match="line 3 is not JSON"):
        decoder.feed(b"1\n\n" + line + b"\n4\n")


def test_a_broken_last_line_is_an_error():
    """flush() of half a value raises instead of passing it over."""
    decoder = NDJSONDecoder()
    decoder.feed(b'1\n{"a":')
    with pytest.raises(_errors.DecodingError, match="line 2 is not JSON"):
        decoder.flush()


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_beyond_the_bound_is_an_error(size, end):
    """A peer can't fill the memory by one line, in whatever pieces it sends it."""
    decoder = NDJSONDecoder(max_line=10)
    stream = b"1\n" + b'"%b"' % (b"x" * 9) + end

    def feed_all():
        for start in range(0, len(stream), size):
            decoder.feed(stream[start : start + size])

    with pytest.raises(_errors.DecodingError, match="line 2 is longer than 10 bytes"):
        feed_all()


def test_a_line_of_just_the_bound_passes():
    """The bound counts the bytes of a line without its line break."""
    decoder = NDJSONDecoder(max_line=10)
    for _ in range(3):
        assert decoder.feed(b'"xxxx') == []
        assert decoder.feed(b'xxxx"\n') == ["xxxxxxxx"]


def test_after_an_error_nothing_more_is_decoded():
    """A decoder that met an error raises it again instead of going on behind it."""
    decoder = NDJSONDecoder()
    with pytest.raises(_errors.DecodingError, match="line 1 is not JSON"):
        decoder.feed(b"x\n")
    with pytest.raises(_errors.DecodingError, match="line 1 is not JSON"):
        decoder.feed(b"1\n")
    with pytest.raises(_errors.DecodingError, match="line 1 is not JSON"):
        decoder.flush()


def test_a_bound_of_nothing_is_refused():
    """max_line must leave room for something."""
    with pytest.raises(ValueError, match="max_line must be 1 or more"):
        NDJSONDecoder(max_line=0)
