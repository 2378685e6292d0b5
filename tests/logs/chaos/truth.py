"""What was sent, what was acknowledged, and under which id each event was seen."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import trio

from .texts import check_text, key_of, lane_of, passes

if TYPE_CHECKING:
    from .account import Account

_ID = re.compile(r"([0-9a-v]{11}0{0,5})\.([a-r])(0|[1-9][0-9]*)")


class LedgerError(AssertionError):
    """The log, or what stands before it, has broken a promise."""


class Place(NamedTuple):
    """An event's place, as its id says it. Places sort as events do."""

    epoch: str
    number: int

    @classmethod
    def of(cls, id: str) -> Place:
        """Read an id."""
        found = _ID.fullmatch(id)
        if found is None or len(found[3]) != ord(found[2]) - ord("a") + 1:
            raise LedgerError(f"{id!r} is not the id of an event")
        return cls(found[1], int(found[3]))


class TopicTruth:
    """What is known of one topic.

    Args:
        name: of the topic.
        rolls_back: whether its log may forget its end, and then begins a new epoch.

    Attributes:
        splits: whether the log has been in two servers at once.
        set_back: places behind which a client was told that the log has less.
    """

    def __init__(self, name: str, *, rolls_back: bool) -> None:
        self.name = name
        self.rolls_back = rolls_back
        self.splits = False  # two servers may take writes at once
        self.set_back: list[Place] = []
        self.epochs: set[str] = set()  # all that were seen
        self._known: dict[str, int] = {}  # the first number of each epoch, as the log says
        self.sent: set[str] = set()
        self.once: dict[str, str] = {}  # {name: the rest of its text}, with an idempotency key
        self.soon: set[str] = set()
        self.acknowledged: dict[str, Place] = {}
        self.refused: set[str] = set()  # it was said that they are not in the log
        self.names: dict[Place, str] = {}
        self.places: dict[str, Place] = {}
        self.uncertain: set[str] = set()  # it was said that they may be there
        self._earlier: list[tuple[str, Place, Place]] = []  # the same event under two ids
        self.snapshots: dict[tuple[Place, str], list[str]] = {}
        self.last: Place | None = None  # of the event behind all others

    def note(self, place: Place, name: str) -> None:
        """An event was acknowledged, or seen, under this id."""
        self.epochs.add(place.epoch)
        known = self.names.setdefault(place, name)
        if known != name:
            raise LedgerError(f"one id for two events in {self.name}: {place} {known} {name}")
        before = self.places.setdefault(name, place)
        if before != place:
            if not self.rolls_back or before.epoch == place.epoch:
                raise LedgerError(f"two ids for one event in {self.name}: {name} {before} {place}")
            # It was lost before its publisher heard of it, and published again.
            low, high = sorted((before, place))
            self._earlier.append((name, low, high))
            self.places[name] = high

    def note_epochs(self, epochs: list[Place]) -> None:
        """The log says that it has these epochs, each with its first number."""
        for epoch, first in epochs:
            known = self._known.setdefault(epoch, first)
            if known != first:
                raise LedgerError(f"epoch {epoch} of {self.name} begins at {known} and at {first}")

    def is_lost(self, place: Place, by: str) -> bool:
        """Return whether an event is no more in the log when the epoch `by` has begun."""
        return any(
            place.epoch < epoch <= by and number <= place.number for epoch, number in self._firsts
        )

    def snapshot(self, place: Place, entries: list[tuple[str, str]]) -> None:
        """A client got a snapshot as of this place: (key, name) of each event in it."""
        for key, name in entries:
            if key_of(name) != key:
                raise LedgerError(f"{name} is in a snapshot under another key, {key}")
        names = sorted(name for _, name in entries)
        self.snapshots.setdefault((place, " ".join(names)), names)

    # -- the verdict -----------------------------------------------------------------------

    def verify(self) -> None:
        """Check what can be checked once everything is over."""
        if appeared := self.refused & self.places.keys():
            raise LedgerError(f"it was said that they are not in {self.name}: {sorted(appeared)}")
        if strangers := set(self.names.values()) - self.sent:
            raise LedgerError(f"nobody sent what was seen in {self.name}: {sorted(strangers)[:5]}")
        self._find_firsts()
        for name, low, high in self._earlier:
            if not self.is_lost(low, high.epoch):
                raise LedgerError(f"two ids for one event in {self.name}: {name} {low} {high}")
        for place in self.set_back:
            if not self.is_lost(place, max(self.epochs)):
                raise LedgerError(f"{place} of {self.name} is there, and a client was set back")
        self._verify_order()
        self._verify_snapshots()

    def _find_firsts(self) -> None:
        """Find the first number of each epoch; where the log no longer knows it, that seen."""
        firsts: dict[str, int] = {}
        for place in self.names:
            firsts[place.epoch] = min(place.number, firsts.get(place.epoch, place.number))
        self._firsts = sorted({**firsts, **self._known}.items())

    def _verify_order(self) -> None:
        """Each lane sends one event after the other.

        One that it gave up waiting for may still be on its way to a broker.
        """
        lanes: dict[str, list[tuple[int, Place]]] = defaultdict(list)
        for name, place in self.places.items():
            lane, number = lane_of(name)
            lanes[lane].append((number, place))
        for lane, events in lanes.items():
            events.sort()
            for (one, before), (other, after) in pairwise(events):
                again = (self.once.keys() | self.uncertain) & {f"{lane}/{one}", f"{lane}/{other}"}
                if after < before and not again:
                    raise LedgerError(f"order in {self.name}: {lane}, {one} came behind {other}")

    def _verify_snapshots(self) -> None:
        by_key: dict[str, list[Place]] = defaultdict(list)
        for place, name in sorted(self.names.items()):
            by_key[key_of(name)].append(place)
        for (place, _), names in self.snapshots.items():
            found = {key_of(name): name for name in names}
            for key, places in by_key.items():
                count = bisect_right(places, place)
                while count and self.is_lost(places[count - 1], place.epoch):
                    count -= 1
                due = self.names[places[count - 1]] if count else None
                name = found.get(key)
                # One that nobody has seen otherwise may be newer than all that are known.
                if name != due and (name is None or name in self.places):
                    raise LedgerError(
                        f"a snapshot of {self.name} as of {place} has {name} for {key}, not {due}"
                    )
            for name in names:
                if name not in self.sent:
                    raise LedgerError(f"nobody sent {name}, which is in a snapshot")

    def verify_account(self, account: Account) -> int:
        """Check one client's account; return how many acknowledged events its gaps have."""
        places = self._sorted
        end = self.last
        assert end is not None
        if account.first is None:
            return 0  # it came new, and nothing came while it was there
        if account.last is None or account.last < end:
            raise LedgerError(f"{account} never came to the last event, {end}")
        received = account.received_places()
        in_gaps = 0
        for place in places[bisect_right(places, account.first) :]:
            if place in received or (account.filtered and not passes(self.names[place])):
                continue
            if not account.excused(place):
                raise LedgerError(
                    f"lost in silence: {account} never got {place} {self.names[place]}"
                )
            in_gaps += 1
        if account.filtered:
            self._verify_counts(account)
        return in_gaps

    def _verify_counts(self, account: Account) -> None:
        """Check how many wanted events the gaps of a filtered client say were left out."""
        for low, high, missed in account.gaps:
            if missed is None or low.epoch != high.epoch:
                continue
            names = [
                self.names.get(Place(low.epoch, number))
                for number in range(low.number + 1, high.number)
            ]
            if None not in names:
                wanted = sum(passes(name) for name in names if name)
                if wanted != missed:
                    raise LedgerError(
                        f"{account} was told of {missed} missed events between {low} and {high}, "
                        f"and they were {wanted}"
                    )

    def prepare(self) -> None:
        """Sort what `verify_account` goes through."""
        self._sorted = sorted(self.acknowledged.values())

    def verify_soon(self, clean: set[str]) -> None:
        """Check that what nobody waited for was published by each process that ended well."""
        for name in self.soon:
            if name.partition("/")[0] in clean and name not in self.places:
                raise LedgerError(f"nobody saw {name}, and its publisher was not told of a loss")


