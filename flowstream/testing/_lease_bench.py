"""What the contracts of leases share: short forms, and waiting until a lease has lapsed.

No case depends on how fast the machine is. A lease that must live lasts ten minutes. One that must
lapse lasts a moment, and the case waits until the log says that it has lapsed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from flowstream.abc import Lease, Log, LogEntry
from flowstream.limits import Replay
from flowstream.logs import FencedError
from flowstream.testing._log_contract import LogUnderTest

# Seconds of a lease that does not lapse while a case goes on, and of one that lapses at once.
LONG = 600.0
SHORT = 0.02
# Seconds between two looks at a lease.
_LOOK = 0.01

_KEEP = Replay()


async def lease_of(log: Log, topic: str = "run") -> Lease | None:
    """Return the topic's lease."""
    return (await log.leases([topic]))[topic]


async def until(log: Log, is_so: Callable[[Lease | None], bool], topic: str = "run") -> None:
    """Wait until the topic's lease is so."""
    while not is_so(await lease_of(log, topic)):  # noqa: ASYNC110  # nobody tells
        await trio.sleep(_LOOK)


def has_lapsed(lease: Lease | None) -> bool:
    """Return whether a lease has lapsed, and nobody ended it."""
    return lease is not None and lease.seconds <= 0 and not lease.ended


async def lapsed_lease(one: LogUnderTest, owner: str = "ada") -> Lease:
    """Return a lease that has lapsed."""
    lease = await one.log.claim("run", owner, seconds=SHORT)
    await until(one.log, has_lapsed)
    return lease


async def fenced_append(
    one: LogUnderTest, fence: int, *data: bytes, token: str | None = None
) -> None:
    """Append data as the owner of the lease with this token."""
    entries = [LogEntry(item) for item in data]
    token = token or one.token()
    await one.log.append("run", entries, keep=_KEEP, token=token, fence=fence)


async def end_run(
    one: LogUnderTest,
    fence: int,
    data: bytes = b"end",
    *,
    seconds: float = LONG,
    lapsed: bool = False,
) -> Lease | None:
    """End the lease of the run; return what it is now."""
    return await one.log.end(
        "run",
        fence,
        LogEntry(data),
        keep=_KEEP,
        token=one.token(),
        seconds=seconds,
        lapsed=lapsed,
    )


async def is_fenced(call: Callable[[], Awaitable[object]]) -> None:
    """Raise unless the call raises FencedError."""
    try:
        await call()
    except FencedError:
        return
    raise AssertionError("there was no FencedError")


async def data_of(one: LogUnderTest) -> list[bytes]:
    """Return what the run's topic has."""
    return [record.data for record in await one.everything("run")]
