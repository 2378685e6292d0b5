"""JSON lines: plain values verbatim, an envelope only where there is one."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream.decoders import NDJSONDecoder
from flowstream.encoders import NDJSON

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


def test_the_media_type_is_the_usual_one():
    """The stream is application/x-ndjson, and its values get no ids by themselves."""
    assert NDJSON.media_type == "application/x-ndjson"
    assert not NDJSON().automatic_ids


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"a": 1}, b'{"a":1}\n'),
        ("a\nb", b'"a\\nb"\n'),
        (None, b"null\n"),
        ([1, 2], b"[1,2]\n"),
        (float("inf"), b"null\n"),
        ({"type": "gap", "data": 1}, b'{"type":"gap","data":1}\n'),
    ],
)
def test_a_plain_value_is_a_line_of_its_own(data, line):
    """A value without an envelope is written verbatim, whatever its members are called."""
    assert NDJSON().encode(data) == line


@pytest.mark.parametrize(
    ("envelope", "line"),
    [
        ({"id": "7f3a.1"}, b'{"id":"7f3a.1","data":[1]}\n'),
        ({"type": "token"}, b'{"type":"token","data":[1]}\n'),
        ({"id": "7f3a.1", "type": "token"}, b'{"type":"token","id":"7f3a.1","data":[1]}\n'),
        ({"key": "EUR"}, b'{"data":[1]}\n'),
        ({"key": 0, "id": ""}, b'{"id":"","data":[1]}\n'),
        ({"retry": 500}, b"[1]\n"),
    ],
)
def test_an_event_is_put_into_an_envelope(envelope, line):
    """An id, type or key makes an envelope of what is given of them; retry doesn't."""
    assert NDJSON().encode([1], **envelope) == line


def test_ready_made_json_with_line_breaks_stays_one_line():
    """A line break inside a msgspec.Raw doesn't end the line."""
    raw = msgspec.Raw(b'{"a":\n\r\n1}')
    line = NDJSON().encode(raw)
    assert line.count(b"\n") == 1
    assert NDJSONDecoder().feed(line) == [{"a": 1}]


def test_what_json_can_not_carry_is_a_type_error():
    """An object that msgspec doesn't know is refused with its TypeError."""
    with pytest.raises(TypeError, match="object"):
        NDJSON().encode(object())


def test_a_lone_surrogate_is_a_value_error():
    """Text that has no UTF-8 form raises."""
    with pytest.raises(ValueError, match="surrogates not allowed"):
        NDJSON().encode({"a": "\ud800"})


def test_there_is_no_opening():
    """A stream begins with its first value, since every byte before it would be a line."""
    assert NDJSON().opening(None) == b""
    assert NDJSON().opening(500) == b""


def test_a_heartbeat_is_an_empty_line():
    """A heartbeat is a line that readers of JSON lines skip."""
    assert NDJSON().heartbeat() == b"\n"


def test_a_control_event_is_an_envelope():
    """A control event has its name as type, then id and retry if given, then its body."""
    ndjson = NDJSON()
    assert ndjson.control("gap", {"missed": 3}) == b'{"type":"gap","data":{"missed":3}}\n'
    assert (
        ndjson.control("end", {"reason": "completed"}, id="7f3a.end")
        == b'{"type":"end","id":"7f3a.end","data":{"reason":"completed"}}\n'
    )
    assert (
        ndjson.control("reconnect", {"reason": "shutdown"}, retry=700)
        == b'{"type":"reconnect","retry":700,"data":{"reason":"shutdown"}}\n'
    )


def test_a_control_event_bears_the_name_that_the_app_gave_it():
    """A renamed control event has its new name as type."""
    assert NDJSON(names={"gap": "lost"}).control("gap", {}) == b'{"type":"lost","data":{}}\n'


def test_a_retry_below_zero_is_refused():
    """The reconnection time of a control event is checked as in SSE."""
    with pytest.raises(ValueError, match="retry must be"):
        NDJSON().control("reconnect", {}, retry=-1)


@given(st.lists(values), st.data())
def test_what_is_encoded_is_what_a_client_gets(items, data):
    """Any JSON values come back in order however the bytes are cut."""
    ndjson, decoder = NDJSON(), NDJSONDecoder()
    stream = b"".join(ndjson.encode(item) for item in items)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    received = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += decoder.feed(stream[start:end])
    assert received == items
    assert decoder.flush() == []


@given(values, texts | st.none(), texts | st.none())
def test_every_line_is_one_line_of_json(value, id, type):
    """The standard library reads each line as what was put in, envelope or not."""
    line = NDJSON().encode(value, id=id, type=type)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    expected = {k: v for k, v in (("type", type), ("id", id)) if v is not None}
    assert json.loads(line) == ({**expected, "data": value} if expected else value)
