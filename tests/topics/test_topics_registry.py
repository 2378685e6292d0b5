"""Topics by name: made, forgotten, authorized, revoked."""

import gc

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from flowstream import (
    Block,
    CloseReason,
    NotAuthorizedError,
    Replay,
    TooManyTopicsError,
    Topic,
    TopicNameError,
    Topics,
    sse,
)
from flowstream.testing import collect, open_stream


@pytest.mark.on_each_log
async def test_a_topic_is_made_once():
    """The same name is the same topic, made by the factory with that name."""
    made = []

    def factory(name):
        made.append(name)
        return Topic(name, replay=Replay(items=3))

    topics = Topics(factory)
    assert "a" not in topics
    assert topics["a"] is topics["a"]
    assert topics["a"].name == "a"
    await topics.publish("b", 1)
    assert made == list(topics) == ["a", "b"]
    assert (len(topics), "a" in topics, topics.statistics().topics) == (2, True, 2)


async def test_an_idle_topic_is_forgotten(autojump_clock):
    """Without subscriber and event for so long it goes; one of the two keeps it."""
    topics = Topics(idle=60)
    old = topics["idle"]
    async with topics["subscribed"].subscribe():
        for _ in range(20):
            await trio.sleep(10)
            await topics.publish("published", 1)
        assert set(topics) == {"subscribed", "published"}
    assert topics.statistics().forgotten == 1
    with pytest.raises(trio.ClosedResourceError):
        await old.publish(1)
    assert topics["idle"] is not old
    await trio.sleep(76)
    assert not len(topics)
    assert topics["new"] is topics["new"]
    await trio.sleep(76)
    assert not len(topics)


async def test_it_is_forgotten_no_sooner_and_no_later(autojump_clock):
    """After `idle` seconds, and a quarter of it more at the most, since somebody left."""
    topics = Topics(idle=8)
    await trio.sleep(1)
    async with topics["a"].subscribe():
        await trio.sleep(100)
    await trio.sleep(7.9)
    assert "a" in topics
    await trio.sleep(2.2)
    assert "a" not in topics


async def test_somebody_comes_at_the_moment_it_is_forgotten(autojump_clock):
    """Whoever asked in time has a stream that gets what is published under that name."""
    for delay in (7.9, 8.0, 8.1, 9.9, 10.0, 10.1):
        topics = Topics(idle=8)
        feed = await topics.open("a")
        await trio.sleep(delay)
        async with open_stream(sse(feed)) as client:
            await wait_all_tasks_blocked()
            await topics.publish("a", "hello")
            assert (await client.next_event()).data == "hello"
            await trio.sleep(100)
            assert "a" in topics
        await topics.aclose()


async def test_there_are_so_many_at_the_most(autojump_clock):
    """Room is made by those unused for longest; if all are in use, it is an error."""
    topics = Topics(limit=3)
    for name in "abc":
        await topics.publish(name, 1)
        await trio.sleep(1)
    topics["d"]
    assert list(topics) == ["b", "c", "d"]
    async with topics["b"].subscribe(), topics["c"].subscribe(), topics["d"].subscribe():
        with pytest.raises(TooManyTopicsError, match="3 topics"):
            topics["e"]
        with pytest.raises(TooManyTopicsError):
            await topics.open("e")
        assert topics["b"].name == "b"
    topics["e"]
    assert len(topics) == 3


async def test_names_that_were_made_up_go_first(autojump_clock):
    """A topic with a past outlives ten thousand names that nothing was ever published in."""
    topics = Topics(limit=100)
    lost = await topics.publish("lobby", 1)
    await topics.publish("lobby", 2)
    for number in range(10_000):
        await trio.sleep(0.001)
        topics[f"made up {number}"]
    assert len(topics) <= 100
    back = {"last-event-id": lost}
    async with open_stream(sse(await topics.open("lobby")), headers=back) as client:
        assert (await client.next_event()).data == "2"


