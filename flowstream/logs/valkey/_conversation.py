"""What was said to a server and what it owes, as values: no I/O, and nothing waits.

A server answers in the order it was asked. So what is owed is a queue, and each reply is for the
first call in it. A caller may leave, but its call stays: the reply still comes, and is thrown
away. Two things come unasked or otherwise: *pushes*, which are news of channels, and the answers
to SUBSCRIBE and UNSUBSCRIBE, which are pushes too, one for each channel.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from flowstream._errors import missing_extra
from flowstream.logs.valkey._server_error import ServerError

try:
    import hiredis
except ImportError:
    raise missing_extra("a log on Valkey or Redis", "valkey") from None

Word: TypeAlias = bytes | str | int | float
Reply: TypeAlias = Any
"""``bytes``, ``int``, ``float``, ``bool``, ``None``, or a list or a dict of these."""

OWED_ITEMS = 4096
OWED_BYTES = 16 << 20
REPLY_BYTES = 128 << 20

_BY_PUSHES = {b"SUBSCRIBE", b"UNSUBSCRIBE"}
_NOTHING: Any = object()
_pack: Any = hiredis.pack_command  # typed as if a command had one word


class PendingCall:
    """Commands that were put into one write, and what came back so far.

    Attributes:
        results: a reply or an error for each command that was answered.
        owed: the number of replies that are still owed.
        begin: how many bytes were put before it, since the beginning.
        size: its own bytes.
        answered: called when it has all its replies, or can't get them any more; None if nobody
            wants to know.
    """

    __slots__ = ("answered", "begin", "owed", "results", "size", "subscriptions")

    def __init__(self, owed: int, begin: int, size: int) -> None:
        self.results: list[Reply | ServerError] = []
        self.owed = owed
        self.begin = begin
        self.size = size
        self.subscriptions: dict[int, tuple[bytes, list[bytes]]] = {}
        self.answered: Callable[[PendingCall], object] | None = None

    def answer(self, result: Reply | ServerError) -> None:
        """Note the reply to the next command."""
        self.results.append(result)
        self.owed -= 1

    def confirm(self, push: list[Any]) -> bool:
        """Note the push if it confirms the SUBSCRIBE that is next; return whether it does."""
        kind, channels = self.subscriptions.get(len(self.results), (b"", []))
        if not channels or len(push) < 3 or push[0] != kind or push[1] != channels[-1]:
            return False
        channels.pop()
        if not channels:
            self.answer(None)
        return True


class Conversation:
    """One connection's words, in both directions.

    Args:
        pushed: called with each push that no call waited for, in order.

    Attributes:
        calls: what is owed, oldest first.
        owed: the number of replies that are owed.
        owed_bytes: of the commands whose replies are owed.
        amid: whether all of what came last was the middle of one large reply.
        fault: why the server can't be believed any more, once it said what makes no sense; None
            until then. Nothing can be said over this connection afterwards.
    """

    def __init__(self, pushed: Callable[[list[Any]], None]) -> None:
        self.calls: deque[PendingCall] = deque()
        self.owed = 0
        self.owed_bytes = 0
        self.amid = False
        self.fault: str | None = None
        self._pushed = pushed
        self._out = bytearray()
        self._put = 0
        self._taken = 0
        self._received = 0  # bytes of the reply that is not complete yet, at the most
        self._reader = hiredis.Reader(replyError=ServerError, notEnoughData=_NOTHING)

    @property
    def full(self) -> bool:
        """Whether so much is owed that no more may be asked; one call may exceed the bounds."""
        return self.owed >= OWED_ITEMS or self.owed_bytes >= OWED_BYTES

    @property
    def unsent(self) -> int:
        """How many bytes `take` has yet to take."""
        return len(self._out)

    def put(self, commands: Sequence[Sequence[Word]]) -> PendingCall:
        """Put commands at the end of what is to be sent; nothing, if one of them can't be written.

        Raises:
            TypeError: a word is no bytes, str, int or float.
            UnicodeEncodeError: a str has half a character.
        """
        packed = [_pack(tuple(command)) for command in commands]
        size = sum(map(len, packed))
        call = PendingCall(len(packed), self._put, size)
        for number, command in enumerate(commands):
            name = command[0].encode() if isinstance(command[0], str) else command[0]
            if isinstance(name, bytes) and name.upper() in _BY_PUSHES and len(command) > 1:
                channels = [c if isinstance(c, bytes) else str(c).encode() for c in command[1:]]
                call.subscriptions[number] = (name.lower(), channels[::-1])
        for one in packed:
            self._out += one
        self._put += size
        self.calls.append(call)
        self.owed += call.owed
        self.owed_bytes += size
        return call

    def take(self, most: int) -> bytes:
        """Take up to `most` bytes of what is to be sent. They count as sent from now on."""
        if len(self._out) <= most:
            data = bytes(self._out)
            self._out.clear()
        else:
            data = bytes(memoryview(self._out)[:most])
            del self._out[:most]
        self._taken += len(data)
        return data

    def was_sent(self, call: PendingCall) -> bool:
        """Return whether the server may have seen some of it."""
        return call.begin < self._taken

    def receive(self, data: bytes | bytearray) -> list[PendingCall]:
        """Take what the server said; return the calls that are answered in full by it.

        Look at `fault` then.
        """
        finished: list[PendingCall] = []
        self._received += len(data)
        self.amid = True
        try:
            self._reader.feed(bytes(data))
        except MemoryError:
            self.fault = "it sent more than there is memory for"
            return finished
        while (item := self._next()) is not _NOTHING:
            self._received = self._reader.len()
            self.amid = False
            if isinstance(item, hiredis.PushNotification):
                if not (self.calls and self._confirm(item)):
                    self._pushed(item)
                    continue
            elif not self.calls:
                self.fault = "it sent a reply that nobody asked for"
                break
            else:
                self.calls[0].answer(item)
                self.owed -= 1
            if not self.calls[0].owed:
                call = self.calls.popleft()
                self.owed_bytes -= call.size
                finished.append(call)
        if self._received > REPLY_BYTES:
            self.fault = f"it sent a reply of more than {REPLY_BYTES >> 20} MiB"
        return finished

    def _next(self) -> Any:
        """Return the next reply or push, or `_NOTHING`."""
        try:
            return self._reader.gets()
        except (hiredis.ProtocolError, TypeError, ValueError, MemoryError):
            self.fault = "it sent what is not RESP3"
            return _NOTHING

    def abandon(self) -> list[PendingCall]:
        """Return all calls that are owed something. Nothing is owed behind this."""
        calls = list(self.calls)
        self.calls.clear()
        self._out.clear()
        self.owed = self.owed_bytes = 0
        return calls

    def _confirm(self, push: list[Any]) -> bool:
        call = self.calls[0]
        before = call.owed
        known = call.confirm(push)
        self.owed -= before - call.owed
        return known
