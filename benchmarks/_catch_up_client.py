"""The clients of `catch_up.py`: ``python _catch_up_client.py PORT PATH CLIENTS EVENTS``.

All connect at once, send one request each, and read until each has so many events; one epoll. Then
it prints a line of JSON, and holds the connections until its standard input is closed. An event
ends in a tilde, which occurs nowhere else.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time


def main() -> None:
    port, path, clients, events = int(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:5])
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
    request = head.encode()
    poller = select.epoll()
    streams: dict[int, tuple[socket.socket, int]] = {}
    buffer = bytearray(1 << 20)
    start = time.monotonic()
    unopened, left, size = clients, clients, 0
    while left:
        for _ in range(min(unopened, 64)):  # the server accepts while the next ones connect
            unopened -= 1
            connection = socket.create_connection(("127.0.0.1", port))
            connection.sendall(request)
            connection.setblocking(False)
            streams[connection.fileno()] = connection, events
            poller.register(connection, select.EPOLLIN)
        for fd, _ in poller.poll(0 if unopened else 60):
            connection, missing = streams[fd]
            got = connection.recv_into(buffer)
            if not got and missing > 0:
                raise SystemExit(f"a client was cut off with {missing} events missing")
            if not got:  # Node closes a connection that has been idle while others still read
                poller.unregister(fd)
                continue
            size += got
            found = buffer.count(b"~", 0, got)
            streams[fd] = connection, missing - found
            if missing > 0 and missing <= found:
                left -= 1
                if missing < found:
                    raise SystemExit("a client got too many events")
    print(json.dumps({"wall": time.monotonic() - start, "bytes": size}), flush=True)
    sys.stdin.read()


main()
