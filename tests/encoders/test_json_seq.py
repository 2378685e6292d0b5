"""JSON text sequences (RFC 7464): encoder, decoder, and what becomes of a spoiled stream."""

from __future__ import annotations

import json
import subprocess

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream import stream
from flowstream.decoders import JSONSequenceDecoder
from flowstream.encoders import NDJSON, JSONSequence
from flowstream.testing import collect

RS = b"\x1e"

texts = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | texts
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def decode(data: bytes, *, max_text: int = 1 << 20, step: int | None = None):
    """Return the values of a whole stream, and the decoder."""
    decoder = JSONSequenceDecoder(max_text=max_text)
    found = []
    for start in range(0, len(data), step or len(data) or 1):
        found += decoder.feed(data[start : start + (step or len(data))])
    return found + decoder.flush(), decoder


def test_each_text_stands_between_rs_and_lf():
    """Plain values, envelopes and controls are those of NDJSON, behind an RS."""
    seq, lines = JSONSequence(names={"gap": "lost"}), NDJSON(names={"gap": "lost"})
    assert seq.media_type == "application/json-seq"
    assert seq.encode({"a": 1}) == RS + b'{"a":1}\n'
    assert seq.encode([1], id="7.1", type="t") == RS + lines.encode([1], id="7.1", type="t")
    body = {"missed": 1}
    assert seq.control("gap", body, id="x", retry=5) == RS + lines.control(
        "gap", body, id="x", retry=5
    )
    assert seq.heartbeat() == RS


def test_it_is_no_other_encoders_equal():
    """A topic keeps its encodings apart from those of NDJSON."""
    assert JSONSequence() == JSONSequence()
    assert hash(JSONSequence()) == hash(JSONSequence())
    assert JSONSequence() != NDJSON()
    assert NDJSON() != JSONSequence()


def test_an_rs_in_ready_made_json_is_refused():
    """It would end the element in the middle."""
    with pytest.raises(ValueError, match="record separator"):
        JSONSequence().encode(msgspec.Raw(b'"\x1e"'))
    assert JSONSequence().encode("\x1e") == RS + b'"\\u001e"\n'


async def test_a_stream_of_it_is_read_back_to_its_end():
    """What goes out over HTTP is what the decoder makes values of, the last one the `end`."""
    answer = await collect(stream([{"n": 1}, 2], encoder=JSONSequence()))
    assert answer.headers["content-type"] == "application/json-seq"
    found, decoder = decode(answer.body)
    assert found[:2] == [{"n": 1}, 2]
    assert (found[2]["type"], found[2]["data"]) == ("end", {"reason": "completed"})
    assert decoder.spoiled == 0


def test_jq_reads_it(program):
    """A reader that is not ours takes the heartbeats and the texts as RFC 7464 says."""
    seq = JSONSequence()
    data = seq.heartbeat() * 2 + seq.encode({"a": "ü"}) + seq.heartbeat() + seq.encode(12)
    done = subprocess.run(
        [program("jq"), "--seq", "-c", "."], input=data, capture_output=True, check=True
    )
    assert [json.loads(text) for text in done.stdout.split(RS)[1:]] == [{"a": "ü"}, 12]


@given(st.lists(values | st.just(RS)), st.data())
def test_what_is_encoded_is_what_a_client_gets(items, data):
    """Any values come back in order, heartbeats between them, however the bytes are cut."""
    seq = JSONSequence()
    whole = b"".join(seq.heartbeat() if item is RS else seq.encode(item) for item in items)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)))))
    decoder, found = JSONSequenceDecoder(), []
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        found += decoder.feed(whole[start:end])
    expected = [item for item in items if item is not RS]
    assert found == expected  # at once: none waits for the next RS
    assert decoder.flush() == []
    assert decoder.spoiled == 0


