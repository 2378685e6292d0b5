"""What the tests of logs share."""

import pytest

from flowstream._clock import stamps


@pytest.fixture(autouse=True)
def _stamps_of_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test whose clock is years ahead leaves no epochs of these years behind."""
    monkeypatch.setattr(stamps, "last", stamps.last)
