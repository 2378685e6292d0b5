"""Presence: how many subscribers a topic has on all workers of a log.

::

    a client comes or goes ──► share ──► presence: (an internal topic of the log) ──► each worker
                                                                                        │ sums
       clients of the presence topic ◄── the log ◄── once a second, one worker tells ◄──┘

A worker says what has changed at once, though at most every 0.2 s, and all of its counts every 5 s.
What was said 15 s ago no longer counts, so a dead worker's share is gone by then. What clients were
told is kept in the log by key. So a worker that starts after all others were killed tells clients
that nobody is there.

While nobody is anywhere, nothing is written.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

import msgspec
import trio

from flowstream._clock import chance, clock
from flowstream._errors import LogFullError, LogUnavailableError
from flowstream._event import Event
from flowstream.abc import Log, LogEntry, Record
from flowstream.ids._event_id import new_epoch
from flowstream.limits import Replay
from flowstream.tasks._retry import Backoff, Retry
from flowstream.topics._envelope import key_text, wrap
from flowstream.topics._log_reader import LogReader
from flowstream.topics._log_tail import LogTail
from flowstream.topics._presence_counts import WORKER_SECONDS, PresenceCounts, PresencePlace
from flowstream.topics._sender import Sender

logger = logging.getLogger("flowstream")

PRESENCE_TOPIC = "presence:"
"""The internal topic."""

_KEEP = Replay(items=100_000, seconds=WORKER_SECONDS, bytes=64 << 20)

# Seconds between two times that a worker says all of its counts.
_BEAT_SECONDS = 5.0
# The least seconds between two messages of a worker.
_PAUSE_SECONDS = 0.2
# The least seconds between two times that clients are told.
_ROUND_SECONDS = 1.0
# Places of one such time.
_ROUND_PLACES = 1000

_RETRY = Retry(first=0.2, longest=2.0)


class PresenceTopic(NamedTuple):
    """A topic of the log that is told who is where, as any worker can publish in it."""

    topic: str
    """Its name in the log."""
    items: int
    """`Replay.items` of it."""
    seconds: float | None
    """`Replay.seconds` of it; None for infinity."""
    bytes: int
    """`Replay.bytes` of it."""
    keyed: bool
    """Whether the log keeps its newest event of each key."""

    @property
    def keep(self) -> Replay:
        """How much of its past it keeps."""
        seconds = math.inf if self.seconds is None else self.seconds
        return Replay(items=self.items, seconds=seconds, bytes=self.bytes)


class _Message(msgspec.Struct, omit_defaults=True):
    """What one worker says."""

    worker: str
    into: list[PresenceTopic] = []
    """The presence topics that it names."""
    counts: dict[str, dict[str, int]] = {}
    """Subscribers by presence topic and topic."""
    all: bool = False
    """Whether these are all of its counts."""
    told: tuple[str, str, int] | None = None
    """A presence topic, a topic, and the sum that clients were told."""
    gone: bool = False
    """Whether it ends."""


_write = msgspec.json.encode
_read = msgspec.json.Decoder(_Message).decode


class Presence:
    """Who is where on all workers of one log, as this process says and hears it.

    Args:
        log: the log.
        start: starts a task that outlives the caller.
        stale: called when the tail has something to read.
        patience: seconds that a message waits while the log is away.

    Attributes:
        tail: hears what workers say.
    """

    def __init__(
        self,
        log: Log,
        start: Callable[[Callable[[], Awaitable[object]]], None],
        stale: Callable[[LogReader], None],
        patience: float,
    ) -> None:
        self.tail: LogTail = LogTail(PRESENCE_TOPIC, log, self._hear, self._miss, stale, past=True)
        # Ids sort by age, so that a worker that comes does not take over.
        self._counts = PresenceCounts(f"{new_epoch()}{chance.token_hex(4)}")
        self._log = log
        self._start = start
        self._patience = patience
        self._sender = Sender(PRESENCE_TOPIC, log, _KEEP, start, patience=patience)
        self._into: dict[str, PresenceTopic] = {}
        self._senders: dict[PresenceTopic, Sender] = {}
        self._changed: dict[PresencePlace, None] = {}  # own counts that were not said yet
        self._unsaid: dict[PresencePlace, int] = {}  # told to clients, and not to workers
        self._news = trio.lowlevel.ParkingLot()
        self._said = -math.inf  # when it last said something, and all
        self._said_all = -math.inf
        self._told = -math.inf  # when it last told clients
        self._leads_since: float | None = None
        self._has_left = False
        self._has_missed = False  # what other workers have told clients

    # -- what topics call ------------------------------------------------------------------

    def share(self, into: PresenceTopic, name: str, count: int) -> None:
        """Say that this worker has `count` subscribers of the topic `name`."""
        if self._has_left:
            return
        self._into[into.topic] = into
        place = into.topic, name
        self._counts.set_own(place, count, clock.current_time())
        self._changed[place] = None
        self._news.unpark_all()

    def total(self, into: PresenceTopic, name: str) -> int:
        """Return how many subscribers of a topic all workers have, as far as this one knows."""
        return self._counts.total((into.topic, name))

    # -- life ------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Read what clients were told last.

        Raises:
            LogUnavailableError: the log can't be read.
        """
        page = await self._log.latest(PRESENCE_TOPIC)
        while True:
            for record in page.records.values():
                self._hear(record)
            if page.cursor is None:
                return
            page = await self._log.latest(PRESENCE_TOPIC, page.cursor)

    async def run(self) -> None:
        """Say, hear and tell, until it is cancelled. `tail` must be followed."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._speak)
            nursery.start_soon(self._tell_clients)

    async def leave(self) -> None:
        """Say that this worker ends, with all its subscribers. **Waits** for the log."""
        counts, now = self._counts, clock.current_time()
        self._has_left = True
        if not (counts.in_use and math.isfinite(self._said)):
            return
        try:
            for place in list(counts.own):
                counts.set_own(place, 0, now)
            if counts.alive == 1 and counts.leads(now):
                await self._tell_round()
            await self._send([_Message(counts.me, gone=True)])
        except (LogUnavailableError, LogFullError, RuntimeError):
            pass  # or the log is closed already: the share expires

    # -- to other workers ------------------------------------------------------------------

    async def _speak(self) -> None:
        backoff = Backoff(_RETRY)
        while not self._has_left:
            now = clock.current_time()
            due = math.inf
            if self._changed:
                due = self._said + _PAUSE_SECONDS
            if self._counts.in_use:
                due = min(due, self._said_all + _BEAT_SECONDS)
            if now < due:
                await self._wait_until(due)
                continue
            try:
                await self._say(now)
            except Exception as error:  # noqa: BLE001  # whatever a log raises
                if backoff.failures == 0:
                    logger.error("other workers don't hear who is here: %s", error)
                await trio.sleep(backoff.fail(0.0))
            else:
                backoff = Backoff(_RETRY)

    async def _say(self, now: float) -> None:
        """Say what has changed; if it is time, all."""
        all = now >= self._said_all + _BEAT_SECONDS
        changed, self._changed = self._changed, {}
        said = dict(self._counts.own) if all else self._counts.own_of(changed)
        message = _Message(self._counts.me, self._named(said), _nested(said), all)
        try:
            await self._send([message])
        except BaseException:
            self._changed = {**changed, **self._changed}
            raise
        self._said = now
        if all:
            self._said_all = now

    def _named(self, places: Iterable[PresencePlace]) -> list[PresenceTopic]:
        return [self._into[topic] for topic in {topic for topic, _ in places}]

    async def _send(self, messages: list[_Message]) -> None:
        await self._sender.send(
            [
                LogEntry(_write(one), None if one.told is None else _key(one.told[:2]))
                for one in messages
            ]
        )

    # -- from other workers ----------------------------------------------------------------

    def _hear(self, record: Record) -> None:
        try:
            message = _read(record.data)
            for topic in message.into:
                _ = topic.keep  # or it could not be published in
        except (msgspec.MsgspecError, TypeError, ValueError):
            return  # a newer release says something else
        counts, worker = self._counts, message.worker
        for topic in message.into:
            self._into[topic.topic] = topic
        if message.gone:
            if worker != counts.me:
                counts.hear_gone(worker, clock.current_time())
        elif message.told is not None:
            into, name, total = message.told
            if worker != counts.me and into in self._into:
                counts.hear_told((into, name), max(0, total))
        else:
            stamp = clock.current_time() - record.age
            known = {
                (into, name): max(0, count)
                for into, names in message.counts.items()
                if into in self._into
                for name, count in names.items()
            }
            counts.hear(worker, known, all=message.all, stamp=stamp)
        self._news.unpark_all()

    def _miss(self) -> None:
        self._has_missed = True

    # -- to clients ------------------------------------------------------------------------

    async def _tell_clients(self) -> None:
        backoff = Backoff(_RETRY)
        while not self._has_left:
            now = clock.current_time()
            due = self._next_round(now)
            if now < due:
                await self._wait_until(due if due < math.inf else self._next_look(now))
                continue
            try:
                await self._tell_round()
            except Exception as error:  # noqa: BLE001  # whatever a log raises
                if backoff.failures == 0:
                    logger.error("clients are not told yet who is here: %s", error)
                await trio.sleep(backoff.fail(0.0))
            else:
                backoff = Backoff(_RETRY)

    def _next_round(self, now: float) -> float:
        """Return when to tell clients; infinity if there is nothing to tell, or another does."""
        counts = self._counts
        counts.expire(now)
        if not counts.leads(now):
            self._leads_since = None
            return math.inf
        if self._leads_since is None:
            self._leads_since = now
        if not (counts.pending or self._unsaid or self._has_missed):
            return math.inf
        due = self._told + _ROUND_SECONDS
        if counts.alive > 1:  # what the last one has told may be on its way
            due = max(due, self._leads_since + _ROUND_SECONDS)
        return due

    def _next_look(self, now: float) -> float:
        """Return when to look for workers that are dead."""
        return now + _ROUND_SECONDS if self._counts.in_use else math.inf

    async def _tell_round(self) -> None:
        """Publish the sums that clients do not know yet, and say so to the other workers."""
        counts = self._counts
        self._told = clock.current_time()
        if self._has_missed:
            self._has_missed = False
            try:
                await self.prepare()
            except BaseException:
                self._has_missed = True
                raise
        places: dict[PresenceTopic, dict[str, int]] = {}
        for place in list(counts.pending)[:_ROUND_PLACES]:
            topic = self._into.get(place[0])
            if topic is not None:
                places.setdefault(topic, {})[place[1]] = counts.total(place)
        # If this worker is killed here or there, the log still has a sum above 0 where clients
        # have one. So a worker that starts later tells them that nobody is there.
        sums = {
            (topic.topic, name): total for topic in places for name, total in places[topic].items()
        }
        await self._say_told({place: total for place, total in sums.items() if total})
        for topic, totals in places.items():
            entries = [self._entry(topic, name, total) for name, total in totals.items()]
            await self._sender_of(topic).send(entries)
            for name, total in totals.items():
                counts.hear_told((topic.topic, name), total)
                if not total:
                    self._unsaid[topic.topic, name] = 0
        unsaid, self._unsaid = self._unsaid, {}
        try:
            await self._say_told(unsaid)
        except BaseException:
            self._unsaid = {**unsaid, **self._unsaid}
            raise

    async def _say_told(self, sums: dict[PresencePlace, int]) -> None:
        """Say to the other workers what clients are told."""
        if sums:
            await self._send(
                [
                    _Message(self._counts.me, self._named([place]), told=(*place, total))
                    for place, total in sums.items()
                ]
            )

    def _entry(self, topic: PresenceTopic, name: str, total: int) -> LogEntry:
        grown = total >= self._counts.told((topic.topic, name))
        type = "join" if total and grown else "leave"
        event = Event({"topic": name, "subscribers": total}, type=type, key=name)
        return LogEntry(wrap(event), key_text(name) if topic.keyed else None)

    def _sender_of(self, topic: PresenceTopic) -> Sender:
        found = self._senders.get(topic)
        if found is None:
            found = self._senders[topic] = Sender(
                topic.topic, self._log, topic.keep, self._start, patience=self._patience
            )
        return found

    async def _wait_until(self, deadline: float) -> None:
        """**Wait** for news, or until then."""
        with trio.move_on_at(deadline):
            await self._news.park()


def _key(place: tuple[str, str]) -> str:
    """Return the log's key of a place: both names may be as long as a key."""
    return hashlib.blake2b("\0".join(place).encode(), digest_size=16).hexdigest()


def _nested(counts: dict[PresencePlace, int]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for (into, name), count in counts.items():
        found.setdefault(into, {})[name] = count
    return found
