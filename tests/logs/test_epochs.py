"""Epochs, as values: how they sort, and where a position of an older one leads."""

from __future__ import annotations

import pytest

from flowstream.ids._event_id import new_epoch
from flowstream.logs._epochs import (
    EPOCHS_KEPT,
    begin_epoch,
    epoch_at,
    epochs_from_text,
    epochs_to_text,
    is_evidence,
    locate,
)

EPOCHS = (("e1", 1), ("e2", 96), ("e3", 120))


@pytest.mark.parametrize(
    ("after", "number"),
    [
        (("e1", 0), 0),
        (("e1", 50), 50),
        (("e1", 95), 95),
        (("e1", 100), 95),
        (("e1", 10**9), 95),
        (("e1", -1), None),
        (("e2", 94), None),
        (("e2", 95), 95),
        (("e2", 119), 119),
        (("e2", 125), 119),
        (("e3", 119), 119),
        (("e3", 130), 130),
        (("e3", 131), None),
        (("e4", 0), None),
        (("", 0), None),
    ],
)
def test_a_position_is_found(after: tuple[str, int], number: int | None) -> None:
    """One of an older epoch is cut to where the next began; others are found, or unknown."""
    assert locate(EPOCHS, 130, after) == number


def test_each_number_has_its_epoch() -> None:
    """It is the last that began at the number or before."""
    assert [epoch_at(EPOCHS, n) for n in (1, 95, 96, 119, 120, 999)] == [
        "e1",
        "e1",
        "e2",
        "e2",
        "e3",
        "e3",
    ]


def test_eight_epochs_are_kept() -> None:
    """The oldest goes, and each begins behind the number that it is given."""
    epochs = ((new_epoch(), 1),)
    for number in range(10, 200, 10):
        epochs = begin_epoch(epochs, number)
    assert len(epochs) == EPOCHS_KEPT
    assert epochs[-1][1] == 191
    assert list(epochs) == sorted(epochs)


def test_epochs_are_stored_as_text() -> None:
    """What is read is what was written."""
    assert epochs_from_text(epochs_to_text(EPOCHS)) == EPOCHS


@pytest.mark.parametrize(
    ("after", "expected"),
    [(("e3", 130), False), (("e3", 131), True), (("e4", 1), True), (("e1", 999), False)],
)
def test_what_is_evidence(after: tuple[str, int], expected: bool) -> None:
    """A later epoch or a higher number is; an epoch that may be forgotten is not."""
    assert is_evidence(EPOCHS, 130, after) is expected
