"""Several topics on one connection: one id for all, and no event of any lost in silence."""

import json
import random
from urllib.parse import urlsplit

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from flowstream import (
    Block,
    Buffer,
    Conflate,
    DropOldest,
    Event,
    LatestByKey,
    Replay,
    SourceError,
    Topic,
    Topics,
    ndjson,
    sse,
)
from flowstream.decoders import SSEDecoder
from flowstream.ids._event_id import MAX_ID_LENGTH
from flowstream.testing import open_stream


def resuming(id):
    return {} if id is None else {"last-event-id": id}


async def read_some(client, count):
    return [await client.next_event() for _ in range(count)]


@pytest.mark.on_each_log
async def test_one_id_resumes_all_in_any_order():
    """The id of any event resumes each topic where it was, however the topics are listed."""
    a, b, c = Topic("a"), Topic("b"), Topic("c")
    async with open_stream(sse([a, b, c])) as client:
        await wait_all_tasks_blocked()
        for number in range(3):
            for topic in (a, b, c):
                await topic.publish(f"{topic.name}{number}")
        seen = await read_some(client, 9)
    assert "".join(event.data for event in seen) == "a0b0c0a1b1c1a2b2c2"
    for order in ([a, b, c], [c, b, a], [b, c, a]):
        for place, event in enumerate(seen[:-1]):
            async with open_stream(sse(order), headers=resuming(event.id)) as client:
                rest = [one.data for one in await read_some(client, 8 - place)]
            assert sorted(rest) == sorted(one.data for one in seen[place + 1 :])
            for name in "abc":
                own = [data for data in rest if data[0] == name]
                assert own == sorted(own)


async def test_ids_of_the_apps_own():
    """Two topics with the same ids, in which stand the signs that joined ids are made of."""
    a, b = Topic("a"), Topic("b")
    ids = ["5", "7~5", "%7E", "a!b", "~", "50%"]
    async with open_stream(sse([a, b])) as client:
        await wait_all_tasks_blocked()
        for id in ids:
            await a.publish(f"a {id}", id=id)
        for id in reversed(ids):
            await b.publish(f"b {id}", id=id)
        seen = await read_some(client, 12)
    for place, event in enumerate(seen[:-1]):
        async with open_stream(sse([b, a]), headers=resuming(event.id)) as client:
            rest = {one.data for one in await read_some(client, 11 - place)}
        assert rest == {one.data for one in seen[place + 1 :]}


async def test_a_topic_that_mirrors_another():
    """One that passes on another's events under ids made of theirs is not taken for it."""
    a, b = Topic("a"), Topic("b")
    async with open_stream(sse([a, b])) as client:
        await wait_all_tasks_blocked()
        ids = [await a.publish(f"a{n}") for n in range(3)]
        with pytest.raises(ValueError, match="leave `id` out"):
            await b.publish("b0", id=ids[0])
        await b.publish("b0", id=f"from-{ids[0]}")
        seen = await read_some(client, 4)
        await b.publish("b1", id=f"from-{ids[1]}")
    async with open_stream(sse([b, a]), headers=resuming(seen[-1].id)) as client:
        assert (await client.next_event()).data == "b1"


@pytest.mark.parametrize("names", [("a", "b"), ("a", "a")])
async def test_topics_of_one_epoch_or_one_name(names):
    """They stay two topics; where an id can't tell them apart, each client gets gaps."""
    a, b = (Topic(name) for name in names)
    b._publisher.history.epoch = a.epoch
    async with open_stream(sse([a, b])) as client:
        await wait_all_tasks_blocked()
        await a.publish("a0")
        await b.publish("b0")
        await b.publish("b1")
        seen = await read_some(client, 3)
    assert [event.data for event in seen] == ["a0", "b0", "b1"]
    await a.publish("a1")
    async with open_stream(sse([b, a]), headers=resuming(seen[1].id)) as client:
        if names == ("a", "b"):
            assert {event.data for event in await read_some(client, 2)} == {"a1", "b1"}
        else:
            gaps = await read_some(client, 2)
            assert [json.loads(gap.data)["missed"] for gap in gaps] == [None, None]


async def test_topics_of_one_name_are_resumed_each_where_it_was():
    """Their epochs tell them apart, in any order."""
    a, b = Topic("room"), Topic("room")
    async with open_stream(sse([a, b])) as client:
        await wait_all_tasks_blocked()
        await a.publish("a0")
        await b.publish("b0")
        id = (await read_some(client, 2))[-1].id
    await a.publish("a1")
    await b.publish("b1")
    async with open_stream(sse([b, a]), headers=resuming(id)) as client:
        assert {event.data for event in await read_some(client, 2)} == {"a1", "b1"}


