"""A broker that a run's log lies in, with a second server that follows it, and how it is broken.

There is one address. The server behind it is killed, frozen, cut short; or the second server takes
the address over. The first one then follows the second, so it can go back the next time. All
methods **block**, for seconds; a run calls them in threads, one at a time.
"""

from __future__ import annotations

import abc
import random
from collections.abc import Callable
from typing import Self

import trio


class Broker(abc.ABC):
    """One broker.

    Attributes:
        url: of the log.
        lock: held by the fault that is at work.
    """

    url: str

    def __init__(self) -> None:
        self.lock = trio.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @abc.abstractmethod
    def close(self) -> None:
        """Kill its servers."""

    @abc.abstractmethod
    def restart(self) -> None:
        """Kill -9 it, and start it with all that it has written."""

    @abc.abstractmethod
    def freeze(self) -> None:
        """Have it stand still."""

    @abc.abstractmethod
    def thaw(self) -> None:
        """Have it go on."""

    @abc.abstractmethod
    def lose_tail(self, dice: random.Random, wait: Callable[[], None]) -> None:
        """Kill -9 it after `wait()`, and start it without the end of what it had."""

    @abc.abstractmethod
    def cut_sessions(self, dice: random.Random) -> None:
        """Cut half of the connections that processes have to it."""

    @abc.abstractmethod
    def fail_over_in_step(self, dice: random.Random) -> None:
        """Have the second server take over with all that was acknowledged."""

    @abc.abstractmethod
    def fail_over_behind(self, dice: random.Random, wait: Callable[[], None]) -> None:
        """Have the second server take over without what came during `wait()`."""

    @abc.abstractmethod
    def split(self, dice: random.Random, wait: Callable[[], None]) -> None:
        """Have both servers take writes during `wait()`. What the first one took is lost."""

    @abc.abstractmethod
    def refuse_writes(self) -> None:
        """Have it refuse writes: its memory is full, or it is read-only."""

    @abc.abstractmethod
    def take_writes(self) -> None:
        """Have it take writes again."""

    def flush(self) -> None:
        """Have it forget everything, while it runs."""
        raise NotImplementedError

    def lose_tail_unseen(self, wait: Callable[[], None], kill_all: Callable[[], None]) -> None:
        """Lose what came during `wait()`, with nobody there who could tell after `kill_all()`."""
        raise NotImplementedError
