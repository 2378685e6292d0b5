"""A process that does one thing to the log, and prints what it found as JSON.

``heads`` gives the position of each topic, ``epochs TOPIC ...`` the epochs of each, ``last TEXT``
publishes an event in each, ``trim TOPIC ITEMS`` has a topic keep no more, ``versions TOPIC`` counts
the envelopes by version.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Any

import msgspec
import trio

from flowstream import Replay
from flowstream.logs import open_log

from .streams import disguised, open_topics
from .texts import key_of


async def main(what: str, *arguments: str) -> None:
    role, log = disguised()
    found: Any = None
    if what == "heads":
        async with open_topics(log, role.batch) as topics:
            found = {name: await topic.position() for name, topic in topics.items()}
    elif what == "last":
        (text,) = arguments
        async with open_topics(log, role.batch) as topics:
            found = {
                name: await topic.publish(text, key=key_of(text) if name == "keyed" else None)
                for name, topic in topics.items()
            }
    elif what == "epochs":
        async with open_log(role.url) as opened:
            heads = await opened.heads([f"topic:{topic}" for topic in arguments])
            found = {topic: heads[f"topic:{topic}"].epochs for topic in arguments}
    else:
        topic, *rest = arguments
        async with open_log(role.url) as opened:
            if what == "trim":
                found = await opened.trim(f"topic:{topic}", Replay(items=int(*rest)))
            else:
                found = await _count_versions(opened, f"topic:{topic}")
    sys.stdout.write(f"{json.dumps(found)}\n")


async def _count_versions(log: Any, topic: str) -> dict[int, int]:
    head = (await log.heads([topic]))[topic]
    after = head.epochs[-1][0], head.first - 1
    versions: Counter[int] = Counter()
    while True:
        _, _, records = await log.read(topic, after, 1000)
        if not records:
            return versions
        versions.update(msgspec.msgpack.decode(record.data)[0] for record in records)
        after = records[-1].epoch, records[-1].number


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
