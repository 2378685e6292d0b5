"""A decoder that has found too much keeps nothing of it."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from flowstream import DecodingError
from flowstream.decoders import FramesDecoder, JSONSequenceDecoder, NDJSONDecoder, SSEDecoder

PIECE = b"x" * 65536


@pytest.mark.parametrize(
    ("decoder", "begin"),
    [
        (NDJSONDecoder(), b'"'),
        (SSEDecoder(), b"data: "),
        (SSEDecoder(), b"data: x\ndata: "),
        (FramesDecoder(), b"\x00\x0f\xff\xff\x00" + b"x" * 0xFFFFE + b"\xff\xff\xff\xff"),
    ],
    ids=["ndjson", "sse", "sse, second line", "frames"],
)
def test_nothing_is_kept_after_the_bound(decoder: Any, begin: bytes) -> None:
    """Who holds on to the decoder, to ask it what it has counted, holds no megabyte with it."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        with pytest.raises(DecodingError):  # noqa: PT012  # one of them, and none before the bound
            decoder.feed(begin)
            for _ in range(17):
                decoder.feed(PIECE)
        with pytest.raises(DecodingError):
            decoder.feed(PIECE)
        assert tracemalloc.get_traced_memory()[0] - before < 32768
        assert tracemalloc.get_traced_memory()[1] - before < 4 << 20
    finally:
        tracemalloc.stop()


def test_a_sequence_lets_go_of_what_it_passes_over() -> None:
    """The decoder that goes on after a text that is too long does not hold it meanwhile."""
    decoder = JSONSequenceDecoder()
    tracemalloc.start()
    try:
        decoder.feed(b'\x1e"')
        for _ in range(100):
            assert decoder.feed(PIECE) == []
        assert tracemalloc.get_traced_memory()[0] < 131072
    finally:
        tracemalloc.stop()
    assert decoder.feed(b"\x1e1\n") == [1]
    assert decoder.spoiled == 1


@pytest.mark.parametrize(
    "text",
    [b"[" * 1_000_000, b"9" * 1_000_000, b'{"a":' * 200_000],
    ids=["lists", "digits", "objects"],
)
def test_a_text_of_nothing_but_brackets_or_digits_is_no_json(text: bytes) -> None:
    """Python refuses them with errors of its own, which are no business of who feeds a decoder."""
    with pytest.raises(DecodingError, match="line 1 is not JSON"):
        NDJSONDecoder().feed(text + b"\n")
    with pytest.raises(DecodingError, match="frame 1 is not what its kind"):
        FramesDecoder().feed((len(text) + 1).to_bytes(4, "big") + b"J" + text)
    sequence = JSONSequenceDecoder()
    assert sequence.feed(b"\x1e" + text + b"\n\x1e1\n") == [1]
    assert sequence.spoiled == 1
