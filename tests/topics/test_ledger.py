"""The ledger: for each client, what it got and the gaps it was told of are all there was.

Programs of publishing, subscribing, reading, stalling, leaving and coming back are made up
by Hypothesis and run on a virtual clock. Every client has books of its own (`Audit`), in
which each piece that arrives is checked at once: in order, nothing twice, nothing left out
but what a gap in front of it counts, and the gap's ids those of its neighbours.
"""

import contextlib
import math
from dataclasses import dataclass
from random import Random
from unittest.mock import patch

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger_books import FILTERS, JOINING, Audit, Books, Reader, WitnessedTopic
from trio.testing import MockClock

import flowstream.topics._cursor
import flowstream.topics._fanout
import flowstream.topics._history
import flowstream.topics._segments
from flowstream import (
    Block,
    Buffer,
    CloseReason,
    Conflate,
    Disconnect,
    DropNewest,
    DropOldest,
    Event,
    LatestByKey,
    Limits,
    PublicError,
    Replay,
    Sample,
    ndjson,
    sse,
)
from flowstream.asgi._carrier import STATE_KEY
from flowstream.asgi._direct_write import DIRECT_WRITE_KEY
from flowstream.framing import HTTP_CHUNKS
from flowstream.topics._subscription import SlowConsumerError

pytestmark = pytest.mark.chaos

POLICIES = [
    DropOldest(),
    DropNewest(),
    Sample(every=3),
    Sample(interval=0.5),
    Conflate(),
    Disconnect(),
    Block(timeout=2),
    DropOldest(max_age=1.5),
    Conflate(max_age=1.5),
]


@dataclass(frozen=True)
class Publish:
    """Publish `count` events: in a task, at one go, from a thread, or cancelled halfway."""

    count: int
    how: str = "await"
    padding: int = 0
    essential: int = 0
    """One in so many is essential; 0 for none."""


@dataclass(frozen=True)
class Join:
    """A new client."""

    format: str
    policy: int
    buffer: Buffer
    filter: str | None
    credits: int | None
    """How many reads it makes before it is told to make more; None for any number."""


@dataclass(frozen=True)
class Act:
    """One client does something: which one is a number that is taken modulo theirs."""

    who: int
    what: str
    amount: int = 1


@dataclass(frozen=True)
class Pause:
    """Time passes; 0 for a turn of the event loop."""

    seconds: float = 0


@dataclass(frozen=True)
class Setting:
    """What the topic is like, and how small the machinery's own bounds are."""

    replay: Replay
    snapshot: str | None
    own_ids: bool
    burst: int
    batch: int
    pending: int
    pull: int
    segment: int
    seed: int


publishes = st.builds(
    Publish,
    count=st.integers(1, 12) | st.integers(20, 120),
    how=st.sampled_from(["await", "await", "await", "nowait", "nowait", "cancelled", "cancelled"]),
    padding=st.sampled_from([0, 0, 0, 30, 3000]),
    essential=st.sampled_from([0, 0, 0, 7, 2]),
)
joins = st.builds(
    Join,
    format=st.sampled_from(["sse", "sse", "ndjson", "inside"]),
    policy=st.integers(0, len(POLICIES) - 1),
    buffer=st.builds(
        Buffer,
        items=st.sampled_from([1, 2, 3, 5, 8, 50]),
        bytes=st.sampled_from([60, 400, 1 << 20]),
    ),
    filter=st.sampled_from([None, None, None, "thirds", "none"]),
    credits=st.none() | st.integers(0, 6),
)
ACTS = ["grant", "grant", "stall", "open", "drop", "return", "return", "rewind", "stranger"]
acts = st.builds(Act, st.integers(0, 7), st.sampled_from(ACTS), st.integers(1, 9))
pauses = st.builds(Pause, st.sampled_from([0, 0, 0, 0.3, 2.5]))
programs = st.lists(
    publishes | publishes | acts | acts | acts | joins | pauses, min_size=10, max_size=50
)
worlds = st.builds(
    Setting,
    replay=st.builds(
        Replay,
        items=st.sampled_from([0, 1, 7, 60, 1000]),
        seconds=st.sampled_from([float("inf"), float("inf"), 2.0]),
        bytes=st.sampled_from([1 << 20, 1 << 20, 700]),
    ),
    snapshot=st.sampled_from([None, None, "keys", "quick", "slow", "as-of"]),
    own_ids=st.sampled_from([False, False, True]),
    burst=st.sampled_from([1, 3, 256]),
    batch=st.sampled_from([1, 5, 256]),
    pending=st.sampled_from([3, 1024, 1024]),
    pull=st.sampled_from([1, 4, 256]),
    segment=st.sampled_from([1, 300, 1 << 16]),
    seed=st.integers(0, 1 << 32),
)


