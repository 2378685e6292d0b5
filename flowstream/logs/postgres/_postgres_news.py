"""News: notifications become hints.

::

    NOTIFY ──► `hear`: which topics have news ──► `work`: `flowstream.follow` ──► hints
    own appends ──► `add`, with what was appended ──────────────────────────────► hints

A notification says a topic's number, its epoch and the number of its newest event, and not the
event: any role of the database may send one, and so can cause no more than a read too many. What
comes while a read is under way is read by the next one, for many topics at once.

The number of a topic is the server's. Another server, or the same one from an older copy, may have
given it to another topic. So behind each new connection the numbers are learned anew.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import suppress

import trio

from flowstream._errors import LogUnavailableError
from flowstream.abc import Hint, LogEntry, Record, Stale
from flowstream.logs._append_arguments import PAGE_BYTES, batches
from flowstream.logs._epochs import epoch_at, epochs_from_text
from flowstream.logs.postgres import _binary_values as binary
from flowstream.logs.postgres import _statements as sql
from flowstream.logs.postgres._postgres_link import PostgresLink
from flowstream.logs.postgres._pq_connection import Row

# Topics that are read at once, and records of them.
_BATCH_TOPICS = 512
_BATCH_RECORDS = 1024
# Numbers of topics that nobody here watches which are remembered, so as not to ask for their names.
_STRANGERS = 10_000


class PostgresNews:
    """The topics that are watched, and what was heard of them. Its owner runs `work`.

    Args:
        link: the connection to read over.
        patience: seconds that a read may take.
        hint: see `flowstream.abc.Log.run`.
        stale: see `flowstream.abc.Log.run`.
    """

    def __init__(self, link: PostgresLink, patience: float, hint: Hint, stale: Stale) -> None:
        self._link = link
        self._patience = patience
        self._hint = hint
        self._stale = stale
        self._watched: set[str] = set()
        self._names: dict[int, str] = {}  # {number of a topic: its name}, of watched ones
        self._numbers: dict[str, int] = {}  # the other way round
        self._told: dict[int, int] = {}  # {number of a topic: the newest event in a hint}
        self._strangers: OrderedDict[int, str] = OrderedDict()  # {number: name or ""}
        self._due: OrderedDict[int, None] = OrderedDict()  # topics that have news
        self._learns = False  # whether numbers have to be learned anew
        self._news = trio.Event()

    async def watch(self, topics: Iterable[str]) -> None:
        """Hear of these topics from now on; **wait** until their numbers are known.

        Raises:
            LogUnavailableError: the server is away.
        """
        names = [name for name in topics if name not in self._numbers]
        self._watched.update(names)
        if names:
            self._welcome()
            await self._ask_numbers(names)
        else:
            await trio.lowlevel.checkpoint()

    def unwatch(self, topics: Iterable[str]) -> None:
        """Hear of these topics no more."""
        for name in topics:
            self._watched.discard(name)
            if name in self._numbers:
                self._lose(self._numbers[name])

    def learn_anew(self) -> None:
        """Forget the numbers of all topics, and have `work` ask for them."""
        self._learns = True
        self._names.clear()
        self._numbers.clear()
        self._told.clear()
        self._strangers.clear()
        self._due.clear()
        self._news.set()

    def hear(self, payload: str) -> None:
        """Hear a notification. Anybody may have sent it."""
        words = payload.split(" ")
        if not all(word.isascii() and word.isdecimal() for word in words[::2]):
            return
        numbers = [int(word) for word in words[::2]]
        if numbers == [0]:
            self._stale(None)
        elif len(words) == 3:
            topic, newest = numbers
            if self._told.get(topic, -1) < newest:
                self._look_at(topic)
        elif len(words) == 1:
            if numbers[0] in self._names:
                # It may be another topic by now, with another number.
                self._stale(self._lose(numbers[0]))
            self._look_at(numbers[0])

    def add(
        self, topic: str, number: int, first: int, epoch: str, entries: Sequence[LogEntry]
    ) -> None:
        """Tell what this process has appended itself: all of `entries`, and nothing else."""
        if topic not in self._watched or self._learns:
            return
        if topic not in self._numbers:
            self._name(number, topic, first - 1)
            if first > 1:
                self._stale(topic)  # others were faster, and it was not heard of
        if self._numbers[topic] == number and self._told[number] == first - 1:
            self._told[number] = first - 1 + len(entries)
            records = [Record(epoch, first + at, one.data) for at, one in enumerate(entries)]
            self._hint(topic, first - 1, records)
        else:
            self._look_at(number)

    async def work(self) -> None:
        """Read what there is news of, until this is cancelled."""
        while True:
            await self._news.wait()
            self._news = trio.Event()
            while self._learns or self._due:
                if self._learns:
                    await self._learn_numbers()
                count = min(len(self._due), _BATCH_TOPICS)
                await self._read([self._due.popitem(last=False)[0] for _ in range(count)])

    async def _learn_numbers(self) -> None:
        """Ask for the numbers of all topics, and say that there may be news of each.

        What was appended meanwhile is not heard of. So it is said again of what is behind it.
        """
        self._learns = False
        names = sorted(self._watched)
        for some in batches(names):
            with suppress(LogUnavailableError):  # they are learned with their next notification
                await self._ask_numbers(some)
            if self._learns:
                return
        if names:
            self._stale(None)

    async def _ask_numbers(self, names: Sequence[str]) -> None:
        rows = await self._link.call(sql.IDS, [binary.text_array(names)], patience=self._patience)
        self._learn(rows)

    async def _read(self, topics: Sequence[int]) -> None:
        try:
            await self._introduce([one for one in topics if one not in self._names])
            await self._follow([one for one in topics if one in self._names])
        except LogUnavailableError:
            # What was not read is found by a comparison of heads.
            for one in topics:
                if one in self._names:
                    self._stale(self._names[one])

    def _look_at(self, topic: int) -> None:
        if topic in self._names or (
            len(self._numbers) < len(self._watched) and topic not in self._strangers
        ):
            self._due[topic] = None
            self._news.set()

    async def _introduce(self, topics: Sequence[int]) -> None:
        """Find out which of these topics are watched by name."""
        if not topics:
            return
        rows = await self._link.call(
            sql.NAMES, [binary.int8_array(topics)], patience=self._patience
        )
        if self._learns:
            return  # they may be from another server
        self._strangers.update(dict.fromkeys(topics, ""))
        self._strangers.update((number, name) for number, name, *_ in rows)
        for number, name, *_ in rows:
            if name in self._watched:
                del self._strangers[number]
        self._learn(rows, from_before=True)
        while len(self._strangers) > _STRANGERS:
            self._strangers.popitem(last=False)

    def _welcome(self) -> None:
        """Take those that are watched, or may be, for strangers no longer."""
        for number in [
            one for one, name in self._strangers.items() if not name or name in self._watched
        ]:
            del self._strangers[number]

    def _learn(self, rows: Sequence[Row], *, from_before: bool = False) -> None:
        """Note the numbers of topics; those that are new here have news from their beginning."""
        for number, name, epochs, head in rows:
            if name in self._watched and name not in self._numbers:
                first = epochs_from_text(epochs)[0][1]
                self._name(number, name, first - 1 if from_before else head)

    def _name(self, number: int, name: str, told: int) -> None:
        self._strangers.pop(number, None)
        self._numbers[name] = number
        self._names[number] = name
        self._told[number] = told

    def _lose(self, number: int) -> str:
        """Forget the number of a watched topic; return the topic's name."""
        name = self._names.pop(number)
        del self._numbers[name], self._told[number]
        self._due.pop(number, None)
        return name

    async def _follow(self, topics: Sequence[int]) -> None:
        if not topics:
            return
        rows = await self._link.call(
            sql.FOLLOW,
            [
                binary.int8_array(topics),
                binary.int8_array([self._told.get(one, 0) for one in topics]),
                binary.int4(_BATCH_RECORDS),
                binary.int8(PAGE_BYTES),
            ],
            patience=self._patience,
        )
        if self._learns:
            return  # they may be from another server, where these are other topics
        heads: dict[int, tuple[str | None, int]] = {}
        found: dict[int, list[tuple[int, float, bytes]]] = {}
        for topic, epochs, head, number, age, data in rows:
            if number is None:
                heads[topic] = epochs, head
                found[topic] = []
            else:
                found[topic].append((number, age, data))
        for topic, (epochs, head) in heads.items():
            if topic in self._names:
                self._tell(topic, epochs, head, found[topic])

    def _tell(
        self,
        topic: int,
        epochs: str | None,
        head: int,
        found: Sequence[tuple[int, float, bytes]],
    ) -> None:
        """Make a hint of what was read of a topic."""
        if epochs is None:
            self._stale(self._lose(topic))
            return
        name, told = self._names[topic], self._told[topic]
        stretches = epochs_from_text(epochs)
        records = [
            Record(epoch_at(stretches, number), number, data, age)
            for number, age, data in found
            if number > told
        ]
        if records:
            self._told[topic] = records[-1].number
            self._hint(name, records[0].number - 1, records)
            if records[-1].number < head:
                self._look_at(topic)
        elif head < told or (head > told and not found):
            # The log was set back; or they did not fit, or are not kept any more.
            self._told[topic] = head
            self._stale(name)
