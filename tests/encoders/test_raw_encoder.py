"""Bytes as they are."""

from __future__ import annotations

import pytest

from flowstream.encoders import Raw


@pytest.mark.parametrize("data", [b"a\0\xff", bytearray(b"a\0\xff"), memoryview(b"a\0\xff")])
def test_bytes_pass_unchanged(data):
    """Every kind of bytes is sent as it is."""
    encoded = Raw().encode(data, id="1", type="t", key="k", retry=5)
    assert encoded == b"a\0\xff"
    assert type(encoded) is bytes


def test_bytes_are_not_copied():
    """A bytes object is handed on itself."""
    data = b"x" * 100
    assert Raw().encode(data) is data


def test_a_buffer_may_be_used_again():
    """What was encoded from a bytearray doesn't change with it afterwards."""
    data = bytearray(b"abc")
    encoded = Raw().encode(data)
    data[:] = b"xyz"
    assert encoded == b"abc"


def test_text_is_utf_8():
    """A str is sent as UTF-8."""
    assert Raw().encode("é") == b"\xc3\xa9"


def test_a_lone_surrogate_is_a_value_error():
    """Text that has no UTF-8 form raises."""
    with pytest.raises(ValueError, match="surrogates not allowed"):
        Raw().encode("\ud800")


@pytest.mark.parametrize("data", [5, None, [1, 2], {"a": 1}])
def test_anything_else_is_a_type_error(data):
    """What is neither bytes nor text is refused with what was expected and what came."""
    with pytest.raises(TypeError, match=f"bytes.*not {type(data).__name__}"):
        Raw().encode(data)


def test_the_format_carries_nothing_of_flowstream():
    """There is no place in raw bytes for control events, heartbeats, ids or a header."""
    raw = Raw()
    assert not raw.in_band
    assert not raw.automatic_ids
    assert raw.start() is raw
    assert raw.opening(5) == raw.header() == raw.heartbeat() == raw.control("end", {}) == b""


def test_the_media_type_is_the_apps():
    """The Content-Type is octet-stream unless the app says otherwise."""
    assert Raw().media_type == "application/octet-stream"
    assert Raw("video/mp4").media_type == "video/mp4"


@pytest.mark.parametrize("media_type", ["a/b\r\nX: y", "a\nb", "a\0b", "", "text/é"])
def test_a_media_type_can_not_forge_headers(media_type):
    """A media type with a line break, NUL or non-ASCII in it, or none at all, is refused."""
    with pytest.raises(ValueError, match="media_type"):
        Raw(media_type)


def test_encoders_are_equal_by_media_type():
    """Two encoders of the same media type are one dictionary key."""
    assert Raw() == Raw()
    assert hash(Raw("a/b")) == hash(Raw("a/b"))
    assert Raw() != Raw("a/b")
    assert Raw() != "application/octet-stream"
    assert repr(Raw("a/b")) == "Raw('a/b')"