class Truth:
    """What is known of all topics.

    Attributes:
        settled: events of which it is known what became of them; publishers count by it.
    """

    def __init__(self, topics: Iterable[str], *, rolls_back: bool) -> None:
        self.topics = {name: TopicTruth(name, rolls_back=rolls_back) for name in topics}
        self.settled = 0
        self._waiting: list[tuple[int, trio.Event]] = []

    def hear(self, life: Life, line: str) -> None:
        """Take a line that a publisher has written."""
        word, *rest = line.split(" ", 2)
        topic = self.topics[rest[0]]
        if word == "ok":
            id, name = rest[1].split(" ")
            place = Place.of(id)
            topic.note(place, name)
            topic.acknowledged[name] = place
            life.open.pop((rest[0], name), None)
            self._settle(life)
        elif word in ("maybe", "not"):
            if rest[1] in topic.once:
                return  # it is tried again
            life.open.pop((rest[0], rest[1]), None)
            if word == "not":
                topic.refused.add(rest[1])
            else:
                topic.uncertain.add(rest[1])
            if word == "maybe" and rest[1] not in topic.soon:
                self._settle(life)
            topic.soon.discard(rest[1])
        elif word == "soon":
            topic.sent.add(rest[1])
            topic.soon.add(rest[1])
            self._settle(life)
        elif word == "once":
            name, text = rest[1].split(" ", 1)
            topic.sent.add(name)
            topic.once[name] = text
            life.open[rest[0], name] = text
        else:
            topic.sent.add(rest[1])
            life.open[rest[0], rest[1]] = None

    def _settle(self, life: Life) -> None:
        life.settled += 1
        self.settled += 1
        while self._waiting and self._waiting[0][0] <= self.settled:
            self._waiting.pop(0)[1].set()

    def count_epochs(self) -> int:
        """Return how many epochs of all topics were seen."""
        return sum(len(topic.epochs) for topic in self.topics.values())

    async def until(self, settled: int) -> None:
        """Wait until so many events are settled."""
        if self.settled < settled:
            event = trio.Event()
            self._waiting.append((settled, event))
            self._waiting.sort(key=lambda one: one[0])
            await event.wait()

    @property
    def counts(self) -> dict[str, int]:
        """How many events were sent, were acknowledged, may be in the log, and were seen.

        Of those that may be there the publisher had no answer: it was killed, or did not wait.
        """
        topics = self.topics.values()
        return {
            "sent": sum(len(one.sent) for one in topics),
            "acknowledged": sum(len(one.acknowledged) for one in topics),
            "maybe": sum(len(one.sent - one.acknowledged.keys() - one.refused) for one in topics),
            "seen": sum(len(one.places) for one in topics),
        }


class Life:
    """One life of a publisher.

    Attributes:
        open: (topic, name) of what was sent and has no outcome yet; with its text if it has an
            idempotency key.
        settled: events that have one.
    """

    def __init__(self) -> None:
        self.open: dict[tuple[str, str], str | None] = {}
        self.settled = 0

    @property
    def unfinished(self) -> tuple[tuple[str, str], ...]:
        """(topic, text) of what the next life publishes again."""
        return tuple((topic, f"{name} {text}") for (topic, name), text in self.open.items() if text)


def name_of(text: str) -> str:
    """Return the name of the event that has this body."""
    try:
        return check_text(text)
    except ValueError as error:
        raise LedgerError(str(error)) from None
