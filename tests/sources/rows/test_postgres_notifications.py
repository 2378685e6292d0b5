"""What Postgres notifies: all of it, in order, of this channel only, and no longer than wanted."""

from __future__ import annotations

import json
from contextlib import closing

import pytest
import trio
from _postgres import Sessions, refused_dsn
from hypothesis import given, settings
from hypothesis import strategies as st

from flowstream import DropOldest, Retry, Topic, sse
from flowstream.quart import Flowstream
from flowstream.sources.rows.postgres import postgres_notifications
from flowstream.testing import collect, open_stream

pytestmark = pytest.mark.chaos


class Channels(Sessions):
    """The same, with a voice."""

    async def listened_to(self):
        """Wait until one of our connections has run a LISTEN."""
        with trio.fail_after(10):
            while not self.ask("state = 'idle' AND query LIKE 'LISTEN%%'"):  # noqa: ASYNC110
                await trio.sleep(0.002)

    def is_heard(self, channel):
        """Return whether any connection has run a LISTEN for it."""
        query = "SELECT 1 FROM pg_stat_activity WHERE state = 'idle' AND query = %s"
        return self.view.execute(query, [f'LISTEN "{channel}"']).fetchall()

    @staticmethod
    async def wait_until_failed(topic, times):
        """Wait until what feeds `topic` has failed so many times."""
        with trio.fail_after(10):
            while topic.statistics().feed_failures < times:  # noqa: ASYNC110  # there is no event
                await trio.sleep(0.002)

    def notify(self, channel, *payloads):
        for payload in payloads:
            self.view.execute("SELECT pg_notify(%s, %s)", [channel, payload])


@pytest.fixture
def channels(postgres):
    with closing(Channels(postgres)) as channels:
        yield channels