@pytest.mark.parametrize("joined", [False, True])
async def test_a_head_makes_no_topic(joined):
    """A topic is made when somebody is there to be streamed to."""
    topics = Topics()

    async def app(scope, receive, send):
        feeds = [await topics.open(name, scope) for name in "ab"]
        await sse(feeds if joined else feeds[0])(scope, receive, send)

    response = await collect(app, method="HEAD")
    assert response.status == 200
    assert list(topics) == []
    async with open_stream(app):
        await wait_all_tasks_blocked()
        assert set(topics) == set("ab" if joined else "a")


async def test_a_name_is_so_long_at_the_most():
    """A longer one is refused before `authorize` is asked."""
    asked = []
    topics = Topics(name_limit=5, authorize=lambda name, request: not asked.append(name))
    assert topics["ÄÄÄÄÄ"].name == "ÄÄÄÄÄ"
    for name in ("123456", "x" * 100_000):
        with pytest.raises(TopicNameError, match=rf"5 characters, not {len(name)}$"):
            await topics.open(name)
        with pytest.raises(TopicNameError):
            topics[name]
        with pytest.raises(ValueError, match="5 characters"):
            await topics.publish(name, 1)
    assert asked == []
    with pytest.raises(ValueError, match="name_limit must be"):
        Topics(name_limit=0)


async def test_a_factory_that_fails():
    """What it raises comes out, nothing is kept, and the next call asks it again."""
    answers = [ValueError("no"), "no topic", Topic("a")]

    def factory(name):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    topics = Topics(factory)
    with pytest.raises(ValueError, match="no"):
        topics["a"]
    with pytest.raises(TypeError, match="must return a Topic, not str"):
        topics["a"]
    assert not len(topics)
    assert topics["a"].name == "a"
    with pytest.raises(TypeError, match="name must be a str, not int"):
        topics[1]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"idle": 0}, ValueError),
        ({"idle": "1"}, TypeError),
        ({"limit": 0}, ValueError),
        ({"factory": 1}, TypeError),
        ({"authorize": "me"}, TypeError),
    ],
)
def test_arguments_are_checked(options, error):
    """A wrong argument is found where it was written."""
    with pytest.raises(error):
        Topics(**options)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.on_each_log
async def test_authorize(asynchronous):
    """A function or an async function; false refuses, and makes no topic."""

    def may(name, request):
        return request == "me" and name != "secret"

    async def may_async(name, request):
        await trio.lowlevel.checkpoint()
        return may(name, request)

    topics = Topics(authorize=may_async if asynchronous else may)
    await topics.open("a", "me")
    for name, who in (("secret", "me"), ("b", "you")):
        with pytest.raises(NotAuthorizedError, match=f"not authorized for the topic '{name}'") as e:
            await topics.open(name, who)
        assert e.value.name == name
    assert list(topics) == []  # there is nobody yet


@pytest.mark.on_each_log
async def test_authorize_that_raises():
    """The app's own exception comes out, for the framework to answer."""

    def raises(name, request):
        raise KeyError(name)

    topics = Topics(authorize=raises)
    with pytest.raises(KeyError):
        await topics.open("a")
    assert not len(topics)
    assert topics.revoke(lambda name, request: True) == 0


async def test_revoke(autojump_clock):
    """The streams that the predicate chooses end with `stopped`, in band; the others go on."""
    topics, reports = Topics(), []
    async with trio.open_nursery() as nursery:
        ended = {}

        async def read(who):
            response = sse(await topics.open("a", who), on_close=reports.append)
            async with open_stream(response) as client:
                ended[who] = [event.data async for event in client]

        for who in ("me", "you", "her"):
            nursery.start_soon(read, who)
        await wait_all_tasks_blocked()
        assert topics.statistics().opened == 3
        await topics.publish("a", "before")
        assert topics.revoke(lambda name, who: name == "a" and who != "me") == 2
        await trio.sleep(1)
        await topics.publish("a", "after")
        assert set(ended) == {"you", "her"}
        assert ended["you"] == ["before", '{"reason":"stopped"}']
        assert topics.statistics().opened == 1
        assert topics.revoke(lambda name, who: who != "me") == 0
        await topics.aclose()
    assert ended["me"] == ["before", "after", '{"reason":"completed"}']
    assert [report.reason for report in reports] == [
        CloseReason.STOPPED,
        CloseReason.STOPPED,
        CloseReason.COMPLETED,
    ]


