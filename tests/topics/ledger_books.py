"""The books of a topic and of each of its clients: what the tests of the ledger share.

`Books` notes what a topic has published, at the moment at which it is. An `Audit` goes with
one connection of one client: it is shown every event, gap and snapshot that arrives, and
knows after each of them up to where everything has been accounted for, one way or the other.
Nothing here asks the topic what it thinks.
"""

import json
from bisect import bisect_right
from collections import deque
from contextvars import ContextVar

from flowstream import Topic
from flowstream.ids._event_id import parse_event_id

FILTERS = {
    None: None,
    "thirds": lambda event: int(event.data.partition(" ")[0]) % 3 == 0,
    "none": lambda event: False,
}


# Whose task it is in which a stream or a subscription joins the topic.
JOINING = ContextVar("joining", default=None)


class Books:
    """Everything that was published: numbers count from 1."""

    def __init__(self):
        self.ids = [None]
        self.keys = [None]
        self.texts = [None]
        self.numbers = {}  # by serial, which the publisher gave it
        self.by_id = {}
        self.wanted = {name: [] for name in FILTERS}
        self.serial = 0
        self.epoch = None

    @property
    def head(self):
        return len(self.ids) - 1

    def next_text(self, padding=0):
        """Return the data of the next event to be published; it may come to nothing."""
        self.serial += 1
        return f"{self.serial} {'.' * padding}"

    def note(self, event):
        """An event is published."""
        number = len(self.ids)
        self.ids.append(event.id)
        self.keys.append(event.key)
        self.texts.append(event.data)
        self.by_id[event.id] = number
        self.numbers[int(event.data.partition(" ")[0])] = number
        for name, accepts in FILTERS.items():
            if accepts is None or accepts(event):
                self.wanted[name].append(number)

    def locate(self, id):
        """Return the number of the event that a client has seen last, or None."""
        found = self.by_id.get(id)
        epoch, number = parse_event_id(id) or ("", 0)
        if found is None and epoch == self.epoch and number <= self.head:
            return number  # not an event's: that of a snapshot
        return found

    def latest(self, number):
        """Return the newest data of each key, as of event `number`."""
        found = {}
        for key, text in zip(self.keys[1 : number + 1], self.texts[1 : number + 1], strict=True):
            if key is not None:
                found.pop(key, None)
                found[key] = text
        return [{"key": key, "data": text} for key, text in found.items()]


class WitnessedTopic(Topic):
    """A topic whose commits are noted, whoever makes them."""

    def __init__(self, books, **options):
        super().__init__("witnessed", **options)
        self.books = books
        books.epoch = self.epoch
        commit = self._publisher._commit

        def noting_commit(event, *options):
            published = commit(event, *options)
            self.books.note(event)
            return published

        self._publisher._commit = noting_commit
        join = self._publisher.join

        def noting_join(*args, **options):
            if (joining := JOINING.get()) is not None:
                joining.joined()
            return join(*args, **options)

        self._publisher.join = noting_join


