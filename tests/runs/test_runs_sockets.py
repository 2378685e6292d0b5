"""Runs on real sockets: two hundred at once, whose clients reset, reload, stop and come back."""

import random
import socket
import struct
from collections import Counter
from contextlib import aclosing, asynccontextmanager
from urllib.parse import urlsplit

import h11
import pytest
import trio
from quart_trio import QuartTrio

from flowstream import Runs, sse
from flowstream.decoders import SSEDecoder
from flowstream.quart import Flowstream

pytestmark = pytest.mark.chaos

RUNS = 200


class GoneError(Exception):
    """The server has no such run: it was given up."""


def is_hung(key):
    """Return whether a run's producer goes on for ever, until it is given up."""
    return key % 7 == 0


def is_stopped(key):
    """Return whether a run's client stops it, after its first connection."""
    return key % 6 == 3


class World:
    """An app whose runs count."""

    def __init__(self):
        # However busy the machine is, none is given up but those that are meant to be.
        self.patient, self.impatient = Runs(grace=60, keep=60), Runs(grace=2, keep=60)
        self.alive = 0
        self.app = QuartTrio(__name__)
        Flowstream(self.app)

        @self.app.post("/<int:key>")
        async def start(key):
            self.runs_of(key).start(key, self.source(key))
            return "", 202

        @self.app.get("/<int:key>")
        async def attach(key):
            return sse(self.runs_of(key)[key])

        @self.app.delete("/<int:key>")
        async def stop(key):
            await self.runs_of(key).stop(key)
            return "", 204

    def runs_of(self, key):
        return self.impatient if is_hung(key) else self.patient

    def source(self, key):
        async def count():
            self.alive += 1
            try:
                for number in range(1, 6 + key % 10):
                    await trio.sleep(0.15)
                    yield str(number)
                if key % 5 == 0:
                    raise RuntimeError("crashed")
                if is_hung(key) or is_stopped(key):
                    await trio.sleep_forever()
            finally:
                self.alive -= 1

        return count


class Reader:
    """A client of one run, over all its connections."""

    def __init__(self, world, url, key):
        self.world, self.key = world, key
        self.address = urlsplit(url)
        self.random = random.Random(key)
        self.last_id, self.at = None, 0
        self.ending = None

    async def attend(self):
        try:
            await self.come_and_go()
        except GoneError:
            assert is_hung(self.key)

    async def come_and_go(self):
        async with self.request("POST"):
            pass
        for connection in range(4):
            if self.random.random() < 0.4:
                self.last_id, self.at = None, 0  # a reload: the page begins anew
            for_good = connection == 3 and not is_hung(self.key)
            with trio.move_on_after(30 if for_good else self.random.uniform(0.05, 0.3)):
                await self.read()
            if self.ending is not None:
                return
            if is_stopped(self.key) and connection == 0:
                async with self.request("DELETE"):
                    pass

    async def read(self):
        back = [] if self.last_id is None else [("last-event-id", self.last_id)]
        async with self.request("GET", back) as body:
            decoder = SSEDecoder()
            async for data in body:
                for event in decoder.feed(data):
                    if event.type in ("end", "failed"):
                        assert (
                            self.at == self.world.runs_of(self.key)[self.key].statistics().published
                        )
                        self.ending = event.type
                        return
                    assert int(event.data) == self.at + 1
                    self.at, self.last_id = int(event.data), event.id

    @asynccontextmanager
    async def request(self, method, headers=()):
        """Send a request, and give its body in pieces; reset the connection in the end."""
        with trio.socket.socket() as peer:
            await peer.connect((self.address.hostname, self.address.port))
            linger = struct.pack("ii", 1, 0)
            if self.random.random() < 0.5:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            http = h11.Connection(h11.CLIENT)
            head = [("host", "localhost"), ("content-length", "0"), *headers]
            target = f"/{self.key}"
            await peer.send(http.send(h11.Request(method=method, target=target, headers=head)))
            http.send(h11.EndOfMessage())
            async with aclosing(self.pieces(peer, http)) as pieces:
                response = await anext(pieces)
                if response.status_code == 404:
                    raise GoneError
                assert response.status_code < 300
                yield pieces

    async def pieces(self, peer, http):
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await peer.recv(65536))
            elif isinstance(event, h11.EndOfMessage):
                return
            else:
                yield event if isinstance(event, h11.Response) else bytes(event.data)


async def test_two_hundred_runs_on_real_sockets(server, aeventually, caplog):
    """Every client accounts for every number, and every producer is gone when it should be."""
    caplog.set_level("CRITICAL", "flowstream")  # a crash is the point of it
    world = World()
    url = await server(world.app)
    readers = [Reader(world, url, key) for key in range(RUNS)]
    async with trio.open_nursery() as nursery:
        for reader in readers:
            nursery.start_soon(reader.attend)
    both = (world.patient, world.impatient)
    await aeventually(lambda: not any(runs.statistics().running for runs in both), "all are over")
    assert world.alive == 0
    ended = sum((Counter(runs.statistics().ended) for runs in both), Counter())
    assert ended.total() == RUNS
    assert "client_disconnected" not in world.patient.statistics().ended
    assert ended["completed"] > 50
    assert ended["error"] > 20
    assert ended["client_disconnected"] > 10
    assert ended["stopped"] > 20
    for reader in readers:
        if not is_hung(reader.key) and not is_stopped(reader.key):
            assert reader.ending == ("failed" if reader.key % 5 == 0 else "end"), reader.key
