"""The fast path of a delivery, counted in each home: it is lost without a sound otherwise.

A delivery to a client that waits is one write to its socket. It wakes no task, and it costs as
many instructions in each home as in a bare ASGI app.
"""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
import trio
import trio.testing
from _homes import HOMES

from flowstream import Topic, sse

CLIENTS = 40
EVENTS = 25


class Steps(trio.abc.Instrument):
    """Counts how often a task of the run goes on."""

    def __init__(self):
        self.count = 0

    def before_task_step(self, task):
        self.count += 1


@pytest.mark.parametrize("home", HOMES)
async def test_no_task_is_woken(home, server, client, aeventually):
    """Forty clients get each event while two tasks run: the publisher's, and at most one more."""
    topic = Topic("t")
    url = await server(HOMES[home](lambda: sse(topic)))
    peers = [client(url) for _ in range(CLIENTS)]
    for peer in peers:
        peer.get("/")
    await aeventually(lambda: topic.subscribers == CLIENTS, "all have subscribed")
    await trio.testing.wait_all_tasks_blocked(0.05)
    steps = Steps()
    trio.lowlevel.add_instrument(steps)
    for number in range(EVENTS):
        await topic.publish(f"<{number}>")
        await trio.lowlevel.checkpoint()
    trio.lowlevel.remove_instrument(steps)
    statistics = topic.statistics()
    assert statistics.direct_deliveries == statistics.deliveries == CLIENTS * EVENTS
    assert steps.count / EVENTS <= 2
    await topic.aclose()
    for peer in peers:
        assert (await trio.to_thread.run_sync(peer.read_until, b"0\r\n\r\n")).count(b"<") == EVENTS


# -- instructions ------------------------------------------------------------------------------

MANY = 200  # events: the request that has them published is to weigh little

SERVED = """
import json, os, sys
import trio
sys.path.insert(0, {folder!r})
from _homes import HOMES
import flowstream
from flowstream.server import streaming_config

topic = flowstream.Topic("t")
home = HOMES[{home!r}](lambda: flowstream.sse(topic))

async def app(scope, receive, send):
    if scope["type"] == "http" and scope["path"] == "/publish":
        for _ in range({events}):
            await topic.publish("x" * 100)
        statistics = topic.statistics()
        body = json.dumps([statistics.subscribers, statistics.direct_deliveries]).encode()
        head = {{"type": "http.response.start", "status": 200, "headers": []}}
        await send(head)
        await send({{"type": "http.response.body", "body": body}})
    else:
        await home(scope, receive, send)

async def main():
    config = streaming_config(bind=["127.0.0.1:0"], errorlog=None)
    async with trio.open_nursery() as nursery:
        (url,) = await nursery.start(flowstream.serve, app, config)
        print(url, flush=True)

trio.run(main)
"""


def instructions_per_delivery(home, program, folder, client):
    """Return how many instructions a delivery takes, with its share of what an event does."""
    source = SERVED.format(folder=str(Path(__file__).parent), home=home, events=MANY)
    out = folder / home
    command = [
        *(program("valgrind"), "--tool=callgrind", "--instr-atstart=no"),
        *(f"--callgrind-out-file={out}", sys.executable, "-c", source),
    ]
    # The order of sets is the same in each run.
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        try:
            url = process.stdout.readline().strip()
            assert urlsplit(url).port
            peers = [client(url, timeout=60) for _ in range(CLIENTS)]
            for peer in peers:
                peer.get("/")
                peer.read_until(b"\r\n\r\n")
                peer.socket.setblocking(False)

            def publish():
                """Return how many have subscribed, and how much was written directly."""
                found = json.loads(urlopen(f"{url}/publish", timeout=60).read())
                for peer in peers:
                    drain(peer)
                return found

            def count(switch):
                control = [program("callgrind_control"), "-i", switch, str(process.pid)]
                subprocess.run(control, check=True, capture_output=True)

            for _ in range(20):  # until all wait, and what is made once is
                before = publish()
                now = publish()
                if now == [CLIENTS, before[1] + CLIENTS * MANY]:
                    break
            count("on")
            deliveries = publish()[1] - now[1]
            count("off")
        finally:
            process.terminate()
    assert deliveries == CLIENTS * MANY
    (totals,) = [line for line in out.read_text().splitlines() if line.startswith("totals:")]
    return int(totals.split()[1]) / deliveries


def drain(peer):
    with contextlib.suppress(BlockingIOError):
        while peer.socket.recv(1 << 16):
            pass


@pytest.mark.chaos  # half a minute of valgrind
@pytest.mark.timeout(300)
def test_as_many_instructions_as_in_a_bare_app(program, tmp_path, client):
    """In no home does a delivery take a third more instructions than in a bare ASGI app.

    A fast path that is lost takes ten times as many. The rest is what counts differ by: up to a
    fifth on a busy machine, on which more timers come due in the same deliveries.
    """
    taken = {home: instructions_per_delivery(home, program, tmp_path, client) for home in HOMES}
    assert max(taken.values()) < 1.33 * taken["bare"], taken
