"""One client, which has a conversation with the server and says what was wrong with it."""

import select
import socket
import struct

import trio

from fuzzing.conversation import HalfClose, Pause, Read, Send
from fuzzing.judge import Wrong, judge
from fuzzing.tls import Speaker

LONGEST = 150
"""Seconds after which a server that was asked for nothing more has closed the connection."""

_RESET = struct.pack("ii", 1, 0)
_GONE = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)


class Client:
    """One client.

    Args:
        said: the conversation that it has.
        place: the address that it connects to.
        key_log: a file for the secrets of TLS.

    Attributes:
        answer: what it was answered.
    """

    def __init__(self, said, place, key_log=None):
        self._said = said
        self._socket = socket.socket(socket.AF_UNIX if isinstance(place, str) else socket.AF_INET)
        self._socket.connect(place)
        self._socket.setblocking(False)
        if not isinstance(place, str):
            # Else the kernel keeps a small piece back until the one before is acknowledged (Nagle,
            # RFC 1122 § 4.2.3.4): 40 ms, in which the clock jumps past the server's timeouts.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._speaker = None if said.tls is None else Speaker(said.tls, key_log)
        self._over = False  # the server has ended the connection
        self._sent = 0
        self.answer = bytearray()

    async def converse(self):
        """Have the conversation; return what was wrong with it, or None."""
        kept = False
        with self._socket:
            try:
                if self._speaker is None or await self._greet():
                    await self._say()
                kept = await self._end(self._said.end)
            except OSError:
                pass  # the server has had enough
            finally:
                trio.lowlevel.notify_closing(self._socket)
        if kept:
            return f"the connection is kept for {LONGEST} seconds"
        return self._verdict()

    def _verdict(self):
        asked = b"".join(step.data for step in self._said.steps if isinstance(step, Send))
        try:
            answered = judge(asked, bytes(self.answer))
        except Wrong as wrong:
            return str(wrong)
        if answered < self._said.answers:
            return (
                f"{answered} of {self._said.answers} requests are answered: {self.answer[:500]!r}"
            )
        return None

    # -- what it does ----------------------------------------------------------------------

    async def _greet(self):
        with trio.move_on_after(20):
            while not self._speaker.over:
                if not await self._write(self._speaker.greet()):
                    return False
                if self._speaker.ready:
                    return True
                if self._read() == 0:
                    await trio.lowlevel.wait_readable(self._socket)
                if self._over:
                    return False
        return False

    async def _say(self):
        for step in self._said.steps:
            if isinstance(step, Send):
                data = step.data if self._speaker is None else self._speaker.say(step.data)
                if not await self._write(data):
                    return
                if self._speaker is not None and self._speaker.over:
                    return
                if self._said.reads:
                    self._read()
            elif isinstance(step, Pause):
                await trio.sleep(step.seconds)
            elif isinstance(step, HalfClose):
                self._socket.shutdown(socket.SHUT_WR)
            elif isinstance(step, Read):
                await self._read_for(1, once=True)
            else:
                for _ in range(step.count):
                    await trio.lowlevel.checkpoint()

    async def _end(self, how):
        """End as it was planned; return whether the server keeps the connection."""
        if how in {"close", "half-close"} and self._speaker is not None:
            await self._write(self._speaker.end())
        match how:
            case "half-close":
                self._socket.shutdown(socket.SHUT_WR)
                return not await self._read_for(LONGEST)
            case "reset":  # over Unix sockets only as long as something is unread
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            case "wait":
                return not await self._read_for(LONGEST)
            case "stall":
                return not await self._see_the_end()
        return False

    async def _see_the_end(self):
        """Wait for the server's end without reading; return whether it came."""
        watch = select.poll()
        watch.register(self._socket, _GONE & ~(select.POLLHUP | select.POLLERR))
        with trio.move_on_after(LONGEST):
            while not any(events & _GONE for _, events in watch.poll(0)):  # noqa: ASYNC110
                await trio.sleep(1)
            return True
        return False

    # -- its socket ------------------------------------------------------------------------

    def _read(self):
        """Take what is there; return how much that was. Notes the end."""
        size = 0
        try:
            while data := self._socket.recv(65536):
                size += len(data)
                self.answer += data if self._speaker is None else self._speaker.hear(data)
        except BlockingIOError:
            return size
        except OSError:
            pass
        self._over = True
        return size

    async def _read_for(self, seconds, *, once=False):
        """Take what comes for so long, or once; return whether that was to the end."""
        with trio.move_on_after(seconds):
            while not self._over:
                if self._read() and once:
                    break
                if not self._over:
                    await trio.lowlevel.wait_readable(self._socket)
        return self._over

    async def _write(self, data):
        """Write all of it; return False if the server takes nothing for a second."""
        sizes = self._said.tls.writes if self._said.tls else ()
        rest = memoryview(data)
        while rest:
            piece = rest
            # The first thousand bytes in small pieces, the rest as they are.
            if sizes and self._sent < 1000:
                piece = rest[: sizes[self._sent % len(sizes)]]
            try:
                count = self._socket.send(piece)
            except BlockingIOError:  # an application that does not read
                with trio.move_on_after(1) as scope:
                    await trio.lowlevel.wait_writable(self._socket)
                if scope.cancelled_caught:
                    return False
                continue
            rest = rest[count:]
            self._sent += count
            if len(piece) < len(rest) + count:
                await trio.lowlevel.checkpoint()
        return True
