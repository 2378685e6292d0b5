"""When a producer that never waits lets others run."""

from __future__ import annotations

import pytest

from flowstream._clock import clock
from flowstream.tasks._pace import Pace


class Loop:
    """A loop of sends whose items take as long as it is told, on a stopwatch of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.looks = 0
        monkeypatch.setattr(clock, "perf_counter", self.read)
        self.pace = Pace()
        self.look = self.pace.resume()

    def read(self) -> float:
        self.looks += 1
        return self.now

    def burst(self, item_seconds: float) -> int:
        """Return how many items one burst has, and begin the next."""
        count = 0
        while True:
            self.now += item_seconds
            count += 1
            if count >= self.look:
                self.look = self.pace.next_look(count)
                if not self.look:
                    self.look = self.pace.resume()
                    return count


@pytest.mark.parametrize("seconds", [0.0, 1e-6, 1e-5])
def test_quick_items_come_in_bursts_of_64(monkeypatch, seconds):
    """Others run after 64 items that take less than a millisecond together."""
    loop = Loop(monkeypatch)
    assert [loop.burst(seconds) for _ in range(5)] == [64] * 5


@pytest.mark.parametrize(("seconds", "items"), [(0.0004, 3), (0.0011, 1), (1.0, 1)])
def test_slow_items_come_in_bursts_of_a_millisecond(monkeypatch, seconds, items):
    """Others run after the item with which a millisecond is full."""
    loop = Loop(monkeypatch)
    assert [loop.burst(seconds) for _ in range(5)] == [items] * 5


def test_the_clock_is_looked_at_rarely_while_items_are_quick(monkeypatch):
    """A burst of 64 quick items costs six looks at the most, not 64."""
    loop = Loop(monkeypatch)
    loop.burst(1e-6)
    loop.looks = 0
    loop.burst(1e-6)
    assert loop.looks <= 6


def test_items_that_become_slow_are_noticed_within_a_stride(monkeypatch):
    """Sixteen items may pass before a slowdown shows; from then on each is looked at."""
    loop = Loop(monkeypatch)
    loop.burst(1e-6)
    assert loop.burst(0.01) <= 16
    assert loop.burst(0.01) == 1
