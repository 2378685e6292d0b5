"""The logs that tests run on, each a `Store`.

A new log is one more entry of `_SERVERS`; every test of topics on each log then runs on it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

MEMORY = "memory"

# {kind: the fixture that gives its URL}
_SERVERS = {
    "valkey": "valkey_server",
    "redis": "redis_server",
    "postgres": "postgres_log",
    "postgres 18": "postgres_18_log",
}


def _shared(*short: str) -> list[Any]:
    """Return the logs that several processes can share; with -m chaos those not in `short`."""
    return [
        pytest.param(kind, marks=() if kind in short else pytest.mark.chaos)
        for kind in ("sqlite", *_SERVERS)
    ]


SHARED: list[Any] = _shared("sqlite", "valkey")
"""The logs that several processes can share, as parameters of a fixture."""

ALL: list[Any] = [MEMORY, *SHARED]
"""All logs."""

BEFORE: list[Any] = [MEMORY, *(one for one in _shared("sqlite") if one.values != ("postgres 18",))]
"""The same for tests that were written for topics in memory: of Postgres one is enough."""


@dataclass
class Store:
    """One log, with nothing in it.

    Attributes:
        kind: its name in the list.
        url: what an app is given.
        namespace: what an app is given, too; tests that share a server have one each.
    """

    kind: str
    url: str
    namespace: str | None = None

    @classmethod
    def of(cls, kind: str, request: pytest.FixtureRequest, folder: Path) -> Store:
        """Return an empty log of that kind."""
        if kind == MEMORY:
            return cls(kind, "memory:")
        if kind == "sqlite":
            return cls(kind, f"sqlite:///{folder / 'events.db'}")
        return cls(kind, request.getfixturevalue(_SERVERS[kind]), f"test-{os.urandom(6).hex()}")

    @property
    def is_shared(self) -> bool:
        """Whether several processes can use it."""
        return self.kind != MEMORY