class Client:
    """One client, over all its connections.

    Attributes:
        credits: reads that it makes before it is told to make more.
    """

    def __init__(self, world, number, join):
        self.world = world
        self.join = join
        self.policy = POLICIES[join.policy]
        self.random = Random(world.setting.seed + number)
        self.credits = math.inf if join.credits is None else join.credits
        self.last_id = None
        self.ids = []
        self.connection = None

    def act(self, what, amount):
        if what == "grant":
            self.credits += amount
        elif what == "stall":
            self.credits = 0
        elif what == "open":
            self.credits = math.inf
        elif what == "drop":
            self.drop()
        elif what == "return":
            self.connect(self.last_id)
        elif what == "rewind" and self.ids:
            self.connect(self.ids[-min(amount, len(self.ids))])
        elif what == "stranger":
            future = f"{self.world.topic.epoch}.f999999"
            former = ["0123abcd.5", "1lgppmf8l75.a5"]
            self.connect(self.random.choice([*former, "nonsense", "1.2.3", "é", future]))
        if self.connection is not None and self.credits >= 1:
            self.connection.moved.unpark_all()

    def drop(self):
        if self.connection is not None:
            self.connection.drop()

    def connect(self, last_id):
        self.drop()
        kind = Inside if self.join.format == "inside" else Stream
        self.connection = kind(self, last_id)
        self.world.nursery.start_soon(self.connection.run)

    def saw(self, id):
        if id is not None and id != self.last_id:
            self.last_id = id
            self.ids.append(id)


class Connection:
    """One connection of a client: the part of it that a later one does not share."""

    def __init__(self, client, last_id):
        self.client = client
        self.world = client.world
        self.last_id = last_id
        self.audit = None
        self.open = True
        self.moved = trio.lowlevel.ParkingLot()

    def joined(self):
        """The topic is about to have it: its books begin."""
        self.audit = Audit(
            self.world.books,
            self.last_id,
            filter=self.client.join.filter,
            keyed=self.client.policy.keyed,
            own=self.world.setting.own_ids,
            check_snapshot=self.world.check_snapshot if self.world.setting.snapshot else None,
        )

    def close(self):
        self.open = False
        self.moved.unpark_all()


