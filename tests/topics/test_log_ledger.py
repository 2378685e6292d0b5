"""The ledger of a log: several workers, and everything between them and the log goes wrong.

Programs of publishing, subscribing, stalling, leaving and coming back, on this worker or another,
and of faults of the log and of the way to it, are made up by Hypothesis and run on a virtual clock.
The log itself is the witness: `Chain` notes each event at the moment at which it is committed, and
each end of an epoch at the moment at which events are lost. Each connection of a client has an
`Account`, which checks each piece that arrives.

What must hold: within an epoch events come in order, none twice, none left out but what a gap in
front counts. Epochs come in order, with a gap of unknown size between two. When the faults are over
every client that is connected comes to the head.
"""

import json
import os
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass
from random import Random
from unittest.mock import patch

import pytest
import trio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from ledger_books import FILTERS, parse_sse
from shared_log import FINE, Broker, Weather, Worker
from trio.testing import MockClock

import flowstream.topics._follower
import flowstream.topics._log_pages
import flowstream.topics._window
from flowstream import Buffer, Event, LatestByKey, Limits, PublicError, Replay, sse
from flowstream._errors import LogUnavailableError
from flowstream.ids._event_id import event_id, parse_event_id
from flowstream.logs._memory_topic import MemoryTopic
from flowstream.testing import simulated
from flowstream.topics._envelope import unwrap
from flowstream.topics._subscription import SlowConsumerError

pytestmark = pytest.mark.chaos

EXAMPLES = int(os.environ.get("LOG_LEDGER_EXAMPLES", "150"))
PHASES = [Phase.explicit, Phase.generate]
if "LOG_LEDGER_SHRINK" in os.environ:
    PHASES.append(Phase.shrink)
TOPIC = "topic:news"


# -- the program -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Publish:
    """A worker publishes `count` events, one by one or together."""

    worker: int
    count: int
    how: str = "one by one"
    padding: int = 0


@dataclass(frozen=True)
class Join:
    """A new client of a worker."""

    worker: int
    kind: str
    filter: str | None
    credits: int | None
    buffer: int


@dataclass(frozen=True)
class Act:
    """One client does something."""

    who: int
    what: str
    amount: int = 1


@dataclass(frozen=True)
class Change:
    """The weather of one worker changes."""

    worker: int
    weather: Weather


@dataclass(frozen=True)
class Blow:
    """Something happens to the log."""

    what: str
    amount: int = 0


@dataclass(frozen=True)
class Pause:
    """Time passes."""

    seconds: float


@dataclass(frozen=True)
class Setting:
    """What the topic is like, and how small the machinery's own bounds are."""

    workers: int
    replay: Replay
    snapshot: str | None
    window: int
    page: int
    seed: int


publishes = st.builds(
    Publish,
    worker=st.integers(0, 2),
    count=st.integers(1, 8) | st.integers(8, 40),
    how=st.sampled_from(["one by one", "many", "soon", "cancelled", "keyed"]),
    padding=st.sampled_from([0, 0, 0, 3000]),
)
joins = st.builds(
    Join,
    worker=st.integers(0, 2),
    kind=st.sampled_from(["sse", "inside"]),
    filter=st.sampled_from([None, None, None, "thirds"]),
    credits=st.none() | st.integers(0, 6),
    buffer=st.sampled_from([1, 3, 1000]),
)
ACTS = ["grant", "stall", "open", "drop", "return", "return", "return", "rewind", "stranger"]
acts = st.builds(Act, st.integers(0, 7), st.sampled_from(ACTS), st.integers(1, 9))
weathers = st.builds(
    Weather,
    latency=st.sampled_from([0.0, 0.0, 0.05, 3.0]),
    lost=st.sampled_from([0.0, 0.3, 1.0]),
    doubled=st.sampled_from([0.0, 0.5]),
    late=st.sampled_from([0.0, 0.1, 20.0]),
    away=st.sampled_from(
        [
            frozenset(),
            frozenset(),
            frozenset({"append"}),
            frozenset({"read", "heads", "latest"}),
            frozenset({"watch", "unwatch", "heads"}),
        ]
    ),
    unsure=st.sampled_from([0.0, 0.0, 0.5]),
    full=st.sampled_from([False, False, False, True]),
    frozen=st.sampled_from([False, False, False, True]),
)
changes = st.builds(Change, st.integers(0, 2), st.just(FINE) | weathers)
BLOWS = ["photograph", "restore", "restore", "replace", "trim", "trim", "delete", "stale"]
blows = st.builds(Blow, st.sampled_from(BLOWS), st.integers(0, 12))
pauses = st.builds(Pause, st.sampled_from([0.0, 0.0, 0.1, 1.0, 15.0, 40.0]))
programs = st.lists(
    publishes | publishes | publishes | acts | acts | joins | joins | changes | blows | pauses,
    min_size=12,
    max_size=60,
)
worlds = st.builds(
    Setting,
    workers=st.integers(2, 3),
    replay=st.builds(
        Replay,
        items=st.sampled_from([0, 5, 60, 1000]),
        seconds=st.sampled_from([float("inf"), float("inf"), 10.0]),
        bytes=st.sampled_from([1 << 20, 1 << 20, 2000]),
    ),
    snapshot=st.sampled_from([None, None, None, "keys", "as-of", "quick"]),
    window=st.sampled_from([3, 20, 1000]),
    page=st.sampled_from([2, 7, 512]),
    seed=st.integers(0, 1 << 32),
)