async def test_payloads_come_in_order_and_of_one_channel(channels, outlet):
    """As text, as they were notified; what another channel says is not heard."""
    payloads = [f"payload {n}" for n in range(200)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(postgres_notifications(channels.dsn, "jobs").run, outlet)
        await channels.listened_to()
        channels.notify("other", "not for us")
        channels.notify("jobs", *payloads)
        await outlet.wait_for(200)
        nursery.cancel_scope.cancel()
    assert outlet.items == payloads
    await channels.wait_until([])


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@settings(max_examples=12, deadline=None)
@given(name=names.filter(lambda name: len(name.encode()) <= 63) | st.just('a"b; DROP TABLE x --'))
async def test_any_name_of_a_channel_is_only_a_name(postgres, new_outlet, name):
    """Quotes, semicolons, capitals and blanks in it: the same channel that `pg_notify` names."""
    outlet = new_outlet()
    with closing(Channels(postgres)) as channels:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(postgres_notifications(channels.dsn, name).run, outlet)
            await channels.listened_to()
            channels.notify(name, "heard")
            with trio.fail_after(10):
                await outlet.wait_for(1)
            nursery.cancel_scope.cancel()
    assert outlet.items == ["heard"]


async def test_a_payload_can_be_loaded(channels):
    """JSON in the payload is JSON in the stream, and not text in JSON."""
    source = postgres_notifications(channels.dsn, "jobs", load=json.loads)
    async with open_stream(sse(source)) as client:
        await channels.listened_to()
        channels.notify("jobs", '{"id": 7}')
        event = await client.next_event()
    assert json.loads(event.data) == {"id": 7}


async def test_the_session_ends_with_the_client(channels):
    """It waits for a notification that never comes; the server has no session of ours."""
    async with open_stream(sse(postgres_notifications(channels.dsn, "jobs"))) as client:
        await channels.listened_to()
        client.abort()
        await client.wait_finished()
        await channels.wait_until([])


async def test_a_slow_client_with_a_policy_does_not_hold_up_the_server(channels):
    """What it does not take is dropped here and announced, instead of waiting there."""
    source = postgres_notifications(channels.dsn, "jobs")
    async with open_stream(sse(source, policy=DropOldest(), buffer=4), window=0) as client:
        await channels.listened_to()
        channels.notify("jobs", *map(str, range(100)), "last")
        client.resume()
        events = []
        while not events or events[-1].data != "last":
            events.append(await client.next_event())
    missed = sum(json.loads(event.data)["missed"] for event in events if event.type == "gap")
    assert missed + sum(event.type == "message" for event in events) == 101


async def test_a_connection_that_is_lost_ends_the_stream(channels, outlet):
    """The client may come back; what was notified before is delivered."""
    async with open_stream(sse(postgres_notifications(channels.dsn, "jobs"))) as client:
        await channels.listened_to()
        channels.notify("jobs", "before")
        assert (await client.next_event()).data == "before"
        channels.end_sessions()
        failed = await client.next_event()
    assert failed.type == "failed"
    assert json.loads(failed.data)["code"] == "database_unavailable"
    assert not failed.id.endswith(".failed")  # which would keep an EventSource from coming back


@pytest.mark.parametrize("how", ["no server", "wrong password"])
async def test_a_database_that_is_not_to_be_had_is_a_503(channels, how):
    """As for rows."""
    source = postgres_notifications(refused_dsn(channels.dsn, how), "jobs")
    assert (await collect(sse(source, prime=5))).status == 503


async def test_a_client_that_goes_while_it_is_connected_leaves_nothing(channels):
    """At any moment before there is a connection, and just after."""

    async def visit(number):
        async with open_stream(sse(postgres_notifications(channels.dsn, "jobs"))) as client:
            with trio.move_on_after(number * 0.001):
                await client.wait_finished()
            client.abort()

    async with trio.open_nursery() as nursery:
        for number in range(30):
            nursery.start_soon(visit, number)
    await channels.wait_until([])


async def test_a_payload_that_cannot_be_loaded_fails_the_stream(channels, outlet):
    """With the error of the function that loads."""

    async def notify():
        await channels.listened_to()
        channels.notify("jobs", "{")

    source = postgres_notifications(channels.dsn, "jobs", load=json.loads)
    failures = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(notify)
        try:
            await source.run(outlet)
        except ValueError as error:
            failures.append(error)
    assert failures
    await channels.wait_until([])


async def test_a_payload_that_cannot_be_loaded_is_left_out_of_a_topic(channels, caplog):
    """One that is no JSON, between good ones: counted, logged, and the connection stays."""
    topic = Topic("jobs")
    async with Flowstream(), topic.subscribe() as events:
        topic.publish_from(postgres_notifications(channels.dsn, "jobs", load=json.loads))
        await channels.listened_to()
        (session,) = channels.ask("true", "pid")
        channels.notify("jobs", "1", "{", "2", "nonsense", "3")
        with trio.fail_after(10):
            assert [(await anext(events)).data for _ in range(3)] == [1, 2, 3]
        assert channels.ask("true", "pid") == [session]
    statistics = topic.statistics()
    assert (statistics.bad_items, statistics.feed_failures) == (2, 0)
    assert "made a bad item" in caplog.text
    await channels.wait_until([])


async def test_a_topic_is_fed_again_when_the_connection_was_lost(channels):
    """The source that was handed over is run anew, and connects."""
    topic = Topic("jobs")
    source = postgres_notifications(channels.dsn, "jobs")
    async with Flowstream(), topic.subscribe() as events:
        topic.publish_from(source, retry=Retry(first=0.01, longest=0.1))
        for number in range(3):
            await channels.listened_to()
            channels.notify("jobs", str(number))
            with trio.fail_after(10):
                assert (await anext(events)).data == str(number)
            channels.end_sessions()
            await channels.wait_until_failed(topic, number + 1)
    await channels.wait_until([])


async def test_a_topic_is_fed_again_after_a_restart_of_the_server(own_postgres):
    """It is away for a while and refuses; when it is there again, so is the topic."""
    server, topic = own_postgres(), Topic("jobs")
    async with Flowstream(), topic.subscribe() as events:
        source = postgres_notifications(server.dsn, "jobs", load=json.loads)
        topic.publish_from(source, retry=Retry(first=0.01, longest=0.1))
        for number in range(2):
            with closing(Channels(server.dsn)) as channels, trio.fail_after(20):
                while not channels.is_heard("jobs"):  # noqa: ASYNC110  # there is no event
                    await trio.sleep(0.01)
                channels.notify("jobs", "{", str(number))
                assert (await anext(events)).data == number
            if number == 0:
                await trio.to_thread.run_sync(server.stop)
                failures = topic.statistics().feed_failures
                await Channels.wait_until_failed(topic, failures + 2)
                await trio.to_thread.run_sync(server.start)
    assert topic.statistics().bad_items == 2


@pytest.mark.parametrize(
    ("arguments", "options", "error", "match"),
    [
        ((3, "jobs"), {}, TypeError, "dsn"),
        (("nonsense", "jobs"), {}, ValueError, "DSN"),
        (("dbname=x", b"jobs"), {}, TypeError, "channel"),
        (("dbname=x", ""), {}, ValueError, "63"),
        (("dbname=x", "ü" * 32), {}, ValueError, "63"),
        (("dbname=x", "a\0b"), {}, ValueError, "NUL"),
        (("dbname=x", "jobs"), {"load": "json"}, TypeError, "load"),
    ],
)
def test_wrong_arguments_are_refused_at_the_call(arguments, options, error, match):
    """In the view, before there is a stream."""
    with pytest.raises(error, match=match):
        postgres_notifications(*arguments, **options)