class Stream(Connection):
    """A connection to a server, as the stream that it carries knows it."""

    write_timeout = 1e9
    framing = HTTP_CHUNKS

    def __init__(self, client, last_id):
        super().__init__(client, last_id)
        self.stream = None
        self.why_not = None  # of a direct write
        self.nursery = self.world.nursery
        self.reader = None
        self.carry = b""

    async def run(self):
        client, reports = self.client, []
        make = {"sse": sse, "ndjson": ndjson}[client.join.format]
        response = make(
            self.world.topic,
            policy=client.policy,
            buffer=client.join.buffer,
            where=FILTERS[client.join.filter],
            heartbeat=None,
            limits=Limits(stall_timeout=1e6),
            on_close=reports.append,
            direct=True,  # past `self.send`
        )
        headers = []
        if self.last_id is not None:
            headers.append((b"last-event-id", self.last_id.encode()))
        state = {STATE_KEY: self, DIRECT_WRITE_KEY: self}
        scope = {"type": "http", "method": "GET", "headers": headers, "state": state}
        JOINING.set(self)
        await response(scope, None, self.send)
        self.close()
        self.world.look()
        (report,) = reports
        if isinstance(report.error, PublicError):
            # The snapshots took so long that the replay never reached back to one.
            assert self.world.setting.snapshot in ("slow", "as-of")
            assert self.audit.ended[0] == "failed"
            assert self.audit.ended[1]["code"] == "snapshot"
            return
        assert report.error is None, report.error
        if report.reason in ("completed", "stopped"):
            assert not self.carry
            assert not self.reader.rest
            assert self.audit.ended == ("end", {"reason": report.reason})
            assert (report.items, report.gaps) == (self.audit.items, self.audit.gaps)
            assert report.bytes == self.taken
            assert self.audit.complete
        else:
            assert report.reason in ("client_disconnected", "slow_consumer")

    def joined(self):
        super().joined()
        self.reader = Reader(self.audit, self.client.join.format)
        self.taken = 0

    def drop(self):
        if self.open:
            self.close()
            if self.stream is not None:
                self.stream.abort(CloseReason.CLIENT_DISCONNECTED)

    def attach(self, stream):
        self.stream = stream
        if not self.open:
            stream.abort(CloseReason.CLIENT_DISCONNECTED)

    def detach(self, stream):
        self.stream = None

    def abort(self, reason, detail=""):
        self.close()

    def may_bring_more(self, scope):
        return False

    def hand_over(self, body):
        """Hear what is about to be sent: it arrives before anything else."""

    def write(self, data):
        """Write directly, as a socket would: all of it, a part, or not at all."""
        client = self.client
        if not self.open or self.carry:
            return False
        whim = client.random.random()
        if whim < 0.2:
            return False
        size, mark, body = data.partition(b"\r\n")
        assert mark
        assert body.endswith(b"\r\n")
        assert int(size, 16) == len(body) - 2 > 0
        body = body[:-2]
        cut = len(body)
        if client.credits < 1:
            cut = 0
        elif whim > 0.7:
            cut = client.random.randrange(len(body))
        self.take(body[:cut], self.world.books.head)
        client.credits -= 1
        self.carry = body[cut:]
        if self.carry:
            self.world.nursery.start_soon(self.write_carry)
        return True

    async def write_carry(self):
        await self.wait_for_credit()
        if self.open and self.carry:
            carry, self.carry = self.carry, b""
            self.client.credits -= 1
            self.take(carry, self.world.books.head)
        self.moved.unpark_all()

    async def send(self, message):
        head = self.world.books.head  # as when this was made
        while self.carry and self.open:
            await self.moved.park()
        await self.wait_for_credit()
        if not self.open:
            raise ConnectionResetError
        if message["type"] == "http.response.start":
            assert message["status"] == 200
            return
        self.client.credits -= 1
        self.take(message["body"], head)
        if self.client.random.random() < 0.3:
            await trio.lowlevel.checkpoint()

    async def wait_for_credit(self):
        while self.open and self.client.credits < 1:
            await self.moved.park()

    def take(self, data, head):
        try:
            self.reader.feed(data, head)
        except BaseException as fault:  # the stream would make a report of it
            fault.add_note(str(self.client.join))
            self.world.faults.append(fault)
            raise
        self.taken += len(data)
        self.client.saw(self.audit.last_id)


