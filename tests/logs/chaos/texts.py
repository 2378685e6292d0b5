"""The bodies of events: each says which event it is, and nobody can mistake it for another."""

from __future__ import annotations

from zlib import crc32

KEYS = 50
"""Keys of the events of a topic that keeps the newest by key."""


def make_text(life: str, lane: int, number: int, size: int) -> str:
    """Return the body of event `number` of a lane of a process's life."""
    name = f"{life}/{lane}/{number}"
    return f"{name} {crc32(name.encode()):08x} {'.' * size}"


def check_text(text: str) -> str:
    """Return the name of the event that a body is of; raise ValueError if it is of none."""
    name, check, rest = text.split(" ")
    if f"{crc32(name.encode()):08x}" != check or rest.strip("."):
        raise ValueError(f"no event has this body: {text[:80]!r}")
    return name


def lane_of(name: str) -> tuple[str, int]:
    """Return the lane that an event is of, and its number there."""
    lane, _, number = name.rpartition("/")
    return lane, int(number)


def passes(text: str) -> bool:
    """Return whether a filtered client wants an event, by its body or its name."""
    return int(text.partition(" ")[0].rpartition("/")[2]) % 3 == 0


def key_of(text: str) -> str:
    """Return the key of an event, by its body or its name."""
    return f"key {int(text.partition(' ')[0].rpartition('/')[2]) % KEYS}"
