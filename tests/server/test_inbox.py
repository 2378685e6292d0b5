"""The inbox as a value: what an application receives, in which order, and what waits."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from flowstream.server._inbox import Inbox

GONE = {"type": "http.disconnect"}
END = {"type": "http.request", "body": b"", "more_body": False}


def part(number):
    return {"type": "http.request", "body": b"%d" % number, "more_body": True}


async def test_messages_come_in_order():
    """What was put is received, in order, and the disconnect comes last, and again."""
    inbox = Inbox("http", 10)
    for message in (part(1), END, GONE):
        await inbox.put(message)
    assert [await inbox.receive() for _ in range(4)] == [part(1), END, GONE, GONE]


async def test_a_full_inbox_holds_back(autojump_clock):
    """More messages than the bound wait, until one is received."""
    inbox = Inbox("http", 2)
    await inbox.put(part(1))
    await inbox.put(part(2))
    with trio.move_on_after(1) as scope:
        await inbox.put(part(3))
    assert scope.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(inbox.put, part(3))
        await wait_all_tasks_blocked()
        assert [await inbox.receive() for _ in range(3)] == [part(1), part(2), part(3)]


async def test_the_disconnect_does_not_wait(autojump_clock):
    """The disconnect goes into a full inbox, and lets go of whoever waits to put more."""
    inbox = Inbox("http", 1)
    await inbox.put(part(1))
    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(inbox.put, part(2))
            await wait_all_tasks_blocked()
            await inbox.put(GONE)
    assert [await inbox.receive(), await inbox.receive()] == [part(1), GONE]


async def test_a_closed_inbox_takes_what_comes(autojump_clock):
    """When the application has returned nobody waits, and nothing is kept."""
    inbox = Inbox("http", 1)
    await inbox.put(part(1))
    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(inbox.put, part(2))
            await wait_all_tasks_blocked()
            inbox.close()
        for number in range(100):
            await inbox.put(part(number))
    assert not inbox._messages


async def test_it_answers_under_a_cancelled_scope():
    """A framework that asks under a cancelled scope is told what is there, the disconnect also
    when somebody else has asked before.
    """
    inbox = Inbox("http", 10)
    await inbox.put(END)
    await inbox.put(GONE)
    seen = []
    for _ in range(4):
        with trio.CancelScope() as scope:
            scope.cancel()
            seen.append(await inbox.receive())
    assert seen == [END, GONE, GONE, GONE]


@pytest.mark.upstream
async def test_plain_hypercorns_channel_does_not():
    """Hypercorn hands over a Trio channel, which says nothing then. (It may be mended there.)"""
    into, out = trio.open_memory_channel(10)
    await into.send(END)
    with trio.CancelScope() as scope:
        scope.cancel()
        await out.receive()
    assert scope.cancelled_caught


async def test_asking_for_ever_freezes_nothing():
    """An application that receives in a loop lets others run, and can be cancelled."""
    inbox, turns = Inbox("http", 10), []
    await inbox.put(GONE)

    async def ask():
        while True:
            await inbox.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        for turn in range(10):
            await trio.lowlevel.checkpoint()
            turns.append(turn)
        nursery.cancel_scope.cancel()
    assert len(turns) == 10


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("http", {"type": "http.disconnect"}),
        ("websocket", {"type": "websocket.disconnect", "code": 1006}),
    ],
)
async def test_a_disconnect_of_our_own(kind, expected):
    """What Hypercorn forgets to tell is told in the words of ASGI; what it told stands."""
    inbox = Inbox(kind, 10)
    inbox.disconnect()
    assert await inbox.receive() == expected
    other = Inbox(kind, 10)
    await other.put({**expected, "code": 1000})
    other.disconnect()
    assert await other.receive() == {**expected, "code": 1000}


async def test_half_closed_behind_a_whole_request():
    """FIN behind a request that is there is a disconnect at once."""
    inbox = Inbox("http", 10)
    await inbox.put(END)
    inbox.half_close()
    assert [await inbox.receive(), await inbox.receive()] == [END, GONE]


async def test_half_closed_behind_an_upload(autojump_clock):
    """FIN behind an upload that is still being read is told when all of that was put."""
    inbox = Inbox("http", 1)
    await inbox.put(part(1))
    inbox.half_close()

    async def rest():
        await inbox.put(part(2))
        await inbox.put(END)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(rest)
        assert [await inbox.receive() for _ in range(4)] == [part(1), part(2), END, GONE]


async def test_it_is_full_by_bytes_too():
    """Beside the number of messages 64 KiB are a bound, and one message of any size gets in."""
    inbox = Inbox("http", 10)
    await inbox.put({"type": "http.request", "body": bytes(100_000), "more_body": True})
    with trio.move_on_after(0) as scope:
        await inbox.put({"type": "http.request", "body": b"x", "more_body": True})
    assert scope.cancelled_caught
    await inbox.receive()
    for _ in range(2):
        await inbox.put({"type": "http.request", "body": bytes(40_000), "more_body": True})
    with trio.move_on_after(0) as scope:
        await inbox.put({"type": "http.request", "body": b"x", "more_body": True})
    assert scope.cancelled_caught


CONNECT = {"type": "websocket.connect"}
LEFT = {"type": "websocket.disconnect", "code": 1006}


async def test_a_websocket_begins_with_its_connect():
    """An application receives the connect first, also if its client leaves before a turn."""
    inbox = Inbox("websocket", 10)
    inbox.turn = trio.sleep_forever
    with trio.move_on_after(0):
        await inbox.put(CONNECT)
    inbox.disconnect()
    assert [await inbox.receive(), await inbox.receive()] == [CONNECT, LEFT]