class Inside(Connection):
    """A subscription in the program."""

    def __init__(self, client, last_id):
        super().__init__(client, last_id)
        self.scope = trio.CancelScope()

    def drop(self):
        self.close()
        self.scope.cancel()

    async def run(self):
        client = self.client
        JOINING.set(self)
        with self.scope, contextlib.suppress(SlowConsumerError, PublicError):
            async with self.world.topic.subscribe(
                after=self.last_id,
                where=FILTERS[client.join.filter],
                buffer=client.join.buffer,
                policy=client.policy,
            ) as events:
                while True:
                    while client.credits < 1:
                        await self.moved.park()
                    try:
                        event = await events.__anext__()
                    except StopAsyncIteration:
                        self.audit.piece("end", None, None, 0)
                        assert self.audit.complete
                        break
                    client.credits -= 1
                    self.take(event)
                    if client.random.random() < 0.3:
                        await trio.lowlevel.checkpoint()
        self.close()

    def take(self, event):
        kind = event.type or "message"
        try:
            self.audit.piece(kind, event.data, event.id, self.world.books.head)
        except AssertionError as fault:
            fault.add_note(str(self.client.join))
            raise
        self.client.saw(self.audit.last_id)


class World:
    """A topic, its publishers and its clients."""

    def __init__(self, setting, nursery, most):
        self.setting = setting
        self.most = most  # clients, for a program may have more
        self.nursery = nursery
        self.books = Books()
        self.random = Random(setting.seed)
        self.snapshots = 0
        snapshot = {
            None: None,
            "keys": LatestByKey(),
            "quick": self.snapshot_quick,
            "slow": self.snapshot_slow,
            "as-of": self.snapshot_as_of,
        }[setting.snapshot]
        self.topic = WitnessedTopic(self.books, replay=setting.replay, snapshot=snapshot)
        self.clients = []
        self.faults = []

    async def snapshot_quick(self):
        self.snapshots += 1
        return {"as of": self.books.head}

    async def snapshot_slow(self):
        made = await self.snapshot_quick()
        await trio.sleep(0.4)
        return made

    async def snapshot_as_of(self):
        self.snapshots += 1
        await trio.sleep(0.1)
        head = self.books.head
        await trio.sleep(0.1)
        return Event({"as of": head}, id=self.books.ids[head])

    def check_snapshot(self, data, id):
        """Return the number of the last event that a snapshot has in it."""
        number = self.books.locate(id)
        if self.setting.snapshot == "keys":
            assert data == self.books.latest(number)
        elif self.setting.snapshot == "as-of" and self.setting.own_ids:
            assert number <= data["as of"]  # the id may be known no longer: what is certain
        else:
            assert number == data["as of"]
        return number

    def options(self, publish, n):
        text = self.books.next_text(publish.padding)
        own = f"own-{self.books.serial}" if self.setting.own_ids else None
        essential = bool(publish.essential) and n % publish.essential == 0
        return text, {"id": own, "key": self.random.choice("abcde"), "essential": essential}

    def publish(self, publish):
        if publish.how == "nowait":
            for n in range(publish.count):
                text, options = self.options(publish, n)
                before = self.books.head
                try:
                    self.topic.publish_nowait(text, **options)
                except trio.WouldBlock:
                    assert self.books.head == before
                    break
        else:
            self.nursery.start_soon(self.publish_in_task, publish)

    async def publish_in_task(self, publish):
        with trio.CancelScope() as scope:
            if publish.how == "cancelled":
                scope.deadline = trio.current_time() + self.random.choice([0, 0, 0.1, 1])
            for n in range(publish.count):
                text, options = self.options(publish, n)
                await self.topic.publish(text, **options)
                if publish.how == "cancelled" and self.random.random() < 0.05:
                    scope.cancel()
                    await trio.lowlevel.checkpoint()

    async def run(self, program):
        for step in program:
            if isinstance(step, Publish):
                self.publish(step)
            elif isinstance(step, Join):
                if len(self.clients) < self.most:
                    self.clients.append(Client(self, len(self.clients), step))
                    self.clients[-1].connect(None)
            elif isinstance(step, Act):
                if self.clients:
                    self.clients[step.who % len(self.clients)].act(step.what, step.amount)
            elif step.seconds:
                await trio.sleep(step.seconds)
            else:
                await trio.lowlevel.checkpoint()
        await self.settle()

    def look(self):
        if self.faults:
            raise self.faults[0]

    async def settle(self):
        """Have everybody read all there is, and look into the books."""
        for client in self.clients:
            client.act("open", 0)
        await trio.sleep(50)
        self.look()
        history = self.topic._publisher.history
        assert history.delivered == history.head == self.books.head
        assert self.books.head == self.topic.statistics().published
        for client in self.clients:
            if client.connection is not None and client.connection.open:
                audit = client.connection.audit
                assert audit.complete, f"{client.join} was told of neither: {audit.state}"

    async def close(self):
        reason = self.random.choice([None, None, CloseReason.STOPPED])
        await self.topic.aclose(reason)
        await trio.sleep(50)
        self.look()
        for client in self.clients:
            assert client.connection is None or not client.connection.open, (
                "a client was left behind when the topic closed"
            )
        assert self.topic.statistics().subscribers == 0