async def test_an_id_of_the_apps_own_outlives_its_topic():
    """It means what the app says, in a list as alone: a topic that has it goes on behind it."""
    a, b = Topic("a"), Topic("b")
    async with open_stream(sse([a, b])) as client:
        await wait_all_tasks_blocked()
        await a.publish("a7", id="7")
        await b.publish("b0")
        id = (await read_some(client, 2))[-1].id
    anew = Topic("a")
    for number in (6, 7, 8):
        await anew.publish(f"a{number}", id=str(number))
    async with open_stream(sse([anew, b]), headers=resuming(id)) as client:
        assert (await client.next_event()).data == "a8"


async def test_a_topic_that_was_restarted():
    """Its part of the id is a stranger's: a gap without a number, and the others resume."""
    a, b = Topic("a"), Topic("b")
    async with open_stream(sse([a, b])) as client:
        await wait_all_tasks_blocked()
        await a.publish("a0")
        await b.publish("b0")
        id = (await read_some(client, 2))[-1].id
    await b.publish("b1")
    anew = Topic("a", snapshot=LatestByKey())
    await anew.publish("state", key=1)
    async with open_stream(sse([anew, b]), headers=resuming(id)) as client:
        got = {(one.type, one.data) for one in await read_some(client, 3)}
    assert ("message", "b1") in got
    gap = next(json.loads(data) for type, data in got if type == "gap")
    assert gap["missed"] is None
    assert ("snapshot", '[{"key":1,"data":"state"}]') in got


@pytest.mark.on_each_log
async def test_a_topic_that_was_added():
    """A client that never had it starts in it as a new one does: no gap is invented."""
    a, b, c = Topic("a"), Topic("b"), Topic("c", snapshot=LatestByKey())
    async with open_stream(sse([a, b])) as client:
        await wait_all_tasks_blocked()
        await a.publish("a0")
        id = (await client.next_event()).id
    await a.publish("a1")
    await c.publish("c0", key=1)
    async with open_stream(sse([c, a, b]), headers=resuming(id)) as client:
        got = {(one.type, one.data) for one in await read_some(client, 2)}
    assert got == {("message", "a1"), ("snapshot", '[{"key":1,"data":"c0"}]')}


@pytest.mark.parametrize(
    "id",
    [
        *("x", "~", "~~~", "!", "0.1~0.1", "a!b~", "é~\n", "%", "1.end~2.end", ":", "a:", ":a"),
        *("TAG:", "TAG:%", "TAG:EPOCH.1", "TAG:EPOCH.a1~TAG:EPOCH.a1", "TAG:EPOCH.b99"),
        *("5c374e83.1~0a1b2c3d.0", "EPOCH.a1", "~EPOCH.a0"),
    ],
)
async def test_any_id_is_met_with_a_gap_or_as_new(id):
    """Whatever a client sends, it gets what comes from now on, and is not sent everything."""
    a, b = Topic("a"), Topic("b")
    await a.publish("old")
    sent = id.replace("TAG", a._feed.place.tag).replace("EPOCH", a.epoch)
    async with open_stream(sse([a, b]), headers=[(b"last-event-id", sent.encode())]) as client:
        await wait_all_tasks_blocked()
        await b.publish("new")
        got = [await client.next_event()]
        while got[-1].data != "new":
            got.append(await client.next_event())
    assert {one.type for one in got[:-1]} <= {"gap"}
    assert bool(got[:-1]) == bool(id.strip("~"))


async def test_an_id_that_is_too_long_to_be_kept():
    """Where it is cut, no number becomes another: that topic has a gap, and is not repeated."""
    a, b = Topic("a"), Topic("b")
    for number in range(1000):
        await b.publish(number)
    # The part of b is cut behind its epoch and "c99": with the next digit it would be read.
    part = f"~{b._feed.place.tag}:{b.epoch}.c999"
    start = f"{a._feed.place.tag}:"
    own = "x" * (MAX_ID_LENGTH - len(part) + 1 - len(start))
    long = f"{start}{own}{part}"
    assert long[:MAX_ID_LENGTH].endswith(".c99")
    async with open_stream(sse([a, b]), headers=resuming(long)) as client:
        await wait_all_tasks_blocked()
        await a.publish("new")
        got = [await client.next_event()]
        while got[-1].data != "new":
            got.append(await client.next_event())
    assert {one.type for one in got[:-1]} == {"gap"}


