"""The closed set of control events and its renaming, which SSE and NDJSON share."""

from __future__ import annotations

import pytest

from flowstream.encoders import NDJSON, SSE
from flowstream.encoders._controls import CONTROL_NAMES, wire_names


def test_the_set_of_control_events_is_closed():
    """The six names that clients are written against can't change unnoticed."""
    assert {"gap", "snapshot", "warning", "failed", "end", "reconnect"} == CONTROL_NAMES


def test_without_renamings_each_control_event_keeps_its_name():
    """An empty mapping gives every control event its default name."""
    assert wire_names({}) == {name: name for name in CONTROL_NAMES}


def test_a_renaming_changes_that_name_and_no_other():
    """One entry renames one control event."""
    wire = wire_names({"gap": "lost"})
    assert wire.pop("gap") == "lost"
    assert wire == {name: name for name in CONTROL_NAMES - {"gap"}}


def test_two_controls_may_swap_their_names():
    """A default name is free for another control once its owner was renamed."""
    wire = wire_names({"gap": "end", "end": "gap"})
    assert (wire["gap"], wire["end"]) == ("end", "gap")


def test_an_unknown_control_is_refused_with_the_known_ones_named():
    """A misspelt key is a ValueError whose message lists what could have been meant."""
    with pytest.raises(ValueError, match=r"'gaps'.*known are end, failed, gap"):
        wire_names({"gaps": "lost"})


@pytest.mark.parametrize(
    "names", [{"gap": "x", "end": "x"}, {"gap": "end"}], ids=["both renamed", "one renamed"]
)
def test_two_controls_under_one_name_are_refused(names):
    """Neither two new names nor a new one and a default may coincide."""
    with pytest.raises(ValueError, match="both be named"):
        wire_names(names)


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "a\0b", ""])
def test_a_name_that_can_not_stand_on_a_line_is_refused(name):
    """A new name with a line break or NUL, or an empty one, is a ValueError."""
    with pytest.raises(ValueError, match="the name for 'gap'"):
        wire_names({"gap": name})


def test_a_name_that_is_no_text_is_refused():
    """A new name that is not a str is a TypeError."""
    with pytest.raises(TypeError, match="the name for 'gap'"):
        wire_names({"gap": 1})


@pytest.mark.parametrize("encoder", [SSE, NDJSON])
def test_encoders_are_equal_by_their_names(encoder):
    """Two encoders of a format with the same names are one dictionary key."""
    assert encoder() == encoder()
    assert hash(encoder()) == hash(encoder(names={}))
    assert encoder(names={"gap": "gap"}) == encoder()
    assert encoder(names={"gap": "lost"}) != encoder()
    assert len({encoder(), encoder(), encoder(names={"gap": "lost"})}) == 2


def test_encoders_of_different_formats_are_never_equal():
    """SSE and NDJSON with the same names don't share encoded bytes."""
    assert SSE() != NDJSON()


@pytest.mark.parametrize("encoder", [SSE, NDJSON])
def test_the_representation_shows_the_renamings(encoder):
    """repr() of an encoder is the call that makes it."""
    assert repr(encoder()) == f"{encoder.__name__}()"
    assert repr(encoder(names={"gap": "lost"})) == f"{encoder.__name__}(names={{'gap': 'lost'}})"


@pytest.mark.parametrize("encoder", [SSE(), NDJSON()])
def test_an_unknown_control_event_is_refused(encoder):
    """An event outside the closed set can't be sent as a control event."""
    with pytest.raises(ValueError, match="no control event is named 'error'"):
        encoder.control("error", {})


@pytest.mark.parametrize("encoder", [SSE(), NDJSON()])
def test_encoders_without_a_memory_serve_every_stream_themselves(encoder):
    """start() returns the encoder itself, since nothing of a stream is remembered."""
    assert encoder.start() is encoder
    assert encoder.in_band
    assert encoder.header() == b""
