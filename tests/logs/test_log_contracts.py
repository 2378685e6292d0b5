"""Every log keeps every contract."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from flowstream import Replay
from flowstream.abc import LogEntry
from flowstream.logs import MemoryLog, SQLiteLog, open_log
from flowstream.logs._sqlite_inspection import reading
from flowstream.logs._sqlite_verification import verify
from flowstream.testing import check_log, log_contracts
from flowstream.testing._log_contract import OpenStore


def test_there_are_many_contracts() -> None:
    """Each is a sentence of its own."""
    assert len(log_contracts()) >= 60
    assert len(log_contracts()) - len(log_contracts(several=False)) >= 5


@pytest.mark.parametrize("contract", log_contracts(several=False))
async def test_a_log_in_memory_keeps_the_contract(contract: str) -> None:
    """In memory there is one log on a store."""
    await check_log(lambda: partial(open_log, MemoryLog()), contract)


@pytest.mark.parametrize("contract", log_contracts())
async def test_a_log_in_a_file_keeps_the_contract(contract: str, tmp_path: Path) -> None:
    """A second log on the file is as one of another process; and the file is in order behind it."""

    def factory() -> OpenStore:
        def opened(**callbacks: object) -> object:
            return open_log(SQLiteLog(tmp_path / "events.db"), **callbacks)  # type: ignore[arg-type]

        return opened  # type: ignore[return-value]

    await check_log(factory, contract)
    steps: list[tuple[int, int]] = []
    with reading(str(tmp_path / "events.db")) as db:
        assert list(verify(db, lambda *step: steps.append(step))) == []
    assert steps == [(done, steps[0][1]) for done in range(steps[0][1] + 1)]


@pytest.mark.parametrize("url", ["memory:", "sqlite:///{folder}/events.db"])
async def test_keys_are_bounded_by_their_bytes(url: str, tmp_path: Path) -> None:
    """Those written last stay, 8 MiB of them, and small ones that follow fit beside them."""
    size = 200_000
    fit = (8 << 20) // size
    async with open_log(url.format(folder=tmp_path)) as log:

        async def put(token: str, *entries: LogEntry) -> list[str]:
            await log.append("news", entries, keep=Replay(items=0), token=token)
            keys: list[str] = []
            cursor: str | None = None
            while not keys or cursor is not None:
                page = await log.latest("news", cursor)
                keys += page.records
                cursor = page.cursor
            return keys

        names = [f"{number:03}" for number in range(128)]
        large = [LogEntry(bytes(size), key=name) for name in names]
        assert await put("large", *large) == names[-fit:]
        assert await put("again", *large[:64]) == sorted(names[64 - fit : 64])
        small = [f"small {number:03}" for number in range(64)]
        kept = await put("small", *[LogEntry(b"x", key=name) for name in small])
        assert kept == names[64 - fit : 64] + small


@pytest.mark.parametrize("url", ["memory:", "sqlite:///{folder}/events.db"])
async def test_a_full_page_of_names_that_is_the_last_has_no_cursor(
    url: str, tmp_path: Path
) -> None:
    """Who lists 1,000 topics asks once."""
    async with open_log(url.format(folder=tmp_path)) as log:
        names = [f"topic {number:04}" for number in range(1000)]
        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(
                    partial(log.append, name, [LogEntry(b"x")], keep=Replay(), token="t")
                )
        assert await log.topics() == (names, None)


@pytest.mark.parametrize("url", ["memory:", "sqlite:///{folder}/events.db"])
async def test_each_call_gives_others_a_turn(url: str, tmp_path: Path) -> None:
    """So who calls a log in a loop can be cancelled, and does not hold up the event loop."""
    async with open_log(url.format(folder=tmp_path)) as log:
        keep = Replay()
        entry = LogEntry(b"x")
        lease = await log.claim("run", "me", seconds=60)
        calls: list[Callable[[], Awaitable[object]]] = [
            partial(log.append, "news", [entry], keep=keep, token="t"),
            partial(log.append, "news", [], keep=keep, token="u"),
            partial(log.append, "run", [entry], keep=keep, token="t", fence=lease.token),
            partial(log.read, "news", ("e", 0), 1),
            partial(log.heads, ["news"]),
            partial(log.watch, ["news"]),
            partial(log.unwatch, ["news"]),
            partial(log.latest, "news"),
            log.topics,
            partial(log.trim, "news"),
            partial(log.delete, "news"),
            partial(log.claim, "run", "you", seconds=60),
            partial(log.beat, "me", {"run": lease.token}, seconds=60),
            partial(log.leases, ["run"]),
            partial(log.end, "run", lease.token, entry, keep=keep, token="e", seconds=60),
            log.aclose,
        ]
        for call in calls:
            with trio.testing.assert_checkpoints():
                await call()