# -- the witness -----------------------------------------------------------------------------


@dataclass
class Entry:
    """One event that the log has, or had."""

    epoch: str
    number: int
    serial: int
    key: str | None


class Chain:
    """All that was ever committed, in its order."""

    def __init__(self):
        self.entries = []
        self.by_id = {}  # places in `entries`
        self.spans = {}  # of each epoch the number before its first event, and of its last
        self.places = set()  # ids of snapshots
        self.doubled = []  # ids that were given to two events

    def note(self, record):
        id = event_id(record.epoch, record.number)
        event = unwrap(record.data, id)
        serial = int(event.data.partition(" ")[0])
        if id in self.by_id:
            self.doubled.append(id)
            return
        self.by_id[id] = len(self.entries)
        self.entries.append(Entry(record.epoch, record.number, serial, event.key))
        low, high = self.spans.get(record.epoch, (record.number - 1, 0))
        self.spans[record.epoch] = low, max(high, record.number)

    def knows(self, id):
        """Return whether an id is that of an event, or of the place where an epoch begins."""
        epoch, number = parse_event_id(id) or ("", 0)
        low, high = self.spans.get(epoch, (0, -1))
        return id in self.places or low <= number <= high

    def entry(self, epoch, number):
        return self.entries[self.by_id[event_id(epoch, number)]]


