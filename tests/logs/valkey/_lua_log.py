"""The log's scripts, called as the client calls them, over one connection that blocks."""

from __future__ import annotations

import socket
from itertools import count
from typing import Any
from urllib.parse import urlsplit

import hiredis

from flowstream.ids._event_id import new_epoch
from flowstream.logs.valkey._valkey_scripts import script

PREFIX = "{flowstream}:"
_databases = count(5000)
_tokens = count(1)
# What a topic keeps unless a test says something else: items, bytes, and for ever.
KEEP = "1000 8388608 0"


class LuaLog:
    """The scripts as methods, in a database of its own.

    Args:
        url: of the server.

    Attributes:
        server: what the scripts are told of it: "0" if it may lose something, "1" if it may not.
    """

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)
        self._database = next(_databases)
        self._wire = Wire(self._url.port or 0)
        self._wires = [self._wire]
        self.ask("SELECT", self._database)
        self.ask("FLUSHDB")

    def close(self) -> None:
        for wire in self._wires:
            wire.close()

    def ask(self, *command: Any) -> Any:
        """Send any command."""
        return self._wire.ask(*command)

    def call(self, name: str, *words: Any, ask: bool = False, epoch: str = "") -> Any:
        """Call a script."""
        made = epoch or new_epoch()
        head = ("1" if ask else "0", made, made, "0", f"{PREFIX}{self._database}:")
        return self.ask("EVAL", script(name).text, 1, f"{PREFIX}log", *head, *words)

    def append(self, topic: str, *data: bytes, keep: str = KEEP, **options: Any) -> str:
        """Append events; return their places as text.

        Args:
            topic: where.
            data: of each event.
            keep: what the topic keeps.
            options: `token`, `fence`, and lists of `keys` and of idempotency keys (`asked`).
        """
        keys, asked = options.get("keys", []), options.get("asked", [])
        with_keys: list[Any] = []
        for place in range(len(data)):
            key = keys[place] if keys else ""
            once = asked[place] if asked else ""
            if key or once:
                with_keys += [place + 1, key or "", once or "", 300_000]
        words = [len(data), len(with_keys) // 4, *data, *with_keys]
        token = options.get("token", f"t{next(_tokens)}")
        found = self.call("append", topic, token, keep, options.get("fence", ""), *words)
        return found[0].decode()

    def read(self, topic: str, epoch: str = "-", after: int = 0, limit: int = 1000) -> list[Any]:
        """Return what `read` returns, without the time: epochs, number, first, known, rows.

        A row is the event's number, and its data.
        """
        _, epochs, number, first, known, rows = self.call("read", topic, epoch, after, limit, "0")
        found = [(int(place.partition(b"-")[0]), values[3]) for place, values in rows]
        return [epochs.decode(), number, first, known, found]

    def events(self, topic: str) -> list[tuple[int, bytes]]:
        """Return the numbers and data of all events that can be read."""
        epochs, _, first, _, _ = self.read(topic)
        epoch = epochs.split(",")[0].partition(":")[0]
        return self.read(topic, epoch, first - 1, 100_000)[4]

    def epoch(self, topic: str) -> str:
        """Return the topic's last epoch."""
        return self.read(topic)[0].split(",")[-1].partition(":")[0]

    def stored(self, topic: str) -> list[int]:
        """Return the numbers of the events that are stored."""
        rows = self.ask("XRANGE", f"{PREFIX}events:{topic}", "-", "+")
        return [int(place.partition(b"-")[0]) for place, _ in rows]

    def field(self, topic: str, name: str) -> str | None:
        """Return a field of the topic's hash."""
        value = self.ask("HGET", f"{PREFIX}topic:{topic}", name)
        return None if value is None else value.decode()

    def now(self) -> int:
        """Return the server's clock, in microseconds."""
        seconds, microseconds = self.ask("TIME")
        return int(seconds) * 1_000_000 + int(microseconds)

    def set_times(self, topic: str, seconds: float, *names: str) -> None:
        """Move times in the topic's hash, and when the sweep looks at it with `due`."""
        for name in names:
            moved = int(self.field(topic, name) or 0) + int(seconds * 1_000_000)
            self.ask("HSET", f"{PREFIX}topic:{topic}", name, moved)
            if name == "due":
                self.ask("ZADD", f"{PREFIX}due", moved, topic)

    def stored_keys(self) -> list[str]:
        """Return all keys, without what they begin with and without the log's own."""
        found = [key.decode().removeprefix(PREFIX) for key in self.ask("KEYS", "*")]
        return sorted(key for key in found if key not in ("log", "due", "names"))

    def counted(self) -> tuple[int, int]:
        """Return how many topics the log says it has, and how many there are in its list."""
        said = int(self.ask("HGET", f"{PREFIX}log", "topics") or 0)
        return said, self.ask("ZCARD", f"{PREFIX}due")

    def listening(self, *topics: str) -> Wire:
        """Subscribe to the channels of topics, and of the log; `heard` then returns the next."""
        wire = Wire(self._url.port or 0)
        self._wires.append(wire)
        channel = f"{PREFIX}{self._database}:"
        for name in ("", *topics):
            wire.ask("SUBSCRIBE", f"{channel}{name}")
        wire.prefix = channel.encode()
        return wire


class Wire:
    """A connection: one command, one reply."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 30)
        self._reader = hiredis.Reader(notEnoughData=self)
        self.prefix = b""

    def close(self) -> None:
        self._socket.close()

    def ask(self, *command: Any) -> Any:
        self._socket.sendall(hiredis.pack_command(command))
        return self._next()

    def heard(self) -> tuple[str, bytes]:
        """Return the topic and the payload of the next message."""
        kind, channel, payload = self._next()
        assert kind == b"message"
        return channel.removeprefix(self.prefix).decode(), payload

    def _next(self) -> Any:
        while (reply := self._reader.gets()) is self:
            data = self._socket.recv(1 << 20)
            assert data, "the server has hung up"
            self._reader.feed(data)
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply
