"""What one client does, as a value: what it sends, when it waits and reads, and how it ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Send:
    """Send these bytes."""

    data: bytes


@dataclass(frozen=True)
class Turns:
    """Let the scheduler run so many times."""

    count: int


@dataclass(frozen=True)
class Pause:
    """Do nothing for so many seconds of the server's clock."""

    seconds: float


@dataclass(frozen=True)
class Read:
    """Take what has come, and wait for it at most a second."""


@dataclass(frozen=True)
class HalfClose:
    """Send no more, and read to the end."""


Step = Send | Turns | Pause | Read | HalfClose

ENDS = ("close", "half-close", "reset", "wait", "stall")
"""How a client ends: at once, its own half only, with RST, by reading until the server ends, or
by reading nothing until the server ends."""


@dataclass(frozen=True)
class TLS:
    """How a client speaks TLS.

    Attributes:
        alpn: the protocols that it offers.
        version: the only one that it speaks, as 1.2 or 1.3.
        writes: sizes of its writes to the socket, in turn; none for as they come.
        fragment: bytes of a handshake message in one record, 0 for all.
        record: bytes of the conversation in one record.
        faults: what is wrong with its records: (number of the record, what, value).
        inside: with 1.3, what it sends encrypted behind the handshake: (content type, payload).
        close_notify: whether it says that it ends.
    """

    alpn: tuple[str, ...] = ("h2", "http/1.1")
    version: float = 1.3
    writes: tuple[int, ...] = ()
    fragment: int = 0
    record: int = 16384
    faults: tuple[tuple[int, str, int | bytes], ...] = ()
    inside: tuple[tuple[int, bytes], ...] = ()
    close_notify: bool = True


@dataclass(frozen=True)
class Conversation:
    """What one client does.

    Attributes:
        name: from which it can be made again.
        steps: what it does, in turn.
        end: how it ends, one of `ENDS`.
        tcp: whether it comes over TCP; else over a Unix socket.
        tls: how it speaks TLS, or None.
        reads: whether it takes answers between its steps.
        answers: to how many requests it has to get an answer, if it waits for the end.
    """

    name: str
    steps: tuple[Step, ...]
    end: str = "close"
    tcp: bool = False
    tls: TLS | None = None
    reads: bool = True
    answers: int = 0

    def __str__(self) -> str:
        text = repr(self)
        return text if len(text) < 6000 else f"{text[:3000]} … {text[-3000:]}"


def sends(*parts: bytes) -> tuple[Step, ...]:
    """Return the steps that send these parts."""
    return tuple(Send(part) for part in parts if part)


async def shrunk(
    said: Conversation, fails: Callable[[Conversation], Awaitable[bool]], *, tries: int
) -> Conversation:
    """Return a smaller conversation that still fails, after so many tries at most."""
    for smaller in (replace(said, answers=0), replace(said, tls=None), replace(said, tcp=False)):
        tries -= 1
        if smaller != said and await fails(smaller):
            said = smaller
    if said.answers:  # what is answered is all of it
        return said
    size = max(1, len(said.steps) // 2)
    at = 0
    while tries > 0 and size:
        if at >= len(said.steps):
            at, size = 0, size // 2
            continue
        smaller = replace(said, steps=said.steps[:at] + said.steps[at + size :])
        tries -= 1
        if await fails(smaller):
            said = smaller
        else:
            at += size
    return said