class Account:
    """What one connection has got, checked piece by piece.

    Attributes:
        at: the log's position up to which all is accounted for; None if that is not known.
        lost: whether a gap of unknown size came, and nothing since.
        own: serials of what its process published since it came.
    """

    def __init__(self, world, after, filter):
        self.world, self.chain = world, world.chain
        self.after, self.accepts = after, FILTERS[filter]
        self.joined = len(self.chain.entries)
        self.at, self.last_id = None, None
        self.lost = False
        self.must_gap = False
        self.new = after is None
        self.own = set()
        self.seen = set()
        self.trace = deque(maxlen=10)
        if after is not None:
            self.must_gap = not self.chain.knows(after)
            if not self.must_gap:
                self.at, self.last_id = parse_event_id(after), after

    def piece(self, kind, data, id):
        self.trace.append((kind, data if kind == "gap" else str(data)[:30], id))
        if kind == "gap":
            self.gap(data)
        elif kind == "snapshot":
            self.snapshot(data, id)
        elif kind == "message":
            self.event(data, id)
        else:
            assert kind == "failed"  # its snapshot
            assert data["code"] == "snapshot"

    def event(self, data, id):
        serial = int(data.partition(" ")[0])
        assert id in self.chain.by_id, "an event that is not in the log"
        entry = self.chain.entries[self.chain.by_id[id]]
        assert entry.serial == serial, "one id for two events"
        assert id not in self.seen, f"{id} came twice"
        self.seen.add(id)
        assert not self.must_gap, "an event where a gap has to come first"
        position = entry.epoch, entry.number
        if self.new:
            self.check_beginning(self.chain.by_id[id])
        elif self.lost:
            assert self.at is None or position > self.at, f"{id} is not behind {self.at}"
        else:
            assert position[0] == self.at[0], f"{id} follows {self.at} without a gap"
            assert position[1] > self.at[1], f"{id} is not behind {self.at}"
            hole = self.wanted(*self.at, position[1] - 1)
            assert not hole, f"{id} follows {self.at} without {hole}"
        self.at, self.lost, self.new = position, False, False
        self.last_id = id

    def check_beginning(self, place):
        """What its own process has published since it came is not left out."""
        missed = [entry for entry in self.chain.entries[self.joined : place] if self.expects(entry)]
        assert not missed, f"a new client began behind {missed}"

    def expects(self, entry):
        return entry.serial in self.own and self.wants(entry)

    def wants(self, entry):
        return self.accepts is None or self.accepts(Event(f"{entry.serial} "))

    def wanted(self, epoch, low, high):
        """Return the numbers of what it wants of an epoch, behind `low` and up to `high`."""
        numbers = range(low + 1, high + 1)
        return [number for number in numbers if self.wants(self.chain.entry(epoch, number))]

    def gap(self, body):
        missed, after = body["missed"], body["after"]
        if missed is None and self.last_id in (self.after, None) and after in (self.after, None):
            self.last_id = after  # the log has forgotten where that was, or can't tell
        assert after == self.last_id, f"a gap after {after}, where {self.last_id} was the last"
        self.must_gap = False
        if missed is None or self.at is None:
            self.lost, self.new = True, False
            return
        assert missed > 0
        if not self.lost:
            epoch, number = self.at
            wanted = self.wanted(epoch, number, self.chain.spans[epoch][1])
            assert len(wanted) >= missed, f"more missed than there was behind {self.at}"
            self.at = epoch, wanted[missed - 1]

    def snapshot(self, data, id):
        assert not self.must_gap, "a snapshot where a gap has to come first"
        position = parse_event_id(id)
        self.world.check_snapshot(data, position)
        if not (self.new or self.lost):
            if position[0] == self.at[0]:
                hole = self.wanted(*self.at, position[1])
                assert not hole, f"a snapshot of {position} follows {self.at} without {hole}"
            else:
                assert position < self.at, f"a snapshot of {position} follows {self.at}"
        self.at, self.lost, self.new = position, False, False
        self.chain.places.add(id)
        self.seen.clear()  # behind an older snapshot they come again
        self.last_id = id

    def check_last(self, id):
        """It has heard the event that was published when all was well."""
        assert self.last_id == id, f"it did not hear of {id}, but of {self.last_id}"

    def check_quiet(self):
        """All that it can have, it has; or it was told of a gap."""
        assert not self.must_gap, "a gap that never came"
        if self.new:
            missed = [one for one in self.chain.entries[self.joined :] if self.expects(one)]
            assert not missed, f"a new client never got {missed}"
        elif not self.lost:
            epoch, number = self.world.head
            assert self.at[0] == epoch, f"it stopped at {self.at}, and {epoch} has begun"
            left = self.wanted(*self.at, number)
            assert not left, f"it stopped at {self.at}, and lacks {left}"


# -- the clients -----------------------------------------------------------------------------


class Client:
    """One client, over all its connections."""

    def __init__(self, world, number, join):
        self.world, self.join = world, join
        self.random = Random(world.setting.seed + number)
        self.credits = float("inf") if join.credits is None else join.credits
        self.last_id, self.ids = None, []
        self.connection = None
        self.worker = join.worker

    def act(self, what, amount):
        if what == "grant":
            self.credits += amount
        elif what == "stall":
            self.credits = 0
        elif what == "open":
            self.credits = float("inf")
        elif what == "drop":
            self.drop()
        elif what == "return":
            self.worker += amount
            self.connect(self.last_id)
        elif what == "rewind" and self.ids:
            self.connect(self.ids[-min(amount, len(self.ids))])
        elif what == "stranger":
            epoch = self.world.head[0]
            strangers = ["1lgppmf8l75.a5", "nonsense", f"{epoch}.f999999", f"{epoch}.lost"]
            self.connect(self.random.choice(strangers))
        if self.connection is not None:
            self.connection.moved.unpark_all()

    def drop(self):
        if self.connection is not None:
            self.connection.close()

    def connect(self, after):
        self.drop()
        self.connection = Connection(self, after)
        self.world.nursery.start_soon(self.connection.run)

    def saw(self, id):
        if id is not None and id != self.last_id:
            self.last_id = id
            self.ids.append(id)


