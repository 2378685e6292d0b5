"""Conflate and resume: wherever the connection is cut, nothing is lost without a gap.

Under `Conflate` an event may overtake one of a lower number. Each test here cuts a slow client's
connection after each of the events that it got, comes back with the id that the client has then,
and looks at what it has got in both connections together.
"""

from __future__ import annotations

import json

import pytest
import trio.testing

from flowstream import Conflate, Replay, Topic, sse
from flowstream.testing import open_stream


async def publish(topic, program, first=0):
    """Publish one event for each letter, its key; a capital is essential."""
    for number, key in enumerate(program, first):
        await topic.publish(number, key=key.lower(), essential=key.isupper())


async def read(client, until):
    """Return (type, data, id) of what comes, up to the event with the number `until`."""
    pieces = []
    while not pieces or pieces[-1][:2] != ("message", until):
        event = await client.next_event()
        pieces.append((event.type, json.loads(event.data), event.id))
    return pieces


def account(pieces):
    """Return the numbers that came, how many were said to be missing, and the last id."""
    numbers = {data for kind, data, _ in pieces if kind == "message"}
    missed = sum(data["missed"] for kind, data, _ in pieces if kind == "gap")
    ids = [id for *_, id in pieces if id]
    return numbers, missed, ids[-1] if ids else None


OVER = 1000
PROGRAMS = ["abab", "aba", "abcabcacb", "abBa", "aabbccabc", "aAbBab", "abcdefabcdef", "baaaab"]


@pytest.mark.parametrize("buffer", [3, 64])
@pytest.mark.parametrize("before", ["", "z"], ids=["from its first event", "from an id"])
@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_cut_anywhere_loses_nothing_without_a_gap(program, before, buffer, autojump_clock):
    """An id is given only behind what the client has, and the first thing it is given has one."""
    topic = Topic("prices", replay=Replay(items=100))
    stream = sse(topic, policy=Conflate(), buffer=buffer)
    async with open_stream(stream, window=0) as client:
        await trio.testing.wait_all_tasks_blocked()
        # One that waits is written to at once; what comes after it is queued.
        await publish(topic, before)
        await trio.testing.wait_all_tasks_blocked()
        await publish(topic, program, len(before))
        client.resume()
        await trio.testing.wait_all_tasks_blocked()
        await topic.publish(OVER)
        pieces = await read(client, OVER)
    published = set(range(len(before) + len(program))) | {OVER}
    for cut in range(1, len(pieces) + 1):
        got, missed, last = account(pieces[:cut])
        if pieces[cut - 1][0] == "gap":
            continue  # the event that it stands in front of was in the same write
        assert last is not None, f"it got {got}, and would come back as a new client"
        headers = {"last-event-id": last}
        again, missed_again = set(), 0
        if last != pieces[-1][2]:
            async with open_stream(sse(topic, policy=Conflate()), headers=headers) as client:
                again, missed_again, _ = account(await read(client, OVER))
        lost = published - got - again
        assert len(lost) <= missed + missed_again, f"cut after {pieces[:cut]}: {lost} are lost"