@pytest.mark.on_each_log
async def test_a_topic_that_is_listed_twice():
    """Each of its events comes once."""
    a, b = Topic("a"), Topic("b")
    async with open_stream(sse([a, b, a])) as client:
        await wait_all_tasks_blocked()
        await a.publish("a0")
        await b.publish("b0")
        assert [one.data for one in await read_some(client, 2)] == ["a0", "b0"]
        assert a.subscribers == 1


@pytest.mark.on_each_log
async def test_a_key_means_something_in_its_topic_only():
    """With `Conflate` a price does not take the place of an alert about the same thing."""
    prices, alerts = Topic("prices"), Topic("alerts")
    app = sse([prices, alerts], policy=Conflate())
    async with open_stream(app, window=0) as client:
        await wait_all_tasks_blocked()
        await alerts.publish("halted", key="ACME")
        for price in range(5):
            await prices.publish(price, key="ACME")
        client.resume()
        got = [one.data for one in await read_some(client, 3) if one.type != "gap"]
    assert got == ["halted", "4"]


@pytest.mark.on_each_log
async def test_grants_in_it_and_ndjson():
    """`Topics.open` may be among them; revoking one ends the stream; NDJSON has the same ids."""
    topics, a = Topics(), Topic("a")
    response = ndjson([a, await topics.open("one", "me"), await topics.open("two", "me")])
    async with open_stream(response) as client:
        await wait_all_tasks_blocked()
        await topics.publish("one", 1)
        await a.publish(2)
        first, second = await client.next_value(), await client.next_value()
        assert (first["data"], second["data"]) == (1, 2)
        assert len(second["id"].split("~")) == 3
        assert topics.revoke(lambda name, who: name == "two") == 1
        assert (await client.next_value())["data"] == {"reason": "stopped"}
    assert a.subscribers == topics["one"].subscribers == topics["two"].subscribers == 0
    async with open_stream(
        ndjson([await topics.open("one"), a]), headers=resuming(first["id"])
    ) as client:
        assert (await client.next_value())["data"] == 2


@pytest.mark.on_each_log
async def test_it_ends_when_all_of_them_have_ended():
    """One topic that closes ends nothing; the last does, with `completed`."""
    a, b = Topic("a"), Topic("b")
    async with open_stream(sse([a, b])) as client:
        await wait_all_tasks_blocked()
        await a.publish("a0")
        await a.aclose()
        await b.publish("b0")
        await b.aclose()
        assert [one.type for one in await read_some(client, 3)] == ["message", "message", "end"]
        await client.wait_finished()


@pytest.mark.on_each_log
async def test_one_that_cannot_be_joined_leaves_no_place_behind(autojump_clock):
    """If there is no room for one of them, the client is told and the others are left."""
    a, topics = Topic("a"), Topics(limit=1)
    response = sse([a, await topics.open("one")])
    topics["one"]._close_idle()
    del topics._topics["one"]
    async with topics["two"].subscribe(), open_stream(response) as client:
        failed = await client.next_event()
        assert failed.type == "failed"
        assert a.subscribers == 0


@pytest.mark.parametrize("given", [[Topic("a"), 1], (Topic("a"), "b"), [1, Topic("b")]])
def test_a_list_of_topics_and_other_things(given):
    """It is refused with the name of what does not belong."""
    with pytest.raises(SourceError, match=r"only topics in it, not (int|str)"):
        sse(given)


async def test_nothing_is_pushed_while_a_snapshot_is_made(autojump_clock):
    """Another topic's events wait until the snapshot is out, which says nothing of them."""

    async def state():
        await trio.sleep(5)
        return "state"

    a, b = Topic("a", snapshot=state), Topic("b")
    async with open_stream(sse([a, b])) as client:
        await wait_all_tasks_blocked()
        await b.publish("b0")
        snapshot, event = await read_some(client, 2)
    assert (snapshot.type, event.data) == ("snapshot", "b0")
    for id, expected in ((snapshot.id, "b0"), (event.id, "b1")):
        async with open_stream(sse([a, b]), headers=resuming(id)) as client:
            await wait_all_tasks_blocked()
            if expected == "b1":
                await b.publish("b1")
            got = await client.next_event()
            assert (got.type, got.data) == ("message", expected)


