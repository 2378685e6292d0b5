"""Revoking by subject: it reaches a user's streams on every worker, or says that it does not."""

import gc

import pytest
import trio
from shared_log import ALL_CALLS, FINE, Weather, open_workers
from trio.testing import wait_all_tasks_blocked

from flowstream import Event, TopicNameError, Topics, sse
from flowstream.abc import LogEntry
from flowstream.limits import Replay
from flowstream.logs import LogUnavailableError
from flowstream.testing import collect, open_stream
from flowstream.topics._control import CONTROL_TOPIC


def whose(name, request):
    return request


class Rooms(Topics):
    """The topics of one worker."""

    def __init__(self, worker, **options):
        def make(name):
            topic = type(worker.topic)(name)
            publisher = worker.engine.publisher("topic", name, Replay(), topic._count_changed)
            topic._publisher = topic._feeders._publisher = publisher
            return topic

        super().__init__(make, subject=whose, **options)
        self._grants.listen(worker.engine.control)
        self.ends = {}

    async def stream(self, name, user):
        """Stream a topic to a user, and note how that ended."""
        feed = await self.open(name, user)
        text = (await collect(sse(feed), timeout=7000)).body.decode()
        self.ends[name, user] = text.rpartition('"reason":"')[2].partition('"')[0]


async def test_in_memory_it_ends_the_streams_of_a_subject():
    """Those of others, and those of other topics if one is named, go on."""
    topics = Topics(subject=whose)

    async def begin(client):
        await wait_all_tasks_blocked()
        return client

    async with (
        open_stream(sse(await topics.open("a", "ada"))) as first,
        open_stream(sse(await topics.open("b", "ada"))) as second,
        open_stream(sse(await topics.open("a", "bob"))) as other,
    ):
        await wait_all_tasks_blocked()
        assert topics.statistics().opened == 3
        assert await topics.revoke_subject("ada", "b") == 1
        assert (await second.next_event()).data == '{"reason":"stopped"}'
        assert await topics.revoke_subject("ada") == 1
        assert (await first.next_event()).data == '{"reason":"stopped"}'
        await topics.publish("a", "hello")
        assert (await other.next_event()).data == "hello"


async def test_one_that_has_not_begun():
    """It ends as soon as it begins; one that is opened later does not."""
    topics = Topics(subject=whose)
    before = await topics.open("a", "ada")
    await topics.revoke_subject("ada")
    after = await topics.open("a", "ada")
    assert '"stopped"' in (await collect(sse(before))).body.decode()
    async with open_stream(sse(after)) as client:
        await wait_all_tasks_blocked()
        await topics.publish("a", 1)
        assert (await client.next_event()).data == "1"


async def test_one_whose_authorize_is_still_asked():
    """What is revoked meanwhile ends that stream."""
    ask, answer = trio.Event(), trio.Event()

    async def authorize(name, request):
        ask.set()
        await answer.wait()
        return True

    topics = Topics(subject=whose, authorize=authorize)
    async with trio.open_nursery() as nursery:

        async def client():
            assert '"stopped"' in (await collect(sse(await topics.open("a", "ada")))).body.decode()

        nursery.start_soon(client)
        await ask.wait()
        await topics.revoke_subject("ada")
        answer.set()


async def test_what_is_wrong():
    """Each error says what to write."""
    with pytest.raises(RuntimeError, match="subject=lambda name, request"):
        await Topics().revoke_subject("ada")
    with pytest.raises(TypeError, match="subject must be a function"):
        Topics(subject="ada")
    topics = Topics(subject=whose)
    with pytest.raises(TypeError, match="a subject is a str, not int"):
        await topics.revoke_subject(7)
    with pytest.raises(TypeError, match="must not be async"):
        await topics.open("a", 7)
    await topics.open("a", None)  # nobody's
    await topics.revoke_subject("x" * 5000 + "\udc80\0")  # any text will do


WEATHERS = [FINE, Weather(lost=1), Weather(late=3), Weather(doubled=1, latency=2)]


@pytest.mark.parametrize("weather", WEATHERS)
async def test_it_reaches_all_workers(weather, autojump_clock):
    """Also a stream that was opened there and has not begun; others go on."""
    async with open_workers(3) as (_, one, *others):
        for worker in others:
            worker.view.weather = weather
        rooms = [Rooms(worker) for worker in (one, *others)]
        async with trio.open_nursery() as nursery:
            for room in rooms:
                nursery.start_soon(room.stream, "a", "ada")
                nursery.start_soon(room.stream, "a", "bob")
            waiting = await rooms[2].open("b", "ada")
            await trio.sleep(20)
            assert await rooms[0].revoke_subject("ada") == 1
            await trio.sleep(30)
            assert [room.ends for room in rooms] == [{("a", "ada"): "stopped"}] * 3
            assert '"stopped"' in (await collect(sse(waiting), timeout=5)).body.decode()
            await rooms[1].revoke_subject("bob")


