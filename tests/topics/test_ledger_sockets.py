"""The ledger on real sockets: clients that stall, drop and come back, a server that restarts.

The topic's events are numbers, each its own place in the topic; so a client can check by
itself that what it gets goes on where it left off, or behind a gap of the right size.
"""

import json
import math
import os
import random
import socket
from urllib.parse import urlsplit

import pytest
import trio
from ledger_books import parse_sse

from flowstream.ids._event_id import parse_event_id

pytestmark = pytest.mark.chaos

SOURCE = """
import trio
from flowstream import Replay, Topic, sse
from flowstream import DropNewest, DropOldest, Sample

topic = Topic("numbers", replay=Replay(items=300))
policies = [DropOldest(), DropNewest(), Sample(every=4)]
state = {"published": 0, "publish": True}

async def publish():
    while state["publish"]:
        for _ in range(40):
            state["published"] += 1
            await topic.publish(f"{state['published']} " + "." * 400)
        await trio.sleep(0.01)

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        async with trio.open_nursery() as nursery:
            await receive()
            await send({"type": "lifespan.startup.complete"})
            nursery.start_soon(publish)
            await receive()
            nursery.cancel_scope.cancel()
            await send({"type": "lifespan.shutdown.complete"})
    elif scope["path"] == "/close":
        state["publish"] = False
        await trio.sleep(0.1)
        await topic.aclose()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(state["published"]).encode()})
    else:
        policy = policies[int(scope["path"][1:]) % 3]
        await sse(topic, buffer=24, policy=policy, heartbeat=None)(scope, receive, send)
"""


class Place:
    """Where one client is, over all its connections."""

    def __init__(self, number):
        self.number = number
        self.random = random.Random(number)
        self.last_id = None
        self.events = self.gaps = self.missed = self.connections = 0
        self.due = None  # the number that comes next; None while that is not known
        self.final = None  # the last number there was, once it is told of the end

    def begin(self, last_id):
        """A connection begins with this id."""
        self.connections += 1
        self.came_with = last_id
        self.epoch, number = parse_event_id(last_id or "") or ("", None)
        self.due = None if number is None else number + 1
        self.announced = last_id is None  # a new client is told of no gap
        self.fresh = True

    def piece(self, kind, text, id):
        if kind == "gap":
            gap = json.loads(text)
            self.gaps += 1
            if gap["missed"] is None:
                assert self.fresh
                assert gap["after"] is None
                self.due = None
                self.announced = True
            else:
                self.missed += gap["missed"]
                if self.due is None:  # it is new, or was told already that it lost its place
                    assert self.announced
                    assert gap["after"] is None
                else:
                    assert gap["after"] == (self.came_with if self.fresh else self.last_id)
                    self.due += gap["missed"]
        elif kind == "message":
            number = int(text.partition(" ")[0])
            epoch, found = parse_event_id(id)
            assert found == number
            assert self.last_id is None or epoch != self.epoch or id > self.last_id
            if self.due is None:
                assert self.announced, "an event in front of the gap that was due"
            else:
                assert number == self.due, f"{number} where {self.due} was due"
                assert self.came_with is None or not self.fresh or epoch == self.epoch
            self.due = number + 1
            self.last_id = id
            self.events += 1
        elif kind == "end":
            self.final = self.due
        self.fresh = False


async def be_a_client(place, url, until):
    """Connect, read at some pace, leave, and come back, until the topic has ended."""
    choose = place.random
    while place.final is None:
        last_id = place.last_id
        if choose.random() < 0.1:
            future = f"{(last_id or '').partition('.')[0]}.g9999999"
            last_id = choose.choice(["deadbeef.3", "1lgppmf8l75.a3", "nonsense", future])
        place.begin(last_id)
        leave_at = trio.current_time() + choose.choice([0.1, 0.4, 1.5])
        if trio.current_time() > until:
            leave_at = math.inf
        try:
            await read(place, url(), last_id, leave_at)
        except OSError:
            await trio.sleep(0.05)  # the server is being restarted


async def read(place, url, last_id, leave_at):
    choose = place.random
    with trio.socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        address = urlsplit(url)
        await peer.connect((address.hostname, address.port))
        back = "" if last_id is None else f"Last-Event-ID: {last_id}\r\n"
        request = f"GET /{place.number} HTTP/1.1\r\nHost: localhost\r\n{back}\r\n"
        await peer.send(request.encode())
        head = body = b""
        while b"\r\n\r\n" not in head:
            head += await receive(peer)
        assert head.startswith(b"HTTP/1.1 200 ")
        rest = head.partition(b"\r\n\r\n")[2]
        while trio.current_time() < leave_at and place.final is None:
            while True:  # chunk by chunk, whichever way each was written
                size, mark, after = rest.partition(b"\r\n")
                if not mark or len(after) < int(size, 16) + 2:
                    break
                assert after[int(size, 16) :].startswith(b"\r\n")
                body += after[: int(size, 16)]
                rest = after[int(size, 16) + 2 :]
                if int(size, 16) == 0:
                    break
            whole, mark, body = body.rpartition(b"\n\n")
            for kind, text, id in parse_sse((whole + mark).decode()):
                place.piece(kind, text, id)
            if leave_at < math.inf and choose.random() < 0.02:
                await trio.sleep(choose.choice([0.02, 0.3]))  # it stalls
            if place.final is None:
                rest += await receive(peer)


async def receive(peer):
    data = await peer.recv(65536)
    if not data:
        raise ConnectionResetError
    return data


async def soak(served, seconds, clients, restarts):
    process = served(SOURCE)
    places = [Place(number) for number in range(clients)]
    finals = []
    end = trio.current_time() + seconds
    async with trio.open_nursery() as nursery:
        for place in places:
            nursery.start_soon(be_a_client, place, lambda: process.url, end)
        for _ in range(restarts):
            await trio.sleep(seconds / (restarts + 1))
            await trio.to_thread.run_sync(process.end)
            process = await trio.to_thread.run_sync(served, SOURCE)
        await trio.sleep(seconds / (restarts + 1) + 1.6)
        # Everybody is connected for good by now.
        address = urlsplit(process.url)
        closer = await trio.open_tcp_stream(address.hostname, address.port)
        async with closer:
            await closer.send_all(b"GET /close HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = b"".join([part async for part in closer])
        finals.append(int(answer.partition(b"\r\n\r\n")[2].split(b"\r\n")[1]))
        with trio.move_on_after(20) as scope:
            while any(place.final is None for place in places):  # noqa: ASYNC110
                await trio.sleep(0.02)
        assert not scope.cancelled_caught, "somebody was not told of the end"
    for place in places:
        assert place.final == finals[0] + 1, "a tail that nobody spoke of"
        assert place.connections > restarts
    return places, process


async def test_nothing_is_lost_quietly_on_real_sockets(served):
    """Stalls, drops, wrong ids, one restart: each client accounts for every number."""
    places, process = await soak(served, 2.5, 12, 1)
    assert sum(place.events for place in places) > 2000
    assert sum(place.gaps for place in places) > 12
    assert "Traceback" not in process.log


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_nothing_is_lost_quietly_for_long(served):
    """The same for minutes, with more clients and more restarts."""
    seconds = float(os.environ.get("SOAK_SECONDS", "300"))
    places, process = await soak(served, seconds, 60, 6)
    assert sum(place.missed for place in places) > 1000
    assert "Traceback" not in process.log