async def test_who_goes_before_its_first_snapshot_gets_one_next_time():
    """An event of another topic does not say that the snapshot was seen."""
    a, b = Topic("a", snapshot=LatestByKey()), Topic("b")
    await a.publish(1, key="k")

    async def app(scope, receive, send):
        async def publish_and_send(message):
            if message["type"] == "http.response.start":
                b.publish_nowait("b0")  # before the stream has pulled the snapshot
            await send(message)

        await sse([a, b])(scope, receive, publish_and_send)

    async with open_stream(app) as client:
        event = await client.next_event()
    assert event.data == "b0"
    async with open_stream(sse([b, a]), headers=resuming(event.id)) as client:
        assert (await client.next_event()).type == "snapshot"


async def test_two_publishers_wait_for_one_client(autojump_clock):
    """With `Block` both wait or the client reads by itself: it is not given up meanwhile."""
    a, b = Topic("a"), Topic("b")
    response = sse([a, b], policy=Block(timeout=5), buffer=1, heartbeat=None)
    async with open_stream(response, window=0) as client, trio.open_nursery() as nursery:
        await client.wait_blocked()
        for number in range(4):
            for topic in (a, b):
                nursery.start_soon(topic.publish, f"{topic.name}{number}")
        await trio.sleep(1)
        got = []
        for _ in range(8):
            got.append((await client.next_event()).data)
            await trio.sleep(1)
        assert response.statistics().state == "open"
    for name in "ab":
        assert sorted(one for one in got if one[0] == name) == [f"{name}{n}" for n in range(4)]


async def test_on_real_sockets_with_clients_that_come_and_go(server):
    """Written directly or not, each client has each event once, however often it resumed."""
    topics = [Topic(name, replay=Replay(items=5000)) for name in "abc"]
    count = 400

    async def app(scope, receive, send):
        if scope["type"] != "http":
            raise RuntimeError
        await sse(topics)(scope, receive, send)

    url = urlsplit(await server(app))
    seen = [[] for _ in range(8)]

    async def read(got, per_connection, start):
        id = start
        while len(got) < 3 * count:
            stream = await trio.open_tcp_stream(url.hostname, url.port)
            head = f"GET / HTTP/1.1\r\nHost: x\r\nLast-Event-ID: {id}\r\n\r\n"
            await stream.send_all(head.encode())
            data, decoder, before = b"", SSEDecoder(), len(got)
            while len(got) < 3 * count and len(got) < before + per_connection:
                data += await stream.receive_some(4096)
                if b"\r\n\r\n" in data:
                    data = data.partition(b"\r\n\r\n")[2]
                while b"\r\n" in data:
                    size, _, rest = data.partition(b"\r\n")
                    size = int(size, 16)
                    if len(rest) < size + 2:
                        break
                    data = rest[size + 2 :]
                    for event in decoder.feed(rest[:size]):
                        got.append(event.data)
                        id = event.id
            await trio.aclose_forcefully(stream)

    start = "~".join(f"{topic._feed.place.tag}:{topic.epoch}.a0" for topic in topics)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for number, got in enumerate(seen):
                nursery.start_soon(read, got, 30 + 40 * number, start)
            for number in range(count):
                for topic in topics:
                    await topic.publish(f"{topic.name}{number}")
                if number % 10 == 0:
                    await trio.sleep(0.001)
    for got in seen:
        for topic in topics:
            own = [data for data in got if data[0] == topic.name]
            assert own == [f"{topic.name}{number}" for number in range(count)]


