"""Publishing several events at once, with a key, soon; and where a topic is."""

import pytest
import trio
import trio.testing

from flowstream import Block, Buffer, EncodingError, Event, Replay, Topic, Topics
from flowstream.ids._event_id import event_id
from flowstream.logs import LogFullError, _idempotency_keys


async def take(events, count):
    return [await anext(events) for _ in range(count)]


# -- publish_many --------------------------------------------------------------------------


@pytest.mark.on_each_log
async def test_all_get_all_in_one_piece(autojump_clock):
    """Several events stand side by side, also while another task publishes."""
    topic = Topic("t")
    async with topic.subscribe() as events, trio.open_nursery() as nursery:

        async def publish_one_by_one():
            for n in range(20):
                await topic.publish(n)

        async def publish_at_once():
            for n in range(20):
                await topic.publish_many([f"{n}a", f"{n}b", f"{n}c"])

        nursery.start_soon(publish_one_by_one)
        nursery.start_soon(publish_at_once)
        got = await take(events, 80)
    together = [event.data for event in got if isinstance(event.data, str)]
    assert together == [f"{n}{which}" for n in range(20) for which in "abc"]
    places = [place for place, event in enumerate(got) if isinstance(event.data, str)]
    assert all(places[n + 2] - places[n] == 2 for n in range(0, 60, 3))
    assert [event.id for event in got] == [event_id(topic.epoch, n) for n in range(1, 81)]


async def test_the_ids_come_back_in_order():
    """Data and events may be mixed; an event keeps its envelope, and is not touched."""
    topic = Topic("t")
    other = await Topic("other").publish("x")
    mine = Event({"n": 1}, type="price", key="a", id="mine", essential=True, retry=5)
    foreign = Event("again", id=other)
    assert await topic.publish_many(["one", mine, foreign]) == [
        event_id(topic.epoch, 1),
        "mine",
        event_id(topic.epoch, 3),
    ]
    assert (mine.id, foreign.id) == ("mine", other)
    async with topic.subscribe(after=event_id(topic.epoch, 1)) as events:
        assert await anext(events) == mine
    assert await topic.publish_many([]) == []
    assert topic.statistics().published == 3


@pytest.mark.parametrize(
    "bad", [object(), Event("x", key=[]), Event("x", id=""), Event(Event("x"))]
)
@pytest.mark.on_each_log
async def test_all_or_none(bad):
    """One that can't be published keeps out those before it, and uses up no id."""
    topic = Topic("t")
    async with topic.subscribe() as events:
        with pytest.raises((EncodingError, TypeError, ValueError)):
            await topic.publish_many(["a", "b", bad, "c"])
        assert topic.statistics().published == 0
        assert await topic.publish("d") == event_id(topic.epoch, 1)
        assert (await anext(events)).data == "d"


@pytest.mark.on_each_log
async def test_none_if_the_topic_is_closed():
    """It raises what `publish` raises."""
    topic = Topic("t")
    await topic.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await topic.publish_many(["a"])


@pytest.mark.parametrize("one", ["abc", b"abc", {"a": 1}, Event("a"), 5, None])
async def test_one_item_is_not_several(one):
    """A text is not taken for its letters: the error says what to write."""
    topic = Topic("t")
    with pytest.raises(TypeError, match=r"write publish_many\(\[first, second\]\)"):
        await topic.publish_many(one)
    assert topic.statistics().published == 0


@pytest.mark.on_each_log
async def test_a_generator_that_fails_publishes_nothing():
    """The items are all there before the first is published."""

    def items():
        yield "a"
        raise KeyError("b")

    topic = Topic("t")
    with pytest.raises(KeyError):
        await topic.publish_many(items())
    assert topic.statistics().published == 0


async def test_more_than_can_be_delivered_is_refused():
    """So many are held for sure until they are delivered, and no more: neither number nor bytes."""
    topic = Topic("t", replay=Replay(items=0, bytes=1000))
    async with topic.subscribe(buffer=2000) as events:
        with pytest.raises(ValueError, match="at most 1,024 events, not 1,025"):
            await topic.publish_many(range(1025))
        with pytest.raises(ValueError, match="may have 1,048,576"):
            await topic.publish_many(["x" * 600_000] * 2)
        assert topic.statistics().published == 0
        assert len(await topic.publish_many(range(1024))) == 1024
        assert [event.data for event in await take(events, 1024)] == list(range(1024))