async def test_a_log_that_is_away(autojump_clock):
    """This process's streams end at once; then it says that others may not have heard."""
    async with open_workers(2) as (_, one, other):
        rooms = [Rooms(worker) for worker in (one, other)]
        async with trio.open_nursery() as nursery:
            for room in rooms:
                nursery.start_soon(room.stream, "a", "ada")
            await trio.sleep(1)
            one.view.weather = Weather(away=ALL_CALLS)
            start = trio.current_time()
            async with trio.open_nursery() as inner:

                async def revoke():
                    with pytest.raises(LogUnavailableError):
                        await rooms[0].revoke_subject("ada")

                inner.start_soon(revoke)
                await wait_all_tasks_blocked()
                assert rooms[0].statistics().opened == 0
            assert 1 < trio.current_time() - start <= 5
            assert rooms[1].statistics().opened == 1
            one.view.weather = FINE
            await rooms[0].revoke_subject("ada")
            await trio.sleep(1)
            assert rooms[1].ends == {("a", "ada"): "stopped"}


async def test_a_worker_that_was_frozen(autojump_clock):
    """It does what was revoked meanwhile, though its hints were lost."""
    async with open_workers(2) as (_, one, other):
        rooms = [Rooms(worker) for worker in (one, other)]
        async with trio.open_nursery() as nursery:
            for user in ("ada", "bob"):
                nursery.start_soon(rooms[1].stream, "a", user)
            await trio.sleep(1)
            other.view.weather = Weather(frozen=True, lost=1)
            await rooms[0].revoke_subject("ada")
            await trio.sleep(600)
            assert rooms[1].ends == {}
            other.view.weather = FINE
            await trio.sleep(20)
            assert rooms[1].ends == {("a", "ada"): "stopped"}
            await rooms[1].revoke_subject("bob")


async def test_a_worker_that_has_missed_revocations(autojump_clock, caplog):
    """It ends all streams that have a subject, whose clients come back; not those of nobody."""
    async with open_workers(2) as (broker, one, other):
        rooms = [Rooms(worker) for worker in (one, other)]
        async with trio.open_nursery() as nursery:
            for user in ("ada", "bob", None):
                nursery.start_soon(rooms[1].stream, "a", user)
            await trio.sleep(1)
            other.view.weather = Weather(frozen=True, lost=1)
            for user in ("eve", "ada"):
                await rooms[0].revoke_subject(user)
            await broker.trim(CONTROL_TOPIC, 0)
            other.view.weather = FINE
            await trio.sleep(20)
            assert rooms[1].ends == {("a", "ada"): "shutdown", ("a", "bob"): "shutdown"}
            assert "control messages of the log were lost" in caplog.text
            caplog.clear()
            rooms[1].revoke(lambda name, user: True)


async def test_a_log_that_had_no_messages_for_a_week(autojump_clock, caplog):
    """That the log forgets its empty topic is no loss."""
    async with open_workers(2) as (broker, one, other):
        rooms = [Rooms(worker) for worker in (one, other)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rooms[1].stream, "a", "ada")
            await rooms[0].revoke_subject("eve")
            await trio.sleep(4000)
            del broker.memory._topics[CONTROL_TOPIC]
            broker.memory._epoch = "zzzzzzzaaaa"
            await trio.sleep(30)
            assert rooms[1].ends == {}
            await rooms[0].revoke_subject("ada")
            await trio.sleep(20)
            assert rooms[1].ends == {("a", "ada"): "stopped"}
    assert not caplog.records


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"7",
        b"{}",
        b'{"what":7}',
        b'{"what":"from a newer release","topic":7}',
        b'{"what":"revoked"}',
        b'{"what":"revoked","subject":7}',
        b'{"what":"revoked","subject":"ada","name":7}',
        b'{"what":"deleted","topic":[]}',
        b'{"what":"deleted","topic":"topic:news","before":{}}',
    ],
)
async def test_messages_that_nobody_knows(data, autojump_clock, caplog):
    """They are left out, and the next one is heard."""
    async with open_workers(2) as (broker, one, other):
        rooms = [Rooms(worker) for worker in (one, other)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rooms[1].stream, "a", "ada")
            await trio.sleep(1)
            await broker.memory.append(CONTROL_TOPIC, [LogEntry(data)], keep=Replay(), token="t")
            await trio.sleep(1)
            assert rooms[1].ends == {}
            await rooms[0].revoke_subject("ada")
    assert rooms[1].ends == {("a", "ada"): "stopped"}
    assert not caplog.records


async def test_the_log_has_no_users_name(autojump_clock):
    """What is stored of a subject is a digest."""
    async with open_workers(1) as (broker, one):
        await Rooms(one).revoke_subject("ada@example.org")
        found = broker.memory._topics[CONTROL_TOPIC]
        assert [b"ada" in record.data for _, record in found._events] == [False]


async def test_topics_that_are_gone_are_not_told(autojump_clock):
    """A log holds no `Topics` that nobody else does."""
    async with open_workers(1) as (_, one):
        rooms = Rooms(one)
        assert len(one.engine.control._listeners) == 2
        del rooms
        gc.collect()
        assert len(one.engine.control._listeners) == 1
        await one.publish(Event(1).data)


@pytest.mark.parametrize("name", ["a\0b", "\udc80"])
async def test_a_name_that_no_log_can_have(name, autojump_clock):
    """A client's is refused before the log is asked, and an app's when the topic is bound."""
    async with open_workers(1) as (_, one):
        rooms = Rooms(one)
        for call in (rooms.open, rooms.delete, lambda name: rooms.revoke_subject("ada", name)):
            with pytest.raises(TopicNameError, match="must not have a NUL or half a surrogate"):
                await call(name)
        with pytest.raises(ValueError, match=r"NUL|surrogate"):
            one.engine.publisher("topic", name, Replay(), print)
        await one.publish(1)
