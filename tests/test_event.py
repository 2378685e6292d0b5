"""Event: what its envelope takes, and what it refuses at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream._event import Event, check_field, check_retry


def test_an_event_holds_what_it_was_given():
    """Every field is readable under the name it was given by."""
    event = Event({"n": 1}, id="7", type="price", key="EUR", essential=True, retry=500)
    assert (event.data, event.id, event.type) == ({"n": 1}, "7", "price")
    assert (event.key, event.essential, event.retry) == ("EUR", True, 500)


def test_an_event_of_data_alone_is_anonymous_and_droppable():
    """No id, type, key or retry is made up, and nothing is essential unasked."""
    event = Event("data")
    assert (event.id, event.type, event.key, event.retry) == (None, None, None, None)
    assert event.essential is False


@given(st.text(), st.sampled_from("\r\n\0"), st.text())
def test_a_line_break_or_nul_in_id_or_type_is_refused(head, char, tail):
    """Wherever in the text it stands, so that data can forge no field."""
    for field in ("id", "type"):
        with pytest.raises(ValueError, match=f"{field} must not contain CR, LF or NUL"):
            Event("data", **{field: head + char + tail})


@given(st.text(st.characters(exclude_characters="\r\n\0")))
def test_any_other_text_is_passed_through(text):
    """An app's ids may be in any language, or empty."""
    assert check_field("id", text) is text
    assert Event(None, id=text, type=text).id == text


@pytest.mark.parametrize("value", [7, b"7", 1.5])
def test_an_id_or_type_that_is_no_text_is_refused(value):
    """The message names the field and what was given instead."""
    for field in ("id", "type"):
        with pytest.raises(TypeError, match=f"{field} must be a str, not {type(value).__name__}"):
            Event("data", **{field: value})


@pytest.mark.parametrize("value", [True, 1.5, "100"])
def test_a_retry_that_is_no_whole_number_is_refused(value):
    """A bool is an int to Python, but no number of milliseconds."""
    with pytest.raises(TypeError, match="retry must be an int"):
        Event("data", retry=value)


def test_a_retry_may_be_zero_but_not_less():
    """Zero means that the browser comes back at once."""
    assert check_retry(0) == 0
    with pytest.raises(ValueError, match="retry must be 0 or more milliseconds, not -1"):
        Event("data", retry=-1)


def test_repr_shows_what_was_set_and_nothing_else():
    """Also a 0 is something that was set."""
    assert repr(Event("x")) == "Event('x')"
    assert repr(Event(1, id="7", essential=True)) == "Event(1, id='7', essential=True)"
    assert repr(Event(1, key=0, retry=0)) == "Event(1, key=0, retry=0)"


def test_events_are_equal_field_by_field():
    """Two events are the same if nothing about them differs; other things are never."""
    assert Event("x", id="1") == Event("x", id="1")
    assert Event("x", id="1") != Event("x", id="2")
    assert Event("x") != "x"


def test_an_event_cannot_be_a_dictionary_key():
    """It compares by data that may change, so it has no hash."""
    with pytest.raises(TypeError, match="unhashable"):
        hash(Event("x"))