@pytest.mark.on_each_log
async def test_revoked_before_it_begins():
    """What is revoked between the view and the first byte ends as soon as it begins."""
    topics = Topics()
    response = sse(await topics.open("a", "me"))
    assert topics.revoke(lambda name, who: who == "me") == 0
    body = (await collect(response)).body
    assert b'{"reason":"stopped"}' in body
    assert topics["a"].subscribers == 0


@pytest.mark.on_each_log
async def test_revoked_while_it_is_asked_for():
    """So does what is revoked while `authorize` still thinks."""
    thinking, go_on = trio.Event(), trio.Event()

    async def slow(name, request):
        thinking.set()
        await go_on.wait()
        return True

    topics = Topics(authorize=slow)
    bodies = []

    async def view():
        bodies.append((await collect(sse(await topics.open("a", "me")))).body)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(view)
        await thinking.wait()
        topics.revoke(lambda name, who: who == "me")
        go_on.set()
    assert b'{"reason":"stopped"}' in bodies[0]


@pytest.mark.on_each_log
async def test_a_grant_that_is_never_used_is_not_kept():
    """A HEAD, or a view that fails, leaves nothing behind."""
    topics = Topics()
    asked = []
    for _ in range(5):
        response = sse(await topics.open("a", "me"))
        assert (await collect(response, method="HEAD")).status == 200
    del response
    gc.collect()
    assert topics.revoke(lambda name, who: asked.append(who)) == 0
    assert asked == []


@pytest.mark.on_each_log
async def test_a_stream_that_has_ended_is_not_asked_about():
    """`revoke` sees the streams that are open, whoever still holds on to those before."""
    topics, asked = Topics(), []
    ended, open_still = sse(await topics.open("a", "ended")), sse(await topics.open("a", "open"))
    async with open_stream(ended):
        await wait_all_tasks_blocked()
    async with open_stream(open_still):
        await wait_all_tasks_blocked()
        assert topics.revoke(lambda name, who: asked.append(who)) == 0
    assert asked == ["open"]
    assert ended.statistics().state == "closed"


async def test_closing_all(autojump_clock):
    """Subscribers get what is left and end; names made later are new topics."""
    topics = Topics()
    old = topics["a"]
    got = []
    async with trio.open_nursery() as nursery:

        async def read():
            async with old.subscribe() as events:
                got.extend([event.data async for event in events])

        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        old.publish_nowait(1)
        await topics.aclose()
    assert got == [1]
    assert topics["a"] is not old
    await topics.aclose()
    await Topics().aclose()


async def test_a_slow_topic_does_not_keep_the_others_open(autojump_clock):
    """Topics are closed side by side; cancelling that leaves no subscriber waiting for ever."""
    topics = Topics()
    async with (
        topics["slow"].subscribe(policy=Block(timeout=30), buffer=1) as slow,
        topics["quick"].subscribe() as quick,
    ):
        topics["slow"].publish_nowait(1)
        with trio.move_on_after(1):
            await topics.publish("slow", 2)
        with trio.move_on_after(1) as scope:
            await topics.aclose()
        assert scope.cancelled_caught
        assert [event.data async for event in quick] == []
        assert [event.data async for event in slow] == [1, 2]


async def test_what_is_published_by_name_may_be_dropped_unless_it_is_essential():
    """`Topics.publish` says of an event what it was told, and nothing else."""
    topics = Topics()
    async with topics["t"].subscribe() as events:
        await topics.publish("t", 1)
        await topics.publish("t", 2, essential=True, type="kind", key="k", id="own")
        first, second = [await events.__anext__() for _ in range(2)]
    assert (first.essential, first.type, first.key) == (False, None, None)
    assert (second.essential, second.type, second.key, second.id) == (True, "kind", "k", "own")
