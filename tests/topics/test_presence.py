"""Presence: who comes and goes is told once each, and whom it is told to disturbs nobody."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from flowstream import SSE, Block, Disconnect, Limits, Topic, Topics, sse, stream
from flowstream.testing import collect, open_stream


async def told(who):
    """Return what was told so far, as (type, subscribers)."""
    await wait_all_tasks_blocked()
    async with who.subscribe(after=f"{who.epoch}.a0") as events:
        found = []
        with trio.move_on_after(0.001):
            async for event in events:
                found += [(event.type, event.data["subscribers"], event.key)]
    return found


ONCE = [("join", 1, "a"), ("leave", 0, "a")]


@pytest.mark.parametrize("how", ["abort", "close", "stop", "slow", "duration", "bytes", "revoke"])
async def test_each_comes_and_goes_once(how, autojump_clock):
    """However a stream ends, there is one ``join`` and one ``leave``."""
    who = Topic("who")
    topics = Topics(lambda name: Topic(name, presence=who))
    response = sse(
        await topics.open("a", "me"),
        policy=Disconnect() if how == "slow" else None,
        buffer=1 if how == "slow" else 256,
        limits=Limits(
            max_duration=5 if how == "duration" else None,
            max_bytes=40 if how == "bytes" else None,
        ),
    )
    async with open_stream(response, window=0 if how == "slow" else None) as client:
        await wait_all_tasks_blocked()
        if how == "abort":
            client.abort()
        elif how == "close":
            await topics["a"].aclose()
        elif how == "stop":
            response.stop()
        elif how == "revoke":
            topics.revoke(lambda name, who: True)
        else:
            for _ in range(5):
                await topics.publish("a", "x" * 30)
            await trio.sleep(6)
        await client.wait_finished()
    assert await told(who) == ONCE


async def test_a_subscription_that_fails():
    """Leaving a block by an exception is leaving."""
    who = Topic("who")
    topic = Topic("a", presence=who)
    with pytest.raises(KeyError):
        async with topic.subscribe():
            raise KeyError
    assert await told(who) == ONCE


async def test_a_head_is_nobody():
    """A request that gets no body does not come."""
    who = Topic("who")
    await collect(sse(Topic("a", presence=who)), method="HEAD")
    assert await told(who) == []


async def test_a_presence_topic_that_is_slow(autojump_clock):
    """Nobody waits for those who hear of it, and they hear of everything in order."""
    who = Topic("who")
    topic = Topic("a", presence=who)
    async with who.subscribe(policy=Block(timeout=100), buffer=1) as slow:
        before = trio.current_time()
        for _ in range(5):
            async with topic.subscribe():
                await topic.publish(1)
        assert trio.current_time() == before
        got = []
        async for event in slow:
            got.append(event.type)
            if len(got) == 10:
                break
    assert got == ["join", "leave"] * 5


async def test_a_presence_topic_that_is_closed():
    """People come and go all the same."""
    who = Topic("who")
    topic = Topic("a", presence=who)
    await who.aclose()
    async with topic.subscribe() as events:
        await topic.publish(1)
        assert (await anext(events)).data == 1
    assert topic.subscribers == 0


async def test_a_presence_topic_whose_format_cannot_carry_it(caplog):
    """It is logged, and disturbs nobody."""

    class Broken(SSE):
        def encode(self, data, **fields):
            raise ValueError("not me")

    who = Topic("who")
    topic = Topic("a", presence=who)
    async with open_stream(stream(who, encoder=Broken())):
        await wait_all_tasks_blocked()
        async with topic.subscribe() as events:
            await topic.publish(1)
            assert (await anext(events)).data == 1
        assert topic.subscribers == 0
    assert "the presence topic of 'a' failed" in caplog.text
    caplog.clear()