class Connection:
    """One connection of a client: a stream of SSE, or a subscription in the program."""

    def __init__(self, client, after):
        self.client, self.world, self.after = client, client.world, after
        self.worker = self.world.workers[client.worker % len(self.world.workers)]
        self.account = None
        self.open = True
        self.failed = None
        self.scope = trio.CancelScope()
        self.moved = trio.lowlevel.ParkingLot()
        self.rest = b""

    def close(self):
        self.open = False
        self.scope.cancel()
        self.moved.unpark_all()

    async def wait_for_credit(self):
        while self.client.credits < 1:
            await self.moved.park()
        self.client.credits -= 1

    async def run(self):
        with self.scope:
            try:
                await (self.inside() if self.client.join.kind == "inside" else self.stream())
            except (SlowConsumerError, PublicError) as error:
                self.failed = error
        self.open = False

    def begin(self):
        self.account = Account(self.world, self.after, self.client.join.filter)

    def take(self, kind, data, id):
        try:
            self.account.piece(kind, data, id)
        except AssertionError as fault:
            fault.add_note(f"{self.client.join} came with {self.after}, and got")
            fault.add_note("\n".join(map(str, self.account.trace)))
            self.world.faults.append(fault)  # a stream would make a report of it
            raise
        self.client.saw(self.account.last_id)

    async def inside(self):
        join = self.client.join
        manager = self.worker.topic.subscribe(
            after=self.after, where=FILTERS[join.filter], buffer=Buffer(items=join.buffer)
        )
        self.begin()
        async with manager as events:
            while True:
                await self.wait_for_credit()
                event = await events.__anext__()
                self.take(event.type or "message", event.data, event.id)

    async def stream(self):
        join = self.client.join
        reports = []
        response = sse(
            self.worker.topic,
            where=FILTERS[join.filter],
            buffer=Buffer(items=join.buffer),
            heartbeat=7,
            limits=Limits(stall_timeout=1e6),
            on_close=reports.append,
        )
        headers = [] if self.after is None else [(b"last-event-id", self.after.encode())]
        scope = {"type": "http", "method": "GET", "headers": headers}
        self.begin()

        async def send(message):
            await self.wait_for_credit()
            if message["type"] == "http.response.body":
                self.feed(message.get("body", b""))

        async def receive():
            await trio.sleep_forever()

        try:
            await response(scope, receive, send)
        finally:
            for report in reports:
                if report.error is not None:
                    self.failed = report.error

    def feed(self, data):
        whole, mark, self.rest = (self.rest + data).rpartition(b"\n\n")
        if not mark:
            return
        for kind, value, id in parse_sse((whole + mark).decode()):
            if kind != "message" and isinstance(value, str):
                value = json.loads(value)
            self.take(kind, value, id)


# -- the world -------------------------------------------------------------------------------


