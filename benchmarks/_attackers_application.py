"""Attacks on parts of flowstream: topics, snapshots, sources."""

from __future__ import annotations

from itertools import count

from _attackers import Aim, attack

_names = count()


def get(path: bytes) -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"


@attack(50, hypercorn=False)
async def made_up_topics(aim: Aim) -> None:
    """Streams of topics whose names are made up, left at once."""
    wire = await aim.connect()
    await wire.send(get(b"/topics/%d" % next(_names)))
    await wire.receive()


@attack(20, hypercorn=False)
async def made_up_topics_by_head(aim: Aim) -> None:
    """HEADs of made-up topics on one connection."""
    wire = await aim.connect()
    for _ in range(500):
        await wire.send(b"HEAD /topics/%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % next(_names))
        await wire.until(b"\r\n\r\n")


@attack(60, hypercorn=False, asks="/file", prepares="/file")
async def stuck_generators(aim: Aim) -> None:
    """Generators that block are opened and left, while others read a file."""
    wire = await aim.connect()
    await wire.send(get(b"/blocking"))
    await wire.receive()


@attack(10, hypercorn=False, prepares="/latest")
async def snapshots_of_10000_keys(aim: Aim) -> None:
    """A snapshot of 10,000 keys is read, and again, while events are published."""
    wire = await aim.connect()
    await wire.send(get(b"/latest"))
    await wire.until(b"\n\n")


@attack(200, hypercorn=False, prepares="/hang")
async def hung_snapshot(aim: Aim) -> None:
    """Streams of a topic whose snapshot function hangs."""
    wire = await aim.connect()
    await wire.send(get(b"/hang"))
    await wire.hold()