async def run_world(setting, program, books=None, most=8):
    with contextlib.ExitStack() as patches:
        for module, name, value in (
            (flowstream.topics._fanout, "_BURST_DELIVERIES", setting.burst),
            (flowstream.topics._fanout, "_STRIDE", min(setting.burst, 32)),
            (flowstream.topics._fanout, "_BATCH_ITEMS", setting.batch),
            (flowstream.topics._history, "_PENDING_ITEMS", setting.pending),
            (flowstream.topics._cursor, "_PULL_ITEMS", setting.pull),
            (flowstream.topics._history, "_FILL_ITEMS", setting.pull),
            (flowstream.topics._history, "SEGMENT_BYTES", setting.segment),
            (flowstream.topics._segments, "SEGMENT_BYTES", setting.segment),
        ):
            patches.enter_context(patch.object(module, name, value))
        async with trio.open_nursery() as nursery:
            world = World(setting, nursery, most)
            if books is not None:
                books.append(world.books)
            await world.run(program)
            await world.close()
            nursery.cancel_scope.cancel()


FLOOD = (Publish(250), Pause(0), Publish(250), Publish(120, "nowait"), Publish(100, "cancelled"))


@pytest.mark.timeout(180)
def test_what_a_client_gets_and_its_gaps_are_all_that_was_published():
    """For every client and policy, through stalls, drops and resumes: nothing lost quietly."""
    published = 0

    @settings(max_examples=240, deadline=None, suppress_health_check=list(HealthCheck))
    @given(worlds, programs, st.booleans())
    def run(setting, program, flood):
        nonlocal published
        books = []
        everything = [*program, *FLOOD, Pause(0.5), *program, *FLOOD]
        trio.run(
            run_world, setting, everything if flood else program, books,
            clock=MockClock(autojump_threshold=0),
        )  # fmt: skip
        published += books[0].head

    run()
    assert published >= 100_000, published


def test_many_clients_that_a_task_of_its_own_delivers_to():
    """400 of all kinds: what `publish_nowait` leaves to a task loses nothing either."""
    random = Random(1)
    joins = [
        Join(
            format=random.choice(["sse", "ndjson", "inside"]),
            policy=random.randrange(len(POLICIES)),
            buffer=Buffer(items=random.choice([2, 20, 200])),
            filter=random.choice([None, None, "thirds"]),
            credits=random.choice([None, 1, 5]),
        )
        for _ in range(400)
    ]
    setting = Setting(
        replay=Replay(items=100),
        snapshot=None,
        own_ids=False,
        burst=256,
        batch=256,
        pending=1024,
        pull=256,
        segment=1 << 16,
        seed=1,
    )
    acts = [
        Act(random.randrange(400), random.choice(["grant", "open", "drop", "return", "return"]), 3)
        for _ in range(150)
    ]
    program = [
        *joins[:300],
        Pause(0.1),
        Publish(40, "nowait"),
        *acts[:75],
        Pause(0),
        Publish(40, "nowait"),
        *joins[300:],  # in the middle of a delivery
        Publish(20),
        Publish(20, "cancelled"),
        *acts[75:],
        Publish(20, "nowait"),
        Pause(3),
        Publish(20),
    ]
    trio.run(run_world, setting, program, None, 400, clock=MockClock(autojump_threshold=0))
