"""Contracts of the end of a lease: the last event, reaping, taking over, what is kept."""

from __future__ import annotations

import trio

from flowstream.testing._lease_bench import (
    LONG,
    SHORT,
    data_of,
    end_run,
    fenced_append,
    has_lapsed,
    is_fenced,
    lapsed_lease,
    lease_of,
    until,
)
from flowstream.testing._log_contract import LogBench, cancelled_after, contract, numbers

# Steps of the event loop after which a call is cancelled: from before it began to behind its end.
_CANCELLATIONS = 40


@contract("the end is the topic's last event: nothing can be appended behind it with the token")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        await one.log.watch(["run"])
        lease = await one.log.claim("run", "ada", seconds=LONG)
        await fenced_append(one, lease.token, b"a")
        ended = await end_run(one, lease.token)
        assert ended is not None
        assert ended.ended
        assert ended[:2] == lease[:2]
        await is_fenced(lambda: fenced_append(one, lease.token, b"late"))
        assert await data_of(one) == [b"a", b"end"]
        await one.until(lambda: one.heard.get("run", {}).keys() >= {1, 2})
        found = await lease_of(one.log)
        assert found is not None
        assert found.ended


@contract("a lease that has ended is not ended again, nor renewed, nor claimed by the same owner")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        lease = await one.log.claim("run", "ada", seconds=LONG)
        await end_run(one, lease.token, b"end")
        again = await end_run(one, lease.token, b"again", seconds=SHORT)
        assert again is not None
        assert again.ended
        assert again.seconds > SHORT
        beaten = (await one.log.beat("ada", {"run": lease.token}, seconds=10 * LONG))["run"]
        assert beaten is not None
        assert beaten.ended
        assert beaten.seconds <= LONG
        claimed = await one.log.claim("run", "ada", seconds=LONG)
        assert claimed.ended
        assert claimed[:2] == lease[:2]
        assert await data_of(one) == [b"end"]


@contract("an end with another token is fenced, and one of a topic without a lease does nothing")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        assert await end_run(one, 7) is None
        lease = await one.log.claim("run", "ada", seconds=LONG)
        await is_fenced(lambda: end_run(one, lease.token - 1))
        found = await lease_of(one.log)
        assert found is not None
        assert not found.ended
        assert await data_of(one) == []


@contract("an end that is cancelled at any moment happens once or not at all")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        for steps in range(_CANCELLATIONS):
            lease = await one.log.claim("run", "ada", seconds=LONG)

            async def end(fence: int = lease.token) -> None:
                await end_run(one, fence)

            await cancelled_after(steps, end)
            await end()
            assert await data_of(one) == [b"end"]
            await one.log.delete("run")


@contract("only a lease that has lapsed is reaped, by one of all who try")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        lease = await one.log.claim("run", "ada", seconds=LONG)
        found = await end_run(one, lease.token, b"reaped", lapsed=True)
        assert found is not None
        assert not found.ended
        await one.log.beat("ada", {"run": lease.token}, seconds=SHORT)
        await until(one.log, has_lapsed)

        async def reap(who: int) -> None:
            await end_run(one, lease.token, b"%d" % who, lapsed=True)

        async with trio.open_nursery() as nursery:
            for who in range(10):
                nursery.start_soon(reap, who)
        assert len(await data_of(one)) == 1
        found = await lease_of(one.log)
        assert found is not None
        assert found.ended
        assert found.owner == "ada"


@contract("an owner that wakes when its lease was reaped is fenced", several=True)
async def _(bench: LogBench) -> None:
    async with bench.open() as frozen, bench.open() as other:
        lease = await lapsed_lease(frozen)
        await fenced_append(frozen, lease.token, b"a")
        await end_run(other, lease.token, b"owner lost", lapsed=True)
        await is_fenced(lambda: fenced_append(frozen, lease.token, b"b"))
        beaten = (await frozen.log.beat("ada", {"run": lease.token}, seconds=LONG))["run"]
        assert beaten is not None
        assert beaten.ended
        assert await data_of(frozen) == [b"a", b"owner lost"]


@contract("a lease that has lapsed is taken over, by one, who goes on behind what there is")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        lease = await one.log.claim("run", "ada", seconds=LONG)
        await fenced_append(one, lease.token, b"a", b"b")
        found = await one.log.claim("run", "bob", seconds=LONG, instead=lease.token)
        assert found[:2] == lease[:2]  # it lives
        await one.log.beat("ada", {"run": lease.token}, seconds=SHORT)
        await until(one.log, has_lapsed)
        tokens: dict[str, int] = {}

        async def take(owner: str) -> None:
            mine = await one.log.claim("run", owner, seconds=LONG, instead=lease.token)
            if mine.owner == owner:
                tokens[owner] = mine.token

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(take, f"bob {number}")
        ((owner, token),) = tokens.items()
        assert token > lease.token
        again = await one.log.claim("run", owner, seconds=LONG, instead=lease.token)
        assert again.token == token  # a call that is made again
        await is_fenced(lambda: fenced_append(one, lease.token, b"x"))
        await fenced_append(one, token, b"c")
        records = await one.everything("run")
        assert [record.data for record in records] == [b"a", b"b", b"c"]
        assert numbers(records) == [1, 2, 3]
        assert len({record.epoch for record in records}) == 1


@contract("a lease that has ended is replaced, by one, and what it left is deleted")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        lease = await one.log.claim("run", "ada", seconds=LONG)
        await fenced_append(one, lease.token, b"a")
        await end_run(one, lease.token)
        (first, _) = await one.everything("run")
        new = await one.log.claim("run", "ada", seconds=LONG, instead=lease.token)
        assert new.token > lease.token
        assert not new.ended
        other = await one.log.claim("run", "bob", seconds=LONG, instead=lease.token)
        assert other[:2] == new[:2]
        assert await data_of(one) == []
        await fenced_append(one, new.token, b"b")
        (record,) = await one.everything("run")
        assert record.data == b"b"
        assert record.epoch > first.epoch


@contract("a lease that has ended is kept for its seconds, then topic and lease are gone")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        lease = await one.log.claim("run", "ada", seconds=LONG)
        await fenced_append(one, lease.token, b"a")
        before = await one.position("run")
        await end_run(one, lease.token, seconds=0.3)
        await until(one.log, lambda found: found is None)
        assert await one.log.topics() == ([], None)
        head, known, records = await one.log.read("run", before, 10)
        assert (head.number, known, records) == (0, False, [])
        assert (await one.log.latest("run")).records == {}
        await is_fenced(lambda: fenced_append(one, lease.token, b"x"))
        assert await end_run(one, lease.token) is None
        new = await one.log.claim("run", "bob", seconds=LONG)
        assert new.token > lease.token
        await fenced_append(one, new.token, b"b")
        (record,) = await one.everything("run")
        assert record.data == b"b"
        assert record.epoch > before[0]


@contract("deleting a topic deletes its lease, so its owner is fenced")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        lease = await one.log.claim("run", "ada", seconds=LONG)
        await one.log.delete("run")  # it has no events yet
        assert await lease_of(one.log) is None
        lease = await one.log.claim("run", "ada", seconds=LONG)
        await fenced_append(one, lease.token, b"a")
        await one.log.delete("run")
        assert await lease_of(one.log) is None
        await is_fenced(lambda: fenced_append(one, lease.token, b"b"))
        assert await data_of(one) == []
