"""A process that publishes, and says on its standard output what it does and what became of it.

==========================  ==============================================================
line                        it says
==========================  ==============================================================
``at URL``                  it serves streams there
``sent TOPIC NAME``         it is about to publish this
``once TOPIC NAME``         likewise, with an idempotency key
``soon TOPIC NAME``         likewise, without waiting
``ok TOPIC ID NAME``        it was acknowledged
``maybe TOPIC NAME``        it may be in the log
``not TOPIC NAME``          it is not in the log
``done``                    it has published all that it should, and closed the log
==========================  ==============================================================

A line is one write, so what was said stays said when it is killed.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import trio

import flowstream
from flowstream import Topic
from flowstream._event import Event
from flowstream.logs import LogUnavailableError
from flowstream.server import streaming_config

from .plan import TOPICS, Role
from .streams import disguised, make_app, open_topics
from .texts import check_text, key_of, make_text

_LANES = 6

# Seconds that a key is remembered: more than all dates together that a reboot may skip.
_REMEMBERED = 50 * 366 * 86400.0


def say(*words: str) -> None:
    """Write one line."""
    os.write(1, f"{' '.join(words)}\n".encode())


class Publisher:
    """Publishes so many events, in several lanes at once.

    Args:
        role: of this process.
        topics: by name.
    """

    def __init__(self, role: Role, topics: dict[str, Topic]) -> None:
        self._role = role
        self._topics = topics
        self._left = role.events

    async def run(self) -> None:
        """Publish all of them, and first what the last life left open."""
        async with trio.open_nursery() as nursery:
            for topic, text in self._role.again:
                nursery.start_soon(self._once, topic, text)
        async with trio.open_nursery() as nursery:
            for lane in range(_LANES):
                nursery.start_soon(self._lane, lane)

    async def _lane(self, lane: int) -> None:
        dice = random.Random(f"{self._role.seed} {self._role.name} {lane}")
        number = 0
        while self._left > 0 and time.monotonic() < self._role.until:
            way = dice.choices((self._one, self._many, self._once, self._soon), (12, 4, 4, 2))[0]
            count = min(dice.randint(2, self._role.batch), self._left) if way == self._many else 1
            self._left -= count
            topic = dice.choice(TOPICS)
            texts = [
                make_text(self._role.name, lane, number + place, dice.randrange(120))
                for place in range(count)
            ]
            number += count
            await way(topic, *texts)
            await trio.sleep(dice.expovariate(self._role.pace / _LANES / count))

    async def _one(self, topic: str, text: str) -> None:
        say("sent", topic, check_text(text))
        await self._tell(
            topic, [text], partial(self._topics[topic].publish, text, key=_key(topic, text))
        )

    async def _many(self, topic: str, *texts: str) -> None:
        for text in texts:
            say("sent", topic, check_text(text))
        events = [Event(text, key=_key(topic, text)) for text in texts]
        ids = await self._tell(topic, texts, partial(self._topics[topic].publish_many, events))
        numbers = [int(id.partition(".")[2][1:]) for id in ids]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if ids else True, ids

    async def _once(self, topic: str, text: str) -> None:
        """Publish with an idempotency key, again and again until it is acknowledged."""
        name = check_text(text)
        say("once", topic, name, text.partition(" ")[2])
        publish = partial(
            self._topics[topic].publish,
            text,
            key=_key(topic, text),
            idempotency_key=name,
            idempotency_seconds=_REMEMBERED,
        )
        while not await self._tell(topic, [text], publish):  # noqa: ASYNC110  # it calls again
            await trio.sleep(0.05)

    async def _soon(self, topic: str, text: str) -> None:
        name = check_text(text)
        say("soon", topic, name)

        def lost(event: Event, error: Exception) -> None:
            assert event.data == text
            maybe = isinstance(error, LogUnavailableError) and error.maybe
            say("maybe" if maybe else "not", topic, name)

        try:
            self._topics[topic].publish_soon(text, key=_key(topic, text), on_lost=lost)
        except trio.WouldBlock:
            say("not", topic, name)
        await trio.lowlevel.checkpoint()

    async def _tell(self, topic: str, texts: Sequence[str], publish: Any) -> list[str]:
        """Publish, and say what became of it; return the ids."""
        names = [check_text(text) for text in texts]
        try:
            ids = await publish()
        except LogUnavailableError as error:
            for name in names:
                say("maybe" if error.maybe else "not", topic, name)
            if not error.maybe:
                self._left += len(names)
            return []
        ids = [ids] if isinstance(ids, str) else ids
        for id, name in zip(ids, names, strict=True):
            say("ok", topic, id, name)
        return ids


def _key(topic: str, text: str) -> str | None:
    return key_of(text) if topic == "keyed" else None


async def _serve(topics: dict[str, Topic], *, task_status: Any) -> None:
    app = make_app(topics)
    config = streaming_config(bind=["127.0.0.1:0"], graceful_timeout=0.5)
    await flowstream.serve(
        app, config, shutdown_trigger=trio.sleep_forever, task_status=task_status
    )


async def main() -> None:
    role, log = disguised()
    async with open_topics(log, role.batch) as topics, trio.open_nursery() as nursery:
        if role.serves:
            (url,) = await nursery.start(_serve, topics)
            say("at", url)
        await Publisher(role, topics).run()
        nursery.cancel_scope.cancel()
    say("done")


if __name__ == "__main__":
    trio.run(main)
