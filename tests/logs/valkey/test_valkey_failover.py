"""A log over servers that Sentinels guard: whatever is lost in a failover is in a gap."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest
import trio
from real_servers.sentinels import Sentinels

from flowstream.abc import Head, LogEntry
from flowstream.limits import Replay
from flowstream.logs import LogUnavailableError, open_log
from flowstream.logs.valkey._valkey_log import ValkeyLog

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(150)]

KEEP = Replay(items=1_000_000, bytes=1 << 30, seconds=3600)


class Account:
    """What publishers were told and what was heard, of one topic; no id may have two bodies."""

    def __init__(self) -> None:
        self.bodies: dict[tuple[str, int], bytes] = {}
        self.acknowledged: dict[tuple[str, int], bytes] = {}
        self.numbers: Iterator[int] = count()
        self.progress = trio.Event()

    def hear(self, topic, before, records) -> None:
        for record in records:
            self.note(record.epoch, record.number, record.data)

    def note(self, epoch: str, number: int, data: bytes) -> None:
        assert self.bodies.setdefault((epoch, number), data) == data, "one id for two events"

    async def publish(self, log: ValkeyLog) -> None:
        """Append events for ever; one whose fate is not known is appended again by its token."""
        while True:
            data = b"%d" % next(self.numbers)
            while True:
                try:
                    [done] = await log.append("t", [LogEntry(data)], keep=KEEP, token=data.decode())
                except LogUnavailableError:
                    continue
                break
            self.note(done.epoch, done.number, data)
            self.acknowledged[done.epoch, done.number] = data
            self.progress.set()
            await trio.sleep(0.001)

    async def wait_for(self, more: int) -> None:
        """**Wait** until so many more are acknowledged."""
        wanted = len(self.acknowledged) + more
        while len(self.acknowledged) < wanted:
            self.progress = trio.Event()
            await self.progress.wait()

    async def lost(self, log: ValkeyLog) -> int:
        """Return how many acknowledged events are not in the log; each must be in a gap."""
        kept: dict[tuple[str, int], bytes] = {}
        head = (await log.heads(["t"]))["t"]
        after = head.epochs[0][0], head.first - 1
        while True:
            head, known, page = await log.read("t", after, 512)
            assert known
            if not page:
                break
            for record in page:
                self.note(record.epoch, record.number, record.data)
                kept[record.epoch, record.number] = record.data
            after = page[-1].epoch, page[-1].number
        lost = [one for one in self.acknowledged if one not in kept]
        for epoch, number in lost:
            assert number > end_of(head, epoch), "lost without a gap"
        assert len(set(kept.values())) == len(kept), "appended twice"
        return len(lost)


def end_of(head: Head, epoch: str) -> float:
    """Return the last number of an epoch; 0 if it is not known any more."""
    found = 0.0
    for (one, _), following in zip(
        head.epochs, [*head.epochs[1:], ("", head.number + 1)], strict=True
    ):
        if one == epoch:
            found = following[1] - 1
    return found


@pytest.mark.parametrize("kind", ["valkey", "redis"])
async def test_failovers_lose_nothing_in_silence(kind, own_server) -> None:
    """Moved in step; frozen; killed while its replica lags: publishers go on, and what was lost
    is behind the end of its epoch."""
    first, second = own_server(kind), own_server(kind)
    await trio.to_thread.run_sync(second.replica_of, first)
    by_port = {first.port: first, second.port: second}
    account = Account()
    with Sentinels(first) as sentinels:
        hosts = ",".join(f"127.0.0.1:{port}" for port in sentinels.ports)
        log = ValkeyLog(f"{kind}+sentinel://{hosts}/main/3")
        async with open_log(log, hint=account.hear), trio.open_nursery() as nursery:
            await log.watch(["t"])
            for _ in range(4):
                nursery.start_soon(account.publish, log)
            await account.wait_for(100)

            await trio.to_thread.run_sync(sentinels.failover)
            with trio.fail_after(30):
                await account.wait_for(100)

            primary = by_port[sentinels.master_port()]
            other = second if primary is first else first
            await trio.to_thread.run_sync(other.wait_in_step, primary)
            primary.freeze()
            await trio.to_thread.run_sync(sentinels.wait_for_master, primary)
            with trio.fail_after(30):
                await account.wait_for(100)
            primary.thaw()
            await trio.to_thread.run_sync(primary.wait_in_step, other)

            primary.freeze()  # it is the replica now, and lags
            seen = len(account.acknowledged)
            with trio.move_on_after(0.4):
                await account.wait_for(10_000)
            assert len(account.acknowledged) > seen
            other.kill()
            primary.thaw()
            await trio.to_thread.run_sync(sentinels.wait_for_master, other)
            with trio.fail_after(30):
                await account.wait_for(100)
            nursery.cancel_scope.cancel()
        async with open_log(ValkeyLog(f"{kind}+sentinel://{hosts}/main/3")) as again:
            lost = await account.lost(again)
            assert 0 < lost < len(account.acknowledged)


@pytest.mark.parametrize("kind", ["valkey", "redis"])
async def test_a_server_alone_is_killed_and_stands_still(kind, own_server) -> None:
    """With ``appendfsync always`` kills lose nothing, and no event is appended twice; a server
    that stands still for longer than the patience is a maybe that its token resolves."""
    server = own_server(kind, appendfsync="always")
    account = Account()
    log = ValkeyLog(server.url, patience=1.0, never_rolls_back=True)
    async with open_log(log, hint=account.hear), trio.open_nursery() as nursery:
        await log.watch(["t"])
        for _ in range(4):
            nursery.start_soon(account.publish, log)
        for _ in range(3):
            await account.wait_for(50)
            await trio.to_thread.run_sync(server.restart)
        await account.wait_for(50)
        server.freeze()
        await trio.sleep(4)
        server.thaw()
        with trio.fail_after(30):
            await account.wait_for(50)
        nursery.cancel_scope.cancel()
    async with open_log(ValkeyLog(server.url, never_rolls_back=True)) as again:
        assert await account.lost(again) == 0
        assert len((await again.heads(["t"]))["t"].epochs) == 1