async def test_what_the_replay_keeps_is_delivered_without_a_gap(autojump_clock):
    """Events that wait for delivery are kept as long as the replay keeps them, beyond 1 MiB."""
    topic = Topic("t")
    text = "x" * 5000
    async with topic.subscribe(buffer=Buffer(2000, bytes=8 << 20)) as events:
        await topic.publish_many([text] * 1000)
        assert all(event.data == text for event in await take(events, 1000))


async def test_a_subscriber_is_waited_for(autojump_clock):
    """With `Block(timeout=...)` it goes on when there was room for all of them."""
    topic = Topic("t")
    blocking = topic.subscribe(policy=Block(timeout=50), buffer=1)
    async with blocking as events, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def publish():
            await topic.publish_many(["a", "b", "c", "d"])
            assert trio.current_time() - began == 3

        began = trio.current_time()
        got = []
        for _ in range(4):
            await trio.sleep(1)
            got.append((await anext(events)).data)
    assert got == list("abcd")


async def test_a_cancelled_call_has_published_all_or_none(autojump_clock):
    """Cancelled before it began there is none; cancelled while it delivers they all arrive."""
    topic = Topic("t")
    async with topic.subscribe(policy=Block(timeout=50), buffer=1) as events:
        with trio.CancelScope() as scope:
            scope.cancel()
            await topic.publish_many([])
        with trio.move_on_after(1) as scope:
            await topic.publish_many(["a", "b", "c"])
        assert scope.cancelled_caught
        with trio.move_on_after(1) as scope:
            await topic.publish_many(["d", "e", "f"])  # waits for the delivery of the others
        assert scope.cancelled_caught
        assert topic.statistics().published == 3
        assert [event.data for event in await take(events, 3)] == list("abc")


# -- idempotency keys ----------------------------------------------------------------------


async def test_a_second_call_publishes_nothing(autojump_clock):
    """It gets the id of the first, until the key is forgotten; other topics have their own."""
    topic, other = Topic("t"), Topic("other")
    first = await topic.publish("a", idempotency_key="k", idempotency_seconds=10)
    assert await topic.publish("b", idempotency_key="k") == first
    assert topic.statistics().published == 1
    assert await other.publish("c", idempotency_key="k") != first
    assert await topic.publish("d", idempotency_key="l") != first
    await trio.sleep(10)
    assert await topic.publish("e", idempotency_key="k") == event_id(topic.epoch, 3)


async def test_two_at_once_are_one(autojump_clock):
    """Of many tasks with the same key one publishes, and all get its id."""
    topic = Topic("t", replay=Replay(items=0))
    ids = []
    async with topic.subscribe(policy=Block(timeout=50), buffer=1) as events:
        await topic.publish("full")
        async with trio.open_nursery() as nursery:

            async def publish(n):
                ids.append(await topic.publish(n, idempotency_key="k"))

            for n in range(20):
                nursery.start_soon(publish, n)
            await trio.testing.wait_all_tasks_blocked()
            await take(events, 2)
    assert len(ids) == 20
    assert set(ids) == {event_id(topic.epoch, 2)}


async def test_what_was_not_published_has_no_key():
    """A call that failed leaves its key free."""
    topic = Topic("t")
    with pytest.raises(EncodingError):
        await topic.publish(object(), idempotency_key="k")
    assert await topic.publish("a", idempotency_key="k") == event_id(topic.epoch, 1)
    assert await topic.publish("b", idempotency_key="k") == event_id(topic.epoch, 1)


async def test_keys_are_bounded(monkeypatch):
    """With too many keys nothing more is published with one; without one it goes on."""
    monkeypatch.setattr(_idempotency_keys, "MEMORY_KEYS", 1)
    topic = Topic("t")
    await topic.publish("a", idempotency_key="k")
    with pytest.raises(LogFullError, match="the topic 't' has 1 idempotency keys"):
        await topic.publish("b", idempotency_key="l")
    assert await topic.publish("c") == event_id(topic.epoch, 2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"idempotency_key": 5},
        {"idempotency_key": ""},
        {"idempotency_key": "x" * 1025},
        {"idempotency_key": "k", "idempotency_seconds": 0},
        {"idempotency_key": "k", "idempotency_seconds": float("inf")},
    ],
)
async def test_a_wrong_key_is_refused(wrong):
    """Nothing is published, and the sentence names the argument."""
    topic = Topic("t")
    with pytest.raises((TypeError, ValueError), match="idempotency_"):
        await topic.publish("a", **wrong)
    assert topic.statistics().published == 0