class World:
    """Three topics, one client at a time, and what it must have been told."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.heads = {"a": 0, "b": 0, "c": 0}
        self.topics = {}
        self.own = {}  # name: {own id: number}
        self.names = {}  # tag: name
        self.serial = 0
        for name in self.heads:
            self.restart(name)
        # Snapshot and replay differ; c has ids of its own.
        self.ids = [None]

    def restart(self, name):
        replay = Replay(items=self.random.choice([0, 3, 50]))
        snapshot = self.state if name == "b" else None
        self.topics[name] = topic = Topic(name, replay=replay, snapshot=snapshot)
        self.own[name] = {}
        self.names[topic._feed.place.tag] = name
        self.heads[name] = 0

    async def state(self):
        upto = self.heads["b"]
        await trio.sleep(0.1)
        return {"upto": upto}

    async def publish(self, name):
        topic = self.topics[name]
        self.heads[name] += 1
        number = self.heads[name]
        self.serial += 1  # so that a restarted topic uses no id again
        id = f"{number % 4}~{self.serial}%" if name == "c" else None
        self.own[name][id] = number
        await topic.publish({"t": name, "n": number}, id=id, key=number % 3)

    def claims(self, id):
        """Return what `id` says of each topic: a number; None for "new"; -1 for "don't know"."""
        found = dict.fromkeys(self.topics)
        for part in (id or "").split("~"):
            if not part:
                continue
            tag, _, text = part.partition(":")
            name = self.names[tag]
            text = text.replace("%7E", "~").replace("%25", "%")
            epoch, _, offset = text.partition(".")
            if text in self.own[name]:
                found[name] = self.own[name][text]
            elif epoch == self.topics[name].epoch and offset != "lost":
                found[name] = int(offset[1:])
            else:
                found[name] = -1
        return found

    async def connect(self, policy, ordered):
        after = self.random.choice(self.ids)
        names = list(self.topics)
        self.random.shuffle(names)
        starts = self.claims(after)
        start = {n: self.heads[n] if starts[n] in (None, -1) else starts[n] for n in names}
        app = sse(
            [self.topics[name] for name in names],
            policy=policy,
            buffer=self.random.choice([2, 8, Buffer(items=50, bytes=400)]),
            heartbeat=None,
        )
        async with open_stream(app, headers=resuming(after), window=0) as client:
            await wait_all_tasks_blocked()
            self.client, self.decoder, self.fed = client, SSEDecoder(), 0
            self.start, self.seen = start, {name: set() for name in names}
            self.last = dict(start)
            self.in_snapshot = set()
            self.announced, self.unknown, self.snapshots, self.ordered = 0, 0, 0, ordered
            async with trio.open_nursery() as nursery:
                for _ in range(self.random.randrange(1, 40)):
                    act = self.random.random()
                    if act < 0.7:
                        for _ in range(self.random.choice([1, 1, 5])):
                            nursery.start_soon(self.publish, self.random.choice(names))
                    elif act < 0.9:
                        client.grant(self.random.choice([1, 30, 100, 500]))
                    else:
                        await trio.sleep(self.random.choice([0.05, 0.2]))
                    await wait_all_tasks_blocked()
                    self.read()
                if self.random.random() < 0.5:
                    client.resume()
                    await trio.sleep(1)
                    self.read()
                    if not client.finished:
                        self.settle(starts)
                client.abort()
        self.read()

    def read(self):
        new = self.client.received[self.fed :]
        self.fed += len(new)
        for event in self.decoder.feed(new):
            body = json.loads(event.data)
            if event.type == "gap":
                if body["missed"] is None:
                    self.unknown += 1
                else:
                    self.announced += body["missed"]
                continue
            if event.type == "snapshot":
                self.snapshots += 1
                new = set(range(self.start["b"] + 1, body["upto"] + 1)) - self.seen["b"]
                self.seen["b"] |= new
                self.in_snapshot |= new
                self.last["b"] = max(self.last["b"], body["upto"])
            elif event.type == "message":
                name, number = body["t"], body["n"]
                assert number not in self.seen[name], "twice"
                assert number > self.start[name], "older than where it left off"
                assert not self.ordered or number > self.last[name], "out of order"
                self.seen[name].add(number)
                self.last[name] = number
            else:
                assert event.type in ("failed", "end"), event
                continue
            if event.id:
                self.ids.append(event.id)
                self.check(self.claims(event.id))

    def check(self, claims):
        """Nothing that an id speaks of is missing without having been announced."""
        missing = sum(
            len(set(range(self.start[name] + 1, claim + 1)) - self.seen[name])
            for name, claim in claims.items()
            if claim is not None
        )
        assert missing <= self.announced or self.unknown, (claims, self.seen, self.announced)

    def settle(self, starts):
        """All that was published has come, or was announced."""
        published = {n: set(range(self.start[n] + 1, head + 1)) for n, head in self.heads.items()}
        missing = sum(len(published[name] - self.seen[name]) for name in published)
        covered = len(published["b"] & self.seen["b"] & self.in_snapshot)
        if not self.unknown:
            assert missing <= self.announced <= missing + covered
        assert self.unknown >= list(starts.values()).count(-1)
        assert self.snapshots or starts["b"] not in (None, -1)


@pytest.mark.parametrize("seed", range(150))
def test_nothing_is_lost_in_silence(seed):
    """From any id, under any policy: each event once, in order, or announced before an id."""

    async def play():
        world = World(seed)
        for _ in range(8):
            policy, ordered = world.random.choice(
                [(DropOldest(), True), (Block(timeout=0.3), True), (Conflate(), False)]
            )
            await world.connect(policy, ordered)
            if world.random.random() < 0.3:
                world.restart(world.random.choice("abc"))

    trio.run(play, clock=MockClock(autojump_threshold=0))


def test_an_event_is_an_event():
    """A list of events is no list of topics."""
    assert sse([Event(1)]).status == 200