class World:
    """A log, its workers, their publishers and clients."""

    def __init__(self, setting, outer, nursery):
        self.setting, self.outer, self.nursery = setting, outer, nursery
        self.random = Random(setting.seed)
        self.broker = Broker(setting.seed)
        self.chain = Chain()
        self.faults = []
        self.clients = []
        self.serial = 0
        self.pictures = []
        self.busy = 0
        self.workers = []
        self.lives = 0  # times that the log lost events

    async def open(self):
        setting = self.setting
        snapshot = {
            None: None,
            "keys": LatestByKey(),
            "quick": self.snapshot_quick,
            "as-of": self.snapshot_as_of,
        }[setting.snapshot]
        await self.outer.start(self.broker.run)
        for _ in range(setting.workers):
            worker = Worker(self.broker.view(), replay=setting.replay, snapshot=snapshot)
            self.workers.append(worker)
            await self.nursery.start(worker.engine.run)

    @property
    def head(self):
        found = self.broker.memory._topics.get(TOPIC)
        if found is None:
            return self.broker.memory._epoch, 0
        return found.epochs[-1][0], found.number

    async def snapshot_quick(self):
        return {"as of": self.head}

    async def snapshot_as_of(self):
        for worker in self.workers:
            try:
                id = await worker.publisher.position()
            except LogUnavailableError:
                continue
            await trio.sleep(0.1)
            return Event({"as of": parse_event_id(id)}, id=id)
        raise LogUnavailableError("the app can't read its state")

    def check_snapshot(self, data, position):
        if self.setting.snapshot == "keys":
            serials = {item["key"]: int(item["data"].partition(" ")[0]) for item in data}
            latest = {}
            for entry in self.chain.entries:
                if (entry.epoch, entry.number) <= position:
                    latest[entry.key] = entry.serial
            if not self.lives:
                assert serials == latest
        else:
            assert position <= tuple(data["as of"])

    # -- steps -----------------------------------------------------------------------------

    def next_text(self, padding=0):
        self.serial += 1
        return f"{self.serial} {'.' * padding}"

    async def publish(self, step, worker):
        self.busy += 1
        try:
            with trio.CancelScope() as scope:
                if step.how == "cancelled":
                    scope.deadline = trio.current_time() + self.random.choice([0, 0.02, 1])
                await self.publish_all(step, worker)
        finally:
            self.busy -= 1

    async def publish_all(self, step, worker):
        publisher = worker.publisher
        events = [
            Event(self.next_text(step.padding), key=self.random.choice("abc"))
            for _ in range(step.count)
        ]
        serials = [int(event.data.partition(" ")[0]) for event in events]
        if step.how == "many":
            try:
                self.expect(worker, serials)
                ids = await publisher.publish_many(events)
            except LogUnavailableError:
                return
            self.acknowledge(zip(serials, ids, strict=True))
            return
        for serial, event in zip(serials, events, strict=True):
            if step.how == "soon":
                try:
                    publisher.publish_soon(event)
                except trio.WouldBlock:
                    return
                continue
            key = f"key {serial}" if step.how == "keyed" else None
            self.expect(worker, [serial])
            again = Event(event.data, key=event.key)
            try:
                id = await publisher.publish(event, key)
            except LogUnavailableError:
                if key is None or self.random.random() < 0.5:
                    continue
                try:  # with its key it is safe to do so
                    id = await publisher.publish(again, key)
                except LogUnavailableError:
                    continue
            if key is None or not self.lives:
                self.acknowledge([(serial, id)])

    def expect(self, worker, serials):
        """The clients of a worker have to get what is published there from now on."""
        for client in self.clients:
            connection = client.connection
            if connection is not None and connection.worker is worker and connection.account:
                connection.account.own.update(serials)

    def acknowledge(self, pairs):
        for serial, id in pairs:
            assert self.chain.entries[self.chain.by_id[id]].serial == serial

    async def blow(self, step):
        broker = self.broker
        if step.what == "photograph":
            self.pictures.append(broker.photograph())
        elif step.what == "restore" and self.pictures:
            self.lives += 1
            broker.restore(self.pictures[-1 - step.amount % min(2, len(self.pictures))])
            if step.amount % 2:
                broker.tell_stale()
        elif step.what == "replace":
            if step.amount < 4:
                self.lives += 1
                broker.replace()
                if step.amount % 2:
                    broker.tell_stale()
        elif step.what == "trim":
            await broker.trim(TOPIC, step.amount)
        elif step.what == "delete" and step.amount < 4:
            self.lives += 1
            await broker.delete(TOPIC)
        elif step.what == "stale":
            broker.tell_stale()

    async def run(self, program):
        await self.open()
        for step in program:
            if isinstance(step, Publish):
                worker = self.workers[step.worker % len(self.workers)]
                self.nursery.start_soon(self.publish, step, worker)
            elif isinstance(step, Join):
                if len(self.clients) < 8:
                    self.clients.append(Client(self, len(self.clients), step))
                    self.clients[-1].connect(None)
            elif isinstance(step, Act):
                if self.clients:
                    self.clients[step.who % len(self.clients)].act(step.what, step.amount)
            elif isinstance(step, Change):
                self.workers[step.worker % len(self.workers)].view.weather = step.weather
            elif isinstance(step, Blow):
                await self.blow(step)
            elif step.seconds:
                await trio.sleep(step.seconds)
            else:
                await trio.lowlevel.checkpoint()
            self.look()
        await self.settle()

    def look(self):
        if self.faults:
            raise self.faults[0]

    async def settle(self):
        """The faults are over: everybody comes to the head, and hears what comes then."""
        for worker in self.workers:
            worker.view.weather = FINE
        for client in self.clients:
            client.act("open", 0)
        await trio.sleep(120)
        self.look()
        assert not self.busy, "a publisher still waits"
        assert not self.chain.doubled
        for worker in self.workers:
            if worker.window.is_open:
                assert worker.window.position == self.head
        for account in self.accounts():
            self.check(account, account.check_quiet)
        while (self.serial + 1) % 3:
            self.next_text()
        last = await self.workers[0].publish(self.next_text())
        await trio.sleep(30)
        self.look()
        for account in self.accounts():
            self.check(account, lambda account=account: account.check_last(last))

    def accounts(self):
        connections = [client.connection for client in self.clients]
        return [one.account for one in connections if one is not None and one.open]

    def check(self, account, what):
        try:
            what()
        except AssertionError as fault:
            fault.add_note(f"came with {account.after} at {account.joined}, and got")
            fault.add_note("\n".join(map(str, account.trace)))
            raise


