"""Failures that come again and again: a few lines, and one when they are over."""

import errno
import logging
import re

import pytest
import trio

from flowstream.server._listening import accept
from flowstream.server._pass_budget import PassBudget
from flowstream.server._trouble import EVERY, QUIET, Trouble
from flowstream.server.http3 import _datagrams, _quic


def test_the_first_is_told_at_once_and_then_few():
    """Of ten failures a second for a minute seven lines are told, which count them all but some."""
    trouble = Trouble()
    told = [count for tick in range(601) if (count := trouble.fail(tick / 10))]
    assert told == [1, 100, 100, 100, 100, 100, 100]


def test_the_end_is_told_once():
    """It is over once something works and nothing has failed for a while."""
    trouble = Trouble()
    trouble.fail(0)
    trouble.fail(5)
    assert trouble.end(5 + QUIET) is None  # nobody knows whether it works
    trouble.work()
    assert trouble.end(5 + QUIET / 2) is None
    assert trouble.end(5 + QUIET) == (2, 5)
    assert not trouble.is_on
    assert trouble.end(5 + QUIET) is None


def test_what_works_now_and_then_is_still_trouble():
    """A failure after a success goes on with the count."""
    trouble = Trouble()
    trouble.fail(0)
    trouble.work()
    trouble.fail(QUIET / 2)
    assert trouble.end(3 * QUIET) is None
    trouble.work()
    assert trouble.end(3 * QUIET) == (2, QUIET / 2)


def test_episodes_that_are_short_are_not_all_told():
    """Again and again in trouble and out of it: still at most two lines in ten seconds."""
    trouble = Trouble()
    lines = 0
    for second in range(0, 100, 2):
        lines += bool(trouble.fail(second))
        trouble.work()
        lines += trouble.end(second + QUIET) is not None
    assert lines == 2 * 100 / EVERY


def times_in(line):
    return int(re.search(r"\((\d+) times since the last such line\)$", line)[1])


class FullListener:
    """Always has a connection to accept; `room` says whether there is room for it."""

    def __init__(self, number):
        self.number = number
        self.room = False
        self.tries = 0

    async def wait(self):
        if self.room and self.tries:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()

    def accept_nowait(self):
        self.tries += 1
        if not self.room:
            raise OSError(self.number, errno.errorcode[self.number])
        return "a connection" if self.tries == 1 else None

    def close(self):
        pass


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_no_room_for_connections(autojump_clock, caplog, number):
    """A minute without descriptors is a line in ten seconds for all listeners, and one after it."""
    caplog.set_level(logging.INFO)
    listeners = [FullListener(number), FullListener(number)]
    served, trouble = [], Trouble()
    async with trio.open_nursery() as nursery:
        for listener in listeners:
            nursery.start_soon(accept, listener, served.append, trouble, PassBudget())
        await trio.sleep(59.95)
        assert len(caplog.records) == 6
        for listener in listeners:
            listener.room, listener.tries = True, 0
        await trio.sleep(2 * QUIET)
        nursery.cancel_scope.cancel()
    assert served == ["a connection"] * 2
    lines = [record.getMessage() for record in caplog.records]
    name = errno.errorcode[number]
    assert lines[0] == f"connections cannot be accepted: [Errno {number}] {name}"
    assert 195 < times_in(lines[1]) < 205
    assert lines[6:] == ["connections are accepted again, after 1200 failures in 60 s"]
    assert not any(record.exc_info for record in caplog.records)


async def test_http3_that_fails(autojump_clock, caplog, monkeypatch):
    """An HTTP/3 listener that fails at once, each time, is a line in ten seconds, too."""
    caplog.set_level(logging.INFO)

    class Failing:
        works = False

        def __init__(self, *args):
            pass

        async def run(self):
            if not self.works:
                raise OSError(errno.ENOBUFS, "no buffers")
            await trio.sleep_forever()

    class Told:
        def __init__(self):
            self.event = trio.Event()
            self.is_set, self.wait = self.event.is_set, self.event.wait

    class Context:
        terminated = Told()

    class Socket:
        def __enter__(self):
            return self

        def __exit__(self, *args):
            pass

    monkeypatch.setattr(_datagrams, "Datagrams", Failing)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_quic.serve_quic, Socket(), None, None, Context, {})
        await trio.sleep(29.95)
        assert len(caplog.records) == 3
        Failing.works = True
        await trio.sleep(2 * QUIET)
        nursery.cancel_scope.cancel()
    lines = [record.getMessage() for record in caplog.records]
    assert 95 < times_in(lines[1]) < 105
    assert lines[3:] == ["HTTP/3 works again, after 300 failures in 30 s"]
