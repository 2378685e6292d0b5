"""One client: it connects, reads at its own pace, leaves, and comes back to another worker."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import trio

from .account import Account

_STRANGE_IDS = ("nonsense", "1lgppmf8l75.a3", "1lgppmf8l75.c12", "0.0", "e.a0", "🦆")


@dataclass(frozen=True)
class Habit:
    """How a client behaves."""

    pause: float = 0.0
    """Seconds between two reads."""
    stall: float = 0.0
    """How likely it stands still for up to 2 s, at each read."""
    stay: float = 60.0
    """Seconds after which it leaves, about, and comes back; not before it has got something."""
    lies: float = 0.0
    """How likely it comes back with a wrong id."""
    buffer: int = 20_000
    """Events that the server may keep for it."""
    filtered: bool = False
    receive_buffer: int = 1 << 16


FAST = Habit()
DROPPING = Habit(stay=0.7)
SLOW = Habit(pause=0.05, buffer=32, receive_buffer=4096)
STALLING = Habit(stall=0.05, buffer=64, receive_buffer=4096)
LYING = Habit(stay=1.0, lies=0.5)
FILTERED = Habit(stay=3.0, filtered=True, buffer=64)
HABITS = (FAST, DROPPING, SLOW, STALLING, LYING, FILTERED)


class Client:
    """One client.

    Args:
        account: what it got so far: nothing.
        habit: how it behaves.
        format: "sse" or "ndjson".
        servers: returns the URLs of the servers that are there.
        seed: of its choices.
    """

    def __init__(
        self,
        account: Account,
        habit: Habit,
        format: str,
        servers: Callable[[], list[str]],
        seed: str,
    ) -> None:
        self.account = account
        self._habit = habit
        self._format = format
        self._servers = servers
        self._dice = random.Random(seed)
        self._last_id: str | None = None
        self.calm = False  # whether it now reads all that there is, and stays
        self.done = trio.Event()

    def start_behind(self, id: str | None) -> None:
        """Have it come for what follows `id`."""
        self._last_id = id

    async def run(self) -> None:
        """Read until it has the last event of all."""
        while not self._at_the_end:
            servers = self._servers()
            if not servers:
                await trio.sleep(0.05)
                continue
            wrong = not self.calm and self._dice.random() < self._habit.lies
            came_with = self._strange_id() if wrong else self._last_id
            try:
                await self._connect(self._dice.choice(servers), came_with, wrong)
            except OSError:
                await trio.sleep(self._dice.uniform(0.01, 0.1))
        self.done.set()

    @property
    def _at_the_end(self) -> bool:
        if self.calm and self._last_id is None:
            return True  # it came new, has never got anything, and has no place to come back to
        end, last = self.account.topic.last, self.account.last
        return end is not None and last is not None and last >= end

    def _strange_id(self) -> str:
        epoch = (self._last_id or "").partition(".")[0]
        return self._dice.choice((*_STRANGE_IDS, f"{epoch}.g9999999"))

    async def _connect(self, url: str, came_with: str | None, wrong: bool) -> None:
        habit, address = self._habit, urlsplit(url)
        with trio.socket.socket() as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, habit.receive_buffer)
            await peer.connect((address.hostname, address.port))
            wants = "thirds" if habit.filtered else "all"
            path = f"/{self.account.topic.name}?format={self._format}&wants={wants}"
            back = "" if came_with is None else f"Last-Event-ID: {came_with}\r\n"
            request = f"GET {path}&buffer={habit.buffer} HTTP/1.1\r\nHost: localhost\r\n{back}\r\n"
            await peer.send(request.encode())
            reader = Reader(self._format)
            began = got = False
            leave_at = trio.current_time() + habit.stay * self._dice.uniform(0.1, 1.9)
            while not self._at_the_end:
                if wrong if self.calm else got and trio.current_time() > leave_at:
                    return
                with trio.move_on_after(0.5):
                    data = await peer.recv(65536)
                    if not data:
                        return
                    pieces = reader.feed(data)
                    if reader.status and not began:
                        began = True
                        if reader.status != 200:
                            return  # it is about to end
                        self.account.begin(came_with=came_with, wrong=wrong)
                    got = got or bool(pieces)
                    for piece in pieces:
                        self._take(*piece)
                    if reader.ended:
                        return
                if not self.calm:
                    await self._idle(habit)

    async def _idle(self, habit: Habit) -> None:
        if habit.pause:
            await trio.sleep(habit.pause)
        if habit.stall and self._dice.random() < habit.stall:
            await trio.sleep(self._dice.uniform(0.1, 2.0))

    def _take(self, kind: str, id: str | None, value: Any) -> None:
        account = self.account
        if kind == "message":
            account.event(id, value)
        elif kind == "gap":
            account.gap(value)
        elif kind == "snapshot":
            account.snapshot(id, value)
        else:
            account.end(kind, value)
        if id is not None:
            self._last_id = id


class Reader:
    """Takes a response apart: chunks, then frames or lines.

    Attributes:
        status: of the response; 0 until it is there.
        ended: whether the response is whole.
    """

    def __init__(self, format: str) -> None:
        self.status = 0
        self.ended = False
        self._raw = b""
        self._body = b""
        self._mark = b"\n\n" if format == "sse" else b"\n"
        self._parse = _frames if format == "sse" else _lines

    def feed(self, data: bytes) -> list[tuple[str, str | None, Any]]:
        """Take bytes; return the pieces that are whole: (kind, id, value)."""
        self._raw += data
        if not self.status:
            head, mark, rest = self._raw.partition(b"\r\n\r\n")
            if not mark:
                return []
            self.status, self._raw = int(head[9:12]), rest
        self._read_chunks()
        whole, mark, self._body = self._body.rpartition(self._mark)
        return list(self._parse((whole + mark).decode())) if mark else []

    def _read_chunks(self) -> None:
        raw, at, parts = self._raw, 0, []
        while (end := raw.find(b"\r\n", at)) >= 0:
            size = int(raw[at:end], 16)
            if len(raw) < end + 2 + size + 2:
                break
            parts.append(raw[end + 2 : end + 2 + size])
            at = end + 2 + size + 2
            if not size:
                self.ended = True
                break
        self._raw = raw[at:]
        self._body = b"".join((self._body, *parts))


def _frames(text: str) -> Iterator[tuple[str, str | None, Any]]:
    for frame in text.split("\n\n"):
        kind, id, data = "message", None, None
        for line in frame.split("\n"):
            name, _, value = line.partition(": ")
            if name == "data":
                data = value
            elif name == "id":
                id = value
            elif name == "event":
                kind = value
        if data is not None:
            yield kind, id, data if kind == "message" else json.loads(data)


def _lines(text: str) -> Iterator[tuple[str, str | None, Any]]:
    for line in text.splitlines():
        if line:
            value = json.loads(line)
            yield value.get("type", "message"), value.get("id"), value["data"]
