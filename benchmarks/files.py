"""A large file to one client: how fast, and in how much memory.

One server process for each way to send it, on a core of its own, a client that reads as fast
as it can on another, HTTP/1.1 without TLS:

* ``loop``: ``while data := file.read(65536): socket.sendall(data)``, and nothing else;
* ``file_chunks-HOME``: ``raw(file_chunks(...))`` in each of four homes, on flowstream's server;
* Starlette's `FileResponse` and Quart's `send_file`, on the same server.

Each round takes all ways one after the other. The file is in the page cache. Memory is by how much
the highest resident set of the server's process, as the kernel has it, grew with the file.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from _homes import HOMES, versions
from _servers import announce, serve_trio

FILE_RESPONSE, SEND_FILE = "Starlette FileResponse", "Quart send_file"
WAYS = ("loop", *(f"file_chunks-{home}" for home in HOMES), FILE_RESPONSE, SEND_FILE)


def make_app(way: str, path: str) -> tuple[Any, str]:
    """Return an app that sends the file in this way, and what it is made with."""
    if way.startswith("file_chunks-"):
        import flowstream
        from flowstream.sources import file_chunks

        async def download(given: dict[str, str]) -> Any:
            return flowstream.raw(file_chunks(path))

        return HOMES[way.removeprefix("file_chunks-")]({"/": download})
    if way == FILE_RESPONSE:
        from starlette.responses import FileResponse

        async def starlette(scope: Any, receive: Any, send: Any) -> None:
            await FileResponse(path)(scope, receive, send)

        return starlette, versions("starlette")
    from quart import send_file
    from quart_trio import QuartTrio

    from flowstream.quart import Flowstream

    quart = QuartTrio(__name__)
    Flowstream(quart)

    @quart.get("/")
    async def view() -> Any:
        return await send_file(path)

    return quart, versions("quart")


def loop(path: str) -> None:
    """Serve the file with nothing in between."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        announce(listening.getsockname()[1], "a loop")
        while True:
            connection, _ = listening.accept()
            with connection, open(path, "rb") as file:
                connection.recv(65536)
                length = os.path.getsize(path)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length)
                while data := file.read(65536):
                    connection.sendall(data)


def fetch(port: int) -> tuple[int, float]:
    """Read the file; return its bytes and the seconds it took."""
    buffer = bytearray(1 << 20)
    with socket.create_connection(("127.0.0.1", port)) as client:
        started = time.perf_counter()
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        size = client.recv_into(buffer)
        head, _, body = bytes(buffer[:size]).partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        got = len(body)
        while got < length:
            size = client.recv_into(buffer)
            if not size:
                raise RuntimeError(f"{got} of {length} bytes came")
            got += size
        return got, time.perf_counter() - started


def peak(pid: int) -> int:
    """Return the highest resident set of a process, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def measure(way: str, path: str) -> tuple[float, float, float]:
    """Return MB/s, CPU seconds of the server per GB, and MB by which its memory grew."""
    command = [sys.executable, __file__, "--serve", way, "--path", path]
    cores = sorted(os.sched_getaffinity(0))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = json.loads(server.stdout.readline())["port"]
            process = psutil.Process(server.pid)
            process.cpu_affinity(cores[:1])
            psutil.Process().cpu_affinity(cores[-1:])
            before, cpu = peak(server.pid), sum(process.cpu_times()[:2])
            size, seconds = fetch(port)
            cpu = sum(process.cpu_times()[:2]) - cpu
            return size / seconds / 1e6, cpu / size * 1e9, (peak(server.pid) - before) / 1e6
        finally:
            psutil.Process().cpu_affinity(cores)
            server.kill()


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512, help="MiB of the file; default: 512")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--serve", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--path", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve == "loop":
        loop(given.path)
    elif given.serve:
        serve_trio(*make_app(given.serve, given.path))
    else:
        with tempfile.NamedTemporaryFile() as file:
            for _ in range(given.size):
                file.write(os.urandom(1 << 20))
            file.flush()
            runs = [[measure(way, file.name) for way in WAYS] for _ in range(given.rounds)]
        print(
            "| way | MB/s | of the loop | CPU s/GB | memory, MB |\n| --- | --- | --- | --- | --- |"
        )
        for n, way in enumerate(WAYS):
            speed, cpu, memory = (statistics.median(run[n][i] for run in runs) for i in range(3))
            share = statistics.median(run[n][0] / run[0][0] for run in runs)
            print(f"| {way} | {speed:.0f} | {share:.0%} | {cpu:.1f} | {memory:.1f} |")


if __name__ == "__main__":
    main()