async def run_world(setting, program, counts=None, rolls_back=False):
    with ExitStack() as patches:
        note = MemoryTopic.append
        world = None

        def noting(topic, *args):
            results, records = note(topic, *args)
            for record in records:
                world.chain.note(record)
            return results, records

        for module, name, value in (
            (flowstream.topics._window, "_WINDOW_ITEMS", setting.window),
            (flowstream.topics._follower, "PAGE_ITEMS", setting.page),
            (flowstream.topics._log_pages, "PAGE_ITEMS", setting.page),
            (MemoryTopic, "append", noting),
        ):
            patches.enter_context(patch.object(module, name, value))
        async with trio.open_nursery() as outer:
            async with trio.open_nursery() as nursery:
                world = World(setting, outer, nursery)
                world.broker.rolls_back = rolls_back
                await world.run(program)
                nursery.cancel_scope.cancel()
            outer.cancel_scope.cancel()
        if counts is not None:
            counts.append(len(world.chain.entries))


def play(setting, program, **options):
    """Run a program in simulated time."""
    with simulated(setting.seed):
        trio.run(
            lambda: run_world(setting, program, **options), clock=MockClock(autojump_threshold=0)
        )


@pytest.mark.timeout(0 if "LOG_LEDGER_EXAMPLES" in os.environ else 600)
def test_no_client_of_any_worker_has_a_hole_that_was_not_announced():
    """Over all faults: order, no id twice, exact counts, and everybody comes to the head."""
    counts = []

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize="LOG_LEDGER_EXAMPLES" not in os.environ,
        phases=PHASES,
        suppress_health_check=list(HealthCheck),
    )
    @given(worlds, programs)
    def run(setting, program):
        play(setting, program, counts=counts)

    run()
    assert sum(counts) >= 10 * EXAMPLES, sum(counts)


SETTING = Setting(workers=2, replay=Replay(), snapshot=None, window=1000, page=512, seed=1)
ROLLBACK = (
    Join(0, "inside", None, None, 1000),
    Join(1, "sse", None, None, 1000),
    Pause(1),
    Publish(0, 5),
    Pause(1),
    Blow("photograph"),
    Publish(1, 5),
    Pause(1),
    Blow("restore"),
    Publish(0, 10),
    Pause(1),
)


def test_a_lost_tail_with_a_new_epoch_is_a_gap():
    """The same faults as in the control below, with a log that keeps its promises."""
    play(SETTING, ROLLBACK)


def test_a_log_that_uses_a_number_twice_is_seen():
    """The control: a log that loses its tail, and goes on as if it had not, fails the ledger."""
    with pytest.raises(BaseExceptionGroup) as raised:
        play(SETTING, ROLLBACK, rolls_back=True)
    assert raised.group_contains(AssertionError, depth=None)
