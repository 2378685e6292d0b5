"""A client that reads nothing, and a producer without an end: what it costs the others."""

import logging
import os
import re
import statistics
import time

import httpx2
import psutil
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from flowstream import Buffer, Limits, sse

pytestmark = pytest.mark.chaos

BUFFER = Buffer(items=100_000, bytes=256 * 1024)
ALLOWED = BUFFER.bytes + 1_000_000

APP = f"""
    import json
    import time
    from urllib.parse import parse_qs

    import trio
    from flowstream import (
        Block, Buffer, Conflate, Disconnect, DropNewest, DropOldest, Event, Limits, Sample, raw, sse
    )

    POLICIES = {{
        "Block": Block(),
        "DropOldest": DropOldest(),
        "DropNewest": DropNewest(),
        "Sample(every=)": Sample(every=10),
        "Sample(interval=)": Sample(interval=0.1),
        "Conflate": Conflate(),
        "Disconnect": Disconnect(),
    }}
    TEXT = "x" * 1000
    made = []
    reports = []
    state = {{"sent": 0, "ended": 0}}

    async def endless():
        n = 0
        try:
            while True:
                yield Event(TEXT, key=n % 1000)
                state["sent"] = n = n + 1
        finally:
            state["ended"] += 1

    async def ticks():
        while True:
            yield time.monotonic()
            await trio.sleep(0.004)

    async def app(scope, receive, send):
        if scope["type"] != "http":
            return
        pairs = parse_qs(scope["query_string"].decode())
        query = {{name: values[0] for name, values in pairs.items()}}
        if scope["path"] == "/endless":
            response = sse(
                endless,
                policy=POLICIES[query["policy"]],
                buffer={BUFFER!r},
                limits=Limits(stall_timeout=float(query.get("stall", 60))),
                on_close=lambda report: reports.append(report.reason.value),
            )
            made.append(response)
        elif scope["path"] == "/ticks":
            response = sse(ticks)
        else:
            buffers = [one.statistics().buffer for one in made]
            held = [[buffer.items, buffer.bytes] for buffer in buffers]
            response = raw([json.dumps({{**state, "reports": reports, "held": held}}).encode()])
        await response(scope, receive, send)
"""

POLICIES = [
    "Block",
    "DropOldest",
    "DropNewest",
    "Sample(every=)",
    "Sample(interval=)",
    "Conflate",
    "Disconnect",
]


def state(url):
    return httpx2.get(f"{url}/state").json()


def latencies(reader, count):
    """Return, for that many ticks, the seconds from their making to their arrival here.

    Those that were made before this was called have waited for us, and do not count.
    """
    found, data, start = [], b"", time.monotonic()
    while len(found) < count:
        data += reader.socket.recv(65536)
        now = time.monotonic()
        *lines, data = data.split(b"\n")
        made = [float(line[6:]) for line in lines if re.match(rb"data: [\d.]+$", line)]
        found += [now - then for then in made if then > start]
    return found


def p99(values):
    return statistics.quantiles(values, n=100)[98]


@pytest.mark.parametrize("policy", POLICIES)
def test_memory_and_latency(served, client, eventually, policy):
    """With a stalled client and an endless producer the server's memory grows by no more than
    the buffer and 1 MB, and events reach another client as fast as before.
    """
    server = served(APP)
    process = psutil.Process(server.pid)
    ticking = client(server.url)
    ticking.get("/ticks")
    latencies(ticking, 50)
    state(server.url)
    without = latencies(ticking, 250)
    before = process.memory_info().rss

    stalled = client(server.url, receive_buffer=4096)
    stalled.get(f"/endless?policy={policy}")
    full = eventually(lambda: settled(server.url, policy), "the buffer is full, or the stream over")
    beside = latencies(ticking, 250)
    grown = process.memory_info().rss - before

    message = "%s: grown by %d bytes, p99 %.4f s alone and %.4f s beside it"
    logging.getLogger(__name__).info(message, policy, grown, p99(without), p99(beside))
    assert grown <= ALLOWED
    # The slack is for a machine that does other things besides. Whoever waited for the stalled
    # client would wait until its stall_timeout.
    assert statistics.median(beside) <= statistics.median(without) + 0.02
    assert p99(beside) <= p99(without) + 0.25
    if policy == "Disconnect":
        assert full["reports"] == ["slow_consumer"]
    else:
        assert full["held"][0][1] <= BUFFER.bytes + 2000
    assert "Traceback" not in server.log


def settled(url, policy):
    now = state(url)
    if policy == "Disconnect":
        return now if now["reports"] else None
    if policy.startswith("Sample"):
        return now if now["sent"] > 20_000 else None
    return now if now["held"] and now["held"][0][1] > BUFFER.bytes * 0.9 else None


@pytest.mark.parametrize("policy", ["Block", "DropOldest", "Conflate"])
def test_a_stall_frees_the_producer_the_buffer_and_the_socket(served, client, eventually, policy):
    """At stall_timeout the producer has ended, the buffer is empty and the socket closed."""
    server = served(APP)
    stalled = client(server.url, receive_buffer=4096)
    stalled.get(f"/endless?policy={policy}&stall=0.5")
    eventually(lambda: state(server.url)["reports"], "the stall is reported")
    after = state(server.url)
    assert after["reports"] == ["stalled"]
    assert after["ended"] == 1
    assert after["held"] == [[0, 0]]
    connections = psutil.Process(server.pid).net_connections("tcp")
    here = stalled.socket.getsockname()[1]
    assert not [c.status for c in connections if c.raddr and c.raddr.port == here]
    assert "Traceback" not in server.log


async def test_a_stall_leaves_nothing_behind(server, client, aeventually):
    """After stall_timeout there is no task and no descriptor of it, though the client stays."""
    reports = []

    async def endless():
        while True:
            yield "x" * 1000

    async def app(scope, receive, send):
        if scope["type"] == "http":
            limits = Limits(stall_timeout=0.2)
            await sse(endless, limits=limits, on_close=reports.append)(scope, receive, send)

    def held():
        return trio.lowlevel.current_statistics().tasks_living, len(os.listdir("/proc/self/fd"))

    url = await server(app)
    await wait_all_tasks_blocked()
    stalled = client(url, receive_buffer=4096)
    before = held()
    stalled.get("/")
    await aeventually(lambda: held() > before, "it is served")
    await aeventually(lambda: reports, "the stall is reported")
    await aeventually(lambda: held() == before, "the server has closed its end")
    assert [report.reason for report in reports] == ["stalled"]
