"""Bounds: a bad one is found where it is written."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream.limits import Buffer, Limits

SECONDS = ["max_duration", "stall_timeout", "cleanup_timeout"]
NOT_WHOLE = [True, 1.0, "5", None]


def test_the_defaults_are_those_of_the_documentation():
    """256 items and 1 MiB; no end of its own; 30 s for a write and 5 s for cleanup."""
    assert Buffer() == Buffer(items=256, bytes=1_048_576, warn_at=None)
    assert Limits() == Limits(
        max_duration=None, max_bytes=None, stall_timeout=30.0, cleanup_timeout=5.0
    )


@pytest.mark.parametrize("field", ["items", "bytes"])
@pytest.mark.parametrize("value", NOT_WHOLE)
def test_a_bound_of_a_buffer_that_is_no_whole_number_is_refused(field, value):
    """Neither a bool nor a float stands for a number of items or bytes."""
    with pytest.raises(TypeError, match=rf"buffer {field} must be an int \({field}\)"):
        Buffer(**{field: value})


@given(st.integers(max_value=0))
def test_a_buffer_of_nothing_is_refused(value):
    """A buffer of 0 items or bytes, or fewer, could never pass anything on."""
    for field in ("items", "bytes"):
        with pytest.raises(ValueError, match=f"buffer {field} must be at least 1"):
            Buffer(**{field: value})


@pytest.mark.parametrize("value", [0, -0.5, math.nan])
def test_a_warning_mark_at_or_below_empty_is_refused(value):
    """NaN is below everything, too."""
    with pytest.raises(ValueError, match="warn_at must be more than 0"):
        Buffer(warn_at=value)


def test_a_warning_mark_is_a_fraction_of_the_buffer():
    """75 is not 75 %, and text is no number; the full buffer is the highest mark."""
    assert Buffer(warn_at=1).warn_at == 1
    with pytest.raises(ValueError, match="warn_at must be at most 1, the full buffer, not 75"):
        Buffer(warn_at=75)
    with pytest.raises(TypeError, match="warn_at must be a number of parts"):
        Buffer(warn_at="0.75")


def test_buffer_of_takes_items_or_a_buffer():
    """An int counts items; a Buffer is taken as it is."""
    given = Buffer(items=3, bytes=99)
    assert Buffer.of(given) is given
    assert Buffer.of(7) == Buffer(items=7)


@pytest.mark.parametrize("value", NOT_WHOLE)
def test_buffer_of_anything_else_is_refused(value):
    """The message says which two things it may be."""
    with pytest.raises(TypeError, match=r"buffer must be an int \(items\) or a Buffer, not"):
        Buffer.of(value)


@pytest.mark.parametrize("field", SECONDS)
@pytest.mark.parametrize("value", [0, -1, math.nan])
def test_a_limit_in_time_is_more_than_nothing(field, value):
    """Zero seconds would end a stream before it began."""
    with pytest.raises(ValueError, match=f"{field} must be more than 0 seconds"):
        Limits(**{field: value})


@pytest.mark.parametrize("field", SECONDS)
@pytest.mark.parametrize("value", ["5", True])
def test_a_limit_in_time_is_a_number(field, value):
    """Text out of an environment variable is refused where it is given."""
    with pytest.raises(TypeError, match=f"{field} must be a number of seconds"):
        Limits(**{field: value})


def test_the_cleanup_timeout_is_finite():
    """A cleanup that hangs would otherwise hold its stream for ever."""
    with pytest.raises(ValueError, match="cleanup_timeout must be finite"):
        Limits(cleanup_timeout=math.inf)
    assert Limits(stall_timeout=math.inf).stall_timeout == math.inf


def test_a_limit_in_bytes_is_a_whole_number_of_one_or_more():
    """Half a byte and none at all are both refused."""
    assert Limits(max_bytes=1).max_bytes == 1
    with pytest.raises(ValueError, match="max_bytes must be at least 1"):
        Limits(max_bytes=0)
    with pytest.raises(TypeError, match="max_bytes must be an int"):
        Limits(max_bytes=1.5)


@pytest.mark.parametrize("value", [Buffer(), Limits()])
def test_bounds_are_frozen(value):
    """One value may be shared by any number of streams."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, dataclasses.fields(value)[0].name, 1)
