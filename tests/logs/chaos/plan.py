"""What one run of the chaos ledger does. All that is left to chance follows from the seed."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass
from typing import Any

_OF_PROCESSES = (
    "kill a worker",
    "kill a publisher",
    "freeze a worker",
    "freeze a publisher",
    "trim",
    "restart a worker",
    "hand over",
)
_OF_A_MACHINE = ("set the clock", "fill the disk", "set a quota", "reboot")
_OF_A_BROKER = (
    "kill the broker",
    "freeze the broker",
    "lose the tail",
    "cut sessions",
    "refuse writes",
    "fail over in step",
    "fail over behind",
    "split the brain",
)
_OF_VALKEY = (*_OF_PROCESSES, *_OF_A_BROKER, "flush the broker")

FAULTS = {
    "sqlite": (*_OF_PROCESSES, *_OF_A_MACHINE),
    "valkey": _OF_VALKEY,
    "redis": _OF_VALKEY,
    "postgres": (*_OF_PROCESSES, *_OF_A_BROKER, "lose the tail unseen"),
}
"""The names of all faults, by log; see `faults` and `broker_faults`."""

TOPICS = ("plain", "keyed", "small")


@dataclass(frozen=True)
class Plan:
    """One run. `Plan.over` gives one with the sizes that are usual for its log."""

    seed: int
    events: int
    """Events that are to be acknowledged, or may be in the log."""
    log: str = "sqlite"
    """Its kind: "sqlite", "valkey", "redis" or "postgres"."""
    query: str = ""
    """Of the log's URL."""
    faults: tuple[str, ...] = FAULTS["sqlite"]
    """Which faults there are. Each happens once, before any happens twice."""
    breaks: int = 14
    """How many faults happen."""
    workers: int = 3
    publishers: int = 2
    clients: int = 30
    pace: float = 3000.0
    """Events a second of all publishers together, at most."""
    batch: int = 50
    """The most events that are published at once."""
    seconds: float = math.inf
    """Seconds after which no more is published."""
    disk: int = 96 << 20
    """Bytes of the log's disk."""
    releases: tuple[int, ...] = (1,)
    """Versions of the envelope that processes write: each new process draws one."""
    planted: str = ""
    """A fault planted in publisher 0 or worker 1, which the ledger must find; see `disguise`."""
    freeze: float = 3.0
    """Seconds for which a broker is frozen, at most."""
    verbose: bool = False
    """Whether it says what it does while it does it."""

    @classmethod
    def over(cls, log: str, seed: int, events: int, **changes: Any) -> Plan:
        """Return a plan over this log: all its faults, and more clients over a broker."""
        usual: dict[str, Any] = {"faults": FAULTS[log]}
        if log != "sqlite":
            # A broker is away for seconds: there are events left for each fault.
            usual |= {"publishers": 3, "clients": 60, "breaks": len(FAULTS[log]), "pace": 600.0}
        return cls(seed, events, log, **{**usual, **changes})


@dataclass(frozen=True)
class Role:
    """What one process is told, in its environment."""

    name: str
    """Of this life of the process: no other has it."""
    url: str
    clock: str
    """Path of the file that says which time it is; see `disguise`."""
    seed: str
    release: int = 1
    planted: str = ""
    events: int = 0
    pace: float = 0.0
    batch: int = 2
    until: float = math.inf
    """When it stops, on the clock that only goes forward."""
    again: tuple[tuple[str, str], ...] = ()
    """(topic, text) of events with an idempotency key whose fate the last life did not learn."""
    home: str = "starlette"
    """What a worker's app is made with; else "quart"."""
    serves: bool = False
    """Whether a publisher also serves streams."""

    def environment(self) -> dict[str, str]:
        """Return the environment of its process."""
        given = {**os.environ, "CHAOS_ROLE": json.dumps(asdict(self)), "PYTHONFAULTHANDLER": "1"}
        given.pop("PYTHONDONTWRITEBYTECODE", None)  # else each process compiles all anew
        return given

    @classmethod
    def mine(cls) -> Role:
        """Return the role of this process."""
        given = json.loads(os.environ["CHAOS_ROLE"])
        given["again"] = tuple((topic, text) for topic, text in given["again"])
        return cls(**given)
