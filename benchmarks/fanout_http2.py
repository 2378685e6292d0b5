"""What a delivery costs over HTTP/2, in both ways that it can take, in each home.

* direct: the publisher hands a frame to the client's connection (`DirectFrames`).
* through the writer: with ``direct=False`` the event wakes the stream's writer, which fills the
  stream's buffer, which wakes the connection's sending task. What is refused goes this way.

How it is measured: two topics in one server, one for each way, and clients of both; events of 100
bytes are published to one topic, then to the other, in turns. An event is published when the one
before is delivered. CPU time of the server's process; it has a core of its own. The clients are in
this process, on another core: they read and look at nothing. How many deliveries were direct is
counted, and printed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import select
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from _counted import CountedTopic, ask
from _homes import HOME_LABELS, HOMES, versions
from server_cost import make_certificate
from single_stream import pinned

WAYS = {"direct": None, "through the writer": False}
"""The `direct` argument of each way."""
SHAPES = {"100x10": (100, 10), "1000x1": (1000, 1)}
"""Connections, and streams on each."""
EVENTS = 10  # of one measurement


# The server


def serve(home: str, certificate: str) -> None:
    """Serve both topics until killed; print the ports with TLS and without."""
    import trio
    import trio.testing

    import flowstream
    from flowstream.server import streaming_config

    topics = {str(number): CountedTopic() for number in range(len(WAYS))}
    values = dict(zip(topics, WAYS.values(), strict=True))

    async def stream(given: dict[str, str]) -> Any:
        way = given["way"]
        return topics[way].stream(heartbeat=None, direct=values[way])

    async def publish(given: dict[str, str]) -> dict[str, Any]:
        counted = topics[given["way"]]
        before, began = await counted.statistics({}), time.process_time()
        for _ in range(int(given["events"])):
            await counted.topic.publish("x" * 100)
            await trio.testing.wait_all_tasks_blocked(0.0005)
        seconds = time.process_time() - began
        after = await counted.statistics({})
        return {
            "subscribers": counted.topic.statistics().subscribers,
            "seconds": seconds,
            "deliveries": after["deliveries"] - before["deliveries"],
            "direct": after["direct"] - before["direct"],
        }

    app, _ = HOMES[home]({"/stream": stream, "/publish": publish})
    config = streaming_config(h2c=True, backlog=4096)
    config.bind, config.insecure_bind = ["127.0.0.1:0"], ["127.0.0.1:0"]
    config.certfile = config.keyfile = certificate
    config.loglevel = "ERROR"

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            addresses = await nursery.start(flowstream.serve, app, config)
            ports = {a.partition(":")[0]: int(a.rpartition(":")[2]) for a in addresses}
            print(json.dumps(ports), flush=True)

    trio.run(main)


@contextmanager
def running(home: str, certificate: Path) -> Iterator[dict[str, int]]:
    """Run the server; give its ports."""
    command = [sys.executable, __file__, "--serve", home, str(certificate)]
    with pinned(0):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


# The clients


def connect(port: int, *, tls: bool) -> socket.socket:
    """Return a connection for HTTP/2."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    if not tls:
        return connection
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context.wrap_socket(connection)


def open_streams(connection: socket.socket, way: int, count: int) -> None:
    """Ask for so many streams, with windows that never close."""
    import h2.config
    import h2.connection
    from h2.settings import SettingCodes

    speaker = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    speaker.local_settings.update({SettingCodes.INITIAL_WINDOW_SIZE: 2**31 - 1})
    speaker.initiate_connection()
    speaker.increment_flow_control_window(2**30)
    asked = [(":method", "GET"), (":path", f"/stream?way={way}")]
    asked += [(":scheme", "http"), (":authority", "localhost")]
    for number in range(1, 2 * count, 2):
        speaker.send_headers(number, asked, end_stream=True)
    connection.sendall(speaker.data_to_send())
    connection.setblocking(False)


class Readers(threading.Thread):
    """Reads what comes to all connections, and looks at nothing."""

    def __init__(self, connections: list[socket.socket]) -> None:
        super().__init__(daemon=True)
        self._connections = {one.fileno(): one for one in connections}
        self._ready = select.epoll()
        for number in self._connections:
            self._ready.register(number, select.EPOLLIN)
        self._over = False

    def run(self) -> None:
        """Read until `end`."""
        while not self._over:
            for number, _ in self._ready.poll(0.5):
                try:
                    if not self._connections[number].recv(1 << 16):
                        raise SystemExit("the server closed a connection")
                except (BlockingIOError, ssl.SSLWantReadError):
                    pass

    def end(self) -> None:
        """Stop, and close all connections."""
        self._over = True
        self.join()
        for connection in self._connections.values():
            connection.close()


# The measurement


def measure(
    home: str, shape: str, *, tls: bool, turns: int, certificate: Path
) -> dict[str, tuple[list[float], float]]:
    """Return, for each way, microseconds of CPU a delivery, and the share of direct ones."""
    many, streams = SHAPES[shape]
    found: dict[str, tuple[list[float], list[float]]] = {way: ([], []) for way in WAYS}
    with running(home, certificate) as ports, ExitStack() as stack, pinned(1):
        port = ports["https" if tls else "http"]
        connections = []
        for way in range(len(WAYS)):
            for _ in range(many):
                connections.append(connect(port, tls=tls))
                open_streams(connections[-1], way, streams)
        readers = Readers(connections)
        readers.start()
        stack.callback(readers.end)
        for way in range(len(WAYS)):
            while (
                ask(ports["http"], f"/publish?way={way}&events=2")["subscribers"] < many * streams
            ):
                time.sleep(0.2)
        for _ in range(turns):
            for way, name in enumerate(WAYS):
                told = ask(ports["http"], f"/publish?way={way}&events={EVENTS}")
                if told["deliveries"] != EVENTS * many * streams:
                    raise SystemExit(f"{told['deliveries']} deliveries of {EVENTS} events")
                found[name][0].append(told["seconds"] / told["deliveries"] * 1e6)
                found[name][1].append(told["direct"] / told["deliveries"])
    return {way: (times, statistics.mean(shares)) for way, (times, shares) in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--homes", nargs="+", choices=list(HOMES), default=list(HOMES))
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--turns", type=int, default=5, help="measurements of each way; default: 5")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(*options.serve)
        return
    print("| home | connections x streams | TLS | direct, µs | through the writer, µs | ratio |")
    print("| --- | --- | --- | ---: | ---: | ---: |", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        certificate = make_certificate(directory)
        for home in options.homes:
            for shape in options.shapes:
                for tls in (False, True):
                    found = measure(
                        home, shape, tls=tls, turns=options.turns, certificate=certificate
                    )
                    (direct, share), (through, other) = found.values()
                    if share < 0.99 or other:
                        print(f"direct: {share:.0%} of the deliveries, and {other:.0%} without")
                    ratio = statistics.median(a / b for a, b in zip(direct, through, strict=True))
                    print(
                        f"| {HOME_LABELS[home]} | {shape} | {'yes' if tls else 'no'} "
                        f"| {statistics.median(direct):.1f} | {statistics.median(through):.1f} "
                        f"| {ratio:.2f} |",
                        flush=True,
                    )
    print(
        f"\n{versions('hypercorn', 'h2', 'trio')}, Python {platform.python_version()}, "
        f"{os.cpu_count()} cores, {options.turns} turns"
    )


if __name__ == "__main__":
    main()