class Audit:
    """What one connection has got, checked piece by piece.

    Args:
        books: of the topic.
        last_id: what the client came with, or None.
        filter: name of its filter.
        keyed: events may change places and lose their ids on the way (Conflate).
        own: the app gives events ids of its own.
        check_snapshot: called with the data and number of a snapshot; None if there are none.
    """

    def __init__(self, books, last_id, *, filter=None, keyed=False, own=False, check_snapshot=None):
        self.own = own
        self.books = books
        self.filter = filter
        self.wanted = books.wanted[filter]
        self.keyed = keyed
        self.check_snapshot = check_snapshot
        self.joined_at = books.head
        self.items = 0  # events and snapshots
        self.events = 0
        self.missed = 0
        self.gaps = 0
        self.last_id = last_id
        self.expects = None  # the id of what must come next
        self.lost = False  # it has to be told so before it gets anything
        self.ended = None
        self.new = last_id is None
        self.came_with = last_id
        self.trace = deque(maxlen=8)
        self.after_gap = False
        self.just_missed = None
        number = books.head if last_id is None else books.locate(last_id)
        if number is None:
            self.lost = True
            self.after = None
            number = books.head
        else:
            self.after = last_id
        self._go_to(number)

    def _go_to(self, number):
        """Everything up to event `number` is accounted for."""
        self.or_else = None
        self.at = bisect_right(self.wanted, number)
        self.base = self.at  # for a keyed one: from here on `seen` and `announced` count
        self.seen = set()
        self.newest = {}
        self.announced = 0

    @property
    def complete(self):
        """Whether all that was published is accounted for."""
        accounted = self.accounted if self.or_else is None else self.or_else
        return not self.lost and accounted == len(self.wanted)

    @property
    def state(self):
        """What to look at if it is not complete."""
        came = f"came with {self.came_with} at {self.joined_at}, lost={self.lost}"
        return f"{came}, {self.accounted} of {len(self.wanted)}, the last: {[*self.trace]}"

    @property
    def accounted(self):
        if self.keyed:
            return self.base + len(self.seen) + self.announced
        return self.at

    def piece(self, kind, value, id, head):
        """Something has come; `head` was the last event when it was made."""
        self.trace.append((kind, value, id, head))
        try:
            if kind == "gap":
                self.gap(value, head)
            elif kind == "snapshot":
                self.snapshot(value, id)
            elif kind == "message":
                self.event(value, id)
            else:
                self.end(kind, value)
        except AssertionError as fault:
            fault.add_note(f"of a client that came with {self.came_with} at {self.joined_at};")
            fault.add_note(f"the last that it got: {[*self.trace]}")
            raise

    def event(self, data, id):
        number = self.books.numbers[int(data.partition(" ")[0])]
        if self.or_else is not None and self.wanted[self.at : self.at + 1] != [number]:
            self.at = self.base = self.or_else
        self.or_else = None
        assert data == self.books.texts[number]
        assert not self.lost, "an event in front of the gap that had to be announced"
        if self.expects is not None:
            assert (id or self.books.ids[number]) == self.expects, (
                "a gap named another event as the next"
            )
            self.expects = None
        if self.keyed:
            self._keyed_event(number, id)
        else:
            assert self.at < len(self.wanted), f"event {number} came again"
            due = self.wanted[self.at]
            assert number == due, f"event {number} where {due} is due"
            assert id == self.books.ids[number]
            self.at += 1
        self.items += 1
        self.events += 1
        self.after_gap = False
        if id is not None:
            self.last_id = self.after = id

    def _keyed_event(self, number, id):
        place = bisect_right(self.wanted, number) - 1
        assert self.wanted[place] == number, "an event that was filtered out"
        assert place >= self.base, f"event {number} came again"
        assert number not in self.seen, f"event {number} came again"
        key = self.books.keys[number]
        assert number > self.newest.get(key, 0), "an older value came after a newer one"
        self.newest[key] = number
        self.seen.add(number)
        if id is not None:
            assert id == self.books.ids[number]
            assert max(self.seen) == number, "an id that would hide what came before it"
            assert self.accounted >= place + 1, "an id, while something before it is missing"

    def gap(self, body, head):
        """A gap has come, made when `head` was the last event."""
        missed, after, before = body["missed"], body["after"], body["before"]
        assert self.expects is None, "two gaps that should have been one"
        if (
            (missed, after) == (None, None)
            and self.own
            and not (self.new or self.items or self.gaps)
        ):
            self.lost, self.after = True, None  # an app's own id that is known no longer
        assert after == self.after, f"a gap after {after}, where {self.after} was the last"
        self.gaps += 1
        if missed is None:
            assert self.lost or self.filter is not None, "a gap of unknown size"
            if self.lost:
                self._go_to(self.joined_at)
            elif self.came_with is not None and not self.items and self.gaps == 1:
                # Its id was too old, and from `joined_at` on it gets what came; or that has
                # become too old meanwhile, too. What comes next will tell.
                self._go_to(self.joined_at)
                self.or_else = bisect_right(self.wanted, head)
            else:
                self._go_to(head)
            self.lost = False
        else:
            assert missed > 0
            assert not self.lost
            self.missed += missed
            if self.keyed:
                self.announced += missed
            else:
                self.at += missed
                if self.or_else is not None:  # the gap before it went up to there
                    self.or_else += missed
            assert self.accounted <= len(self.wanted), "more is missed than was published"
        self.expects = before
        self.just_missed = missed
        self.after_gap = True

    def snapshot(self, data, id):
        assert self.check_snapshot is not None
        number = self.check_snapshot(data, id)
        assert self.expects is None
        if self.after_gap:
            if self.just_missed is not None:
                assert bisect_right(self.wanted, number) == self.accounted, (
                    "the gap and the snapshot do not meet"
                )
        else:
            # One that is older than what the client has is followed by a gap instead.
            older = bisect_right(self.wanted, number) <= self.accounted
            assert (self.new and not self.items) or older, "a snapshot that nothing called for"
        self.after_gap = False
        self._go_to(number)
        self.items += 1
        if id is not None:
            self.last_id = self.after = id

    def end(self, kind, body):
        assert self.ended is None
        assert self.expects is None, "a gap named an event that never came"
        self.ended = kind, body


def parse_sse(data):
    """Yield (type, data, id) of each event in whole frames of flowstream's own making."""
    for frame in data.split("\n\n"):
        kind, id, text = "message", None, None
        for line in frame.split("\n"):
            name, _, value = line.partition(": ")
            if name == "data":
                text = value if text is None else f"{text}\n{value}"
            elif name == "id":
                id = value
            elif name == "event":
                kind = value
        if text is not None:
            yield kind, text, id


def parse_ndjson(data):
    for line in data.splitlines():
        if line:
            value = json.loads(line)
            if isinstance(value, dict):
                yield value.get("type", "message"), value["data"], value.get("id")
            else:
                yield "message", value, None


class Reader:
    """Shows an `Audit` the bytes of a body as they come, in whichever pieces."""

    def __init__(self, audit, format):
        self.audit = audit
        self.format = format
        self.rest = b""

    def feed(self, data, head):
        end = b"\n\n" if self.format == "sse" else b"\n"
        whole, mark, self.rest = (self.rest + data).rpartition(end)
        if not mark:
            return
        parse = parse_sse if self.format == "sse" else parse_ndjson
        audit = self.audit
        for kind, value, id in parse((whole + mark).decode()):
            if kind != "message" and isinstance(value, str):
                value = json.loads(value)
            audit.piece(kind, value, id, head)