@given(st.lists(values, min_size=1, max_size=5))
def test_a_cut_after_any_byte_gives_whole_values_only(items):
    """A prefix of the bytes gives a prefix of the values, and half a one is counted."""
    seq = JSONSequence()
    elements = [seq.encode(item) for item in items]
    whole = b"".join(elements)
    ends = [sum(map(len, elements[:n])) for n in range(len(items) + 1)]
    for cut in range(len(whole) + 1):
        found, decoder = decode(whole[:cut])
        complete = max(n for n, end in enumerate(ends) if end <= cut)
        # Without its LF the last text is taken if it says itself where it ends.
        extra = len(found) - complete
        assert extra == 0 or (extra == 1 and cut == ends[complete + 1] - 1)
        assert found == items[: len(found)]
        torn = cut - ends[complete] > 1 and not extra
        assert decoder.spoiled == torn


@given(
    st.binary(max_size=60)
    | st.lists(
        st.sampled_from([RS, b"\n", b"1", b"{", b"}", b'"', b" ", b"true", b"[1]", b"\xff", b"x"]),
        max_size=30,
    ).map(b"".join),
    st.integers(1, 7),
)
def test_any_bytes_give_the_same_in_any_pieces(data, step):
    """Nothing raises, and how the bytes are cut decides nothing."""
    found, decoder = decode(data, max_text=16)
    again, other = decode(data, max_text=16, step=step)
    assert json.dumps(found) == json.dumps(again)
    assert (decoder.heartbeats, decoder.spoiled) == (other.heartbeats, other.spoiled)


@pytest.mark.parametrize(
    ("data", "expected", "spoiled"),
    [
        (b"34\n" + RS + b"1\n", [1], 1),
        (b" \r\n" + RS + b"1\n", [1], 0),
        (RS + b"{oops\n" + RS + b"[2]\n", [[2]], 1),
        (RS + b'{"a":\n\n1}\n' + RS + b"2\n", [{"a": 1}, 2], 0),
        (RS + b'{"a":1}' + RS + b'"b"', [{"a": 1}, "b"], 0),
        (RS + b"12" + RS + b"true" + RS + b"null" + RS + b"-1 " + RS + b"false\t", [-1, False], 3),
        (RS + b"1\n2\n" + RS + b"3\n", [1, 3], 1),
        (RS + b'"\xff"\n' + RS + b"[" * 100_000 + b"\n" + RS + b"4\n", [4], 2),
        (RS + RS + RS + b"\n" + RS + b"5\n", [5], 0),
    ],
)
@pytest.mark.parametrize("step", [None, 1])
def test_what_is_spoiled_is_passed_over(data, expected, spoiled, step):
    """The sequence goes on at the next RS; what may have been cut is not taken (§ 2.4)."""
    found, decoder = decode(data, step=step)
    assert found == expected
    assert decoder.spoiled == spoiled


def test_a_text_behind_a_spoiled_one_comes_at_its_lf():
    """That the one before was tried in vain delays no other."""
    decoder = JSONSequenceDecoder()
    assert decoder.feed(RS + b"{" + b" " * 1000 + b"\n" + RS + b"1\n") == [1]


def test_heartbeats_are_counted():
    """An RS that only white space follows, up to the next, is one."""
    decoder = JSONSequenceDecoder()
    assert decoder.feed(RS * 3 + b"1\n" + RS + b"\n" + RS + b"2\n") == [1, 2]
    assert decoder.heartbeats == 3


@pytest.mark.parametrize("step", [None, 1, 7])
def test_a_text_beyond_the_bound_is_passed_over(step):
    """It costs no memory beyond the bound, and the next one is read."""
    long = RS + b'"' + b"x" * 1000 + b'"\n'
    found, decoder = decode(long + RS + b'"123456"\n', max_text=9, step=step)
    assert found == ["123456"]
    assert decoder.spoiled == 1


def test_a_text_of_many_lines_is_not_read_as_often():
    """Each try reads a text that has doubled since the last."""
    import flowstream.decoders._json_seq_decoder as module

    tries = []
    original = module._from_json
    decoder = JSONSequenceDecoder()
    try:
        module._from_json = lambda text: tries.append(len(text)) or original(text)
        assert decoder.feed(RS + b"[" + b"\n" * 1000 + b"1]\n" + RS) == [[1]]
    finally:
        module._from_json = original
    assert len(tries) < 15


def test_a_bound_of_nothing_is_refused():
    """max_text must leave room for something."""
    with pytest.raises(ValueError, match="max_text must be 1 or more"):
        JSONSequenceDecoder(max_text=0)
