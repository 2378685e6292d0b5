"""What a log in memory forgets, and what it has no room for."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from flowstream import Replay
from flowstream.abc import Log, LogEntry
from flowstream.logs import LogFullError, MemoryLog, open_log
from flowstream.logs import _idempotency_keys as idempotency_keys

DAY = 86400.0
KEEP = Replay(seconds=100)


async def append(log: Log, token: str, *entries: LogEntry) -> int:
    """Append entries, or one without a key; return the last one's number."""
    found = await log.append("news", entries or [LogEntry(b"x")], keep=KEEP, token=token)
    return found[-1].number


async def test_a_topic_is_forgotten_a_week_after_its_last_event(autojump_clock: MockClock) -> None:
    """Until then it counts on, however old it is. Then it is as one that never was."""
    async with open_log(MemoryLog()) as log:
        await append(log, "1")
        await trio.sleep(6 * DAY)
        assert await append(log, "2") == 2
        await trio.sleep(6.9 * DAY)
        epoch = (await log.heads(["news"]))["news"].epochs[-1][0]
        assert await append(log, "3") == 3
        await trio.sleep(7.1 * DAY)
        await log.append("other", [LogEntry(b"x")], keep=KEEP, token="4")  # has it look
        assert await log.topics() == (["other"], None)
        assert await append(log, "5") == 1
        head = (await log.heads(["news"]))["news"]
        assert head.epochs[-1][0] > epoch


async def test_keys_that_do_not_fit_are_refused_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """An append whose keys have no room appends nothing; one without keys needs none."""
    monkeypatch.setattr(idempotency_keys, "MEMORY_KEYS", 10)
    async with open_log(MemoryLog()) as log:

        def keyed(*numbers: int) -> list[LogEntry]:
            return [LogEntry(b"x", idempotency_key=f"{number}") for number in numbers]

        await append(log, "first", *keyed(*range(8)))
        with pytest.raises(LogFullError, match=r"the topic 'news' has 8 idempotency keys"):
            await append(log, "too many", LogEntry(b"x"), *keyed(8, 9, 10))
        assert await append(log, "none") == 9
        assert await append(log, "two", *keyed(8, 9)) == 11
        with pytest.raises(LogFullError):
            await append(log, "one more", *keyed(10))
        assert await append(log, "none again") == 12