@pytest.mark.on_each_log
async def test_a_thread_and_topics_take_a_key():
    """`publish_from_thread` and `Topics.publish` pass it on."""
    topics = Topics()
    first = await topics.publish("t", "a", idempotency_key="k")
    topic = topics["t"]
    again = await trio.to_thread.run_sync(
        lambda: topic.publish_from_thread("b", idempotency_key="k", idempotency_seconds=5)
    )
    assert again == first
    await topics.aclose()


# -- publish_soon --------------------------------------------------------------------------


async def test_soon_returns_nothing_and_is_in_order(autojump_clock):
    """Each event arrives, in order, with the other ways to publish between them."""
    topic = Topic("t")
    async with topic.subscribe() as events:
        assert topic.publish_soon("a", type="x", key=1) is None
        await topic.publish("b")
        topic.publish_soon("c", on_lost=lambda event, error: None)
        assert [event.data for event in await take(events, 3)] == ["a", "b", "c"]
    topic.publish_soon("d")
    assert topic.statistics().published == 4


async def test_soon_is_bounded(autojump_clock):
    """While a subscriber makes all wait, 1,024 events are taken, no more, and none is lost."""
    topic = Topic("t", replay=Replay(items=0))
    lost = []
    async with topic.subscribe(policy=Block(timeout=1000), buffer=1) as events:
        await topic.publish("first")
        for n in range(1024):
            topic.publish_soon(n, on_lost=lambda *what: lost.append(what))
        for _ in range(3):
            with pytest.raises(trio.WouldBlock):
                topic.publish_soon("too many", on_lost=lambda *what: lost.append(what))
        got = await take(events, 1025)
        assert [event.data for event in got] == ["first", *range(1024)]
        topic.publish_soon("last")
        assert (await anext(events)).data == "last"
    assert lost == []


async def test_soon_is_bounded_in_bytes(autojump_clock):
    """Of large events as many are taken as fit into 1 MiB, one at the least."""
    topic = Topic("t", replay=Replay(items=0, bytes=1000))
    async with topic.subscribe(policy=Block(timeout=1000), buffer=1) as events:
        await topic.publish("first")
        for _ in range(10):
            topic.publish_soon("x" * 100_000)
        with pytest.raises(trio.WouldBlock):
            topic.publish_soon("x" * 100_000)
        assert [len(event.data) for event in await take(events, 11)] == [5] + [100_000] * 10


@pytest.mark.on_each_log
async def test_soon_says_what_is_wrong():
    """A bad item, a bad `on_lost` and a closed topic are told at once."""
    topic = Topic("t")
    with pytest.raises(EncodingError):
        topic.publish_soon(object())
    with pytest.raises(TypeError, match="on_lost must be a function"):
        topic.publish_soon("a", on_lost="me")
    await topic.aclose()
    with pytest.raises(trio.ClosedResourceError):
        topic.publish_soon("a")


# -- position ------------------------------------------------------------------------------


async def test_where_it_is():
    """Before the first event it is the place in front; then it is the id of the newest."""
    topic = Topic("t", replay=Replay(items=1))
    assert await topic.position() == event_id(topic.epoch, 0)
    for n in range(3):
        assert await topic.position() == event_id(topic.epoch, n)
        await topic.publish(n)
    async with topic.subscribe(after=await topic.position()) as events:
        await topic.publish("next")
        assert (await anext(events)).data == "next"


async def test_a_position_is_exact_beside_ids_of_the_apps_own():
    """An id that is used twice means the first event; the position is the newest all the same."""
    topic = Topic("t")
    await topic.publish("a", id="same")
    await topic.publish("b", id="same")
    position = await topic.position()
    assert position == event_id(topic.epoch, 2)
    async with topic.subscribe(after=position) as events:
        await topic.publish("c")
        assert (await anext(events)).data == "c"


@pytest.mark.on_each_log
async def test_a_snapshot_at_a_position_misses_nothing_and_doubles_nothing():
    """The state is read after the position, so it has what is older, and a client gets the rest."""
    state = []

    async def snapshot():
        position = await topic.position()
        await trio.lowlevel.checkpoint()
        found = list(state)
        await publish("while it is read")
        return Event(found, id=position)

    async def publish(item):
        state.append(item)
        await topic.publish(item)

    topic = Topic("t", snapshot=snapshot)
    await publish("before")
    async with topic.subscribe() as events:
        first, second = await take(events, 2)
    assert (first.type, first.data) == ("snapshot", ["before"])
    assert second.data == "while it is read"
