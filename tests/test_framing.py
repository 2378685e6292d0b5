"""Framings as values, and how fan-out uses them: bytes are framed once for all who get the same."""

import dataclasses

import pytest

from flowstream import DropOldest, Event, Replay
from flowstream.abc import Encoder
from flowstream.buffer._event_buffer import EventBuffer
from flowstream.framing import HTTP_CHUNKS, Framing, HTTPChunks
from flowstream.limits import Buffer
from flowstream.sources._feed import Terms
from flowstream.topics._fanout import Fanout
from flowstream.topics._history import History
from flowstream.topics._members import Member


@pytest.mark.parametrize(
    ("pieces", "wire"),
    [
        ([b"hello"], b"5\r\nhello\r\n"),
        ([b"x" * 17], b"11\r\n" + b"x" * 17 + b"\r\n"),
        ([b"one,", b"two"], b"7\r\none,two\r\n"),
        ([b"", b"two", b""], b"3\r\ntwo\r\n"),
        ([b"\r\n"], b"2\r\n\r\n\r\n"),
    ],
)
def test_pieces_are_one_chunk(pieces, wire):
    """A chunk has its size in hexadecimal digits before it, whatever its bytes are."""
    assert HTTP_CHUNKS.frame(pieces) == wire


@pytest.mark.parametrize("pieces", [[], [b""], [b"", b""]])
def test_no_bytes_are_no_chunk(pieces):
    """A chunk of no bytes would end the body."""
    assert HTTP_CHUNKS.frame(pieces) == b""


def test_framings_compare_by_what_they_make():
    """Two objects of the same framing are one key."""
    assert HTTPChunks() == HTTP_CHUNKS
    assert {HTTPChunks(): 1}[HTTP_CHUNKS] == 1
    assert Marked(b"a") != Marked(b"b")


@dataclasses.dataclass(frozen=True)
class Marked(Framing):
    """Puts a mark in front of each event, and notes in `made` how often that was asked for."""

    mark: bytes
    made: list = dataclasses.field(default_factory=list, compare=False)

    def frame(self, pieces):
        self.made.append(len(pieces))
        return b"".join(self.mark + piece for piece in pieces)


@dataclasses.dataclass(frozen=True)
class Lines(Encoder):
    """Each event's text, and what ends its line."""

    end: bytes = b"\n"

    def encode(self, data, *, id=None, type=None, key=None, retry=None):
        return str(data).encode() + self.end


class Waiting:
    """A subscriber whose writer waits, and whose connection takes everything."""

    def __init__(self, framing):
        self.framing = framing
        self.buffer = EventBuffer(Buffer.of(16), DropOldest())
        self.buffer.filled.waiting = object()
        self.written = []

    def direct(self, data):
        self.written.append(data)
        return True

    def wrote(self, size, items, at):
        pass


async def deliver(members, *events):
    """Have a fan-out deliver `events` to subscribers, given as pairs with their encoders."""
    history = History(Replay(), lambda: 0.0)
    fanout = Fanout(history, lambda change: None)
    for subscriber, encoder in members:
        terms = Terms(DropOldest(), None, None, controls=True)
        member = Member(subscriber, encoder, 0, terms)
        fanout.add(member, encoder, shared=True, from_beginning=False)
    for event in events:
        history.append(history.make(Event(event)))
    fanout.deliver_nowait()
    return fanout


async def test_bytes_are_framed_once_for_a_format_and_a_framing(autojump_clock):
    """Three clients with equal framings and encoders cost one frame, and get the same object."""
    framings = [Marked(b"#") for _ in range(3)]
    members = [(Waiting(framing), Lines()) for framing in framings]
    fanout = await deliver(members, 1, 2)
    assert [framing.made for framing in framings] == [[2], [], []]
    (first,), *others = [subscriber.written for subscriber, _ in members]
    assert first == b"#1\n#2\n"
    assert all(other[0] is first for other in others)
    assert len(fanout.groups) == 1
    assert fanout.direct == 6


async def test_another_framing_is_another_group(autojump_clock):
    """Clients of one format in two framings each get their own; the format is counted once."""
    one, two, three = Waiting(Marked(b"#")), Waiting(Marked(b"$")), Waiting(HTTP_CHUNKS)
    fanout = await deliver([(one, Lines()), (two, Lines()), (three, Lines())], 1)
    assert [one.written, two.written, three.written] == [[b"#1\n"], [b"$1\n"], [b"2\r\n1\n\r\n"]]
    assert len(fanout.groups) == 3
    assert fanout.encoders == {Lines()}


async def test_another_format_is_another_group(autojump_clock):
    """Clients of two formats in one framing each get their own."""
    one, two = Waiting(HTTP_CHUNKS), Waiting(HTTP_CHUNKS)
    fanout = await deliver([(one, Lines()), (two, Lines(b";"))], "x")
    assert (one.written, two.written) == ([b"2\r\nx\n\r\n"], [b"2\r\nx;\r\n"])
    assert len(fanout.groups) == 2


async def test_nothing_is_framed_where_nobody_is_written_to(autojump_clock):
    """A client without a framing gets its events through its buffer, though it could be reached."""
    one = Waiting(None)
    one.buffer.filled.waiting = None
    fanout = await deliver([(one, Lines())], 1)
    assert one.written == []
    assert one.buffer.take(100) == [b"1\n"]
    assert (fanout.direct, fanout.queued) == (0, 1)
