"""The watch over hang-ups: what is reported of a socket, and how often."""

import select
import socket
import struct

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from flowstream.server import _hangup
from flowstream.server._hangup import HangupWatch

RESET = struct.pack("ii", 1, 0)


class Pair:
    """A connected pair of TCP sockets, one of them watched."""

    def __init__(self, watch):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.far = socket.create_connection(listener.getsockname())
            self.near, _ = listener.accept()
        self.reports = []
        watch.add(self.near.fileno(), lambda: self.reports.append(True))

    def reset(self):
        self.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.far.close()

    def close(self):
        self.near.close()
        self.far.close()


@pytest.fixture
async def watch(nursery):
    watch = HangupWatch()
    nursery.start_soon(watch.run)
    await wait_all_tasks_blocked()
    return watch


@pytest.fixture
async def pair(watch):
    pair = Pair(watch)
    yield pair
    watch.remove(pair.near.fileno())
    pair.close()


async def test_a_fin_behind_bytes(pair, aeventually):
    """FIN is reported, once, though nobody reads what came before it."""
    pair.far.sendall(b"something")
    pair.far.shutdown(socket.SHUT_WR)
    await aeventually(lambda: pair.reports, "it is reported")
    pair.far.close()
    await wait_all_tasks_blocked(0.05)
    assert pair.reports == [True]


async def test_a_reset(pair, aeventually):
    """RST is reported, too."""
    pair.reset()
    await aeventually(lambda: pair.reports, "it is reported")


async def test_bytes_alone(pair):
    """Bytes are no news here."""
    pair.far.sendall(b"something")
    await wait_all_tasks_blocked(0.05)
    assert pair.reports == []


async def test_once_more(watch, pair, aeventually):
    """A FIN that came at a bad moment is reported once more, if that is asked for."""
    pair.far.shutdown(socket.SHUT_WR)
    await aeventually(lambda: pair.reports, "it is reported")
    watch.again(pair.near.fileno())
    await aeventually(lambda: len(pair.reports) > 1, "it is reported again")
    assert pair.reports == [True, True]


async def test_a_socket_that_was_removed(watch, pair):
    """What was removed is not reported, and may be removed again."""
    watch.remove(pair.near.fileno())
    watch.remove(pair.near.fileno())
    watch.again(pair.near.fileno())
    pair.far.close()
    await wait_all_tasks_blocked(0.05)
    assert pair.reports == []


async def test_callbacks_that_remove_each_other(watch):
    """Of two that hang up at once, the first's callback may close the second's socket."""
    first, second = Pair(watch), Pair(watch)
    called = []

    def end(this, other):
        def callback():
            called.append(this)
            watch.remove(other.near.fileno())
            other.near.close()

        watch.remove(this.near.fileno())
        watch.add(this.near.fileno(), callback)

    end(first, second)
    end(second, first)
    first.far.close()
    second.far.close()
    with trio.fail_after(5):
        while not called:
            await trio.lowlevel.checkpoint()
    await wait_all_tasks_blocked()
    assert len(called) == 1
    first.close()
    second.close()


async def test_no_more_watches(watch, monkeypatch):
    """Where the kernel has no watch left, a socket goes without one."""

    class Full:
        closed = False

        def register(self, fd, events):
            raise OSError(28, "No space left on device")

    with socket.socket() as sock:
        monkeypatch.setattr(watch, "_epoll", Full())
        watch.add(sock.fileno(), print)
        monkeypatch.undo()
        watch.remove(sock.fileno())


async def test_a_platform_without_it(monkeypatch):
    """Without EPOLLRDHUP it watches nothing and takes no descriptor."""
    monkeypatch.setattr(_hangup, "_AVAILABLE", False)
    monkeypatch.delattr(select, "epoll")
    watch = HangupWatch()
    await watch.run()
    with socket.socket() as sock:
        watch.add(sock.fileno(), print)
        watch.again(sock.fileno())
        watch.remove(sock.fileno())


async def test_its_descriptor():
    """Its descriptor is closed when it ends, and what is added after that is not watched."""
    watch = HangupWatch()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert watch._epoll.closed
    with socket.socket() as sock:
        watch.add(sock.fileno(), print)
        watch.remove(sock.fileno())
